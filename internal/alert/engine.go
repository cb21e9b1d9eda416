package alert

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/backoff"
)

// Store keeps the board for all processes. ChangeAlerts calls change with the stored board, and
// stores it unless change returns false; if another process has changed it meanwhile, it calls
// change again with that one.
type Store interface {
	ChangeAlerts(ctx context.Context, change func(*Board) bool) error
}

// Sender is one way of telling. Send returns nil when the other side has taken the message; its
// error has no secret and no address of a webhook. It may be called again with a message that
// the other side has already, with the same ID.
type Sender struct {
	Name string // mail, webhook
	Send func(ctx context.Context, m Message) error
}

// Facts are what a process sees. Shared is what every process sees alike, such as dead
// letters, Own what concerns this process. Err says why Shared is not complete.
type Facts struct {
	Shared, Own []Condition
	Err         error
}

// Settings are those of an engine.
type Settings struct {
	Timing
	Process string // this process, host/pid/id
	Host    string // its host: the name of its alert NotReady
	Link    string // of the page with the alerts; may be empty
	// NotReady is how long the store may be away before this process tells what it knows alone.
	NotReady time.Duration
	Senders  []Sender
	Facts    func(ctx context.Context) Facts
	// Failed, when set, is called for each try that has failed.
	Failed func(sender string)
	Log    zerolog.Logger
	Now    func() time.Time // nil: time.Now
}

// Engine compares what this process sees with the board, and tells the channels.
type Engine struct {
	Settings
	store Store

	looking sync.Mutex // one look at a time
	// first is when this process first saw a condition; watching is since when it has seen all that
	// it could see, zero if it does not. away is since when the store does not answer. looking guards
	// them.
	first          map[string]sighting
	watching, away time.Time
	found, warned  bool // the store has answered before; the log has that it is away

	wg   sync.WaitGroup
	busy map[string]*sync.Mutex // by sender
	mu   sync.Mutex
	// last is the board as this process last knew it. lone is its own while the store is away.
	last, lone *Board
	taken      map[string]string // the last message that a sender has sent, by sender
}

// sighting is when a condition was first seen, and whether it is one of this process's own.
type sighting struct {
	at  time.Time
	own bool
}

// New returns an engine.
func New(s Settings, store Store) *Engine {
	if s.Now == nil {
		s.Now = time.Now
	}
	e := &Engine{Settings: s, store: store, first: map[string]sighting{}, busy: map[string]*sync.Mutex{}, taken: map[string]string{}, last: &Board{}}
	for _, sender := range s.Senders {
		e.busy[sender.Name] = &sync.Mutex{}
	}
	return e
}

const (
	// every is the time between two looks.
	every = 5 * time.Second
	// starting is how long the first start may take to make the streams. Until then it is no news that
	// the state cannot be read.
	starting = 30 * time.Second
	// patience bounds one look, and one change of the board.
	patience = 4 * time.Second
	// stopPatience is how long a message that is being sent may take after the end of the program has begun.
	stopPatience = 5 * time.Second
)

// Run looks and tells until the context ends. Messages that are being sent then have stopPatience to
// be finished; others are sent by another process, or after the next start.
func (e *Engine) Run(ctx context.Context) {
	defer e.wg.Wait()
	for ctx.Err() == nil {
		e.Round(ctx)
		backoff.Sleep(ctx, every)
	}
}

// Round looks once, and begins to send what is due.
func (e *Engine) Round(ctx context.Context) {
	e.look(ctx)
	for _, sender := range e.Senders {
		if busy := e.busy[sender.Name]; busy.TryLock() {
			e.wg.Go(func() {
				defer busy.Unlock()
				e.tell(ctx, sender)
			})
		}
	}
}

// Wait waits until what is being sent has ended.
func (e *Engine) Wait() { e.wg.Wait() }

// look compares what this process sees with the board.
func (e *Engine) look(ctx context.Context) {
	e.looking.Lock()
	defer e.looking.Unlock()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	facts := e.Facts(ctx)
	now := e.Now().UTC()
	switch {
	case facts.Err != nil:
		e.watching = time.Time{}
	case e.watching.IsZero():
		e.watching = now
	}
	watching := e.watching
	if watching.IsZero() {
		watching = now
	}
	own := e.lasting(facts.Own, true, now)
	all := slices.Concat(own, e.lasting(facts.Shared, false, now))
	e.forget(slices.Concat(facts.Own, facts.Shared), facts.Err == nil)
	e.mu.Lock()
	var lone *Board
	if e.lone != nil {
		lone = e.lone.copy()
	}
	e.mu.Unlock()
	var board *Board
	err := e.change(ctx, func(b *Board) bool {
		board = b
		if lone != nil {
			b.merge(lone, now)
		}
		return b.see(slices.Clone(all), now, watching) || lone != nil
	})
	if err != nil {
		e.alone(own, err, now)
		return
	}
	e.away, e.found = time.Time{}, true
	e.mu.Lock()
	defer e.mu.Unlock()
	e.last, e.lone = board, nil
}

// alone keeps a board of this process's own while the store does not answer.
func (e *Engine) alone(own []Condition, err error, now time.Time) {
	e.watching = time.Time{}
	if e.away.IsZero() {
		e.away, e.warned = now, false
	}
	if !e.warned && (e.found || now.Sub(e.away) >= starting) {
		e.warned = true
		e.Log.Warn().Err(err).Msg("alerts: the state in NATS cannot be read or written; this process tells what concerns itself after alerts.not_ready")
	}
	if e.NotReady > 0 && now.Sub(e.away) >= e.NotReady && !slices.ContainsFunc(own, func(c Condition) bool { return c.Kind == NotReady }) {
		own = append(own, e.unreachable())
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.lone == nil {
		e.lone = e.last.alone([]Condition{{Kind: NotReady, Name: e.Host}})
	}
	e.lone.see(own, now, e.away)
}

// unreachable is the condition that the store is away.
func (e *Engine) unreachable() Condition {
	return Condition{Kind: NotReady, Name: e.Host, Severity: Page, Since: e.away,
		Summary: fmt.Sprintf("Certpost on %s gets no answer from NATS.", e.Host),
		Advice:  "Nothing is delivered, and publishers keep their events. /readyz and the log have the reason."}
}

// lasting returns the conditions that have lasted long enough.
func (e *Engine) lasting(all []Condition, own bool, now time.Time) (out []Condition) {
	for _, c := range all {
		first, known := e.first[c.Key()]
		if !known {
			first = sighting{now, own}
			e.first[c.Key()] = first
		}
		if now.Sub(first.at) >= c.For {
			out = append(out, c)
		}
	}
	return out
}

// forget forgets when this process first saw what it no longer sees.
func (e *Engine) forget(seen []Condition, complete bool) {
	keys := map[string]bool{}
	for _, c := range seen {
		keys[c.Key()] = true
	}
	maps.DeleteFunc(e.first, func(key string, s sighting) bool { return (complete || s.own) && !keys[key] })
}

func (e *Engine) change(ctx context.Context, change func(*Board) bool) error {
	return e.store.ChangeAlerts(ctx, change)
}

// tell sends what is due on one channel: from the board of all, or from its own while the store
// is away.
func (e *Engine) tell(ctx context.Context, sender Sender) {
	now := e.Now().UTC()
	m := e.claim(ctx, sender.Name, now)
	if m == nil {
		return
	}
	var err error
	if e.sent(sender.Name) != m.ID { // else only the note that it was sent was lost
		// The end of the program ends no message half-way, unless it takes long.
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), sendPatience)
		stop := context.AfterFunc(ctx, func() { time.AfterFunc(stopPatience, cancel) })
		err = sender.Send(limited, *m)
		stop()
		cancel()
	}
	log := e.Log.Info()
	if err != nil {
		log = e.Log.Error().Err(err)
		if e.Failed != nil {
			e.Failed(sender.Name)
		}
	} else {
		e.mu.Lock()
		e.taken[sender.Name] = m.ID
		e.mu.Unlock()
	}
	log.Str("channel", sender.Name).Str("id", m.ID).Int("firing", len(m.Firing)).Int("resolved", len(m.Resolved)).Msg("alerts: " + outcome(err))
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	e.settle(limited, sender.Name, m, err)
}

func outcome(err error) string {
	if err != nil {
		return "a message could not be sent; it is tried again"
	}
	return "a message was sent"
}

func (e *Engine) sent(sender string) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.taken[sender]
}

// claim returns the message to send now, nil for none.
func (e *Engine) claim(ctx context.Context, sender string, now time.Time) (m *Message) {
	e.mu.Lock()
	lone, last := e.lone, e.last
	if lone != nil {
		m = lone.claim(sender, e.Process, e.Link, e.Timing, now)
	}
	e.mu.Unlock()
	if lone != nil || !last.mayClaim(sender, e.Timing, now) {
		return m // nil, unless this process is alone
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := e.change(ctx, func(b *Board) bool {
		m = b.claim(sender, e.Process, e.Link, e.Timing, now)
		return m != nil
	})
	if err != nil {
		return nil // the next look notices that the store is away
	}
	return m
}

// mayClaim reports whether there is something to send, by what this process knows.
func (b *Board) mayClaim(channel string, t Timing, now time.Time) bool {
	if c := b.Channels[channel]; c != nil && c.Sending != nil {
		return true
	}
	at, ok := b.due(channel, t, now)
	return ok && !at.After(now)
}

// settle notes what became of a message, in the board that it came from.
func (e *Engine) settle(ctx context.Context, sender string, m *Message, failed error) {
	now := e.Now().UTC()
	e.mu.Lock()
	if e.lone != nil {
		e.lone.settle(sender, e.Process, m, failed, now)
	}
	e.mu.Unlock()
	err := e.change(ctx, func(b *Board) bool {
		b.settle(sender, e.Process, m, failed, now)
		return true
	})
	if err != nil {
		e.Log.Debug().Err(err).Str("channel", sender).Msg("alerts: what became of a message is not stored yet")
	}
}

// Board returns the board as this process last knew it; the caller must not change it. alone says that the
// store does not answer, so that it is about this process only.
func (e *Engine) Board() (b *Board, alone bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.lone != nil {
		return e.lone.copy(), true
	}
	return e.last, false
}

// copy copies what readers of a board look at.
func (b *Board) copy() *Board {
	out := &Board{ID: b.ID, Silences: slices.Clone(b.Silences), Omitted: b.Omitted, Channels: map[string]*Channel{}}
	for _, a := range b.Alerts {
		one := *a
		one.Told = maps.Clone(a.Told)
		out.Alerts = append(out.Alerts, &one)
	}
	for name, c := range b.Channels {
		one := *c
		out.Channels[name] = &one
	}
	return out
}

// Health says which channels fail; nil if none does.
func (e *Engine) Health() error {
	b, _ := e.Board()
	var texts []string
	for _, sender := range e.Senders {
		if c := b.Channels[sender.Name]; c != nil && c.Error != "" {
			texts = append(texts, fmt.Sprintf("the %s fails (%d tries): %s", sender.Name, c.Tries, c.Error))
		}
	}
	if texts == nil {
		return nil
	}
	return errors.New(strings.Join(texts, "; "))
}

// States of alerts.
const (
	Firing   = "firing"
	Silenced = "silenced"
)

// State is Firing or Silenced for an alert that lasts, "" for one that is over.
func (b *Board) State(a *Alert, now time.Time) string {
	switch {
	case !a.Over.IsZero():
		return ""
	case b.Silenced(a, now) != nil:
		return Silenced
	}
	return Firing
}
