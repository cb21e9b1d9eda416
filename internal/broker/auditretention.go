package broker

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Closing is what a record `closed` says: these records will be removed by the stream at their
// maximum age. It is written before that, because the hash of the last one is gone afterwards.
type Closing struct {
	From    uint64    `json:"from"`
	To      uint64    `json:"to"`
	Count   uint64    `json:"count"`
	Head    string    `json:"head"`    // SHA-256 of record To, hexadecimal
	Expires time.Time `json:"expires"` // when record To reaches the maximum age
	// Days are the last records of the days before, by when they expire, each day that has any: so that
	// records that are removed early are noticed while only some of the range have expired.
	Days   []ClosingDay `json:"days,omitempty"`
	Record uint64       `json:"-"` // set when it is read: the record that says so
}

// ClosingDay is the last record that expires on a day (UTC).
type ClosingDay struct {
	To      uint64    `json:"to"`
	Expires time.Time `json:"expires"`
}

const (
	// closingAhead is how long before the oldest record expires a closing is written; it then
	// covers twice that time, so that there is one a month.
	closingAhead = 30 * 24 * time.Hour
	closingEvery = time.Hour // between two looks for records to close
	// closingSlack is how much earlier than announced records may expire: clocks of servers and
	// of those who verify differ.
	closingSlack = time.Hour
)

// closeOld announces the records that expire soon. It requires the audit's keys.
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
	c, err := closingOf(b.read(ctx, AuditStream, "", before.To+1), age, now)
	if err != nil || c.Count == 0 {
		return err
	}
	l := b.link(AuditRecord{Action: ActionClosed, Actor: ProcessActor(b.nc.Opts.Name), Closing: &c,
		Reason: fmt.Sprintf("%s removed by the stream at their maximum age, the last one on %s", numbersWill(c.From, c.To), c.Expires.Format(time.DateOnly))}, "")
	l.check = func(ctx context.Context) (bool, error) { // unless another process has
		last, err := b.lastClosing(ctx)
		return err == nil && last.To < c.To, err
	}
	return b.appendAll(ctx, []*link{l})
}

// closingOf returns what is to be announced of records, given from the first one that is not yet
// announced; Count is 0 if that is nothing.
func closingOf(records iter.Seq2[*jetstream.RawStreamMsg, error], age time.Duration, now time.Time) (c Closing, err error) {
	for raw, err := range records {
		if err != nil {
			return c, err
		}
		expires := raw.Time.Add(age).UTC()
		left := expires.Sub(now)
		if c.Count == 0 && left > closingAhead || left > 2*closingAhead {
			break
		}
		switch {
		case c.Count == 0:
			c.From = raw.Sequence
		case expires.YearDay() != c.Expires.YearDay():
			c.Days = append(c.Days, ClosingDay{c.To, c.Expires})
		}
		c.To, c.Head, c.Expires = raw.Sequence, hashOf(raw.Data), expires
		c.Count++
	}
	return c, nil
}

// due returns the newest record up to a given one of which the closing says when it expires.
func (c *Closing) due(gone uint64) ClosingDay {
	due := ClosingDay{}
	for _, day := range append(slices.Clip(c.Days), ClosingDay{c.To, c.Expires}) {
		if day.To <= gone {
			due = day
		}
	}
	return due
}

func numbersWill(from, to uint64) string {
	if from == to {
		return fmt.Sprintf("record %d will be", from)
	}
	return fmt.Sprintf("records %d to %d will be", from, to)
}

// lastClosing returns the newest closing with a valid HMAC; its zero value if there is none. One that
// a NATS client wrote is a break, and must not stop further ones once that is accepted.
func (b *Broker) lastClosing(ctx context.Context) (last Closing, err error) {
	keys, err := b.cfg.AuditKeys(ctx)
	if err != nil {
		return last, fmt.Errorf("the audit's key cannot be read: %w", err)
	}
	for raw, err := range b.read(ctx, AuditStream, auditPrefix+string(ActionClosed)+".>", 1) {
		if err != nil {
			return last, err
		}
		if result, _ := keys.checkRecord(raw); result != authentic {
			continue
		}
		if r := readRecord(raw); r.Action == ActionClosed && r.Closing != nil && r.Closing.To > last.To {
			last = *r.Closing
		}
	}
	return last, nil
}

// noteClosing keeps the first closing that covers what is missing before the first record; later
// ones are about records that are still there.
func (w *walk) noteClosing(r *AuditRecord, sequence uint64) {
	if r.Action != ActionClosed || r.Closing == nil {
		return
	}
	w.closedTo = max(w.closedTo, r.Closing.To)
	if due := r.Closing.due(w.report.First - 1); due.To > w.due.To {
		w.due = due
	}
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
	if c == nil {
		w.missing(1, gone, BreakTruncated, "%s missing, and no record says that they expired: removed after being recorded", numbers(1, gone))
		return
	}
	switch {
	case w.due.Expires.After(now.Add(closingSlack)):
		w.missing(1, gone, BreakTruncated, "%s missing, but record %d expires on %s only: removed before their time", numbers(1, gone), w.due.To, w.due.Expires.UTC().Format(time.DateOnly))
	case c.To == gone && w.firstPrevious != "" && c.Head != w.firstPrevious:
		w.missing(1, gone, BreakChanged, "record %d does not follow from record %d, which expired: it was changed", w.report.First, gone)
	}
}
