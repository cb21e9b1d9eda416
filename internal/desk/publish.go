package desk

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/certpost/certpost/internal/broker"
)

// limit returns how many letters the run may have published in all by now: those with a
// result, and at most window under way; in a canary at most its stage.
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

// batch returns the letters to publish next, at most actsAtOnce, and when to look again
// if there are none.
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
	room := min(actsAtOnce, w.mayPublish-t.published(), allowed)
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

// publishAll replays some letters concurrently, and records the result of each.
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

// errUnreplayable is the refusal of a letter that can never be replayed.
type errUnreplayable string

func (e errUnreplayable) Error() string { return string(e) }

// mayBePublished reports whether an attempt with this result may have published the
// letter.
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
		return fmt.Errorf("dead letter %d is newer than the run and belongs to a recreated stream: %w", number, broker.ErrNoLetter)
	}
	if why := letter.Unreplayable(); why != "" {
		return errUnreplayable(why)
	}
	spec := w.record.Spec
	how := broker.Replay{Uncertain: spec.Uncertain, Force: spec.Force, Reason: spec.Reason, Run: w.id}
	w.redirect(letter, &how)
	return w.b.Replay(ctx, letter, w.record.By, how)
}

// isNewer reports whether a letter is newer than the run's set. After the stream was
// recreated, a new letter can have the number of one in the set, although no operator has
// chosen it. Both times are the server's.
func (w *worker) isNewer(letter broker.DeadLetter) bool {
	w.mu.RLock()
	defer w.mu.RUnlock()
	r := w.runs.all[w.id]
	return r == nil || letter.Time.After(r.chosen.Add(time.Second))
}

// noteResult records the result of an attempt. The lock is held.
func (w *worker) noteResult(t *tracker, m *member, err error, now time.Time) {
	if err == nil && m != nil {
		w.letters.gone(m.number) // this process has removed it
	}
	if m != nil && mayBePublished(err) {
		m.tried, m.unclear = now.UnixNano(), false
	}
	if m == nil || m.result != isWaiting {
		return // the audit record was read first
	}
	var taken *broker.Taken
	var held *broker.Held
	var unfit errUnreplayable
	switch {
	case err == nil:
		w.failingSince = time.Time{}
		w.publish(t, m, now.UnixNano())
	case errors.As(err, &taken) && taken.Record.Stage == broker.StageIntent:
		m.again = now.Add(2 * time.Second) // another action on it is in progress
	case errors.As(err, &taken) && taken.Record.Run == w.id:
		w.publish(t, m, nanoseconds(taken.Record.Time)) // by this run, before the process was killed
	case errors.As(err, &taken):
		t.set(m, isGone)
		m.at, m.note = nanoseconds(taken.Record.Time), fmt.Sprintf("%s by %s", taken.Record.Action, taken.Record.Name)
	case errors.Is(err, broker.ErrNoLetter):
		// The audit record of how it ended will arrive soon.
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
		// It fails for good after maxTries while others succeed. A success resets
		// failingSince, so if that is now, this is the first failure since a success.
		if m.tries++; m.tries >= maxTries && w.failingSince.Equal(now) {
			t.set(m, isFailed)
			m.at = now.UnixNano()
		}
	}
}

// lastError returns why letters could not be published.
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
	return "NATS is unavailable"
}

// eventsSettled counts events that never were a delivery as delivered once they had the
// time to come back as letters: to which targets they went is not known here. The lock is
// held.
func (t *tracker) eventsSettled(now time.Time) {
	if t.underWay() == 0 {
		return
	}
	for i := range t.members {
		if m := &t.members[i]; m.result == isPublished && m.target == "" && now.UnixNano()-m.at > int64(settleTime) {
			t.arrived(m)
			m.note = "the event was read and passed on to its targets"
		}
	}
}
