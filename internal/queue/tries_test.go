package queue

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/devrelay"
	"github.com/certpost/certpost/internal/verdict"
)

// The ledger keeps the first failed attempt and the last ones, across dead letters and
// replays, each with its transcript; a success does not remove them.
func TestTriesAreKept(t *testing.T) {
	t.Parallel()
	relay := relayAt(t, devrelay.Config{Rules: []devrelay.Rule{
		{Stage: devrelay.StageRcpt, Code: 450, Enhanced: "4.2.0", Text: "not yet", Times: 8},
		{Stage: devrelay.StageRcpt, Code: 550, Enhanced: "5.1.1", Text: "no", Times: 1},
		{Stage: devrelay.StageData, Code: 451, Enhanced: "4.3.0", Text: "busy", Times: 1},
	}})
	courier, _ := realCourier(t, fmt.Sprintf("targets:\n  - {id: ops, host: 127.0.0.1, port: %s, tls_mode: plaintext, %s}\n", portOf(relay.Plain()), mailKeys))
	b := startWith(t, courier)
	b.publish(event("e1", "ops"))
	b.settled()
	dead := b.entry("ops", "e1")
	if got, want := told(dead), "1.1:450 1.5:450 1.6:450 1.7:450 1.8:450 1.9:550"; got != want {
		t.Errorf("the attempts are %s, want %s", got, want)
	}
	for _, try := range dead.Tries {
		last := try.Transcript.Dialogue[len(try.Transcript.Dialogue)-1]
		if try.Transcript.Peer != relay.Plain() || len(try.Transcript.Definition) != 8 || !strings.HasPrefix(last, fmt.Sprintf("S: %d ", try.ReplyCode)) || try.At.IsZero() {
			t.Errorf("attempt %d went %+v", try.Number, try.Transcript)
		}
	}
	if !slices.IsSortedFunc(dead.Tries, func(a, b broker.Try) int { return a.At.Compare(b.At) }) || !dead.Tries[0].At.Equal(dead.First) {
		t.Errorf("their times are wrong: %+v", dead.Tries)
	}
	if err := b.broker.Replay(context.Background(), b.letters()[0], tester, broker.Replay{}); err != nil {
		t.Fatal(err)
	}
	b.settled()
	sent := b.entry("ops", "e1")
	if got, want := told(sent), "1.1:450 1.6:450 1.7:450 1.8:450 1.9:550 2.1:451"; got != want || sent.State != broker.StateSent || sent.Failure != nil {
		t.Errorf("the attempts are %s, want %s; the entry is %s", got, want, sent.State)
	}
	if r := sent.Receipt; r.Peer != relay.Plain() || r.Definition != dead.Tries[0].Transcript.Definition {
		t.Errorf("the receipt is %+v", r)
	}
}

// told lists attempts as generation.number:reply.
func told(e broker.Entry) string {
	var all []string
	for _, t := range e.Tries {
		all = append(all, fmt.Sprintf("%d.%d:%d", t.Generation, t.Number, t.ReplyCode))
	}
	return strings.Join(all, " ")
}

// Attempts, first attempt and failed replays are of the whole life of a delivery, not of its last
// replay only.
func TestLifeAcrossReplays(t *testing.T) {
	t.Parallel()
	b := start(t, newFakeCourier("ops"), nil)
	b.fake.plan("ops", func(int, verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
		return nil, fail(verdict.SMTPAuth, verdict.PhaseAuth)
	})
	b.publish(event("e1", "ops"))
	b.settled()
	first := b.letters()[0]
	if first.Attempts != 1 || first.FailedReplays != 0 {
		t.Errorf("the first letter has %d attempts and %d failed replays", first.Attempts, first.FailedReplays)
	}
	for n := 1; n <= 2; n++ {
		if err := b.broker.Replay(context.Background(), b.letters()[0], tester, broker.Replay{}); err != nil {
			t.Fatal(err)
		}
		b.settled()
		l, e := b.letters()[0], b.entry("ops", "e1")
		if l.Attempts != 1+n || l.FailedReplays != n || !l.First.Equal(first.First) {
			t.Errorf("after replay %d the letter has %d attempts since %s and %d failed replays; the first was %s", n, l.Attempts, l.First, l.FailedReplays, first.First)
		}
		if e.Attempts != 1 || e.AllAttempts() != 1+n || !e.FirstOfAll().Equal(first.First) || e.FailedReplays != n || e.LastDead.IsZero() {
			t.Errorf("after replay %d the ledger has %+v", n, e)
		}
	}
	b.fake.plan("ops", nil)
	if err := b.broker.Replay(context.Background(), b.letters()[0], tester, broker.Replay{}); err != nil {
		t.Fatal(err)
	}
	b.settled()
	if e := b.entry("ops", "e1"); e.State != broker.StateSent || e.AllAttempts() != 4 || e.FailedReplays != 2 || e.LastDead.IsZero() || !e.FirstOfAll().Equal(first.First) {
		t.Errorf("after the delivery the ledger has %+v", e)
	}
}
