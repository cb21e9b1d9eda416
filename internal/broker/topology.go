package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certpost/certpost/internal/backoff"
	"github.com/certpost/certpost/internal/verdict"
)

// The names that users, scripts and alerts rely on.
const (
	EventsStream      = "CERTPOST_EVENTS"
	DeliveriesStream  = "CERTPOST_DELIVERIES"
	DeadLettersStream = "CERTPOST_DEAD_LETTERS"
	AuditStream       = "CERTPOST_AUDIT"
	ManifestStream    = "CERTPOST_MANIFEST"
	OutcomesStream    = "CERTPOST_OUTCOMES"
	LedgerBucket      = "CERTPOST_LEDGER"
	RelaysBucket      = "CERTPOST_RELAYS"
	DeskBucketName    = "CERTPOST_DESK"

	EventSubject       = "certificate.issued"
	DeliveryPrefix     = "certpost.delivery."
	DeadLetterPrefix   = "certpost.dead."
	OutcomePrefix      = "certpost.outcome."
	auditPrefix        = "certpost.audit."
	manifestSubject    = "certpost.manifest"
	FanoutConsumer     = "fanout"
	LaneConsumerPrefix = "lane-"
)

// DeliverySubject returns the subject of the delivery messages for a target.
func DeliverySubject(lane, target string) string { return DeliveryPrefix + lane + "." + target }

// DeliveryTarget returns the target of a delivery message: the last token of its subject.
func DeliveryTarget(subject string) string {
	return subject[strings.LastIndexByte(subject, '.')+1:]
}

// Retention of the streams.
const (
	eventsAge = 30 * 24 * time.Hour
	// ledgerAge is counted from the last change of an entry. It is longer than the
	// life of a certificate of a public CA (at most 398 days), so that an event
	// published again within its certificate's life sends no second mail.
	ledgerAge = 400 * 24 * time.Hour
	// MinLedgerAge is longer than eventsAge: the manifest, which is as old at most, must not
	// have deliveries that the ledger has forgotten, because they would count as lost.
	MinLedgerAge  = eventsAge + 24*time.Hour
	deadLetterAge = 400 * 24 * time.Hour
	auditAge      = 3 * 365 * 24 * time.Hour
)

// ackWait is how long a message may go without a sign of life before the server delivers it
// again; every message being processed sends one after each third of it. The messages of a
// killed process wait this long for the next attempt.
const ackWait = 30 * time.Second

// maxAckPending bounds the messages that may wait with a NAK's delay on one consumer: the
// server searches all of them for due redeliveries.
const maxAckPending = 1000

// maxSharedPending is maxAckPending of a lane shared by several relays, where the
// deliveries of an unavailable relay stay pending beside the others'. While that many wait,
// it costs 3 to 5 % of a core.
const maxSharedPending = 10_000

// LaneAckPending returns MaxAckPending of a lane's consumer: the configured number, if any.
func (b *Broker) LaneAckPending(lane string) int {
	if b.cfg.MaxAckPending == 0 && strings.HasPrefix(lane, verdict.SharedLanePrefix) {
		return maxSharedPending
	}
	return cmp.Or(b.cfg.MaxAckPending, maxAckPending)
}

// ownerKey marks what Certpost created, in the metadata of streams and consumers.
const (
	ownerKey  = "certpost.owner"
	ownerMark = "certpost"
)

var owned = map[string]string{ownerKey: ownerMark}

// ErrNotOurs says that a stream, consumer or bucket with one of our names was not created
// by Certpost, or differs in a setting that JetStream cannot update.
var ErrNotOurs = errors.New("not created by Certpost")

// streams returns the required configuration of all streams.
func (b *Broker) streams() []jetstream.StreamConfig {
	base := func(name, about string, subjects ...string) jetstream.StreamConfig {
		return jetstream.StreamConfig{
			Name: name, Description: about, Subjects: subjects, Metadata: streamMarks(),
			Storage: jetstream.FileStorage, Replicas: b.cfg.Replicas, Discard: jetstream.DiscardNew,
			MaxConsumers: -1, MaxMsgs: -1, MaxBytes: cmp.Or(b.cfg.MaxBytes[name], -1), MaxMsgSize: -1, MaxMsgsPerSubject: -1,
			Duplicates: cmp.Or(b.cfg.DuplicateWindow, defaultDuplicates), AllowDirect: true,
		}
	}
	events := base(EventsStream, "certificate.issued events", EventSubject, EventSubject+".>")
	events.MaxAge = eventsAge

	deliveries := base(DeliveriesStream, "one message per event and target, until settled", DeliveryPrefix+"*.*")
	deliveries.Retention = jetstream.WorkQueuePolicy
	deliveries.AllowAtomicPublish = true

	dead := base(DeadLettersStream, "deliveries that ended without success", DeadLetterPrefix+"*.*.*.*")
	dead.MaxAge = deadLetterAge
	dead.MaxMsgsPerSubject = 1
	dead.DiscardNewPerSubject = true

	audit := base(AuditStream, "actions on dead letters and their actors", auditPrefix+">")
	audit.MaxAge = auditAge
	audit.AllowAtomicPublish = true

	manifest := base(ManifestStream, "the deliveries that events became", manifestSubject)
	manifest.MaxAge = eventsAge

	// The ledger is a KV bucket. It is created as a stream, because a bucket's
	// configuration cannot enable atomic batches.
	ledger := base("KV_"+LedgerBucket, "the state of each delivery", "$KV."+LedgerBucket+".>")
	ledger.MaxAge = cmp.Or(b.cfg.LedgerAge, ledgerAge)
	ledger.MaxMsgsPerSubject = 1
	ledger.DenyDelete = true
	ledger.AllowAtomicPublish = true

	relays := base("KV_"+RelaysBucket, "suspended lanes, running processes, mails per relay", "$KV."+RelaysBucket+".>")
	relays.MaxMsgsPerSubject = 1
	relays.AllowRollup = true
	relays.DenyDelete = true

	desk := base("KV_"+DeskBucketName, "dead letters that are held, replay runs", "$KV."+DeskBucketName+".>")
	desk.MaxAge = deadLetterAge // no held letter is older; runs are removed earlier
	desk.MaxMsgsPerSubject = 1
	desk.AllowRollup = true
	desk.DenyDelete = true
	if !b.cfg.Unprotected {
		// What the program never does. It deletes deliveries (stranded.go) and dead letters, and
		// an operator may purge the latter, which is recorded as their removal.
		for _, s := range []*jetstream.StreamConfig{&events, &manifest, &audit} {
			s.DenyDelete, s.DenyPurge = true, true
		}
		deliveries.DenyPurge, ledger.DenyPurge = true, true
	}
	all := []jetstream.StreamConfig{events, deliveries, manifest, dead, audit, ledger, relays, desk}
	if limits := b.cfg.Outcomes; limits.MaxAge > 0 {
		outcomes := base(OutcomesStream, "what became of deliveries, for other systems", OutcomePrefix+"*", outcomePosition)
		outcomes.MaxAge, outcomes.MaxBytes, outcomes.Discard = limits.MaxAge, limits.MaxBytes, jetstream.DiscardOld
		outcomes.AllowAtomicPublish = true
		all = append(all, outcomes)
	}
	return all
}

// EnsureTopology creates missing streams and the fan-out consumer, updates those that
// Certpost created and refuses others. It runs at start and again whenever something is
// found missing.
func (b *Broker) EnsureTopology(ctx context.Context) error {
	if err := b.Disconnected(); err != nil {
		return err
	}
	for _, want := range b.streams() {
		if err := b.ensureStream(ctx, want); err != nil {
			return err
		}
	}
	if err := b.BeginOutcomes(ctx); err != nil {
		return err
	}
	return b.EnsureConsumer(ctx, EventsStream, jetstream.ConsumerConfig{
		Durable: FanoutConsumer, Description: "events to deliveries", MaxAckPending: b.LaneAckPending(""),
	})
}

// deletionTime is how long the server gets to delete the files of a stream.
const deletionTime = time.Second

func (b *Broker) ensureStream(ctx context.Context, want jetstream.StreamConfig) error {
	s, err := b.js.Stream(ctx, want.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if _, there := b.seen.Load(want.Name); there {
			// The stream was deleted while this process runs. The server may still be
			// deleting its files, and would delete those of a new stream with them.
			backoff.Sleep(ctx, deletionTime)
		}
		_, deleted := b.seen.Load(want.Name)
		if want.Name == DeadLettersStream {
			if want.FirstSeq, err = b.firstLetter(ctx); err != nil {
				return err
			}
		}
		if _, err = b.js.CreateStream(ctx, want); err == nil && deleted {
			b.log.Error().Str("stream", want.Name).Msg("the stream was deleted while certpost runs, and is created again; what it held is gone, and recovered as far as the other streams have it")
			return nil
		}
		if err == nil {
			b.log.Info().Str("stream", want.Name).Msg("stream created")
			return nil
		}
		if !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			return fmt.Errorf("create stream %s: %w", want.Name, Explain(err, want.Name))
		}
		s, err = b.js.Stream(ctx, want.Name) // another process created it first
	}
	if err != nil {
		return fmt.Errorf("stream %s: %w", want.Name, Explain(err, want.Name))
	}
	b.seen.Store(want.Name, true)
	have := s.CachedInfo().Config
	want = b.keptStream(have, want)
	diff := streamDiff(have, want)
	if have.Metadata[ownerKey] != ownerMark {
		return fmt.Errorf("stream %s exists and was %w (%s): rename or remove it, or use another NATS account", want.Name, ErrNotOurs, describeDiff(diff))
	}
	if err := checkLayout(want.Name, have.Metadata); err != nil {
		return err
	}
	if len(diff) == 0 {
		return nil
	}
	if have.Retention != want.Retention || have.Storage != want.Storage {
		return fmt.Errorf("stream %s differs in settings that JetStream cannot update, so it was %w in this form (%s): recreate it", want.Name, ErrNotOurs, describeDiff(diff))
	}
	if _, err := b.js.UpdateStream(ctx, want); err != nil {
		return fmt.Errorf("update stream %s (%s): %w", want.Name, describeDiff(diff), Explain(err, want.Name))
	}
	b.log.Warn().Str("stream", want.Name).Strs("changed", diff).Msg("the stream's settings differed; updated")
	return nil
}

// CompleteConsumer adds the settings that all our consumers share: explicit
// acknowledgement, no limit on deliveries, no BackOff (it would add to the delays of our
// NAKs).
func (b *Broker) CompleteConsumer(want jetstream.ConsumerConfig) jetstream.ConsumerConfig {
	want.AckPolicy = jetstream.AckExplicitPolicy
	want.AckWait = b.cfg.AckWait
	want.MaxDeliver = -1
	want.Replicas = 0 // as the stream
	want.Metadata = owned
	return want
}

// EnsureConsumer creates a consumer with the settings of CompleteConsumer, or updates the
// one that Certpost created.
func (b *Broker) EnsureConsumer(ctx context.Context, stream string, want jetstream.ConsumerConfig) error {
	want = b.CompleteConsumer(want)
	c, err := b.js.Consumer(ctx, stream, want.Durable)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		if _, err := b.js.CreateOrUpdateConsumer(ctx, stream, want); err != nil {
			return fmt.Errorf("create consumer %s on %s: %w", want.Durable, stream, Explain(err, stream))
		}
		b.log.Info().Str("consumer", want.Durable).Str("stream", stream).Msg("consumer created")
		return nil
	}
	if err != nil {
		return fmt.Errorf("consumer %s on %s: %w", want.Durable, stream, err)
	}
	have := c.CachedInfo().Config
	diff := b.ConsumerDifferences(have, want)
	if have.Metadata[ownerKey] != ownerMark {
		return fmt.Errorf("consumer %s on stream %s exists and was %w (%s): remove it", want.Durable, stream, ErrNotOurs, describeDiff(diff))
	}
	if c.CachedInfo().Paused {
		b.log.Error().Str("consumer", want.Durable).Msg("the consumer is paused; resuming it")
		if _, err := b.js.ResumeConsumer(ctx, stream, want.Durable); err != nil {
			return fmt.Errorf("resume consumer %s on %s: %w", want.Durable, stream, err)
		}
	}
	if len(diff) == 0 {
		return nil
	}
	if _, err := b.js.UpdateConsumer(ctx, stream, b.keptConsumer(have, want)); err != nil {
		return fmt.Errorf("update consumer %s on %s (%s): %w", want.Durable, stream, describeDiff(diff), Explain(err, stream))
	}
	b.log.Warn().Str("consumer", want.Durable).Strs("changed", diff).Msg("the consumer's settings differed; updated")
	return nil
}

// streamDiff lists the settings that differ, as "key: is A, wants B".
func streamDiff(have, want jetstream.StreamConfig) []string {
	var d diff
	d.add("subjects", have.Subjects, want.Subjects)
	d.add("retention", have.Retention, want.Retention)
	d.add("storage", have.Storage, want.Storage)
	d.add("replicas", have.Replicas, want.Replicas)
	d.add("discard", have.Discard, want.Discard)
	d.add("discard_new_per_subject", have.DiscardNewPerSubject, want.DiscardNewPerSubject)
	d.add("max_age", have.MaxAge, want.MaxAge)
	d.add("max_msgs", have.MaxMsgs, want.MaxMsgs)
	d.add("max_bytes", have.MaxBytes, want.MaxBytes)
	d.add("max_msg_size", have.MaxMsgSize, want.MaxMsgSize)
	d.add("max_msgs_per_subject", have.MaxMsgsPerSubject, want.MaxMsgsPerSubject)
	d.add("duplicate_window", have.Duplicates, want.Duplicates)
	d.add("allow_atomic", have.AllowAtomicPublish, want.AllowAtomicPublish)
	d.add("allow_direct", have.AllowDirect, want.AllowDirect)
	d.add("allow_rollup_hdrs", have.AllowRollup, want.AllowRollup)
	d.add("deny_delete", have.DenyDelete, want.DenyDelete)
	d.add("deny_purge", have.DenyPurge, want.DenyPurge)
	d.add("layout", have.Metadata[layoutKey], want.Metadata[layoutKey])
	return d
}

// ConsumerDifferences lists the settings that differ and are not to be kept, as "key: is A,
// wants B".
func (b *Broker) ConsumerDifferences(have, want jetstream.ConsumerConfig) []string {
	want = b.keptConsumer(have, want)
	var d diff
	d.add("filter", have.FilterSubject, want.FilterSubject)
	d.add("ack_policy", have.AckPolicy, want.AckPolicy)
	d.add("ack_wait", have.AckWait, want.AckWait)
	d.add("max_deliver", have.MaxDeliver, want.MaxDeliver)
	d.add("max_ack_pending", have.MaxAckPending, want.MaxAckPending)
	d.add("backoff", len(have.BackOff), len(want.BackOff))
	d.add("inactive_threshold", have.InactiveThreshold, want.InactiveThreshold)
	return d
}

type diff []string

func (d *diff) add(key string, have, want any) {
	if !reflect.DeepEqual(have, want) {
		*d = append(*d, fmt.Sprintf("%s: is %v, wants %v", key, have, want))
	}
}

func describeDiff(diff []string) string {
	if len(diff) == 0 {
		return "settings are the same"
	}
	return strings.Join(diff, "; ")
}
