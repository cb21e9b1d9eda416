package desk

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/certpost/certpost/internal/backoff"
	"github.com/certpost/certpost/internal/broker"
)

// The prefixes of keys in the bucket CERTPOST_DESK, besides the broker's holds.
const (
	runPrefix = "run."
	setPrefix = "set."
)

// runs is what the bucket contains: the holds, and the replay runs. Desk.mu guards it.
type runs struct {
	holds map[uint64]broker.Hold
	all   map[string]*run
	// handlings are what operators wrote about groups, by fingerprint.
	handlings map[string]Handling
}

// run is a replay run as this process knows it.
type run struct {
	id       string
	record   runRecord
	revision uint64
	changed  time.Time // when this process saw the revision, by its own clock
	numbers  []uint64  // of its letters, sorted; nil until they are read
	chosen   time.Time // when the numbers were stored, by the server's clock
	tracker  *tracker  // while it is unfinished
	late     *tracker  // once it has ended, until the letters that were under way then have results; nil: all have
}

// runRecord is the value of run.<id>.
type runRecord struct {
	Run
	// Forgiven is how many letters had died again of another cause when the run was
	// resumed: a canary pauses only for more.
	Forgiven int `json:"forgiven,omitempty"`
	// Stalled is how many letters were under way when the run paused because none of them
	// got a result. When the run is resumed, they become Unawaited: it waits for that many
	// fewer. Their relay may be unavailable, or their lane suspended, while others work.
	Stalled   int `json:"stalled,omitempty"`
	Unawaited int `json:"unawaited,omitempty"`
}

// unfinished reports whether the run still has work to do.
func (s RunState) unfinished() bool { return s == RunRunning || s == RunWatching || s == RunPaused }

func newRuns() *runs {
	return &runs{holds: map[uint64]broker.Hold{}, all: map[string]*run{}, handlings: map[string]Handling{}}
}

// of returns the unfinished run that a letter is part of, nil if there is none.
func (x *runs) of(number uint64) *run {
	for _, r := range x.all {
		if _, found := slices.BinarySearch(r.numbers, number); found && r.record.State.unfinished() {
			return r
		}
	}
	return nil
}

// each yields the trackers of all runs that are tracked: the unfinished ones, and those that
// ended with letters under way.
func (x *runs) each(yield func(*tracker) bool) {
	for _, r := range x.all {
		if t := r.tracking(); t != nil && !yield(t) {
			return
		}
	}
}

// rewatchAfter is how long one watch is used: a watch does not report that the bucket was
// purged or replaced.
const rewatchAfter = time.Minute

// followBucket keeps holds and runs up to date until the context ends.
func (d *Desk) followBucket(ctx context.Context) {
	var wg sync.WaitGroup
	var unread atomic.Int32
	unread.Store(3)
	whole := func() func() {
		return sync.OnceFunc(func() {
			if unread.Add(-1) == 0 {
				d.bucketOnce.Do(func() { close(d.bucketRead) })
			}
		})
	}
	wg.Go(func() {
		d.watch(ctx, "hold.", whole(), func(_ context.Context, _ *broker.DeskBucket, e broker.DeskEntry) { d.applyHold(e) })
	})
	wg.Go(func() {
		d.watch(ctx, handlingPrefix, whole(), func(_ context.Context, _ *broker.DeskBucket, e broker.DeskEntry) { d.applyHandling(e) })
	})
	wg.Go(func() { d.watch(ctx, runPrefix, whole(), d.applyRun) })
	wg.Wait()
}

// BucketRead returns a channel that is closed once the holds, runs and handlings were read. Lists
// do not wait for them; a command that acts once and ends does.
func (d *Desk) BucketRead() <-chan struct{} { return d.bucketRead }

// watch follows the entries with a prefix until the context ends. whole is called each time all
// present ones were reported.
func (d *Desk) watch(ctx context.Context, prefix string, whole func(), hear func(context.Context, *broker.DeskBucket, broker.DeskEntry)) {
	for ctx.Err() == nil {
		bucket, err := d.b.Desk(ctx)
		if err == nil {
			trusted, cancel := context.WithTimeout(ctx, rewatchAfter)
			err = d.watchOnce(trusted, bucket, prefix, whole, func(e broker.DeskEntry) { hear(trusted, bucket, e) })
			cancel()
		}
		if err != nil && ctx.Err() == nil {
			d.log.Debug().Err(err).Msg("holds and replay runs cannot be read now; retrying")
			backoff.Sleep(ctx, d.pace.look)
		}
	}
}

// watchOnce watches until the context ends. Once all present entries are reported, those
// that were known and are not among them are reported as deleted.
func (d *Desk) watchOnce(ctx context.Context, bucket *broker.DeskBucket, prefix string, whole func(), hear func(broker.DeskEntry)) error {
	seen := map[string]bool{}
	err := bucket.Watch(ctx, prefix, func(e broker.DeskEntry) {
		if seen != nil {
			seen[e.Key] = true
		}
		hear(e)
	}, func() {
		for _, key := range d.bucketKeys(prefix) {
			if !seen[key] {
				hear(broker.DeskEntry{Key: key, Deleted: true})
			}
		}
		seen = nil
		whole()
	})
	if errors.Is(err, context.DeadlineExceeded) {
		return nil // time for a new watch
	}
	return err
}

// bucketKeys returns the known keys with a prefix.
func (d *Desk) bucketKeys(prefix string) (keys []string) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if prefix == runPrefix {
		for id := range d.runs.all {
			keys = append(keys, runPrefix+id)
		}
		return keys
	}
	if prefix == handlingPrefix {
		for fingerprint := range d.runs.handlings {
			keys = append(keys, handlingPrefix+fingerprint)
		}
		return keys
	}
	for number := range d.runs.holds {
		keys = append(keys, holdKey(number))
	}
	return keys
}

// applyHold applies an entry for a hold: set, or removed.
func (d *Desk) applyHold(e broker.DeskEntry) {
	hold, ok := broker.ParseHold(e)
	if !ok {
		return
	}
	d.mu.Lock()
	before, held := d.runs.holds[hold.Letter]
	if held != e.Deleted && (!held || before == hold) {
		d.mu.Unlock()
		return // nothing new
	}
	delete(d.runs.holds, hold.Letter)
	var kept *broker.Hold
	if !e.Deleted {
		d.runs.holds[hold.Letter] = hold
		kept = &hold
	}
	if l := d.letters.find(hold.Letter); l != nil {
		d.letters.alter(l, func() { l.hold = kept })
	}
	d.mu.Unlock()
	d.listeners.notify(Change{Letters: true})
}

// applyRun applies an entry for a run. The numbers of an unfinished run are read once.
func (d *Desk) applyRun(ctx context.Context, bucket *broker.DeskBucket, e broker.DeskEntry) {
	id := strings.TrimPrefix(e.Key, runPrefix)
	var record runRecord
	if !e.Deleted && json.Unmarshal(e.Value, &record) != nil {
		d.log.Warn().Str("run", id).Msg("a replay run's entry cannot be parsed; it is ignored")
		return
	}
	d.mu.RLock()
	known := d.runs.all[id]
	needed := !e.Deleted && (record.State.unfinished() || record.UnderWay() > 0) && (known == nil || known.numbers == nil)
	d.mu.RUnlock()
	var numbers []uint64
	var chosen time.Time
	if needed {
		var err error
		if numbers, chosen, err = readSet(ctx, bucket, id); err != nil && ctx.Err() == nil {
			d.log.Warn().Err(err).Str("run", id).Msg("the letters of a replay run cannot be read now; retrying")
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if known := d.runs.all[id]; known == nil || known.revision != e.Revision || e.Deleted {
		defer d.listeners.notify(Change{Runs: true, Letters: needed})
	}
	if e.Deleted {
		if known != nil {
			d.endTracking(known)
			known.late = nil
			delete(d.runs.all, id)
		}
		return
	}
	r := d.runs.all[id]
	if r == nil {
		r = &run{id: id}
		d.runs.all[id] = r
	}
	if e.Revision < r.revision {
		return // older than what this process wrote itself
	}
	if e.Revision > r.revision {
		r.changed = time.Now()
	}
	r.record, r.revision = record, e.Revision
	if r.numbers == nil {
		r.numbers, r.chosen = numbers, chosen
	}
	switch unfinished := record.State.unfinished(); {
	case unfinished:
		d.beginTracking(r)
	case !unfinished:
		d.endTracking(r)
		d.trackLate(r)
	}
}

// beginTracking creates the run's tracker and marks its letters, once the index has read
// what became of them so far. The lock is held.
func (d *Desk) beginTracking(r *run) {
	if !d.read || r.tracker != nil || r.numbers == nil {
		return
	}
	r.tracker = d.track(r)
	for _, n := range r.numbers {
		if l := d.letters.find(n); l != nil {
			l.run = r
		}
	}
}

// endTracking ends the work on the run: it unmarks its letters, and its tracker only waits for
// results. The lock is held.
func (d *Desk) endTracking(r *run) {
	if r.tracker == nil {
		return
	}
	for _, n := range r.numbers {
		if l := d.letters.find(n); l != nil && l.run == r {
			l.run = nil
		}
	}
	r.tracker, r.late = nil, r.tracker
}

// readSet reads the numbers of a run's letters, and when they were stored.
func readSet(ctx context.Context, bucket *broker.DeskBucket, id string) ([]uint64, time.Time, error) {
	e, err := bucket.Get(ctx, setPrefix+id)
	if err != nil {
		return nil, time.Time{}, err
	}
	numbers, ok := decodeNumbers(e.Value)
	if !ok {
		return nil, time.Time{}, errors.New(setPrefix + id + " is not a list of letter numbers")
	}
	return numbers, e.Time, nil
}
