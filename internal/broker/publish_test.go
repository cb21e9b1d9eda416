package broker

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/lab"
)

// publishing returns a broker with its streams, and a function that publishes and returns what
// Publish does.
func publishing(t *testing.T) (*Broker, func(*events.Event) (uint64, bool)) {
	t.Helper()
	b, err := Open(Config{DataDir: t.TempDir(), Listen: "none", SyncInterval: "2m", Unprotected: true}, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	if err := b.EnsureTopology(t.Context()); err != nil {
		t.Fatal(err)
	}
	return b, func(ev *events.Event) (uint64, bool) {
		t.Helper()
		sequence, duplicate, err := b.Publish(t.Context(), ev)
		if err != nil {
			t.Fatal(err)
		}
		return sequence, duplicate
	}
}

// Only an event that says the same is a duplicate. Others are stored, whatever id they have.
//
// Fault: the same id, within the stream's duplicate window, for other targets, labels,
// another key or certificate. Result: published; publish compares a duplicate with what the
// stream has.
func TestPublishStoresWhatIsNotADuplicate(t *testing.T) {
	t.Parallel()
	_, publish := publishing(t)
	first := testEvent("e1", "ops")
	first.Time = time.Unix(1_800_000_000, 0)
	later := *first
	later.Time, later.Source = first.Time.Add(time.Minute), "cron://web1"
	otherTarget := *first
	otherTarget.Targets = []string{"archive"}
	otherCertificate := *first
	otherCertificate.Certificate = events.Certificate{PEM: "another"}
	otherLabel := *first
	otherLabel.Labels = map[string]string{"env": "prod"}
	otherKey := *first
	otherKey.PrivateKey = &events.Reference{Vault: &events.VaultReference{Mount: "secret", Path: "x", Key: "k", Version: 2}}
	for _, c := range []struct {
		name      string
		ev        *events.Event
		sequence  uint64
		duplicate bool
	}{
		{"the first", first, 1, false},
		{"the hook runs again", &later, 1, true},
		{"for another target", &otherTarget, 2, false},
		{"another certificate", &otherCertificate, 3, false},
		{"another label", &otherLabel, 4, false},
		{"another version of the key", &otherKey, 5, false},
		{"for another target again", &otherTarget, 2, true},
	} {
		if sequence, duplicate := publish(c.ev); sequence != c.sequence || duplicate != c.duplicate {
			t.Errorf("%s: sequence %d, duplicate %v, want %d, %v", c.name, sequence, duplicate, c.sequence, c.duplicate)
		}
	}
}

// Nobody can make an event a duplicate by using its message id first.
//
// Fault: a message id that somebody used before. Result: published; publish compares a
// duplicate with what the stream has.
func TestPublishIsNotSwallowedByAUsedMessageID(t *testing.T) {
	t.Parallel()
	for name, there := range map[string]func(*testing.T, *Broker, *events.Event, *nats.Msg){
		"of garbage": func(_ *testing.T, _ *Broker, _ *events.Event, m *nats.Msg) { m.Data = []byte("garbage") },
		"of another event": func(_ *testing.T, _ *Broker, _ *events.Event, m *nats.Msg) {
			m.Data = testEvent("e1", "thief").Encode()
		},
		"of this event on another subject": func(_ *testing.T, _ *Broker, ev *events.Event, m *nats.Msg) {
			m.Subject, m.Data = EventSubject+".evil", ev.Encode()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, publish := publishing(t)
			ev := testEvent("e1", "ops")
			m := nats.NewMsg(EventSubject)
			m.Header.Set(nats.MsgIdHdr, publicationID(ev))
			there(t, b, ev, m)
			if _, err := b.js.PublishMsg(t.Context(), m); err != nil {
				t.Fatal(err)
			}
			if sequence, duplicate := publish(ev); sequence != 2 || duplicate {
				t.Fatalf("sequence %d, duplicate %v", sequence, duplicate)
			}
			stored, err := b.messageAt(t.Context(), EventsStream, 2)
			if err != nil || string(stored.Data) != string(ev.Encode()) || stored.Subject != EventSubject {
				t.Errorf("stored: %+v, %v", stored, err)
			}
		})
	}
}

// An event whose first publication was removed from the stream is published again.
//
// Fault: an event that was removed from the stream. Result: published.
func TestPublishAgainWhatWasRemoved(t *testing.T) {
	t.Parallel()
	b, publish := publishing(t)
	ev := testEvent("e1", "ops")
	publish(ev)
	s, err := b.js.Stream(t.Context(), EventsStream)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteMsg(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if sequence, duplicate := publish(ev); sequence != 2 || duplicate {
		t.Errorf("sequence %d, duplicate %v", sequence, duplicate)
	}
}

// A publisher who may not read the stream cannot compare, and publishes again.
//
// Fault: a publisher that may not read the stream. Result: published.
func TestPublishWithoutTheRightToRead(t *testing.T) {
	t.Parallel()
	addr := lab.FreeAddress(t)
	lab.NATS(t, addr, `authorization { users: [
		{user: admin, password: a},
		{user: hook, password: b, permissions: {publish: ["certificate.issued"], subscribe: ["_INBOX.>"]}}] }`)
	dial := func(user, password string) *Broker {
		b, err := Dial(t.Context(), Config{URL: "nats://" + addr, User: user, Password: func() ([]byte, error) { return []byte(password), nil }}, zerolog.Nop())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(b.Close)
		return b
	}
	admin, hook := dial("admin", "a"), dial("hook", "b")
	if err := admin.EnsureTopology(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, duplicate, err := hook.Publish(t.Context(), testEvent("e1", "ops")); err != nil || duplicate {
			t.Errorf("duplicate %v, %v", duplicate, err)
		}
	}
}

// A source may have dots, as host names do.
//
// Fault: an event on a subject whose source has dots. Result: stored.
func TestSubjectsOfSourcesWithDots(t *testing.T) {
	t.Parallel()
	b, _ := publishing(t)
	for i, subject := range []string{"certificate.issued", "certificate.issued.web1", "certificate.issued.www.example.com"} {
		ack, err := b.js.Publish(t.Context(), subject, testEvent("e", "ops").Encode())
		if err != nil || ack.Sequence != uint64(i+1) {
			t.Errorf("%s: %+v, %v", subject, ack, err)
		}
	}
}

// A stream of an older version, which took sources of one token, is updated at start and keeps its events.
//
// Fault: an event on a subject whose source has dots. Result: the stream of an older
// version is updated.
func TestOlderStreamTakesSourcesWithDots(t *testing.T) {
	t.Parallel()
	b, publish := publishing(t)
	publish(testEvent("e1", "ops"))
	ctx := context.WithoutCancel(t.Context())
	older := b.streams()[0]
	older.Subjects = []string{EventSubject, EventSubject + ".*"}
	if _, err := b.js.UpdateStream(ctx, older); err != nil {
		t.Fatal(err)
	}
	if _, err := b.js.Publish(ctx, "certificate.issued.www.example.com", []byte("{}"), jetstream.WithRetryAttempts(0)); err == nil {
		t.Fatal("the older stream took a source with dots")
	}
	if err := b.EnsureTopology(ctx); err != nil {
		t.Fatal(err)
	}
	if ack, err := b.js.Publish(ctx, "certificate.issued.www.example.com", []byte("{}")); err != nil || ack.Sequence != 2 {
		t.Errorf("%+v, %v", ack, err)
	}
}
