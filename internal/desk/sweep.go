package desk

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/broker"
)

// runsKept is how long runs that have ended are kept.
const runsKept = 90 * 24 * time.Hour

// sweep puts the bucket in order: runs that ended long ago leave, and starts that were
// cut short become runs that have ended.
func (d *Desk) sweep(ctx context.Context) {
	bucket, err := d.b.Desk(ctx)
	if err != nil {
		return
	}
	if err := d.sweepSets(ctx, bucket); err != nil && ctx.Err() == nil {
		d.log.Debug().Err(err).Msg("lists of letters without a replay run cannot be looked for now")
	}
	d.sweepRuns(ctx, bucket)
}

// sweepRuns removes runs that ended long ago, the list of their letters first.
func (d *Desk) sweepRuns(ctx context.Context, bucket *broker.DeskBucket) {
	d.mu.RLock()
	old := map[string]uint64{}
	for id, r := range d.runs.all {
		if !r.record.Ended.IsZero() && time.Since(r.record.Ended) > runsKept {
			old[id] = r.revision
		}
	}
	d.mu.RUnlock()
	for id, revision := range old {
		set, err := bucket.Get(ctx, setPrefix+id)
		if err == nil {
			err = bucket.Delete(ctx, set.Key, set.Revision)
		}
		if err == nil || errors.Is(err, broker.ErrNoDeskEntry) {
			err = bucket.Delete(ctx, runPrefix+id, revision)
		}
		if err != nil {
			d.log.Debug().Err(err).Str("run", id).Msg("a replay run that ended long ago could not be removed")
		}
	}
}

// sweepSets finds lists of letters that have had no run for a while: who was to start
// it has died. Such a run is created, as a cancelled one: whoever asked for it finds
// out what became of it, and the list leaves with it. Should its start be under way
// after all, however slow, one of the two creates the run, and the other one is refused.
func (d *Desk) sweepSets(ctx context.Context, bucket *broker.DeskBucket) error {
	sets, err := bucket.Heads(ctx, setPrefix)
	if err != nil {
		return err
	}
	for _, set := range sets {
		id := strings.TrimPrefix(set.Key, setPrefix)
		d.mu.RLock()
		known := d.runs.all[id] != nil
		d.mu.RUnlock()
		if known || time.Since(set.Time) < d.pace.orphan {
			continue
		}
		if err := d.cutShort(ctx, bucket, id, set.Time); err != nil && !errors.Is(err, broker.ErrDeskChanged) {
			return err
		}
	}
	return nil
}

// cutShort creates the run whose start was cut short.
func (d *Desk) cutShort(ctx context.Context, bucket *broker.DeskBucket, id string, started time.Time) error {
	numbers, _, err := readSet(ctx, bucket, id)
	if errors.Is(err, broker.ErrNoDeskEntry) {
		return nil
	}
	if err != nil {
		return err
	}
	record := runRecord{Run: Run{ID: id, State: RunCancelled, By: d.itself, Started: started.UTC(), Ended: time.Now().UTC(),
		Why:  "its start was cut short, and nothing was replayed: start another one",
		Spec: RunSpec{Frozen: Frozen{Count: len(numbers), Hash: hashNumbers(numbers), Numbers: first(numbers), Purpose: ForReplay, Named: true}},
	}}
	d.mu.RLock()
	asked, _ := d.history.list(HistoryQuery{Run: id, Action: broker.ActionStarted}, 0, 1)
	d.mu.RUnlock()
	if len(asked) == 1 {
		record.By, record.Spec.Reason = asked[0].Actor, asked[0].Reason
	}
	value, err := json.Marshal(record)
	if err != nil {
		return err
	}
	revision, err := bucket.Create(ctx, runPrefix+id, value)
	if err != nil {
		return err
	}
	d.applyRun(ctx, bucket, broker.DeskEntry{Key: runPrefix + id, Value: value, Revision: revision})
	return d.b.Append(ctx, broker.AuditRecord{Action: broker.ActionCancelled, Actor: d.itself, Reason: record.Why, Run: id})
}
