package desk

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/broker"
)

// runsKept is how long ended runs are kept.
const runsKept = 90 * 24 * time.Hour

// sweep cleans the bucket up: it removes runs that ended long ago, and turns interrupted
// starts into cancelled runs.
func (d *Desk) sweep(ctx context.Context) {
	bucket, err := d.b.Desk(ctx)
	if err != nil {
		return
	}
	if err := d.sweepSets(ctx, bucket); err != nil && ctx.Err() == nil {
		d.log.Debug().Err(err).Msg("looking for interrupted starts of replay runs failed; retrying later")
	}
	d.sweepRuns(ctx, bucket)
	d.sweepHandlings(ctx, bucket)
}

// sweepRuns removes runs that ended long ago, the set of their letters first.
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
			d.log.Debug().Err(err).Str("run", id).Msg("removing a replay run that ended long ago failed; retrying later")
		}
	}
}

// sweepSets finds sets that have had no run for a while: the process that was starting it
// has died. It creates the run as a cancelled one, so that the operator who started it
// sees what happened; the set is removed with the run later. If the start is still in
// progress after all, only one of the two processes can create the run, and the other is
// refused.
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
		if err := d.cancelStart(ctx, bucket, id, set.Time); err != nil && !errors.Is(err, broker.ErrDeskChanged) {
			return err
		}
	}
	return nil
}

// cancelStart creates the run of an interrupted start, as a cancelled one.
func (d *Desk) cancelStart(ctx context.Context, bucket *broker.DeskBucket, id string, started time.Time) error {
	numbers, _, err := readSet(ctx, bucket, id)
	if errors.Is(err, broker.ErrNoDeskEntry) {
		return nil
	}
	if err != nil {
		return err
	}
	record := runRecord{Run: Run{ID: id, State: RunCancelled, By: d.itself, Started: started.UTC(), Ended: time.Now().UTC(),
		Why:  "its start was interrupted, and nothing was replayed: start another one",
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
