package desk

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/verdict"
)

// laneWords say why a process fetches nothing from a lane, or which of its relays it does not
// use, the worst first.
var laneWords = []struct{ state, words string }{
	{broker.PausedSuspended, "suspended"},
	{broker.PausedBreaker, "relay does not answer"},
	{broker.BreakerOpen, "relay does not answer"},
	{broker.PausedLimit, "at the relay's own limit"},
	{broker.BreakerPartly, "skips a relay"},
	{broker.PausedRate, "at its rate limit"},
	{broker.PausedConnections, "at its connection limit"},
}

// standstillWords say what stands still.
var standstillWords = map[string]string{
	"topology": "streams and consumers", "consumer": "consumer of a lane", "fetch": "fetching deliveries", "progress": "handing out deliveries",
	"fanout": "resolving events", "ledger": "ledger", "dead_letters": "storing dead letters", "rate": "counting mails", "reconcile": "comparing the streams",
	"stranded": "moving deliveries", "outcomes": "publishing outcomes", "outcome_webhook": "webhook of outcomes",
}

// StandstillWords says what a standstill's part is; a part of another version is shown as it
// is called.
func StandstillWords(part string) string {
	if words, known := standstillWords[part]; known {
		return words
	}
	return part
}

// stateOf is the state of a lane in one process that laneWords describe.
func stateOf(s broker.LaneStatus) string {
	switch {
	case s.Paused != "":
		return s.Paused
	case s.Breaker == broker.BreakerOpen && len(s.Relays) > 0 && !slices.ContainsFunc(s.Relays, func(r broker.RelayAway) bool { return !r.Limit }):
		return broker.PausedLimit
	}
	return s.Breaker
}

// StatusWords says what a lane does in one process.
func StatusWords(s broker.LaneStatus) string {
	state := stateOf(s)
	for _, w := range laneWords {
		if w.state == state {
			return w.words
		}
	}
	return "delivers"
}

// BreakerWords says how a relay is used that does not answer, or is at its limit.
func BreakerWords(r broker.RelayAway) string {
	switch {
	case r.Breaker == verdict.HalfOpen:
		return "being tried again"
	case r.Limit:
		return "not used: at the relay's own limit"
	}
	return "not used"
}

// LaneState is the state of a lane in words, the same on pages and in commands.
type LaneState struct {
	Words  string    // what the lane does
	Why    string    // Certpost's or the operator's reason; "" if the words say it all
	Reply  string    // the relay's reply, if that is the reason; cleaned
	By     string    // who suspended the lane
	Until  time.Time // when the state ends by itself; zero: unknown, or not by itself
	Lately string    // what became of the attempts of the last hour; "" if not known, or if Why says it
}

// AwayWords says of the lane of a mail host since when no process runs there, and what waits.
func AwayWords(l broker.LaneInfo) string {
	host := strings.TrimPrefix(l.Lane, verdict.HostLanePrefix)
	seen := "no process has run there yet"
	if !l.LastSeen.IsZero() {
		seen = "last seen " + legible.Moment(l.LastSeen)
	}
	waiting := "nothing waits"
	switch l.Waiting {
	case 0:
	case 1:
		waiting = "1 delivery waits"
	default:
		waiting = fmt.Sprintf("%d deliveries wait", l.Waiting)
	}
	return fmt.Sprintf("mail host %s: %s, %s; start `certpost run` there with mail_host", host, seen, waiting)
}

// NothingSucceeds is the state of a lane whose attempts all fail, although its relays answer.
const NothingSucceeds = "nothing succeeds"

// activityState is the state of a lane that nothing keeps from delivering: whether it does.
func activityState(l broker.LaneInfo) LaneState {
	switch a := l.Activity; {
	case (a == nil || a.Accepted+a.Failed == 0) && l.Waiting > 0: // the pauses grow to an hour, and a restart forgets the attempts
		return LaneState{Words: "waits for the next try", Why: "`certpost deliveries list --state waiting` says why and until when each delivery waits"}
	case a == nil || a.Accepted+a.Failed == 0:
		return LaneState{Words: "ready"}
	case a.Accepted == 0:
		return LaneState{Words: NothingSucceeds, Why: LatelyWords(a)}
	}
	return LaneState{Words: "delivers"}
}

// LatelyWords says what became of a lane's attempts, "" if there were none.
func LatelyWords(a *broker.LaneActivity) string {
	if a == nil {
		return ""
	}
	text := "no attempt in the last hour"
	if n := a.Accepted + a.Failed; n > 0 {
		text = fmt.Sprintf("%d of %d attempts in the last hour succeeded", a.Accepted, n)
		if n == 1 {
			text = "the only attempt in the last hour " + map[bool]string{true: "succeeded", false: "failed"}[a.Accepted == 1]
		}
	}
	if !a.LastAccepted.IsZero() {
		text += ", the last at " + legible.Moment(a.LastAccepted)
	}
	if !a.LastFailed.IsZero() {
		text += fmt.Sprintf("; last failure %s at %s", a.Failure, legible.Moment(a.LastFailed))
	}
	return text
}

// HeldWords says which deliveries of a lane are held back and why, one text each; urgent says that the
// certificate which the host has now has expired, or does so within a week.
func HeldWords(l broker.LaneInfo) (all []string, urgent bool) {
	for _, s := range l.Statuses {
		for _, h := range s.HeldBack {
			all, urgent = append(all, fmt.Sprintf("event %s, target %s: %s", h.Event, h.Target, h.Reason)), urgent || h.Urgent
		}
	}
	return all, urgent
}

// StateOf returns the state of a lane: that of its suspension, else the worst that a process
// reports.
func StateOf(l broker.LaneInfo) LaneState {
	s := stateIn(l)
	if s.Words != NothingSucceeds {
		s.Lately = LatelyWords(l.Activity)
	}
	return s
}

func stateIn(l broker.LaneInfo) LaneState {
	switch {
	case l.Suspension != nil:
		return LaneState{Words: "suspended", Why: l.Suspension.Reason, By: l.Suspension.Shown(), Until: l.Suspension.Until}
	case l.Starting && !l.Away():
		return LaneState{Words: "starting", Why: "no process has reported yet that it serves the lane"}
	case l.Away():
		return LaneState{Words: "mail host is away", Why: AwayWords(l)}
	case l.Replicas == 0:
		return LaneState{Words: "not served", Why: "no process has reported recently that it serves the lane"}
	}
	for _, w := range laneWords {
		for _, s := range l.Statuses {
			if stateOf(s) != w.state {
				continue
			}
			state := LaneState{Words: w.words}
			if len(s.Relays) > 0 {
				away := s.Relays[0]
				if i := slices.IndexFunc(s.Relays, func(r broker.RelayAway) bool { return r.Limit }); i >= 0 && w.state == broker.PausedLimit {
					away = s.Relays[i]
				}
				state.Why, state.Reply = away.Reason, away.Reply
				if away.Limit {
					state.Until = away.Again
				}
			}
			return state
		}
	}
	if held, _ := HeldWords(l); len(held) > 0 {
		return LaneState{Words: "deliveries held back", Why: held[0]}
	}
	if len(l.Pauses) > 0 { // no process has reported it yet
		p := l.Pauses[0]
		return LaneState{Words: "at the relay's own limit", Why: p.Reason, Reply: p.Reply, Until: p.Until}
	}
	return activityState(l)
}
