package desk

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/events"
)

// What one process keeps in memory, at about 0.7 KiB for a letter, 0.1 for a
// delivery and 0.3 for a record; docs/decisions/0032 has the measurements. What is
// older is counted, and the pages say so.
const (
	keptLetters    = 500_000
	keptDeliveries = 2_000_000
	keptRecords    = 250_000
)

// Desk is where people work on dead letters. Its methods may be called from
// anywhere at any time; none waits for NATS but those with a context, and none of
// those keeps others waiting.
type Desk struct {
	b      *broker.Broker
	deliverer Surroundings
	edits  EditRules
	log    zerolog.Logger
	itself broker.Actor
	worker string      // this process, in the leases of runs
	mayRecord atomic.Bool // it may write into the audit what it sees

	// mu guards what follows. It is never held while NATS is asked.
	mu         sync.RWMutex
	letters    *letters
	deliveries *deliveries
	history    *history
	runs       *runs
	maxAge     time.Duration // of letters
	auditAge   time.Duration // of records, and so of discarded letters
	removers   *removers     // of letters, as NATS told
	followErr       error         // why the streams cannot be followed now
	mismatch   time.Time     // since when something is gone unexplained; zero: nothing is
	read       bool          // the letters and their ends, once
	began      time.Time     // to follow them

	ready     chan struct{}           // closed with read
	pokes     chan struct{}           // wake the worker of runs
	looks     chan chan struct{}      // answered by a look at the streams
	ledger    chan broker.StreamState // the newest, for followLedger
	listeners listeners
	shown     shown
	pace      pace
}

// pace is how often things are looked at; tests have less patience.
type pace struct {
	look     time.Duration // at the streams
	start    time.Duration // until a lane that no process has spoken of is one that none serves
	grace    time.Duration // until what is gone without a word was removed past Certpost
	mismatch time.Duration // until a balance that does not add up is called wrong
	lease    time.Duration // of a run's worker
	patience time.Duration // of a run with letters that come to no end
	trouble  time.Duration // of a run that can publish none
	orphan   time.Duration // until a list of letters without a run is one whose start was cut short
}

// New prepares a desk; Run makes it work.
func New(b *broker.Broker, around Surroundings, log zerolog.Logger) *Desk {
	host, _ := os.Hostname()
	d := &Desk{
		b: b, deliverer: around, log: log, itself: broker.Actor{Name: "certpost@" + host, Via: broker.ViaItself},
		worker: fmt.Sprintf("%s/%d/%s", host, os.Getpid(), events.NewID()),
		ready:  make(chan struct{}), looks: make(chan chan struct{}), pokes: make(chan struct{}, 1), ledger: make(chan broker.StreamState, 1), removers: newRemovers(),
		pace: pace{look: 500 * time.Millisecond, start: 15 * time.Second, grace: 3 * time.Second, mismatch: 5 * time.Second, lease: 10 * time.Second,
			patience: 15 * time.Minute, trouble: time.Minute, orphan: 10 * time.Minute},
	}
	d.forget()
	return d
}

// forget empties the index. The lock is held, or nobody else knows d yet.
func (d *Desk) forget() {
	hash := newHasher()
	d.letters = newLetters(hash, keptLetters)
	d.deliveries = newDeliveries(hash, keptDeliveries)
	d.history = newHistory(keptRecords)
	if d.runs == nil {
		d.runs = newRuns()
	}
}

// Run follows the streams and works on replay runs until the context ends. NATS
// being away is no error: it goes on when it is back.
func (d *Desk) Run(ctx context.Context) error {
	d.mayRecord.Store(true)
	d.mu.Lock()
	d.began = time.Now()
	d.mu.Unlock()
	var wg sync.WaitGroup
	wg.Go(func() { d.followLetters(ctx) })
	wg.Go(func() { d.followLedger(ctx) })
	wg.Go(func() { d.followBucket(ctx) })
	wg.Go(func() { d.followRemovals(ctx) })
	wg.Go(func() { d.followLanes(ctx) })
	wg.Go(func() { d.workOnRuns(ctx) })
	wg.Wait()
	return nil
}

// Follow keeps the index until the context ends, and does nothing else: it is Run
// for a process that is there for a moment, and must not begin what it will not
// finish.
func (d *Desk) Follow(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { d.followLetters(ctx) })
	wg.Go(func() { d.followLedger(ctx) })
	wg.Go(func() { d.followBucket(ctx) })
	wg.Wait()
	return nil
}

// Ready waits until the index has read the dead letters and what is known of their
// ends. The ledger may still be being read: DeliveryListing says how far it is.
func (d *Desk) Ready(ctx context.Context) error {
	select {
	case <-d.ready:
		return nil
	case <-ctx.Done():
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.followErr != nil {
		return fmt.Errorf("the dead letters are not read yet: %w", d.followErr)
	}
	return errors.New("the dead letters are not read yet")
}

// Balance says where all dead letters are that there ever were. A difference is
// shown once it has lasted for five seconds: for a moment every letter on its way
// out is one.
func (d *Desk) Balance() Balance {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.balance()
}

func (d *Desk) balance() Balance {
	f := &d.letters.outcomes
	now := time.Now()
	out := Balance{Total: f.total(), Open: f.open, Restored: d.letters.restored, Ended: map[Fate]int{}, Since: d.letters.since, AsOf: now.UTC()}
	for fate, n := range f.ended {
		if fate != 0 {
			out.Ended[outcomeNames[fate]] = n
		}
	}
	if !d.mismatch.IsZero() && now.Sub(d.mismatch) > d.pace.mismatch {
		out.Unexplained = f.unexplained
	}
	return out
}

// Groups are the groups of a query's letters, the largest first.
func (d *Desk) Groups(q Query) []Group {
	d.mu.Lock() // for the ranks
	defer d.mu.Unlock()
	return d.letters.groupsOf(q, time.Now())
}

// Letters is a page of a query's letters.
func (d *Desk) Letters(q Query, p Page) Listing {
	d.mu.RLock()
	defer d.mu.RUnlock()
	f := q.ready()
	out := Listing{AsOf: d.letters.outcomes.total(), Beyond: d.letters.beyond()}
	out.Letters, out.Total, out.Next = d.letters.list(f, p.After, pageSize(p.Size))
	return out
}

// Each yields all letters of a query in its order, as they are when their turn
// comes: it may take as long as a slow download.
func (d *Desk) Each(q Query) iter.Seq[Letter] {
	return func(yield func(Letter) bool) {
		f := q.ready()
		for after := uint64(0); ; {
			d.mu.RLock()
			page, next := d.letters.page(f, after, maxPage)
			d.mu.RUnlock()
			for _, l := range page {
				if !yield(l) {
					return
				}
			}
			if after = next; after == 0 {
				return
			}
		}
	}
}

// History is a page of the audit, newest first, of those before the record after
// (0: from the newest); next is for the page that follows, 0 when there is none. The
// newest 250,000 records are known here: see Unsearched.
func (d *Desk) History(q HistoryQuery, after uint64, size int) (page []broker.AuditRecord, next uint64) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.history.list(q, after, pageSize(size))
}

// HistoryLines is History for people: what a replay run did to its letters is one line
// for each action, unless the query asks for a run, a letter or an event.
func (d *Desk) HistoryLines(q HistoryQuery, after uint64, size int) (page []HistoryLine, next uint64) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.history.lines(q, after, pageSize(size))
}

// Unsearched is the number of the oldest record that History knows, where the stream
// has older ones that the query may fit; 0 where all that there are were searched.
func (d *Desk) Unsearched(q HistoryQuery) uint64 {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.history.unsearched(q)
}

// maxPage and pageSize are how much a page may be asked for.
const maxPage = 500

func pageSize(size int) int {
	if size <= 0 {
		return 50
	}
	return min(size, maxPage)
}
