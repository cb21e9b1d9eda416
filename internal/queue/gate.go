package queue

import (
	"context"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/verdict"
)

// recheckAfter is the longest time that a lane waits before it checks again whether it
// may fetch: definitions may have changed.
const recheckAfter = 5 * time.Second

// admission says what may be fetched from a lane.
type admission struct {
	n     int           // number of deliveries
	probe bool          // the deliveries test whether a relay answers again
	why   string        // with n = 0: one of the reasons of package broker
	wait  time.Duration // with n = 0: until the next check
}

// admit returns how many deliveries may be fetched now: at most want, and no more than
// their relays may be given.
func (l *lane) admit(ctx context.Context, want int) admission {
	now := time.Now()
	if s, suspended := l.r.replicas.suspension(l.name, now); suspended {
		wait := recheckAfter
		if !s.Until.IsZero() {
			wait = s.Until.Sub(now)
		}
		return admission{why: broker.PausedSuspended, wait: wait}
	}
	relayLists := l.r.courier.Relays(l.name)
	l.observe(relayLists)
	if len(relayLists) == 0 || l.overdue.Swap(false) {
		// No target uses the lane: its deliveries end as TARGET_UNKNOWN. Or the last
		// delivery expired, and the next ones may have to expire too.
		return admission{n: want}
	}
	got := admission{probe: true, why: broker.PausedBreaker, wait: recheckAfter}
	asked := make(map[string]bool)
	limits := true // the relays that may not be tried are at limits of their own
	for _, relays := range relayLists {
		next, wait := firstOpen(relays)
		if next == nil {
			got.wait = min(got.wait, wait)
			limits = limits && relays[0].Limit
			continue
		}
		if asked[next.Relay] {
			continue // already counted for another list
		}
		asked[next.Relay] = true
		room, why, wait := l.room(ctx, next, want)
		got.n += room
		if room == 0 {
			got.why, got.wait = why, min(got.wait, wait)
		} else if next.Breaker == verdict.Closed {
			got.probe = false
		}
	}
	if got.n == 0 {
		if got.why == broker.PausedBreaker && limits {
			got.why = broker.PausedLimit
		}
		return admission{why: got.why, wait: got.wait}
	}
	return admission{n: min(got.n, want), probe: got.probe}
}

// firstOpen returns the first relay that may be tried now; nil, and how long to wait,
// when there is none.
func firstOpen(relays []verdict.RelayStatus) (relay *verdict.RelayStatus, wait time.Duration) {
	wait = recheckAfter
	for i := range relays {
		if relays[i].Wait <= 0 {
			return &relays[i], 0
		}
		wait = min(wait, relays[i].Wait)
	}
	return nil, wait
}

// room returns how many more deliveries this lane may give to a relay; with n = 0, also
// the reason and how long to wait.
func (l *lane) room(ctx context.Context, relay *verdict.RelayStatus, want int) (n int, why string, wait time.Duration) {
	n = want
	if relay.Breaker != verdict.Closed {
		n = 1
	}
	if relay.MaxConnections > 0 {
		busy := max(relay.Busy, int(l.inWork.Load()))
		if n = min(n, l.r.replicas.share(relay.MaxConnections, time.Now())-busy); n <= 0 {
			return 0, broker.PausedConnections, time.Second
		}
	}
	if !relay.MaxRate.IsZero() {
		free, wait := l.r.meter.room(ctx, relay.Relay, relay.MaxRate)
		if free -= int(l.uncounted.Load()); free <= 0 {
			return 0, broker.PausedRate, max(wait, 50*time.Millisecond)
		}
		n = min(n, free)
	}
	return n, "", 0
}

// observe logs when the breaker of a relay of the lane opens and closes, and updates the
// lane's status and metrics.
func (l *lane) observe(relayLists [][]verdict.RelayStatus) {
	status := broker.LaneStatus{Lane: l.name, Breaker: broker.BreakerClosed}
	closed := 0
	seen := make(map[string]bool)
	for _, relays := range relayLists {
		for _, relay := range relays {
			if seen[relay.Relay] {
				continue
			}
			seen[relay.Relay] = true
			if relay.Breaker == verdict.Closed {
				closed++
				if l.away[relay.Relay] {
					delete(l.away, relay.Relay)
					l.r.log.Info().Str("lane", l.name).Str("relay", relay.Relay).Msg("the relay is in use again")
				}
				continue
			}
			away := broker.RelayAway{Relay: relay.Relay, Breaker: relay.Breaker, Reason: relay.Reason, Reply: relay.Reply, Limit: relay.Limit}
			if relay.Wait > 0 {
				away.Again = time.Now().Add(relay.Wait).UTC().Truncate(time.Second)
			}
			status.Relays = append(status.Relays, away)
			if !l.away[relay.Relay] {
				l.away[relay.Relay] = true
				l.r.metrics.breakerOpen.WithLabelValues(l.name).Inc()
				l.r.log.Warn().Str("lane", l.name).Str("relay", relay.Relay).Str("reason", relay.Reason).
					Msg("the relay is skipped for a while; its deliveries wait, or go to a fallback relay")
			}
		}
	}
	gauge := 0.0
	switch {
	case len(status.Relays) > 0 && closed > 0:
		gauge, status.Breaker = 1, broker.BreakerPartly
	case len(status.Relays) > 0:
		gauge, status.Breaker = 2, broker.BreakerOpen
	}
	l.r.metrics.breaker.WithLabelValues(l.name).Set(gauge)
	l.status.Store(&status)
}

// pause waits as long as the admission says, recheckAfter at most, or until wake is
// called.
func (l *lane) pause(ctx context.Context, got admission) {
	select {
	case <-ctx.Done():
	case <-l.woken:
	case <-time.After(min(got.wait, recheckAfter)):
	}
}

// setPaused records why nothing is fetched; "" when something is fetched.
func (l *lane) setPaused(why string) {
	before := l.paused.Swap(&why)
	if before != nil && *before != "" && *before != why {
		l.r.metrics.paused.WithLabelValues(l.name, *before).Set(0)
	}
	if why != "" {
		l.r.metrics.paused.WithLabelValues(l.name, why).Set(1)
	}
}

// wake makes a waiting lane check again whether it may fetch.
func (l *lane) wake() {
	select {
	case l.woken <- struct{}{}:
	default: // requested already
	}
}
