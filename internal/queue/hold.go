package queue

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/verdict"
)

// holds are the deliveries that this process holds back until somebody has changed something
// outside, such as records in DNS. Each is looked at again within a minute.
type holds struct {
	mu    sync.Mutex
	byKey map[string]held // by ledger key
}

type held struct {
	broker.HeldBack
	lane   string
	seen   time.Time // when it was last looked at
	logged time.Time
}

const (
	// holdLogEvery is the time between two lines in the log about the same hold.
	holdLogEvery = time.Hour
	// holdForgotten is the time after which a hold that was not looked at again has ended elsewhere:
	// another process has the delivery, or it was removed from the stream.
	holdForgotten = 10 * time.Minute
)

// note records a hold and reports whether the log is to say it: a new one, one for another reason,
// or one that the log has not said for an hour.
func (h *holds) note(key, lane string, what broker.HeldBack, now time.Time) (say bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	before, known := h.byKey[key]
	next := held{what, lane, now, before.logged}
	if say = !known || before.Reason != what.Reason || now.Sub(before.logged) >= holdLogEvery; say {
		next.logged = now
	}
	if h.byKey == nil {
		h.byKey = make(map[string]held)
	}
	h.byKey[key] = next
	return say
}

// end says that a delivery is not held any more.
func (h *holds) end(key string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.byKey, key)
}

// of returns the holds of a lane, by target.
func (h *holds) of(lane string, now time.Time) (all []broker.HeldBack) {
	h.mu.Lock()
	defer h.mu.Unlock()
	maps.DeleteFunc(h.byKey, func(_ string, one held) bool { return now.Sub(one.seen) > holdForgotten })
	for _, key := range slices.Sorted(maps.Keys(h.byKey)) {
		if one := h.byKey[key]; one.lane == lane {
			all = append(all, one.HeldBack)
		}
	}
	return all
}

// hold NAKs a delivery that waits for something outside, and says so in the ledger, in the log and
// on /healthz. It is not an attempt. The ledger is written only when what it says has changed: a
// delivery may be held for days.
func (j *job) hold(f *verdict.Failure) {
	e := j.entry
	e.Attempts--
	if e.State != broker.StateWaiting || e.Failure == nil || e.Failure.Reason != f.Reason || !e.Hold.Same(f.Hold) {
		e.Hold = f.Hold
		if !j.record(e.Waiting(f), time.Now().Add(leaseMargin)) {
			return
		}
		j.r.reached(pointWaiting)
	}
	now := time.Now()
	what := broker.HeldBack{Event: j.event.ID, Target: j.target, Reason: f.Reason, Urgent: f.Hold.Urgent(now)}
	if j.r.holds.note(j.key, j.lane.name, what, now) {
		j.logHold(what, f.Hold)
		j.r.replicas.heartbeatNow()
	}
	delay := j.r.relayDelay
	if left := f.Hold.Until.Sub(now); left > 0 {
		delay = min(delay, left)
	}
	j.nak(j.r.untilRelay(delay), nil)
}

func (j *job) logHold(what broker.HeldBack, h *verdict.Hold) {
	level, msg := zerolog.WarnLevel, "held back; it is deployed as soon as that is possible"
	if what.Urgent {
		level, msg = zerolog.ErrorLevel, "held back, and the certificate that is there now expires soon or has expired"
	}
	line := j.r.log.WithLevel(level).Str("event", what.Event).Str("target", what.Target).Str("lane", j.lane.name).Str("outcome", "held").
		Str("code", string(verdict.DeployHeld)).Str("reason", what.Reason).Strs("publish", h.Publish)
	if !h.Until.IsZero() {
		line.Time("until", h.Until)
	}
	if !h.Expires.IsZero() {
		line.Time("expires", h.Expires)
	}
	line.Msg(msg)
}
