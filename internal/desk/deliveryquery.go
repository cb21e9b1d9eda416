package desk

import (
	"slices"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/events"
)

// DeliveryQuery selects entries of the ledger: which recipients got which certificate, and
// when. The zero value selects all.
type DeliveryQuery struct {
	Name        string // a name of the certificate, or *.suffix
	Serial      string // hexadecimal; colons and case are ignored
	Fingerprint string // SHA-256 of the certificate, in the same form
	Recipient   string // an address that has the mail or may have it, was refused, or is still owed it
	Target      string
	Event       string
	State       broker.State
	Since       time.Duration // before now
	From, To    time.Time     // of the last attempt
}

// indexed is an entry with its index.
type indexed struct {
	*deliveries
	*slot
}

// DeliveryConditions are the conditions of the list of deliveries.
var DeliveryConditions = Conditions[DeliveryQuery, indexed]{
	text(Condition{Key: "name", Label: "name", Field: "Name in the certificate", Kind: Search, Help: "Only certificates with this name, or *.suffix.", Hint: "www.example.com or *.example.com"},
		func(q *DeliveryQuery) *string { return &q.Name }, func(q *DeliveryQuery) func(indexed) bool {
			var wanted func(uint32) bool
			return func(e indexed) bool {
				if wanted == nil {
					wanted = e.book.wanted(strings.ToLower(q.Name))
				}
				return slices.ContainsFunc(e.deliveries.names[e.slot.names:e.slot.names+uint32(e.count)], wanted)
			}
		}),
	text(Condition{Key: "recipient", Label: "recipient", Field: "Recipient", Help: "Only deliveries to this address.", Hint: "ADDRESS"},
		func(q *DeliveryQuery) *string { return &q.Recipient }, func(q *DeliveryQuery) func(indexed) bool {
			return lookedUp(func(x *deliveries) (uint32, bool) {
				id, known := x.book.ids[x.hash.of("\x00", strings.ToLower(q.Recipient))]
				return id, known
			}, func(e indexed, id uint32) bool {
				from := e.slot.names + uint32(e.count)
				return slices.Contains(e.deliveries.names[from:from+uint32(e.to)], id)
			})
		}),
	text(Condition{Key: "target", Label: "target", Field: "Target", Help: "Only this target.", Hint: "ID"},
		func(q *DeliveryQuery) *string { return &q.Target }, func(q *DeliveryQuery) func(indexed) bool {
			return lookedUp(func(x *deliveries) (uint32, bool) {
				n, known := x.targets[q.Target]
				return n, known
			}, func(e indexed, n uint32) bool { return e.slot.target == n })
		}),
	text(Condition{Key: "state", Label: "state", Field: "State", Help: "Only this state: waiting, sending, sent, dead, discarded or skipped.", Values: values(states)},
		func(q *DeliveryQuery) *string { return (*string)(&q.State) }, func(q *DeliveryQuery) func(indexed) bool {
			state := slotState(q.State)
			return func(e indexed) bool { return e.state == state }
		}),
	text(Condition{Key: "event", Label: "event", Field: "Event", Help: "Only this event.", Hint: "ID"},
		func(q *DeliveryQuery) *string { return &q.Event }, func(q *DeliveryQuery) func(indexed) bool {
			byToken, byID := hashed(events.Token(q.Event), func(s *slot) uint64 { return s.event }), hashed(q.Event, func(s *slot) uint64 { return s.event })
			return func(e indexed) bool { return byToken(e) || byID(e) }
		}),
	hexadecimal(Condition{Key: "serial", Label: "serial", Field: "Serial (hexadecimal)", Help: "Only the certificate with this serial number (hexadecimal).", Hint: "HEX"},
		func(q *DeliveryQuery) *string { return &q.Serial }, func(q *DeliveryQuery) func(indexed) bool {
			return hashed(hexDigits(q.Serial), func(s *slot) uint64 { return s.serial })
		}),
	hexadecimal(Condition{Key: "fingerprint", Label: "SHA-256", Field: "SHA-256 of the certificate", Help: "Only the certificate with this SHA-256 (hexadecimal).", Hint: "HEX"},
		func(q *DeliveryQuery) *string { return &q.Fingerprint }, func(q *DeliveryQuery) func(indexed) bool {
			return hashed(hexDigits(q.Fingerprint), func(s *slot) uint64 { return s.finger })
		}),
	span(Condition{Key: "since", Label: "since", Help: "Only deliveries with an attempt in the last 24h, another duration such as 7d, or since a time."},
		func(q *DeliveryQuery) *time.Duration { return &q.Since }, attemptFrom),
	moment(Condition{Key: "from", Label: "from", Field: "From (UTC)", Help: "Only deliveries whose last attempt was from this time on (2026-01-31, 2026-01-31T15:04:05Z)."},
		func(q *DeliveryQuery) *time.Time { return &q.From }, attemptFrom),
	moment(Condition{Key: "to", Label: "before", Field: "Before (UTC)", Help: "Only deliveries whose last attempt was before this time."},
		func(q *DeliveryQuery) *time.Time { return &q.To }, func(t time.Time) func(indexed) bool {
			before := seconds(t)
			return func(e indexed) bool { return e.slot.last < before }
		}),
}

// states are the states of a delivery.
var states = []broker.State{broker.StateWaiting, broker.StateSending, broker.StateSent, broker.StateDead, broker.StateDiscarded, broker.StateSkipped}

func attemptFrom(t time.Time) func(indexed) bool {
	from := seconds(t)
	return func(e indexed) bool { return e.slot.last >= from }
}

// hashed compares a text with a hash in the slot. Each index has its own hash function.
func hashed(text string, is func(*slot) uint64) func(indexed) bool {
	var want uint64
	ready := false
	return func(e indexed) bool {
		if !ready {
			want, ready = e.hash.of(text), true
		}
		return is(e.slot) == want
	}
}

// lookedUp compares the number that the index has assigned to a value. If the index does not
// know the value, no entry matches.
func lookedUp(find func(*deliveries) (n uint32, known bool), is func(indexed, uint32) bool) func(indexed) bool {
	var n uint32
	known, ready := false, false
	return func(e indexed) bool {
		if !ready {
			n, known = find(e.deliveries)
			ready = true
		}
		return known && is(e, n)
	}
}
