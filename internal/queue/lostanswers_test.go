package queue

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/verdict"
)

// A request or its answer is lost, as when a leader is killed: it is sent again within
// seconds, while the process still has its lease, and neither a second mail nor a second
// letter comes of it.
//
// Fault: a request or its answer is lost with a server. Result: sent again after 2 s, while
// the lease lasts; no second mail and no second letter.
func TestLostRequestsAreSentAgain(t *testing.T) {
	t.Parallel()
	toServer := func(subject, data string) func(lab.NATSMessage) bool {
		return func(m lab.NATSMessage) bool {
			return m.ToServer && strings.HasPrefix(m.Subject, subject) && bytes.Contains(m.Data, []byte(data))
		}
	}
	answerOf := func(stream string) func(lab.NATSMessage) bool {
		return func(m lab.NATSMessage) bool {
			return !m.ToServer && bytes.HasPrefix(m.Data, []byte(`{"stream":"`+stream+`"`))
		}
	}
	const ledger = "$KV." + broker.LedgerBucket
	cases := []struct {
		name   string
		lost   func(lab.NATSMessage) bool
		target string // ops, refused or greylisted
		// time is what the relay gives for claim and content; too little means that the
		// claim cannot be tried again, and is taken back.
		time time.Duration
	}{
		{"the claim", toServer(ledger, `"state":"sending"`), "ops", time.Minute},
		{"the answer to the claim", answerOf("KV_" + broker.LedgerBucket), "ops", time.Minute},
		{"the claim, with little time", toServer(ledger, `"state":"sending"`), "ops", time.Second},
		{"the outcome", toServer(ledger, `"state":"sent"`), "ops", time.Minute},
		{"the acknowledgement", toServer("$JS.ACK."+broker.DeliveriesStream, "+ACK"), "ops", time.Minute},
		{"the ledger's entry", toServer("$JS.API.DIRECT.GET.KV_"+broker.LedgerBucket, ""), "refused", time.Minute},
		{"the delivery", toServer(broker.DeliveryPrefix, ""), "ops", time.Minute},
		{"the answer to the delivery", answerOf(broker.DeliveriesStream), "ops", time.Minute},
		{"the letter", toServer(broker.DeadLetterPrefix, ""), "refused", time.Minute},
		{"the answer to the letter", answerOf(broker.DeadLettersStream), "refused", time.Minute},
		{"the state of the dead delivery", toServer(ledger, `"state":"dead"`), "refused", time.Minute},
		{"the failure", toServer(ledger, `"state":"waiting"`), "greylisted", time.Minute},
		{"the NAK", toServer("$JS.ACK."+broker.DeliveriesStream, "-NAK"), "greylisted", time.Minute},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			srv := lab.NATS(t, lab.FreeAddress(t), "")
			link := lab.NewNATSLink(t, srv.Addr().String())
			b := &fixture{t: t, fake: newFakeCourier("ops", "refused", "greylisted"), set: quick(), cfg: broker.Config{URL: link.URL}}
			b.fake.plan("refused", func(int, verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
				return nil, fail(verdict.SMTPPermanent, verdict.PhaseRcpt)
			})
			b.fake.plan("greylisted", func(try int, _ verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
				if try == 1 {
					return nil, fail(verdict.SMTPTransient, verdict.PhaseRcpt)
				}
				return nil, nil
			})
			b.fake.gives = c.time
			b.start()
			seen := 0
			link.Lose(func(m lab.NATSMessage) bool {
				if !c.lost(m) {
					return false
				}
				seen++
				return seen == 1 || seen == 2 && c.time == time.Second
			})
			began := time.Now()
			b.publish(event("e1", c.target))
			b.settled()
			link.Lose(nil)
			if seen == 0 {
				t.Fatal("nothing was lost")
			}
			wantMails, wantLetters, wantState, wantTries, wantAttempts := 1, 0, broker.StateSent, 1, 1
			switch c.target {
			case "refused":
				wantMails, wantLetters, wantState = 0, 1, broker.StateDead
			case "greylisted":
				wantTries, wantAttempts = 2, 2
			}
			if c.time == time.Second {
				wantTries = 2 // the first one ended before anything was sent, and is not counted
			}
			if n := len(b.fake.mails("e1")); n != wantMails {
				t.Errorf("%d mails, want %d", n, wantMails)
			}
			if n := len(b.letters()); n != wantLetters {
				t.Errorf("%d letters, want %d", n, wantLetters)
			}
			if n := b.fake.tried(c.target); n != wantTries {
				t.Errorf("tried %d times, want %d", n, wantTries)
			}
			e := b.entry(c.target, "e1")
			if e.State != wantState || e.Uncertain || e.PossibleDuplicates != 0 || e.Attempts != wantAttempts || e.Owner != "" {
				t.Errorf("ledger: %+v", e)
			}
			// Without another try, each of these would last until a lease or the
			// acknowledgement wait ends.
			if took := time.Since(began); took > b.broker.AckWait() {
				t.Errorf("settled after %v, as late as if nothing had been sent again", took)
			}
		})
	}
}
