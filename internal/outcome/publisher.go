package outcome

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/backoff"
	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/events"
)

const (
	// lookEvery is the time between two looks at the sources.
	lookEvery = 500 * time.Millisecond
	// groupSize is about how many items become one group of messages, which is stored as a whole.
	groupSize = 150
	// takeOver is how long outcomes may wait for the process that published last.
	takeOver = 5 * time.Second
	// keepPosition is how many numbers of the sources without an outcome are read again after a crash.
	keepPosition = 2000
)

// Store is where the sources and the outcomes lie; *broker.Broker is one.
type Store interface {
	OutcomeSources(context.Context) (broker.OutcomeSources, error)
	ReadOutcomeSources(context.Context, broker.OutcomeSources, broker.OutcomePosition, int, broker.SeenRevisions) ([]broker.OutcomeItem, broker.OutcomePosition, error)
	OutcomesEnd(context.Context) (broker.OutcomeEnd, error)
	BeginOutcomes(context.Context) error
	AppendOutcomes(context.Context, broker.OutcomeEnd, []broker.OutcomeMessage) (broker.OutcomeEnd, error)
	LatestEntry(context.Context, string) (broker.Entry, uint64, error)
}

// Publisher publishes the outcomes of all processes to CERTPOST_OUTCOMES. Of several processes one does; when it is
// gone, another one continues where the stream ends.
type Publisher struct {
	Store   Store
	Process string
	MaxAge  time.Duration // of outcomes in the stream: what is older is not published
	Metrics *Metrics
	// Report gets the result of each look: nil, or what keeps outcomes from being published.
	Report func(error)
	Log    zerolog.Logger
	Now    func() time.Time // nil: time.Now

	end     broker.OutcomeEnd // its position may be further on than that of the stream's last message
	written broker.OutcomePosition
	known   bool // end is that of the stream, as far as this process knows
	seen    broker.SeenRevisions
	late    time.Time // since when outcomes wait for another process; zero: they do not

	// For tests: the pause after a failure, 0 for takeOver, and whether it waits for no other process.
	first time.Duration
	eager bool
}

// Run publishes until the context ends.
func (p *Publisher) Run(ctx context.Context) {
	for ctx.Err() == nil {
		more, err := p.Round(ctx)
		if err != nil {
			p.known, p.seen = false, nil
		}
		if ctx.Err() != nil {
			return
		}
		p.Report(err)
		switch {
		case err != nil:
			p.Log.Debug().Err(err).Msg("outcomes wait")
			backoff.Sleep(ctx, backoff.Jitter(cmp.Or(p.first, takeOver)))
		case !more:
			backoff.Sleep(ctx, lookEvery)
		}
	}
}

// Round publishes one group. It reports whether there is more to do at once.
func (p *Publisher) Round(ctx context.Context) (more bool, err error) {
	sources, err := p.Store.OutcomeSources(ctx)
	if err != nil {
		return false, err
	}
	if err := p.look(ctx); err != nil {
		return false, err
	}
	now := p.now()
	at := sources.Fit(p.end.Position)
	if !sources.Due(at) {
		p.late = time.Time{}
		p.Metrics.behind(0)
		if p.MaxAge > 0 && now.Sub(p.end.At) > p.MaxAge/4 && p.mine() {
			return false, p.append(ctx, []broker.OutcomeMessage{{After: p.sign(at)}}) // the position must not expire
		}
		return false, nil
	}
	if !p.mine() && !p.eager {
		if p.late.IsZero() {
			p.late = now
		}
		if now.Sub(p.late) < takeOver {
			p.known = false // look whether the other process goes on
			return false, nil
		}
	}
	items, after, err := p.Store.ReadOutcomeSources(ctx, sources, at, groupSize, p.seen)
	if err != nil {
		return false, err
	}
	group, err := p.group(ctx, items)
	if err != nil {
		return false, err
	}
	after = p.sign(after)
	switch w := p.written; {
	case len(group) > 0:
		group[len(group)-1].After = after
		if err := p.append(ctx, group); err != nil {
			return false, err
		}
		for _, m := range group {
			p.Metrics.publish(typeOf(m.ID))
		}
	case after.Letters-w.Letters+after.Audit-w.Audit+after.Ledger-w.Ledger > keepPosition:
		if err := p.append(ctx, []broker.OutcomeMessage{{After: after}}); err != nil {
			return false, err
		}
	default:
		after.By = p.end.Position.By
		p.end.Position = after // known again after a restart by reading it again
	}
	p.late = time.Time{}
	if len(items) > 0 {
		p.Metrics.behind(now.Sub(items[len(items)-1].Stored))
	}
	return sources.Due(after), nil
}

// look reads the end of the stream if it is not known.
func (p *Publisher) look(ctx context.Context) error {
	if p.known {
		return nil
	}
	end, err := p.Store.OutcomesEnd(ctx)
	if errors.Is(err, broker.ErrNoPosition) || errors.Is(err, broker.ErrNoStream) {
		// The stream or its messages were deleted.
		if err = p.Store.BeginOutcomes(ctx); err == nil {
			end, err = p.Store.OutcomesEnd(ctx)
		}
	}
	if err != nil {
		return err
	}
	if end.Sequence != p.end.Sequence || p.seen == nil {
		p.end, p.seen, p.late = end, broker.SeenRevisions{}, time.Time{}
	}
	p.written, p.known = end.Position, true
	return nil
}

// mine reports whether this process has published last, or no process has.
func (p *Publisher) mine() bool { return p.end.Position.By == p.Process || p.end.Position.By == "" }

// typeOf is the type of the outcome with an id, which ends with it.
func typeOf(id string) Type { return Type(id[strings.LastIndexByte(id, '/')+1:]) }

// sign adds to a position that this process has published.
func (p *Publisher) sign(at broker.OutcomePosition) broker.OutcomePosition {
	at.By = p.Process
	return at
}

// group makes the messages of items that are outcomes.
func (p *Publisher) group(ctx context.Context, items []broker.OutcomeItem) (group []broker.OutcomeMessage, err error) {
	for _, i := range items {
		if p.MaxAge > 0 && p.now().Sub(i.Stored) > p.MaxAge {
			continue
		}
		e := of(i)
		if e == nil {
			continue
		}
		if e.Data.Certificate == nil && e.Data.Letter != 0 && events.IsToken(e.Data.Target) {
			// Without an entry, or with one that another event has: the outcome has no certificate.
			if entry, _, err := p.Store.LatestEntry(ctx, broker.LedgerKey(e.Data.Target, events.Token(e.Data.Event))); err == nil && entry.Event == e.Data.Event {
				e.Data.Certificate = certificateOf(entry.Certificate)
			}
		}
		data, err := json.Marshal(e)
		if err != nil {
			return nil, fmt.Errorf("outcome %s: %w", e.ID, err)
		}
		group = append(group, broker.OutcomeMessage{ID: e.ID, Target: e.Data.Target, TraceParent: e.TraceParent, Data: data, After: p.sign(i.After)})
	}
	return group, nil
}

// append publishes messages. That another process has published meanwhile is no error: the next round goes on after
// what it has published.
func (p *Publisher) append(ctx context.Context, group []broker.OutcomeMessage) error {
	end, err := p.Store.AppendOutcomes(ctx, p.end, group)
	if broker.WrongSequence(err) {
		p.known, p.seen = false, nil
		return nil
	}
	if err != nil {
		return err
	}
	p.end, p.written = end, end.Position
	return nil
}

func (p *Publisher) now() time.Time {
	if p.Now != nil {
		return p.Now()
	}
	return time.Now()
}
