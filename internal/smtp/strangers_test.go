package smtp

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/devrelay"
	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/verdict"
)

// at returns the settings for a server that was not written for these tests.
func at(t testing.TB, address, mode string) Relay {
	t.Helper()
	host, port := lab.HostPort(t, address)
	return Relay{Host: host, Port: port, TLSMode: mode}
}

// Fault: a line with only a dot. Result: encoded and stuffed.
func TestDevrelayTakesOurMail(t *testing.T) {
	t.Parallel()
	server, err := devrelay.Start(devrelay.Config{
		Users: map[string]string{"certs": "hunter2hunter2"},
		Rules: []devrelay.Rule{{Stage: devrelay.StageRcpt, Recipient: "gone@*", Code: 550, Enhanced: "5.1.1", Text: "nobody"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Close() }()
	for i, how := range []struct{ address, mode, method string }{
		{server.Submission(), "starttls", "plain"}, {server.Submission(), "opportunistic", "login"},
		{server.SMTPS(), "smtps", "login"}, {server.SMTPS(), "smtps", "plain"},
	} {
		r := at(t, how.address, how.mode)
		r.roots, r.AuthMethod, r.Username, r.Password = server.CertPool(), how.method, "certs", secrets.New([]byte("hunter2hunter2"))
		env := Envelope{From: "certs@example.com", Recipients: []string{"gone@example.com", "ops@example.com"}}
		receipt, f := attempt(lab.Patient(t), r, env, someMail).Verdicts()
		if receipt == nil || !slices.Equal(receipt.Recipients, []string{"ops@example.com"}) || receipt.QueueID == "" {
			t.Fatalf("%+v: %+v, %v", how, receipt, f)
		}
		if f == nil || f.ReplyCode != 550 || f.EnhancedCode != "5.1.1" || !slices.Equal(f.Recipients, []string{"gone@example.com"}) {
			t.Errorf("%+v: the recipient refused: %+v", how, f)
		}
		mails := server.Mails()
		if len(mails) != i+1 || string(mails[i].Raw) != string(someMail) || !mails[i].TLS || mails[i].User != "certs" {
			t.Errorf("%+v: the relay holds %+v", how, mails)
		}
	}
}

// Postfix is the relay that most mails go to.
//
// Fault: from an unknown CA. Result: dead (SMTP_TLS).
func TestPostfixTakesOurMail(t *testing.T) {
	t.Parallel()
	const user, password = "ops@lab.test", "correct-horse-battery"
	server := lab.Postfix(t, lab.MailOptions{
		Users: map[string]string{user: password},
		Main:  map[string]string{"message_size_limit": "20000", "smtpd_recipient_limit": "2"},
	})
	authenticated := func(address, mode, method string) Relay {
		r := at(t, address, mode)
		r.roots, r.AuthMethod, r.Username, r.Password = server.CA.Pool, method, user, secrets.New([]byte(password))
		return r
	}
	ours := Envelope{From: "certs@lab.test", Recipients: []string{user}}
	for _, r := range []Relay{
		authenticated(server.Submission, "starttls", "plain"),
		authenticated(server.Submission, "starttls", "login"),
		authenticated(server.SMTPS, "smtps", "plain"),
		{Host: "127.0.0.1", Port: at(t, server.SMTP, "").Port, TLSMode: "opportunistic", roots: server.CA.Pool},
		at(t, server.SMTP, "plaintext"),
	} {
		receipt, f := attempt(lab.Patient(t), r, ours, someMail).Verdicts()
		if f != nil {
			t.Fatalf("%s with %s: %v", r.TLSMode, r.AuthMethod, f)
		}
		if receipt.QueueID == "" {
			t.Fatalf("%s with %s: no queue id", r.TLSMode, r.AuthMethod)
		}
		// Postfix's programs hand their lines to postlogd, which writes them when it gets to it.
		lab.Eventually(t, "queue id "+receipt.QueueID+" in Postfix's log", func() bool {
			log, err := os.ReadFile(server.Log)
			return err == nil && strings.Contains(string(log), receipt.QueueID+": ")
		})
	}
	for _, stored := range server.Fetch(t, user, lab.AtLeast(5)) {
		if !strings.HasSuffix(string(stored), "\r\n\r\n.a dot\r\nlast line\r\n") {
			t.Errorf("Dovecot stored %q", stored)
		}
	}

	big := []byte("Subject: big\r\n\r\n" + strings.Repeat(strings.Repeat("x", 70)+"\r\n", 400))
	wrong := authenticated(server.Submission, "starttls", "plain")
	wrong.Password = secrets.New([]byte("wrong-wrong"))
	stranger := authenticated(server.SMTPS, "smtps", "plain")
	stranger.roots = nil
	for name, test := range map[string]struct {
		r     Relay
		env   Envelope
		raw   []byte
		code  verdict.Code
		phase verdict.Phase
		reply int
		taken []string
	}{
		"wrong password":            {wrong, ours, someMail, verdict.SMTPAuth, verdict.PhaseAuth, 535, nil},
		"opportunistic, unknown CA": {at(t, server.SMTP, "opportunistic"), ours, someMail, verdict.SMTPTLS, verdict.PhaseTLS, 0, nil},
		"relaying":                  {at(t, server.SMTP, "plaintext"), Envelope{From: "a@lab.test", Recipients: []string{"b@elsewhere.test"}}, someMail, verdict.SMTPPermanent, verdict.PhaseRcpt, 554, nil},
		"unknown CA":                {stranger, ours, someMail, verdict.SMTPTLS, verdict.PhaseTLS, 0, nil},
		"too large":                 {authenticated(server.SMTPS, "smtps", "plain"), ours, big, verdict.SMTPPermanent, verdict.PhaseMail, 0, nil},
		"one unknown":               {authenticated(server.SMTPS, "smtps", "plain"), Envelope{From: "a@lab.test", Recipients: []string{"nobody@lab.test", user}}, someMail, verdict.SMTPPermanent, verdict.PhaseRcpt, 550, []string{user}},
		"TLS where none is":         {authenticated(server.Submission, "smtps", "plain"), ours, someMail, verdict.SMTPTLS, verdict.PhaseTLS, 0, nil},
		"too many recipients":       {authenticated(server.SMTPS, "smtps", "plain"), Envelope{From: "a@lab.test", Recipients: []string{user, "OPS@lab.test", "Ops@lab.test"}}, someMail, verdict.SMTPTransient, verdict.PhaseRcpt, 452, []string{user, "OPS@lab.test"}},
	} {
		receipt, f := attempt(lab.Patient(t), test.r, test.env, test.raw).Verdicts()
		var taken []string
		if receipt != nil {
			taken = receipt.Recipients
		}
		if f == nil || f.Code != test.code || f.Phase != test.phase || f.ReplyCode != test.reply || !slices.Equal(taken, test.taken) {
			t.Errorf("%s: taken by %v, %+v", name, taken, f)
		}
	}
}

// The methods that do not send the password, with the most common relay.
//
// Fault: AUTH with a real server: PLAIN; LOGIN; CRAM-MD5; SCRAM-SHA-256. Result: logged in;
// a wrong password or token is SMTP_AUTH.
func TestPostfixWithDovecotLogsUsIn(t *testing.T) {
	t.Parallel()
	const user, password = "ops@lab.test", "correct horse, battery=staple"
	long := strings.Repeat("a-password-that-a-program-made.", 30)
	const robot = "robot@lab.test"
	server := lab.Postfix(t, lab.MailOptions{Users: map[string]string{user: password, robot: long}, Mechanisms: "plain login cram-md5 scram-sha-256"})
	for _, method := range []string{AuthPlain, AuthLogin} {
		r := at(t, server.SMTPS, "smtps")
		r.roots, r.AuthMethod, r.Username, r.Password = server.CA.Pool, method, robot, secrets.New([]byte(long))
		if s, f := Dial(lab.Patient(t), r); f != nil {
			t.Errorf("%s with a long password: %v", method, f)
		} else {
			s.quit()
		}
	}
	for n, method := range []string{AuthCRAMMD5, AuthSCRAMSHA256, AuthPlain, AuthLogin} {
		r := at(t, []string{server.Submission, server.SMTPS}[n%2], []string{"starttls", "smtps"}[n%2])
		r.roots, r.AuthMethod, r.Username, r.Password = server.CA.Pool, method, user, secrets.New([]byte(password))
		s, f := Dial(lab.Patient(t), r)
		if f != nil {
			t.Fatalf("%s: %v", method, f)
		}
		if !s.offers.has("PIPELINING") {
			t.Error("Postfix does not offer PIPELINING")
		}
		for range 2 {
			if _, f := s.Send(lab.Patient(t), Envelope{From: "certs@lab.test", Recipients: []string{user}}, someMail, claimed).Verdicts(); f != nil {
				t.Errorf("%s: %v", method, f)
			}
		}
		s.quit()
	}
	// Only two: Dovecot delays its answers after wrong passwords.
	for _, method := range []string{AuthCRAMMD5, AuthSCRAMSHA256} {
		r := at(t, server.SMTPS, "smtps")
		r.roots, r.AuthMethod, r.Username, r.Password = server.CA.Pool, method, user, secrets.New([]byte("wrong-wrong"))
		if s, f := Dial(lab.Patient(t), r); f == nil || f.Code != verdict.SMTPAuth || f.ReplyCode != 535 {
			t.Errorf("%s with a wrong password: %v, %v", method, s, f)
		}
	}
	server.Fetch(t, user, lab.AtLeast(8))
}

// Dovecot asks the issuer about each token, and the issuer's answer decides.
//
// Fault: XOAUTH2. Result: logged in; a wrong password or token is SMTP_AUTH.
// Fault: a token or password that makes the AUTH command longer than 512 octets. Result: no
// initial response: it follows the relay's 334 (RFC 4954 section 4).
func TestPostfixWithDovecotTakesTokens(t *testing.T) {
	t.Parallel()
	const user = "ops@lab.test"
	token := "ya29.a0-token/with+all=kinds~of_letters" + strings.Repeat("-and_2,500~octets", 147)
	var asked atomic.Int32
	issuer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		w.Header().Set("Content-Type", "application/json")
		if r.FormValue("token") == token {
			fmt.Fprintf(w, `{"active": true, "username": %q}`, user)
		} else {
			fmt.Fprint(w, `{"active": false}`)
		}
	}))
	t.Cleanup(issuer.Close)
	server := lab.Postfix(t, lab.MailOptions{Users: map[string]string{user: "correct-horse-battery"}, Mechanisms: "plain xoauth2", Introspection: issuer.URL})
	r := at(t, server.Submission, "starttls")
	r.roots, r.AuthMethod, r.Username, r.Password = server.CA.Pool, AuthXOAUTH2, user, secrets.New([]byte(token))
	if receipt, f := attempt(lab.Patient(t), r, Envelope{From: "certs@lab.test", Recipients: []string{user}}, someMail).Verdicts(); f != nil || receipt.QueueID == "" {
		t.Fatalf("%+v, %v", receipt, f)
	}
	server.Fetch(t, user, lab.AtLeast(1))
	r.Password = secrets.New([]byte("expired-token"))
	if s, f := Dial(lab.Patient(t), r); f == nil || f.Code != verdict.SMTPAuth || f.ReplyCode != 535 || f.Phase != verdict.PhaseAuth {
		t.Errorf("an expired token: %v, %+v", s, f)
	}
	if asked.Load() < 2 {
		t.Errorf("Dovecot asked %d times about two tokens", asked.Load())
	}
}

// smtp-sink is Postfix's test server, which can produce faults.
//
// Fault: 5yz to banner or EHLO. Result: dead (SMTP_PERMANENT).
// Fault: accepts the mail, then drops the connection or hangs before its reply. Result:
// unknown.
func TestSMTPSinkFailsUs(t *testing.T) {
	t.Parallel()
	sink := lab.Need(t, "smtp-sink")
	for name, test := range map[string]struct {
		flags     []string
		code      verdict.Code
		phase     verdict.Phase
		certainty verdict.Certainty
	}{
		"friendly":          {nil, "", "", ""},
		"no ESMTP":          {[]string{"-e"}, "", "", ""},
		"soft at MAIL":      {[]string{"-r", "MAIL"}, verdict.SMTPTransient, verdict.PhaseMail, verdict.NotSent},
		"soft at the dot":   {[]string{"-r", "."}, verdict.SMTPTransient, verdict.PhaseContent, verdict.NotSent},
		"hard at EHLO":      {[]string{"-B", "550 5.7.1 no", "-f", "EHLO"}, verdict.SMTPPermanent, verdict.PhaseEHLO, verdict.NotSent},
		"hard at RCPT":      {[]string{"-B", "550 5.1.1 no", "-f", "RCPT"}, verdict.SMTPPermanent, verdict.PhaseRcpt, verdict.NotSent},
		"syntax at DATA":    {[]string{"-f", "DATA"}, verdict.SMTPValidation, verdict.PhaseData, verdict.NotSent},
		"drop at CONNECT":   {[]string{"-q", "CONNECT"}, verdict.SMTPConnect, verdict.PhaseBanner, verdict.NotSent},
		"drop at RCPT":      {[]string{"-q", "RCPT"}, verdict.SMTPTransient, verdict.PhaseRcpt, verdict.NotSent},
		"drop at the dot":   {[]string{"-q", "."}, verdict.SMTPTransient, verdict.PhaseContent, verdict.MaybeSent},
		"drop at QUIT":      {[]string{"-q", "QUIT"}, "", "", ""},
		"421 at CONNECT":    {[]string{"-Q", "CONNECT"}, verdict.SMTPTransient, verdict.PhaseBanner, verdict.NotSent},
		"421 at the dot":    {[]string{"-Q", "."}, verdict.SMTPTransient, verdict.PhaseContent, verdict.NotSent},
		"550 instead of it": {[]string{"-A", "0"}, verdict.SMTPPermanent, verdict.PhaseContent, verdict.NotSent},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			address := listener.Addr().String()
			_ = listener.Close()
			command := exec.CommandContext(t.Context(), sink, append(test.flags, address, "10")...)
			if os.Getuid() == 0 {
				command.Args = slices.Insert(command.Args, 1, "-u", "nobody")
			}
			command.WaitDelay = time.Second
			if err := command.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = command.Wait() })
			lab.Eventually(t, "smtp-sink to listen", func() bool {
				conn, err := net.Dial("tcp", address)
				if err == nil {
					_ = conn.Close()
				}
				return err == nil
			})
			_, f := attempt(lab.Patient(t), at(t, address, "plaintext"), someone, someMail).Verdicts()
			if test.code == "" {
				if f != nil {
					t.Fatal(f)
				}
				return
			}
			if f == nil || f.Code != test.code || f.Phase != test.phase || f.Certainty != test.certainty {
				t.Errorf("got %+v", f)
			}
		})
	}
}
