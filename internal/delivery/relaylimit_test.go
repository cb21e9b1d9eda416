package delivery

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/smtp"
	"github.com/certpost/certpost/internal/verdict"
)

const dailyLimit = "550 5.4.5 Daily user sending limit exceeded"

// refuse makes a scripted relay give the reply to every MAIL, "" none.
func refuse(relay *lab.ScriptedRelay, reply string) {
	relay.Mu.Lock()
	defer relay.Mu.Unlock()
	relay.Acts = map[string]lab.RelayAct{}
	if reply != "" {
		relay.Acts[lab.AtMail] = lab.RelayAct{Reply: reply}
	}
}

// A relay at a limit of its own is not asked again before limit_pause is over, and the
// delivery comes back then.
//
// Fault: is at a limit of its own: mails per day (550 5.4.5). Result: the lane pauses for
// limit_pause (1h) and says so.
func TestRelayAtItsOwnLimitIsPaused(t *testing.T) {
	t.Parallel()
	for configured, want := range map[time.Duration]time.Duration{0: time.Hour, 20 * time.Minute: 20 * time.Minute} {
		t.Run(want.String(), func(t *testing.T) {
			t.Parallel()
			server := lab.StartRelay(t, lab.RelayScript{})
			o := newFixture(t, server.Address(), RelayLimits{LimitPause: configured}, nil)
			o.mustDeliver()
			refuse(server, dailyLimit)
			_, f := o.deliver(lab.Patient(t))
			if f == nil || !f.Relay || !f.Limit || f.Untried || f.After != want || f.ReplyCode != 550 || f.EnhancedCode != "5.4.5" || !f.Retry() {
				t.Fatalf("got %+v", f)
			}
			heard := len(server.Heard())
			_, again := o.deliver(lab.Patient(t))
			if again == nil || !again.Relay || !again.Untried || again.After > want || again.After < want-time.Minute {
				t.Errorf("got %+v", again)
			}
			if more := server.Heard()[heard:]; slices.Contains(more, "MAIL") {
				t.Errorf("the relay was asked again: %v", more)
			}
			status := o.Relays(o.book.Current().targets[0].Lane())
			if len(status) != 1 || len(status[0]) != 1 || !status[0][0].Limit || status[0][0].Breaker != verdict.Open || status[0][0].Reason != f.Reason {
				t.Errorf("status %+v", status)
			}
		})
	}
}

// A fallback gets the mails of a relay that is at its limit.
//
// Fault: is at a limit of its own: mails per day (550 5.4.5). Result: or a fallback is
// used.
func TestFallbackOfARelayAtItsOwnLimit(t *testing.T) {
	t.Parallel()
	first, second := lab.StartRelay(t, lab.RelayScript{}), lab.StartRelay(t, lab.RelayScript{})
	refuse(first, dailyLimit)
	port := second.Port()
	o := newFixture(t, first.Address(), RelayLimits{}, func(target *Target) {
		target.Fallback = []Fallback{{Host: "127.0.0.1", RelayKeys: RelayKeys{Port: &port, TLSMode: smtp.TLSPlaintext}}}
	})
	for range 2 {
		if receipt := o.mustDeliver(); receipt.Relay != second.Address() {
			t.Errorf("receipt %+v", receipt)
		}
	}
	refuse(second, dailyLimit)
	if _, f := o.deliver(lab.Patient(t)); f == nil || !f.Relay || f.After < 50*time.Minute {
		t.Errorf("both at their limits: %+v", f)
	}
}

// The limit that a relay mentions for a later recipient holds for the next mails too.
func TestLimitForALaterRecipientPausesTheRelay(t *testing.T) {
	t.Parallel()
	server := lab.StartRelay(t, lab.RelayScript{PerRcpt: map[string]string{"late@example.com": dailyLimit}})
	o := newFixture(t, server.Address(), RelayLimits{}, func(target *Target) { target.To = append(target.To, "late@example.com") })
	receipt, f := o.deliver(lab.Patient(t))
	if receipt == nil || f == nil || f.After != time.Hour || !slices.Equal(f.Recipients, []string{"late@example.com"}) || len(f.Refused) > 0 {
		t.Fatalf("%+v, %+v", receipt, f)
	}
	if _, f := o.deliver(lab.Patient(t)); f == nil || !f.Untried {
		t.Errorf("the next mail: %+v", f)
	}
}

// A rule's limit_pause comes before that of default.
func TestLimitPauseOfARule(t *testing.T) {
	t.Parallel()
	server := lab.StartRelay(t, lab.RelayScript{})
	refuse(server, "451 4.7.1 Rate limit exceeded, try again later")
	d, problems := loadRelays(t, fmt.Sprintf(`relays: {default: {limit_pause: 2h}, rules: [{host: 127.0.0.1, limit_pause: 90s}]}
targets:
  - {id: a, host: 127.0.0.1, port: %d, tls_mode: plaintext, from_address: a@example.com, to: [b@example.com]}
`, server.Port()))
	if d == nil {
		t.Fatal(problems)
	}
	c := NewCourier(NewBook(d, Source{}), nil, Options{})
	t.Cleanup(c.Close)
	shared := &grants{}
	a := &attempt{Courier: c, defs: d, target: d.byID["a"], p: &provisions{vars: secrets.Vars{}}, order: verdict.Attempt{Claim: claimedAtOnce, Limits: shared},
		msg: &message{from: "a@example.com", recipients: []string{"b@example.com"}, raw: []byte("Subject: x\r\n\r\nx\r\n")}}
	if _, f := a.send(t.Context()).Verdicts(); f == nil || !f.Limit || f.After != 90*time.Second {
		t.Errorf("got %+v", f)
	}
	want := verdict.RelayPause{Relay: server.Address(), Lanes: []string{d.byID["a"].Lane()}, Reason: "127.0.0.1", Reply: "4.7.1 Rate limit exceeded, try again later"}
	if len(shared.pauses) != 1 {
		t.Fatalf("shared with the other processes: %+v", shared.pauses)
	}
	got := shared.pauses[0]
	if got.Relay != want.Relay || !slices.Equal(got.Lanes, want.Lanes) || got.Reply != want.Reply || !strings.HasPrefix(got.Reason, want.Reason) ||
		got.Until.Sub(got.Since).Round(time.Second) != 90*time.Second {
		t.Errorf("shared %+v, want %+v", got, want)
	}
}
