package desk

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/events"
)

// Bounds of what one process keeps in memory, at about 0.7 KiB for a letter, 0.1 for a
// delivery and 0.3 for a record; docs/decisions/0032 has the measurements. Older ones are
// only counted, and the pages say so.
const (
	keptLetters    = 500_000
	keptDeliveries = 2_000_000
	keptRecords    = 250_000
)

// Desk is the index of dead letters and the actions on them. Its methods are safe for
// concurrent use. Only methods with a context wait for NATS, and while they wait they
// block no other caller.
type Desk struct {
	b         *broker.Broker
	deliverer Deliverer
	edits     EditRules
	canceller Canceller // nil: deliveries cannot be cancelled here
	log       zerolog.Logger
	itself    broker.Actor
	worker    string      // identifies this process in the leases of runs
	mayRecord atomic.Bool // this process may record observed ends in the audit

	// mu guards the fields up to ledgerWhole. It is never held during a request to NATS.
	mu         sync.RWMutex
	letters    *letters
	discarded  *discarded
	deliveries *deliveries
	history    *history
	runs       *runs
	maxAge     time.Duration // of letters
	auditAge   time.Duration // of records, and so of discarded letters
	followErr  error         // why the streams cannot be read now; nil: they can
	mismatch   time.Time     // since when letters are unexplained; zero: none is
	read       bool          // letters and their ends were read once
	began      time.Time     // when Run began
	// ledgerWhole says that the whole ledger was read once.
	ledgerWhole bool

	ready      chan struct{}           // closed with read
	bucketRead chan struct{}           // see BucketRead
	bucketOnce sync.Once               // closes bucketRead
	pokes      chan struct{}           // wake workOnRuns
	looks      chan chan struct{}      // each is closed after the look that it asks for
	ledger     chan broker.StreamState // the newest state, for followLedger
	listeners  listeners
	shown      shown
	pace       pace
}

// pace is intervals and time limits; tests shorten them.
type pace struct {
	look     time.Duration // between looks at the streams
	start    time.Duration // until a lane that no process reports is unserved, and not starting
	grace    time.Duration // until a letter gone without a record counts as removed outside Certpost
	mismatch time.Duration // until a balance that does not add up is reported
	lease    time.Duration // of a run's worker
	patience time.Duration // until a run pauses, or ends, because no letter under way gets a result
	trouble  time.Duration // until a run pauses because it can publish no letter
	orphan   time.Duration // until a set without a run counts as an interrupted start
}

// New creates a desk; Run or Follow fills it.
func New(b *broker.Broker, deliverer Deliverer, log zerolog.Logger) *Desk {
	host, _ := os.Hostname()
	d := &Desk{
		b: b, deliverer: deliverer, log: log, itself: broker.Actor{Name: "certpost@" + host, Via: broker.ViaItself},
		worker: fmt.Sprintf("%s/%d/%s", host, os.Getpid(), events.NewID()),
		ready:  make(chan struct{}), bucketRead: make(chan struct{}), looks: make(chan chan struct{}), pokes: make(chan struct{}, 1), ledger: make(chan broker.StreamState, 1),
		pace: pace{look: 500 * time.Millisecond, start: 15 * time.Second, grace: 3 * time.Second, mismatch: 5 * time.Second, lease: 10 * time.Second,
			patience: 15 * time.Minute, trouble: time.Minute, orphan: 10 * time.Minute},
	}
	d.forget()
	return d
}

// forget empties the index. The lock is held, or d is not shared yet.
func (d *Desk) forget() {
	hash := newHasher()
	d.letters = newLetters(hash, keptLetters)
	d.discarded = newDiscarded(hash)
	d.deliveries = newDeliveries(hash, keptDeliveries)
	d.history = newHistory(keptRecords)
	if d.runs == nil {
		d.runs = newRuns()
	}
}

// Run follows the streams and works on replay runs until the context ends. It waits while
// NATS is unavailable, and never returns an error.
func (d *Desk) Run(ctx context.Context) error {
	d.mayRecord.Store(true)
	d.mu.Lock()
	d.began = time.Now()
	d.mu.Unlock()
	var wg sync.WaitGroup
	wg.Go(func() { d.followLetters(ctx) })
	wg.Go(func() { d.followLedger(ctx) })
	wg.Go(func() { d.followBucket(ctx) })
	wg.Go(func() { d.followLanes(ctx) })
	wg.Go(func() { d.workOnRuns(ctx) })
	wg.Wait()
	return nil
}

// Follow keeps the index up to date until the context ends, and does nothing else. It
// replaces Run in a short-lived process, which must not begin what it will not finish.
func (d *Desk) Follow(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { d.followLetters(ctx) })
	wg.Go(func() { d.followLedger(ctx) })
	wg.Go(func() { d.followBucket(ctx) })
	wg.Wait()
	return nil
}

// Ready waits until the index has read the dead letters and how they ended. The ledger
// may still be being read: DeliveryListing has its progress.
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

// Unreadable returns why the dead letters and the audit cannot be read now; nil if they can.
func (d *Desk) Unreadable() error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.followErr
}

// Balance returns how many of all dead letters are open or ended, by outcome. A
// difference is reported once it has lasted for five seconds: every letter that is being
// removed causes one for a moment.
func (d *Desk) Balance() Balance {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.balance()
}

func (d *Desk) balance() Balance {
	f := &d.letters.outcomes
	now := time.Now()
	out := Balance{Total: f.total(), Open: f.open, Restored: d.letters.restored, Ended: map[Status]int{}, Since: d.letters.since, AsOf: now.UTC()}
	for outcome, n := range f.ended {
		if outcome != 0 {
			out.Ended[outcomeNames[outcome]] = n
		}
	}
	if !d.mismatch.IsZero() && now.Sub(d.mismatch) > d.pace.mismatch {
		out.Unexplained = f.unexplained
	}
	return out
}

// Groups returns the groups of a query's letters, the largest first.
func (d *Desk) Groups(q Query) []Group {
	d.mu.Lock() // for the ranks
	defer d.mu.Unlock()
	groups := d.of(q).groupsOf(q, time.Now())
	for i := range groups {
		if h, ok := d.runs.handlings[groups[i].Fingerprint]; ok {
			h.Notes = slices.Clone(h.Notes)
			groups[i].Handling = &h
		}
	}
	return groups
}

// Letters returns a page of a query's letters.
func (d *Desk) Letters(q Query, p Page) Listing {
	out := func() (out Listing) {
		d.mu.RLock()
		defer d.mu.RUnlock()
		f := q.ready()
		x := d.of(q)
		out.AsOf, out.Beyond = d.letters.outcomes.highest(), x.beyond()
		out.Letters, out.Total, out.Next = x.list(f, p.After, pageSize(p.Size))
		return out
	}()
	d.complete(out.Letters)
	return out
}

// Each yields all letters of a query in its order, each in its state when it is yielded:
// the loop may take as long as a slow download.
func (d *Desk) Each(q Query) iter.Seq[Letter] {
	return func(yield func(Letter) bool) {
		f := q.ready()
		for after := uint64(0); ; {
			d.mu.RLock()
			page, next := d.of(q).page(f, after, maxPage)
			d.mu.RUnlock()
			d.complete(page)
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

// History returns a page of the audit, newest first, of the records before the sequence
// after (0: from the newest); next is the after of the following page, 0 when there is
// none. Only the newest 250,000 records are searched: see Unsearched.
func (d *Desk) History(q HistoryQuery, after uint64, size int) (page []Record, next uint64) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	found, next := d.history.list(q, after, pageSize(size))
	return records(found), next
}

// Unsearched is the sequence of the oldest record that History searches, where the stream
// has older ones that may match the query; 0 if all records were searched.
func (d *Desk) Unsearched(q HistoryQuery) uint64 {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.history.unsearched(q)
}

// maxPage is the largest size of a page.
const maxPage = 500

// pageSize returns the size of a page for the requested size: 50 by default, at most
// maxPage.
func pageSize(size int) int {
	if size <= 0 {
		return 50
	}
	return min(size, maxPage)
}
