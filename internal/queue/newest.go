package queue

import (
	"context"
	"fmt"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/verdict"
)

// newer is verdict.Attempt.Newer: it returns the certificate that supersedes c at the target. A
// forced replay is sent whatever was sent before.
func (j *job) newer(ctx context.Context, c *verdict.Certificate) (string, error) {
	j.line = c
	if j.force {
		return "", nil
	}
	newest, err := j.r.NewestFor(ctx, j.target, c)
	if err != nil || newest == nil || newest.Event == j.event.ID || !newest.Certificate.Supersedes(c) {
		return "", err
	}
	return fmt.Sprintf("serial %s, valid from %s, sent %s for event %s", legible.Clean(newest.Certificate.Serial, 80),
		legible.Moment(newest.Certificate.NotBefore), legible.Moment(newest.At), legible.Clean(newest.Event, 100)), nil
}

// noteNewest records the certificate that was sent, if the target's policy depends on it. One that is
// not valid yet is not recorded: a date in the far future would keep all renewals from the target. That
// it could not be recorded does not keep the delivery from being settled: the mail would be sent
// again.
func (j *job) noteNewest() {
	if j.line == nil || time.Until(j.line.NotBefore) > verdict.ClockSkew {
		return
	}
	ctx, cancel := j.r.outlast(min(time.Until(j.leaseEnd())/2, leaseMargin))
	defer cancel()
	if err := j.r.NoteNewest(ctx, j.target, j.event.ID, j.line); err != nil {
		j.r.log.Warn().Err(err).Str("event", j.event.ID).Str("target", j.target).
			Msg("it could not be recorded that the target has this certificate; an older one may be sent after it")
	}
}

// skipped settles a delivery that the target's policy does not want: the ledger says why, and no mail and
// no dead letter is made. A dead letter of an earlier attempt stays, for a person to decide.
func (j *job) skipped(f *verdict.Failure) {
	e := j.entry.Failed(f)
	e.State, e.Consented = broker.StateSkipped, false
	e.Release()
	if !j.record(e, time.Now().Add(leaseMargin)) {
		return
	}
	j.finish("skipped", f)
}
