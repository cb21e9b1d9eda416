package main

import (
	"strings"
	"testing"
)

// A short run, to check that the program still works; its figures mean nothing.
func TestBothAreMeasured(t *testing.T) {
	for name, silent := range map[string]bool{"refused": false, "silent": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out strings.Builder
			o := options{dir: t.TempDir(), waiting: 300, mails: 20, healthy: 2, dead: 1, slow: 1, rounds: 2, sync: "2m", silent: silent, lane: 4}
			if _, err := measure(t.Context(), o, &out); err != nil {
				t.Fatalf("%v\n%s", err, &out)
			}
			if table := out.String(); !strings.Contains(table, "300 deliveries wait for 1 dead and 1 slow relays; 20 mails to 2 healthy ones") || strings.Count(table, "\n") != 5 {
				t.Errorf("the report:\n%s", table)
			}
		})
	}
}
