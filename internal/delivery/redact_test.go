package delivery

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/verdict"
)

// A content filter quotes the line of the mail that it refuses.
//
// Fault: or a line of the mail. Result: classified by its code; the text is left out of
// logs, letters, ledger and pages.
func TestNoReplyQuotesTheMail(t *testing.T) {
	t.Parallel()
	server := lab.StartRelay(t, lab.RelayScript{})
	o := newFixture(t, server.Address(), RelayLimits{}, nil)
	o.mustDeliver()
	_, content, _ := strings.Cut(server.Taken()[0].Content, "\r\n\r\n")
	line := regexp.MustCompile(`(?m)^[A-Za-z0-9+/]{40,}`).FindString(content)
	if line == "" {
		t.Fatal("the mail has no base64")
	}
	answer := func(reply string) {
		server.Mu.Lock()
		defer server.Mu.Unlock()
		server.Acts = map[string]lab.RelayAct{lab.AtDot: {Reply: reply}}
	}
	for moment, reply := range map[string]string{
		"refused": "554 5.7.1 blocked because of " + line, "in pieces": "554-5.7.1 blocked because of\r\n554 5.7.1 " + line[:20], "put off": "451 4.7.1 " + line, "taken": "250 2.0.0 Ok: queued as " + line[:30],
	} {
		answer(reply)
		receipt, f := o.deliver(lab.Patient(t))
		if moment == "taken" {
			if receipt == nil || receipt.Reply != leftOut || receipt.QueueID != "" {
				t.Errorf("%s: %+v", moment, receipt)
			}
			continue
		}
		said := f.Transcript.Dialogue[len(f.Transcript.Dialogue)-1]
		if f.Reply != leftOut || strings.Contains(fmt.Sprintf("%+v %+v", f, f.Transcript), line[:shortestQuote]) || !strings.HasSuffix(said, leftOut) {
			t.Errorf("%s: %+v, and last %q", moment, f, said)
		}
	}
	answer("451 4.3.0 later")
	if steps := mustFail(t, o).Transcript.Steps; steps[0].Phase != verdict.PhaseSecrets || steps[1].Phase != verdict.PhaseRender || steps[len(steps)-1].Phase != verdict.PhaseContent {
		t.Errorf("the steps are %v", steps)
	}
}

func mustFail(t *testing.T, o *fixture) *verdict.Failure {
	t.Helper()
	_, f := o.deliver(lab.Patient(t))
	if f == nil {
		t.Fatal("the relay took the mail")
	}
	return f
}

func TestQuotes(t *testing.T) {
	t.Parallel()
	q := redactor{[]byte("body\r\nMIIBszCCAVmgAwIBAgIRAJ4\r\n"), []byte("-----BEGIN PRIVATE KEY-----\nMHcCAQEEIPq9dTzXxY3kKk3m\n"), []byte("open sesame")}
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
	if (redactor{}).in(strings.Repeat("A", 20)) {
		t.Error("nothing is quoted")
	}
}

func TestVersionOfADefinition(t *testing.T) {
	t.Parallel()
	server := lab.StartRelay(t, lab.RelayScript{Acts: map[string]lab.RelayAct{lab.AtMail: {Reply: "451 4.3.0 later"}}})
	o := newFixture(t, server.Address(), RelayLimits{}, nil)
	before := mustFail(t, o).Transcript.Definition
	if shown := o.Inspector().Targets()[0].Version; len(before) != 8 || before != shown {
		t.Errorf("the attempt names %q, the page %q", before, shown)
	}
	o.redefine(func(target *Target) {})
	if same := mustFail(t, o).Transcript.Definition; same != before {
		t.Errorf("the same definition has the names %q and %q", before, same)
	}
	o.redefine(func(target *Target) { target.To = []string{"other@example.com"} })
	if after := mustFail(t, o).Transcript.Definition; after == before || len(after) != 8 {
		t.Errorf("a changed definition has the name %q", after)
	}
}

// The version of a definition is that of its settings, wherever they are written.
func TestVersionFollowsTheSettings(t *testing.T) {
	t.Parallel()
	const target = "targets:\n  - {id: a, host: a.example.com, from_address: a@example.com, to: [b@example.com]"
	const fallback = ", fallback: [{host: b.example.com}]"
	version := func(text string) string {
		t.Helper()
		d, problems := loadRelays(t, text)
		if d == nil {
			t.Fatal(problems)
		}
		return d.version(d.targets[0])
	}
	want := version(target + ", timeout: 50s}\n")
	many := ", match: {issuers: [" + strings.Repeat(strings.Repeat("x", maxGlob)+", ", maxRow/maxGlob+1)
	for _, same := range []string{
		"relays: {default: {timeout: 50s}}\n" + target + "}\n",
		"relays: {rules: [{host: a.example.com, timeout: 50s}]}\n" + target + "}\n",
		"relays: {rules: [{host: x.example.com}, {host: '**', timeout: 50s}]}\n" + target + "}\n",
		target + ", timeout: 50s, port: 587}\n", // 587 is the default
	} {
		if got := version(same); got != want {
			t.Errorf("another version of the same settings:\n%s", same)
		}
	}
	for name, pair := range map[string][2]string{
		"a value": {target + ", timeout: 50s}\n", target + ", timeout: 51s}\n"},
		"a rule for the fallback": {
			"relays: {rules: [{host: b.example.com, port: 465}]}\n" + target + fallback + "}\n",
			"relays: {rules: [{host: b.example.com, port: 587}]}\n" + target + fallback + "}\n"},
		"the end of a long list": {
			target + many + "one]}}\n", target + many + "two]}}\n"},
	} {
		if version(pair[0]) == version(pair[1]) {
			t.Errorf("%s changes, and the version does not", name)
		}
	}
}
