package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/backoff"
	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/verdict"
)

// meter counts mails to relays that have a rate limit, for all processes together
// (docs/decisions/0021).
type meter struct {
	kv     jetstream.KeyValue
	log    zerolog.Logger
	report func(part, relay string, err error) // gets the result of each count
	left   func(relay string, mails int)       // gets what a relay could still be given

	mu      sync.Mutex
	queues  map[string][]chan<- time.Duration // callers that wait for an answer, by relay
	serving map[string]bool                   // relays for which serve runs
}

func newMeter(kv jetstream.KeyValue, log zerolog.Logger, report func(part, relay string, err error), left func(relay string, mails int)) *meter {
	return &meter{kv: kv, log: log, report: report, left: left, queues: map[string][]chan<- time.Duration{}, serving: map[string]bool{}}
}

// meterTimeout bounds one request to the bucket, retries included; meterPause is the wait
// when it fails.
const (
	meterTimeout = 5 * time.Second
	meterPause   = 2 * time.Second
)

var validKey = regexp.MustCompile(`^[A-Za-z0-9_=.-]+$`)

// relayKey returns the relay's key in the bucket, such as rate.smtp.example.com=587. A
// name that is not valid in a key is replaced by a hash.
func relayKey(prefix, relay string) string {
	if key := strings.NewReplacer("[", "", "]", "", ":", "=").Replace(relay); validKey.MatchString(key) {
		return prefix + key
	}
	return prefix + events.Token(relay)
}

// room returns how many mails the relay may be given now; when it is none, also how long
// to wait.
func (m *meter) room(ctx context.Context, relay string, limit verdict.Rate) (n int, wait time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, meterTimeout)
	defer cancel()
	w, _, err := m.read(ctx, relay)
	m.report(partRate, relay, err)
	if err != nil {
		m.log.Warn().Err(err).Str("relay", relay).Msg("the count of mails to the relay cannot be read; its lane waits")
		return 0, backoff.Jitter(meterPause)
	}
	n, wait = w.room(limit, time.Now())
	m.left(relay, n)
	return n, wait
}

// take counts one mail and returns 0, or counts none and returns how long to wait.
// Callers that ask while a write for the same relay is in progress are answered together
// by the next write.
func (m *meter) take(relay string, limit verdict.Rate) (wait time.Duration) {
	answer := make(chan time.Duration, 1)
	m.mu.Lock()
	m.queues[relay] = append(m.queues[relay], answer)
	first := !m.serving[relay]
	m.serving[relay] = true
	m.mu.Unlock()
	if first {
		go m.serve(relay, limit)
	}
	return <-answer
}

// serve answers the waiting callers until there are none.
func (m *meter) serve(relay string, limit verdict.Rate) {
	for {
		m.mu.Lock()
		asking := m.queues[relay]
		delete(m.queues, relay)
		if len(asking) == 0 {
			delete(m.serving, relay)
			m.mu.Unlock()
			return
		}
		m.mu.Unlock()
		granted, wait := m.reserve(relay, limit, len(asking))
		for i, answer := range asking {
			if i < granted {
				answer <- 0
			} else {
				answer <- wait
			}
		}
	}
}

// reserve counts as many of the mails as the limit allows now. wait is how long the
// others have to wait.
func (m *meter) reserve(relay string, limit verdict.Rate, mails int) (granted int, wait time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), meterTimeout)
	defer cancel()
	for delay := 2 * time.Millisecond; ; delay = min(2*delay, 200*time.Millisecond) {
		w, revision, err := m.read(ctx, relay)
		if err == nil {
			now := time.Now()
			if granted, wait = w.room(limit, now); granted == 0 {
				return 0, wait
			}
			granted = min(granted, mails)
			w.Limit = limit.String()
			w.add(limit, granted, now)
			if err = m.write(ctx, w, revision); err == nil {
				m.report(partRate, relay, nil)
				rest, _ := w.room(limit, now)
				m.left(relay, rest)
				return granted, w.after(limit, now)
			}
		}
		if !errors.Is(err, broker.ErrClaimLost) || ctx.Err() != nil {
			m.report(partRate, relay, err)
			m.log.Warn().Err(err).Str("relay", relay).Msg("mails to the relay cannot be counted; the deliveries wait")
			return 0, backoff.Jitter(meterPause)
		}
		backoff.Sleep(ctx, backoff.Jitter(delay)) // another process wrote first
	}
}

// after returns how long to wait for the next mail after those just granted.
func (w *rateWindow) after(limit verdict.Rate, now time.Time) time.Duration {
	_, wait := w.room(limit, now)
	return max(wait, time.Millisecond)
}

func (m *meter) read(ctx context.Context, relay string) (w rateWindow, revision uint64, err error) {
	w.Relay = relay
	entry, err := m.kv.Get(ctx, relayKey(broker.RatePrefix, relay))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return w, 0, nil
	}
	if err != nil {
		return w, 0, fmt.Errorf("rate of %s in %s: %w", relay, broker.RelaysBucket, err)
	}
	if err := json.Unmarshal(entry.Value(), &w); err != nil {
		// Not written by Certpost. What the relay was given is unknown: assume the whole
		// limit, at the time of the entry.
		w = rateWindow{Relay: relay, Parts: []part{{entry.Created(), math.MaxInt32}}}
	}
	return w, entry.Revision(), nil
}

func (m *meter) write(ctx context.Context, w rateWindow, revision uint64) error {
	value, err := json.Marshal(w)
	if err != nil {
		return fmt.Errorf("rate of %s: %w", w.Relay, err)
	}
	if revision == 0 {
		_, err = m.kv.Create(ctx, relayKey(broker.RatePrefix, w.Relay), value)
	} else {
		_, err = m.kv.Update(ctx, relayKey(broker.RatePrefix, w.Relay), value, revision)
	}
	if errors.Is(err, jetstream.ErrKeyExists) || broker.WrongSequence(err) {
		return broker.ErrClaimLost
	}
	if err != nil {
		return fmt.Errorf("rate of %s in %s: %w", w.Relay, broker.RelaysBucket, err)
	}
	return nil
}
