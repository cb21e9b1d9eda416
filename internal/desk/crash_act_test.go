//go:build unix

package desk

import (
	"context"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/broker"
)

// A process is killed after it has recorded that a letter was discarded, and another replayed, and
// before it has removed them from the stream. The next process counts and lists neither, from its
// first answer on, also one that does not remove them.
//
// Fault: kill -9 between the record of an action on a dead letter and the letter's removal. Result:
// lists and numbers say what the record says at once; the next process removes the letter.
func TestEndsCountBeforeTheirRemoval(t *testing.T) {
	t.Parallel()
	relay := newFakeRelay(t)
	plan := crashPlan{Dir: t.TempDir(), Relay: relay.address, Letters: 3, Acting: true}
	if runChild(t, plan, time.Minute) != nil {
		t.Fatal("it was not killed")
	}
	b, err := broker.Open(broker.Config{DataDir: plan.Dir, Listen: "none", SyncInterval: "2m"}, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	x := &fixture{t: t, b: b} // without a runner: the replay stays unsent
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	reader := New(x.b, fakeDeliverer{}, zerolog.Nop()) // removes nothing
	reader.pace.look = 50 * time.Millisecond
	go func() { _ = reader.Follow(ctx) }()
	if err := reader.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	tellTheTruth := func(d *Desk) {
		t.Helper()
		if b := d.Balance(); b.Total != 3 || b.Open != 1 || b.Ended[Discarded] != 1 || b.Ended[Replayed] != 1 || b.Unexplained != 0 {
			t.Errorf("%+v", b)
		}
		if list := d.Letters(Query{}, Page{}); list.Total != 1 || list.Letters[0].Sequence != 3 || list.Beyond != 0 {
			t.Errorf("%+v", list)
		}
		if list := d.Letters(Query{State: Discarded}, Page{}); list.Total != 1 || list.Letters[0].Sequence != 1 {
			t.Errorf("%+v", list)
		}
		if groups := d.Groups(Query{}); len(groups) != 1 || groups[0].Count != 1 {
			t.Errorf("%+v", groups)
		}
		if f := d.Freeze(Query{}, nil, true); f.Count != 1 {
			t.Errorf("%+v", f)
		}
		if o, err := d.Overview(ctx); err != nil || o.Backlog.Dead != 1 || o.Balance.Open != 1 {
			t.Errorf("%+v, %v", o.Backlog, err)
		}
		if all := d.Targets(); all[0].Open != 1 {
			t.Errorf("%+v", all)
		}
		for n, want := range map[uint64]Status{1: Discarded, 2: Replayed, 3: Open} {
			if l, err := d.Letter(ctx, n); err != nil || l.Status != want || (l.NotReplayable == "") != (want == Open) {
				t.Errorf("letter %d: %s, %q, %v", n, l.Status, l.NotReplayable, err)
			}
		}
	}
	for n := range uint64(2) {
		if _, err := x.b.DeadLetter(ctx, n+1); err != nil {
			t.Fatalf("letter %d: %v", n+1, err)
		}
	}
	tellTheTruth(reader)
	d, _ := x.desk(func(d *Desk) { d.pace.look = time.Hour }) // one look is enough
	tellTheTruth(d)
	if there, err := x.b.OpenLetters(ctx); err != nil || there.Messages != 1 || !there.Has(3) {
		t.Errorf("%+v, %v", there, err)
	}
	first, err := d.Letter(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	entries, err := x.b.Deliveries(ctx, "ops", first.DeadLetter.Event)
	if err != nil || len(entries) != 1 || entries[0].State != broker.StateDiscarded {
		t.Errorf("%+v, %v", entries, err)
	}
	reader.CatchUp(ctx)
	tellTheTruth(reader)
}

// An end that was concluded from a letter's absence does not hide a letter that the stream has after
// all; an action's end does.
func TestOnlyActionsEndWhatTheStreamHas(t *testing.T) {
	t.Parallel()
	d, r := filled(5), rand.New(rand.NewPCG(5, 6))
	outcomes := []byte{0, outcomeReplayed, outcomeDiscarded, outcomeExpired, outcomeReplaced, outcomeRemoved}
	for n, outcome := range outcomes[1:] {
		d.letters.ended(uint64(n+1), outcome)
	}
	d.letters.ended(6, outcomeDiscarded) // its record is read before the letter
	d.add(someLetter(6, r), someLeaf(6, r))
	var open []uint64
	for l := range d.Each(Query{Order: Oldest}) {
		open = append(open, l.Sequence)
	}
	if want := []uint64{3, 4, 5}; !slices.Equal(open, want) {
		t.Errorf("%v, want %v", open, want)
	}
	if b := d.Balance(); b.Open != 3 || b.Total != 6 || b.Ended[Discarded] != 2 || b.Ended[Replayed] != 1 || d.letters.outcomes.stored != 6 || d.letters.beyond() != 0 {
		t.Errorf("%+v of %d", b, d.letters.outcomes.stored)
	}
}
