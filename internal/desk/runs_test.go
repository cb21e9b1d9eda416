package desk

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/verdict"
)

func (x *fixture) run(d *Desk, spec RunSpec) Run {
	x.t.Helper()
	spec.Reason = "the password is fixed"
	r, err := d.StartRun(x.t.Context(), me, spec)
	if err != nil {
		x.t.Fatal(err)
	}
	return r
}

func (x *fixture) reaches(d *Desk, id string, state RunState) Run {
	x.t.Helper()
	var r Run
	x.until("run "+string(state), func() bool {
		r, _ = d.RunOf(id)
		if r.State != state && !r.State.unfinished() {
			x.t.Fatalf("the run is %s (%s), want %s", r.State, r.Why, state)
		}
		return r.State == state
	})
	return r
}

func (x *fixture) onceEach(target string, n int) {
	x.t.Helper()
	for i := range n {
		if mails := x.courier.mails(target, fmt.Sprintf("e%d", i)); mails != 1 {
			x.t.Errorf("event e%d: %d mails", i, mails)
		}
	}
}

// A run with a canary delivers all letters, each once, and both desks know it.
func TestRunWithCanary(t *testing.T) {
	t.Parallel()
	x := start(t)
	d, _ := x.desk(nil)
	other, _ := x.desk(nil)
	const n = 60
	x.letters(d, "ops", 0, n)
	x.until("the other desk has them", func() bool { return other.Balance().Open == n })
	x.courier.succeed("ops")
	f := d.Freeze(Query{}, nil, false)
	if f.Count != n {
		t.Fatalf("%+v", f)
	}
	r := x.run(d, RunSpec{Frozen: f, Canary: true})
	if f := other.Freeze(Query{}, nil, false); f.Count+f.InRuns > n {
		t.Errorf("%+v", f)
	}
	r = x.reaches(d, r.ID, RunDone)
	if r.Published != n || r.Delivered != n || r.Gone+r.Failed+r.DeadAgain != 0 || r.Ended.IsZero() {
		t.Errorf("%+v", r)
	}
	x.onceEach("ops", n)
	x.until("the other desk knows", func() bool {
		r, err := other.RunOf(r.ID)
		return err == nil && r.State == RunDone && r.Delivered == n && other.Balance().Ended[Replayed] == n
	})
	x.until("it knows of each letter", func() bool {
		results, _, err := other.Results(t.Context(), r.ID, 0, maxPage)
		return err == nil && len(results) == n && !slices.ContainsFunc(results, func(r RunResult) bool { return r.Result != "delivered" })
	})
	results, next, err := other.Results(t.Context(), r.ID, 0, 50)
	if err != nil || len(results) != 50 || next != 50 {
		t.Fatalf("%d results, next %d, %v", len(results), next, err)
	}
	for _, result := range results {
		if result.Result != "delivered" || result.Target != "ops" || result.Event == "" || result.At.IsZero() {
			t.Errorf("%+v", result)
		}
	}
	if results, next, err = other.Results(t.Context(), r.ID, next, 50); err != nil || len(results) != 10 || next != 0 {
		t.Errorf("%d results, next %d, %v", len(results), next, err)
	}
	x.until("its end is recorded after its start", func() bool {
		h, _ := d.History(HistoryQuery{Run: r.ID}, 0, 500)
		// That a mail was sent is recorded when the ledger says so, maybe after the run's end.
		h = slices.DeleteFunc(h, func(r Record) bool { return r.Action == broker.ActionSent })
		return len(h) > n && h[0].Action == broker.ActionDone && h[len(h)-1].Action == broker.ActionStarted
	})
}

// If the cause is not fixed, the run stops with its first letter, and nothing is lost.
func TestRunStopsWhenTheSameComesBack(t *testing.T) {
	t.Parallel()
	x := start(t)
	d, _ := x.desk(nil)
	x.letters(d, "ops", 0, 30)
	r := x.run(d, RunSpec{Frozen: d.Freeze(Query{}, nil, false), Canary: true})
	r = x.reaches(d, r.ID, RunStopped)
	if r.Published != 1 || r.DeadAgain != 1 || !strings.Contains(r.Why, "same cause") || r.Ended.IsZero() {
		t.Errorf("%+v", r)
	}
	x.until("all are on the list", func() bool { b := d.Balance(); return b.Open == 30 && b.Total == 31 })
	results, _, err := d.Results(t.Context(), r.ID, 0, 2)
	if err != nil || results[0].Result != "dead again" || results[0].Letter != 31 || results[1].Result != "waiting" {
		t.Errorf("%+v, %v", results, err)
	}
	if f := d.Freeze(Query{}, nil, false); f.Count != 30 || f.InRuns != 0 {
		t.Errorf("%+v", f)
	}
	var conflict *Conflict
	if err := d.ResumeRun(t.Context(), me, r.ID, ""); !errors.As(err, &conflict) || conflict.Record.Action != broker.ActionStopped {
		t.Errorf("%v", err)
	}
}

// Another cause pauses a canary until an operator resumes it.
func TestCanaryPausesForAnotherCause(t *testing.T) {
	t.Parallel()
	x := start(t)
	d, _ := x.desk(nil)
	x.letters(d, "ops", 0, 5)
	x.courier.fail("ops", &verdict.Failure{Outcome: verdict.Outcome{Code: verdict.SMTPPermanent, Phase: verdict.PhaseRcpt, Reason: "no such user"}})
	r := x.run(d, RunSpec{Frozen: d.Freeze(Query{}, nil, false), Canary: true})
	r = x.reaches(d, r.ID, RunPaused)
	if r.Published != 1 || r.DeadAgain != 1 || !strings.Contains(r.Why, "another cause") {
		t.Errorf("%+v", r)
	}
	x.courier.succeed("ops")
	if err := d.ResumeRun(t.Context(), me, r.ID, ""); err != nil {
		t.Fatal(err)
	}
	r = x.reaches(d, r.ID, RunDone)
	if r.Published != 5 || r.Delivered != 4 || r.DeadAgain != 1 {
		t.Errorf("%+v", r)
	}
}

// A letter of a canary that dies again after the run's state was decided, and before the next
// letters are chosen, opens no further stage: the next decision pauses the run.
func TestCanaryPublishesByTheCountsItDecidedOn(t *testing.T) {
	t.Parallel()
	d, r := dry(), rand.New(rand.NewPCG(1, 2))
	for n := uint64(1); n <= 20; n++ {
		d.add(someLetter(n, r), nil)
	}
	one := &run{id: "r1", numbers: []uint64{1, 2, 3, 4, 5}}
	one.record.Spec.Canary = true
	one.tracker = d.track(one)
	d.runs.all["r1"] = one
	w := &worker{Desk: d, id: "r1", record: one.record, pacing: newPacing(verdict.Rate{}, nil, time.Now())}
	decide := func(want int) {
		t.Helper()
		if c, err := w.count(); err != nil || c.published != want {
			t.Fatalf("%+v, %v; want %d published", c, err, want)
		}
	}
	decide(0)
	numbers, _ := w.batch()
	if !slices.Equal(numbers, []uint64{1}) {
		t.Fatalf("published %v first", numbers)
	}
	d.publish(one.tracker, one.tracker.find(1), 1)
	decide(1)
	one.tracker.died(one.tracker.find(1), d.letters.find(20))
	if numbers, _ = w.batch(); len(numbers) != 0 {
		t.Errorf("published %v before the run could pause", numbers)
	}
	decide(1)
	if numbers, _ = w.batch(); len(numbers) != 4 { // if the run was resumed
		t.Errorf("published %v in the second stage", numbers)
	}
}

// A run keeps to its rate, and can be paused, resumed and cancelled from another
// process.
func TestSteerARun(t *testing.T) {
	t.Parallel()
	x := start(t)
	d, _ := x.desk(nil)
	other, _ := x.desk(nil)
	ctx := t.Context()
	x.letters(d, "ops", 0, 200)
	x.courier.succeed("ops")
	r := x.run(d, RunSpec{Frozen: d.Freeze(Query{}, nil, false), Rate: verdict.Rate{Count: 20, Per: time.Second}})
	x.until("some are published", func() bool { r, _ := other.RunOf(r.ID); return r.Published >= 10 })
	if err := other.PauseRun(ctx, me, r.ID, "lunch"); err != nil {
		t.Fatal(err)
	}
	x.reaches(d, r.ID, RunPaused)
	var still int
	x.until("it stands still", func() bool {
		r, _ := d.RunOf(r.ID)
		still = r.Published
		return r.Worker == "" // which its worker writes as its last act
	})
	if still > 60 {
		t.Errorf("%d letters were published before the run stood still", still)
	}
	var conflict *Conflict
	if err := d.PauseRun(ctx, me, r.ID, ""); !errors.As(err, &conflict) || conflict.Record.Reason != "lunch" {
		t.Errorf("paused twice: %v", err)
	}
	if err := other.ResumeRun(ctx, me, r.ID, ""); err != nil {
		t.Fatal(err)
	}
	x.until("it goes on", func() bool { r, _ := d.RunOf(r.ID); return r.Published > still })
	if err := other.CancelRun(ctx, me, r.ID, "enough"); err != nil {
		t.Fatal(err)
	}
	r = x.reaches(d, r.ID, RunCancelled)
	x.until("nothing is under way", func() bool { b := d.Balance(); return b.Open+b.Ended[Replayed] == 200 && b.Ended[Replayed] < 200 })
	if f := d.Freeze(Query{}, nil, false); f.InRuns != 0 || f.Count != d.Balance().Open {
		t.Errorf("%+v", f)
	}
	if err := d.CancelRun(ctx, me, "none", ""); !errors.Is(err, ErrNotFound) {
		t.Errorf("%v", err)
	}
}

// Exactly what was shown is acted on: letters that have left are counted as gone, and
// letters that were not shown are not touched.
func TestFrozen(t *testing.T) {
	t.Parallel()
	x := start(t)
	d, _ := x.desk(nil)
	stranger, _ := x.desk(nil)
	ctx := t.Context()
	x.letters(d, "ops", 0, 10)
	if n, err := d.Hold(ctx, me, d.Freeze(Query{}, []uint64{3}, false), "wait"); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	f := d.Freeze(Query{}, nil, false)
	if f.Count != 9 || f.Held != 1 || f.AsOf != 10 || len(f.Numbers) != 9 {
		t.Fatalf("%+v", f)
	}
	x.letters(d, "ops", 10, 5) // later than the page
	if n, err := d.Discard(ctx, me, d.Freeze(Query{}, []uint64{1, 2}, false), "not needed"); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	x.until("both know", func() bool { return stranger.Balance().Open == 13 })
	x.courier.succeed("ops")
	// A process that did not show the page cannot know that nothing was added.
	if _, err := stranger.StartRun(ctx, me, RunSpec{Frozen: f, Reason: "r"}); !errors.Is(err, ErrChanged) || !strings.Contains(err.Error(), "9 letters were shown, 7 match now") {
		t.Errorf("%v", err)
	}
	if _, err := d.StartRun(ctx, me, RunSpec{Frozen: f}); !errors.Is(err, ErrNoReason) {
		t.Errorf("%v", err)
	}
	r := x.run(d, RunSpec{Frozen: f})
	if r = x.reaches(d, r.ID, RunDone); r.Delivered != 7 || r.Gone != 2 {
		t.Errorf("%+v", r)
	}
	x.until("the held one and those that came later are left", func() bool { return d.Balance().Open == 6 })
	f = d.Freeze(Query{}, nil, false)
	if _, err := d.Release(ctx, me, d.FreezeFor(ForRelease, Query{}, nil, true), ""); err != nil {
		t.Fatal(err)
	}
	if _, err := d.StartRun(ctx, me, RunSpec{Frozen: f, Reason: "r"}); !errors.Is(err, ErrChanged) {
		t.Errorf("a letter was added: %v", err)
	}
}

// A run of letters given by number is about those and says so, and so is the run that
// replays what it has left.
func TestRunOfNamedLetters(t *testing.T) {
	t.Parallel()
	x := start(t)
	d, _ := x.desk(nil)
	ctx := t.Context()
	x.letters(d, "ops", 0, 5)
	if n, err := d.Hold(ctx, me, d.Freeze(Query{}, []uint64{5}, false), "wait"); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	shown := d.Freeze(Query{}, []uint64{2, 4, 5}, false)
	// A page sends back only what identifies the letters.
	asked := Frozen{AsOf: shown.AsOf, Count: shown.Count, Hash: shown.Hash, Only: shown.Only}
	r := x.run(d, RunSpec{Frozen: asked, Canary: true}) // the cause is not fixed
	r = x.reaches(d, r.ID, RunStopped)
	if f := r.Spec.Frozen; !f.Named || f.Only != nil || f.Count != 2 || f.Held != 1 || !slices.Equal(f.Numbers, []uint64{2, 4}) || f.Purpose != ForReplay || f.Hash != shown.Hash {
		t.Errorf("%+v", f)
	}
	var left []uint64
	results, _, err := d.Results(ctx, r.ID, 0, 0)
	for _, result := range results {
		if result.Result == "waiting" {
			left = append(left, result.Number)
		}
	}
	if err != nil || len(results) != 2 || results[0].Number != 2 || !slices.Equal(left, []uint64{4}) {
		t.Fatalf("%+v, %v", results, err)
	}
	x.courier.succeed("ops")
	r = x.run(d, RunSpec{Frozen: d.Freeze(Query{}, left, false)})
	if r = x.reaches(d, r.ID, RunDone); r.Delivered != 1 || !r.Spec.Frozen.Named || r.Spec.Frozen.Count != 1 {
		t.Errorf("%+v", r)
	}
	for event, want := range map[string]int{"e0": 0, "e1": 0, "e2": 0, "e3": 1, "e4": 0} {
		if got := x.courier.mails("ops", event); got != want {
			t.Errorf("%d mails for %s, want %d", got, event, want)
		}
	}
	if f := d.Freeze(Query{}, nil, false); f.Named {
		t.Errorf("%+v", f)
	}
}

// A letter whose mail may have been sent is replayed only with a confirmation.
func TestUncertain(t *testing.T) {
	t.Parallel()
	x := start(t)
	d, _ := x.desk(nil)
	ctx := t.Context()
	x.letters(d, "ops", 0, 1)
	x.courier.fail("may", &verdict.Failure{Outcome: verdict.Outcome{Code: verdict.SMTPPermanent, Phase: verdict.PhaseContent, Reason: "the connection was lost", Certainty: verdict.MaybeSent}})
	x.publish(event("e9", "may"))
	x.until("the letter", func() bool { return d.Balance().Open == 2 })
	f := d.Freeze(Query{}, nil, false)
	if f.Uncertain != 1 || f.Count != 2 {
		t.Errorf("%+v", f)
	}
	if _, err := d.StartRun(ctx, me, RunSpec{Frozen: f, Reason: "r"}); !errors.Is(err, ErrUncertain) {
		t.Errorf("%v", err)
	}
	if err := d.Replay(ctx, me, 2, false, false, "r"); !errors.Is(err, ErrUncertain) {
		t.Errorf("%v", err)
	}
	x.courier.succeed("ops")
	x.courier.succeed("may")
	r := x.run(d, RunSpec{Frozen: f, Uncertain: true})
	if r = x.reaches(d, r.ID, RunDone); r.Delivered != 2 {
		t.Errorf("%+v", r)
	}
}

// A run whose relay is unavailable pauses and says why; it continues when it is resumed.
func TestRunPausesWhenNothingArrives(t *testing.T) {
	t.Parallel()
	x := start(t)
	d, _ := x.desk(func(d *Desk) { d.pace.patience = time.Second })
	x.letters(d, "ops", 0, 3)
	x.courier.fail("ops", &verdict.Failure{Outcome: verdict.Outcome{Code: verdict.SMTPConnect, Phase: verdict.PhaseConnect, Reason: "away"}, Relay: true})
	r := x.run(d, RunSpec{Frozen: d.Freeze(Query{}, nil, false), Canary: true})
	x.until("it waits, and says how long", func() bool {
		r, _ := d.RunOf(r.ID)
		return r.State == RunWatching && strings.Contains(r.Why, "waiting since") || r.State == RunPaused
	})
	r = x.reaches(d, r.ID, RunPaused)
	if r.Published != 1 || !strings.Contains(r.Why, "is the relay unavailable") {
		t.Errorf("%+v", r)
	}
	x.courier.succeed("ops")
	if err := d.ResumeRun(t.Context(), me, r.ID, ""); err != nil {
		t.Fatal(err)
	}
	if r = x.reaches(d, r.ID, RunDone); r.Delivered != 3 {
		t.Errorf("%+v", r)
	}
}

// Another process takes over the run of a process that has ended.
//
// Fault: kill -9 during a replay of many dead letters. Result: the replay continues; each
// is sent once.
func TestRunIsTakenOver(t *testing.T) {
	t.Parallel()
	x := start(t)
	quickly := func(d *Desk) { d.pace.lease = time.Second }
	d, stop := x.desk(quickly)
	x.letters(d, "ops", 0, 60)
	x.courier.succeed("ops")
	r := x.run(d, RunSpec{Frozen: d.Freeze(Query{}, nil, false), Rate: verdict.Rate{Count: 30, Per: time.Second}})
	x.until("some are published", func() bool { r, _ := d.RunOf(r.ID); return r.Published >= 5 })
	stop()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	second, _ := x.desk(quickly)
	if err := second.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	r = x.reaches(second, r.ID, RunDone)
	if r.Published != 60 || r.Delivered != 60 {
		t.Errorf("%+v", r)
	}
	x.onceEach("ops", 60)
}

// A caller that repeats its request, because the answer got lost, does not start a second
// run.
func TestAskingForARunTwice(t *testing.T) {
	t.Parallel()
	x := start(t)
	d, _ := x.desk(nil)
	x.letters(d, "ops", 0, 20)
	x.courier.succeed("ops")
	spec := RunSpec{Frozen: d.Freeze(Query{}, nil, false), Rate: verdict.Rate{Count: 10, Per: time.Second}, Reason: "fixed"}
	r := x.run(d, spec)
	var conflict *Conflict
	if _, err := d.StartRun(t.Context(), me, spec); !errors.As(err, &conflict) || conflict.Record.Run != r.ID || conflict.Record.Name != "anna" || conflict.Record.Action != broker.ActionStarted {
		t.Errorf("while it runs: %v", err)
	}
	x.reaches(d, r.ID, RunDone)
	if _, err := d.StartRun(t.Context(), me, spec); !errors.Is(err, ErrNotFound) {
		t.Errorf("when it is done: %v", err)
	}
	if n := len(d.Runs(RunQuery{})); n != 1 {
		t.Errorf("%d runs", n)
	}
}
