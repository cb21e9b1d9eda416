package broker

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/verdict"
)

// The keys of the bucket CERTPOST_RELAYS.
const (
	ReplicaPrefix   = "replica."   // <id>: a Heartbeat
	SuspendedPrefix = "suspended." // <lane>: a Suspension
	RatePrefix      = "rate."      // <relay>: a window
	PausePrefix     = "pause."     // <relay>: a verdict.RelayPause
	HostPrefix      = "mailhost."  // <lane of a mail host>: a HostSeen
	sealKey         = "seal"       // the key with which deliveries are sealed, shared by all processes
)

const (
	// HeartbeatEvery is the interval of a process's heartbeats.
	HeartbeatEvery = 5 * time.Second
	// ReplicaGoneAfter is the time after its last heartbeat when a process counts as gone.
	ReplicaGoneAfter = 3 * HeartbeatEvery
)

// Heartbeat is what a process reports of itself.
type Heartbeat struct {
	Process string       `json:"process"` // host/pid/id
	Lanes   []LaneStatus `json:"lanes,omitempty"`
	// AuditKey is the id of the key with which it signs records; "" for none.
	AuditKey string `json:"audit_key,omitempty"`
	// Standstills are what has kept events or deliveries from moving for a minute or longer.
	Standstills []Standstill `json:"standstills,omitempty"`
}

// HostSeen is when a process ran on a mail host. It stays when the process has gone.
type HostSeen struct {
	Process string    `json:"process"` // host/pid/id
	At      time.Time `json:"at"`
}

// SawHost records that a process runs on a mail host, which has a lane.
func (b *Broker) SawHost(ctx context.Context, kv jetstream.KeyValue, lane, process string) error {
	value, err := json.Marshal(HostSeen{Process: process, At: time.Now().UTC().Truncate(time.Second)})
	if err == nil {
		_, err = kv.Put(ctx, HostPrefix+lane, value)
	}
	return err
}

// Standstill is a part of the work of one process that makes no progress.
type Standstill struct {
	Process string    `json:"process,omitempty"` // host/pid/id, if those of several processes are listed
	Part    string    `json:"part"`              // topology, consumer, fetch, progress, fanout, ledger, dead_letters, rate, reconcile, stranded, outcomes, outcome_webhook
	Name    string    `json:"name,omitempty"`    // of the lane or relay, if it concerns only one
	Since   time.Time `json:"since"`
	Reason  string    `json:"reason"`
}

// The combined breaker state of a lane's relays.
const (
	BreakerClosed = "closed"
	BreakerPartly = "partly" // some relays are not tried, the lane uses the others
	BreakerOpen   = "open"   // no relay is tried
)

// The reasons for which nothing is fetched from a lane. They are labels of the metric
// certpost_lane_paused; people get the words of package desk.
const (
	PausedSuspended   = "suspended"   // by an operator
	PausedBreaker     = "breaker"     // no relay of any target may be tried
	PausedLimit       = "relay_limit" // the same, because the relays said that they are at limits of their own
	PausedRate        = "rate"        // the relay's rate limit is reached
	PausedConnections = "connections" // all connections of this process's share are in use
)

// LaneStatus is the state of a lane in one process, for pages and health checks.
type LaneStatus struct {
	Lane     string      `json:"lane"`
	Process  string      `json:"process,omitempty"` // host/pid/id, if statuses of several processes are listed
	Breaker  string      `json:"breaker"`
	Relays   []RelayAway `json:"relays,omitempty"`
	Paused   string      `json:"paused,omitempty"` // why nothing is fetched: one of the reasons above
	InFlight int         `json:"in_flight"`
	// Activity is what became of this process's attempts; nil before the first one.
	Activity *LaneActivity `json:"activity,omitempty"`
	HeldBack []HeldBack    `json:"held_back,omitempty"` // only on mail hosts
}

// HeldBack is a delivery that waits until something outside has changed.
type HeldBack struct {
	Event  string `json:"event"`
	Target string `json:"target"`
	Reason string `json:"reason"` // what it waits for
	// Urgent says that the certificate which the host has now has expired, or does so within a week.
	Urgent bool `json:"urgent,omitempty"`
}

// LaneActivity is what became of the attempts in a lane.
type LaneActivity struct {
	Accepted     int          `json:"accepted_last_hour"` // mails that a relay took, deployments that succeeded
	Failed       int          `json:"failed_last_hour"`   // all other attempts, also those that are retried
	LastAccepted time.Time    `json:"last_accepted,omitzero"`
	LastFailed   time.Time    `json:"last_failed,omitzero"`
	Failure      verdict.Code `json:"last_failure,omitempty"` // of the last one that failed
}

// and is the activity of two processes together.
func (a *LaneActivity) and(b *LaneActivity) *LaneActivity {
	if a == nil || b == nil {
		return cmp.Or(a, b)
	}
	sum := *a
	sum.Accepted, sum.Failed = a.Accepted+b.Accepted, a.Failed+b.Failed
	if b.LastAccepted.After(a.LastAccepted) {
		sum.LastAccepted = b.LastAccepted
	}
	if b.LastFailed.After(a.LastFailed) {
		sum.LastFailed, sum.Failure = b.LastFailed, b.Failure
	}
	return &sum
}

// RelayAway is a relay whose breaker is not closed.
type RelayAway struct {
	Relay   string          `json:"relay"`
	Breaker verdict.Breaker `json:"breaker"`
	Reason  string          `json:"reason"`
	Reply   string          `json:"reply,omitempty"`      // the relay's text, cleaned and cut
	Limit   bool            `json:"limit,omitempty"`      // because of a limit of its own
	Again   time.Time       `json:"tried_again,omitzero"` // when it may be tried; zero: with the next delivery
}

// ReadSuspension reads an entry. An unreadable entry suspends the lane all the same: an
// operator may have written it with other tools.
func ReadSuspension(lane string, e jetstream.KeyValueEntry) Suspension {
	var s Suspension
	if err := json.Unmarshal(e.Value(), &s); err != nil {
		s = Suspension{Reason: "the entry cannot be read; delete it to resume", Since: e.Created()}
	}
	s.Lane, s.Revision = lane, e.Revision()
	return s
}

// ReadPause reads an entry. An unreadable entry is a pause that is over: the relay says
// again that it is at its limit.
func ReadPause(e jetstream.KeyValueEntry) (p verdict.RelayPause) {
	if err := json.Unmarshal(e.Value(), &p); err != nil {
		return verdict.RelayPause{}
	}
	return p
}

// OpenSeal returns the seal of deliveries. The first process makes its key; one that cannot
// be read is replaced. Processes with different keys read each other's deliveries as
// unsealed ones.
func (b *Broker) OpenSeal(ctx context.Context) (events.Seal, error) {
	kv, err := b.OpenRelays(ctx)
	if err != nil {
		return events.Seal{}, err
	}
	for {
		stored, err := kv.Get(ctx, sealKey)
		revision := uint64(0)
		switch {
		case err == nil:
			if seal, err := events.ReadSeal(string(stored.Value())); err == nil {
				return seal, nil
			}
			revision = stored.Revision()
		case !errors.Is(err, jetstream.ErrKeyNotFound):
			return events.Seal{}, fmt.Errorf("%s in %s: %w", sealKey, RelaysBucket, err)
		}
		key := events.NewSealKey()
		if revision == 0 {
			_, err = kv.Create(ctx, sealKey, []byte(key))
		} else {
			_, err = kv.Update(ctx, sealKey, []byte(key), revision)
		}
		if err == nil {
			return events.ReadSeal(key)
		}
		if !errors.Is(err, jetstream.ErrKeyExists) && !WrongSequence(err) { // else another process was first
			return events.Seal{}, fmt.Errorf("%s in %s: %w", sealKey, RelaysBucket, err)
		}
	}
}

// ErrWatchEnded says that the server ended the watch of a bucket.
var ErrWatchEnded = errors.New("the watch has ended")

// ForgetReplica removes the entry of a process that has ended, without a trace: a marker for each process that
// ever ran would stay for good.
func (b *Broker) ForgetReplica(ctx context.Context, id string) error {
	stream, err := b.js.Stream(ctx, "KV_"+RelaysBucket)
	if err != nil {
		return fmt.Errorf("bucket %s: %w", RelaysBucket, err)
	}
	return stream.Purge(ctx, jetstream.WithPurgeSubject("$KV."+RelaysBucket+"."+ReplicaPrefix+id))
}
