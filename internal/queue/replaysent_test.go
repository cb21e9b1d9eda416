package queue

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/verdict"
)

// sentRecords returns the records of sent replays, as text.
func (b *fixture) sentRecords() (all []string) {
	b.t.Helper()
	for r, err := range b.broker.ReadAudit(b.t.Context(), 1) {
		if err != nil {
			b.t.Fatal(err)
		}
		if r.Action != broker.ActionSent {
			continue
		}
		by := "nobody known"
		if r.OrderedBy != nil {
			by = r.OrderedBy.Name
		}
		all = append(all, fmt.Sprintf("%s to %s, letter %d, ordered by %s", r.Event, r.Target, r.LetterNumber, by))
	}
	return all
}

func (b *fixture) wantSent(when string, want ...string) {
	b.t.Helper()
	if got := b.sentRecords(); fmt.Sprint(got) != fmt.Sprint(want) {
		b.t.Errorf("%s:\ngot  %q\nwant %q", when, got, want)
	}
}

// The audit has the success of each replay, with who ordered it, and nothing of other mails.
//
// Fault: the process dies after the ledger says that a replay was sent, before the audit does.
// Result: the next one records it, once.
func TestTheSuccessOfAReplayIsRecorded(t *testing.T) {
	t.Parallel()
	b := start(t, newFakeCourier("ops", "other"), nil)
	b.fake.plan("ops", func(n int, a verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
		if n <= 2 {
			return nil, fail(verdict.SMTPPermanent, verdict.PhaseRcpt)
		}
		if err := a.Claim(time.Now().Add(time.Minute)); err != nil {
			return nil, claimLost(err)
		}
		return &verdict.Receipt{Recipients: []string{"a@example.com"}}, nil
	})
	b.publish(event("e1", "ops"))
	b.publish(event("e2", "ops"))
	b.publish(event("e3", "other")) // no replay
	b.settled()
	letters := b.letters()
	if len(letters) != 2 {
		t.Fatalf("%d letters, want 2", len(letters))
	}
	b.wantSent("before the replays")
	for i, how := range []broker.Replay{{}, {Target: "other", Lane: "relay"}} {
		if err := b.broker.Replay(t.Context(), letters[i], tester, how); err != nil {
			t.Fatal(err)
		}
	}
	b.settled()
	first := fmt.Sprintf("%s to ops, letter %d, ordered by tester", letters[0].Event, letters[0].Sequence)
	second := fmt.Sprintf("%s to other, letter %d, ordered by tester", letters[1].Event, letters[1].Sequence)
	if got := b.sentRecords(); len(got) == 2 && got[0] == second {
		first, second = second, first // two deliveries at once
	}
	b.wantSent("after the replays", first, second)

	// As a process leaves it that dies after the ledger: the delivery comes again.
	e := b.entry("other", "e3")
	e.Sequence, e.Generation = 1000, 2
	_, revision, err := b.runner.ledger.Get(t.Context(), "other.e3")
	if err == nil {
		_, err = b.runner.ledger.Put(t.Context(), "other.e3", e, revision)
	}
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		m := nats.NewMsg(broker.DeliverySubject("relay", "other"))
		m.Data = event("e3", "other").Encode()
		m.Header.Set(broker.HeaderCopyOf, "1000")
		if _, err := b.broker.JetStream().PublishMsg(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		b.settled()
		b.wantSent("after a crash", first, second, "e3 to other, letter 0, ordered by nobody known")
	}
	if err := b.broker.RecordSent(t.Context(), tester, e, 0, true); err != nil {
		t.Fatal(err)
	}
	b.wantSent("asked again", first, second, "e3 to other, letter 0, ordered by nobody known")
}
