package smtp

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/verdict"
)

var (
	someMail = []byte("From: a@example.com\r\nSubject: hello\r\n\r\n.a dot\r\nlast line\r\n")
	someone  = Envelope{From: "certs@example.com", Recipients: []string{"ops@example.com"}}
)

func claimed(time.Time) error { return nil }

// attempt dials, sends one mail and closes.
func attempt(ctx context.Context, r Relay, env Envelope, raw []byte) Result {
	s, failure := Dial(ctx, r)
	if failure != nil {
		return Result{Failure: failure}
	}
	defer s.Close()
	return s.Send(ctx, env, raw, claimed)
}

func mustDial(t *testing.T, r Relay) *Session {
	t.Helper()
	s, failure := Dial(lab.Patient(t), r)
	if failure != nil {
		t.Fatal(failure)
	}
	t.Cleanup(s.Close)
	return s
}

func TestSendHandsTheMailOver(t *testing.T) {
	t.Parallel()
	ca := lab.NewTLSAuthority(t, "Test CA")
	for _, mode := range []string{"plaintext", "starttls", "smtps", "opportunistic"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			server := lab.StartRelay(t, lab.RelayScript{Cert: ca.Issue(t, nil), Implicit: mode == "smtps", Users: map[string]string{"certs": "hunter2hunter2"}})
			r := clientOf(server)
			r.TLSMode, r.roots = mode, ca.Pool()
			r.AuthMethod, r.Username, r.Password = "plain", "certs", secrets.New([]byte("hunter2hunter2"))
			r.AllowInsecureAuth = mode == "plaintext"
			env := Envelope{From: "certs@example.com", Recipients: []string{"ops@example.com", "dev@example.com"}}

			got := attempt(lab.Patient(t), r, env, someMail)
			receipt, failure := got.Verdicts()
			if failure != nil {
				t.Fatal(failure)
			}
			if receipt.Relay != r.Address() || receipt.ReplyCode != 250 || receipt.QueueID != "4Tz9QX2hN1z" ||
				receipt.Reply != "2.0.0 Ok: queued as 4Tz9QX2hN1z" || receipt.Size != len(someMail) ||
				!slices.Equal(receipt.Recipients, env.Recipients) || receipt.Timings.Dial <= 0 || receipt.Timings.Send <= 0 {
				t.Errorf("receipt %+v", receipt)
			}
			if secure := strings.HasPrefix(receipt.TLS, "TLS 1.3 TLS_"); secure == (mode == "plaintext") {
				t.Errorf("%s was sent over %q", mode, receipt.TLS)
			}
			mails := server.Taken()
			if len(mails) != 1 || mails[0].Content != string(someMail) || mails[0].From != env.From || !slices.Equal(mails[0].Recipients, env.Recipients) {
				t.Errorf("the relay holds %+v", mails)
			}
			server.Idle(t)
		})
	}
}

// outcome is the expected result of a fault.
type outcome struct {
	code      verdict.Code
	relay     bool
	certainty verdict.Certainty
	reply     int
	mails     int
}

// TestEveryFaultInEveryPhase repeats the phase table by hand, independently of classify.go.
//
// Fault: hangs in any phase; without end; or in lines without end. Result: limited replies;
// retried before the final dot; unknown after it.
// Fault: in every phase. Result: valid (RFC 5321 section 4.2): the code decides.
// Fault: garbage; a code that has no meaning there. Result: retried.
// Fault: 4yz in any phase, including 421 and 454. Result: retried (SMTP_TRANSIENT).
// Fault: 5yz to banner or EHLO. Result: dead (SMTP_PERMANENT).
// Fault: 5yz during AUTH. Result: dead (SMTP_AUTH).
// Fault: 4yz during AUTH. Result: retried.
// Fault: 5yz to MAIL, RCPT, DATA or the content. Result: dead: 500; 501; 503; 553
// SMTP_VALIDATION; else SMTP_PERMANENT.
// Fault: accepts the mail, then drops the connection or hangs before its reply. Result:
// unknown, as above.
// Fault: 454 to STARTTLS. Result: retried.
func TestEveryFaultInEveryPhase(t *testing.T) {
	t.Parallel()
	const (
		soft, closing, hard, syntax = "450 4.7.1 later", "421 4.3.2 going down", "554 5.7.1 never", "501 5.5.4 what?"
		retry, connect              = verdict.SMTPTransient, verdict.SMTPConnect
		final, form                 = verdict.SMTPPermanent, verdict.SMTPValidation
		none                        = verdict.NotSent
	)
	type row struct {
		moment  string
		phase   verdict.Phase
		soft    outcome
		closing outcome
		hard    outcome
		syntax  outcome
		lost    outcome // dropped, hung, garbage
	}
	rows := []row{
		{lab.AtBanner, verdict.PhaseBanner, outcome{retry, true, none, 450, 0}, outcome{retry, true, none, 421, 0}, outcome{final, false, none, 554, 0}, outcome{final, false, none, 501, 0}, outcome{connect, true, none, 0, 0}},
		{lab.AtEHLO, verdict.PhaseEHLO, outcome{retry, true, none, 450, 0}, outcome{retry, true, none, 421, 0}, outcome{final, false, none, 554, 0}, outcome{final, false, none, 501, 0}, outcome{connect, true, none, 0, 0}},
		{lab.AtSTARTTLS, verdict.PhaseSTARTTLS, outcome{retry, true, none, 450, 0}, outcome{retry, true, none, 421, 0}, outcome{verdict.SMTPTLS, false, none, 554, 0}, outcome{verdict.SMTPTLS, false, none, 501, 0}, outcome{connect, true, none, 0, 0}},
		{lab.AtAuth, verdict.PhaseAuth, outcome{retry, false, none, 450, 0}, outcome{retry, false, none, 421, 0}, outcome{verdict.SMTPAuth, false, none, 554, 0}, outcome{verdict.SMTPAuth, false, none, 501, 0}, outcome{retry, false, none, 0, 0}},
		{lab.AtMail, verdict.PhaseMail, outcome{retry, false, none, 450, 0}, outcome{retry, false, none, 421, 0}, outcome{final, false, none, 554, 0}, outcome{form, false, none, 501, 0}, outcome{retry, false, none, 0, 0}},
		{lab.AtRcpt, verdict.PhaseRcpt, outcome{retry, false, none, 450, 0}, outcome{retry, false, none, 421, 0}, outcome{final, false, none, 554, 0}, outcome{form, false, none, 501, 0}, outcome{retry, false, none, 0, 0}},
		{lab.AtData, verdict.PhaseData, outcome{retry, false, none, 450, 0}, outcome{retry, false, none, 421, 0}, outcome{final, false, none, 554, 0}, outcome{form, false, none, 501, 0}, outcome{retry, false, none, 0, 0}},
		{lab.AtDot, verdict.PhaseContent, outcome{retry, false, none, 450, 0}, outcome{retry, false, none, 421, 0}, outcome{final, false, none, 554, 0}, outcome{form, false, none, 501, 0}, outcome{retry, false, verdict.MaybeSent, 0, 0}},
	}
	ca := lab.NewTLSAuthority(t, "Test CA")
	cert := ca.Issue(t, nil)
	for _, row := range rows {
		lost := row.lost
		acceptedThenLost := row.lost
		acceptedThenLost.mails = 1
		cases := map[string]struct {
			act  lab.RelayAct
			want outcome
		}{
			"4yz":              {lab.RelayAct{Reply: soft}, row.soft},
			"4yz without text": {lab.RelayAct{Reply: "450"}, row.soft},
			"5yz without text": {lab.RelayAct{Reply: "554"}, row.hard},
			"4yz in two lines": {lab.RelayAct{Reply: "450-4.7.1 later\r\n450 4.7.1 or never"}, row.soft},
			"421 and drop":     {lab.RelayAct{Reply: closing, Drop: true}, row.closing},
			"5yz":              {lab.RelayAct{Reply: hard}, row.hard},
			"501":              {lab.RelayAct{Reply: syntax}, row.syntax},
			"drop":             {lab.RelayAct{Drop: true}, lost},
			"hang":             {lab.RelayAct{Hang: true}, lost},
			"half a reply":     {lab.RelayAct{Reply: "2", Drop: true}, lost},
			"garbage":          {lab.RelayAct{Reply: "\x00\xff SSH-2.0-OpenSSH"}, lost},
			"endless lines":    {lab.RelayAct{Reply: "250-and", Endless: true}, lost},
			"one endless line": {lab.RelayAct{Reply: "250 " + strings.Repeat("x", maxReplyLine)}, lost},
			"a code of no use": {lab.RelayAct{Reply: "199 hm"}, outcome{lost.code, lost.relay, lost.certainty, 199, 0}},
		}
		if row.moment == lab.AtDot {
			cases["accept then drop"] = struct {
				act  lab.RelayAct
				want outcome
			}{lab.RelayAct{Take: true, Drop: true}, acceptedThenLost}
			cases["accept then hang"] = struct {
				act  lab.RelayAct
				want outcome
			}{lab.RelayAct{Take: true, Hang: true}, acceptedThenLost}
		}
		for name, test := range cases {
			t.Run(row.moment+"/"+name, func(t *testing.T) {
				t.Parallel()
				script := lab.RelayScript{Acts: map[string]lab.RelayAct{row.moment: test.act}, Cert: cert}
				if name != "hang" && (row.moment == lab.AtMail || row.moment == lab.AtRcpt || row.moment == lab.AtData) {
					t.Run("command by command", func(t *testing.T) {
						t.Parallel()
						script := script
						script.Offers = []string{"8BITMIME"}
						_, f := attempt(lab.Patient(t), clientOf(lab.StartRelay(t, script)), someone, someMail).Verdicts()
						if f == nil || f.Code != test.want.code || f.ReplyCode != test.want.reply || f.Phase != row.phase {
							t.Errorf("got %+v, want %+v in %s", f, test.want, row.phase)
						}
					})
				}
				server := lab.StartRelay(t, script)
				r := clientOf(server)
				if row.moment == lab.AtSTARTTLS || row.moment == lab.AtAuth {
					r.TLSMode, r.roots = "starttls", ca.Pool()
				}
				if row.moment == lab.AtAuth {
					r.AuthMethod, r.Username, r.Password = "login", "certs", secrets.New([]byte("a-pass-phrase"))
				}
				ctx := lab.Patient(t)
				if test.act.Hang {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, time.Second)
					defer cancel()
				}
				receipt, f := attempt(ctx, r, someone, someMail).Verdicts()
				if f == nil {
					t.Fatalf("taken: %+v", receipt)
				}
				got := outcome{f.Code, f.Relay, f.Certainty, f.ReplyCode, len(server.Taken())}
				if got != test.want || f.Phase != row.phase {
					t.Errorf("got %+v in %s, want %+v in %s\n%v", got, f.Phase, test.want, row.phase, f)
				}
				if receipt != nil {
					t.Errorf("a receipt in addition: %+v", receipt)
				}
				if !strings.Contains(f.Reason, r.Address()) || strings.Contains(f.Reason, "ops@example.com") {
					t.Errorf("reason %q has to name the relay and no recipient", f.Reason)
				}
				server.Idle(t)
			})
		}
	}
}

// Fault: stops reading, or resets during the content. Result: not sent, retried; no QUIT
// after half a mail.
func TestContentThatDoesNotGoOutIsNotSent(t *testing.T) {
	t.Parallel()
	// Larger than the buffers of both sides, so that the write fails.
	big := []byte(strings.Repeat(strings.Repeat("x", 70)+"\r\n", 1<<18))
	for name, test := range map[string]struct {
		act  lab.RelayAct
		code verdict.Code
	}{
		"relay resets":         {lab.RelayAct{Drop: true}, verdict.SMTPTransient},
		"relay stops reading":  {lab.RelayAct{Hang: true}, verdict.SMTPTransient},
		"relay finds it large": {lab.RelayAct{Reply: "552 5.3.4 too large", Drop: true}, verdict.SMTPPermanent},
		"relay runs full":      {lab.RelayAct{Reply: "452 4.3.1 no space", Drop: true}, verdict.SMTPTransient},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := lab.StartRelay(t, lab.RelayScript{Acts: map[string]lab.RelayAct{lab.AtContent: test.act}, Offers: []string{"8BITMIME"}})
			ctx := lab.Patient(t)
			if test.act.Hang {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, 3*time.Second)
				defer cancel()
			}
			_, f := attempt(ctx, clientOf(server), someone, big).Verdicts()
			if f == nil || f.Code != test.code || f.Phase != verdict.PhaseContent || f.Certainty != verdict.NotSent {
				t.Fatalf("got %+v", f)
			}
			if test.act.Reply != "" && f.Reply == "" {
				t.Errorf("the relay's early reply is lost: %v", f)
			}
			if slices.Contains(server.Heard(), "QUIT") {
				t.Error("a QUIT followed the unfinished content")
			}
			if mails := server.Taken(); len(mails) != 0 {
				t.Errorf("the relay accepted %d mails without their end", len(mails))
			}
		})
	}
}

// Fault: answers byte by byte. Result: a reply byte by byte is understood in time.
func TestRepliesByteByByteAreUnderstood(t *testing.T) {
	t.Parallel()
	server := lab.StartRelay(t, lab.RelayScript{Acts: map[string]lab.RelayAct{
		lab.AtBanner: {Reply: "220-scripted.test\r\n220 ESMTP", Slowly: true},
		lab.AtMail:   {Reply: "250 2.1.0 fine", Slowly: true},
	}})
	if _, f := attempt(lab.Patient(t), clientOf(server), someone, someMail).Verdicts(); f != nil {
		t.Fatal(f)
	}
	if len(server.Taken()) != 1 {
		t.Error("the mail did not arrive")
	}
}

// RFC 5321 section 4.2 lets a reply be its code alone, in every phase. Taken for garbage,
// one such reply to the final dot would send the mail again and again.
//
// Fault: replies without text (250, 334), in every phase, also as the last line of several.
// Result: valid (RFC 5321 section 4.2): the code decides, the mail is sent once.
func TestRepliesWithoutText(t *testing.T) {
	t.Parallel()
	ca := lab.NewTLSAuthority(t, "Test CA")
	cert := ca.Issue(t, nil)
	for _, method := range []string{AuthPlain, AuthLogin, AuthCRAMMD5, AuthXOAUTH2, AuthSCRAMSHA256} {
		for _, pipelining := range []string{"PIPELINING", "8BITMIME"} {
			t.Run(method+"/"+pipelining, func(t *testing.T) {
				t.Parallel()
				server := lab.StartRelay(t, lab.RelayScript{
					Bare: true, Cert: cert, Users: map[string]string{"certs": "hunter2hunter2"},
					Offers: []string{pipelining, "STARTTLS", "AUTH " + strings.ToUpper(method)},
				})
				r := clientOf(server)
				r.TLSMode, r.roots = TLSStartTLS, ca.Pool()
				r.AuthMethod, r.Username, r.Password = method, "certs", secrets.New([]byte("hunter2hunter2"))
				s := mustDial(t, r)
				for range 2 {
					receipt, f := s.Send(lab.Patient(t), someone, someMail, claimed).Verdicts()
					if f != nil {
						t.Fatal(f)
					}
					if receipt.ReplyCode != 250 || receipt.Reply != "" || receipt.QueueID != "" || !strings.HasPrefix(receipt.TLS, "TLS 1.3") {
						t.Errorf("receipt %+v", receipt)
					}
				}
				if mails := server.Taken(); len(mails) != 2 || mails[1].User != "certs" || mails[1].Content != string(someMail) {
					t.Errorf("the relay holds %+v", mails)
				}
			})
		}
	}
}

// A slow reply, byte by byte, does not extend the deadline of its phase.
//
// Fault: answers byte by byte. Result: a deadline for each phase.
func TestSlowRepliesRunIntoTheDeadline(t *testing.T) {
	t.Parallel()
	server := lab.StartRelay(t, lab.RelayScript{Acts: map[string]lab.RelayAct{lab.AtRcpt: {Reply: "250-", Slowly: true, Endless: true}}})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, f := attempt(ctx, clientOf(server), someone, someMail).Verdicts()
	if f == nil || f.Code != verdict.SMTPTransient || f.Phase != verdict.PhaseRcpt {
		t.Fatalf("got %+v", f)
	}
}

func TestRelaysThatKnowOnlyHELO(t *testing.T) {
	t.Parallel()
	server := lab.StartRelay(t, lab.RelayScript{NoEHLO: true})
	if _, f := attempt(lab.Patient(t), clientOf(server), someone, someMail).Verdicts(); f != nil {
		t.Fatal(f)
	}
	r := clientOf(server)
	r.TLSMode = "starttls"
	if _, f := attempt(lab.Patient(t), r, someone, someMail).Verdicts(); f == nil || f.Code != verdict.SMTPTLS {
		t.Errorf("STARTTLS with a relay that has none gave %+v", f)
	}
	refusing := lab.StartRelay(t, lab.RelayScript{NoEHLO: true, Acts: map[string]lab.RelayAct{"HELO": {Reply: "450 4.3.2 later"}}})
	if _, f := attempt(lab.Patient(t), clientOf(refusing), someone, someMail).Verdicts(); f == nil || f.ReplyCode != 450 || !f.Retry() {
		t.Errorf("the answer to HELO has to count, got %+v", f)
	}
}

// Fault: RCPT. Result: too many recipients (452; 552) is retried.
func TestRecipientsAreJudgedOneByOne(t *testing.T) {
	t.Parallel()
	three := Envelope{From: "certs@example.com", Recipients: []string{"a@example.com", "b@example.com", "c@example.com"}}
	tests := map[string]struct {
		replies map[string]string
		taken   []string
		owed    []string
		code    verdict.Code
		reply   int
	}{
		"all taken":             {nil, three.Recipients, nil, "", 0},
		"251 is taken":          {map[string]string{"b@example.com": "251 2.1.5 will forward"}, three.Recipients, nil, "", 0},
		"one refused for good":  {map[string]string{"b@example.com": "550 5.1.1 nobody"}, []string{"a@example.com", "c@example.com"}, []string{"b@example.com"}, verdict.SMTPPermanent, 550},
		"one refused for a bit": {map[string]string{"a@example.com": "450 4.2.0 greylisted"}, []string{"b@example.com", "c@example.com"}, []string{"a@example.com"}, verdict.SMTPTransient, 450},
		"both kinds": {map[string]string{"a@example.com": "550 5.1.1 nobody", "b@example.com": "451 4.3.0 later"},
			[]string{"c@example.com"}, []string{"a@example.com", "b@example.com"}, verdict.SMTPTransient, 451},
		"malformed":                     {map[string]string{"c@example.com": "553 5.1.3 syntax"}, []string{"a@example.com", "b@example.com"}, []string{"c@example.com"}, verdict.SMTPValidation, 553},
		"452 too many":                  {map[string]string{"c@example.com": "452 4.5.3 too many"}, []string{"a@example.com", "b@example.com"}, []string{"c@example.com"}, verdict.SMTPTransient, 452},
		"552 too many":                  {map[string]string{"c@example.com": "552 too many recipients"}, []string{"a@example.com", "b@example.com"}, []string{"c@example.com"}, verdict.SMTPTransient, 552},
		"552 too many, the others full": {map[string]string{"a@example.com": "552 too many recipients", "b@example.com": "550 5.1.1 x", "c@example.com": "550 5.1.1 x"}, nil, three.Recipients, verdict.SMTPTransient, 552},
		"5.5.3 too many":                {map[string]string{"c@example.com": "550 5.5.3 too many"}, []string{"a@example.com", "b@example.com"}, []string{"c@example.com"}, verdict.SMTPTransient, 550},
		"552 mailbox full":              {map[string]string{"c@example.com": "552 5.2.2 mailbox full"}, []string{"a@example.com", "b@example.com"}, []string{"c@example.com"}, verdict.SMTPPermanent, 552},
		"all refused for good":          {map[string]string{"a@example.com": "550 5.1.1 x", "b@example.com": "550 5.1.1 x", "c@example.com": "550 5.1.1 x"}, nil, three.Recipients, verdict.SMTPPermanent, 550},
		"all refused, one for a bit":    {map[string]string{"a@example.com": "550 5.1.1 x", "b@example.com": "451 4.1.1 x", "c@example.com": "550 5.1.1 x"}, nil, three.Recipients, verdict.SMTPTransient, 451},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := lab.StartRelay(t, lab.RelayScript{PerRcpt: test.replies})
			s := mustDial(t, clientOf(server))
			got := s.Send(lab.Patient(t), three, someMail, claimed)
			receipt, failure := got.Verdicts()
			var taken, owed []string
			if receipt != nil {
				taken = receipt.Recipients
			}
			if failure != nil {
				owed = failure.Recipients
				if failure.Code != test.code || failure.ReplyCode != test.reply || failure.Phase != verdict.PhaseRcpt || failure.Certainty != verdict.NotSent {
					t.Errorf("failure %+v, want %s by %d", failure, test.code, test.reply)
				}
			}
			final := 0 // of the replies
			for _, reply := range test.replies {
				if strings.HasPrefix(reply, "5") && reply != "552 too many recipients" && reply != "550 5.5.3 too many" {
					final++
				}
			}
			if failure != nil && len(failure.Refused) != final {
				t.Errorf("refused for good: %+v, want %d", failure.Refused, final)
			}
			if !slices.Equal(taken, test.taken) || !slices.Equal(owed, test.owed) {
				t.Errorf("taken %v, owed %v; want %v and %v", taken, owed, test.taken, test.owed)
			}
			if len(got.refused) != len(test.owed) {
				t.Errorf("%d refusals for %d recipients: %+v", len(got.refused), len(test.owed), got.refused)
			}
			mails := server.Taken()
			if len(test.taken) == 0 {
				if len(mails) != 0 {
					t.Errorf("the relay holds %+v", mails)
				}
			} else if len(mails) != 1 || !slices.Equal(mails[0].Recipients, test.taken) {
				t.Errorf("the relay holds %+v", mails)
			}
			// The session can be used again, whatever the outcome of the mail before.
			server.Mu.Lock()
			server.PerRcpt = nil
			server.Mu.Unlock()
			if _, failure := s.Send(lab.Patient(t), someone, someMail, claimed).Verdicts(); failure != nil {
				t.Errorf("the next mail: %v", failure)
			}
			if reset := slices.Contains(server.Heard(), "RSET"); reset != (len(test.taken) == 0) {
				t.Errorf("heard %v: RSET has to follow a transaction that was left open, and only that", server.Heard())
			}
		})
	}
}

// A relay that demands a login or TLS says so with 530.
func TestRelayWantsALogin(t *testing.T) {
	t.Parallel()
	ca := lab.NewTLSAuthority(t, "Test CA")
	for name, test := range map[string]struct {
		mode, method, at, want string
	}{
		"at MAIL":             {TLSStartTLS, AuthNone, lab.AtMail, wantsLogin},
		"at MAIL, no method":  {TLSStartTLS, "", lab.AtMail, wantsLogin},
		"at RCPT":             {TLSStartTLS, AuthNone, lab.AtRcpt, wantsLogin},
		"at DATA":             {TLSStartTLS, AuthNone, lab.AtData, wantsLogin},
		"in plaintext":        {TLSPlaintext, AuthNone, lab.AtMail, wantsTLS},
		"although logged in":  {TLSStartTLS, AuthPlain, lab.AtMail, remedies[verdict.SMTPPermanent]},
		"to EHLO, before TLS": {TLSStartTLS, AuthNone, lab.AtEHLO, remedies[verdict.SMTPPermanent]},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := lab.StartRelay(t, lab.RelayScript{Cert: ca.Issue(t, nil), Acts: map[string]lab.RelayAct{test.at: {Reply: "530 5.7.0 first say who you are"}}})
			r := clientOf(server)
			r.TLSMode, r.roots, r.AuthMethod, r.Username, r.Password = test.mode, ca.Pool(), test.method, "certs", secrets.New([]byte("hunter2hunter2"))
			_, f := attempt(lab.Patient(t), r, someone, someMail).Verdicts()
			if f == nil || f.Code != verdict.SMTPPermanent || f.ReplyCode != 530 || !strings.HasSuffix(f.Reason, "; "+test.want) {
				t.Errorf("%+v, want %q", f, test.want)
			}
		})
	}
}

// A bare 552 to the only recipient is a full mailbox: one recipient is never too many.
//
// Fault: RCPT. Result: 552 to the only recipient is a full mailbox.
func TestBare552ToTheOnlyRecipient(t *testing.T) {
	t.Parallel()
	for reply, want := range map[string]verdict.Code{
		"552 mailbox full":                 verdict.SMTPPermanent,
		"552 too many recipients":          verdict.SMTPPermanent,
		"552 5.2.2 mailbox full":           verdict.SMTPPermanent,
		"552 5.5.3 too many":               verdict.SMTPTransient,
		"452 4.5.3 too many, for this day": verdict.SMTPTransient,
	} {
		t.Run(reply, func(t *testing.T) {
			t.Parallel()
			server := lab.StartRelay(t, lab.RelayScript{PerRcpt: map[string]string{"a@example.com": reply}})
			s := mustDial(t, clientOf(server))
			pair := Envelope{From: "certs@example.com", Recipients: []string{"a@example.com", "b@example.com"}}
			_, f := s.Send(lab.Patient(t), pair, someMail, claimed).Verdicts()
			if bare := !strings.Contains(reply, "5.2.2"); f == nil || bare && f.Code != verdict.SMTPTransient {
				t.Fatalf("with another recipient: %+v", f)
			}
			pair.Recipients = pair.Recipients[:1] // the one still owed the mail
			if _, f = s.Send(lab.Patient(t), pair, someMail, claimed).Verdicts(); f == nil || f.Code != want {
				t.Errorf("alone: %+v, want %s", f, want)
			}
		})
	}
}

// A permanent refusal of a recipient counts, whatever the outcome of the mail.
//
// Fault: some recipients refused. Result: those with 5yz end in one letter that names them.
func TestRefusalsOutliveTheTransaction(t *testing.T) {
	t.Parallel()
	three := Envelope{From: "certs@example.com", Recipients: []string{"a@example.com", "b@example.com", "c@example.com"}}
	replies := map[string]string{"a@example.com": "550 5.1.1 nobody", "b@example.com": "450 4.2.0 later"}
	for name, test := range map[string]struct {
		acts      map[string]lab.RelayAct
		code      verdict.Code
		certainty verdict.Certainty
	}{
		"dropped at the last RCPT": {map[string]lab.RelayAct{lab.AtRcpt: {Drop: true, Only: 3}}, verdict.SMTPTransient, verdict.NotSent},
		"421 at the last RCPT":     {map[string]lab.RelayAct{lab.AtRcpt: {Reply: "421 4.3.2 bye", Drop: true, Only: 3}}, verdict.SMTPTransient, verdict.NotSent},
		"DATA refused":             {map[string]lab.RelayAct{lab.AtData: {Reply: "451 4.3.0 later"}}, verdict.SMTPTransient, verdict.NotSent},
		"content refused":          {map[string]lab.RelayAct{lab.AtDot: {Reply: "554 5.7.1 spam"}}, verdict.SMTPPermanent, verdict.NotSent},
		"reply lost":               {map[string]lab.RelayAct{lab.AtDot: {Take: true, Drop: true}}, verdict.SMTPTransient, verdict.MaybeSent},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := lab.StartRelay(t, lab.RelayScript{PerRcpt: replies, Acts: test.acts})
			receipt, f := attempt(lab.Patient(t), clientOf(server), three, someMail).Verdicts()
			if receipt != nil || f == nil || f.Code != test.code || f.Certainty != test.certainty || !slices.Equal(f.Recipients, three.Recipients) {
				t.Fatalf("%+v, %+v", receipt, f)
			}
			if len(f.Refused) != 1 || f.Refused[0].Recipient != "a@example.com" || f.Refused[0].ReplyCode != 550 || f.Refused[0].EnhancedCode != "5.1.1" ||
				f.Refused[0].Code != verdict.SMTPPermanent || f.Refused[0].Reply != "5.1.1 nobody" {
				t.Errorf("refused: %+v", f.Refused)
			}
		})
	}
}

func TestAllOrNothing(t *testing.T) {
	t.Parallel()
	three := Envelope{From: "certs@example.com", Recipients: []string{"a@example.com", "b@example.com", "c@example.com"}, AllOrNothing: true}
	for name, test := range map[string]struct {
		replies map[string]string
		code    verdict.Code // "": taken
		reply   int
	}{
		"all taken":            {nil, "", 0},
		"one refused for good": {map[string]string{"b@example.com": "550 5.1.1 nobody"}, verdict.SMTPPermanent, 550},
		"one refused for now":  {map[string]string{"c@example.com": "450 4.2.0 later"}, verdict.SMTPTransient, 450},
		"too many":             {map[string]string{"c@example.com": "452 4.5.3 too many"}, verdict.SMTPTransient, 452},
		"both kinds":           {map[string]string{"a@example.com": "553 5.1.3 syntax", "b@example.com": "451 4.3.0 later"}, verdict.SMTPTransient, 451},
		"all refused":          {map[string]string{"a@example.com": "550 no", "b@example.com": "550 no", "c@example.com": "550 no"}, verdict.SMTPPermanent, 550},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := lab.StartRelay(t, lab.RelayScript{PerRcpt: test.replies})
			s := mustDial(t, clientOf(server))
			receipt, f := s.Send(lab.Patient(t), three, someMail, claimed).Verdicts()
			if test.code == "" {
				if f != nil || !slices.Equal(receipt.Recipients, three.Recipients) || len(server.Taken()) != 1 {
					t.Fatalf("%+v, %v", receipt, f)
				}
				return
			}
			if receipt != nil || f == nil || f.Code != test.code || f.ReplyCode != test.reply || f.Recipients != nil || f.Refused != nil {
				t.Fatalf("%+v, %+v", receipt, f)
			}
			if !strings.Contains(f.Reason, "all_or_nothing") || len(server.Taken()) != 0 || slices.Contains(server.Heard(), "DATA") {
				t.Errorf("reason %q, heard %v, holds %v", f.Reason, server.Heard(), server.Taken())
			}
			// The unfinished transaction is reset before the next mail.
			server.Mu.Lock()
			server.PerRcpt = nil
			server.Mu.Unlock()
			if _, f := s.Send(lab.Patient(t), someone, someMail, claimed).Verdicts(); f != nil {
				t.Fatal(f)
			}
			if mails := server.Taken(); len(mails) != 1 || !slices.Equal(mails[0].Recipients, someone.Recipients) {
				t.Errorf("the relay holds %+v", mails)
			}
		})
	}
}

func TestSessionsCarryManyMailsWithoutChatter(t *testing.T) {
	t.Parallel()
	server := lab.StartRelay(t, lab.RelayScript{})
	s := mustDial(t, clientOf(server))
	for n := range 3 {
		receipt, f := s.Send(lab.Patient(t), someone, someMail, claimed).Verdicts()
		if f != nil {
			t.Fatal(f)
		}
		if first := n == 0; (receipt.Timings.Dial > 0) != first {
			t.Errorf("mail %d claims %s for dialling", n, receipt.Timings.Dial)
		}
	}
	s.Close()
	server.Idle(t)
	want := strings.Fields("EHLO MAIL RCPT DATA MAIL RCPT DATA MAIL RCPT DATA QUIT")
	if got := server.Heard(); !slices.Equal(got, want) {
		t.Errorf("heard %v, want %v", got, want)
	}
	if len(server.Taken()) != 3 || s.mails != 3 {
		t.Errorf("relay holds %d, session counts %d", len(server.Taken()), s.mails)
	}
}

// The reply to QUIT does not change the outcome of an accepted mail.
func TestTheGoodbyeDoesNotMatter(t *testing.T) {
	t.Parallel()
	for name, a := range map[string]lab.RelayAct{"refused": {Reply: "500 5.5.1 stay"}, "dropped": {Drop: true}} {
		server := lab.StartRelay(t, lab.RelayScript{Acts: map[string]lab.RelayAct{lab.AtQuit: a}})
		if _, f := attempt(lab.Patient(t), clientOf(server), someone, someMail).Verdicts(); f != nil {
			t.Errorf("QUIT %s: %v", name, f)
		}
		server.Idle(t)
	}
}

// A refused RSET says nothing about the next mail.
func TestRefusedResetIsNotTheMailsFault(t *testing.T) {
	t.Parallel()
	server := lab.StartRelay(t, lab.RelayScript{
		Acts:    map[string]lab.RelayAct{lab.AtRset: {Reply: "554 5.0.0 no"}},
		PerRcpt: map[string]string{"ops@example.com": "450 4.2.0 later"},
	})
	s := mustDial(t, clientOf(server))
	s.Send(lab.Patient(t), someone, someMail, claimed)
	_, f := s.Send(lab.Patient(t), someone, someMail, claimed).Verdicts()
	if f == nil || f.Code != verdict.SMTPTransient || !s.dead {
		t.Errorf("got %+v, dead %v", f, s.dead)
	}
}

func TestNothingIsSentWithoutAClaim(t *testing.T) {
	t.Parallel()
	server := lab.StartRelay(t, lab.RelayScript{})
	s := mustDial(t, clientOf(server))
	lost := errors.New("another process has the claim")
	_, f := s.Send(lab.Patient(t), someone, someMail, func(time.Time) error { return lost }).Verdicts()
	if f == nil || f.Phase != verdict.PhaseClaim || !errors.Is(f, lost) || f.Certainty != verdict.NotSent || !f.Retry() {
		t.Fatalf("got %+v", f)
	}
	if slices.Contains(server.Heard(), "DATA") || len(server.Taken()) != 0 {
		t.Errorf("heard %v, holds %v", server.Heard(), server.Taken())
	}
}

func TestTheClaimComesRightBeforeDATA(t *testing.T) {
	t.Parallel()
	server := lab.StartRelay(t, lab.RelayScript{})
	s := mustDial(t, clientOf(server))
	end, _ := lab.Patient(t).Deadline()
	ctx, cancel := context.WithDeadline(t.Context(), end)
	defer cancel()
	calls := 0
	_, f := s.Send(ctx, someone, someMail, func(until time.Time) error {
		calls++
		if heard := server.Heard(); heard[len(heard)-1] != "RCPT" {
			t.Errorf("claimed after %v", heard)
		}
		if !until.Equal(end) {
			t.Errorf("claimed until %s, the context ends %s", until, end)
		}
		return nil
	}).Verdicts()
	if f != nil || calls != 1 {
		t.Errorf("%d claims, %v", calls, f)
	}
	refusing := lab.StartRelay(t, lab.RelayScript{Acts: map[string]lab.RelayAct{lab.AtRcpt: {Reply: "550 5.1.1 no"}}})
	s = mustDial(t, clientOf(refusing))
	s.Send(ctx, someone, someMail, func(time.Time) error {
		t.Error("claimed a mail whose recipients were all refused")
		return nil
	})
}

func TestClaimedNoLongerThanThePhasesTake(t *testing.T) {
	t.Parallel()
	server := lab.StartRelay(t, lab.RelayScript{})
	s := mustDial(t, clientOf(server))
	s.Send(t.Context(), someone, someMail, func(until time.Time) error {
		if left := time.Until(until); left <= 0 || left > 12*time.Minute {
			t.Errorf("without a deadline it is claimed for %s", left)
		}
		return nil
	})
}

// Fault: SIGTERM with a mail in DATA. Result: after the grace period the connection is
// closed at once.
func TestCancellingClosesTheConnectionAtOnce(t *testing.T) {
	t.Parallel()
	for _, moment := range []string{lab.AtBanner, lab.AtEHLO, lab.AtMail, lab.AtRcpt, lab.AtData, lab.AtDot} {
		t.Run(moment, func(t *testing.T) {
			t.Parallel()
			server := lab.StartRelay(t, lab.RelayScript{Acts: map[string]lab.RelayAct{moment: {Hang: true}}})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			done := make(chan *verdict.Failure, 1)
			go func() {
				_, f := attempt(ctx, clientOf(server), someone, someMail).Verdicts()
				done <- f
			}()
			lab.Eventually(t, "the relay to hang", func() bool {
				server.Mu.Lock()
				defer server.Mu.Unlock()
				return server.Seen[moment] > 0
			})
			cancel()
			f := <-done
			if f == nil || f.Code != verdict.SMTPTransient || f.Relay || !errors.Is(f, context.Canceled) {
				t.Fatalf("got %+v", f)
			}
			if want := map[bool]verdict.Certainty{true: verdict.MaybeSent, false: verdict.NotSent}[moment == lab.AtDot]; f.Certainty != want {
				t.Errorf("certainty %s, want %s", f.Certainty, want)
			}
			server.Idle(t)
		})
	}
}

// Fault: connections fail in every way. Result: no socket stays open.
func TestFailedDialsLeaveNoSocketOpen(t *testing.T) {
	t.Parallel()
	ca := lab.NewTLSAuthority(t, "Test CA")
	scripts := map[string]lab.RelayScript{
		"EHLO refused":           {Acts: map[string]lab.RelayAct{lab.AtEHLO: {Reply: "554 5.7.1 no"}}},
		"STARTTLS refused":       {Acts: map[string]lab.RelayAct{lab.AtSTARTTLS: {Reply: "454 4.7.0 no"}}},
		"STARTTLS not offered":   {Offers: []string{"8BITMIME"}},
		"handshake refused":      {Cert: ca.Issue(t, nil)}, // of a CA that is not trusted
		"greeting refused":       {Acts: map[string]lab.RelayAct{lab.AtBanner: {Reply: "554 5.7.1 no"}}},
		"garbage for a greeting": {Acts: map[string]lab.RelayAct{lab.AtBanner: {Reply: "hello"}}},
	}
	for name, script := range scripts {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := lab.StartRelay(t, script)
			r := clientOf(server)
			r.TLSMode = "starttls"
			for range 20 {
				if s, f := Dial(lab.Patient(t), r); f == nil {
					s.Close()
					t.Fatal("connected")
				}
			}
			server.Idle(t)
		})
	}
}

// Fault: connection refused, no route, unknown host name. Result: retried (SMTP_CONNECT).
func TestUnreachableRelays(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := listener.Addr().(*net.TCPAddr).Port
	_ = listener.Close()
	for name, test := range map[string]struct {
		r    Relay
		says string
	}{
		"refused":      {Relay{Host: "127.0.0.1", Port: closed}, "nothing listens on this port"},
		"unknown name": {Relay{Host: "relay.invalid", Port: 25}, "DNS"},
		"no such port": {Relay{Host: "127.0.0.1", Port: 70000}, "could not be opened"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			_, f := Dial(ctx, test.r)
			if f == nil || f.Code != verdict.SMTPConnect || !f.Relay || f.Phase != verdict.PhaseConnect {
				t.Fatalf("got %+v", f)
			}
			if name != "unknown name" && !strings.Contains(f.Reason, test.says) {
				t.Errorf("reason %q does not say %q", f.Reason, test.says)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, f := Dial(ctx, Relay{Host: "127.0.0.1", Port: closed}); f == nil || !errors.Is(f, context.Canceled) || f.Relay {
		t.Errorf("a stop before dialling gave %+v", f)
	}
}

// Fault: accepts only smaller mails (SIZE). Result: dead (SMTP_PERMANENT), before MAIL.
func TestSizeIsCheckedBeforeAnythingIsSaid(t *testing.T) {
	t.Parallel()
	server := lab.StartRelay(t, lab.RelayScript{Offers: []string{"SIZE 40"}})
	s := mustDial(t, clientOf(server))
	_, f := s.Send(lab.Patient(t), someone, someMail, claimed).Verdicts()
	if f == nil || f.Code != verdict.SMTPPermanent || f.Phase != verdict.PhaseMail || !strings.Contains(f.Reason, "at most 40") {
		t.Fatalf("got %+v", f)
	}
	if heard := server.Heard(); slices.Contains(heard, "MAIL") {
		t.Errorf("heard %v", heard)
	}
	for _, offer := range []string{"SIZE", "SIZE 0", "SIZE much"} {
		server := lab.StartRelay(t, lab.RelayScript{Offers: []string{offer}})
		if _, f := attempt(lab.Patient(t), clientOf(server), someone, someMail).Verdicts(); f != nil {
			t.Errorf("%q states no limit, but: %v", offer, f)
		}
	}
}

// Fault: recipients with line breaks, brackets, control characters. Result: never sent to a
// relay.
func TestEnvelopesThatCannotBeSpoken(t *testing.T) {
	t.Parallel()
	server := lab.StartRelay(t, lab.RelayScript{Offers: []string{"8BITMIME"}})
	s := mustDial(t, clientOf(server))
	for name, env := range map[string]Envelope{
		"line break":                    {From: "a@example.com", Recipients: []string{"b@example.com>\r\nRCPT TO:<evil@example.com"}},
		"bracket":                       {From: "a@example.com> SIZE=1", Recipients: []string{"b@example.com"}},
		"non-ASCII":                     {From: "a@example.com", Recipients: []string{"bücher@example.com"}},
		"UTF-8 the relay does not know": {From: "a@example.com", Recipients: []string{"bücher@example.com"}, UTF8: true},
		"nobody":                        {From: "a@example.com"},
	} {
		if _, f := s.Send(lab.Patient(t), env, someMail, claimed).Verdicts(); f == nil || f.Code != verdict.SMTPValidation {
			t.Errorf("%s: got %+v", name, f)
		}
	}
	for _, raw := range []string{"a\nb\r\n", "a\rb\r\n", "a\r\n.\nb\r\n"} {
		if _, f := s.Send(lab.Patient(t), someone, []byte(raw), claimed).Verdicts(); f == nil || f.Code != verdict.SMTPPayload {
			t.Errorf("%q: got %+v", raw, f)
		}
	}
	if heard := server.Heard(); len(heard) != 1 {
		t.Errorf("heard %v", heard)
	}
	utf8 := lab.StartRelay(t, lab.RelayScript{})
	env := Envelope{From: "a@example.com", Recipients: []string{"bücher@example.com"}, UTF8: true}
	if _, f := attempt(lab.Patient(t), clientOf(utf8), env, someMail).Verdicts(); f != nil {
		t.Error(f)
	}
}

// Exchange offers SMTPUTF8 but refuses it: only mails that need it request it.
//
// Fault: offers SMTPUTF8 and refuses it (Exchange). Result: requested only for mails that
// need it.
func TestSMTPUTF8IsAskedForWhereItIsNeeded(t *testing.T) {
	t.Parallel()
	server := lab.StartRelay(t, lab.RelayScript{NoUTF8: true})
	s := mustDial(t, clientOf(server))
	if !s.offers.has("SMTPUTF8") {
		t.Fatal("the relay does not offer it")
	}
	if _, f := s.Send(lab.Patient(t), someone, someMail, claimed).Verdicts(); f != nil {
		t.Errorf("a mail that does not need it: %v", f)
	}
	needs := Envelope{From: "a@example.com", Recipients: []string{"bücher@example.com"}, UTF8: true}
	if _, f := s.Send(lab.Patient(t), needs, someMail, claimed).Verdicts(); f == nil || f.Code != verdict.SMTPPermanent || f.Phase != verdict.PhaseMail || f.ReplyCode != 502 {
		t.Errorf("a mail that needs it: %+v", f)
	}
	if n := len(server.Taken()); n != 1 {
		t.Errorf("%d mails were taken", n)
	}
}

// Fault: certificate expired, for another name, from an unknown CA; no common version.
// Result: dead (SMTP_TLS); the text says which.
func TestRelaysThatCannotProveWhoTheyAre(t *testing.T) {
	t.Parallel()
	ca, stranger := lab.NewTLSAuthority(t, "Test CA"), lab.NewTLSAuthority(t, "Evil\u202eCA")
	expired := time.Now().Add(-time.Minute)
	tests := map[string]struct {
		script lab.RelayScript
		says   string
	}{
		"expired":       {lab.RelayScript{Cert: ca.Issue(t, func(c *x509.Certificate) { c.NotAfter = expired })}, "expired on " + legible.Moment(expired)},
		"not yet valid": {lab.RelayScript{Cert: ca.Issue(t, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(30 * time.Minute) })}, "not valid before"},
		"wrong name": {lab.RelayScript{Cert: ca.Issue(t, func(c *x509.Certificate) { c.IPAddresses, c.DNSNames = nil, []string{"mail.example.org"} })},
			"certificate for mail.example.org, not for 127.0.0.1"},
		"unknown CA":    {lab.RelayScript{Cert: stranger.Issue(t, nil)}, "which is not a trusted CA"},
		"TLS 1.1":       {lab.RelayScript{Cert: ca.Issue(t, nil), MaxTLS: tls.VersionTLS11}, "no TLS version that is still secure"},
		"wrong purpose": {lab.RelayScript{Cert: ca.Issue(t, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })}, "not valid for this use"},
		"no TLS":        {lab.RelayScript{Cert: ca.Issue(t, nil), Acts: map[string]lab.RelayAct{lab.AtTLS: {Reply: "220 I only speak plaintext", Hang: true}}}, "does not speak TLS on this port"},
	}
	for name, test := range tests {
		for _, mode := range []string{"starttls", "smtps", "opportunistic"} {
			t.Run(name+"/"+mode, func(t *testing.T) {
				t.Parallel()
				script := test.script
				script.Implicit = mode == "smtps"
				server := lab.StartRelay(t, script)
				r := clientOf(server)
				r.TLSMode, r.roots = mode, ca.Pool()
				_, f := Dial(lab.Patient(t), r)
				if f == nil || f.Code != verdict.SMTPTLS || f.Relay || f.Phase != verdict.PhaseTLS {
					t.Fatalf("got %+v", f)
				}
				if !strings.Contains(f.Reason, test.says) || strings.ContainsRune(f.Reason, '\u202e') {
					t.Errorf("reason %q does not say %q", f.Reason, test.says)
				}
				if heard := server.Heard(); slices.Contains(heard, "MAIL") || slices.Contains(heard, "AUTH") {
					t.Errorf("heard %v", heard)
				}
				if name == "expired" {
					r.SkipVerify = true
					if _, f := attempt(lab.Patient(t), r, someone, someMail).Verdicts(); f != nil {
						t.Errorf("tls_skip_verify: %v", f)
					}
				}
				server.Idle(t)
			})
		}
	}
}

// Fault: handshake interrupted or hanging. Result: retried.
func TestHandshakesThatAreCutShort(t *testing.T) {
	t.Parallel()
	ca := lab.NewTLSAuthority(t, "Test CA")
	for name, a := range map[string]lab.RelayAct{"drop": {Drop: true}, "hang": {Hang: true}} {
		for _, mode := range []string{"starttls", "smtps"} {
			t.Run(name+"/"+mode, func(t *testing.T) {
				t.Parallel()
				server := lab.StartRelay(t, lab.RelayScript{Cert: ca.Issue(t, nil), Implicit: mode == "smtps", Acts: map[string]lab.RelayAct{lab.AtTLS: a}})
				r := clientOf(server)
				r.TLSMode, r.roots = mode, ca.Pool()
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				_, f := Dial(ctx, r)
				if f == nil || f.Code != verdict.SMTPConnect || !f.Relay || f.Phase != verdict.PhaseTLS {
					t.Fatalf("got %+v", f)
				}
				server.Idle(t)
			})
		}
	}
}

// Fault: STARTTLS not offered, stripped, or followed by plaintext. Result: dead (SMTP_TLS);
// nothing is sent in plaintext.
func TestSTARTTLSThatIsMissingOrTampered(t *testing.T) {
	t.Parallel()
	ca := lab.NewTLSAuthority(t, "Test CA")
	stripped := lab.StartRelay(t, lab.RelayScript{Offers: []string{"AUTH PLAIN"}, Cert: ca.Issue(t, nil)})
	r := clientOf(stripped)
	r.TLSMode, r.roots = "starttls", ca.Pool()
	r.AuthMethod, r.Username, r.Password = "plain", "certs", secrets.New([]byte("a-pass-phrase"))
	if _, f := Dial(lab.Patient(t), r); f == nil || f.Code != verdict.SMTPTLS || f.Phase != verdict.PhaseSTARTTLS {
		t.Errorf("stripped: %+v", f)
	}
	r.TLSMode = "opportunistic"
	if _, f := Dial(lab.Patient(t), r); f == nil || f.Code != verdict.SMTPAuth || !strings.Contains(f.Reason, "not encrypted") {
		t.Errorf("a password over an opportunistic connection in plaintext: %+v", f)
	}
	stripped.Idle(t)
	if heard := stripped.Heard(); slices.Contains(heard, "AUTH") || slices.Contains(heard, "MAIL") {
		t.Errorf("heard %v", heard)
	}

	injected := lab.StartRelay(t, lab.RelayScript{Cert: ca.Issue(t, nil), Acts: map[string]lab.RelayAct{
		lab.AtSTARTTLS: {Reply: "220 2.0.0 go ahead", Behind: "250-evil.test\r\n250 AUTH PLAIN\r\n"},
	}})
	r = clientOf(injected)
	r.TLSMode, r.roots = "starttls", ca.Pool()
	if _, f := Dial(lab.Patient(t), r); f == nil || f.Code != verdict.SMTPTLS || !strings.Contains(f.Reason, "plaintext after") {
		t.Errorf("injected: %+v", f)
	}
	injected.Idle(t)
}

// AUTH lines may have 512 octets (RFC 4954 section 4); a longer initial response waits for 334.
//
// Fault: a token or password that makes the AUTH command longer than 512 octets. Result: no
// initial response: it follows the relay's 334 (RFC 4954 section 4).
func TestLongCredentialsWaitForTheChallenge(t *testing.T) {
	t.Parallel()
	ca := lab.NewTLSAuthority(t, "Test CA")
	cert := ca.Issue(t, nil)
	// Octets of a PLAIN response for "certs" besides the password, and how many fit into
	// the line behind "AUTH PLAIN ", as base64.
	const around, room = len("\x00certs\x00"), (512 - len("AUTH PLAIN \r\n")) / 4 * 3
	for name, test := range map[string]struct {
		method   string
		size     int // of the password or token
		prompted int
	}{
		"plain, as long as fits":    {AuthPlain, room - around, 0},
		"plain, one octet more":     {AuthPlain, room - around + 1, 1},
		"plain, far longer":         {AuthPlain, 4000, 1},
		"login, far longer":         {AuthLogin, 4000, 0}, // has no initial response
		"xoauth2, short token":      {AuthXOAUTH2, 100, 0},
		"xoauth2, token of a cloud": {AuthXOAUTH2, 2500, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			password := strings.Repeat("Pa55-word", test.size/9+1)[:test.size]
			server := lab.StartRelay(t, lab.RelayScript{
				Cert: cert, Users: map[string]string{"certs": password}, Offers: []string{"STARTTLS", "AUTH PLAIN LOGIN XOAUTH2"},
			})
			r := clientOf(server)
			r.TLSMode, r.roots = TLSStartTLS, ca.Pool()
			r.AuthMethod, r.Username, r.Password = test.method, "certs", secrets.New([]byte(password))
			mustDial(t, r)
			server.Mu.Lock()
			defer server.Mu.Unlock()
			if server.Prompted != test.prompted {
				t.Errorf("prompted %d times for the initial response, want %d", server.Prompted, test.prompted)
			}
		})
	}
}

// A refused long login is a wrong password, and is shown as little as a short one.
//
// Fault: a token or password that makes the AUTH command longer than 512 octets. Result: no
// initial response: it follows the relay's 334 (RFC 4954 section 4).
func TestLongCredentialsRefused(t *testing.T) {
	t.Parallel()
	ca := lab.NewTLSAuthority(t, "Test CA")
	token := strings.Repeat("tok3n-", 400)
	server := lab.StartRelay(t, lab.RelayScript{Cert: ca.Issue(t, nil), Users: map[string]string{}, Offers: []string{"STARTTLS", "AUTH XOAUTH2"}})
	r := clientOf(server)
	r.TLSMode, r.roots = TLSStartTLS, ca.Pool()
	r.AuthMethod, r.Username, r.Password = AuthXOAUTH2, "certs", secrets.New([]byte(token))
	_, f := Dial(lab.Patient(t), r)
	if f == nil || f.Code != verdict.SMTPAuth || f.ReplyCode != 535 {
		t.Fatalf("got %+v", f)
	}
	want := []string{"C: AUTH XOAUTH2", "S: 334", "C: (credentials)", "S: 334", "C: (credentials)", "S: 535 5.7.8"}
	if lines := f.Transcript.Dialogue; !slices.Equal(lines[max(len(lines)-len(want), 0):], want) {
		t.Errorf("dialogue %q", lines)
	}
}

// Fault: a login over a connection that is not encrypted or not verified. Result: dead
// (SMTP_AUTH) before the password is sent, unless the target allows it.
func TestPasswordsGoOnlyWhereTheyBelong(t *testing.T) {
	t.Parallel()
	const password = "correct-horse-battery"
	ca := lab.NewTLSAuthority(t, "Test CA")
	tests := map[string]struct {
		mode       string
		skip       bool
		allow      bool
		method     string
		offers     []string
		acts       map[string]lab.RelayAct
		user, pass string
		says       string // "" succeeds
	}{
		"plain":                      {mode: "starttls", method: "plain"},
		"login":                      {mode: "smtps", method: "login"},
		"plaintext":                  {mode: "plaintext", method: "plain", says: "not encrypted"},
		"plaintext, allowed":         {mode: "plaintext", method: "login", allow: true},
		"not verified":               {mode: "starttls", skip: true, method: "login", says: "tls_skip_verify"},
		"not verified, allowed":      {mode: "starttls", skip: true, allow: true, method: "login"},
		"method not offered":         {mode: "smtps", method: "plain", offers: []string{"AUTH CRAM-MD5 LOGIN"}, says: "only CRAM-MD5, LOGIN"},
		"no AUTH":                    {mode: "smtps", method: "plain", offers: []string{"8BITMIME"}, says: "does not offer AUTH"},
		"wrong password":             {mode: "smtps", method: "plain", pass: "wrong-wrong-wrong", says: "535 5.7.8"},
		"unknown user":               {mode: "smtps", method: "login", user: "nobody", says: "535 5.7.8"},
		"cram-md5":                   {mode: "starttls", method: "cram-md5", offers: []string{"AUTH LOGIN CRAM-MD5"}},
		"cram-md5, plaintext":        {mode: "plaintext", method: "cram-md5", offers: []string{"AUTH CRAM-MD5"}},
		"cram-md5, wrong password":   {mode: "smtps", method: "cram-md5", offers: []string{"AUTH CRAM-MD5"}, pass: "wrong-wrong-wrong", says: "535 5.7.8"},
		"scram-sha-256":              {mode: "starttls", method: "scram-sha-256", offers: []string{"AUTH SCRAM-SHA-256"}},
		"scram-sha-256, plaintext":   {mode: "plaintext", method: "scram-sha-256", offers: []string{"AUTH SCRAM-SHA-256"}},
		"scram, wrong password":      {mode: "smtps", method: "scram-sha-256", offers: []string{"AUTH SCRAM-SHA-256"}, pass: "wrong-wrong-wrong", says: "535 5.7.8"},
		"scram, not a password":      {mode: "smtps", method: "scram-sha-256", offers: []string{"AUTH SCRAM-SHA-256"}, pass: "tab\tis\tno\tletter", says: "SCRAM does not allow"},
		"xoauth2":                    {mode: "smtps", method: "xoauth2", offers: []string{"AUTH XOAUTH2"}},
		"xoauth2, plaintext":         {mode: "plaintext", method: "xoauth2", offers: []string{"AUTH XOAUTH2"}, says: "not encrypted"},
		"xoauth2, not verified":      {mode: "smtps", skip: true, method: "xoauth2", offers: []string{"AUTH XOAUTH2"}, says: "tls_skip_verify"},
		"xoauth2, refused":           {mode: "smtps", method: "xoauth2", offers: []string{"AUTH XOAUTH2"}, pass: "wrong-wrong-wrong", says: "535 5.7.8"},
		"AUTH= as of old":            {mode: "smtps", method: "login", offers: []string{"AUTH=LOGIN"}},
		"unknown method":             {mode: "smtps", method: "ntlm", offers: []string{"AUTH NTLM"}, says: `unknown auth_method "ntlm"`},
		"a challenge too many":       {mode: "smtps", method: "plain", acts: map[string]lab.RelayAct{lab.AtAuth: {Reply: "334 cGFzc3dvcmQ="}}, says: "challenge"},
		"the relay quotes it":        {mode: "smtps", method: "plain", acts: map[string]lab.RelayAct{lab.AtAuth: {Reply: "501 5.5.4 what is AUTH PLAIN AGNlcnRzAGNvcnJlY3QtaG9yc2UtYmF0dGVyeQ==?"}}, says: "501"},
		"the relay quotes it, plain": {mode: "smtps", method: "plain", acts: map[string]lab.RelayAct{lab.AtAuth: {Reply: "535 5.7.8 " + password + " is wrong"}}, says: "535"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := lab.StartRelay(t, lab.RelayScript{Cert: ca.Issue(t, nil), Implicit: test.mode == "smtps", Offers: append(test.offers, "STARTTLS"),
				Acts: test.acts, Users: map[string]string{"certs": password}})
			if test.offers == nil {
				server.Offers = append(server.Offers, "AUTH LOGIN PLAIN")
			}
			r := clientOf(server)
			r.TLSMode, r.roots, r.SkipVerify = test.mode, ca.Pool(), test.skip
			r.AuthMethod, r.AllowInsecureAuth = test.method, test.allow
			r.Username, r.Password = "certs", secrets.New([]byte(password))
			if test.user != "" {
				r.Username = test.user
			}
			if test.pass != "" {
				r.Password = secrets.New([]byte(test.pass))
			}
			s, f := Dial(lab.Patient(t), r)
			if f == nil {
				s.Close()
			}
			if (f == nil) != (test.says == "") {
				t.Fatalf("got %v", f)
			}
			if f == nil {
				return
			}
			wanted := verdict.SMTPAuth
			if name == "a challenge too many" {
				wanted = verdict.SMTPTransient
			}
			if f.Code != wanted || f.Phase != verdict.PhaseAuth || !strings.Contains(f.Reason, test.says) {
				t.Errorf("got %v, want %s with %q", f, wanted, test.says)
			}
			printed := fmt.Sprintf("%v %+v %#v %v", f, *f, f, f.Cause)
			for _, secret := range []string{password, "wrong-wrong-wrong", "AGNlcnRz", "Y29ycmVjdC1ob3JzZS1iYXR0ZXJ5", "Y3QtaG9yc2UtYmF0dGVyeQ"} {
				if strings.Contains(printed, secret) {
					t.Errorf("%s is in %s", secret, printed)
				}
			}
			if quotes := strings.HasPrefix(test.says, "not ") || strings.HasPrefix(test.says, "tls_"); quotes && slices.Contains(server.Heard(), "AUTH") {
				t.Error("AUTH was sent")
			}
			server.Idle(t)
		})
	}
}

// clientOf returns the settings for a scripted relay, in plaintext and without AUTH.
func clientOf(server *lab.ScriptedRelay) Relay {
	return Relay{Host: "127.0.0.1", Port: server.Port(), TLSMode: TLSPlaintext, HELO: "test.example"}
}
