package delivery

import (
	"encoding/base64"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/verdict"
)

func phasesOf(c *verdict.Course) (phases []verdict.Phase) {
	for _, step := range c.Steps {
		phases = append(phases, step.Phase)
	}
	return phases
}

func TestAFailedAttemptTellsItsCourse(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "Test CA")
	server := startRelay(t, relayScript{
		cert: ca.issue(t, nil), users: map[string]string{"certs": "hunter2hunter2"}, offers: []string{"STARTTLS", "AUTH PLAIN"},
		perRcpt: map[string]string{"gone@example.com": "550 5.1.1 no such user"},
		acts:    map[string]act{atDot: {reply: "451-4.3.0 try\r\n451 4.3.0 later\x07"}},
	})
	r := server.client()
	r.tlsMode, r.roots = "starttls", ca.pool()
	r.authMethod, r.username, r.password = "plain", "certs", secrets.New([]byte("hunter2hunter2"))
	_, f := attempt(patient(t), r, envelope{from: "certs@example.com", recipients: []string{"ops@example.com", "gone@example.com"}}, someMail).verdicts()
	if f == nil || f.Course == nil {
		t.Fatalf("%+v has no course", f)
	}
	c := f.Course
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
	if c.Relay != r.address() || c.Peer != r.address() || !strings.HasPrefix(c.TLS, "TLS 1.3") || c.PeerCertificate == nil || c.Kept {
		t.Errorf("%+v", c)
	}
}

// What a relay showed is told although it was not trusted: that is what somebody
// wants to see who wonders why.
func TestAnUntrustedCertificateIsTold(t *testing.T) {
	t.Parallel()
	ca, other := newAuthority(t, "Test CA"), newAuthority(t, "Another CA")
	server := startRelay(t, relayScript{cert: other.issue(t, nil)})
	r := server.client()
	r.tlsMode, r.roots = "starttls", ca.pool()
	f := attempt(patient(t), r, someone, someMail).failure
	if f == nil || f.Code != verdict.SMTPTLS || f.Course == nil || f.Course.PeerCertificate == nil || !strings.Contains(f.Course.PeerCertificate.Issuer, "Another CA") || f.Course.TLS != "" {
		t.Errorf("%+v with the course %+v", f, f.Course)
	}
}

func TestACourseOnAKeptConnectionIsItsOwn(t *testing.T) {
	t.Parallel()
	server := startRelay(t, relayScript{acts: map[string]act{atRcpt: {reply: "450 4.2.0 later", only: 2}}})
	s := mustDial(t, server.client())
	if got := s.send(patient(t), someone, someMail, claimed); got.receipt == nil || got.course != nil {
		t.Fatalf("%+v", got)
	}
	_, f := s.send(patient(t), someone, someMail, claimed).verdicts()
	if f == nil || f.Course == nil || !f.Course.Kept || len(f.Course.Dialogue) != 4 || !strings.HasPrefix(f.Course.Dialogue[0], "C: MAIL FROM") || f.Course.Dialogue[3] != "S: 450 4.2.0 later" {
		t.Errorf("%+v", f.Course)
	}
}

func TestACourseIsBounded(t *testing.T) {
	t.Parallel()
	env, refusals := envelope{from: "certs@example.com"}, map[string]string{}
	for i := range 50 {
		to := fmt.Sprintf("r%d@example.com", i)
		env.recipients = append(env.recipients, to)
		refusals[to] = "550 5.1.1 " + strings.Repeat("x", 400)
	}
	_, f := attempt(patient(t), startRelay(t, relayScript{perRcpt: refusals}).client(), env, someMail).verdicts()
	size := 0
	for _, line := range f.Course.Dialogue {
		if len(line) > maxSpoken {
			t.Errorf("a line of %d bytes", len(line))
		}
		size += len(line)
	}
	if lines := len(f.Course.Dialogue); lines != maxDialogue+1 || size > 12<<10 || f.Course.Dialogue[firstOfTalk] != "(65 lines are left out)" {
		t.Errorf("%d lines, %d bytes, %q", lines, size, f.Course.Dialogue[firstOfTalk])
	}
}

// Credentials are in no dialogue, whatever the method and whatever the relay makes of
// them.
func TestNoDialogueHasCredentials(t *testing.T) {
	t.Parallel()
	const password = "hunter2hunter2"
	said := base64.StdEncoding.EncodeToString([]byte("\x00certs\x00" + password))
	for _, method := range []string{"plain", "login", "cram-md5", "scram-sha-256", "xoauth2"} {
		script := relayScript{offers: []string{"AUTH PLAIN LOGIN CRAM-MD5 SCRAM-SHA-256 XOAUTH2"}, users: map[string]string{"certs": "another"}}
		if method == "plain" {
			script.acts = map[string]act{atAuth: {reply: "535 5.7.8 " + password + " or " + said}}
		}
		server := startRelay(t, script)
		r := server.client()
		r.authMethod, r.username, r.password, r.allowInsecureAuth = method, "certs", secrets.New([]byte(password)), true
		f := attempt(patient(t), r, someone, someMail).failure
		if f == nil || f.Course == nil {
			t.Fatalf("%s: %+v", method, f)
		}
		text := strings.Join(f.Course.Dialogue, "\n")
		if !strings.Contains(text, "C: AUTH "+strings.ToUpper(method)) || strings.Contains(text, password) ||
			regexp.MustCompile(`[A-Za-z0-9+/=]{12,}`).MatchString(strings.NewReplacer("SCRAM-SHA-256", "", "(credentials)", "").Replace(text)) {
			t.Errorf("%s:\n%s", method, text)
		}
	}
}

// A content filter quotes the line of the mail that it objects to.
func TestNoReplyQuotesTheMail(t *testing.T) {
	t.Parallel()
	server := startRelay(t, relayScript{})
	o := newOffice(t, server.client(), RelayLimits{}, nil)
	o.mustDeliver()
	_, content, _ := strings.Cut(server.taken()[0].content, "\r\n\r\n")
	line := regexp.MustCompile(`(?m)^[A-Za-z0-9+/]{40,}`).FindString(content)
	if line == "" {
		t.Fatal("the mail has no base64")
	}
	answer := func(reply string) {
		server.mu.Lock()
		defer server.mu.Unlock()
		server.acts = map[string]act{atDot: {reply: reply}}
	}
	for moment, reply := range map[string]string{
		"refused": "554 5.7.1 blocked because of " + line, "in pieces": "554-5.7.1 blocked because of\r\n554 5.7.1 " + line[:20], "put off": "451 4.7.1 " + line, "taken": "250 2.0.0 Ok: queued as " + line[:30],
	} {
		answer(reply)
		receipt, f := o.deliver(patient(t))
		if moment == "taken" {
			if receipt == nil || receipt.Reply != leftOut || receipt.QueueID != "" {
				t.Errorf("%s: %+v", moment, receipt)
			}
			continue
		}
		said := f.Course.Dialogue[len(f.Course.Dialogue)-1]
		if f.Reply != leftOut || strings.Contains(fmt.Sprintf("%+v %+v", f, f.Course), line[:shortestQuote]) || !strings.HasSuffix(said, leftOut) {
			t.Errorf("%s: %+v, and last %q", moment, f, said)
		}
	}
	answer("451 4.3.0 later")
	if phases := phasesOf(mustFail(t, o).Course); phases[0] != verdict.PhaseSecrets || phases[1] != verdict.PhaseRender || phases[len(phases)-1] != verdict.PhaseContent {
		t.Errorf("the steps are %v", phases)
	}
}

func mustFail(t *testing.T, o *office) *verdict.Failure {
	t.Helper()
	_, f := o.deliver(patient(t))
	if f == nil {
		t.Fatal("the relay took the mail")
	}
	return f
}

func TestQuotes(t *testing.T) {
	t.Parallel()
	q := quotable{[]byte("body\r\nMIIBszCCAVmgAwIBAgIRAJ4\r\n"), []byte("-----BEGIN PRIVATE KEY-----\nMHcCAQEEIPq9dTzXxY3kKk3m\n"), []byte("open sesame")}
	for text, want := range map[string]bool{
		"":                                   false,
		"2.0.0 Ok: queued as 4Tz9QX2hN1z":    false,
		"bad line MIIBszCCAVmgAwIBAgIRAJ4":   true,
		"bad line zCCAVmgAwIBAgIRA, that is": true,
		"bad line zCCAVmgAwIBAgIR":           false, // fifteen
		"IPq9dTzXxY3kKk3m":                   true,
		"the file opens with open sesame!":   true,
		strings.Repeat("A", 400):             false,
	} {
		if got := q.in(text); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
	if (quotable{}).in(strings.Repeat("A", 20)) {
		t.Error("nothing is quoted")
	}
}

func TestVersionOfADefinition(t *testing.T) {
	t.Parallel()
	server := startRelay(t, relayScript{acts: map[string]act{atMail: {reply: "451 4.3.0 later"}}})
	o := newOffice(t, server.client(), RelayLimits{}, nil)
	before := mustFail(t, o).Course.Definition
	if shown := o.Inspector().Targets()[0].Version; len(before) != 8 || before != shown {
		t.Errorf("the attempt names %q, the page %q", before, shown)
	}
	o.redefine(func(target *Target) {})
	if same := mustFail(t, o).Course.Definition; same != before {
		t.Errorf("the same definition has the names %q and %q", before, same)
	}
	o.redefine(func(target *Target) { target.To = []string{"somebody-else@example.com"} })
	if after := mustFail(t, o).Course.Definition; after == before || len(after) != 8 {
		t.Errorf("a changed definition has the name %q", after)
	}
}
