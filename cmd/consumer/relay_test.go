package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/config"
	"github.com/certpost/certpost/internal/lab"
)

// demoRelay is a running `certpost relay` with its addresses.
type demoRelay struct{ smtp, submission, smtps, inbox string }

// startDemoRelay runs `certpost relay` in this process, on free ports.
func startDemoRelay(t *testing.T, file string, args ...string) demoRelay {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	var stdout, stderr writings
	ended := make(chan int, 1)
	args = append([]string{"--config", file, "relay", "--smtp=127.0.0.1:0", "--submission=127.0.0.1:0", "--smtps=127.0.0.1:0", "--inbox=127.0.0.1:0"}, args...)
	go func() { ended <- execute(ctx, args, nil, &stdout, &stderr) }()
	t.Cleanup(func() {
		stop()
		if code := <-ended; code != exitDone {
			t.Errorf("certpost relay ended with %d: %s", code, &stderr)
		}
	})
	lines := regexp.MustCompile(`^SMTP +(\S+)\nSubmission +(\S+)\nSMTPS +(.+)\nInbox +(\S+)\n$`)
	var found []string
	for end := time.Now().Add(time.Minute); found == nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) || len(ended) > 0 {
			t.Fatalf("certpost relay prints %q, %q", &stdout, &stderr)
		}
		found = lines.FindStringSubmatch(stdout.String())
	}
	return demoRelay{found[1], found[2], found[3], found[4]}
}

// A relay from the configuration, and a target that sends to it.
func TestRelayCommand(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(in(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("password", "hunter2-hunter2\n")
	write("relay.yaml", fmt.Sprintf(`demo_relay:
  own_ca_file: %q
  users: [{name: certs, password: {file: %q}}]
  store: %q
  store_format: maildir
  faults:
    - {recipient: "full@*", code: 452, enhanced_code: 4.2.2, text: Mailbox full}
    - {stage: data, recipient: "lost@*", disconnect: true, times: 1}
`, in("ca.pem"), in("password"), in("mails")))
	relay := startDemoRelay(t, in("relay.yaml"))
	var targets strings.Builder
	for id, at := range map[string][2]string{
		"submission": {relay.submission, "starttls"}, "smtps": {relay.smtps, "smtps"}, "smtp": {relay.smtp, "opportunistic"},
		"full": {relay.submission, "starttls"}, "lost": {relay.submission, "starttls"},
	} {
		_, port, _ := net.SplitHostPort(at[0])
		fmt.Fprintf(&targets, `  - {id: %[1]s, host: localhost, port: %[2]s, tls_mode: %[3]s, ca_file: %[4]q, username: certs, password: {file: %[5]q}, from_address: certs@example.com, to: ["%[1]s@example.com"]}
`, id, port, at[1], in("ca.pem"), in("password"))
	}
	write("certpost.yaml", "targets:\n"+targets.String())
	for id, says := range map[string]string{
		"submission": "", "smtps": "", "smtp": "", "full": "answered 452 4.2.2 to RCPT TO", "lost": "SMTP_TRANSIENT",
	} {
		got := command(t, nil, "--config", in("certpost.yaml"), "send-test", "--target", id)
		if says == "" {
			if got.code != exitDone || !strings.Contains(got.stdout, "accepted the test mail") {
				t.Errorf("%s: %+v", id, got)
			}
		} else if got.code != exitFailed || !strings.Contains(got.stderr, says) {
			t.Errorf("%s: %+v, want %q", id, got, says)
		}
	}
	inbox := page(t, relay.inbox)
	for _, id := range []string{"submission", "smtps", "smtp", "lost"} { // lost was accepted before its connection ended
		if !strings.Contains(inbox, id+"@example.com") {
			t.Errorf("no mail to %s in the inbox", id)
		}
	}
	stored, err := os.ReadDir(filepath.Join(in("mails"), "new"))
	if err != nil || len(stored) != 4 || strings.Contains(inbox, "full@example.com") {
		t.Errorf("%d mails are stored, %v", len(stored), err)
	}
}

// Without a certificate there is no TLS, and AUTH only if that is allowed.
func TestRelayCommandWithoutACertificate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	password := filepath.Join(dir, "password")
	if err := os.WriteFile(password, []byte("hunter2-hunter2"), 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "empty.yaml")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	relay := startDemoRelay(t, file, "--user=certs=file:"+password, "--allow-unsecure-authentication")
	if relay.smtps != "not opened: there is no certificate" {
		t.Errorf("SMTPS at %s", relay.smtps)
	}
	cert, key := lab.NewCA(t, dir).Issue(t, "localhost")
	if relay := startDemoRelay(t, file, "--cert", cert, "--key", key); strings.Contains(relay.smtps, "not opened") {
		t.Error("no SMTPS with a certificate")
	}
}

func TestRelayCommandIsChecked(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "certpost.yaml")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for says, args := range map[string][]string{
		"demo_relay.smtp: want an address":              {"--smtp=25"},
		"demo_relay.key_file: has no certificate":       {"--key=key.pem"},
		`demo_relay.store_format: want eml or maildir`:  {"--store=x", "--store-format=mbox"},
		"--fault \"a=12\": want":                        {"--fault=a=12"},
		"code 452 with 5.2.2; the enhanced code begins": {"--fault=a=452 5.2.2 no"},
		"code 499, which is no SMTP reply":              {"--fault=a=499 no"},
		"is no enhanced code: want one like 4.2.2":      {"--fault=a=452 4.2 no"},
		"--user: want NAME=REF":                         {"--user=certs"},
		"can't be used together":                        {"--cert=a", "--own-ca=b"},
		"demo_relay.max_message_bytes: want 1024":       {"--max-message-bytes=10"},
	} {
		got := command(t, nil, append([]string{"--config", file, "relay"}, args...)...)
		if got.code != exitUsage || !strings.Contains(got.stderr, says) {
			t.Errorf("%v: %+v, want %q", args, got, says)
		}
	}
}

func TestFaultFlags(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]DemoRelayFault{
		"full@*=452 4.2.2 Mailbox full": {Stage: "rcpt", Recipient: "full@*", Code: 452, EnhancedCode: "4.2.2", Text: "Mailbox full"},
		"mail:spam@*=550 no = no":       {Stage: "mail", Sender: "spam@*", Code: 550, Text: "no = no"},
		"data:lost@*=disconnect":        {Stage: "data", Recipient: "lost@*", Disconnect: true},
		"rcpt:*=421":                    {Stage: "rcpt", Recipient: "*", Code: 421},
	} {
		if got, err := parseFault(text); err != nil || got != want {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "full@*", "full@*=", "full@*=250 ok", "helo:x=250 no", "full@*=disconnected", "full@*=452 4.2 full", "full@*=452 9.9.9.9", "full@*=4522 x"} {
		if got, err := parseFault(text); err == nil {
			t.Errorf("%q: %+v", text, got)
		}
	}
}

func TestDemoRelaySection(t *testing.T) {
	t.Parallel()
	for says, lines := range map[string]string{
		"demo_relay.users[1].name: is there twice":                                 "  users: [{name: a, password: {env: A}}, {name: a, password: {env: A}}]",
		"demo_relay.users[0].password: is required":                                "  users: [{name: a}]",
		"demo_relay.own_ca_file: is for a relay without":                           "  own_ca_file: a\n  cert_file: b",
		"has a recipient, but answers MAIL":                                        "  faults: [{stage: mail, recipient: a, code: 550}]",
		"demo_relay.faults: rule 1 of the demo relay has code 250; use 4yz or 5yz": "  faults: [{recipient: a, code: 250}]",
		"demo_relay.allow_unsecure_authentication: has no effect without users":    "  allow_unsecure_authentication: true",
	} {
		file := filepath.Join(t.TempDir(), "certpost.yaml")
		if err := os.WriteFile(file, []byte("demo_relay:\n"+lines+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		_, _, problems := loadConfig(file, nil)
		if !slices.ContainsFunc(problems, func(p config.Problem) bool { return strings.Contains(p.Error(), says) }) {
			t.Errorf("%s gives %v, want %q", lines, problems, says)
		}
	}
}
