package desk

import (
	"context"
	"encoding/json"
	"time"

	"github.com/certpost/certpost/internal/broker"
)

// settleInterval is how often runs that ended with letters under way are looked at.
const settleInterval = time.Second

// tracking returns the run's tracker, also after its end; nil if it is not tracked. The lock is
// held.
func (r *run) tracking() *tracker {
	if r.tracker != nil {
		return r.tracker
	}
	return r.late
}

// trackLate follows the letters of an ended run that were under way when it ended: it was stopped
// or cancelled, or did not wait for them any longer. Without it, the run would say for ever that
// they are under way. It does nothing until the index has read what became of them so far. The
// lock is held.
func (d *Desk) trackLate(r *run) {
	if r.late == nil && d.read && r.numbers != nil && r.record.UnderWay() > 0 {
		r.late = d.track(r)
	}
	if r.late == nil || !r.late.complete() {
		return
	}
	if counted := r.view(); r.record.Run.sameCounts(&counted) {
		r.late, r.numbers = nil, nil
	}
}

// complete reports whether nothing is to be expected any more of the letters of an ended run.
func (t *tracker) complete() bool {
	for i := range t.members {
		if t.members[i].unclear {
			return false
		}
	}
	return t.underWay() == 0
}

// sameCounts reports whether two versions of a run have the same counts.
func (r *Run) sameCounts(other *Run) bool {
	return r.Published == other.Published && r.Delivered == other.Delivered && r.DeadAgain == other.DeadAgain && r.Gone == other.Gone && r.Failed == other.Failed
}

// settleLate stores the final counts of the ended runs whose letters all have results by now.
func (d *Desk) settleLate(ctx context.Context) {
	var final []string
	d.mu.Lock()
	for id, r := range d.runs.all {
		if r.late == nil {
			continue
		}
		r.late.eventsSettled(time.Now())
		if d.trackLate(r); r.late != nil && r.late.complete() {
			final = append(final, id)
		}
	}
	d.mu.Unlock()
	for _, id := range final {
		if err := d.storeCounts(ctx, id); err != nil && ctx.Err() == nil {
			d.log.Debug().Err(err).Str("run", id).Msg("storing the final counts of a replay run failed; retrying")
		}
	}
}

// storeCounts writes the present counts of an ended run. If another process has written them
// first, its version arrives by the watch.
func (d *Desk) storeCounts(ctx context.Context, id string) error {
	bucket, err := d.b.Desk(ctx)
	if err != nil {
		return err
	}
	e, err := bucket.Get(ctx, runPrefix+id)
	if err != nil {
		return err
	}
	var record runRecord
	if err := json.Unmarshal(e.Value, &record); err != nil || record.State.unfinished() {
		return err
	}
	d.recount(id, &record.Run)
	if e.Value, err = json.Marshal(record); err != nil {
		return err
	}
	if e.Revision, err = bucket.Update(ctx, e.Key, e.Value, e.Revision); err != nil {
		return err
	}
	d.applyRun(ctx, bucket, broker.DeskEntry{Key: e.Key, Value: e.Value, Revision: e.Revision})
	return nil
}
