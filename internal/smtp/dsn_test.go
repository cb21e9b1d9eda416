package smtp

import (
	"slices"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/verdict"
)

// Wherever DSN is offered, bounces are to return only headers, and name the delivery.
//
// Fault: accepts a mail with a private key and bounces it later. Result: the bounce returns
// only headers and names the delivery; if the relay offers DSN (RFC 3461).
func TestDSNIsUsedWhereItIsOffered(t *testing.T) {
	t.Parallel()
	two := []string{"ops@example.com", "dev@example.com"}
	for name, test := range map[string]struct {
		offers []string
		env    Envelope
		want   []string
	}{
		"offered":           {[]string{"DSN"}, Envelope{From: "certs@example.com", Recipients: two, ID: "ops.e1"}, []string{"RET=HDRS ENVID=ops.e1", "NOTIFY=FAILURE,DELAY", "NOTIFY=FAILURE,DELAY"}},
		"in one packet":     {[]string{"PIPELINING", "dsn"}, Envelope{From: "certs@example.com", Recipients: two, ID: "ops.e1"}, []string{"RET=HDRS ENVID=ops.e1", "NOTIFY=FAILURE,DELAY", "NOTIFY=FAILURE,DELAY"}},
		"not offered":       {[]string{"PIPELINING"}, Envelope{From: "certs@example.com", Recipients: two, ID: "ops.e1"}, []string{"", "", ""}},
		"without an id":     {[]string{"DSN"}, Envelope{From: "certs@example.com", Recipients: two[:1]}, []string{"RET=HDRS", "NOTIFY=FAILURE,DELAY"}},
		"an odd id":         {[]string{"DSN"}, Envelope{From: "certs@example.com", Recipients: two[:1], ID: "a b+c=d\r\né"}, []string{"RET=HDRS ENVID=a+20b+2Bc+3Dd+0D+0A+C3+A9", "NOTIFY=FAILURE,DELAY"}},
		"an id of 100":      {[]string{"DSN"}, Envelope{From: "certs@example.com", Recipients: two[:1], ID: strings.Repeat("x", 100)}, []string{"RET=HDRS ENVID=" + strings.Repeat("x", 100), "NOTIFY=FAILURE,DELAY"}},
		"an id of 101":      {[]string{"DSN"}, Envelope{From: "certs@example.com", Recipients: two[:1], ID: strings.Repeat("x", 101)}, []string{"RET=HDRS", "NOTIFY=FAILURE,DELAY"}},
		"a null sender":     {[]string{"DSN"}, Envelope{Recipients: two[:1], ID: "ops.e1"}, []string{"RET=HDRS ENVID=ops.e1", ""}},
		"with other things": {[]string{"SIZE 10000", "8BITMIME", "DSN"}, Envelope{From: "certs@example.com", Recipients: two[:1], ID: "ops.e1"}, []string{"SIZE=58 BODY=8BITMIME RET=HDRS ENVID=ops.e1", "NOTIFY=FAILURE,DELAY"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := lab.StartRelay(t, lab.RelayScript{Offers: test.offers})
			receipt, f := attempt(lab.Patient(t), clientOf(server), test.env, someMail).Verdicts()
			if f != nil {
				t.Fatal(f)
			}
			if mails := server.Taken(); len(mails) != 1 || !slices.Equal(mails[0].Parameters, test.want) {
				t.Errorf("the relay holds %+v, want the parameters %q", mails, test.want)
			}
			if receipt.DSN != (name != "not offered") {
				t.Errorf("receipt %+v", receipt)
			}
		})
	}
}

// A relay that offers DSN and refuses its parameters gets the mail without them.
//
// Fault: offers DSN and refuses its parameters (501 or 555). Result: the mail is sent
// without them; the receipt does not say that DSN was used.
func TestDSNThatIsOfferedAndRefused(t *testing.T) {
	t.Parallel()
	for _, moment := range []string{lab.AtMail, lab.AtRcpt} {
		for _, pipelining := range []string{"PIPELINING", "8BITMIME"} {
			t.Run(moment+"/"+pipelining, func(t *testing.T) {
				t.Parallel()
				server := lab.StartRelay(t, lab.RelayScript{NoDSN: moment, Offers: []string{pipelining, "DSN"}})
				s := mustDial(t, clientOf(server))
				for n := range 2 {
					receipt, f := s.Send(lab.Patient(t), someone, someMail, claimed).Verdicts()
					if f != nil {
						t.Fatal(f)
					}
					if receipt.DSN {
						t.Errorf("mail %d: the receipt says that DSN was used", n)
					}
				}
				if mails := server.Taken(); len(mails) != 2 || len(mails[0].Recipients) != 1 || strings.Join(mails[0].Parameters, "") != map[string]string{"PIPELINING": "", "8BITMIME": "BODY=8BITMIME"}[pipelining] {
					t.Errorf("the relay holds %+v", mails)
				}
				mailed := 0
				for _, verb := range server.Heard() {
					if verb == "MAIL" {
						mailed++
					}
				}
				if mailed != 3 {
					t.Errorf("%d times MAIL for two mails, want one more", mailed)
				}
			})
		}
	}
}

// An address that is refused for its syntax is refused without the parameters too.
//
// Fault: offers DSN and refuses an address (501). Result: dead (SMTP_VALIDATION), as
// without DSN.
func TestSyntaxIsNotDSN(t *testing.T) {
	t.Parallel()
	server := lab.StartRelay(t, lab.RelayScript{Offers: []string{"DSN"}, PerRcpt: map[string]string{"ops@example.com": "501 5.1.3 bad address"}})
	_, f := attempt(lab.Patient(t), clientOf(server), someone, someMail).Verdicts()
	if f == nil || f.Code != verdict.SMTPValidation || f.ReplyCode != 501 || len(f.Refused) != 1 {
		t.Errorf("got %+v", f)
	}
}
