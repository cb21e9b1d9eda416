package desk

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/events"
)

// maxSet bounds the list of a run's letters in the bucket, in bytes: one or two for
// each letter.
const maxSet = 512 << 10

// startTimeout bounds the start of a run. The start does not end with the caller's
// context, so a closed browser leaves no half-started run.
const startTimeout = time.Minute

// StartRun starts a replay of many letters, exactly those that were shown (see resolve).
// The error is ErrChanged if other letters match now, ErrUncertain if some may have been
// sent and spec.Uncertain is not set, ErrNoReason, ErrNotFound if no letter is left, or a
// *Conflict if all that are left are in another run.
func (d *Desk) StartRun(ctx context.Context, by broker.Actor, spec RunSpec) (Run, error) {
	var err error
	if spec.Reason, err = broker.CheckReason(spec.Reason, true); err != nil {
		return Run{}, err
	}
	frozen, set, err := d.resolve(spec.Frozen, ForReplay)
	if err != nil {
		return Run{}, err
	}
	if len(set) == 0 {
		return Run{}, refused{errors.New("none of the letters can be replayed"), ErrNotFound}
	}
	if err := d.checkFree(ctx, set); err != nil {
		return Run{}, err
	}
	if n := d.uncertain(set); n > 0 && !spec.Uncertain {
		return Run{}, fmt.Errorf("%d of %d letters: %w", n, len(set), ErrUncertain)
	}
	encoded := encodeNumbers(set)
	if len(encoded) > maxSet {
		return Run{}, fmt.Errorf("%d dead letters are too many for one run: replay them group by group", len(set))
	}
	bucket, err := d.b.Desk(ctx)
	if err != nil {
		return Run{}, err
	}
	// The run stores the counts found now, not those that the caller sent. The numbers are
	// only in the set, because the run's own entry is rewritten all the time.
	frozen.Only = nil
	spec.Frozen = frozen
	record := runRecord{Run: Run{ID: events.NewID(), Spec: spec, State: RunRunning, By: by, Started: time.Now().UTC()}}
	value, err := json.Marshal(record)
	if err != nil {
		return Run{}, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), startTimeout)
	defer cancel()
	// If the process dies between these writes, a set without a run remains: see
	// sweepSets.
	stored, err := bucket.Create(ctx, setPrefix+record.ID, encoded)
	if err != nil {
		return Run{}, err
	}
	if err := d.b.Append(ctx, broker.AuditRecord{Action: broker.ActionStarted, Actor: by, Reason: spec.Reason, Run: record.ID, Many: manyOf(frozen.Query, frozen.Named, set)}); err != nil {
		return Run{}, errors.Join(err, bucket.Delete(ctx, setPrefix+record.ID, stored))
	}
	revision, err := bucket.Create(ctx, runPrefix+record.ID, value)
	if errors.Is(err, broker.ErrDeskChanged) {
		return Run{}, fmt.Errorf("replay run %s was cancelled because its start took too long; nothing was replayed: start it again", record.ID)
	}
	if err != nil {
		return Run{}, err
	}
	d.applyRun(ctx, bucket, broker.DeskEntry{Key: runPrefix + record.ID, Value: value, Revision: revision})
	d.poke()
	d.CatchUp(ctx)
	return d.RunOf(record.ID)
}

// checkFree returns the reason why no letter of a set can be replayed, nil if at least one
// can. A caller that repeats its request because the answer was lost gets the run that it
// has started.
func (d *Desk) checkFree(ctx context.Context, set []uint64) error {
	var taken *run
	var record runRecord
	d.mu.RLock()
	for _, number := range set {
		l := d.letters.find(number)
		if l != nil && l.run == nil {
			d.mu.RUnlock()
			return nil
		}
		if l != nil {
			taken, record = l.run, l.run.record
		}
	}
	d.mu.RUnlock()
	if taken == nil {
		return refused{errors.New("none of the letters is on the list any more"), ErrNotFound}
	}
	return d.runConflict(ctx, taken.id, &record)
}

// uncertain counts the letters of a set that may have been sent.
func (d *Desk) uncertain(set []uint64) (n int) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	for _, number := range set {
		if l := d.letters.find(number); l != nil && l.uncertain() {
			n++
		}
	}
	return n
}

// Runs returns the replay runs that match a query, newest first.
func (d *Desk) Runs(q RunQuery) []Run {
	d.mu.RLock()
	defer d.mu.RUnlock()
	out := make([]Run, 0, len(d.runs.all))
	tests := RunConditions.tests(&q)
	for _, r := range d.runs.all {
		if run := r.view(); passes(tests, &run) {
			out = append(out, run)
		}
	}
	slices.SortFunc(out, func(a, b Run) int { return strings.Compare(b.ID, a.ID) }) // ids begin with the time
	return out
}

// view returns the exported form, with the current counts, whichever process works on the
// run.
func (r *run) view() Run {
	out := r.record.Run
	if t := r.tracking(); t != nil {
		t.count(&out)
	}
	return out
}

// count sets the counts of a run.
func (t *tracker) count(r *Run) {
	r.Published, r.Delivered, r.DeadAgain = t.published(), t.counts[isDelivered], t.counts[isDeadAgain]
	r.Gone, r.Failed = t.counts[isGone], t.counts[isFailed]
}

// RunOf returns one run; ErrNotFound if there is none.
func (d *Desk) RunOf(id string) (Run, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	r := d.runs.all[id]
	if r == nil {
		return Run{}, noRun(id)
	}
	return r.view(), nil
}

// Results returns the results of a run's letters whose number is above after, sorted by
// number; next is the after of the following page, 0 if there is none.
func (d *Desk) Results(ctx context.Context, id string, after uint64, size int) (page []RunResult, next uint64, err error) {
	d.mu.RLock()
	r := d.runs.all[id]
	known := r != nil && r.tracking() != nil
	d.mu.RUnlock()
	if r == nil {
		return nil, 0, noRun(id)
	}
	var numbers []uint64
	if !known {
		bucket, err := d.b.Desk(ctx)
		if err != nil {
			return nil, 0, err
		}
		if numbers, _, err = readSet(ctx, bucket, id); err != nil {
			return nil, 0, err
		}
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	t := r.tracking()
	if t == nil { // it has ended: its results are computed again
		t = d.track(&run{id: id, record: r.record, numbers: numbers})
	}
	size = pageSize(size)
	from, _ := slices.BinarySearchFunc(t.members, after+1, func(m member, n uint64) int {
		if m.number < n {
			return -1
		}
		return 1
	})
	for _, m := range t.members[from:] {
		if len(page) == size {
			return page, page[size-1].Number, nil
		}
		page = append(page, m.outcome())
	}
	return page, 0, nil
}

// PauseRun pauses a run: at once, except for letters under way.
func (d *Desk) PauseRun(ctx context.Context, by broker.Actor, id, reason string) error {
	return d.changeState(ctx, by, id, reason, broker.ActionPaused, func(r *runRecord) bool {
		if r.State != RunRunning && r.State != RunWatching {
			return false
		}
		r.State, r.Why = RunPaused, whyText("paused", by, reason)
		return true
	})
}

// ResumeRun continues a paused run, also when letters of it had died again of another
// cause, or those under way get no result.
func (d *Desk) ResumeRun(ctx context.Context, by broker.Actor, id, reason string) error {
	return d.changeState(ctx, by, id, reason, broker.ActionContinued, func(r *runRecord) bool {
		if r.State != RunPaused {
			return false
		}
		r.State, r.Why, r.Forgiven = RunRunning, "", r.DeadAgain
		r.Unawaited, r.Stalled = max(r.Unawaited, r.Stalled), 0
		return true
	})
}

// CancelRun ends a run. Letters that it has not replayed stay on the list.
func (d *Desk) CancelRun(ctx context.Context, by broker.Actor, id, reason string) error {
	return d.changeState(ctx, by, id, reason, broker.ActionCancelled, func(r *runRecord) bool {
		if !r.State.unfinished() {
			return false
		}
		r.State, r.Why, r.Ended = RunCancelled, whyText("cancelled", by, reason), time.Now().UTC()
		return true
	})
}

func noRun(id string) error {
	return refused{fmt.Errorf("there is no replay run %q", id), ErrNotFound}
}

func whyText(what string, by broker.Actor, reason string) string {
	text := what + " by " + by.Name
	if reason != "" {
		text += ": " + reason
	}
	return text
}

// changeState changes a run's state, whichever process works on it. When the present
// state does not allow the change, the error is a *Conflict with the record of the
// earlier change.
func (d *Desk) changeState(ctx context.Context, by broker.Actor, id, reason string, action broker.Action, change func(*runRecord) bool) error {
	reason, err := broker.CheckReason(reason, false)
	if err != nil {
		return err
	}
	bucket, err := d.b.Desk(ctx)
	if err != nil {
		return err
	}
	for {
		e, err := bucket.Get(ctx, runPrefix+id)
		if errors.Is(err, broker.ErrNoDeskEntry) {
			return noRun(id)
		}
		if err != nil {
			return err
		}
		var record runRecord
		if err := json.Unmarshal(e.Value, &record); err != nil {
			return fmt.Errorf("replay run %s cannot be read: %w", id, err)
		}
		d.recount(id, &record.Run)
		if !change(&record) {
			return d.runConflict(ctx, id, &record)
		}
		if e.Value, err = json.Marshal(record); err != nil {
			return err
		}
		if e.Revision, err = bucket.Update(ctx, e.Key, e.Value, e.Revision); errors.Is(err, broker.ErrDeskChanged) {
			continue // its worker writes it every second
		}
		if err != nil {
			return err
		}
		d.applyRun(ctx, bucket, e)
		d.poke()
		err = d.b.Append(ctx, broker.AuditRecord{Action: action, Actor: by, Reason: reason, Run: id})
		d.CatchUp(ctx)
		return err
	}
}

// recount sets the counts of a run to the current ones.
func (d *Desk) recount(id string, r *Run) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if known := d.runs.all[id]; known != nil && known.tracking() != nil {
		known.tracking().count(r)
	}
}

// runConflict returns the conflict with the record of the last change of a run.
func (d *Desk) runConflict(ctx context.Context, id string, record *runRecord) error {
	d.CatchUp(ctx) // the record of a moment ago says who did it
	by := map[RunState]broker.Action{RunPaused: broker.ActionPaused, RunStopped: broker.ActionStopped, RunCancelled: broker.ActionCancelled, RunDone: broker.ActionDone}
	first := broker.AuditRecord{Action: cmp.Or(by[record.State], broker.ActionStarted), Run: id}
	d.mu.RLock()
	page, _ := d.history.list(HistoryQuery{Run: id, Action: first.Action}, 0, 1)
	d.mu.RUnlock()
	if len(page) == 1 {
		return &Conflict{0, page[0]}
	}
	first.Actor, first.Time, first.Reason = record.By, record.Started, record.Why // its record is not read yet
	return &Conflict{0, first}
}
