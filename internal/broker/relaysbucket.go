package broker

import (
	"encoding/json"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certpost/certpost/internal/verdict"
)

// The keys of the bucket CERTPOST_RELAYS.
const (
	ReplicaPrefix   = "replica."   // <id>: a Heartbeat
	SuspendedPrefix = "suspended." // <lane>: a Suspension
	RatePrefix      = "rate."      // <relay>: a window
)

const (
	// HeartbeatEvery is how often a process says that it is there.
	HeartbeatEvery = 5 * time.Second
	// ReplicaGoneAfter is how long after its last word a process counts as gone.
	ReplicaGoneAfter = 3 * HeartbeatEvery
)

// Heartbeat is what a process says of itself.
type Heartbeat struct {
	Process string       `json:"process"` // host/pid/id
	Lanes   []LaneStatus `json:"lanes,omitempty"`
}

// The breakers of a lane's relays taken together.
const (
	BreakerClosed = "closed"
	BreakerPartly = "partly" // some relays are left alone, the lane goes on to others
	BreakerOpen   = "open"   // all are
)

// LaneStatus is what a page or a health check says of a lane in one process.
type LaneStatus struct {
	Lane     string      `json:"lane"`
	Process  string      `json:"process,omitempty"` // host/pid/id, where several processes are told of
	Breaker  string      `json:"breaker"`
	Relays   []RelayAway `json:"relays,omitempty"`
	Paused   string      `json:"paused,omitempty"` // why nothing is fetched: suspended, breaker, rate, connections
	InFlight int         `json:"in_flight"`
}

// RelayAway is a relay whose breaker is not closed.
type RelayAway struct {
	Relay   string          `json:"relay"`
	Breaker verdict.Breaker `json:"breaker"`
	Reason  string          `json:"reason"`
	Again   time.Time       `json:"tried_again,omitzero"` // when it may be tried; zero: by the next delivery
}

// ReadSuspension reads an entry. One that cannot be read suspends all the same:
// somebody wanted it, and did not use our command.
func ReadSuspension(lane string, e jetstream.KeyValueEntry) Suspension {
	var s Suspension
	if err := json.Unmarshal(e.Value(), &s); err != nil {
		s = Suspension{Reason: "the entry cannot be read; delete it to resume", Since: e.Created()}
	}
	s.Lane, s.Revision = lane, e.Revision()
	return s
}

var ErrWatchEnded = errors.New("the watch has ended")
