package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/verdict"
)

func TestEventBecomesMail(t *testing.T) {
	t.Parallel()
	b := start(t, newFakeCourier("ops@relay1", "dev@relay1", "sec@relay2"), nil)
	ev := event("e1")
	ev.Labels = map[string]string{"match": "all"}
	b.publish(ev)
	b.settled()
	if got := len(b.fake.mails("e1")); got != 3 {
		t.Fatalf("%d mails, want one per target", got)
	}
	e := b.entry("ops", "e1")
	if e.State != broker.StateSent || e.Attempts != 1 || e.Receipt == nil || e.Receipt.ReplyCode != 250 || e.Lane != "relay1" || e.Owner != "" {
		t.Errorf("ledger: %+v", e)
	}
	if l := b.letters(); len(l) != 0 {
		t.Errorf("dead letters: %+v", l)
	}
}

// The second publication is a new message without a message id: only the ledger can
// prevent a second mail.
//
// Fault: the same event again. Result: sent once.
func TestSameEventAgainIsSentOnce(t *testing.T) {
	t.Parallel()
	b := start(t, newFakeCourier("ops"), nil)
	for range 3 {
		b.publish(event("e1", "ops"))
		b.settled()
	}
	// As if long after the stream's duplicate window: directly into the lane, without an id.
	m := nats.NewMsg(broker.DeliveryPrefix + "relay.ops")
	m.Data = event("e1").Encode()
	if _, err := b.broker.JetStream().PublishMsg(context.Background(), m); err != nil {
		t.Fatal(err)
	}
	b.settled()
	if got := len(b.fake.mails("e1")); got != 1 {
		t.Fatalf("%d mails, want 1", got)
	}
	m.Header.Set(broker.HeaderForce, "true")
	if _, err := b.broker.JetStream().PublishMsg(context.Background(), m); err != nil {
		t.Fatal(err)
	}
	b.settled()
	if got := len(b.fake.mails("e1")); got != 2 {
		t.Fatalf("%d mails after Certpost-Force, want 2", got)
	}
}

// Both are published within the stream's duplicate window, so close together that they
// share a batch.
//
// Fault: the same id for another certificate. Result: dead, not lost.
func TestSameIDForAnotherCertificateAtOnce(t *testing.T) {
	t.Parallel()
	b := start(t, newFakeCourier("ops"), nil)
	other := event("e1", "ops")
	other.Certificate.PEM = lab.SelfSigned("other.example.com")
	b.publish(event("e1", "ops"))
	b.publish(other)
	b.settled()
	if mails, l := len(b.fake.mails("e1")), b.letters(); mails != 1 || len(l) != 1 || l[0].Code != verdict.EventInvalid {
		t.Fatalf("%d mails, letters: %+v; want one of each", mails, l)
	}
}

// Fault: the same id for another certificate. Result: dead, not lost.
func TestSameIDForAnotherCertificateIsNotLost(t *testing.T) {
	t.Parallel()
	b := start(t, newFakeCourier("ops"), nil)
	b.publish(event("e1", "ops"))
	b.settled()
	other := event("e1", "ops")
	other.Certificate.PEM = lab.SelfSigned("other.example.com")
	m := nats.NewMsg(broker.DeliveryPrefix + "relay.ops")
	m.Data = other.Encode()
	if _, err := b.broker.JetStream().PublishMsg(context.Background(), m); err != nil {
		t.Fatal(err)
	}
	b.settled()
	l := b.letters()
	if len(l) != 1 || l[0].Code != verdict.EventInvalid || !strings.Contains(l[0].Reason, "another certificate") {
		t.Fatalf("letters: %+v", l)
	}
	if e := b.entry("ops", "e1"); e.State != broker.StateSent {
		t.Errorf("the first delivery's entry was overwritten: %+v", e)
	}
}

// Fault: 4yz in any phase. Result: retried (SMTP_TRANSIENT).
func TestTransientFailureComesBack(t *testing.T) {
	t.Parallel()
	b := start(t, newFakeCourier("ops"), nil)
	b.fake.plan("ops", func(try int, _ verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
		if try < 4 {
			return nil, fail(verdict.SMTPTransient, verdict.PhaseRcpt)
		}
		return nil, nil
	})
	b.publish(event("e1", "ops"))
	b.settled()
	if e := b.entry("ops", "e1"); e.State != broker.StateSent || e.Attempts != 4 {
		t.Fatalf("ledger: %+v", e)
	}
	if got := len(b.fake.mails("e1")); got != 1 {
		t.Fatalf("%d mails", got)
	}
}

func TestGivenUpAfterItsTime(t *testing.T) {
	t.Parallel()
	b := start(t, newFakeCourier("ops"), func(s *Settings) { s.GiveUpAfter = 2 * time.Second })
	b.fake.plan("ops", func(int, verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
		return nil, fail(verdict.SMTPTransient, verdict.PhaseMail)
	})
	b.publish(event("e1", "ops"))
	b.settled()
	l := b.letters()
	if len(l) != 1 || l[0].Code != verdict.DeliveryExpired || l[0].Attempts < 1 || !strings.Contains(l[0].Reason, "SMTP_TRANSIENT") {
		t.Fatalf("letters: %+v", l)
	}
}

func deadLetterFixture(t *testing.T) (*fixture, *atomic.Bool) {
	t.Helper()
	var fixed atomic.Bool
	b := start(t, newFakeCourier("ops"), nil)
	b.fake.plan("ops", func(int, verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
		if fixed.Load() {
			return nil, nil
		}
		f := fail(verdict.SMTPPermanent, verdict.PhaseRcpt)
		f.Recipients = []string{"a@example.com"}
		return nil, f
	})
	b.publish(event("ev/1", "ops")) // an id that is not a valid subject token
	b.settled()
	return b, &fixed
}

func TestDeadLetterSaysAll(t *testing.T) {
	t.Parallel()
	b, _ := deadLetterFixture(t)
	l := b.letters()
	if len(l) != 1 {
		t.Fatalf("letters: %+v", l)
	}
	raw, err := b.broker.Conn().Request("$JS.API.DIRECT.GET."+broker.DeadLettersStream, []byte(`{"seq":1}`), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	token := events.Token("ev/1")
	for key, want := range map[string]string{
		"Nats-Subject": "certpost.dead.SMTP_PERMANENT.relay.ops." + token, broker.HeaderEventID: "ev/1", broker.HeaderTarget: "ops", broker.HeaderLane: "relay",
		broker.HeaderGeneration: "1", broker.HeaderCode: "SMTP_PERMANENT", broker.HeaderClass: "io_permanent", broker.HeaderPhase: "rcpt", broker.HeaderReason: "scripted by the test",
		broker.HeaderReplyCode: "550", broker.HeaderEnhancedCode: "5.7.1", broker.HeaderAttempts: "1", broker.HeaderCertainty: "not-sent",
		broker.HeaderRecipients: "a@example.com", broker.HeaderReplaySubject: "certpost.delivery.relay.ops",
	} {
		if got := raw.Header.Get(key); got != want {
			t.Errorf("%s: %q, want %q", key, got, want)
		}
	}
	for _, key := range []string{broker.HeaderFirstAttempt, broker.HeaderLastAttempt} {
		if at, err := time.Parse(time.RFC3339Nano, raw.Header.Get(key)); err != nil || time.Since(at) > time.Minute {
			t.Errorf("%s: %q", key, raw.Header.Get(key))
		}
	}
	if e := b.entry("ops", "ev/1"); e.State != broker.StateDead || e.DeadLetter != l[0].Subject || e.Failure.Code != verdict.SMTPPermanent {
		t.Errorf("ledger: %+v", e)
	}
}

func TestReplayAfterMending(t *testing.T) {
	t.Parallel()
	b, fixed := deadLetterFixture(t)
	ctx := context.Background()
	// Not fixed: the replay becomes a dead letter again, one letter, the next generation.
	if err := b.broker.Replay(ctx, b.letters()[0], tester, broker.Replay{}); err != nil {
		t.Fatal(err)
	}
	b.settled()
	l := b.letters()
	if len(l) != 1 || l[0].Generation != 2 {
		t.Fatalf("letters: %+v", l)
	}
	fixed.Store(true)
	if err := b.broker.Replay(ctx, l[0], tester, broker.Replay{Uncertain: true}); err != nil {
		t.Fatal(err)
	}
	b.settled()
	if got := b.fake.mails("ev/1"); len(got) != 1 || len(got[0].recipients)+len(got[0].kept) != 0 {
		t.Fatalf("mails: %+v, want one to all current recipients of the target", got)
	}
	if len(b.letters()) != 0 {
		t.Error("the letter is still on the list")
	}
	if _, err := b.broker.DeadLetter(ctx, l[0].Sequence); !errors.Is(err, broker.ErrNoLetter) {
		t.Errorf("reading a replayed letter: %v", err)
	}
	if n := audits(t, b, "replayed"); n != 2 {
		t.Errorf("%d audit records of replays, want 2", n)
	}
}

// As the NATS CLI replays: body and subject without headers, and the letter stays.
func TestReplayByHand(t *testing.T) {
	t.Parallel()
	b, fixed := deadLetterFixture(t)
	fixed.Store(true)
	l := b.letters()[0]
	if _, err := b.broker.JetStream().Publish(context.Background(), l.ReplaySubject, l.Body); err != nil {
		t.Fatal(err)
	}
	b.settled()
	if got := len(b.fake.mails("ev/1")); got != 1 {
		t.Fatalf("%d mails", got)
	}
	if len(b.letters()) != 0 {
		t.Error("the letter was not removed after a success")
	}
	if n := audits(t, b, "delivered"); n != 1 {
		t.Errorf("%d audit records, want 1", n)
	}
}

// An event that is published again within the stream's duplicate window is delivered
// again too.
//
// Fault: the same event again. Result: delivered again if it was dead.
func TestEventAgainReplaysDead(t *testing.T) {
	t.Parallel()
	b, fixed := deadLetterFixture(t)
	fixed.Store(true)
	b.publish(event("ev/1", "ops"))
	b.settled()
	if got := len(b.fake.mails("ev/1")); got != 1 {
		t.Fatalf("%d mails", got)
	}
	if len(b.letters()) != 0 {
		t.Error("the letter is still on the list")
	}
}

func TestDiscardKeepsTheLetterInTheAudit(t *testing.T) {
	t.Parallel()
	b, _ := deadLetterFixture(t)
	ctx := context.Background()
	if err := b.broker.Discard(ctx, b.letters()[0], tester, ""); err == nil {
		t.Error("discarded without a reason")
	}
	if err := b.broker.Discard(ctx, b.letters()[0], tester, "host is gone"); err != nil {
		t.Fatal(err)
	}
	if len(b.letters()) != 0 || b.entry("ops", "ev/1").State != broker.StateDiscarded {
		t.Errorf("letters %d, ledger %+v", len(b.letters()), b.entry("ops", "ev/1"))
	}
	if n := audits(t, b, "discarded"); n != 1 {
		t.Errorf("%d audit records, want 1", n)
	}
}

func audits(t *testing.T, b *fixture, action string) int {
	t.Helper()
	s, err := b.broker.JetStream().Stream(context.Background(), broker.AuditStream)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for seq := uint64(1); seq <= s.CachedInfo().State.LastSeq; seq++ {
		m, err := s.GetMsg(context.Background(), seq)
		if err == nil && strings.HasPrefix(m.Subject, "certpost.audit."+action+".") {
			n++
		}
	}
	return n
}

// Fault: not JSON. Result: dead (EVENT_INVALID).
// Fault: unknown target, no matching target. Result: dead (TARGET_UNKNOWN).
func TestWhatNeverBecomesADelivery(t *testing.T) {
	t.Parallel()
	b := start(t, newFakeCourier("ops"), nil)
	const canary = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgCANARYCANARYCANARYc"
	ctx := context.Background()
	put := func(body string) {
		if _, err := b.broker.JetStream().Publish(ctx, broker.EventSubject+".www.example.com", []byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	put("not json")
	put(`{"id":"leak","certificate":"x","private_key":"-----BEGIN PRIVATE KEY-----\n` + canary + `\n-----END PRIVATE KEY-----"}`)
	b.publish(event("lost", "nobody-here", "ops"))
	b.publish(event("homeless"))
	odd := []string{"no token!", "no token?", "a.b", "a.c", "Zürich", strings.Repeat("x", 65)}
	b.publish(event("odd", odd...))
	b.settled()
	want := map[string]string{
		"certpost.dead.EVENT_INVALID._._.event-1":         "not json",
		"certpost.dead.EVENT_INVALID._._.leak":            "withheld",
		"certpost.dead.TARGET_UNKNOWN._.nobody-here.lost": `"id":"lost"`,
		"certpost.dead.TARGET_UNKNOWN._._.homeless":       `"id":"homeless"`,
	}
	for _, target := range odd { // a letter for each, with its name
		want["certpost.dead.TARGET_UNKNOWN._."+events.Token(target)+".odd"] = `"id":"odd"`
	}
	for _, l := range b.letters() {
		part, ok := want[l.Subject]
		if l.Event == "odd" && !slices.Contains(odd, l.Target) {
			t.Errorf("a letter names the target %q", l.Target)
		}
		if !ok || !strings.Contains(string(l.Body), part) {
			t.Errorf("letter %s: %s: %q", l.Subject, l.Reason, l.Body)
		}
		delete(want, l.Subject)
		if strings.Contains(string(l.Body)+l.Reason, "CANARY") {
			t.Errorf("letter %s holds the private key", l.Subject)
		}
	}
	if len(want) > 0 {
		t.Errorf("no letters for: %v", want)
	}
	if got := len(b.fake.mails("lost")); got != 1 {
		t.Errorf("%d mails to the known target beside the unknown one, want 1", got)
	}
	// A withheld letter cannot be replayed, and says what to do.
	for _, l := range b.letters() {
		if strings.HasSuffix(l.Subject, ".leak") {
			if err := b.broker.Replay(ctx, l, tester, broker.Replay{Uncertain: true}); err == nil || !strings.Contains(err.Error(), "publish the event again") {
				t.Errorf("replay of a withheld letter: %v", err)
			}
		}
	}
	// The target is defined now: replaying the event's letter delivers to that target only.
	b.fake.mu.Lock()
	b.fake.targets["nobody-here"] = "relay"
	b.fake.mu.Unlock()
	for _, l := range b.letters() {
		if l.Target == "nobody-here" {
			if err := b.broker.Replay(ctx, l, tester, broker.Replay{Uncertain: true}); err != nil {
				t.Fatal(err)
			}
		}
	}
	b.settled()
	if got := len(b.fake.mails("lost")); got != 2 {
		t.Errorf("%d mails after the replay, want 2", got)
	}
}

// Fault: no matching target. Result: or ignored as configured.
func TestUnmatchedCanBeIgnored(t *testing.T) {
	t.Parallel()
	b := start(t, newFakeCourier("ops"), func(s *Settings) { s.IgnoreUnmatched = true })
	b.publish(event("e1"))
	b.settled()
	if l := b.letters(); len(l) != 0 {
		t.Fatalf("letters: %+v", l)
	}
}

// Fault: before the relay's reply was read. Result: the outcome is unknown: sent again
// under the same Message-ID and marked; as on_unknown_outcome says.
func TestUnknownOutcomeIsSentAgainAndSaysSo(t *testing.T) {
	t.Parallel()
	b := start(t, newFakeCourier("ops"), nil)
	b.fake.plan("ops", loseFirstReply)
	b.publish(event("e1", "ops"))
	b.settled()
	got := b.fake.mails("e1")
	if len(got) != 2 || got[0].duplicate || !got[1].duplicate {
		t.Fatalf("mails: %+v, want two, the second marked as a possible duplicate", got)
	}
	if e := b.entry("ops", "e1"); e.State != broker.StateSent || e.PossibleDuplicates != 1 || e.Uncertain {
		t.Errorf("ledger: %+v", e)
	}
}

func loseFirstReply(try int, _ verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
	if try > 1 {
		return nil, nil
	}
	f := fail(verdict.SMTPTransient, verdict.PhaseContent)
	f.Certainty = verdict.MaybeSent
	return lostReply, f
}

// Fault: before the relay's reply was read. Result: or dead (DELIVERY_UNCERTAIN); as
// on_unknown_outcome says.
func TestUnknownOutcomeCanBeADeadLetter(t *testing.T) {
	t.Parallel()
	b := start(t, newFakeCourier("ops"), func(s *Settings) { s.DeadLetterUnknown = true })
	b.fake.plan("ops", loseFirstReply)
	b.publish(event("e1", "ops"))
	b.settled()
	l := b.letters()
	if len(l) != 1 || l[0].Code != verdict.DeliveryUncertain || l[0].Certainty != verdict.MaybeSent {
		t.Fatalf("letters: %+v", l)
	}
	if got := len(b.fake.mails("e1")); got != 1 {
		t.Fatalf("%d mails, want 1", got)
	}
	// An operator's replay is sent and marked, even if it takes more than one attempt.
	b.fake.plan("ops", func(try int, _ verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
		if try < 3 {
			return nil, fail(verdict.SMTPTransient, verdict.PhaseMail)
		}
		return nil, nil
	})
	if err := b.broker.Replay(context.Background(), l[0], tester, broker.Replay{Uncertain: true}); err != nil {
		t.Fatal(err)
	}
	b.settled()
	if got := b.fake.mails("e1"); len(got) != 2 || !got[1].duplicate {
		t.Fatalf("mails: %+v", got)
	}
}

func TestPartlyTakenGoesOnWithTheRest(t *testing.T) {
	t.Parallel()
	b := start(t, newFakeCourier("ops"), nil)
	b.fake.plan("ops", func(try int, a verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
		if try > 1 {
			return nil, nil
		}
		f := fail(verdict.SMTPTransient, verdict.PhaseRcpt)
		f.Recipients = []string{"late@example.com"}
		return &verdict.Receipt{ReplyCode: 250, Recipients: []string{"early@example.com"}}, f
	})
	b.publish(event("e1", "ops"))
	b.settled()
	got := b.fake.mails("e1")
	if len(got) != 2 || got[0].recipients[0] != "early@example.com" || len(got[1].recipients) != 1 || got[1].recipients[0] != "late@example.com" {
		t.Fatalf("mails: %+v", got)
	}
	if got[1].duplicate {
		t.Error("a retry for the other recipients was marked as a possible duplicate")
	}
}

// Fault: connection refused. Result: the relay is not tried for a while; without counting
// an attempt; other relays are unaffected.
func TestRelayAwayCostsNoAttemptAndHurtsNoOtherLane(t *testing.T) {
	t.Parallel()
	var back atomic.Bool
	b := start(t, newFakeCourier("down@relay1", "up@relay2"), nil)
	b.fake.plan("down", func(int, verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
		if back.Load() {
			return nil, nil
		}
		f := fail(verdict.SMTPConnect, verdict.PhaseConnect)
		f.Relay = true
		return nil, f
	})
	away := verdict.RelayStatus{Relay: "relay1:25", Breaker: verdict.Closed}
	b.fake.setRelays("relay1", []verdict.RelayStatus{away})
	for i := range 20 {
		b.publish(event(fmt.Sprintf("d%d", i), "down"))
	}
	b.until("failures", func() bool { return b.fake.tried("down") >= 3 })
	away.Breaker, away.Wait, away.Reason = verdict.Open, time.Minute, "it does not answer"
	b.fake.setRelays("relay1", []verdict.RelayStatus{away})
	b.until("the lane has seen it", func() bool {
		s := b.runner.LaneStatus()
		return s[0].Paused == broker.PausedBreaker && s[0].InFlight == 0
	})
	tried := b.fake.tried("down")
	for i := range 20 {
		b.publish(event(fmt.Sprintf("u%d", i), "up"))
	}
	b.until("the other lane's mails", func() bool {
		b.fake.mu.Lock()
		defer b.fake.mu.Unlock()
		return len(b.fake.mailbox) == 20
	})
	if again := b.fake.tried("down"); again != tried {
		t.Errorf("tried %d times while the breaker was open", again-tried)
	}
	if e := b.entry("down", "d0"); e.Attempts != 0 {
		t.Errorf("the relay's failure was counted as an attempt of the delivery: %+v", e)
	}
	back.Store(true)
	b.fake.setRelays("relay1", []verdict.RelayStatus{{Relay: "relay1:25", Breaker: verdict.HalfOpen}})
	b.settled()
	for i := range 20 {
		if got := len(b.fake.mails(fmt.Sprintf("d%d", i))); got != 1 {
			t.Errorf("event d%d: %d mails", i, got)
		}
	}
}

// Fault: a panic while a message is handled. Result: contained and counted; a dead letter
// after the third, other messages unaffected.
func TestPanicIsContainedAndEnds(t *testing.T) {
	t.Parallel()
	b := start(t, newFakeCourier("bad", "good"), nil)
	b.fake.plan("bad", func(int, verdict.Attempt) (*verdict.Receipt, *verdict.Failure) { panic("secret words") })
	b.publish(event("e1", "bad"))
	b.publish(event("e2", "good"))
	b.settled()
	if got := len(b.fake.mails("e2")); got != 1 {
		t.Errorf("%d mails for the good one", got)
	}
	l := b.letters()
	if len(l) != 1 || b.fake.tried("bad") != maxPanics || strings.Contains(l[0].Reason, "secret words") {
		t.Fatalf("tried %d times, letters: %+v", b.fake.tried("bad"), l)
	}
}

// Fault: SIGTERM with a mail in DATA. Result: the rest waits for the next start; never a
// dead letter because of it.
func TestShutdownIsNotAFailure(t *testing.T) {
	t.Parallel()
	b := start(t, newFakeCourier("slow"), func(s *Settings) { s.Grace = 100 * time.Millisecond })
	b.fake.plan("slow", func(try int, _ verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
		if try == 1 {
			return untilCancelled, fail(verdict.SMTPPermanent, verdict.PhaseConnect) // what a cancelled dial may look like
		}
		return nil, nil
	})
	b.publish(event("e1", "slow"))
	b.until("the first try", func() bool { return b.fake.tried("slow") == 1 })
	b.stop()
	if l := b.letters(); len(l) != 0 {
		t.Fatalf("the shutdown made a dead letter: %+v", l)
	}
	b.run()
	b.settled()
	if e := b.entry("slow", "e1"); e.State != broker.StateSent || e.Attempts != 1 {
		t.Fatalf("ledger: %+v", e)
	}
}

// A process that died between claim and reply leaves a lease: until it ends no other
// process sends, and then the outcome counts as unknown.
//
// Fault: kill -9 after the final dot. Result: the outcome is unknown: sent again under the
// same Message-ID and marked.
func TestLeaseOfTheDead(t *testing.T) {
	t.Parallel()
	b := start(t, newFakeCourier("ops"), nil)
	ctx := context.Background()
	ev := event("e1", "ops")
	// The owner is a replica that connects to the embedded server by its URL.
	left := broker.Entry{Event: "e1", Target: "ops", Digest: ev.Digest(), State: broker.StateSending, Attempts: 1, Owner: "elsewhere/4711/X", Claimed: time.Now(), Lease: time.Now().Add(2 * time.Second)}
	if _, err := b.runner.ledger.Put(ctx, "ops.e1", left, 0); err != nil {
		t.Fatal(err)
	}
	b.publish(ev)
	b.settled()
	got := b.fake.mails("e1")
	if len(got) != 1 || !got[0].duplicate {
		t.Fatalf("mails: %+v", got)
	}
	e := b.entry("ops", "e1")
	if e.Last.Before(left.Lease) {
		t.Errorf("sent at %s, before the lease ended at %s", e.Last, left.Lease)
	}
	if e.Attempts != 2 {
		t.Errorf("attempts: %d", e.Attempts)
	}
}

// An embedded store has one server at a time: the owner of an earlier claim has ended.
func TestLeaseOfAnEarlierProcessOnOurStore(t *testing.T) {
	t.Parallel()
	b := start(t, newFakeCourier("ops"), nil)
	ev := event("e1", "ops")
	left := broker.Entry{Event: "e1", Target: "ops", Digest: ev.Digest(), State: broker.StateSending, Owner: "gone" + embeddedOwner, Lease: time.Now().Add(time.Hour)}
	if _, err := b.runner.ledger.Put(context.Background(), "ops.e1", left, 0); err != nil {
		t.Fatal(err)
	}
	b.publish(ev)
	b.settled()
	if got := b.fake.mails("e1"); len(got) != 1 || !got[0].duplicate {
		t.Fatalf("mails: %+v", got)
	}
}

// Two processes, one with the embedded server and one that connects to it, share the
// lanes: both send, and each event is sent once.
//
// Fault: two replicas. Result: share the lanes; each delivery is sent once.
func TestTwoReplicasShareTheLanes(t *testing.T) {
	t.Parallel()
	b := &fixture{t: t, fake: newFakeCourier("ops"), set: quick(), cfg: broker.Config{DataDir: t.TempDir(), Listen: "127.0.0.1:0", SyncInterval: "2m"}}
	b.start()
	second := &fixture{t: t, fake: newFakeCourier("ops"), set: quick(), cfg: broker.Config{URL: b.broker.URL(), NKeyFile: lab.Seed(b.cfg.DataDir, "admin")}}
	second.start()
	n := 0
	publish := func() {
		b.publish(event(fmt.Sprintf("e%d", n), "ops"))
		n++
	}
	for range 200 {
		publish()
	}
	b.until("both have sent mails", func() bool {
		publish()
		return b.fake.tried("ops") > 0 && second.fake.tried("ops") > 0
	})
	b.settled()
	for i := range n {
		id := fmt.Sprintf("e%d", i)
		if got := len(b.fake.mails(id)) + len(second.fake.mails(id)); got != 1 {
			t.Errorf("event %s: %d mails", id, got)
		}
		if e := b.entry("ops", id); e.State != broker.StateSent || e.Attempts != 1 {
			t.Errorf("event %s: ledger %+v", id, e)
		}
	}
}

// Fault: changed. Result: the delivery waits; and is not settled without its letter.
func TestDeadLetterThatCannotBeStoredKeepsTheDelivery(t *testing.T) {
	t.Parallel()
	b := &fixture{t: t, fake: newFakeCourier("ops"), set: quick(), slowReconcile: true, cfg: broker.Config{DataDir: t.TempDir(), Listen: "none", SyncInterval: "2m"}}
	b.start()
	b.until("the first reconcile is over", func() bool { return len(b.runner.LaneStatus()) == 1 })
	ctx := context.Background()
	s, err := b.broker.JetStream().Stream(ctx, broker.DeadLettersStream)
	if err != nil {
		t.Fatal(err)
	}
	full := s.CachedInfo().Config
	full.MaxMsgSize = 1 // refuses every message
	if _, err := b.broker.JetStream().UpdateStream(ctx, full); err != nil {
		t.Fatal(err)
	}
	b.fake.plan("ops", func(int, verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
		return nil, fail(verdict.SMTPPermanent, verdict.PhaseRcpt)
	})
	b.publish(event("e1", "ops"))
	b.until("the lane has NAKed it", func() bool {
		return b.fake.tried("ops") > 0 && b.runner.LaneStatus()[0].InFlight == 0
	})
	backlog, err := b.broker.Backlog(ctx)
	if err != nil || backlog.Deliveries != 1 {
		t.Fatalf("backlog %+v, %v: the delivery was settled without its letter", backlog, err)
	}
	// Certpost restores the stream's settings by itself; then the letter is stored.
	b.runner.lanes.trigger <- struct{}{}
	b.until("the stream is as it should be", func() bool {
		s, err := b.broker.JetStream().Stream(ctx, broker.DeadLettersStream)
		return err == nil && s.CachedInfo().Config.MaxMsgSize == -1
	})
	b.until("the letter", func() bool { return len(b.letters()) == 1 })
	b.settled()
}

// Fault: streams and consumers deleted. Result: repaired.
func TestDeletedLaneConsumerIsMadeAgain(t *testing.T) {
	t.Parallel()
	b := start(t, newFakeCourier("ops"), nil)
	ctx := context.Background()
	b.publish(event("e1", "ops"))
	b.settled()
	for _, c := range []struct{ stream, name string }{{broker.DeliveriesStream, "lane-relay"}, {broker.EventsStream, broker.FanoutConsumer}} {
		if err := b.broker.JetStream().DeleteConsumer(ctx, c.stream, c.name); err != nil {
			t.Fatal(err)
		}
	}
	b.publish(event("e2", "ops"))
	b.until("the mail", func() bool { return len(b.fake.mails("e2")) == 1 })
	if got := len(b.fake.mails("e1")); got != 1 {
		t.Errorf("the first event made %d mails", got)
	}
}

// A delivery in a lane that no target uses any more, for a target that is gone too, becomes
// a dead letter.
//
// Fault: unknown target. Result: dead (TARGET_UNKNOWN).
// Fault: messages on lanes that no target has. Result: or dead (TARGET_UNKNOWN).
func TestMessageOnAForgottenLane(t *testing.T) {
	t.Parallel()
	b := start(t, newFakeCourier("ops"), nil)
	b.fake.plan("gone", func(int, verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
		return nil, &verdict.Failure{Outcome: verdict.Outcome{Code: verdict.TargetUnknown, Phase: verdict.PhaseResolve, Reason: "not defined"}}
	})
	if _, err := b.broker.JetStream().Publish(context.Background(), broker.DeliveryPrefix+"old-relay.gone", event("e1").Encode()); err != nil {
		t.Fatal(err)
	}
	b.until("the letter", func() bool { return len(b.letters()) == 1 })
	if l := b.letters()[0]; l.Code != verdict.TargetUnknown || l.Lane != broker.NoToken || l.ReplaySubject != broker.DeliverySubject("old-relay", "gone") {
		t.Fatalf("letter: %+v", l)
	}
}

// A stray that cannot be settled yet is settled by a later search.
//
// Fault: such a message cannot be settled. Result: left for the next search.
func TestStrayIsTriedAgain(t *testing.T) {
	t.Parallel()
	b := start(t, newFakeCourier("ops"), nil)
	b.fake.plan("gone", func(try int, _ verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
		if try == 1 {
			return nil, fail(verdict.SMTPTransient, verdict.PhaseConnect)
		}
		return nil, &verdict.Failure{Outcome: verdict.Outcome{Code: verdict.TargetUnknown, Phase: verdict.PhaseResolve, Reason: "not defined"}}
	})
	if _, err := b.broker.JetStream().Publish(context.Background(), broker.DeliveryPrefix+"old-relay.gone", event("e1").Encode()); err != nil {
		t.Fatal(err)
	}
	b.until("the letter", func() bool { return len(b.letters()) == 1 })
	if l := b.letters()[0]; l.Attempts != 2 {
		t.Errorf("letter: %+v", l)
	}
}

func TestLedgerKnowsTheCertificate(t *testing.T) {
	t.Parallel()
	fake := newFakeCourier("ops", "later")
	fetched := &verdict.Certificate{CommonName: "from a secret store", Fingerprint: strings.Repeat("ab", 32)}
	fake.plan("later", func(try int, a verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
		if try == 1 {
			return nil, fail(verdict.SMTPTransient, verdict.PhaseConnect)
		}
		if err := a.Claim(time.Now().Add(time.Second)); err != nil {
			return nil, claimLost(err)
		}
		return &verdict.Receipt{Relay: "relay:25", Recipients: []string{"a@example.com"}, Certificate: fetched}, nil
	})
	fake.plan("ops", func(int, verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
		return nil, fail(verdict.SMTPAuth, verdict.PhaseAuth)
	})
	b := start(t, fake, nil)
	b.publish(event("e1", "ops"))
	elsewhere := event("e2", "later")
	elsewhere.Certificate = events.Certificate{Ref: &events.Reference{File: "/etc/certs/x.pem"}}
	b.publish(elsewhere)
	b.settled()
	if e := b.entry("ops", "e1"); e.State != broker.StateDead || e.Certificate == nil || e.Certificate.CommonName != "www.example.com" || e.Certificate.Serial != "01" {
		t.Errorf("a dead delivery: %+v", e.Certificate)
	}
	e := b.entry("later", "e2")
	if e.State != broker.StateSent || e.Certificate == nil || e.Certificate.CommonName != fetched.CommonName || e.Receipt.Certificate == nil {
		t.Errorf("a delivery whose certificate came from elsewhere: %+v", e)
	}
	// It is stored once.
	kv, err := b.broker.JetStream().KeyValue(context.Background(), broker.LedgerBucket)
	if err != nil {
		t.Fatal(err)
	}
	kve, err := kv.Get(context.Background(), "later.e2")
	if err != nil || strings.Count(string(kve.Value()), fetched.Fingerprint) != 1 {
		t.Errorf("stored: %s, %v", kve.Value(), err)
	}
}

// An attempt that was claimed, refused, and then found no connection to go on with does
// not count, and leaves neither a lease to wait for nor an unknown outcome.
//
// Fault: takes only some mails on one connection (452 4.4.5. Result: no attempt counted.
func TestClaimedAndThenNoRelay(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*verdict.Failure){
		"unavailable":   func(f *verdict.Failure) { f.Relay, f.After = true, time.Millisecond },
		"at its limits": func(f *verdict.Failure) { f.Untried, f.After = true, time.Millisecond },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := start(t, newFakeCourier("ops"), nil)
			b.fake.plan("ops", func(try int, a verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
				if try > 1 {
					return nil, nil
				}
				if err := a.Claim(time.Now().Add(time.Hour)); err != nil {
					return nil, claimLost(err)
				}
				f := fail(verdict.SMTPConnect, verdict.PhaseConnect)
				change(f)
				return nil, f
			})
			b.publish(event("e1", "ops"))
			b.settled()
			if got := b.fake.mails("e1"); len(got) != 1 || got[0].duplicate {
				t.Errorf("mails: %+v, want one that is not marked", got)
			}
			if e := b.entry("ops", "e1"); e.State != broker.StateSent || e.Attempts != 1 || e.PossibleDuplicates != 0 {
				t.Errorf("ledger: %+v", e)
			}
		})
	}
}

// An attempt that claims twice, because the relay refused the first DATA for its session's
// sake, makes one mail, which counts as one possible duplicate at most.
//
// Fault: takes only some mails on one connection (452 4.4.5. Result: the mail goes on with
// a new one.
func TestClaimedTwiceInOneAttempt(t *testing.T) {
	t.Parallel()
	b := start(t, newFakeCourier("ops"), nil)
	b.fake.plan("ops", func(try int, a verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
		if try == 1 {
			return loseFirstReply(try, a)
		}
		if err := a.Claim(time.Now().Add(time.Second)); err != nil {
			return nil, claimLost(err)
		}
		return nil, nil // the fake claims again, and takes the mail
	})
	b.publish(event("e1", "ops"))
	b.settled()
	if got := b.fake.mails("e1"); len(got) != 2 || !got[1].duplicate {
		t.Fatalf("mails: %+v, want two, the second marked", got)
	}
	if e := b.entry("ops", "e1"); e.State != broker.StateSent || e.PossibleDuplicates != 1 || e.Attempts != 2 {
		t.Errorf("ledger: %+v", e)
	}
}
