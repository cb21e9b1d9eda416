package outcome

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/verdict"
)

var operator = broker.Actor{Name: "operator", Via: broker.ViaShell}

// Each change of a delivery is one CloudEvent with what other systems need, and nothing that is secret or personal.
func TestOutcomes(t *testing.T) {
	t.Parallel()
	x := open(t)
	x.sent("mail", "ops")
	x.put(broker.LedgerKey("mx1", "host"), func(e *broker.Entry) {
		*e = entry("host", "mx1")
		e.Receipt = &verdict.Receipt{Host: "mx1", State: "deployed", At: time.Now()}
	})
	x.put(broker.LedgerKey("ops", "again"), func(e *broker.Entry) {
		*e = entry("again", "ops")
		e.Receipt = nil
		*e = e.Waiting(&verdict.Failure{Outcome: verdict.Outcome{Code: verdict.SMTPTransient, Phase: verdict.PhaseRcpt, ReplyCode: 451, Reason: "canary"}})
	})
	x.put(broker.LedgerKey("ops", "claimed"), func(e *broker.Entry) {
		*e = entry("claimed", "ops")
		e.Receipt, e.State = nil, broker.StateSending // is no outcome
	})
	l := x.letter("bad", "ops")
	p := x.publisher("one", x.b)
	x.all(p)
	got := x.read(4)
	x.wants(got, Dead, Delivered, Deployed, Failed)
	dead, mail, host := got[0], got[1], got[2]
	if c := mail.Data.Certificate; c == nil || !slices.Equal(c.DNSNames, []string{"www.example.com"}) || c.Serial == "" || len(c.Fingerprint) != 64 || c.NotAfter.IsZero() {
		t.Errorf("the certificate is %+v", c)
	}
	if mail.ID != "mail/ops/1.7/delivered" || mail.Subject != "ops" || mail.Source != "certpost" || mail.Type != "certpost.outcome.delivered" || mail.Data.MessageID != "<m1@example.com>" {
		t.Errorf("%+v", mail)
	}
	if host.Data.Host != "mx1" || host.Data.State != "deployed" || host.Data.MessageID != "" {
		t.Errorf("%+v", host.Data)
	}
	if d := dead.Data; d.Code != verdict.SMTPPermanent || d.ReplyCode != 550 || d.EnhancedCode != "5.1.1" || d.Attempts != 3 || d.Letter != l.Sequence || d.Certificate == nil || dead.TraceParent != l.TraceParent {
		t.Errorf("%+v", dead)
	}
	x.must(x.b.Replay(t.Context(), l, operator, broker.Replay{}))
	second := x.letter("worse", "ops")
	x.must(x.b.Discard(t.Context(), second, operator, "canary: not needed"))
	record, err := x.b.Discarded(t.Context(), second.Sequence)
	x.must(err)
	_, err = x.b.Restore(t.Context(), record, operator, "")
	x.must(err)
	x.put(broker.LedgerKey("mx1", "host"), func(e *broker.Entry) { e.Receipt.RolledBack = &verdict.RolledBack{At: time.Now(), By: "canary"} })
	x.all(p)
	more := x.read(5)
	x.wants(more, Replayed, Dead, Discarded, Restored, RolledBack)
	text, err := json.Marshal(append(got, more...))
	x.must(err)
	for _, secret := range []string{"canary", "example.com:587", "operator", "BEGIN"} {
		if strings.Contains(string(text), secret) {
			t.Errorf("an outcome has %q: %s", secret, text)
		}
	}
}

// An event that never became a delivery is an outcome of no target.
func TestOutcomeWithoutTarget(t *testing.T) {
	t.Parallel()
	x := open(t)
	d := &broker.DeadLetter{Event: "broken", Token: "broken", Generation: 1, ReplaySubject: broker.EventSubject, Body: []byte("{}"),
		Outcome: verdict.Outcome{Code: verdict.EventInvalid, Phase: verdict.PhaseResolve, Reason: "no certificate"}}
	x.must(x.b.PublishDeadLetter(t.Context(), d, "e1"))
	x.all(x.publisher("one", x.b))
	if e := x.read(1)[0]; e.Subject != "_" || e.Data.Target != "" || e.Data.Code != verdict.EventInvalid {
		t.Errorf("%+v", e)
	}
}

// Fault: a process is killed between the publication of an outcome and its note of it. Result: another process goes on where the
// stream ends, and publishes the outcome exactly once.
func TestOutcomeOnceThoughKilled(t *testing.T) {
	t.Parallel()
	x := open(t)
	x.sent("one", "ops")
	x.sent("two", "ops")
	killed := errors.New("killed")
	if _, err := x.publisher("one", store{x.b, func(call string) error {
		if call == "append" {
			return killed
		}
		return nil
	}}).Round(t.Context()); !errors.Is(err, killed) {
		t.Fatalf("%v", err)
	}
	x.sent("three", "ops")
	p := x.publisher("two", x.b)
	now := time.Now()
	p.Now = func() time.Time { return now }
	for range 3 { // it waits for the other process first
		x.all(p)
		now = now.Add(takeOver)
	}
	if got := ids(x.read(3)); !slices.Equal(got, []string{"one/ops/1.7/delivered", "two/ops/1.7/delivered", "three/ops/1.7/delivered"}) {
		t.Errorf("%q", got)
	}
}

// Fault: NATS does not answer when outcomes are to be published, or its answer is lost. Result: the deliveries go on, what keeps the
// outcomes is reported, and afterwards each is published exactly once.
func TestOutcomesWhileNATSIsAway(t *testing.T) {
	t.Parallel()
	x := open(t)
	var mu sync.Mutex
	away, failed, worked := true, make(chan error, 100), make(chan bool, 100)
	p := x.publisher("one", store{x.b, func(string) error {
		mu.Lock()
		defer mu.Unlock()
		if away {
			return errors.New("no answer")
		}
		return nil
	}})
	p.Report = func(err error) {
		if err != nil {
			failed <- err
		} else {
			worked <- true
		}
	}
	p.first = time.Millisecond
	x.sent("one", "ops")
	done := make(chan struct{})
	go func() { p.Run(t.Context()); close(done) }()
	if err := <-failed; err.Error() != "no answer" {
		t.Error(err)
	}
	mu.Lock()
	away = false
	mu.Unlock()
	<-worked
	x.wants(x.read(1), Delivered)
}

// Fault: a dead letter is discarded before its outcome was read. Result: the audit has the letter, and both outcomes are published.
func TestLetterGoneBeforeItWasRead(t *testing.T) {
	t.Parallel()
	x := open(t)
	x.must(x.b.Discard(t.Context(), x.letter("bad", "ops"), operator, "not needed"))
	x.letter("next", "ops")
	x.all(x.publisher("one", x.b))
	got := x.read(3)
	x.wants(got, Dead, Dead, Discarded)
	if got[1].Data.Event != "bad" || got[1].Data.Certificate == nil || got[2].Data.Event != "bad" {
		t.Errorf("%q", ids(got))
	}
}

// Fault: a delivery is sent again, by force, before the outcome of the first time was read. Result: both are published, each once.
func TestSentAgainBeforeItWasRead(t *testing.T) {
	t.Parallel()
	x := open(t)
	again := func(id string, sequence uint64) {
		e, revision, err := x.ledger.Get(t.Context(), broker.LedgerKey("ops", id))
		x.must(err)
		e.State, e.Sequence, e.Generation = broker.StateSending, sequence, e.Generation+1
		revision, err = x.ledger.Put(t.Context(), broker.LedgerKey("ops", id), e, revision)
		x.must(err)
		e.State = broker.StateSent
		_, err = x.ledger.Put(t.Context(), broker.LedgerKey("ops", id), e, revision)
		x.must(err)
	}
	x.sent("one", "ops")
	again("one", 8)
	x.sent("two", "ops")
	p := x.publisher("one", x.b)
	x.all(p)
	again("two", 9)
	again("one", 10)
	x.all(p)
	if got := ids(x.read(5)); !slices.Equal(got, []string{"one/ops/1.7/delivered", "one/ops/2.8/delivered", "two/ops/1.7/delivered", "two/ops/2.9/delivered", "one/ops/3.10/delivered"}) {
		t.Errorf("%q", got)
	}
}

// Many processes publish each outcome once.
func TestManyPublishers(t *testing.T) {
	t.Parallel()
	x := open(t)
	const deliveries = 60
	var wg sync.WaitGroup
	for n := range 3 {
		p := x.publisher(fmt.Sprintf("process %d", n), x.b)
		p.eager = true
		wg.Go(func() {
			for range 15 {
				if _, err := p.Round(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for n := range deliveries {
		x.sent(fmt.Sprintf("e%d", n), "ops")
	}
	wg.Wait()
	last := x.publisher("last", x.b)
	last.eager = true
	x.all(last)
	seen := map[string]bool{}
	for _, id := range ids(x.read(deliveries)) {
		seen[id] = true
	}
	if len(seen) != deliveries {
		t.Errorf("%d different ids", len(seen))
	}
}

// Outcomes begin when they are switched on, and what lies in the stream may be deleted.
func TestOutcomesBegin(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	off := broker.Config{DataDir: dir, Listen: "none", SyncInterval: "2m"}
	b, err := broker.Open(off, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	before := &fixture{t: t, b: b}
	before.must(b.EnsureTopology(t.Context()))
	before.ledger, err = b.OpenLedger(t.Context())
	before.must(err)
	before.sent("before", "ops")
	b.Close()
	x := open(t, func(c *broker.Config) { c.DataDir = dir })
	x.sent("one", "ops")
	p := x.publisher("one", x.b)
	x.all(p)
	if got := ids(x.read(1)); got[0] != "one/ops/1.7/delivered" {
		t.Errorf("%q", got)
	}
	stream, err := x.b.JetStream().Stream(t.Context(), broker.OutcomesStream)
	x.must(err)
	x.must(stream.Purge(t.Context()))
	x.sent("two", "ops")
	again := x.publisher("one", x.b)
	x.all(again)
	if got := ids(x.read(1)); got[0] != "two/ops/1.7/delivered" {
		t.Errorf("%q", got)
	}
}
