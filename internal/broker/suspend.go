package broker

import (
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
)

// Suspension keeps a lane from being fetched from: the value at key
// suspended.<lane> of the bucket CERTPOST_RELAYS. Without the entry it is over.
type Suspension struct {
	Lane   string    `json:"lane"`
	Reason string    `json:"reason"`
	By     string    `json:"by"` // user@host
	Since  time.Time `json:"since"`
	Until  time.Time `json:"until,omitzero"` // zero: until somebody resumes it

	Revision uint64 `json:"-"` // of the entry in the bucket
}

func (s Suspension) Expired(now time.Time) bool { return !s.Until.IsZero() && !s.Until.After(now) }

// ErrNotSuspended says that there is nothing to resume.
var ErrNotSuspended = errors.New("is not suspended")

// Suspend suspends a lane, or gives its suspension another reason and end.
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
	s.By, s.Since = by.Name, time.Now().UTC()
	value, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("suspend lane %s: %w", s.Lane, err)
	}
	ctx, cancel := Detached(ctx)
	defer cancel()
	revision, err := kv.Put(ctx, SuspendedPrefix+s.Lane, value)
	if err != nil {
		return fmt.Errorf("suspend lane %s: %w", s.Lane, err)
	}
	return b.audit(ctx, AuditRecord{Action: ActionSuspended, Actor: by, Reason: s.Reason, Lane: s.Lane, Until: s.Until}, auditID(s.Lane, revision))
}

// Resume ends a lane's suspension; ErrNotSuspended when there is none.
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
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return fmt.Errorf("lane %s %w", lane, ErrNotSuspended)
	}
	if err != nil {
		return fmt.Errorf("resume lane %s: %w", lane, err)
	}
	return b.EndSuspension(ctx, kv, lane, entry.Revision(), by, reason)
}

// EndSuspension records the end of a suspension and ends it, unless it is another one by
// now.
func (b *Broker) EndSuspension(ctx context.Context, kv jetstream.KeyValue, lane string, revision uint64, by Actor, reason string) error {
	ctx, cancel := Detached(ctx)
	defer cancel()
	if err := b.audit(ctx, AuditRecord{Action: ActionResumed, Actor: by, Reason: reason, Lane: lane}, auditID(lane, revision)); err != nil {
		return err
	}
	err := kv.Delete(ctx, SuspendedPrefix+lane, jetstream.LastRevision(revision))
	if WrongSequence(err) {
		return fmt.Errorf("lane %s was suspended anew, or resumed, by somebody else a moment ago; look at it again", lane)
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
		return nil, fmt.Errorf("there is no bucket %s at %s: start `certpost run` once, it creates it", RelaysBucket, b.URL())
	}
	if err != nil {
		return nil, fmt.Errorf("bucket %s: %w", RelaysBucket, err)
	}
	return kv, nil
}

// knownLane keeps a typing mistake from being a suspension of nothing.
func (b *Broker) knownLane(ctx context.Context, lane string) error {
	names, err := b.laneNames(ctx)
	if err != nil || slices.Contains(names, lane) {
		return err
	}
	return fmt.Errorf("there is no lane %q: want one of %s", lane, strings.Join(names, ", "))
}

// laneNames are the lanes that have a consumer, sorted.
func (b *Broker) laneNames(ctx context.Context) ([]string, error) {
	stream, err := b.js.Stream(ctx, DeliveriesStream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, fmt.Errorf("there is no stream %s at %s: start `certpost run` once, it creates it", DeliveriesStream, b.URL())
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

// LaneInfo is what all processes together know of a lane.
type LaneInfo struct {
	Lane       string       `json:"lane"`
	Waiting    uint64       `json:"waiting"`                       // deliveries not settled and not under way
	InFlight   int          `json:"in_flight"`                     // under way
	SentLately int          `json:"sent_last_5_minutes,omitempty"` // mails that a relay took; 0 where nobody has counted
	Replicas   int          `json:"replicas"`                      // processes that serve it
	Starting   bool         `json:"starting,omitempty"`            // none has said so yet, and there was no time to
	Statuses   []LaneStatus `json:"statuses,omitempty"`            // where something is to be said, one for each process
	Suspension *Suspension  `json:"suspension,omitempty"`
}

// LaneInfos are all lanes, sorted by name.
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

// readRelays adds to lanes what the bucket says.
func (b *Broker) readRelays(ctx context.Context, kv jetstream.KeyValue, lanes map[string]*LaneInfo) error {
	w, err := kv.WatchFiltered(ctx, []string{SuspendedPrefix + "*", ReplicaPrefix + "*"}, jetstream.IgnoreDeletes())
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
			if lane, ok := strings.CutPrefix(e.Key(), SuspendedPrefix); ok && lanes[lane] != nil {
				if s := ReadSuspension(lane, e); !s.Expired(time.Now()) {
					lanes[lane].Suspension = &s
				}
				continue
			}
			var beat Heartbeat
			if time.Since(e.Created()) > ReplicaGoneAfter || json.Unmarshal(e.Value(), &beat) != nil {
				continue
			}
			for _, s := range beat.Lanes {
				if info := lanes[s.Lane]; info != nil {
					s.Process = beat.Process
					info.add(s)
				}
			}
		}
	}
}

func (i *LaneInfo) add(s LaneStatus) {
	i.Replicas++
	i.InFlight += s.InFlight
	i.Waiting -= min(i.Waiting, uint64(s.InFlight))
	if s.Breaker != BreakerClosed || s.Paused != "" {
		i.Statuses = append(i.Statuses, s)
	}
}
