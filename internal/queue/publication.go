package queue

import (
	"time"

	"github.com/nats-io/nats.go"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/verdict"
)

// placeOf returns the place in the order of publication of an event that is stored as the given one, or of
// its replay: that keeps the place of the first time, which its headers say. A publisher who writes the header
// can only make an event of its own older.
func placeOf(h nats.Header, sequence uint64, at time.Time) verdict.Publication {
	first, now := verdict.ParsePublication(h.Get(broker.HeaderPublication)), verdict.Publication{Sequence: sequence, At: at}
	if !now.Known() {
		return first
	}
	return now.Earlier(first)
}

// place is placeOf for an event in CERTPOST_EVENTS.
func (o origin) place() verdict.Publication { return placeOf(o.headers, o.seq, o.published) }

// publication is the event's place in the order of publication. A letter of a version that did not
// note it has at least its entry in the ledger; an event that was published straight as a delivery has
// the place of that message.
func (j *job) publication() verdict.Publication {
	switch {
	case j.place.Known():
		return j.place
	case j.entry.EventSequence != 0:
		return verdict.Publication{Sequence: j.entry.EventSequence}
	}
	return verdict.Publication{At: j.since}
}

// setPublished records in a copy of a delivery when the first one was published: its age
// counts from there.
func setPublished(h nats.Header, at time.Time) {
	h.Set(broker.HeaderPublished, at.UTC().Format(time.RFC3339Nano))
}
