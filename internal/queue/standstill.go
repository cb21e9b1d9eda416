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

// standstillAfter is how long events or deliveries may be kept from moving before it
// counts as a standstill: the process is then unhealthy, and says why.
const standstillAfter = time.Minute

// forgottenAfter is how long a trouble is kept that is reported no more. Every loop tries
// again at least once a minute.
const forgottenAfter = 5 * time.Minute

// standstillEvery is the time between two searches for standstills to log.
const standstillEvery = 5 * time.Second

// The parts of the work that can come to a standstill. They are the labels of the
// metric certpost_standstill.
const (
	partTopology    = "topology"     // streams and consumers are not as they have to be
	partConsumer    = "consumer"     // a lane cannot get its consumer
	partFetch       = "fetch"        // nothing can be fetched from a lane
	partProgress    = "progress"     // deliveries wait in a lane, and the server hands out none
	partFanout      = "fanout"       // events cannot be fetched, or their deliveries not be published
	partLedger      = "ledger"       // the ledger can neither be read nor written
	partDeadLetters = "dead_letters" // dead letters cannot be stored
	partRate        = "rate"         // the mails to a relay cannot be counted
	partReconcile   = "reconcile"    // the manifest cannot be compared with the streams
	partStranded    = "stranded"     // stranded or stray deliveries cannot be settled

	// PartOutcomes and PartOutcomeWebhook are beside the deliveries, which go on without them.
	PartOutcomes       = "outcomes"        // outcomes cannot be published to their stream
	PartOutcomeWebhook = "outcome_webhook" // a webhook does not take outcomes
)

// besideParts keep neither events nor deliveries from moving: the process is degraded, and ready.
var besideParts = []string{PartOutcomes, PartOutcomeWebhook}

// The steps of the fan-out that fail by themselves.
const (
	fetching   = "fetching events"
	publishing = "publishing deliveries"
	handingOut = "events handed out"
)

// placesAtOnce bounds the places with trouble: deliveries with an unreadable ledger entry
// are named, and there may be any number of them.
const placesAtOnce = 1000

var standstillParts = []string{partTopology, partConsumer, partFetch, partProgress, partFanout, partLedger, partDeadLetters, partRate, partReconcile, partStranded, PartOutcomes, PartOutcomeWebhook}

// standstills knows which parts of the work fail, and since when. Every loop that tries
// again without limit reports its failures and successes here, so that none can fail for
// ever without being noticed.
type standstills struct {
	now func() time.Time

	mu   sync.Mutex
	open map[place]*trouble
}

// place is a part of the work, and its lane or relay if there are several.
type place struct{ part, name string }

func (p place) String() string { return strings.TrimSpace(p.part + " " + p.name) }

// trouble is work that has failed since a time, without a success in between.
type trouble struct {
	since  time.Time
	last   time.Time // report
	reason string
	logged bool
}

func newStandstills() *standstills {
	return &standstills{now: time.Now, open: map[place]*trouble{}}
}

// report records the result of work: a nil error ends the trouble of its place.
func (s *standstills) report(part, name string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := place{part, name}
	switch known := s.open[at]; {
	case err == nil && (known == nil || !known.logged):
		delete(s.open, at)
	case err == nil:
		known.reason = "" // tell logs the end, and forgets it
	case known == nil && len(s.open) >= placesAtOnce: // enough is known to be wrong
	case known == nil:
		s.open[at] = &trouble{since: s.now(), last: s.now(), reason: err.Error()}
	default:
		if known.reason == "" {
			known.since = s.now()
		}
		known.last, known.reason = s.now(), err.Error()
	}
}

// noted records the result of work where both readiness and standstills are judged by it:
// progress answers at once what fails now, standstills what has failed for a minute.
func (r *Runner) noted(w work, part, name string, err error) {
	r.progress.note(w, err)
	r.standstills.report(part, name, err)
}

// current returns the standstills of this moment, the oldest first.
func (s *standstills) current() []broker.Standstill {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []broker.Standstill
	for at, t := range s.open {
		if s.now().Sub(t.last) >= forgottenAfter {
			t.reason = "" // given up: a target was removed, or a message
		}
		if t.reason != "" && s.now().Sub(t.since) >= standstillAfter {
			all = append(all, broker.Standstill{Part: at.part, Name: at.name, Since: t.since.UTC().Truncate(time.Second), Reason: t.reason})
		}
	}
	slices.SortFunc(all, func(a, b broker.Standstill) int {
		if c := a.Since.Compare(b.Since); c != 0 {
			return c
		}
		return strings.Compare(a.Part+a.Name, b.Part+b.Name)
	})
	return all
}

// unlogged returns the standstills that began and the places whose standstill ended
// since the last call.
func (s *standstills) unlogged() (began []broker.Standstill, ended []string) {
	current := s.current()
	s.mu.Lock()
	defer s.mu.Unlock()
	for at, t := range s.open {
		if t.reason != "" {
			continue
		}
		delete(s.open, at)
		if t.logged {
			ended = append(ended, at.String())
		}
	}
	for _, stands := range current {
		if t := s.open[place{stands.Part, stands.Name}]; t != nil && !t.logged {
			t.logged = true
			began = append(began, stands)
		}
	}
	slices.Sort(ended)
	return began, ended
}

// Moving returns nil if nothing has kept events or deliveries from moving for longer than
// a minute, otherwise what stands still, since when and why.
func (r *Runner) Moving() error { return r.stands(false) }

// Beside returns nil if nothing beside events and deliveries has failed for longer than a minute, otherwise
// what, since when and why.
func (r *Runner) Beside() error { return r.stands(true) }

// SetClock has standstills measured with another clock. It is for tests, before Run.
func (r *Runner) SetClock(now func() time.Time) { r.standstills.now = now }

// Report records the result of work that another package does, for a part of besideParts.
func (r *Runner) Report(part, name string, err error) { r.standstills.report(part, name, err) }

func (r *Runner) stands(beside bool) error {
	var parts []string
	for _, s := range r.standstills.current() {
		if slices.Contains(besideParts, s.Part) != beside {
			continue
		}
		parts = append(parts, fmt.Sprintf("%s (for %s): %s", place{s.Part, s.Name}, r.standstills.now().Sub(s.Since).Round(time.Second), s.Reason))
	}
	if parts == nil {
		return nil
	}
	return errors.New("standstill of " + strings.Join(parts, "; "))
}

// watchStandstills logs when a standstill begins and ends, and counts the standstills in
// the metrics.
func (r *Runner) watchStandstills(ctx context.Context) {
	for ctx.Err() == nil {
		began, ended := r.standstills.unlogged()
		for _, s := range began {
			text := "standstill: events or deliveries do not move; certpost goes on trying, and is unhealthy until it succeeds"
			if slices.Contains(besideParts, s.Part) {
				text = "standstill: outcomes wait that should have been published or posted; deliveries go on, and certpost goes on trying"
			}
			r.log.Error().Str("part", s.Part).Str("name", s.Name).Time("since", s.Since).Str("reason", s.Reason).Msg(text)
		}
		for _, what := range ended {
			r.log.Info().Str("part", what).Msg("the standstill has ended")
		}
		count := map[string]int{}
		for _, s := range r.standstills.current() {
			count[s.Part]++
		}
		for _, part := range standstillParts {
			r.metrics.standstill.WithLabelValues(part).Set(float64(count[part]))
		}
		backoff.Sleep(ctx, standstillEvery)
	}
}

// ledgerAnswered records whether the ledger could be read or written, and whether the
// entry at the key is readable. That another process was faster is an answer too.
func (r *Runner) ledgerAnswered(ctx context.Context, key string, err error) {
	unreadable := errors.Is(err, broker.ErrUnreadableEntry)
	if errors.Is(err, broker.ErrNoEntry) || errors.Is(err, broker.ErrClaimLost) {
		err = nil
	}
	switch {
	case unreadable:
		r.standstills.report(partLedger, key, err)
		r.standstills.report(partLedger, "", nil)
	case err == nil:
		r.standstills.report(partLedger, key, nil)
		r.standstills.report(partLedger, "", nil)
	case ctx.Err() == nil:
		r.standstills.report(partLedger, "", err)
	}
}

// errHandsOutNothing is the reason of a standstill without any error.
var errHandsOutNothing = errors.New("messages wait, and the server hands out none of them")

// handout notices that the server hands out nothing of a consumer although messages wait
// and this process asks for them.
type handout struct {
	delivered uint64 // by the consumer, redeliveries included
	seen      bool
}

// check compares the consumer's state with the last one. asking says that this process
// could take a message now.
func (p *handout) check(info *jetstream.ConsumerInfo, asking bool) error {
	same := p.seen && p.delivered == info.Delivered.Consumer
	p.delivered, p.seen = info.Delivered.Consumer, true
	full := info.Config.MaxAckPending > 0 && info.NumAckPending >= info.Config.MaxAckPending // they wait for their retries
	if same && asking && info.NumPending > 0 && !full {
		return errHandsOutNothing
	}
	return nil
}

// asking reports whether this process fetches from the lane: it is not paused, and not
// all its workers are busy.
func (l *lane) asking() bool {
	why := l.paused.Load()
	return why != nil && *why == "" && int(l.inWork.Load()) < cap(l.slots)
}
