package desk

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/verdict"
)

// A run that has ended with letters under way counts what becomes of them: at every process, also
// at one that starts later, and in what is stored.
func TestEndedRunCountsWhatWasUnderWay(t *testing.T) {
	t.Parallel()
	x := start(t)
	d, _ := x.desk(func(d *Desk) { d.pace.patience = 100 * time.Millisecond })
	x.letters(d, "away", 0, 3)
	x.courier.fail("away", &verdict.Failure{Outcome: verdict.Outcome{Code: verdict.SMTPTransient, Phase: verdict.PhaseRcpt, Reason: "later"}})
	r := x.run(d, RunSpec{Frozen: d.Freeze(Query{}, nil, false)})
	if r = x.reaches(d, r.ID, RunDone); r.Published != 3 || r.UnderWay() != 3 {
		t.Fatalf("%+v", r)
	}
	if f := d.Freeze(Query{}, nil, false); f.InRuns != 0 {
		t.Errorf("the letters of the ended run are still in it: %+v", f)
	}
	later, stop := x.desk(nil)
	x.courier.succeed("away")
	for name, d := range map[string]*Desk{"that worked on it": d, "that started later": later} {
		x.until("the results at the process "+name, func() bool { r, _ := d.RunOf(r.ID); return r.Delivered == 3 && r.UnderWay() == 0 })
	}
	bucket, err := d.b.Desk(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	x.until("the stored counts", func() bool {
		e, err := bucket.Get(t.Context(), runPrefix+r.ID)
		var stored Run
		return err == nil && json.Unmarshal(e.Value, &stored) == nil && stored.Delivered == 3 && stored.State == RunDone
	})
	x.until("neither process tracks it any more", func() bool { return !tracked(d, r.ID) && !tracked(later, r.ID) })
	stop()
	after, _ := x.desk(nil)
	if r, err := after.RunOf(r.ID); err != nil || r.Delivered != 3 || tracked(after, r.ID) {
		t.Errorf("after a restart: %+v, %v", r, err)
	}
}

// A run that stops because a letter has come back also counts those that were published with it.
func TestStoppedRunCountsWhatWasUnderWay(t *testing.T) {
	t.Parallel()
	x := start(t)
	d, _ := x.desk(nil)
	x.letters(d, "ops", 0, 1)
	x.letters(d, "away", 10, 3)
	x.courier.fail("away", &verdict.Failure{Outcome: verdict.Outcome{Code: verdict.SMTPTransient, Phase: verdict.PhaseRcpt, Reason: "later"}})
	r := x.run(d, RunSpec{Frozen: d.Freeze(Query{}, nil, false)})
	if r = x.reaches(d, r.ID, RunStopped); r.DeadAgain != 1 || r.Delivered != 0 {
		t.Fatalf("%+v", r)
	}
	x.courier.succeed("away")
	x.until("the results of the others", func() bool { r, _ := d.RunOf(r.ID); return r.Delivered == 3 && r.DeadAgain == 1 && r.UnderWay() == 0 })
}

func tracked(d *Desk, id string) bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.runs.all[id].tracking() != nil
}
