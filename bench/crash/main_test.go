//go:build unix

package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
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
	t.Parallel()
	nothingIsLost(t, options{sync: "2m", every: 1500 * time.Millisecond, span: 4 * time.Second})
}

// Fault: a power cut again and again under load. Result: with sync_interval always nothing
// that was acknowledged is lost; at most as many duplicates as unknown outcomes, each marked;
// the audit verifies.
func TestNothingIsLostInAPowerCut(t *testing.T) {
	t.Parallel()
	needDisk(t)
	nothingIsLost(t, options{sync: "always", every: time.Second, span: 4 * time.Second, powerCut: true})
}

// The test above shows something only if a cut does throw writes away.
func TestACutForgetsWhatIsNotFlushed(t *testing.T) {
	t.Parallel()
	d := needDisk(t)
	for name, flush := range map[string]bool{"flushed": true, "not-flushed": false} {
		f, err := os.Create(filepath.Join(d.dir, name))
		if err == nil {
			_, err = f.WriteString("a message")
		}
		if err == nil && flush {
			err = f.Sync()
		}
		if err = errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.cut(t.Context()); err != nil {
		t.Fatal(err)
	}
	flushed, err := os.ReadFile(filepath.Join(d.dir, "flushed"))
	if string(flushed) != "a message" {
		t.Errorf("what was flushed is %q after the cut: %v", flushed, err)
	}
	if lost, _ := os.ReadFile(filepath.Join(d.dir, "not-flushed")); len(lost) > 0 {
		t.Errorf("what was not flushed is %q after the cut", lost)
	}
}

// needDisk skips the test if there can be no disk whose power can be cut.
func needDisk(t *testing.T) *disk {
	d, err := newDisk(t.Context(), t.TempDir())
	if err != nil {
		lab.Skip(t, err.Error())
	}
	t.Cleanup(func() {
		if err := d.unmount(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	return d
}

func nothingIsLost(t *testing.T, o options) {
	if testing.Short() {
		t.Skip("kills for seconds")
	}
	o.dir, o.program, o.backlog = t.TempDir(), lab.Build(t), 100
	var out strings.Builder
	if err := run(t.Context(), o, &out); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	for _, want := range []string{" times, every ", "lost 0, not settled 0, dead letters 0", "(not marked 0)", "audit: verified"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the report does not say %q:\n%s", want, &out)
		}
	}
}
