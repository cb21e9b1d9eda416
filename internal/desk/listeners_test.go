package desk

import (
	"context"
	"testing"
)

// Who does not listen is not waited for, and hears everything at once later; beyond
// the bound nobody is kept.
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
		t.Error("one too many is kept")
	}
	cancel()
	if _, open := <-ch; open {
		t.Error("told after the end")
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

// The mark is another one after each change, and in each process.
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
		t.Error("no change is one")
	}
	d.listeners.notify(Change{Lanes: true})
	if d.Mark() == before {
		t.Error("a change leaves the mark as it was")
	}
}
