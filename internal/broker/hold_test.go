package broker

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
)

func TestHolds(t *testing.T) {
	t.Parallel()
	b, d := brokerWithLetter(t)
	ctx := context.Background()
	if err := b.Release(ctx, 1, operator, ""); !errors.Is(err, ErrNotHeld) {
		t.Errorf("released: %v", err)
	}
	alice := Actor{Name: "alice", Via: ViaPage}
	if h, err := b.Hold(ctx, d, alice, "asking the relay's admin"); err != nil || h.By != "alice" {
		t.Fatalf("%+v, %v", h, err)
	}
	var held *Held
	if _, err := b.Hold(ctx, d, operator, "me too"); !errors.As(err, &held) || held.Hold.By != "alice" {
		t.Errorf("held twice: %v", err)
	}
	if err := b.Replay(ctx, d, operator, Replay{}); !errors.As(err, &held) || !strings.Contains(err.Error(), "asking the relay's admin") {
		t.Errorf("replayed: %v", err)
	}
	if err := b.Discard(ctx, d, operator, "x"); !errors.As(err, &held) {
		t.Errorf("discarded: %v", err)
	}
	if all, err := b.holds(ctx); err != nil || len(all) != 1 || all[0].Letter != 1 || all[0].Event != d.Event {
		t.Errorf("%+v, %v", all, err)
	}
	if err := b.Release(ctx, 1, alice, "fixed"); err != nil {
		t.Fatal(err)
	}
	if all, err := b.holds(ctx); err != nil || len(all) != 0 {
		t.Errorf("%+v, %v", all, err)
	}
	if err := b.Replay(ctx, d, operator, Replay{}); err != nil {
		t.Error(err)
	}
	if recorded := history(t, b, 1); !slices.Equal(recorded, []string{"held", "released", "intent replayed", "outcome replayed"}) {
		t.Errorf("history %q", recorded)
	}
}

// A hold that cannot be recorded is not in force.
//
// Fault: the audit accepts no records. Result: a hold that cannot be recorded is not in
// force.
func TestAHoldAndItsRecord(t *testing.T) {
	t.Parallel()
	b, d := brokerWithLetter(t)
	ctx := t.Context()
	if err := b.Append(ctx, testRecord(9)); err != nil {
		t.Fatal(err)
	}
	whole := auditStream(t, b).CachedInfo().Config
	full := whole
	full.MaxMsgs = 1
	if _, err := b.js.UpdateStream(ctx, full); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Hold(ctx, d, operator, "x"); err == nil {
		t.Error("held without a record")
	}
	if all, err := b.holds(ctx); err != nil || len(all) != 0 {
		t.Errorf("in force: %+v, %v", all, err)
	}
	if _, err := b.js.UpdateStream(ctx, whole); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Hold(ctx, d, operator, "x"); err != nil {
		t.Fatal(err)
	}
	if recorded := history(t, b, 1); !slices.Equal(recorded, []string{"held"}) {
		t.Errorf("history %q", recorded)
	}
}

func TestDeskBucket(t *testing.T) {
	t.Parallel()
	b, ctx := newTestBroker(t), context.Background()
	desk, err := b.Desk(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := desk.Get(ctx, "run.r1"); !errors.Is(err, ErrNoDeskEntry) {
		t.Errorf("get: %v", err)
	}
	revision, err := desk.Create(ctx, "run.r1", []byte("a"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := desk.Create(ctx, "run.r1", []byte("b")); !errors.Is(err, ErrDeskChanged) {
		t.Errorf("created twice: %v", err)
	}
	watching, stop := context.WithCancel(ctx)
	seen, known, done := make(chan DeskEntry, 10), make(chan struct{}), make(chan error, 1)
	go func() {
		done <- desk.Watch(watching, "run.", func(e DeskEntry) { seen <- e }, func() { close(known) })
	}()
	<-known
	if e := <-seen; string(e.Value) != "a" || e.Revision != revision || e.Key != "run.r1" {
		t.Errorf("watched %+v", e)
	}
	next, err := desk.Update(ctx, "run.r1", []byte("c"), revision)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := desk.Update(ctx, "run.r1", []byte("d"), revision); !errors.Is(err, ErrDeskChanged) {
		t.Errorf("updated what was changed: %v", err)
	}
	if err := desk.Delete(ctx, "run.r1", revision); !errors.Is(err, ErrDeskChanged) {
		t.Errorf("deleted what was changed: %v", err)
	}
	if e := <-seen; string(e.Value) != "c" || e.Revision != next {
		t.Errorf("watched %+v", e)
	}
	if all, err := desk.list(ctx, "run."); err != nil || len(all) != 1 || string(all[0].Value) != "c" {
		t.Errorf("list %+v, %v", all, err)
	}
	if err := desk.Delete(ctx, "run.r1", next); err != nil {
		t.Fatal(err)
	}
	if e := <-seen; !e.Deleted || e.Key != "run.r1" {
		t.Errorf("watched %+v", e)
	}
	if all, err := desk.list(ctx, "run."); err != nil || len(all) != 0 {
		t.Errorf("list %+v, %v", all, err)
	}
	stop()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("watch ended with %v", err)
	}
	if err := b.js.DeleteStream(ctx, "KV_"+DeskBucketName); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Fatal(err)
	}
	if _, err := b.Desk(ctx); err == nil || !strings.Contains(err.Error(), "certpost run") {
		t.Errorf("without a bucket: %v", err)
	}
}

// holds returns all holds, including those of letters that are gone but not yet released.
func (b *Broker) holds(ctx context.Context) (all []Hold, err error) {
	desk, err := b.Desk(ctx)
	if err != nil {
		return nil, err
	}
	entries, err := desk.list(ctx, holdPrefix)
	for _, e := range entries {
		if h, ok := ParseHold(e); ok {
			all = append(all, h)
		}
	}
	return all, err
}
