package desk

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/verdict"
)

// stuckRun is a run of n letters whose first one stays under way: its relay is away.
func (x *fixture) stuckRun(d *Desk, n int) Run {
	x.t.Helper()
	x.letters(d, "ops", 0, n)
	away := &verdict.Failure{Outcome: verdict.Outcome{Code: verdict.SMTPConnect, Phase: verdict.PhaseConnect, Reason: "the relay is away"}, Relay: true, After: time.Hour}
	x.courier.fail("ops", away)
	r := x.run(d, RunSpec{Frozen: d.Freeze(Query{}, nil, false), Canary: true})
	x.until("the first letter is under way", func() bool { r, _ := d.RunOf(r.ID); return r.Published == 1 })
	return r
}

// Letters of an unfinished run belong to it: no other selection has them, whether by
// conditions or by number. When the run is cancelled they can be selected again.
func TestLettersOfARunAreNotFrozenAgain(t *testing.T) {
	t.Parallel()
	x := start(t)
	d, _ := x.desk(nil)
	const n = 5
	r := x.stuckRun(d, n)
	x.until("the published letter has left the list", func() bool { return d.Balance().Open == n-1 })
	numbers := []uint64{1, 2, 3, 4, 5}
	for purpose, want := range map[Purpose]int{ForReplay: n - 1, ForDiscard: n - 1, ForHold: n - 1} {
		for _, named := range [][]uint64{nil, numbers} {
			if f := d.FreezeFor(purpose, Query{}, named, false); f.Count != 0 || f.InRuns != want {
				t.Errorf("%s, numbers %v: %d letters chosen, %d in runs; want none and %d", purpose, named, f.Count, f.InRuns, want)
			}
		}
	}
	if err := d.CancelRun(t.Context(), me, r.ID, "enough"); err != nil {
		t.Fatal(err)
	}
	x.until("the rest is free", func() bool { return d.Freeze(Query{}, nil, false).Count == n-1 })
}

// A process whose run was taken over by another one, because its lease had ended, does
// nothing more for it as soon as it learns that, from its copy of the run or when it writes.
func TestAWorkerWithoutItsLeaseStops(t *testing.T) {
	t.Parallel()
	x := start(t)
	d, stop := x.desk(nil)
	r := x.stuckRun(d, 5)
	stop() // from here on this test is the worker
	bucket, err := x.b.Desk(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	takeOver := func(by string) {
		t.Helper()
		e, err := bucket.Get(t.Context(), runPrefix+r.ID)
		if err != nil {
			t.Fatal(err)
		}
		var record map[string]any
		if err := json.Unmarshal(e.Value, &record); err != nil {
			t.Fatal(err)
		}
		record["worker"] = by
		value, err := json.Marshal(record)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := bucket.Update(t.Context(), e.Key, value, e.Revision); err != nil {
			t.Fatal(err)
		}
	}
	acquire := func() *worker {
		t.Helper()
		e, err := bucket.Get(t.Context(), runPrefix+r.ID)
		if err != nil {
			t.Fatal(err)
		}
		d.applyRun(t.Context(), bucket, e)
		w := &worker{Desk: d, id: r.ID}
		if !w.acquire(t.Context()) {
			t.Fatal("the run could not be acquired")
		}
		if err := w.renew(t.Context()); err != nil {
			t.Fatalf("its worker: %v", err)
		}
		return w
	}
	w := acquire()
	takeOver("elsewhere/4711/X")
	if err := w.write(t.Context()); !errors.Is(err, errNotWorker) {
		t.Errorf("a write after the run was taken over: %v", err)
	}
	if e, err := bucket.Get(t.Context(), runPrefix+r.ID); err != nil || !holds(e, "elsewhere/4711/X") {
		t.Errorf("the entry of the new worker was overwritten: %s, %v", e.Value, err)
	}
	if err := w.renew(t.Context()); !errors.Is(err, errNotWorker) {
		t.Errorf("the next step: %v", err)
	}

	w = acquire()
	takeOver("elsewhere/4711/X")
	e, err := bucket.Get(t.Context(), runPrefix+r.ID)
	if err != nil {
		t.Fatal(err)
	}
	d.applyRun(t.Context(), bucket, e) // as when the bucket's change arrives
	if err := w.step(t.Context()); !errors.Is(err, errNotWorker) {
		t.Errorf("a step after the change arrived: %v", err)
	}
	if e, err := bucket.Get(t.Context(), runPrefix+r.ID); err != nil || !holds(e, "elsewhere/4711/X") {
		t.Errorf("the entry of the new worker was overwritten: %s, %v", e.Value, err)
	}
}

// holds reports whether a run's entry names this worker.
func holds(e broker.DeskEntry, worker string) bool {
	var record runRecord
	return json.Unmarshal(e.Value, &record) == nil && record.Worker == worker
}
