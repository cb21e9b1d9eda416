package queue

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/devrelay"
	"github.com/certpost/certpost/internal/verdict"
)

// mixed returns a relay's result for several recipients: accepted, refused temporarily,
// refused permanently. Without a refused recipient there is no failure.
func mixed(taken, later, never []string) (*verdict.Receipt, *verdict.Failure) {
	var receipt *verdict.Receipt
	if taken != nil {
		receipt = &verdict.Receipt{ReplyCode: 250, Recipients: taken}
	}
	var refused []verdict.Refusal
	for _, r := range never {
		refused = append(refused, verdict.Refusal{Recipient: r, Code: verdict.SMTPPermanent, Reason: "no such user", ReplyCode: 550, EnhancedCode: "5.1.1"})
	}
	switch {
	case later != nil:
		f := fail(verdict.SMTPTransient, verdict.PhaseRcpt)
		f.ReplyCode, f.Recipients, f.Refused = 450, slices.Concat(later, never), refused
		return receipt, f
	case never != nil:
		return receipt, verdict.RefusedAll(refused)
	}
	return receipt, nil
}

// Four recipients, each as a list of one.
var (
	alice = []string{"alice@example.com"}
	bob   = []string{"bob@example.com"}
	carol = []string{"carol@example.com"}
	dave  = []string{"dave@example.com"}
)

// Every recipient has its own outcome, and there is one letter at the end.
//
// Fault: some recipients refused. Result: recipients that have the mail never get it again;
// only those with 4yz are retried; those with 5yz end in one letter that names them.
func TestRecipientsHaveTheirOwnOutcomes(t *testing.T) {
	t.Parallel()
	type answer = func() (*verdict.Receipt, *verdict.Failure)
	says := func(taken, later, never []string) answer {
		return func() (*verdict.Receipt, *verdict.Failure) { return mixed(taken, later, never) }
	}
	ends := func(code verdict.Code) answer {
		return func() (*verdict.Receipt, *verdict.Failure) { return nil, fail(code, verdict.PhaseMail) }
	}
	everybody := slices.Concat(alice, bob, carol, dave)
	for name, test := range map[string]struct {
		answers []answer
		tried   [][]string // nil: all of the target's
		has     []string
		letter  []string // nil: no letter
		code    verdict.Code
	}{
		"all refused":            {[]answer{says(nil, nil, everybody)}, [][]string{nil}, nil, everybody, verdict.SMTPPermanent},
		"one refused":            {[]answer{says(slices.Concat(alice, bob, carol), nil, dave)}, [][]string{nil}, slices.Concat(alice, bob, carol), dave, verdict.SMTPPermanent},
		"one later":              {[]answer{says(slices.Concat(alice, bob, carol), dave, nil), says(dave, nil, nil)}, [][]string{nil, dave}, everybody, nil, ""},
		"one later, one refused": {[]answer{says(slices.Concat(alice, bob), carol, dave), says(carol, nil, nil)}, [][]string{nil, carol}, slices.Concat(alice, bob, carol), dave, verdict.SMTPPermanent},
		"refused one by one": {[]answer{says(alice, slices.Concat(bob, carol), dave), says(nil, bob, carol), says(bob, nil, nil)},
			[][]string{nil, slices.Concat(bob, carol), bob}, slices.Concat(alice, bob), slices.Concat(carol, dave), verdict.SMTPPermanent},
		"the last one refused, too": {[]answer{says(alice, bob, slices.Concat(carol, dave)), says(nil, nil, bob)}, [][]string{nil, bob}, alice, slices.Concat(bob, carol, dave), verdict.SMTPPermanent},
		"a failure of the whole in between": {[]answer{says(alice, slices.Concat(bob, carol), dave), ends(verdict.SMTPTransient), says(slices.Concat(bob, carol), nil, nil)},
			[][]string{nil, slices.Concat(bob, carol), slices.Concat(bob, carol)}, slices.Concat(alice, bob, carol), dave, verdict.SMTPPermanent},
		"a failure of the whole at the end": {[]answer{says(alice, slices.Concat(bob, carol), dave), ends(verdict.SMTPAuth)},
			[][]string{nil, slices.Concat(bob, carol)}, alice, slices.Concat(bob, carol, dave), verdict.SMTPAuth},
		"a secret away in between": {[]answer{says(alice, bob, carol), ends(verdict.SecretUnavailable), says(nil, bob, nil), says(bob, nil, nil)},
			[][]string{nil, bob, bob, bob}, slices.Concat(alice, bob), carol, verdict.SMTPPermanent},
		"later for ever": {[]answer{says(alice, bob, carol), ends(verdict.DeliveryExpired)}, [][]string{nil, bob}, alice, slices.Concat(bob, carol), verdict.DeliveryExpired},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := start(t, newFakeCourier("ops"), nil)
			var tried [][]string
			b.fake.plan("ops", func(try int, at verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
				b.fake.mu.Lock()
				tried = append(tried, at.Recipients)
				b.fake.mu.Unlock()
				if try > len(test.answers) {
					t.Errorf("one attempt too many, to %v", at.Recipients)
					return nil, nil
				}
				return test.answers[try-1]()
			})
			b.publish(event("e1", "ops"))
			b.settled()

			if !slices.EqualFunc(tried, test.tried, slices.Equal) {
				t.Errorf("tried %v, want %v", tried, test.tried)
			}
			e := b.entry("ops", "e1")
			if !slices.Equal(e.Accepted, test.has) {
				t.Errorf("the ledger says that %v have the mail, want %v", e.Accepted, test.has)
			}
			letters := b.letters()
			if test.letter == nil {
				if len(letters) != 0 || e.State != broker.StateSent || e.Owed != nil {
					t.Errorf("letters %+v, ledger %+v", letters, e)
				}
				return
			}
			if len(letters) != 1 || letters[0].Code != test.code || !sameSet(letters[0].Recipients, test.letter) || e.State != broker.StateDead || !sameSet(e.Owed, test.letter) {
				t.Fatalf("letters %+v, ledger %+v; want one letter %s for %v", letters, e, test.code, test.letter)
			}
			if sent := letters[0].Certainty; sent != verdict.MaybeSent && (sent == verdict.Accepted) != (len(test.has) > 0) {
				t.Errorf("the letter says %s, and %v have the mail", sent, test.has)
			}

			// A replay goes only to the recipients that do not have the mail.
			b.fake.plan("ops", nil)
			if err := b.broker.Replay(context.Background(), letters[0], tester, broker.Replay{Uncertain: true}); err != nil {
				t.Fatal(err)
			}
			b.settled()
			mails := b.fake.mails("e1")
			if last := mails[len(mails)-1]; last.recipients != nil || !slices.Equal(last.kept, test.has) {
				t.Errorf("the replay went to %v but not to %v, want all but %v", last.recipients, last.kept, test.has)
			}
			if e := b.entry("ops", "e1"); e.State != broker.StateSent || len(e.Refused)+len(e.Owed) != 0 || len(b.letters()) != 0 {
				t.Errorf("after the replay: ledger %+v, letters %+v", e, b.letters())
			}
		})
	}
}

func sameSet(x, y []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(x)), slices.Sorted(slices.Values(y)))
}

// An attempt whose outcome is unknown was for every recipient. A later mail that reaches
// only some of them says nothing about the others: their next mail is marked too, and a
// letter about them says that they may have it.
//
// Fault: some recipients refused. Result: only those with 4yz are retried; those with 5yz end
// in one letter that names them.
func TestOutcomeStaysUnknownForOtherRecipients(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		second, third func() (*verdict.Receipt, *verdict.Failure)
		marked        []bool // of the attempts
		certainty     verdict.Certainty
	}{
		"refused for a while": {
			func() (*verdict.Receipt, *verdict.Failure) { return mixed(bob, alice, nil) },
			func() (*verdict.Receipt, *verdict.Failure) { return mixed(alice, nil, nil) },
			[]bool{false, true, true}, "",
		},
		"refused for good": {
			func() (*verdict.Receipt, *verdict.Failure) { return mixed(bob, nil, alice) },
			nil, []bool{false, true}, verdict.MaybeSent,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := start(t, newFakeCourier("two"), nil)
			var marked []bool
			b.fake.plan("two", func(try int, a verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
				marked = append(marked, a.PossibleDuplicate)
				switch try {
				case 1:
					f := fail(verdict.SMTPTransient, verdict.PhaseContent)
					f.Certainty = verdict.MaybeSent
					return lostReply, f
				case 2:
					return c.second()
				}
				return c.third()
			})
			b.publish(event("e1", "two"))
			b.settled()
			if e := b.entry("two", "e1"); !slices.Equal(marked, c.marked) || e.PossibleDuplicates != len(c.marked)-1 || e.Uncertain != (c.certainty != "") {
				t.Errorf("marked: %v, want %v; ledger: %+v", marked, c.marked, e)
			}
			letters := b.letters()
			if c.certainty == "" && len(letters) == 0 {
				return
			}
			if len(letters) != 1 || letters[0].Certainty != c.certainty || !slices.Equal(letters[0].Recipients, alice) {
				t.Errorf("letters: %+v", letters)
			}
		})
	}
}

// When a delivery expires, one letter names the recipients refused temporarily and those
// refused permanently before.
func TestExpiryNamesTheRefusedToo(t *testing.T) {
	t.Parallel()
	b := start(t, newFakeCourier("ops"), func(s *Settings) { s.GiveUpAfter = 500 * time.Millisecond })
	b.fake.plan("ops", func(try int, at verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
		if try == 1 {
			return mixed(alice, bob, carol)
		}
		return mixed(nil, at.Recipients, nil)
	})
	b.publish(event("e1", "ops"))
	b.settled()
	l := b.letters()
	if len(l) != 1 || l[0].Code != verdict.DeliveryExpired || !sameSet(l[0].Recipients, slices.Concat(bob, carol)) {
		t.Fatalf("letters: %+v", l)
	}
	if e := b.entry("ops", "e1"); !slices.Equal(e.Accepted, alice) || len(e.Refused) != 1 || e.Refused[0].EnhancedCode != "5.1.1" {
		t.Errorf("ledger: %+v", e)
	}
}

// The accepted recipients are recorded even while the dead letter of the others cannot be
// stored: no recipient gets the mail twice when the delivery is retried.
//
// Fault: dead letters cannot be stored: stream missing. Result: who has the mail is
// recorded all the same.
func TestAcceptedIsWrittenBeforeTheLetter(t *testing.T) {
	t.Parallel()
	b := &fixture{t: t, fake: newFakeCourier("ops"), set: quick(), slowReconcile: true, cfg: broker.Config{DataDir: t.TempDir(), Listen: "none", SyncInterval: "2m"}}
	b.start()
	b.until("the first reconcile is over", func() bool { return len(b.runner.LaneStatus()) == 1 })
	ctx := context.Background()
	limit := func(bytes int32) {
		s, err := b.broker.JetStream().Stream(ctx, broker.DeadLettersStream)
		if err != nil {
			t.Fatal(err)
		}
		cfg := s.CachedInfo().Config
		cfg.MaxMsgSize = bytes
		if _, err := b.broker.JetStream().UpdateStream(ctx, cfg); err != nil {
			t.Fatal(err)
		}
	}
	limit(1) // refuses every message
	b.fake.plan("ops", func(int, verdict.Attempt) (*verdict.Receipt, *verdict.Failure) { return mixed(alice, nil, bob) })
	b.publish(event("e1", "ops"))
	b.until("the acceptance is in the ledger", func() bool {
		e := b.entry("ops", "e1")
		return e.State == broker.StateWaiting && slices.Equal(e.Accepted, alice) && e.Decided()
	})
	b.until("it was redelivered at least once", func() bool {
		s, err := b.broker.JetStream().Consumer(ctx, broker.DeliveriesStream, broker.LaneConsumerPrefix+"relay")
		if err != nil {
			return false
		}
		var info *jetstream.ConsumerInfo
		info, err = s.Info(ctx)
		return err == nil && info.NumRedelivered > 0
	})
	limit(-1)
	b.settled()
	l := b.letters()
	if len(l) != 1 || !slices.Equal(l[0].Recipients, bob) || !strings.Contains(l[0].Reason, "no such user") {
		t.Fatalf("letters: %+v", l)
	}
	if tried := b.fake.tried("ops"); tried != 1 {
		t.Errorf("tried %d times, although the relay had decided on all recipients", tried)
	}
}

// End to end: the relay's reply to each recipient, and the mails that each gets.
//
// Fault: some recipients refused. Result: recipients that have the mail never get it again;
// only those with 4yz are retried; those with 5yz end in one letter that names them.
func TestEachRecipientGetsTheMailOnce(t *testing.T) {
	t.Parallel()
	relay := relayAt(t, devrelay.Config{Rules: []devrelay.Rule{
		{Stage: devrelay.StageRcpt, Recipient: "gone@*", Code: 550, Enhanced: "5.1.1", Text: "nobody", Times: 6},
		{Stage: devrelay.StageRcpt, Recipient: "busy@*", Code: 450, Enhanced: "4.2.0", Text: "later", Times: 3},
	}})
	courier, _ := realCourier(t, fmt.Sprintf(`targets:
  - id: each
    host: 127.0.0.1
    port: %[1]s
    tls_mode: plaintext
    from_address: certs@example.com
    to: [ops@example.com]
    cc: [gone@example.com, busy@example.com]
    bcc: [audit@example.com]
  - {id: together, host: 127.0.0.1, port: %[1]s, tls_mode: plaintext, from_address: certs@example.com, to: [ops@example.com, gone@example.com], all_or_nothing: true}
`, portOf(relay.Plain())))
	b := startWith(t, courier)
	received := func() map[string]int {
		got := map[string]int{}
		for _, m := range relay.Mails() {
			for _, r := range m.Recipients {
				got[r]++
			}
		}
		return got
	}

	b.publish(event("e1", "together"))
	b.settled()
	l := b.letters()
	if len(l) != 1 || l[0].Target != "together" || l[0].Recipients != nil || !strings.Contains(l[0].Reason, "all_or_nothing") || relay.Count() != 0 {
		t.Fatalf("all or nothing: %+v, %d mails", l, relay.Count())
	}

	b.publish(event("e1", "each"))
	b.settled()
	want := map[string]int{"ops@example.com": 1, "audit@example.com": 1, "busy@example.com": 1}
	if got := received(); !maps.Equal(got, want) {
		t.Fatalf("received: %v, want %v", got, want)
	}
	var letter broker.DeadLetter
	for _, d := range b.letters() {
		if d.Target == "each" {
			letter = d
		}
	}
	if letter.Code != verdict.SMTPPermanent || letter.EnhancedCode != "5.1.1" || !slices.Equal(letter.Recipients, []string{"gone@example.com"}) {
		t.Fatalf("letter: %+v", letter)
	}
	// Replays go to the recipient that does not have it, until the relay accepts it.
	for range 10 {
		if err := b.broker.Replay(context.Background(), letter, tester, broker.Replay{Uncertain: true}); err != nil {
			t.Fatal(err)
		}
		b.settled()
		left := b.letters()
		if at := slices.IndexFunc(left, func(d broker.DeadLetter) bool { return d.Target == "each" }); at >= 0 {
			letter = left[at]
			continue
		}
		break
	}
	want["gone@example.com"] = 1
	if got := received(); !maps.Equal(got, want) {
		t.Errorf("received after the replay: %v, want %v", got, want)
	}
	if e := b.entry("each", "e1"); e.State != broker.StateSent || len(e.Accepted) != 4 || e.Owed != nil || e.Refused != nil {
		t.Errorf("ledger: %+v", e)
	}
}
