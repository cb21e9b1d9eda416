//go:build unix

package main

import (
	"os"
	"strings"
	"testing"

	"github.com/certpost/certpost/bench/harness"
	"github.com/certpost/certpost/internal/lab"
)

func TestMain(m *testing.M) {
	if harness.ServeNATS() {
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// A short run, to check that the program still works; its figures mean nothing.
func TestBothAreMeasured(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for suspensions")
	}
	var out strings.Builder
	o := options{dir: t.TempDir(), program: lab.Build(t), few: 200, many: 400, mails: 50, rounds: 1}
	if err := run(t.Context(), o, &out); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	for _, want := range []string{"mails a second", "processor ms", "resident memory", "to the first mail"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the table has no line %q:\n%s", want, &out)
		}
	}
}
