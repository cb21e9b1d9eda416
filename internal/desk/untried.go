package desk

import (
	"context"
	"slices"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/events"
)

// untried are deliveries that wait for their first attempt: only the queue has them.
type untried struct {
	entries  []broker.Entry // newest first
	unlisted uint64         // older ones, and those beyond the page
}

// examined is how many messages of the queue are read for each row of a page: those of
// deliveries that are retried are in the ledger, and others do not match. maxExamined bounds them.
const (
	examined    = 4
	maxExamined = 1000
)

// untried returns the newest deliveries without an attempt that match. While the index does not
// have the whole ledger there are none: the page says that it is incomplete.
func (d *Desk) untried(ctx context.Context, q DeliveryQuery, size int) (out untried, err error) {
	if q.State != "" || q.Recipient != "" || q.Since != 0 || !q.From.IsZero() || !q.To.IsZero() {
		return out, nil // they have neither an attempt nor a recipient
	}
	d.mu.RLock()
	reading, hash := d.deliveries.reading(), d.deliveries.hash
	d.mu.RUnlock()
	if reading {
		return out, nil
	}
	waiting, older, _, err := d.b.NewestWaiting(ctx, 0, min(examined*size, maxExamined))
	if err != nil {
		return out, err
	}
	keyOf := func(e *broker.Entry) string { return e.Target + "." + events.Token(e.Event) }
	var keys []string
	for i := range waiting {
		keys = append(keys, keyOf(&waiting[i].Entry))
	}
	known, err := d.b.LedgerEntries(ctx, keys)
	if err != nil {
		return out, err
	}
	x := newDeliveries(hash, len(waiting)) // an index of them, so that the conditions are the ledger's
	entries := map[uint64]broker.Entry{}
	for _, w := range slices.Backward(waiting) {
		key := keyOf(&w.Entry)
		if _, attempted := known[key]; attempted {
			continue
		}
		x.put(&broker.LedgerChange{Key: key, Revision: w.Entry.Sequence, Entry: w.Entry})
		entries[w.Entry.Sequence] = w.Entry
	}
	page, total, _ := x.search(q, byRevision, 0, size)
	for _, sequence := range page {
		out.entries = append(out.entries, entries[sequence])
	}
	out.unlisted = older + uint64(total-len(page))
	return out, nil
}
