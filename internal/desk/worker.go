package desk

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/certpost/certpost/internal/backoff"
	"github.com/certpost/certpost/internal/broker"
)

// Intervals and limits of the work on a run.
const (
	workInterval = 100 * time.Millisecond // between steps of a run
	window       = 1000                   // letters under way at a time
	maxTries     = 5                      // for one letter, while others can be published
	settleTime   = 15 * time.Second       // after which an event that has not become a letter again counts as delivered
)

// canary are the stages of a canary run: how many letters may be published in all before
// each of those has a result. The rest follows after the last stage.
var canary = [...]int{1, 11}

// poke wakes workOnRuns.
func (d *Desk) poke() {
	select {
	case d.pokes <- struct{}{}:
	default:
	}
}

// workOnRuns takes over runs that no process works on, and works on them until the
// context ends.
func (d *Desk) workOnRuns(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	mine := map[string]chan struct{}{}
	tick := time.NewTicker(workInterval)
	defer tick.Stop()
	var swept, settled time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-d.pokes:
		}
		if !d.isReady() {
			continue
		}
		for id, done := range mine {
			select {
			case <-done:
				delete(mine, id)
			default:
			}
		}
		for _, id := range d.abandoned() {
			if mine[id] != nil {
				continue
			}
			w := &worker{Desk: d, id: id}
			if !w.acquire(ctx) {
				continue
			}
			done := make(chan struct{})
			mine[id] = done
			wg.Go(func() { defer close(done); w.work(ctx) })
		}
		if time.Since(settled) > settleInterval {
			settled = time.Now()
			d.settleLate(ctx)
		}
		if time.Since(swept) > d.pace.orphan {
			swept = time.Now()
			d.sweep(ctx)
		}
	}
}

func (d *Desk) isReady() bool {
	select {
	case <-d.ready:
		return true
	default:
		return false
	}
}

// abandoned returns the runs to be worked on that no other process works on: they have no
// worker, their worker is this process, or their entry has not changed for the length of
// a lease. Only this process's clock counts, from when it last saw the entry change.
func (d *Desk) abandoned() (ids []string) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	for id, r := range d.runs.all {
		atWork := r.record.State == RunRunning || r.record.State == RunWatching
		if atWork && r.tracker != nil && (r.record.Worker == "" || r.record.Worker == d.worker || time.Since(r.changed) > d.pace.lease) {
			ids = append(ids, id)
		}
	}
	return ids
}

// worker is the work of this process on one run.
type worker struct {
	*Desk
	id           string
	bucket       *broker.DeskBucket
	record       runRecord // as last written or read
	revision     uint64
	written      time.Time
	next         int       // index of the member to look at next
	since        time.Time // when a letter last got a result, or none was under way
	settled      int       // letters with a result
	mayPublish   int       // letters in all, by the counts on which the last decision was made
	failingSince time.Time // since when no letter could be published; zero: not failing
	pacing       *pacing   // nil until earlier publications are known
}

// acquire makes this process the run's worker, unless another process is faster.
func (w *worker) acquire(ctx context.Context) bool {
	var err error
	if w.bucket, err = w.b.Desk(ctx); err != nil {
		return false
	}
	w.mu.RLock()
	r := w.runs.all[w.id]
	if r != nil {
		w.record, w.revision = r.record, r.revision
	}
	w.mu.RUnlock()
	if r == nil {
		return false
	}
	w.record.Worker = w.worker
	return w.write(ctx) == nil
}

// errNotWorker says that another process works on the run by now, or none.
var errNotWorker = errors.New("this process no longer works on the run")

// work replays the run's letters until none is left, the run is paused or has ended, or
// another process works on it.
func (w *worker) work(ctx context.Context) {
	w.since = time.Now()
	for ctx.Err() == nil {
		if err := w.step(ctx); err != nil {
			if !errors.Is(err, errNotWorker) && ctx.Err() == nil {
				w.log.Warn().Err(err).Str("run", w.id).Msg("a replay run cannot continue now; retrying")
				backoff.Sleep(ctx, time.Second)
				continue
			}
			return
		}
	}
}

// step does what can be done at once; if there is nothing to publish, it waits a moment.
func (w *worker) step(ctx context.Context) error {
	if err := w.renew(ctx); err != nil {
		return err
	}
	if w.pacing == nil {
		if err := w.preparePacing(ctx); err != nil {
			return err
		}
	}
	if end, err := w.updateState(ctx); end || err != nil {
		return err
	}
	batch, again := w.batch()
	if len(batch) > 0 {
		w.publishAll(ctx, batch)
		return nil
	}
	backoff.Sleep(ctx, min(workInterval, max(0, time.Until(again))))
	return nil
}

// preparePacing computes from the audit how much of the rate earlier workers have used.
// It is an error while the index has not read all that they recorded: what is done, and
// when.
func (w *worker) preparePacing(ctx context.Context) error {
	_, audit, _, err := w.b.StreamStates(ctx)
	if err != nil {
		return err
	}
	w.CatchUp(ctx)
	w.mu.RLock()
	defer w.mu.RUnlock()
	r := w.runs.all[w.id]
	if r == nil || r.tracker == nil {
		return errNotWorker
	}
	if audit.Messages > 0 && w.history.next <= audit.Last {
		return fmt.Errorf("the audit is read only up to record %d of %d", w.history.next-1, audit.Last)
	}
	now := time.Now()
	w.pacing = newPacing(w.record.Spec.Rate, r.tracker.spent(now), now)
	return nil
}

// renew writes the counts and extends the lease, and applies what other processes changed
// in the run.
func (w *worker) renew(ctx context.Context) error {
	w.mu.RLock()
	r := w.runs.all[w.id]
	var known runRecord
	var revision uint64
	if r != nil {
		known, revision = r.record, r.revision
	}
	w.mu.RUnlock()
	if r == nil {
		return errNotWorker
	}
	if revision > w.revision {
		w.record, w.revision = known, revision
	}
	if w.record.Worker != w.worker {
		return errNotWorker
	}
	before := w.record.Run
	w.recount(w.id, &w.record.Run)
	still := w.record.State == RunPaused || !w.record.State.unfinished()
	changed := before.Published != w.record.Published || before.Delivered != w.record.Delivered || before.DeadAgain != w.record.DeadAgain ||
		before.Gone != w.record.Gone || before.Failed != w.record.Failed
	if still || changed && time.Since(w.written) >= time.Second || time.Since(w.written) >= w.pace.lease/3 {
		if still {
			w.record.Worker = "" // any process may take it over when it is resumed
		}
		if err := w.write(ctx); err != nil {
			return err
		}
	}
	if still {
		return errNotWorker
	}
	return nil
}

// write stores the run's entry. If another process has written it meanwhile, that version
// is kept.
func (w *worker) write(ctx context.Context) error {
	value, err := json.Marshal(w.record)
	if err != nil {
		return err
	}
	revision, err := w.bucket.Update(ctx, runPrefix+w.id, value, w.revision)
	if errors.Is(err, broker.ErrDeskChanged) {
		e, gerr := w.bucket.Get(ctx, runPrefix+w.id)
		if gerr != nil {
			return gerr
		}
		w.applyRun(ctx, w.bucket, e)
		if e.Revision == w.revision {
			return err // the entry came from a replica that lags
		}
		var theirs runRecord
		if err := json.Unmarshal(e.Value, &theirs); err != nil || theirs.Worker != w.worker {
			return errNotWorker
		}
		w.record, w.revision = theirs, e.Revision
		return nil // the next step uses that version
	}
	if err != nil {
		return err
	}
	w.revision, w.written = revision, time.Now()
	w.applyRun(ctx, w.bucket, broker.DeskEntry{Key: runPrefix + w.id, Value: value, Revision: revision})
	return nil
}

// counts are how far a run is, at one moment.
type counts struct {
	left, underWay, published, deadAgain int
	back                                 string // which letter came back with the same cause; "" if none has
}

// count takes the run's counts, and sets how many letters may be published by them. What is
// published next keeps to that number until the next decision: a letter that dies again between
// decision and publication must not open the next stage of a canary before the run has paused.
func (w *worker) count() (counts, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := w.runs.all[w.id]
	if r == nil || r.tracker == nil {
		return counts{}, errNotWorker
	}
	t := r.tracker
	t.eventsSettled(time.Now())
	c := counts{left: t.left(), underWay: t.underWay(), published: t.published(), deadAgain: t.counts[isDeadAgain]}
	if t.sameCause != nil {
		c.back = fmt.Sprintf("dead letter %d came back as dead letter %d, with the same cause (%s)", t.sameCause.number, t.sameCause.newLetter, t.sameCause.note)
	}
	w.mayPublish = w.limit(c.published, c.underWay)
	return c, nil
}

// updateState ends, stops or pauses the run when that is due, and otherwise sets whether
// it is running or waiting. end: the work is finished.
func (w *worker) updateState(ctx context.Context) (end bool, err error) {
	now, err := w.count()
	if err != nil {
		return true, err
	}
	left, underWay, published, deadAgain := now.left, now.underWay, now.published, now.deadAgain
	if settled := published - underWay; settled != w.settled || underWay == 0 {
		w.settled, w.since = settled, time.Now()
	}
	waited := time.Since(w.since)
	state, why, action := RunRunning, "", broker.Action("")
	switch limit := w.mayPublish; {
	case now.back != "":
		state, why, action = RunStopped, now.back, broker.ActionStopped
	case left == 0 && underWay == 0:
		state, action = RunDone, broker.ActionDone
	case left == 0 && waited > w.pace.patience:
		state, action = RunDone, broker.ActionDone
		why = fmt.Sprintf("%d letters are published and still under way", underWay)
	case w.record.Spec.Canary && published <= canary[1] && deadAgain > w.record.Forgiven:
		state, action = RunPaused, broker.ActionPaused
		why = fmt.Sprintf("%d of the first %d letters became dead letters again, with another cause: review them, then resume or cancel", deadAgain, published)
	case left > 0 && published >= limit && waited > w.pace.patience:
		state, action = RunPaused, broker.ActionPaused
		w.record.Stalled = underWay
		why = fmt.Sprintf("none of the %d letters under way has had a result for %s: is the relay unavailable, or its lane suspended? Resume to continue without them", underWay, waited.Round(time.Second))
	case !w.failingSince.IsZero() && time.Since(w.failingSince) > w.pace.trouble:
		state, action = RunPaused, broker.ActionPaused
		why = fmt.Sprintf("no letter could be published for %s: %s", time.Since(w.failingSince).Round(time.Second), w.lastError())
	case left == 0 || published >= limit:
		state = RunWatching
		why = fmt.Sprintf("waiting since %s for %d letters under way", w.since.UTC().Format("15:04:05 UTC"), underWay)
	}
	if state == w.record.State && why == w.record.Why {
		return false, nil
	}
	w.record.State, w.record.Why = state, why
	if !state.unfinished() {
		w.record.Ended = time.Now().UTC()
	}
	if state == RunPaused {
		w.failingSince = time.Time{}
	}
	if state != RunRunning && state != RunWatching {
		w.record.Worker = ""
	}
	w.recount(w.id, &w.record.Run)
	if err := w.write(ctx); err != nil {
		return false, err
	}
	if action == "" || w.record.State != state {
		return false, nil
	}
	w.log.Info().Str("run", w.id).Str("state", string(state)).Str("why", why).Int("published", w.record.Published).Msg("replay run changed state")
	return true, errors.Join(w.b.Append(ctx, broker.AuditRecord{Action: action, Actor: w.itself, Reason: why, Run: w.id}), errNotWorker)
}
