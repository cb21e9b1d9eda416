package desk

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/events"
)

// waiting returns a page of the deliveries that wait, tried or not, newest first. The queue says
// which there are, and the ledger what is known of them: it does not know those that were never
// tried, and still has the outcome before a replay.
//
// The place of a page is a sequence in the queue. A page of a filter may have fewer rows than
// were asked for, or none, although older deliveries match: at most maxExamined are read for it.
func (d *Desk) waiting(ctx context.Context, q DeliveryQuery, before uint64, size int) (DeliveryListing, error) {
	d.mu.RLock()
	out := DeliveryListing{Entries: []broker.Entry{}, Read: uint64(d.deliveries.live), Of: uint64(d.deliveries.live)} // the index is not used
	hash := d.deliveries.hash
	d.mu.RUnlock()
	filtered := q != DeliveryQuery{State: broker.StateWaiting}
	limit := size
	if filtered {
		limit = max(size, maxExamined)
	}
	found, older, next, err := d.waitingBefore(ctx, before, limit)
	if err != nil {
		return out, err
	}
	x := newDeliveries(hash, len(found)) // an index of them, so that the conditions are those of the ledger's
	entries := map[uint64]broker.Entry{}
	for _, e := range slices.Backward(found) {
		x.put(&broker.LedgerChange{Key: broker.LedgerKey(e.Target, events.Token(e.Event)), Revision: e.Sequence, Entry: e})
		entries[e.Sequence] = e
	}
	page, _, _ := x.search(q, byRevision, 0, size+1)
	if len(page) > size {
		page = page[:size]
		next, older = page[size-1], older+1
	}
	for _, sequence := range page {
		out.Entries = append(out.Entries, entries[sequence])
	}
	if older > 0 {
		out.Next = next
	}
	out.Total = len(out.Entries)
	if !filtered && (before != 0 || out.Next != 0) {
		if held, err := d.b.HeldDeliveries(ctx); err == nil {
			out.Total = max(out.Total, int(held.Messages)) // with those in work
		}
	}
	return out, d.explainWaits(ctx, out.Entries)
}

// waitingBefore returns the deliveries among the newest messages of the queue before a sequence
// (0: of all) that wait, with the sequences of their messages; of copies of one only the newest.
// older and next are those of broker.NewestWaiting.
func (d *Desk) waitingBefore(ctx context.Context, before uint64, limit int) (found []broker.Entry, older, next uint64, err error) {
	messages, older, next, err := d.b.NewestWaiting(ctx, before, limit)
	if err != nil {
		return nil, 0, 0, err
	}
	keys := make([]string, len(messages))
	for i := range messages {
		keys[i] = broker.LedgerKey(messages[i].Entry.Target, events.Token(messages[i].Entry.Event))
	}
	known, err := d.b.LedgerEntries(ctx, keys)
	if err != nil {
		return nil, 0, 0, err
	}
	seen := map[string]bool{}
	for i, m := range messages {
		e, waits := m.With(known[keys[i]])
		if waits && !seen[keys[i]] {
			seen[keys[i]] = true
			found = append(found, e)
		}
	}
	return found, older, next, nil
}

// explainWaits says of waiting deliveries what they wait for, and when they are tried again.
func (d *Desk) explainWaits(ctx context.Context, entries []broker.Entry) error {
	if len(entries) == 0 {
		return nil
	}
	lanes, err := d.lanes(ctx)
	if err != nil {
		return err
	}
	byName := map[string]broker.LaneInfo{}
	for _, l := range lanes {
		byName[l.Lane] = l
	}
	for i := range entries {
		explainWait(&entries[i], byName[entries[i].Lane], time.Now())
	}
	return nil
}

// explainWait says what a delivery waits for in a lane. A lane that delivers nothing is the
// reason whatever failed before.
func explainWait(e *broker.Entry, l broker.LaneInfo, now time.Time) {
	w := broker.Wait{}
	if e.Wait != nil {
		w = *e.Wait
	}
	if w.Replay == 0 && e.Generation > 1 {
		w.Replay = e.Generation - 1
	}
	switch s := StateOf(l); {
	case e.Cancel != nil && !e.CancelDone():
		w.Reason = "its cancellation by " + e.Cancel.Shown() + " to be finished: " + e.Cancel.Reason
		w.Then = "never: cancel it again, or let the lane deliver, to write its dead letter"
	case e.HeldBack():
		w.Reason, w.Next = e.Failure.Reason, e.Hold.Until
		w.Then = "as soon as DNS has the records"
	case l.Lane != "" && !fetches(l):
		w.Reason = "lane " + l.Lane + ": " + s.Words
		if why := cmp.Or(s.Why, s.Reply); why != "" {
			w.Reason += ": " + why
		}
		w.Next = s.Until
		if e.NextTry.After(s.Until) && !s.Until.IsZero() {
			w.Next = e.NextTry
		}
		w.Then = "when the lane delivers again"
	case e.Failure != nil && e.Attempts > 0:
		w.Reason, w.Next, w.Then = string(e.Failure.Code)+": "+e.Failure.Reason, e.NextTry, "soon"
	default:
		w.Reason, w.Then = "its turn", "as soon as the lane has a free slot"
	}
	if !w.Next.After(now) {
		w.Next = time.Time{} // due: it is taken with the lane's next deliveries
	}
	e.Wait = &w
}

// fetches reports whether some process takes deliveries from the lane.
func fetches(l broker.LaneInfo) bool {
	if l.Suspension != nil || l.Replicas == 0 {
		return false
	}
	paused := 0
	for _, s := range l.Statuses {
		if s.Paused != "" {
			paused++
		}
	}
	return paused < l.Replicas
}
