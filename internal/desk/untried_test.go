package desk

import (
	"fmt"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/verdict"
)

// A page is as long as it was ordered, also where deliveries without an attempt fill a part of it or
// all: the ledger's entries follow, each once.
func TestUntriedDeliveriesFillAPage(t *testing.T) {
	t.Parallel()
	x := newDeliveries(newHasher(), 1<<10)
	for i := uint64(1); i <= 5; i++ {
		x.put(&broker.LedgerChange{Key: fmt.Sprintf("ops.e%d", i), Revision: i, Entry: broker.Entry{Target: "ops", State: broker.StateSent, Certificate: &verdict.Certificate{}}})
	}
	for _, size := range []int{0, 1, 3, 5, 9} { // what untried deliveries leave of the first page
		page, total, next := x.search(DeliveryQuery{}, byLast, 0, size)
		seen := page
		for next != 0 {
			page, _, next = x.search(DeliveryQuery{}, byLast, next, 2)
			seen = append(seen, page...)
		}
		if total != 5 || fmt.Sprint(seen) != "[5 4 3 2 1]" {
			t.Errorf("%d left: %v of %d", size, seen, total)
		}
	}
}

// A lane that is suspended, and more deliveries than a page has rows: the newest are listed, and
// how many more there are.
func TestMoreUntriedDeliveriesThanRows(t *testing.T) {
	t.Parallel()
	x := start(t)
	d, _ := x.desk(nil)
	x.until("the lane is there and suspended", func() bool {
		return d.Suspend(t.Context(), me, "relay", "maintenance", time.Time{}) == nil
	})
	const all = 12
	for i := range all {
		x.publish(event(fmt.Sprintf("e%d", i), "ops"))
	}
	list := func(q DeliveryQuery, size int) DeliveryListing {
		found, err := d.Deliveries(t.Context(), q, 0, size)
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	untried := func(l DeliveryListing) (n int) {
		for _, e := range l.Entries {
			if e.Untried() {
				n++
			}
		}
		return n
	}
	x.until("all deliveries are listed, but for those in a worker's hands", func() bool {
		l := list(DeliveryQuery{}, 100)
		return len(l.Entries) == all && untried(l) >= all-8 && l.Unlisted == 0 && l.Total == all
	})
	waiting := list(DeliveryQuery{State: broker.StateWaiting}, 100)
	if untried(waiting) != len(waiting.Entries) || waiting.Entries[0].Sequence <= waiting.Entries[1].Sequence {
		t.Errorf("not the newest waiting ones first: %+v", waiting)
	}
	if l := list(DeliveryQuery{State: broker.StateWaiting}, 2); len(l.Entries) != 2 || l.Entries[1].Event != waiting.Entries[1].Event || l.Unlisted != 0 || l.Next == 0 {
		t.Errorf("a page of 2 of %d: %+v", len(waiting.Entries), l)
	}
	if l := list(DeliveryQuery{Target: "prod"}, 100); len(l.Entries) != 0 || l.Unlisted != 0 {
		t.Errorf("another target's: %+v", l)
	}
}
