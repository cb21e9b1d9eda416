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
		d.listeners.tell(Change{Letters: true, Newer: 2})
	}
	d.listeners.tell(Change{Audit: true})
	d.listeners.tell(Change{})
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
		d.listeners.tell(Change{Runs: true})
		if c, open := <-again; open {
			if !c.Runs {
				t.Errorf("%+v", c)
			}
			break // there is room again
		}
	}
}
