package desk

import (
	"context"
	"testing"
)

// A listener that does not receive is not waited for, and receives all changes merged
// into one later. Beyond the bound no listener is added.
func TestChangesAreCoalesced(t *testing.T) {
	t.Parallel()
	d := dry()
	ctx, cancel := context.WithCancel(t.Context())
	ch := d.Changes(ctx)
	for range 1000 {
		d.listeners.notify(Change{Letters: true, Newer: 2})
	}
	d.listeners.notify(Change{Audit: true})
	d.listeners.notify(Change{})
	if c := <-ch; c != (Change{Letters: true, Audit: true, Newer: 2000}) {
		t.Errorf("%+v", c)
	}
	select {
	case c := <-ch:
		t.Errorf("one more: %+v", c)
	default:
	}
	for range maxListeners - 1 {
		d.Changes(ctx)
	}
	if _, open := <-d.Changes(ctx); open {
		t.Error("a listener beyond the bound is added")
	}
	cancel()
	if _, open := <-ch; open {
		t.Error("a change after the end of the context")
	}
	end, stop := context.WithCancel(t.Context())
	defer stop()
	for {
		again := d.Changes(end)
		d.listeners.notify(Change{Runs: true})
		if c, open := <-again; open {
			if !c.Runs {
				t.Errorf("%+v", c)
			}
			break // there is room again
		}
	}
}

// The mark is a different one after each change, and in each process.
func TestMarkTellsOfMissedChanges(t *testing.T) {
	t.Parallel()
	d, other := dry(), dry()
	other.worker = "host/1/another-life"
	before := d.Mark()
	if d.Mark() != before || other.Mark() == before {
		t.Errorf("%s, then %s without a change; %s in another process", before, d.Mark(), other.Mark())
	}
	d.listeners.notify(Change{})
	if d.Mark() != before {
		t.Error("an empty change alters the mark")
	}
	d.listeners.notify(Change{Lanes: true})
	if d.Mark() == before {
		t.Error("a change does not alter the mark")
	}
}
