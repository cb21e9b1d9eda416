package verdict

import (
	"strings"
	"time"
)

// SharedLanePrefix is the prefix of the names of lanes that several relays share.
const SharedLanePrefix = "shared-"

// HostLanePrefix is the prefix of the names of mail hosts' lanes. Only the process on that host
// serves such a lane.
const HostLanePrefix = "host-"

// OnHost reports whether a lane is that of a mail host.
func OnHost(lane string) bool { return strings.HasPrefix(lane, HostLanePrefix) }

// Breaker is the state of a relay's circuit breaker in one process, which follows
// from the last connections of that process to the relay.
type Breaker string

// The breaker's states.
const (
	Closed   Breaker = "closed"    // the relay answers
	HalfOpen Breaker = "half-open" // one delivery may try the relay, or is trying it
	Open     Breaker = "open"      // no delivery tries the relay until the pause ends
)

// RelayStatus is the state of a relay as one process sees it.
type RelayStatus struct {
	Relay   string // host:port
	Breaker Breaker
	// Wait is how long the relay must not be tried. With 0 it may be tried; when the
	// breaker is half open, by one delivery only.
	Wait time.Duration
	// Reason is why the breaker is not closed; "" when it is closed.
	Reason string
	// Reply is the text of the relay's reply, cleaned and cut; "" if it gave none.
	Reply string
	// Limit is set if the breaker is not closed because the relay said that it is at a
	// limit of its own.
	Limit bool
	// Busy is the number of deliveries that use a connection to the relay or are
	// opening one.
	Busy int
	// MaxConnections and MaxRate are the relay's limits, for all processes together;
	// zero means no limit.
	MaxConnections int
	MaxRate        Rate
}

// Limits divides the limits of relays among the processes that share them.
type Limits interface {
	// Take asks to send one more mail to a relay. With wait 0 the mail is granted and
	// counted; otherwise it is not, and the caller asks again after wait.
	Take(relay string, limit Rate) (wait time.Duration)
	// Share returns this process's part of a number of connections; it may be 0.
	Share(connections int) int
	// Pause tells the other processes that a relay is at a limit of its own. It does not
	// wait until they know.
	Pause(p RelayPause)
}

// RelayPause is a pause of a relay that said that it is at a limit of its own, such as
// mails per day. It holds for all processes.
type RelayPause struct {
	Relay  string    `json:"relay"`           // host:port
	Lanes  []string  `json:"lanes,omitempty"` // that use the relay
	Reason string    `json:"reason"`          // Certpost's text
	Reply  string    `json:"reply,omitempty"` // the relay's text, cleaned and cut
	Since  time.Time `json:"since"`
	Until  time.Time `json:"until"`
}

// Over reports whether the pause has ended.
func (p RelayPause) Over(now time.Time) bool { return !p.Until.After(now) }
