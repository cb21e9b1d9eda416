package broker

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/lab"
)

// The streams refuse what the program never does, also to an administrator; streams that an
// earlier version made are updated, with what they hold.
//
// Fault: an administrator wipes the ledger with a rollup, or deletes or purges events, records or
// the manifest. Result: refused by the streams.
func TestStreamsRefuseWhatIsNotNeeded(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	srv := lab.NATS(t, "127.0.0.1:-1", "")
	open := func(unprotected bool) *Broker {
		b, err := Dial(ctx, Config{URL: srv.ClientURL(), Unprotected: unprotected}, zerolog.Nop())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(b.Close)
		return b
	}
	// As the earlier version made them.
	old := open(true)
	for _, s := range old.streams() {
		s.AllowRollup = strings.HasPrefix(s.Name, "KV_")
		if _, err := old.js.CreateStream(ctx, s); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := old.Publish(ctx, testEvent("e1", "ops")); err != nil {
		t.Fatal(err)
	}
	if _, err := old.nc.Request("$KV."+LedgerBucket+".ops.e1", []byte(`{"state":"waiting"}`), 5*time.Second); err != nil {
		t.Fatal(err)
	}
	if err := old.Append(ctx, testRecord(1)); err != nil {
		t.Fatal(err)
	}
	b := open(false)
	before := holdings(t, b)
	for range 2 { // the second time nothing differs
		if err := b.EnsureTopology(ctx); err != nil {
			t.Fatal(err)
		}
	}
	before[0] = strings.Replace(before[0], "0 consumers", "1 consumers", 1) // the fan-out
	if after := holdings(t, b); !slices.Equal(after, before) {
		t.Fatalf("the update changed what is stored:\n%s\nbefore:\n%s", strings.Join(after, "\n"), strings.Join(before, "\n"))
	}

	refused := func(what, subject, body string, header nats.Header) {
		t.Helper()
		m, err := b.nc.RequestMsg(&nats.Msg{Subject: subject, Data: []byte(body), Header: header}, 5*time.Second)
		var answer struct{ Error *jetstream.APIError }
		if err != nil || json.Unmarshal(m.Data, &answer) != nil || answer.Error == nil {
			t.Errorf("%s: %v, %+v", what, err, m)
		}
	}
	for _, rollup := range []string{"all", "sub"} {
		refused("rollup of the ledger", "$KV."+LedgerBucket+".ops.e2", "{}", nats.Header{jetstream.MsgRollup: {rollup}})
		refused("rollup of the events", EventSubject, "{}", nats.Header{jetstream.MsgRollup: {rollup}})
		refused("rollup of the audit", auditPrefix+"x", "{}", nats.Header{jetstream.MsgRollup: {rollup}})
	}
	ledger := "KV_" + LedgerBucket
	for _, stream := range []string{EventsStream, ManifestStream, AuditStream, ledger, DeliveriesStream} {
		refused("purge "+stream, "$JS.API.STREAM.PURGE."+stream, "", nil)
	}
	for _, stream := range []string{EventsStream, ManifestStream, AuditStream, ledger} {
		refused("delete from "+stream, "$JS.API.STREAM.MSG.DELETE."+stream, `{"seq":1}`, nil)
		refused("erase from "+stream, "$JS.API.STREAM.MSG.DELETE."+stream, `{"seq":1,"no_erase":false}`, nil)
		s, err := b.js.Stream(ctx, stream)
		if err != nil {
			t.Fatal(err)
		}
		cfg := s.CachedInfo().Config
		cfg.DenyDelete, cfg.DenyPurge = false, false
		if _, err := b.js.UpdateStream(ctx, cfg); err == nil {
			t.Errorf("the protection of %s can be taken back", stream)
		}
	}
	if after := holdings(t, b); !slices.Equal(after, before) {
		t.Errorf("something was lost:\n%s\nbefore:\n%s", strings.Join(after, "\n"), strings.Join(before, "\n"))
	}
	// What the program needs still works.
	for what, do := range map[string]func() error{
		"take back a delivery": func() error {
			if _, err := b.js.Publish(ctx, DeliverySubject("lane", "ops"), []byte("{}")); err != nil {
				return err
			}
			s, err := b.js.Stream(ctx, DeliveriesStream)
			if err != nil {
				return err
			}
			return s.DeleteMsg(ctx, 1)
		},
		"remove an entry of the desk": func() error {
			desk, err := b.Desk(ctx)
			if err != nil {
				return err
			}
			revision, err := desk.Create(ctx, "a", []byte("{}"))
			if err != nil {
				return err
			}
			return desk.Delete(ctx, "a", revision)
		},
		"write an entry again": func() error {
			_, err := b.nc.Request("$KV."+LedgerBucket+".ops.e1", []byte(`{"state":"sent"}`), 5*time.Second)
			return err
		},
	} {
		if err := do(); err != nil {
			t.Error(fmt.Errorf("%s: %w", what, err))
		}
	}
}
