package main

import (
	"math"
	"os"
	"strings"
	"testing"
)

// The simulation uses what the model says, nothing queues up at any size, and a mail takes
// hardly longer than without others: p99 within a second.
func TestModelAgreesWithSimulation(t *testing.T) {
	t.Parallel()
	for _, daily := range Daily {
		s := SizeFor(daily)
		rate := s.Rate / float64(s.Cells)
		r := Simulate(s, rate, 2)
		if model := s.Busiest(rate); !r.Stable || math.Abs(r.Busiest-model) > 0.1*model+0.001 || r.P99 > 1 || r.P50 <= 0 {
			t.Errorf("%g a day: %+v, the model says %.4f busy", daily, r, model)
		}
		if s.Index > memory*1.001 || s.Cells < s.ByRate || s.Cells < s.ByLedger || s.Cells < s.ByLanes {
			t.Errorf("%g a day: %+v", daily, s)
		}
	}
}

// A cell is at its end where the model says: below it keeps up, above it does not.
func TestOverload(t *testing.T) {
	t.Parallel()
	s := SizeFor(1e7)
	whole := cellRate / busy // all cores of a server in use
	if r := Simulate(s, 0.9*whole, 3); !r.Stable {
		t.Errorf("at 90 %%: %+v", r)
	}
	if r := Simulate(s, 1.1*whole, 3); r.Stable {
		t.Errorf("at 110 %%: %+v", r)
	}
}

// docs/scaling.md has the report and the layout of two cells as they are.
func TestDocumentOfScaling(t *testing.T) {
	t.Parallel()
	const file = "../../docs/scaling.md"
	read, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var report strings.Builder
	if err := Report(&report); err != nil {
		t.Fatal(err)
	}
	text := string(read)
	for mark, want := range map[string]string{"model": report.String(), "layout": "```text\n" + Layout(2) + "```\n"} {
		begin, end := "<!-- "+mark+": go run ./bench/scaling -->\n", "<!-- end of "+mark+" -->\n"
		before, rest, ok := strings.Cut(text, begin)
		have, after, ended := strings.Cut(rest, end)
		if !ok || !ended {
			t.Fatalf("%s has no part %q", file, mark)
		}
		if have != want && os.Getenv("UPDATE_DOCS") != "true" {
			t.Errorf("%s: the part %q differs; UPDATE_DOCS=true go test ./bench/scaling -run Document updates it", file, mark)
		}
		text = before + begin + want + end + after
	}
	if os.Getenv("UPDATE_DOCS") == "true" {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
