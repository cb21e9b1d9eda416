package desk

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/verdict"
)

// A letter is shown, replayed, delivered and counted.
func TestReplayOne(t *testing.T) {
	t.Parallel()
	x := start(t)
	d, _ := x.desk(nil)
	ctx := t.Context()
	x.letters(d, "ops", 0, 2)
	list := d.Letters(Query{}, Page{})
	if list.Total != 2 || len(list.Letters) != 2 || list.Letters[0].Sequence != 2 || list.Letters[0].Certificate == nil ||
		list.Letters[0].Certificate.CommonName != "www.example.com" {
		t.Fatalf("%+v", list)
	}
	detail, err := d.Letter(ctx, 1)
	if err != nil || detail.Status != Open || len(detail.Event) == 0 || detail.Delivery == nil || detail.Delivery.State != broker.StateDead ||
		detail.Cause == "" || detail.Remedy == "" || detail.Expires.Before(time.Now()) || detail.Siblings != 1 || detail.NotReplayable != "" {
		t.Fatalf("%+v, %v", detail, err)
	}
	x.courier.succeed("ops")
	if err := d.Replay(ctx, me, 1, false, false, "password fixed"); err != nil {
		t.Fatal(err)
	}
	if l := d.Letters(Query{}, Page{}); l.Total != 1 {
		t.Errorf("right after the replay %d letters are shown", l.Total)
	}
	x.until("the mail", func() bool { return x.courier.mails("ops", "e0") == 1 })
	var conflict *Conflict
	if err := d.Replay(ctx, me, 1, false, false, ""); !errors.As(err, &conflict) || conflict.Record.Name != "anna" || conflict.Record.Action != broker.ActionReplayed {
		t.Errorf("the second replay: %v", err)
	}
	if err := d.Replay(ctx, me, 99, false, false, ""); !errors.Is(err, ErrNotFound) {
		t.Errorf("a letter that never was: %v", err)
	}
	detail, err = d.Letter(ctx, 1)
	if err != nil || detail.Status != Replayed || detail.End == nil || detail.End.Name != "anna" || detail.Event != nil || detail.DeadLetter.Event != "e0" || len(detail.History) < 2 {
		t.Errorf("%+v, %v", detail, err)
	}
	if b := d.Balance(); b.Total != 2 || b.Open != 1 || b.Ended[Replayed] != 1 || b.Unexplained != 0 {
		t.Errorf("%+v", b)
	}
	x.until("the ledger's index", func() bool {
		l, err := d.Deliveries(ctx, DeliveryQuery{State: broker.StateSent, Name: "*.example.com"}, 0, 0)
		return err == nil && l.Total == 1 && len(l.Entries) == 1 && l.Entries[0].Event == "e0"
	})
	o, err := d.Overview(ctx)
	if err != nil || o.LastSuccess.IsZero() || o.Sent24h[23]+o.Sent24h[22] != 1 || o.Dead24h[23]+o.Dead24h[22] != 2 || len(o.Groups) != 1 || len(o.Lanes) != 1 {
		t.Errorf("%+v, %v", o, err)
	}
	if targets := d.Targets(); targets[0].Open != 1 || targets[0].Sent != 1 || targets[0].LastDead.IsZero() || targets[0].LastSent.IsZero() {
		t.Errorf("%+v", targets)
	}
	if f, err := d.Preflight(ctx, 2, false); err != nil || len(f.Findings) != 1 || f.Findings[0].Message != "true" || !f.OK {
		t.Errorf("%+v, %v", f, err)
	}
}

func TestDiscardRestoreHoldRelease(t *testing.T) {
	t.Parallel()
	x := start(t)
	d, _ := x.desk(nil)
	other, _ := x.desk(nil)
	ctx := t.Context()
	x.letters(d, "ops", 0, 3)
	one := func(n uint64) Frozen { return d.Freeze(Query{}, []uint64{n}, true) }
	if _, err := d.Discard(ctx, me, one(1), " "); !errors.Is(err, ErrNoReason) {
		t.Errorf("without a reason: %v", err)
	}
	if n, err := d.Hold(ctx, me, one(1), "asking the customer"); n != 1 || err != nil {
		t.Fatalf("hold: %d, %v", n, err)
	}
	if f := d.Freeze(Query{}, nil, false); f.Count != 2 || f.Held != 1 {
		t.Errorf("%+v", f)
	}
	yes := true
	x.until("the other desk hears of it", func() bool {
		return other.Balance().Open == 3 && other.Letters(Query{Held: &yes}, Page{}).Total == 1
	})
	if err := other.Replay(ctx, me, 1, false, false, ""); !errors.Is(err, ErrHeld) {
		t.Errorf("replay of what is held: %v", err)
	}
	if n, err := other.Release(ctx, me, other.Freeze(Query{}, []uint64{1}, true), ""); n != 1 || err != nil {
		t.Fatalf("release: %d, %v", n, err)
	}
	x.until("the hold is over", func() bool { return d.Letters(Query{Held: &yes}, Page{}).Total == 0 })
	frozen := d.FreezeFor(ForDiscard, Query{}, nil, true)
	if n, err := d.Discard(ctx, me, frozen, "test"); n != 3 || err != nil {
		t.Fatalf("discard: %d, %v", n, err)
	}
	if _, err := other.Discard(ctx, me, frozen, "test"); err == nil {
		t.Error("discarded twice")
	}
	n, err := d.Restore(ctx, me, 2, "was needed")
	if err != nil || n != 4 {
		t.Fatalf("restore: %d, %v", n, err)
	}
	var conflict *Conflict
	if _, err := d.Restore(ctx, me, 2, ""); !errors.As(err, &conflict) {
		t.Errorf("restored twice: %v", err)
	}
	for _, desk := range []*Desk{d, other} {
		x.until("both agree", func() bool {
			b := desk.Balance()
			return b.Total == 4 && b.Open == 1 && b.Ended[Discarded] == 3 && b.Restored == 1
		})
	}
	detail, err := d.Letter(ctx, 3)
	if err != nil || detail.Status != Discarded || detail.End.Reason != "test" || len(detail.Event) == 0 {
		t.Errorf("%+v, %v", detail, err)
	}
	if h, next := d.History(HistoryQuery{Action: broker.ActionDiscarded, By: "anna"}, 0, 2); len(h) < 2 || next == 0 || h[0].Sequence < h[1].Sequence {
		t.Errorf("%+v, %d", h, next)
	}
}

// What is done directly in NATS is noticed, and recorded in the audit.
//
// Fault: letters changed outside Certpost, with the NATS CLI. Result: noticed and recorded,
// as an action of an unknown NATS client.
func TestPastCertpost(t *testing.T) {
	t.Parallel()
	x := start(t)
	d, stop := x.desk(nil)
	ctx := t.Context()
	x.letters(d, "ops", 0, 4)
	s, err := x.js.Stream(ctx, broker.DeadLettersStream)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteMsg(ctx, 2); err != nil {
		t.Fatal(err)
	}
	x.until("the removal is recorded", func() bool { return d.Balance().Ended[Removed] == 1 })
	detail, err := d.Letter(ctx, 2)
	if err != nil || detail.Status != Removed || detail.End == nil || detail.End.Via != broker.ViaNATS || detail.End.Name != "unknown NATS client" || detail.DeadLetter.Event != "e1" {
		t.Errorf("%+v, end %+v, %v", detail.DeadLetter, detail.End, err)
	}
	// A replay with the NATS CLI, as in docs/replay.md: the lane takes the letter off the list.
	x.courier.succeed("ops")
	letter, err := x.b.DeadLetter(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := x.js.Publish(ctx, letter.ReplaySubject, letter.Body); err != nil {
		t.Fatal(err)
	}
	x.until("it is delivered", func() bool { return d.Balance().Ended[Replayed] == 1 })
	if h, _ := d.History(HistoryQuery{Letter: 1}, 0, 0); len(h) != 1 || h[0].Action != broker.ActionDelivered {
		t.Errorf("%+v", h)
	}
	// A replay that fails again with another cause replaces the letter.
	x.courier.fail("ops", &verdict.Failure{Outcome: verdict.Outcome{Code: verdict.SMTPPermanent, Phase: verdict.PhaseRcpt, Reason: "no"}})
	if letter, err = x.b.DeadLetter(ctx, 3); err != nil {
		t.Fatal(err)
	}
	if _, err := x.js.Publish(ctx, letter.ReplaySubject, letter.Body); err != nil {
		t.Fatal(err)
	}
	x.until("it is replaced", func() bool { return d.Balance().Ended[Replaced] == 1 && d.Balance().Open == 2 })
	if err := s.Purge(ctx, jetstream.WithPurgeSubject("certpost.dead.SMTP_PERMANENT.>")); err != nil {
		t.Fatal(err)
	}
	x.until("the purge is recorded", func() bool { return d.Balance().Ended[Removed] == 2 })
	if h, _ := d.History(HistoryQuery{Action: broker.ActionRemoved}, 0, 1); len(h) != 1 || h[0].Name != "unknown NATS client" {
		t.Errorf("%+v", h)
	}
	want := d.Balance()
	stop()
	again, _ := x.desk(nil)
	got := again.Balance()
	if got.Total != want.Total || got.Open != want.Open || got.Ended[Removed] != want.Ended[Removed] || got.Ended[Replayed] != want.Ended[Replayed] || got.Ended[Replaced] != want.Ended[Replaced] {
		t.Errorf("a new desk says %+v, the old one %+v", got, want)
	}
}

// A newer certificate that reached the target supersedes a letter, whichever comes first:
// the delivery or the letter.
//
// Fault: meanwhile a newer certificate for the same name. Result: the dead letter says so.
func TestSuperseded(t *testing.T) {
	t.Parallel()
	x := start(t)
	d, _ := x.desk(nil)
	ctx := t.Context()
	now := time.Now()
	old, newer := event("old", "ops"), event("newer", "ops")
	old.Certificate.PEM = certificate("shop.example.com", now.Add(-48*time.Hour))
	newer.Certificate.PEM = certificate("shop.example.com", now.Add(-2*time.Hour))
	x.courier.fail("ops", refusal())
	x.publish(old)
	x.until("the letter", func() bool { return d.Balance().Open == 1 })
	x.courier.succeed("ops")
	x.publish(newer)
	superseded := func(n uint64) *Superseded {
		for _, l := range d.Letters(Query{}, Page{}).Letters {
			if l.Sequence == n {
				return l.Superseded
			}
		}
		return nil
	}
	x.until("it is superseded", func() bool { return superseded(1) != nil && superseded(1).Event == "newer" })
	if f := d.Freeze(Query{}, nil, false); f.Count != 0 || f.Superseded != 1 {
		t.Errorf("%+v", f)
	}
	if f := d.Freeze(Query{}, nil, true); f.Count != 1 {
		t.Errorf("%+v", f)
	}
	older := event("older", "ops", "web")
	older.Certificate.PEM = certificate("shop.example.com", now.Add(-72*time.Hour))
	x.courier.fail("ops", refusal())
	x.courier.fail("web", refusal())
	x.publish(older)
	x.until("two more letters", func() bool { return d.Balance().Open == 3 })
	for _, l := range d.Letters(Query{Event: "older"}, Page{}).Letters {
		x.until("it names the newer certificate", func() bool {
			s := superseded(l.Sequence)
			return l.Target == "web" || s != nil && s.Event == "newer" && s.Serial != ""
		})
		if l.Target == "web" && superseded(l.Sequence) != nil {
			t.Error("a letter to another target is superseded")
		}
	}
	yes := true
	if g := d.Groups(Query{Superseded: &yes}); len(g) != 1 || g[0].Count != 2 || g[0].Superseded != 2 || !g[0].SoonestExpiry.IsZero() {
		t.Errorf("%+v", g)
	}
	_ = ctx
}

// A recreated stream is read from the beginning.
func TestStreamsMadeAnew(t *testing.T) {
	t.Parallel()
	x := start(t)
	d, _ := x.desk(nil)
	ctx := context.Background()
	x.letters(d, "ops", 0, 5)
	info, err := x.js.Stream(ctx, broker.DeadLettersStream)
	if err != nil {
		t.Fatal(err)
	}
	config := info.CachedInfo().Config
	if err := x.js.DeleteStream(ctx, broker.DeadLettersStream); err != nil {
		t.Fatal(err)
	}
	if _, err := x.js.CreateStream(ctx, config); err != nil {
		t.Fatal(err)
	}
	x.until("the index is empty", func() bool { return d.Balance().Total == 0 && d.Letters(Query{}, Page{}).Total == 0 })
	for i := range 7 {
		x.publish(event("n"+string(rune('0'+i)), "ops"))
	}
	x.until("the new letters", func() bool { b := d.Balance(); return b.Open == 7 && b.Total == 7 })
	if b := d.Balance(); b.Unexplained != 0 || len(d.Groups(Query{})) != 1 {
		t.Errorf("%+v", b)
	}
}

// A letter is shown although its entry in the ledger cannot be read.
func TestLetterWithAnUnreadableEntry(t *testing.T) {
	t.Parallel()
	x := start(t)
	d, _ := x.desk(nil)
	x.letters(d, "ops", 0, 1)
	if detail, err := d.Letter(t.Context(), 1); err != nil || detail.Delivery == nil {
		t.Fatalf("%+v, %v", detail.Delivery, err)
	}
	if _, err := x.js.Publish(t.Context(), "$KV."+broker.LedgerBucket+".ops.e0", []byte("not ours")); err != nil {
		t.Fatal(err)
	}
	if detail, err := d.Letter(t.Context(), 1); err != nil || detail.Delivery != nil || detail.DeadLetter.Event != "e0" {
		t.Errorf("%+v, %v", detail, err)
	}
}
