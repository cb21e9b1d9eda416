package main

import (
	"testing"
	"time"
)

// TestVariants: each variant settles every message, and leaves what it must.
func TestVariants(t *testing.T) {
	t.Parallel()
	p := plan{messages: 200, workers: 16, size: 1000, purge: 10 * time.Millisecond, relaxed: true}
	for _, v := range variants {
		r, err := measure(p, v, t.TempDir())
		if err != nil {
			t.Errorf("%s: %v", v.name, err)
			continue
		}
		wantHeld := 0
		if v.held > 0 {
			wantHeld = p.messages / v.held
		}
		// Held messages stay; with limits also what is behind the oldest of them.
		if r.held != wantHeld || r.left < uint64(wantHeld) || v.held == 0 && r.left != 0 || r.left > uint64(p.messages-v.held+1) && v.held > 0 {
			t.Errorf("%s: %d left, %d held", v.name, r.left, r.held)
		}
		if r.rate <= 0 {
			t.Errorf("%s: rate %v", v.name, r.rate)
		}
	}
}
