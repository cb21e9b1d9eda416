package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/mail"
	"time"

	"github.com/certpost/certpost/bench/road"
	"github.com/certpost/certpost/internal/backoff"
	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/devrelay"
)

// Outcome is the state of the deliveries as the streams have it.
type Outcome struct {
	Entries []broker.Entry
	Dead    uint64
	Took    time.Duration // until everything was settled
}

// Settle waits until no event and no delivery waits, for patience at most, and reads the
// outcome.
func Settle(ctx context.Context, b *broker.Broker, patience time.Duration) (Outcome, error) {
	began := time.Now()
	var left broker.Backlog
	err := road.Poll(ctx, patience, func() (err error) {
		if left, err = b.Backlog(ctx); err == nil && left.Events+left.Deliveries > 0 {
			err = fmt.Errorf("%d events and %d deliveries wait", left.Events, left.Deliveries)
		}
		if err != nil {
			backoff.Sleep(ctx, 100*time.Millisecond)
		}
		return err
	})
	if err != nil {
		return Outcome{}, fmt.Errorf("not everything was settled: %w", err)
	}
	took := time.Since(began)
	entries, err := b.Deliveries(ctx, "", "")
	return Outcome{entries, left.Dead, took}, err
}

// Tally is the outcome of events whose targets all get a mail.
type Tally struct {
	Events, Deliveries, Mails int
	Lost                      int // deliveries without a mail
	Unsettled                 int // deliveries that are not sent in the ledger
	Dead                      int // dead letters
	Duplicates                int // mails beyond the first of a delivery
	Unmarked                  int // of these, without X-Certpost-Possible-Duplicate
	Marked                    int // mails with X-Certpost-Possible-Duplicate
	Unknown                   int // attempts with an unknown outcome before them, as counted in the ledger
	Forgotten                 int // mails that the relay has accepted and not kept, so that nothing is known of them
}

// Count compares the events and their targets with mails and ledger.
func Count(ids, targets []string, mails []devrelay.Mail, found Outcome) Tally {
	t := Tally{Events: len(ids), Deliveries: len(ids) * len(targets), Mails: len(mails), Dead: int(found.Dead)}
	sent := map[string]bool{}
	for _, e := range found.Entries {
		sent[e.Event+" "+e.Target] = e.State == broker.StateSent
		t.Unknown += e.PossibleDuplicates
	}
	if n := len(mails); n > 0 {
		t.Forgotten = mails[n-1].ID - n
	}
	taken, marked := map[string]int{}, map[string]int{}
	for _, m := range mails {
		read, err := mail.ReadMessage(bytes.NewReader(m.Raw))
		if err != nil {
			continue // counted as lost
		}
		key := read.Header.Get("X-Certpost-Event-Id") + " " + read.Header.Get("X-Certpost-Target")
		taken[key]++
		if read.Header.Get("X-Certpost-Possible-Duplicate") != "" {
			marked[key]++
			t.Marked++
		}
	}
	for _, id := range ids {
		for _, target := range targets {
			key := id + " " + target
			more := max(taken[key]-1, 0)
			t.Duplicates += more
			t.Unmarked += max(more-marked[key], 0)
			if taken[key] == 0 {
				t.Lost++
			}
			if !sent[key] {
				t.Unsettled++
			}
		}
	}
	return t
}

// String is the report.
func (t Tally) String() string {
	return fmt.Sprintf("%d events, %d deliveries, %d mails\nlost %d, not settled %d, dead letters %d\n"+
		"duplicates %d (not marked %d), unknown outcomes %d, mails marked as possible duplicates %d\n",
		t.Events, t.Deliveries, t.Mails, t.Lost, t.Unsettled, t.Dead, t.Duplicates, t.Unmarked, t.Unknown, t.Marked)
}

// Verdict returns an error if deliveries were lost, unsettled or dead, or if mails were sent
// twice without being marked or without a reason. If the relay has not kept all mails, it
// says only that: the counts are wrong then.
func (t Tally) Verdict() error {
	if t.Forgotten > 0 {
		return fmt.Errorf("the relay of this benchmark did not keep %d mails, so nothing can be said: give its mailbox more room", t.Forgotten)
	}
	var all []error
	if t.Lost+t.Unsettled+t.Dead > 0 {
		all = append(all, errors.New("some deliveries have no mail, are not sent in the ledger, or became dead letters"))
	}
	if t.Unmarked > 0 || t.Duplicates > t.Unknown {
		all = append(all, errors.New("mails were sent twice without being marked, or more often than the ledger has unknown outcomes"))
	}
	return errors.Join(all...)
}
