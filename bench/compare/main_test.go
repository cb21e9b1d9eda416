package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/certpost/certpost/bench/road"
	"github.com/certpost/certpost/internal/lab"
)

// TestMain lets the test's program be a peer, as the program itself is.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && peers[os.Args[1]] != nil {
		main()
		return
	}
	os.Exit(m.Run())
}

// A short run, to check that every contestant delivers every mail; its figures mean nothing.
func TestEveryContestantDelivers(t *testing.T) {
	if os.Geteuid() != 0 {
		lab.Skip(t, "Postfix starts only as root, and this test does not run as root")
	}
	for _, program := range []string{"smtp-sink", "smtp-source", "postfix"} {
		lab.Need(t, program)
	}
	file := filepath.Join(t.TempDir(), "figures.json")
	var out strings.Builder
	if err := compare(t.Context(), options{dir: os.TempDir(), program: lab.Build(t), rounds: 1, mails: 100, json: file}, &out); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var d Document
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	if len(d.Figures) != len(figures) || len(d.Measurements) != len(measurements) {
		t.Errorf("%d figures of %d measurements, want %d of %d", len(d.Figures), len(d.Measurements), len(figures), len(measurements))
	}
	for name, all := range d.Measurements {
		if len(all) != 1 || all[0].Rate <= 0 || all[0].Mails == 0 {
			t.Errorf("%s: %+v", name, all)
		}
	}
	for _, f := range figures {
		if !strings.Contains(out.String(), "\n"+f.Name+" ") {
			t.Errorf("the table has no row %s:\n%s", f.Name, &out)
		}
	}
}

func TestMedian(t *testing.T) {
	t.Parallel()
	for want, values := range map[float64][]float64{2: {3, 1, 2}, 2.5: {4, 1, 2, 3}, 7: {7}} {
		if got := road.Median(values); got != want {
			t.Errorf("median of %v: %v, want %v", values, got, want)
		}
	}
}

func TestChoose(t *testing.T) {
	t.Parallel()
	if _, err := choose("durable-road,fast"); err == nil || !strings.Contains(err.Error(), `there is no figure "fast"`) {
		t.Errorf("%v", err)
	}
	chosen, err := choose("idle-durable, idle-relaxed")
	if err != nil || strings.Join(needed(chosen), ";") != "certpost durable idle;certpost relaxed idle;go-mail idle;go-mail idle and 3 flushes" {
		t.Errorf("%v, %v", needed(chosen), err)
	}
}
