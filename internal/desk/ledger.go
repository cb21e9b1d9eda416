package desk

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/backoff"
	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/events"
)

// noteLedgerState passes the ledger's state to followLedger, which needs only the newest.
func (d *Desk) noteLedgerState(state broker.StreamState) {
	d.mu.Lock()
	d.deliveries.last = max(d.deliveries.last, state.Last)
	d.mu.Unlock()
	select {
	case <-d.ledger:
	default:
	}
	d.ledger <- state // never blocks: this is the only sender
}

// followLedger keeps the index of deliveries up to date until the context ends.
func (d *Desk) followLedger(ctx context.Context) {
	var before broker.StreamState
	for {
		select {
		case <-ctx.Done():
			return
		case state := <-d.ledger:
			d.mu.Lock()
			if !before.Created.IsZero() && (!state.Created.Equal(before.Created) || state.Last < before.Last) {
				d.log.Warn().Msg("the ledger was recreated or restored; reading it from the beginning")
				d.forgetDeliveries()
			}
			before = state
			d.deliveries.last, d.deliveries.entries = max(d.deliveries.last, state.Last), state.Messages
			from := d.deliveries.next
			d.deliveries.wasRead = d.deliveries.wasRead || from > state.Last
			if len(d.deliveries.slots) == 0 { // all of it is about to be read
				d.deliveries.slots = make([]slot, 0, min(state.Messages+state.Messages/16, keptDeliveries))
			}
			d.mu.Unlock()
			if from > state.Last {
				continue
			}
			if err := d.readLedger(ctx, from, state.Last); err != nil && ctx.Err() == nil {
				d.log.Debug().Err(err).Msg("reading the ledger was interrupted; continuing from there")
				backoff.Sleep(ctx, d.pace.look)
			}
		}
	}
}

// forgetDeliveries empties the index of deliveries, and removes from the letters what
// came from it. The lock is held.
func (d *Desk) forgetDeliveries() {
	d.deliveries = newDeliveries(d.deliveries.hash, d.deliveries.limit)
	for l := range d.letters.byNumber.after(nil) {
		if l.superseded != nil {
			d.letters.alter(l, func() { l.superseded = nil })
		}
	}
}

// readLedger reads the entries that are new or have changed, up to the revision that was the
// newest at the last look. It does not follow a ledger that grows meanwhile: half a second later,
// most claims have become outcomes, and are not read at all.
func (d *Desk) readLedger(ctx context.Context, from, last uint64) (err error) {
	var some []broker.LedgerChange
	superseded := false
	apply := func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		for i := range some {
			superseded = d.applyEntry(&some[i]) || superseded
		}
		some = some[:0]
	}
	for c, rerr := range d.b.ReadEntries(ctx, from) {
		if err = rerr; err != nil {
			break
		}
		if some = append(some, c); len(some) == chunk {
			apply()
		}
		if c.Revision >= last {
			break
		}
	}
	apply()
	if err == nil {
		d.mu.Lock()
		d.deliveries.next, d.deliveries.wasRead = max(d.deliveries.next, last+1), true
		d.mu.Unlock()
		broker.ReturnMemory(last - from)
	}
	d.listeners.notify(Change{Lanes: true, Letters: superseded})
	return err
}

// applyEntry applies one entry, and updates which letters it supersedes: the newest
// certificate for a letter's primary name decides, and it must cover all names of the
// letter's certificate. It reports whether a letter changed. The lock is held.
func (d *Desk) applyEntry(c *broker.LedgerChange) (superseded bool) {
	target, token, _ := strings.Cut(c.Key, ".")
	if known, there := d.deliveries.places[d.deliveries.hash.of(target, token)]; there && c.Sealed && c.After < known {
		d.b.RolledBack(c, known)
	}
	newer, pairs := d.deliveries.put(c)
	d.runs.entryChanged(d.deliveries.hash.of(target, token), c.Entry.State == broker.StateSent)
	for _, pair := range pairs {
		for _, l := range d.letters.named[pair] {
			if l.leaf.Value().notBefore >= int64(newer.notBefore) {
				continue
			}
			var s *Superseded
			if d.deliveries.covers(newer.revision, l.leaf.Value().allNames()) {
				s = &Superseded{}
				s.setCertificate(&c.Entry)
			}
			if s == nil && l.superseded == nil {
				continue
			}
			d.letters.alter(l, func() { l.superseded = s })
			superseded = true
		}
	}
	return superseded
}

// reading reports whether the index has not read the whole ledger yet.
func (x *deliveries) reading() bool { return x.next <= x.last }

// ledgerBehind reports whether the index lacks changes that were made after its first reading of
// the ledger. During that reading, which may take a minute, it is false.
func (d *Desk) ledgerBehind() bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.deliveries.wasRead && d.deliveries.reading()
}

// sentSince reports whether the ledger says that a delivery (target and event, hashed)
// was sent at or after a time (Unix nanoseconds, compared in seconds).
func (x *deliveries) sentSince(key uint64, at int64) bool {
	revision, ok := x.places[key]
	if !ok {
		return false
	}
	i, ok := x.find(revision)
	return ok && x.slots[i].state == slotSent && int64(x.slots[i].last) >= at/int64(time.Second)
}

// Deliveries returns a page of the deliveries that match, of the ledger's entries by
// their last attempt, newest first, of those behind the one with the revision after (0: from the newest). The first page begins with those
// that wait for their first attempt, which the ledger does not have.
func (d *Desk) Deliveries(ctx context.Context, q DeliveryQuery, after uint64, size int) (DeliveryListing, error) {
	size = pageSize(size)
	if q.State == broker.StateWaiting {
		return d.waiting(ctx, q, after, size)
	}
	var first untried
	if after == 0 {
		var err error
		if first, err = d.untried(ctx, q, size); err != nil {
			return DeliveryListing{}, err
		}
	}
	out, entries, err := d.deliveriesPage(ctx, q, after, size-len(first.entries))
	out.Entries = append(out.Entries, first.entries...)
	for i := range entries {
		out.Entries = append(out.Entries, entries[i].Entry)
	}
	out.Total += len(first.entries)
	out.Unlisted = first.unlisted
	return out, err
}

// deliveriesPage is Deliveries without those that wait for their first attempt; the entries come
// with what their HMAC shows.
func (d *Desk) deliveriesPage(ctx context.Context, q DeliveryQuery, after uint64, size int) (DeliveryListing, []broker.LedgerChange, error) {
	d.mu.RLock()
	x := d.deliveries
	page, total, next := x.search(q, byLast, after, size)
	out := DeliveryListing{Entries: []broker.Entry{}, Total: total, Next: next, Read: uint64(x.live), Of: x.entries}
	if !x.reading() && x.dropped == 0 {
		out.Of = out.Read // the stream also counts markers of removed entries
	}
	d.mu.RUnlock()
	entries, err := d.b.EntriesAt(ctx, page) // without those that changed since: they are the newest now
	return out, entries, err
}

// Delivery returns all that is known of one delivery; ErrNotFound when the ledger has no
// entry. What a target got under a former id is its own.
func (d *Desk) Delivery(ctx context.Context, target, event string) (DeliveryDetail, error) {
	if !events.IsToken(target) || event == "" {
		return DeliveryDetail{}, fmt.Errorf("delivery of %q to %q: %w", event, target, ErrNotFound)
	}
	entries, err := d.b.Deliveries(ctx, target, event)
	if err != nil {
		return DeliveryDetail{}, err
	}
	if len(entries) == 0 {
		waiting, err := d.waitingDelivery(ctx, target, event)
		if !errors.Is(err, ErrNotFound) {
			return waiting, err
		}
		if entries, _ = d.formerEntries(ctx, target, event); len(entries) == 0 {
			if now := d.idNow(target); now != target {
				return d.Delivery(ctx, now, event)
			}
			return waiting, err
		}
	}
	if entries[0].State.Final() {
		if err := d.findReplay(ctx, &entries[0]); err != nil {
			return DeliveryDetail{}, err
		}
	}
	if entries[0].State == broker.StateWaiting {
		if err := d.explainWaits(ctx, entries[:1]); err != nil {
			return DeliveryDetail{}, err
		}
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	out := DeliveryDetail{Entry: entries[0], History: records(d.history.of(0, 0, target, entries[0].Event, maxPage))}
	if r := out.Receipt; r != nil {
		out.RollbackAvailable, out.RollbackRemedy = r.CanRollBack() && out.State == broker.StateSent, r.Remedy()
	}
	return out, nil
}

// findReplay changes the entry of a settled delivery into that of its replay if one waits: the ledger
// knows it only from its first attempt on.
func (d *Desk) findReplay(ctx context.Context, e *broker.Entry) error {
	likely := uint64(0)
	d.mu.RLock()
	for _, r := range d.history.of(0, 0, e.Target, e.Event, maxPage) {
		if r.Delivery > max(likely, e.Sequence) {
			likely = r.Delivery
		}
	}
	d.mu.RUnlock()
	w, err := d.b.WaitingReplay(ctx, e.Target, e.Event, likely)
	if errors.Is(err, broker.ErrNoEntry) {
		return nil
	}
	if err != nil {
		return err
	}
	if waiting, waits := w.With(*e); waits {
		*e = waiting
	}
	return nil
}

// waitingDelivery returns a delivery that the ledger does not know, because it was never
// attempted.
func (d *Desk) waitingDelivery(ctx context.Context, target, event string) (DeliveryDetail, error) {
	w, err := d.b.WaitingDelivery(ctx, target, event)
	if errors.Is(err, broker.ErrNoEntry) {
		return DeliveryDetail{}, fmt.Errorf("delivery of %q to %q: %w", event, target, ErrNotFound)
	}
	if err != nil {
		return DeliveryDetail{}, err
	}
	one := []broker.Entry{w.Entry}
	one[0].Wait = &broker.Wait{Since: w.Since}
	err = d.explainWaits(ctx, one)
	return DeliveryDetail{Entry: one[0], WaitingSince: w.Since, History: []Record{}}, err
}
