package delivery

import (
	"slices"
	"testing"

	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/verdict"
)

// A relay that takes no more mails on a connection gets the mail on another one, in the
// same attempt, whatever the reply and the phase.
//
// Fault: takes only some mails on one connection (452 4.4.5, or another 4yz that speaks of
// the session; 421). Result: that connection is closed, the mail goes on with a new one; no
// attempt counted.
func TestSessionLimits(t *testing.T) {
	t.Parallel()
	const mails, perSession = 40, 7
	for name, limit := range map[string]lab.SessionLimit{
		"452 4.4.5 at MAIL":           {Moment: lab.AtMail, Reply: "452 4.4.5 Maximum number of messages per session exceeded"},
		"452 4.4.5 in another tongue": {Moment: lab.AtMail, Reply: "452 4.4.5 trop de messages"},
		"450 at RCPT":                 {Moment: lab.AtRcpt, Reply: "450 4.7.0 Too many messages in this Session"},
		"451 at DATA":                 {Moment: lab.AtData, Reply: "451 no more mails on this connection"},
		"452 at the dot":              {Moment: lab.AtDot, Reply: "452 4.5.3 messages of this session: limit reached"},
		"421 at RCPT":                 {Moment: lab.AtRcpt, Reply: "421 4.7.0 too many messages in this connection"},
	} {
		limit.Mails = perSession
		for _, pipelining := range []string{"PIPELINING", "8BITMIME"} {
			t.Run(name+"/"+pipelining, func(t *testing.T) {
				t.Parallel()
				server := lab.StartRelay(t, lab.RelayScript{Session: limit, Offers: []string{pipelining}})
				o := newFixture(t, server.Address(), RelayLimits{}, nil)
				for range mails {
					if receipt := o.mustDeliver(); receipt.ReplyCode != 250 {
						t.Fatalf("receipt %+v", receipt)
					}
				}
				taken := server.Taken()
				if len(taken) != mails {
					t.Errorf("the relay holds %d mails, want %d", len(taken), mails)
				}
				for _, mail := range taken {
					if !slices.Equal(mail.Recipients, []string{"ops@example.com"}) {
						t.Fatalf("a mail for %v", mail.Recipients)
					}
				}
				const want = (mails + perSession - 1) / perSession
				if dials, _ := server.Dials(); dials != want {
					t.Errorf("%d connections, want %d", dials, want)
				}
			})
		}
	}
}

// A new connection that refuses its first mail with the same words is refused: it is no use
// to dial again. But the next mail gets another connection.
//
// Fault: takes only some mails on one connection (452 4.4.5. Result: that connection is
// closed.
func TestSessionLimitOnANewConnection(t *testing.T) {
	t.Parallel()
	server := lab.StartRelay(t, lab.RelayScript{Acts: map[string]lab.RelayAct{lab.AtMail: {Reply: "452 4.4.5 too many messages per session"}}})
	o := newFixture(t, server.Address(), RelayLimits{}, nil)
	for n := range 3 {
		_, f := o.deliver(lab.Patient(t))
		if f == nil || f.Code != verdict.SMTPTransient || f.ReplyCode != 452 || f.Relay || f.Untried {
			t.Fatalf("got %+v", f)
		}
		if dials, _ := server.Dials(); dials != n+1 {
			t.Errorf("%d connections after %d mails", dials, n+1)
		}
	}
}

// A refusal of one of several recipients that speaks of the session ends the session
// behind the mail, which the others get once.
//
// Fault: takes only some mails on one connection (452 4.4.5. Result: the mail goes on with
// a new one.
func TestSessionLimitForSomeRecipients(t *testing.T) {
	t.Parallel()
	server := lab.StartRelay(t, lab.RelayScript{PerRcpt: map[string]string{"dev@example.com": "452 4.5.3 too many recipients in this session"}})
	o := newFixture(t, server.Address(), RelayLimits{}, func(target *Target) { target.To = append(target.To, "dev@example.com") })
	for n := range 2 {
		receipt, f := o.deliver(lab.Patient(t))
		if receipt == nil || !slices.Equal(receipt.Recipients, []string{"ops@example.com"}) || f == nil || !slices.Equal(f.Recipients, []string{"dev@example.com"}) {
			t.Fatalf("%+v, %+v", receipt, f)
		}
		if dials, _ := server.Dials(); dials != n+1 {
			t.Errorf("%d connections after %d mails", dials, n+1)
		}
	}
	if taken := server.Taken(); len(taken) != 2 {
		t.Errorf("the relay holds %d mails, want 2", len(taken))
	}
}

// Exim counts the mails of a connection and closes it with a 421, also behind RSET.
//
// Fault: or another 4yz that speaks of the session. Result: the mail goes on with a new
// one.
func TestEximLimitsTheMailsOfAConnection(t *testing.T) {
	t.Parallel()
	const user = "ops@lab.test"
	server := lab.Exim(t, lab.EximOptions{Users: map[string]string{user: "correct-horse-battery"},
		Refuse: map[string]string{"full@lab.test": "451 4.2.2 full"}, Main: map[string]string{"smtp_accept_max_per_connection": "3"}})
	o := newFixture(t, server.SMTP, RelayLimits{}, func(target *Target) { target.To = []string{user} })
	for range 4 {
		o.mustDeliver()
		o.mustDeliver()
		o.redefine(func(target *Target) { target.To = []string{"full@lab.test"} })
		if _, f := o.deliver(lab.Patient(t)); f == nil || f.ReplyCode != 451 {
			t.Fatalf("got %+v", f)
		}
		o.redefine(func(target *Target) { target.To = []string{user} })
	}
}
