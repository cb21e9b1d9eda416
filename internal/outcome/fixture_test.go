package outcome

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/verdict"
)

// fixture is a real JetStream with a ledger, and a reader of all outcomes.
type fixture struct {
	t      *testing.T
	b      *broker.Broker
	ledger broker.Ledger
	feed   *broker.OutcomeFeed
}

func open(t *testing.T, change ...func(*broker.Config)) *fixture {
	t.Helper()
	cfg := broker.Config{DataDir: t.TempDir(), Listen: "none", SyncInterval: "2m", Outcomes: broker.OutcomeLimits{MaxAge: time.Hour, MaxBytes: 64 << 20}}
	for _, c := range change {
		c(&cfg)
	}
	x := &fixture{t: t}
	x.b = x.openBroker(cfg)
	x.feed = x.b.OutcomeFeed("all")
	x.must(x.b.EnsureTopology(t.Context()))
	var err error
	x.ledger, err = x.b.OpenLedger(t.Context())
	x.must(err)
	_, err = x.feed.Fetch(t.Context(), 1, 10*time.Millisecond) // its consumer exists from now on
	x.must(err)
	return x
}

func (x *fixture) openBroker(cfg broker.Config) *broker.Broker {
	x.t.Helper()
	b, err := broker.Open(cfg, zerolog.New(zerolog.NewTestWriter(x.t)).Level(zerolog.ErrorLevel))
	x.must(err)
	x.t.Cleanup(b.Close)
	return b
}

func (x *fixture) must(err error) {
	x.t.Helper()
	if err != nil {
		x.t.Fatal(err)
	}
}

// publisher is another process.
func (x *fixture) publisher(name string, store Store) *Publisher {
	return &Publisher{Store: store, Process: name, MaxAge: time.Hour, Metrics: NewMetrics(prometheus.NewRegistry()), Report: func(error) {}, Log: zerolog.Nop()}
}

// all publishes what is due.
func (x *fixture) all(p *Publisher) {
	x.t.Helper()
	for range 50 {
		more, err := p.Round(x.t.Context())
		x.must(err)
		if !more {
			return
		}
	}
	x.t.Fatal("there is always more")
}

// read returns the outcomes that were published since the last call, and fails unless there are n.
func (x *fixture) read(n int) (all []*Event) {
	x.t.Helper()
	for {
		wait := 5 * time.Second
		if len(all) >= n {
			wait = 20 * time.Millisecond // one too many is stored already
		}
		batch, err := x.feed.Fetch(x.t.Context(), max(n-len(all), 1), wait)
		x.must(err)
		for _, o := range batch {
			e, err := Read(o.Data)
			x.must(err)
			x.must(validate(x.t, o.Data))
			x.must(o.Done(x.t.Context()))
			all = append(all, e)
		}
		if len(batch) == 0 {
			break
		}
	}
	if len(all) != n {
		x.t.Fatalf("%d outcomes, want %d: %v", len(all), n, ids(all))
	}
	return all
}

func ids(all []*Event) (out []string) {
	for _, e := range all {
		out = append(out, e.ID)
	}
	return out
}

func types(all []*Event) (out []Type) {
	for _, e := range all {
		out = append(out, e.Data.Outcome)
	}
	return out
}

func (x *fixture) wants(all []*Event, want ...Type) {
	x.t.Helper()
	if got := types(all); !slices.Equal(got, want) {
		x.t.Fatalf("%q, want %q", got, want)
	}
}

func testEvent(id string) *events.Event {
	return &events.Event{ID: id, Source: "test://ca", Certificate: events.Certificate{PEM: lab.SelfSigned("www.example.com")}}
}

// entry is the ledger's entry of a delivery that was sent.
func entry(id, target string) broker.Entry {
	ev := testEvent(id)
	leaf, err := ev.Leaf()
	if err != nil {
		panic(err)
	}
	return broker.Entry{Event: id, Target: target, Lane: "relay", Digest: ev.Digest(), State: broker.StateSent, Generation: 1, Sequence: 7, Attempts: 1, Certificate: verdict.CertificateOf(leaf),
		Receipt: &verdict.Receipt{Relay: "mail.example.com:587", MessageID: "<m1@example.com>", Reply: "canary: queued for ops@example.com", Recipients: []string{"canary@example.com"}, At: time.Now()}}
}

// put writes an entry over the one that is there.
func (x *fixture) put(key string, change func(*broker.Entry)) {
	x.t.Helper()
	e, revision, err := x.ledger.Get(x.t.Context(), key)
	if err != nil && revision != 0 {
		x.t.Fatal(err)
	}
	change(&e)
	_, err = x.ledger.Put(x.t.Context(), key, e, revision)
	x.must(err)
}

// sent writes that a delivery was sent.
func (x *fixture) sent(id, target string) {
	x.t.Helper()
	x.put(broker.LedgerKey(target, events.Token(id)), func(e *broker.Entry) { *e = entry(id, target) })
}

// letter stores a dead letter.
func (x *fixture) letter(id, target string) broker.DeadLetter {
	x.t.Helper()
	ev := testEvent(id)
	d := &broker.DeadLetter{Event: id, Token: events.Token(id), Target: target, Lane: "relay", Generation: 1, Attempts: 3, Body: ev.Encode(),
		ReplaySubject: broker.DeliverySubject("relay", target), TraceParent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
		Outcome: verdict.Outcome{Code: verdict.SMTPPermanent, Phase: verdict.PhaseRcpt, Reason: "canary@example.com was refused", ReplyCode: 550, EnhancedCode: "5.1.1", Reply: "canary"}}
	x.must(x.b.PublishDeadLetter(x.t.Context(), d, "d1"))
	for l, err := range x.b.ReadLetters(x.t.Context(), 1) {
		x.must(err)
		if l.Event == id {
			return l
		}
	}
	x.t.Fatal("the letter is not there")
	return broker.DeadLetter{}
}

// store is a Store whose calls can fail after they have acted.
type store struct {
	*broker.Broker
	after func(call string) error // what a call returns, after it has acted
}

func (s store) AppendOutcomes(ctx context.Context, end broker.OutcomeEnd, m []broker.OutcomeMessage) (broker.OutcomeEnd, error) {
	end, err := s.Broker.AppendOutcomes(ctx, end, m)
	if failed := s.after("append"); failed != nil {
		return broker.OutcomeEnd{}, failed
	}
	return end, err
}

func (s store) OutcomeSources(ctx context.Context) (broker.OutcomeSources, error) {
	found, err := s.Broker.OutcomeSources(ctx)
	if failed := s.after("sources"); failed != nil {
		return found, failed
	}
	return found, err
}
