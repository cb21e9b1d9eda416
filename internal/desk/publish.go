package desk

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/certpost/certpost/internal/broker"
)

// limit is how many letters may be published by now.
func (w *worker) limit(published, underWay int) int {
	underWay = max(0, underWay-w.record.Unawaited)
	all := published - underWay + window
	if !w.record.Spec.Canary || published > canary[len(canary)-1] {
		return all
	}
	for _, stage := range canary {
		if published < stage || published == stage && underWay > 0 {
			return stage
		}
	}
	return all
}

// batch is the letters to be published next, at most as many as go together, and when
// to look again if there are none.
func (w *worker) batch() (numbers []uint64, again time.Time) {
	now := time.Now()
	w.mu.RLock()
	defer w.mu.RUnlock()
	r := w.runs.all[w.id]
	if r == nil || r.tracker == nil {
		return nil, now.Add(workInterval)
	}
	t := r.tracker
	allowed, again := w.pacing.room(now)
	room := min(actsAtOnce, w.limit(t.published(), t.underWay())-t.published(), allowed)
	for looked := 0; len(numbers) < room && looked < len(t.members) && t.left() > 0; looked++ {
		if w.next >= len(t.members) {
			w.next = 0
		}
		m := &t.members[w.next]
		w.next++
		if m.result == isWaiting && !now.Before(m.again) {
			numbers = append(numbers, m.number)
		}
	}
	if allowed > 0 {
		again = now.Add(workInterval)
	}
	return numbers, again
}

// publishAll replays some letters side by side and notes what came of each.
func (w *worker) publishAll(ctx context.Context, numbers []uint64) {
	errs := make([]error, len(numbers))
	var wg sync.WaitGroup
	for i, n := range numbers {
		wg.Go(func() { errs[i] = w.replay(ctx, n) })
	}
	wg.Wait()
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	r := w.runs.all[w.id]
	if r == nil || r.tracker == nil {
		return
	}
	tried := 0
	for i, n := range numbers {
		if mayBePublished(errs[i]) {
			tried++
		}
		w.noteResult(r.tracker, r.tracker.find(n), errs[i], now)
	}
	w.pacing.spend(tried, now)
}

// errUnreplayable is the refusal of a letter that no replay can help.
type errUnreplayable string

func (e errUnreplayable) Error() string { return string(e) }

// mayBePublished reports whether a try with this result may have published the letter.
func mayBePublished(err error) bool {
	var taken *broker.Taken
	var held *broker.Held
	var unfit errUnreplayable
	return !errors.As(err, &taken) && !errors.As(err, &held) && !errors.As(err, &unfit) &&
		!errors.Is(err, broker.ErrNoLetter) && !errors.Is(err, broker.ErrUncertain)
}

func (w *worker) replay(ctx context.Context, number uint64) error {
	letter, err := w.b.DeadLetter(ctx, number)
	if err != nil {
		return err
	}
	if w.isNewer(letter) {
		return fmt.Errorf("dead letter %d came after the run was started, in a stream made anew: %w", number, broker.ErrNoLetter)
	}
	if why := letter.Unreplayable(); why != "" {
		return errUnreplayable(why)
	}
	spec := w.record.Spec
	return w.b.Replay(ctx, letter, w.record.By, broker.Replay{Uncertain: spec.Uncertain, Force: spec.Force, Reason: spec.Reason, Run: w.id})
}

// isNewer reports a letter that came after the run's were chosen: when the stream was
// made anew, it has the number of one of them, and nobody has seen it. Both moments are
// the server's.
func (w *worker) isNewer(letter broker.DeadLetter) bool {
	w.mu.RLock()
	defer w.mu.RUnlock()
	r := w.runs.all[w.id]
	return r == nil || letter.Time.After(r.chosen.Add(time.Second))
}

// noteResult puts down what came of a try. The lock is held.
func (w *worker) noteResult(t *tracker, m *member, err error, now time.Time) {
	if err == nil && m != nil {
		w.letters.gone(m.number) // it is, by our own hand
	}
	if m != nil && mayBePublished(err) {
		m.tried, m.unclear = now.UnixNano(), false
	}
	if m == nil || m.result != isWaiting {
		return // the audit was faster
	}
	var taken *broker.Taken
	var held *broker.Held
	var unfit errUnreplayable
	switch {
	case err == nil:
		w.failingSince = time.Time{}
		w.publish(t, m, now.UnixNano())
	case errors.As(err, &taken) && taken.Record.Stage == broker.StageIntent:
		m.again = now.Add(2 * time.Second) // somebody is acting on it
	case errors.As(err, &taken) && taken.Record.Run == w.id:
		w.publish(t, m, nanoseconds(taken.Record.Time)) // by this run, before the process was killed
	case errors.As(err, &taken):
		t.set(m, isGone)
		m.at, m.note = nanoseconds(taken.Record.Time), fmt.Sprintf("%s by %s", taken.Record.Action, taken.Record.Name)
	case errors.Is(err, broker.ErrNoLetter):
		// The audit says in a moment what became of it.
		if m.tries++; m.tries >= maxTries {
			t.set(m, isGone)
		}
		m.again = now.Add(w.pace.look)
	case errors.As(err, &held), errors.Is(err, broker.ErrUncertain), errors.As(err, &unfit):
		t.set(m, isFailed)
		m.at, m.note = now.UnixNano(), err.Error()
	default:
		if w.failingSince.IsZero() {
			w.failingSince = now
		}
		m.note, m.again = err.Error(), now.Add(time.Second)
		// Given up when it fails again and again while others do not: a success ends
		// the trouble, so this letter has just begun it anew.
		if m.tries++; m.tries >= maxTries && w.failingSince.Equal(now) {
			t.set(m, isFailed)
			m.at = now.UnixNano()
		}
	}
}

// lastError is why letters could not be published.
func (w *worker) lastError() string {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if r := w.runs.all[w.id]; r != nil && r.tracker != nil {
		for i := range r.tracker.members {
			if m := &r.tracker.members[i]; m.result == isWaiting && m.note != "" {
				return m.note
			}
		}
	}
	return "NATS is away"
}

// eventsSettled takes events that never were a delivery for arrived once they had the
// time to come back as letters: to whom they went is not known here. The lock is held.
func (t *tracker) eventsSettled(now time.Time) {
	if t.underWay() == 0 {
		return
	}
	for i := range t.members {
		if m := &t.members[i]; m.result == isPublished && m.target == "" && now.UnixNano()-m.at > int64(settleTime) {
			t.arrived(m)
			m.note = "the event was read and has gone to its targets"
		}
	}
}
