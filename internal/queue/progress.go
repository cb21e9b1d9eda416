package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certpost/certpost/internal/backoff"
	"github.com/certpost/certpost/internal/broker"
)

// work is one kind of request that events and deliveries need to get on.
type work struct {
	stream string // that answers it
	what   string // what does not happen while it fails
	lane   string // "" unless it is a lane's alone
}

var (
	fetchEvents       = work{stream: broker.EventsStream, what: "events are not fetched"}
	publishDeliveries = work{stream: broker.DeliveriesStream, what: "deliveries are not stored"}
	keepLedger        = work{stream: "KV_" + broker.LedgerBucket, what: "claims and outcomes are not recorded"}
	storeLetters      = work{stream: broker.DeadLettersStream, what: "dead letters are not stored"}
)

func fetchLane(name string) work {
	return work{stream: broker.DeliveriesStream, what: "deliveries are not fetched from lane " + name, lane: name}
}

// noAnswer is the work of a stream that does not answer although nobody works with it.
func noAnswer(stream string) work { return work{stream: stream, what: "the stream does not answer"} }

const (
	// loneLane is how long the work of one lane may fail while other lanes get on, until
	// the process counts as not ready.
	loneLane = time.Minute
	// forgetAfter is the time after which a failure that does not happen again is
	// forgotten: work that fails is tried again more often than that.
	forgetAfter = 2 * time.Minute
	// probeAfter is how long a stream may have answered nothing before it is asked for a
	// sign of life.
	probeAfter = 3 * time.Second
)

// progress knows from the work itself what gets on and what does not. Nothing is asked
// when somebody wants to know.
type progress struct {
	mu       sync.Mutex
	failing  map[work]*failing
	answered map[string]time.Time // by stream
	lanes    map[string]bool      // lanes that are fetched from
}

// failing is work that failed when it was last tried.
type failing struct {
	since, last time.Time
	err         error
}

func newProgress() *progress {
	return &progress{failing: map[work]*failing{}, answered: map[string]time.Time{}, lanes: map[string]bool{}}
}

// note records the result of a request. Answers that are no failures of the stream count
// as success, and the end of a context counts as nothing.
func (p *progress) note(w work, err error) {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if w.lane != "" {
		p.lanes[w.lane] = true
	}
	switch {
	case errors.Is(err, context.Canceled):
	case err == nil, errors.Is(err, broker.ErrClaimLost), errors.Is(err, broker.ErrNoEntry), errors.Is(err, jetstream.ErrMsgNotFound):
		p.answered[w.stream] = now
		delete(p.failing, w)
		delete(p.failing, noAnswer(w.stream))
	case p.failing[w] == nil:
		p.failing[w] = &failing{since: now, last: now, err: err}
	default:
		p.failing[w].last, p.failing[w].err = now, err
	}
}

// rest records that the work is not tried for now.
func (p *progress) rest(w work) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.failing, w)
}

// state returns what keeps events and deliveries from moving, and what only hurts: one
// lane of several that is not fetched from, for a while.
func (p *progress) state(now time.Time) (stands, hurts error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	lanes := 0
	for w, f := range p.failing {
		if now.Sub(f.last) > forgetAfter {
			delete(p.failing, w)
		} else if w.lane != "" {
			lanes++
		}
	}
	var standing, hurting []string
	for w, f := range p.failing {
		text := fmt.Sprintf("%s (%s, for %s): %s", w.what, w.stream, max(now.Sub(f.since), time.Second).Round(time.Second), why(f.err))
		if w.lane != "" && lanes < len(p.lanes) && now.Sub(f.since) < loneLane {
			hurting = append(hurting, text)
		} else {
			standing = append(standing, text)
		}
	}
	return joined(standing), joined(hurting)
}

// why returns the text of an error; that of one that only says that a deadline has passed
// is clearer.
func why(err error) string {
	if errors.Is(err, context.DeadlineExceeded) {
		return "no answer in time: it may have no leader"
	}
	return err.Error()
}

func joined(texts []string) error {
	if len(texts) == 0 {
		return nil
	}
	slices.Sort(texts)
	return errors.New(strings.Join(texts, "; "))
}

// silent returns the streams that have not answered lately, or whose last request failed.
func (p *progress) silent(now time.Time) (streams []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range []string{broker.EventsStream, broker.DeliveriesStream, broker.DeadLettersStream, "KV_" + broker.LedgerBucket} {
		if p.failing[noAnswer(s)] != nil || now.Sub(p.answered[s]) > probeAfter {
			streams = append(streams, s)
		}
	}
	return streams
}

// probe asks the streams that nobody works with for a sign of life, until the context ends.
func (r *Runner) probe(ctx context.Context) {
	for ctx.Err() == nil {
		var wg sync.WaitGroup
		for _, name := range r.progress.silent(time.Now()) {
			if name == broker.EventsStream && r.set.OnlyHost {
				continue // an agent has nothing to do with events
			}
			wg.Go(func() {
				once, cancel := context.WithTimeout(ctx, r.RequestTimeout())
				defer cancel()
				_, err := r.JetStream().Stream(once, name)
				r.progress.note(noAnswer(name), err)
			})
		}
		wg.Wait()
		backoff.Sleep(ctx, time.Second)
	}
}
