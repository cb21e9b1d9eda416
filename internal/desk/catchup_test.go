package desk

import (
	"testing"
	"time"

	"github.com/certpost/certpost/internal/broker"
)

// Who has just changed a delivery finds it in the list as it is now.
func TestCatchUpReadsTheLedger(t *testing.T) {
	t.Parallel()
	x := start(t)
	ledger, err := x.b.OpenLedger(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	d, _ := x.desk(func(d *Desk) { d.pace.look = time.Hour }) // it looks only when it is asked
	d.CatchUp(t.Context())
	revision := uint64(0)
	for n := range 100 {
		state := broker.StateDead
		if n%2 == 0 {
			state = broker.StateDiscarded
		}
		revision, err = ledger.Put(t.Context(), broker.LedgerKey("ops", "e1"), broker.Entry{Event: "e1", Target: "ops", State: state}, revision)
		if err != nil {
			t.Fatal(err)
		}
		d.CatchUp(t.Context())
		listing, err := d.Deliveries(t.Context(), DeliveryQuery{State: state}, 0, 10)
		if err != nil {
			t.Fatal(err)
		}
		if len(listing.Entries) != 1 {
			t.Fatalf("change %d: %d deliveries are %s, want 1", n, len(listing.Entries), state)
		}
	}
}
