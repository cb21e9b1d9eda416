package verdict

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Publication is the place of an event in the order of publication: its sequence in the stream of
// events, and the time at which the server stored it. Either is zero if it is not known.
type Publication struct {
	Sequence uint64    `json:"sequence,omitempty"`
	At       time.Time `json:"at,omitzero"`
}

// clockSteps is how far the clocks of two servers, or of one before and after it was set, may differ.
const clockSteps = time.Minute

// Origin is what is known of the publication of an event that is stored elsewhere, such as in a dead letter.
type Origin struct {
	Subject   string // that it was published on, which names its source; "" if that is not known
	Published Publication
}

// Known reports whether anything is known of the place.
func (p Publication) Known() bool { return p.Sequence != 0 || !p.At.IsZero() }

// Before reports whether p was published before other. Times decide, because in a stream that was made
// anew or restored from a backup the sequences begin again; those close to each other do not, because
// the servers of a cluster, of which each may be the next leader, have clocks of their own: then the
// sequences decide. What is not known was not before anything.
func (p Publication) Before(other Publication) bool {
	timed := !p.At.IsZero() && !other.At.IsZero()
	numbered := p.Sequence != 0 && other.Sequence != 0
	if timed && (!numbered || p.At.Sub(other.At).Abs() >= clockSteps) {
		return p.At.Before(other.At)
	}
	return numbered && p.Sequence < other.Sequence
}

// Earlier returns the earlier one of two places; p if that is not known.
func (p Publication) Earlier(other Publication) Publication {
	if other.Before(p) {
		return other
	}
	return p
}

// String returns "1234 2026-03-01T12:00:00.5Z", as ParsePublication reads it; "" if nothing is known.
func (p Publication) String() string {
	switch {
	case !p.Known():
		return ""
	case p.At.IsZero():
		return strconv.FormatUint(p.Sequence, 10)
	}
	return fmt.Sprintf("%d %s", p.Sequence, p.At.UTC().Format(time.RFC3339Nano))
}

// ParsePublication reads what String has written; anything else is the zero Publication.
func ParsePublication(text string) (p Publication) {
	number, at, timed := strings.Cut(text, " ")
	sequence, err := strconv.ParseUint(number, 10, 64)
	if err != nil {
		return Publication{}
	}
	if timed {
		if p.At, err = time.Parse(time.RFC3339Nano, at); err != nil {
			return Publication{}
		}
	}
	p.Sequence = sequence
	return p
}
