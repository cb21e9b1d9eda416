package verdict

import "time"

// SharedLanePrefix begins the names of lanes that several relays share.
const SharedLanePrefix = "shared-"

// Breaker is what a process thinks of a relay, by how its last connections went.
type Breaker string

// The breaker's positions.
const (
	Closed   Breaker = "closed"    // it answers
	HalfOpen Breaker = "half-open" // it may be tried by one delivery, or is
	Open     Breaker = "open"      // it is left alone for a while
)

// RelayStatus is what a process knows of a relay.
type RelayStatus struct {
	Relay   string // host:port
	Breaker Breaker
	// Wait is how long the relay is not to be tried; 0: it may be, by one delivery
	// alone when the breaker is half open.
	Wait time.Duration
	// Reason is why the breaker is not closed.
	Reason string
	// Busy is how many deliveries are on a connection to it, or on their way to one.
	Busy int
	// MaxConnections and MaxRate are its limits, for all processes together; zero is none.
	MaxConnections int
	MaxRate        Rate
}

// Limits are what the processes that share relays grant each other.
type Limits interface {
	// Take asks for one more mail to a relay. It is granted when wait is 0, and not
	// before that has passed when it is not.
	Take(relay string, limit Rate) (wait time.Duration)
	// Share is this process's part of a number of connections; it may be 0.
	Share(connections int) int
}
