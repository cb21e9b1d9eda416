package broker

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/verdict"
)

// Suspension keeps all processes from fetching a lane's deliveries: the value at key
// suspended.<lane> of the bucket CERTPOST_RELAYS. A lane without an entry is not suspended.
type Suspension struct {
	Lane   string    `json:"lane"`
	Reason string    `json:"reason"`
	By     string    `json:"by"` // user@host
	Since  time.Time `json:"since"`
	Until  time.Time `json:"until,omitzero"` // zero: until an operator resumes it
	// Proved and NATSUser are those of the Actor.
	Proved   Proof  `json:"proved,omitzero"`
	NATSUser string `json:"nats_user,omitempty"`

	Revision uint64 `json:"-"` // of the entry in the bucket
}

// Shown is who suspended the lane, in the words of Actor.Shown.
func (s Suspension) Shown() string {
	return Actor{Name: s.By, Proved: s.Proved, NATSUser: s.NATSUser}.Shown()
}

func (s Suspension) Expired(now time.Time) bool { return !s.Until.IsZero() && !s.Until.After(now) }

// ErrNotSuspended is returned for a lane to resume that is not suspended, and of whose relays
// none is paused.
var ErrNotSuspended = errors.New("is not suspended")

// Suspend suspends a lane. If the lane is already suspended, the new reason and end replace
// the old ones.
func (b *Broker) Suspend(ctx context.Context, s Suspension, by Actor) error {
	var err error
	if s.Reason, err = CheckReason(s.Reason, true); err != nil {
		return err
	}
	if err := b.knownLane(ctx, s.Lane); err != nil {
		return err
	}
	kv, err := b.OpenRelays(ctx)
	if err != nil {
		return err
	}
	s.By, s.Proved, s.NATSUser, s.Since = by.Name, by.Proved, by.NATSUser, time.Now().UTC()
	value, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("suspend lane %s: %w", s.Lane, err)
	}
	ctx, cancel := Detached(ctx)
	defer cancel()
	revision, err := kv.Put(ctx, SuspendedPrefix+s.Lane, value)
	if err != nil {
		return fmt.Errorf("suspend lane %s: %w", s.Lane, Explain(err, "KV_"+RelaysBucket))
	}
	return b.audit(ctx, AuditRecord{Action: ActionSuspended, Actor: by, Reason: s.Reason, Lane: s.Lane, Until: s.Until}, auditID(s.Lane, revision))
}

// Resume ends a lane's suspension, and the pauses of its relays for limits of their own;
// ErrNotSuspended if there are none.
func (b *Broker) Resume(ctx context.Context, lane string, by Actor, reason string) error {
	reason, err := CheckReason(reason, false)
	if err != nil {
		return err
	}
	kv, err := b.OpenRelays(ctx)
	if err != nil {
		return err
	}
	if !events.IsToken(lane) {
		return fmt.Errorf("lane %q %w", lane, ErrNotSuspended)
	}
	entry, err := kv.Get(ctx, SuspendedPrefix+lane)
	suspended := err == nil
	if err != nil && !errors.Is(err, jetstream.ErrKeyNotFound) {
		return fmt.Errorf("resume lane %s: %w", lane, err)
	}
	pauses, err := b.pausesOf(ctx, kv, lane)
	if err != nil {
		return fmt.Errorf("resume lane %s: %w", lane, err)
	}
	if !suspended && len(pauses) == 0 {
		return fmt.Errorf("lane %s %w", lane, ErrNotSuspended)
	}
	if suspended {
		if err := b.EndSuspension(ctx, kv, lane, entry.Revision(), by, reason); err != nil {
			return err
		}
	}
	for _, p := range pauses {
		if err := b.endPause(ctx, kv, lane, p, by, reason); err != nil {
			return err
		}
	}
	return nil
}

// EndSuspension records the end of a suspension and deletes its entry. It fails if the
// entry's revision has changed: the suspension is then another one, or has ended.
func (b *Broker) EndSuspension(ctx context.Context, kv jetstream.KeyValue, lane string, revision uint64, by Actor, reason string) error {
	ctx, cancel := Detached(ctx)
	defer cancel()
	if err := b.audit(ctx, AuditRecord{Action: ActionResumed, Actor: by, Reason: reason, Lane: lane}, auditID(lane, revision)); err != nil {
		return err
	}
	err := kv.Delete(ctx, SuspendedPrefix+lane, jetstream.LastRevision(revision))
	if WrongSequence(err) {
		return fmt.Errorf("another process suspended lane %s again or resumed it meanwhile: check the lane, then retry", lane)
	}
	if err != nil {
		return fmt.Errorf("resume lane %s: %w", lane, err)
	}
	return nil
}

func auditID(lane string, revision uint64) string {
	return "lane/" + lane + "/" + strconv.FormatUint(revision, 10)
}

// OpenRelays opens the bucket CERTPOST_RELAYS.
func (b *Broker) OpenRelays(ctx context.Context) (jetstream.KeyValue, error) {
	kv, err := b.js.KeyValue(ctx, RelaysBucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		return nil, fmt.Errorf("bucket %s not found at %s: start `certpost run` once to create it", RelaysBucket, b.URL())
	}
	if err != nil {
		return nil, fmt.Errorf("bucket %s: %w", RelaysBucket, err)
	}
	return kv, nil
}

// knownLane returns an error for a lane that has no consumer, so that a mistyped name is
// rejected.
func (b *Broker) knownLane(ctx context.Context, lane string) error {
	names, err := b.laneNames(ctx)
	if err != nil || slices.Contains(names, lane) {
		return err
	}
	if len(names) == 0 {
		return fmt.Errorf("unknown lane %q: there is none yet; `certpost run` makes the lanes of the configured targets", lane)
	}
	return fmt.Errorf("unknown lane %q: want one of %s", lane, strings.Join(names, ", "))
}

// laneNames returns the lanes that have a consumer, sorted.
func (b *Broker) laneNames(ctx context.Context) ([]string, error) {
	stream, err := b.js.Stream(ctx, DeliveriesStream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, fmt.Errorf("stream %s not found at %s: start `certpost run` once to create it", DeliveriesStream, b.URL())
	}
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", DeliveriesStream, err)
	}
	var names []string
	lister := stream.ListConsumers(ctx)
	for info := range lister.Info() {
		if name, ok := strings.CutPrefix(info.Name, LaneConsumerPrefix); ok {
			names = append(names, name)
		}
	}
	if err := lister.Err(); err != nil && !errors.Is(err, jetstream.ErrEndOfData) {
		return nil, fmt.Errorf("consumers of %s: %w", DeliveriesStream, err)
	}
	slices.Sort(names)
	return names, nil
}

// LaneInfo is the state of a lane across all processes.
type LaneInfo struct {
	Lane       string       `json:"lane"`
	Waiting    uint64       `json:"waiting"`                       // deliveries neither settled nor in flight
	InFlight   int          `json:"in_flight"`                     // deliveries being attempted
	SentLately int          `json:"sent_last_5_minutes,omitempty"` // mails accepted by a relay; 0 if not counted
	Replicas   int          `json:"replicas"`                      // processes that serve the lane
	Starting   bool         `json:"starting,omitempty"`            // no process has reported yet, and it is too early to expect it
	Statuses   []LaneStatus `json:"statuses,omitempty"`            // one per process whose breaker is not closed, that is paused or holds deliveries back
	Suspension *Suspension  `json:"suspension,omitempty"`
	// Activity is what became of the attempts of all processes that serve the lane; nil if they
	// have made none.
	Activity *LaneActivity `json:"activity,omitempty"`
	// Pauses are those of its relays for limits of their own, by relay.
	Pauses []verdict.RelayPause `json:"relay_pauses,omitempty"`
	// LastSeen is when a process ran on the mail host whose lane it is, to a minute; zero: never,
	// or it is not the lane of a host.
	LastSeen time.Time `json:"last_seen,omitzero"`
}

// Away reports whether it is the lane of a mail host on which no process runs now.
func (i LaneInfo) Away() bool { return verdict.OnHost(i.Lane) && i.Replicas == 0 }

// LaneInfos returns all lanes, sorted by name.
func (b *Broker) LaneInfos(ctx context.Context) ([]LaneInfo, error) {
	names, err := b.laneNames(ctx)
	if err != nil {
		return nil, err
	}
	stream, err := b.js.Stream(ctx, DeliveriesStream)
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", DeliveriesStream, err)
	}
	state, err := stream.Info(ctx, jetstream.WithSubjectFilter(DeliveryPrefix+">"))
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", DeliveriesStream, err)
	}
	waiting := make(map[string]uint64)
	for subject, n := range state.State.Subjects {
		lane, _, _ := strings.Cut(strings.TrimPrefix(subject, DeliveryPrefix), ".")
		waiting[lane] += n
	}
	kv, err := b.OpenRelays(ctx)
	if err != nil {
		return nil, err
	}
	all := make([]LaneInfo, len(names))
	index := make(map[string]*LaneInfo)
	for i, name := range names {
		all[i] = LaneInfo{Lane: name, Waiting: waiting[name]}
		index[name] = &all[i]
	}
	return all, b.readRelays(ctx, kv, index)
}

// Standstills returns what the running processes report to stand still, the oldest first.
func (b *Broker) Standstills(ctx context.Context) ([]Standstill, error) {
	kv, err := b.OpenRelays(ctx)
	if err != nil {
		return nil, err
	}
	var all []Standstill
	err = readBeats(ctx, kv, []string{ReplicaPrefix + "*"}, func(e jetstream.KeyValueEntry) {
		if beat, ok := heartbeatOf(e); ok {
			for _, s := range beat.Standstills {
				s.Process = beat.Process
				all = append(all, s)
			}
		}
	})
	slices.SortFunc(all, func(a, b Standstill) int { return a.Since.Compare(b.Since) })
	return all, err
}

// heartbeatOf reads a heartbeat; false if its process counts as gone, or if the entry is
// another one.
func heartbeatOf(e jetstream.KeyValueEntry) (beat Heartbeat, ok bool) {
	ok = time.Since(e.Created()) <= ReplicaGoneAfter && json.Unmarshal(e.Value(), &beat) == nil
	return beat, ok
}

// readRelays adds the suspensions, the process statuses and the pauses of the bucket to
// lanes.
func (b *Broker) readRelays(ctx context.Context, kv jetstream.KeyValue, lanes map[string]*LaneInfo) error {
	var pauses []verdict.RelayPause
	err := readBeats(ctx, kv, []string{SuspendedPrefix + "*", ReplicaPrefix + "*", PausePrefix + ">", HostPrefix + "*"}, func(e jetstream.KeyValueEntry) {
		if lane, ok := strings.CutPrefix(e.Key(), HostPrefix); ok {
			if lanes[lane] != nil {
				lanes[lane].LastSeen = e.Created().UTC().Truncate(time.Second)
			}
			return
		}
		if strings.HasPrefix(e.Key(), PausePrefix) {
			if p := ReadPause(e); !p.Over(time.Now()) {
				pauses = append(pauses, p)
			}
			return
		}
		if lane, ok := strings.CutPrefix(e.Key(), SuspendedPrefix); ok {
			if s := ReadSuspension(lane, e); lanes[lane] != nil && !s.Expired(time.Now()) {
				lanes[lane].Suspension = &s
			}
			return
		}
		beat, ok := heartbeatOf(e)
		if !ok {
			return
		}
		for _, s := range beat.Lanes {
			if info := lanes[s.Lane]; info != nil {
				s.Process = beat.Process
				info.add(s)
			}
		}
	})
	for _, info := range lanes {
		for _, p := range pauses {
			if info.uses(p) {
				info.Pauses = append(info.Pauses, p)
			}
		}
		slices.SortFunc(info.Pauses, func(a, b verdict.RelayPause) int { return cmp.Compare(a.Relay, b.Relay) })
	}
	return err
}

// readBeats calls read for each entry of the bucket at the keys.
func readBeats(ctx context.Context, kv jetstream.KeyValue, keys []string, read func(jetstream.KeyValueEntry)) error {
	w, err := kv.WatchFiltered(ctx, keys, jetstream.IgnoreDeletes())
	if err != nil {
		return fmt.Errorf("read %s: %w", RelaysBucket, err)
	}
	defer func() { _ = w.Stop() }()
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("read %s: %w", RelaysBucket, ctx.Err())
		case e, ok := <-w.Updates():
			if !ok || e == nil {
				return nil
			}
			read(e)
		}
	}
}

// uses reports whether the paused relay is one of the lane's: one when the pause began, or
// one that a process reports.
func (i *LaneInfo) uses(p verdict.RelayPause) bool {
	return slices.Contains(p.Lanes, i.Lane) || slices.ContainsFunc(i.Statuses, func(s LaneStatus) bool {
		return slices.ContainsFunc(s.Relays, func(away RelayAway) bool { return away.Relay == p.Relay })
	})
}

func (i *LaneInfo) add(s LaneStatus) {
	i.Replicas++
	i.InFlight += s.InFlight
	i.Activity = i.Activity.and(s.Activity)
	i.Waiting -= min(i.Waiting, uint64(s.InFlight))
	if s.Breaker != BreakerClosed || s.Paused != "" || len(s.HeldBack) > 0 {
		i.Statuses = append(i.Statuses, s)
	}
}
