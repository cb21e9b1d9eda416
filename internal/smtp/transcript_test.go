package smtp

import (
	"encoding/base64"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/verdict"
)

func phasesOf(c *verdict.Transcript) (phases []verdict.Phase) {
	for _, step := range c.Steps {
		phases = append(phases, step.Phase)
	}
	return phases
}

func TestAFailedAttemptTellsItsCourse(t *testing.T) {
	t.Parallel()
	ca := lab.NewTLSAuthority(t, "Test CA")
	server := lab.StartRelay(t, lab.RelayScript{
		Cert: ca.Issue(t, nil), Users: map[string]string{"certs": "hunter2hunter2"}, Offers: []string{"STARTTLS", "AUTH PLAIN"},
		PerRcpt: map[string]string{"gone@example.com": "550 5.1.1 no such user"},
		Acts:    map[string]lab.RelayAct{lab.AtDot: {Reply: "451-4.3.0 try\r\n451 4.3.0 later\x07"}},
	})
	r := clientOf(server)
	r.TLSMode, r.roots = "starttls", ca.Pool()
	r.AuthMethod, r.Username, r.Password = "plain", "certs", secrets.New([]byte("hunter2hunter2"))
	_, f := attempt(lab.Patient(t), r, Envelope{From: "certs@example.com", Recipients: []string{"ops@example.com", "gone@example.com"}}, someMail).Verdicts()
	if f == nil || f.Transcript == nil {
		t.Fatalf("%+v has no transcript", f)
	}
	c := f.Transcript
	want := []string{
		"S: 220 scripted.test ESMTP", "C: EHLO test.example", "S: 250 scripted.test, STARTTLS, AUTH PLAIN",
		"C: STARTTLS", "S: 220 2.0.0 go ahead", "C: EHLO test.example", "S: 250 scripted.test, AUTH PLAIN",
		"C: AUTH PLAIN (credentials)", "S: 235 2.7.0",
		"C: MAIL FROM:<certs@example.com>", "S: 250 2.1.0 sender fine", "C: RCPT TO:<ops@example.com>", "S: 250 2.1.5 recipient fine", "C: RCPT TO:<gone@example.com>", "S: 550 5.1.1 no such user",
		"C: DATA", "S: 354 go on", fmt.Sprintf("C: (the mail, %d bytes)", len(someMail)), "C: .", "S: 451 4.3.0 try, 4.3.0 later\ufffd",
	}
	if !slices.Equal(c.Dialogue, want) {
		t.Errorf("the dialogue is\n%s", strings.Join(c.Dialogue, "\n"))
	}
	phases := []verdict.Phase{verdict.PhaseConnect, verdict.PhaseBanner, verdict.PhaseEHLO, verdict.PhaseSTARTTLS, verdict.PhaseTLS, verdict.PhaseEHLO, verdict.PhaseAuth,
		verdict.PhaseMail, verdict.PhaseRcpt, verdict.PhaseClaim, verdict.PhaseData, verdict.PhaseContent}
	if !slices.Equal(phasesOf(c), phases) {
		t.Errorf("the steps are %v", phasesOf(c))
	}
	if c.Relay != r.Address() || c.Peer != r.Address() || !strings.HasPrefix(c.TLS, "TLS 1.3") || c.PeerCertificate == nil || c.Kept {
		t.Errorf("%+v", c)
	}
}

// The transcript has the relay's certificate even if it is not trusted: operators need
// it to find out why.
func TestAnUntrustedCertificateIsTold(t *testing.T) {
	t.Parallel()
	ca, other := lab.NewTLSAuthority(t, "Test CA"), lab.NewTLSAuthority(t, "Another CA")
	server := lab.StartRelay(t, lab.RelayScript{Cert: other.Issue(t, nil)})
	r := clientOf(server)
	r.TLSMode, r.roots = "starttls", ca.Pool()
	f := attempt(lab.Patient(t), r, someone, someMail).Failure
	if f == nil || f.Code != verdict.SMTPTLS || f.Transcript == nil || f.Transcript.PeerCertificate == nil || !strings.Contains(f.Transcript.PeerCertificate.Issuer, "Another CA") || f.Transcript.TLS != "" {
		t.Errorf("%+v with the transcript %+v", f, f.Transcript)
	}
}

func TestACourseOnAKeptConnectionIsItsOwn(t *testing.T) {
	t.Parallel()
	server := lab.StartRelay(t, lab.RelayScript{Acts: map[string]lab.RelayAct{lab.AtRcpt: {Reply: "450 4.2.0 later", Only: 2}}})
	s := mustDial(t, clientOf(server))
	if got := s.Send(lab.Patient(t), someone, someMail, claimed); got.receipt == nil || got.transcript != nil {
		t.Fatalf("%+v", got)
	}
	_, f := s.Send(lab.Patient(t), someone, someMail, claimed).Verdicts()
	if f == nil || f.Transcript == nil || !f.Transcript.Kept || len(f.Transcript.Dialogue) != 4 || !strings.HasPrefix(f.Transcript.Dialogue[0], "C: MAIL FROM") || f.Transcript.Dialogue[3] != "S: 450 4.2.0 later" {
		t.Errorf("%+v", f.Transcript)
	}
}

func TestACourseIsBounded(t *testing.T) {
	t.Parallel()
	env, refusals := Envelope{From: "certs@example.com"}, map[string]string{}
	for i := range 50 {
		to := fmt.Sprintf("r%d@example.com", i)
		env.Recipients = append(env.Recipients, to)
		refusals[to] = "550 5.1.1 " + strings.Repeat("x", 400)
	}
	_, f := attempt(lab.Patient(t), clientOf(lab.StartRelay(t, lab.RelayScript{PerRcpt: refusals})), env, someMail).Verdicts()
	size := 0
	for _, line := range f.Transcript.Dialogue {
		if len(line) > maxLine {
			t.Errorf("a line of %d bytes", len(line))
		}
		size += len(line)
	}
	if lines := len(f.Transcript.Dialogue); lines != maxDialogue+1 || size > 12<<10 || f.Transcript.Dialogue[headLines] != "(65 lines omitted)" {
		t.Errorf("%d lines, %d bytes, %q", lines, size, f.Transcript.Dialogue[headLines])
	}
}

// No dialogue contains credentials, for any method and any reply of the relay.
//
// Fault: a reply that quotes the login. Result: classified by its code; the text is left
// out of logs, letters, ledger and pages.
func TestNoDialogueHasCredentials(t *testing.T) {
	t.Parallel()
	const password = "hunter2hunter2"
	said := base64.StdEncoding.EncodeToString([]byte("\x00certs\x00" + password))
	for _, method := range []string{"plain", "login", "cram-md5", "scram-sha-256", "xoauth2"} {
		script := lab.RelayScript{Offers: []string{"AUTH PLAIN LOGIN CRAM-MD5 SCRAM-SHA-256 XOAUTH2"}, Users: map[string]string{"certs": "another"}}
		if method == "plain" {
			script.Acts = map[string]lab.RelayAct{lab.AtAuth: {Reply: "535 5.7.8 " + password + " or " + said}}
		}
		server := lab.StartRelay(t, script)
		r := clientOf(server)
		r.AuthMethod, r.Username, r.Password, r.AllowInsecureAuth = method, "certs", secrets.New([]byte(password)), true
		f := attempt(lab.Patient(t), r, someone, someMail).Failure
		if f == nil || f.Transcript == nil {
			t.Fatalf("%s: %+v", method, f)
		}
		text := strings.Join(f.Transcript.Dialogue, "\n")
		if !strings.Contains(text, "C: AUTH "+strings.ToUpper(method)) || strings.Contains(text, password) ||
			regexp.MustCompile(`[A-Za-z0-9+/=]{12,}`).MatchString(strings.NewReplacer("SCRAM-SHA-256", "", "(credentials)", "").Replace(text)) {
			t.Errorf("%s:\n%s", method, text)
		}
	}
}
