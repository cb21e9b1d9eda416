package smtp

import (
	"fmt"
	"net/textproto"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/verdict"
)

// TestPhasesOnThePage keeps docs/codes.md equal to the table.
func TestPhasesOnThePage(t *testing.T) {
	t.Parallel()
	lab.Document(t, "docs/codes.md", map[string]string{"phases": phasesAsMarkdown()})
}

func phasesAsMarkdown() string {
	var b strings.Builder
	b.WriteString("| phase | " + strings.Join(kindNames[:], " | ") + " |\n|---" + strings.Repeat("|---", int(kindCount)) + "|\n")
	for _, row := range phaseTable {
		name := string(row.phase)
		if row.dot {
			name = "reply to the final dot"
		}
		fmt.Fprintf(&b, "| %s (%s)", name, row.timeout)
		for _, ruling := range row.rulings {
			cell := string(ruling.code)
			if ruling.limit {
				cell += ", limit_pause"
			} else if ruling.relay {
				cell += ", breaker"
			}
			if ruling.maybe {
				cell += ", unknown"
			}
			b.WriteString(" | " + cell)
		}
		b.WriteString(" |\n")
	}
	return b.String()
}

// Every phase has a ruling for every kind that can happen in it.
//
// Fault: hangs in any phase. Result: retried before the final dot; unknown after it.
func TestThePhaseTableIsComplete(t *testing.T) {
	t.Parallel()
	for _, row := range phaseTable {
		if row.timeout <= 0 {
			t.Errorf("%s has no time limit", row.phase)
		}
		speaks := row.phase != verdict.PhaseConnect && row.phase != verdict.PhaseTLS
		for k := range kindCount {
			needed := k == dropped || k == hung || k == stopped ||
				speaks && (k == replied4 || k == replied421 || k == replied5 || k == repliedSyntax || k == limited || k == garbled) ||
				k == tooMany && row.phase == verdict.PhaseRcpt || k == untrusted && (row.phase == verdict.PhaseTLS || row.phase == verdict.PhaseAuth)
			if ruling := row.rulings[k]; needed && ruling.code == "" {
				t.Errorf("%s has no ruling for %s", row.phase, kindNames[k])
			} else if ruling.maybe != (row.dot && ruling.code != "" && (k == dropped || k == hung || k == garbled || k == untrusted || k == stopped)) {
				t.Errorf("%s with %s: the outcome is unknown if, and only if, the reply to the final dot is missing", row.phase, kindNames[k])
			} else if ruling.relay && !ruling.code.Retried() {
				t.Errorf("%s with %s: a permanent verdict counts for the breaker", row.phase, kindNames[k])
			}
		}
		if _, known := phaseNames[row.phase]; !known && row.phase != verdict.PhaseConnect {
			t.Errorf("phaseNames has no name for %s", row.phase)
		}
	}
}

// A case without a ruling in the table is retried.
func TestTheUnknownIsRetried(t *testing.T) {
	t.Parallel()
	f := fault{phase: verdict.PhaseConnect, relay: "relay.test:25", err: &textproto.Error{Code: 554, Msg: "?"}}.Failure()
	if !f.Retry() || f.Certainty != verdict.NotSent {
		t.Errorf("got %+v", f)
	}
}

func TestReplyTextsAreCleaned(t *testing.T) {
	t.Parallel()
	hostile := "5.7.1 no\r\nX-Evil: yes\n\x00\x1b[31m\u202e" + strings.Repeat("long ", 500)
	f := fault{phase: verdict.PhaseMail, relay: "relay.test:25", err: &textproto.Error{Code: 550, Msg: hostile}}.Failure()
	if len(f.Reply) > maxReplyText || strings.ContainsAny(f.Reply, "\r\n\x00\x1b\u202e") || f.EnhancedCode != "5.7.1" {
		t.Errorf("%d bytes, %q, %q", len(f.Reply), f.EnhancedCode, f.Reply)
	}
	if strings.Contains(f.Reason, "Evil") {
		t.Errorf("the reason quotes the relay: %q", f.Reason)
	}
}

func TestEchoedCredentialsAreFound(t *testing.T) {
	t.Parallel()
	reply := func(text string) error { return &textproto.Error{Code: 501, Msg: text} }
	const password = "correct horse battery"
	spoken := []string{password, "AGNlcnRzAGNvcnJlY3QgaG9yc2UgYmF0dGVyeQ=="}
	for text, want := range map[string]bool{
		"5.5.4 AUTH PLAIN AGNlcnRzAGNvcnJlY3QgaG9yc2UgYmF0dGVyeQ== is malformed": true,
		"5.5.4 \"Y3QgaG9yc2UgYmF0dGVyeQ\"":                                       true,
		"the password correct horse battery is wrong":                            true,
		"AUTH PLAIN AGNlcnRzAGNvcnJl... is too long":                             true,
		"5.7.8 authentication failed":                                            false,
		"":                                                                       false,
	} {
		if got := echoes(reply(text), spoken); got != want {
			t.Errorf("echoes(%q) = %v", text, got)
		}
	}
	if !echoes(reply("your pw is pw"), []string{"pw", ""}) || echoes(reply("no"), []string{"pw"}) || echoes(errNoReset, spoken) {
		t.Error("a password shorter than eight characters has to match as a whole")
	}
}

func TestReasonsReadWell(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		fault fault
		want  string
	}{
		{fault{phase: verdict.PhaseRcpt, err: &textproto.Error{Code: 550, Msg: "5.1.1 nobody"}},
			"mx.test:25 answered 550 5.1.1 to RCPT TO; the relay's reply has the cause; remove the cause, then replay"},
		{fault{phase: verdict.PhaseBanner, err: &textproto.Error{Code: 421, Msg: "busy"}},
			"mx.test:25 answered 421 to the connection; Certpost retries"},
		{fault{phase: verdict.PhaseContent, dot: true, err: os.ErrDeadlineExceeded, waited: 30 * time.Second},
			"mx.test:25 did not answer the final dot (end of the mail) within 30s; it is unknown whether the relay accepted the mail"},
		{fault{phase: verdict.PhaseEHLO, err: errLongReply},
			"mx.test:25 answered EHLO with more than 100 lines; Certpost retries; if it keeps failing, check host, port and firewall"},
		{fault{phase: verdict.PhaseAuth, err: &textproto.Error{Code: 535, Msg: "5.7.8 no"}},
			"mx.test:25 answered 535 5.7.8 to AUTH; check username, password and auth_method, then replay"},
		{fault{phase: verdict.PhaseMail, err: &textproto.Error{Code: 550, Msg: "5.4.5 Daily user sending limit exceeded"}},
			"mx.test:25 answered 550 5.4.5 to MAIL FROM; this is a limit of the relay itself: Certpost pauses the relay for limit_pause and retries, without counting an attempt"},
	} {
		test.fault.relay = "mx.test:25"
		if got := test.fault.Failure().Reason; got != test.want {
			t.Errorf("%s\nwant %s", got, test.want)
		}
	}
}
