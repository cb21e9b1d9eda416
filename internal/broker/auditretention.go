package broker

import (
	"context"
	"fmt"
	"time"
)

// Closing is what a record `closed` says: these records will be removed by the stream at their
// maximum age. It is written before that, because the hash of the last one is gone afterwards.
type Closing struct {
	From    uint64    `json:"from"`
	To      uint64    `json:"to"`
	Count   uint64    `json:"count"`
	Head    string    `json:"head"`    // SHA-256 of record To, hexadecimal
	Expires time.Time `json:"expires"` // when record To reaches the maximum age
	Record  uint64    `json:"-"`       // set when it is read: the record that says so
}

const (
	// closingAhead is how long before the oldest record expires a closing is written; it then
	// covers twice that time, so that there is one a month.
	closingAhead = 30 * 24 * time.Hour
	closingEvery = time.Hour // between two looks for records to close
)

// closeOld announces the records that expire soon.
func (b *Broker) closeOld(ctx context.Context, now time.Time) error {
	s, err := b.js.Stream(ctx, AuditStream)
	if err != nil {
		return fmt.Errorf("stream %s: %w", AuditStream, err)
	}
	age := s.CachedInfo().Config.MaxAge
	if age <= 0 {
		return nil // an administrator keeps all
	}
	before, err := b.lastClosing(ctx)
	if err != nil {
		return err
	}
	var c Closing
	for raw, err := range b.read(ctx, AuditStream, "", before.To+1) {
		if err != nil {
			return err
		}
		left := raw.Time.Add(age).Sub(now)
		if c.Count == 0 && left > closingAhead || left > 2*closingAhead {
			break
		}
		if c.Count == 0 {
			c.From = raw.Sequence
		}
		c.To, c.Head, c.Expires = raw.Sequence, hashOf(raw.Data), raw.Time.Add(age).UTC()
		c.Count++
	}
	if c.Count == 0 {
		return nil
	}
	l := b.link(AuditRecord{Action: ActionClosed, Actor: ProcessActor(b.nc.Opts.Name), Closing: &c,
		Reason: fmt.Sprintf("%s removed by the stream at their maximum age, the last one on %s", numbersWill(c.From, c.To), c.Expires.Format(time.DateOnly))}, "")
	l.check = func(ctx context.Context) (bool, error) { // unless another process has
		last, err := b.lastClosing(ctx)
		return err == nil && last.To < c.To, err
	}
	return b.appendAll(ctx, []*link{l})
}

func numbersWill(from, to uint64) string {
	if from == to {
		return fmt.Sprintf("record %d will be", from)
	}
	return fmt.Sprintf("records %d to %d will be", from, to)
}

// lastClosing returns the newest closing; its zero value if there is none. One that was forged
// stops further ones, and is a break itself.
func (b *Broker) lastClosing(ctx context.Context) (Closing, error) {
	r, err := b.lastRecord(ctx, string(ActionClosed)+".>")
	if err != nil || r == nil || r.Closing == nil {
		return Closing{}, err
	}
	return *r.Closing, nil
}

// noteClosing keeps the first closing that covers what is missing before the first record; later
// ones are about records that are still there.
func (w *walk) noteClosing(r *AuditRecord, sequence uint64) {
	if r.Action != ActionClosed || r.Closing == nil {
		return
	}
	w.closedTo = max(w.closedTo, r.Closing.To)
	if w.report.Closing == nil && r.Closing.To+1 >= w.report.First {
		c := *r.Closing
		c.Record = sequence
		w.report.Closing = &c
	}
}

// checkFront checks that the records before the first one were removed by retention. Before the
// first closing, and in an audit without any, their age alone has to do.
func (w *walk) checkFront(now time.Time) {
	gone, c := w.report.First-1, w.report.Closing
	remembered := w.remembered != nil && w.remembered.Closed > 0
	if w.report.Records == 0 || gone == 0 || w.closedTo == 0 && !remembered {
		w.report.Closing = nil
		return
	}
	switch {
	case c == nil:
		w.missing(1, gone, BreakTruncated, "%s missing, and no record says that they expired: removed after being recorded", numbers(1, gone))
	case c.To == gone && c.Expires.After(now):
		w.missing(1, gone, BreakTruncated, "%s missing, but record %d expires on %s only: removed before their time", numbers(1, gone), gone, c.Expires.UTC().Format(time.DateOnly))
	case c.To == gone && w.firstPrevious != "" && c.Head != w.firstPrevious:
		w.missing(1, gone, BreakChanged, "record %d does not follow from record %d, which expired: it was changed", w.report.First, gone)
	}
}
