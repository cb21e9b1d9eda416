//go:build unix

package main

import (
	"strings"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/lab"
)

// A short run, to check that the program still works. For real results, run it for longer
// on the disk and machine in question.
//
// Fault: kill -9 again and again under load. Result: nothing is lost; at most as many
// duplicates as unknown outcomes.
func TestNothingIsLost(t *testing.T) {
	if testing.Short() {
		t.Skip("kills for seconds")
	}
	var out strings.Builder
	o := options{dir: t.TempDir(), program: lab.Build(t), sync: "2m", every: 1500 * time.Millisecond, span: 4 * time.Second, backlog: 100}
	if err := run(t.Context(), o, &out); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	for _, want := range []string{"killed ", "lost 0, not settled 0, dead letters 0"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the report does not say %q:\n%s", want, &out)
		}
	}
}
