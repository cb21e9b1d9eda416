package broker

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
)

// What NATS refuses at a publication names the setting that helps.
func TestExplainOfPublications(t *testing.T) {
	t.Parallel()
	for want, api := range map[string]*jetstream.APIError{
		"raise nats.max_store":              {Code: 503, ErrorCode: 10023, Description: "insufficient resources"},
		"raise nats.max_bytes.events":       {Code: 503, ErrorCode: 10077, Description: "maximum bytes exceeded"},
		"max_msg_size":                      {Code: 400, ErrorCode: 10054, Description: "message size exceeds maximum allowed"},
		"set a lower nats.max_bytes.events": {Code: 400, ErrorCode: 10047, Description: "insufficient storage resources available"},
		"raise the account's max_consumers": {Code: 400, ErrorCode: 10026, Description: "maximum consumers limit reached"},
		"JetStream is switched off":         {Code: 503, ErrorCode: 10039, Description: "account not found"},
	} {
		err := Explain(fmt.Errorf("publish: %w", api), EventsStream)
		if !errors.Is(err, api) || !strings.Contains(err.Error(), want) {
			t.Errorf("%d: %v, want %s", api.ErrorCode, err, want)
		}
	}
	occupied := &jetstream.APIError{Code: 503, ErrorCode: 10077, Description: "maximum messages per subject exceeded"}
	if err := Explain(occupied, DeadLettersStream); err != error(occupied) {
		t.Errorf("a letter that is there already: %v", err)
	}
}

// Fault: a stream or bucket of its own is full. Result: an audit record, a replay, a ledger entry and what
// a page stores fail with the setting to raise.
func TestFullStreamsNameTheSetting(t *testing.T) {
	t.Parallel()
	b, d := brokerWithLetter(t)
	ledger, err := b.OpenLedger(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	desk, err := b.Desk(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		stream, setting string
		write           func() error
	}{
		{DeliveriesStream, "nats.max_bytes.deliveries", func() error { return b.Replay(t.Context(), d, operator, Replay{}) }},
		{"KV_" + LedgerBucket, "nats.max_bytes.ledger", func() error {
			_, err := ledger.Put(t.Context(), "ops.e1", Entry{Event: "e1", Target: "ops"}, 0)
			return err
		}},
		{"KV_" + DeskBucketName, "nats.max_bytes.desk", func() error {
			_, err := desk.Create(t.Context(), "run.1", []byte("{}"))
			return err
		}},
		{"KV_" + RelaysBucket, "nats.max_bytes.relays", func() error {
			return b.StoreReconciled(t.Context(), Reconciled{Manifest: 1})
		}},
		{AuditStream, "nats.max_bytes.audit", func() error { return b.Append(t.Context(), testRecord(1)) }},
	} {
		stream, err := b.js.Stream(t.Context(), c.stream)
		if err != nil {
			t.Fatal(err)
		}
		full := stream.CachedInfo().Config
		full.MaxBytes = 1
		if _, err := b.js.UpdateStream(t.Context(), full); err != nil {
			t.Fatal(err)
		}
		if err := c.write(); err == nil || !strings.Contains(err.Error(), "is full: raise "+c.setting+",") || strings.Count(err.Error(), "raise") != 1 {
			t.Errorf("%s: %v", c.stream, err)
		}
	}
}
