//go:build unix

package main

import (
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/lab"
)

// A short run, to check that the program still works; its figures mean nothing.
func TestBothStoresAreMeasured(t *testing.T) {
	if testing.Short() {
		t.Skip("fills two stores and starts the program four times")
	}
	var out strings.Builder
	o := options{dir: t.TempDir(), program: lab.Build(t), sync: "2m", size: size{2000, 10_000}, requests: 2, calm: 1}
	if err := run(t.Context(), o, &out); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	for _, want := range []string{"big store: 2000 letters, 10000 deliveries", "\nbig  ", "ledger indexed", "\ndeliveries, serial ", "all arrived", "during the replay"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the report does not say %q:\n%s", want, &out)
		}
	}
}
