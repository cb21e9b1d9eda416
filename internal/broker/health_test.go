package broker

import (
	"strings"
	"testing"

	"github.com/rs/zerolog"
)

// Pages and actions need streams that deliveries do not: all have to be there.
//
// Fault: a stream or bucket that a page needs is missing or cannot be read. Result:
// check --live names a missing one.
func TestReadyWantsEveryStream(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	b, err := Open(Config{DataDir: t.TempDir(), Listen: "none"}, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if err := b.EnsureTopology(ctx); err != nil {
		t.Fatal(err)
	}
	if err := b.Health(ctx); err != nil {
		t.Fatal(err)
	}
	for _, want := range b.streams() {
		if err := b.js.DeleteStream(ctx, want.Name); err != nil {
			t.Fatal(err)
		}
		if err := b.Health(ctx); err == nil || !strings.Contains(err.Error(), "stream "+want.Name+" does not exist") {
			t.Errorf("without %s: %v", want.Name, err)
		}
		if err := b.EnsureTopology(ctx); err != nil {
			t.Fatal(err)
		}
		if err := b.Health(ctx); err != nil {
			t.Errorf("with %s again: %v", want.Name, err)
		}
	}
}
