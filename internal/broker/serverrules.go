package broker

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Servers and accounts have rules of their own, and administrators change streams. What is
// within these bounds is kept, unless the configuration sets it; everything else that
// Certpost relies on is put back.
const (
	defaultDuplicates = 2 * time.Minute
	minDuplicates     = 10 * time.Second // copies made by two processes at once need some of it
	minAckPending     = 100              // fewer would leave workers idle
	maxAckWait        = 5 * time.Minute  // the messages of a killed process wait this long
)

// keptStream returns the configuration for an existing stream: all that Certpost relies on
// as wanted, the rest as it is.
func (b *Broker) keptStream(have, want jetstream.StreamConfig) jetstream.StreamConfig {
	out := have
	out.Subjects, out.Retention, out.Storage, out.Discard = want.Subjects, want.Retention, want.Storage, want.Discard
	out.DiscardNewPerSubject, out.MaxMsgs, out.MaxMsgSize = want.DiscardNewPerSubject, want.MaxMsgs, want.MaxMsgSize
	out.MaxMsgsPerSubject, out.AllowAtomicPublish, out.AllowDirect = want.MaxMsgsPerSubject, want.AllowAtomicPublish, want.AllowDirect
	out.AllowRollup, out.DenyDelete, out.Description = want.AllowRollup, want.DenyDelete, want.Description
	// JetStream cannot take deny_purge back. Only rollups, where they are needed, exclude it.
	out.DenyPurge = want.DenyPurge || have.DenyPurge && !want.AllowRollup
	if b.cfg.MaxBytes[want.Name] != 0 { // otherwise any limit is safe: a full stream refuses, and drops nothing
		out.MaxBytes = want.MaxBytes
	}
	if want.Name == OutcomesStream { // its limits are those of the configuration: it drops what is older
		out.MaxBytes = want.MaxBytes
	}
	if b.cfg.DuplicateWindow != 0 || have.Duplicates < minDuplicates {
		out.Duplicates = want.Duplicates
	}
	if have.Replicas < want.Replicas {
		out.Replicas = want.Replicas
	}
	set := b.cfg.LedgerAge != 0 && want.Name == "KV_"+LedgerBucket || want.Name == OutcomesStream
	if set || want.MaxAge == 0 || have.MaxAge != 0 && have.MaxAge < want.MaxAge {
		out.MaxAge = want.MaxAge
	}
	out.Metadata = map[string]string{}
	for _, metadata := range []map[string]string{have.Metadata, want.Metadata} {
		for key, value := range metadata {
			out.Metadata[key] = value
		}
	}
	return out
}

// keptConsumer returns the configuration for an existing consumer, as keptStream does.
func (b *Broker) keptConsumer(have, want jetstream.ConsumerConfig) jetstream.ConsumerConfig {
	out := have
	out.FilterSubject, out.AckPolicy, out.MaxDeliver = want.FilterSubject, want.AckPolicy, want.MaxDeliver
	out.BackOff, out.InactiveThreshold, out.Metadata, out.Description = want.BackOff, want.InactiveThreshold, want.Metadata, want.Description
	if have.AckWait < want.AckWait || have.AckWait > max(maxAckWait, want.AckWait) {
		out.AckWait = want.AckWait
	}
	if b.cfg.MaxAckPending != 0 || have.MaxAckPending < minAckPending || have.MaxAckPending > maxSharedPending {
		out.MaxAckPending = want.MaxAckPending
	}
	return out
}

// The codes of nats-server for what its configuration or an account forbids
// (server/errors.json).
const (
	codeMaxConsumers     = 10026
	codeMaxStreams       = 10027
	codeAccountResources = 10002
	codeNoAccount        = 10039
	codeMemoryExceeded   = 10028
	codeStorageExceeded  = 10047
	codeInvalidStream    = 10052
	codeReplicas         = 10074
	codeNotEnabled       = 10076
	codeMaxBytesRequired = 10113
	codeAckPending       = 10121
	codeNoResources      = 10023
	codeMessageTooLarge  = 10054
	codeMaxBytesExceeded = 10122
)

// Explain adds to an error about a stream, one of its consumers or a message for it which
// setting helps.
func Explain(err error, stream string) error {
	if err == nil {
		return nil
	}
	if advice := adviceOn(err, stream); advice != "" {
		return fmt.Errorf("%w: %s", err, advice)
	}
	return err
}

func adviceOn(err error, stream string) string {
	const off = "JetStream is switched off on the server or for this account (or has no leader at the moment): switch it on, or set nats.domain or nats.api_prefix if it runs elsewhere"
	if errors.Is(err, nats.ErrNoResponders) || errors.Is(err, jetstream.ErrJetStreamNotEnabled) || errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount) {
		return off
	}
	var api *jetstream.APIError
	if !errors.As(err, &api) {
		return ""
	}
	switch api.ErrorCode {
	case codeNoAccount, codeNotEnabled:
		return off
	case codeMaxBytesRequired:
		return "set nats.max_bytes." + settingOf(stream) + ", the most that this stream may store (and nats.max_bytes of all other streams)"
	case codeMaxBytesExceeded, codeStorageExceeded, codeMemoryExceeded, codeAccountResources:
		return "set a lower nats.max_bytes." + settingOf(stream) + ", or raise the limit of the account or server"
	case codeNoResources:
		return "the store is full: raise nats.max_store (embedded NATS), or the limits of the server or account and the room on its disk"
	case codeStoreFailed: // also of a subject that has its letter already, which is no fault
		if strings.Contains(api.Description, "maximum bytes") {
			return "the stream is full: raise nats.max_bytes." + settingOf(stream) + ", or the max_bytes that an administrator gave the stream"
		}
	case codeMessageTooLarge:
		return "raise the max_msg_size that an administrator gave the stream"
	case codeAckPending:
		return "set a lower nats.max_ack_pending"
	case codeMaxConsumers:
		return "raise the account's max_consumers: one for each lane and one for the fan-out are needed"
	case codeMaxStreams:
		return "raise the account's max_streams: 8 streams are needed"
	case codeReplicas:
		return "set nats.replicas: 1, or use a cluster"
	case codeInvalidStream:
		if strings.Contains(api.Description, "duplicates window") {
			return "set a lower nats.duplicate_window"
		}
	}
	return ""
}

// settingOf returns the key of a stream below nats.max_bytes.
func settingOf(stream string) string {
	return strings.ToLower(strings.TrimPrefix(strings.TrimPrefix(stream, "KV_"), "CERTPOST_"))
}
