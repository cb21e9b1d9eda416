package main

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"software.sslmate.com/src/go-pkcs12"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/verdict"
)

const (
	strangersUser     = "ops@lab.test"
	strangersPassword = "correct-horse-battery"
	// soon configures fast retries.
	soon = "delivery: {retry: {initial: 100ms, max: 500ms}}\n"
)

// atStranger defines a target at a real relay, Exim or Postfix.
func atStranger(id, address string, ca *lab.CA, lines ...string) string {
	return fmt.Sprintf("  - id: %s\n    host: localhost\n    port: %s\n    ca_file: %s\n    from_address: certs@lab.test\n    %s\n",
		id, port(address), ca.File, strings.Join(lines, "\n    "))
}

// entry returns the ledger's entry of a delivery, or the zero value if there is none.
func (o *fixture) entry(target, event string) broker.Entry {
	o.t.Helper()
	entries, err := o.service.broker.Deliveries(o.t.Context(), target, event)
	if err != nil || len(entries) > 1 {
		o.t.Fatalf("ledger of %s and %s: %v, %d entries", target, event, err, len(entries))
	}
	if len(entries) == 0 {
		return broker.Entry{}
	}
	return entries[0]
}

// contains counts how often a file contains a text.
func contains(t *testing.T, file, text string) int {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(data), text)
}

// Exim is a second opinion: it shows mistakes that Postfix tolerates.
func TestEximTakesEveryPayload(t *testing.T) {
	t.Parallel()
	exim := lab.Exim(t, lab.EximOptions{Users: map[string]string{strangersUser: strangersPassword}})
	o := bareFixture(t)
	login := func(method string) string {
		return fmt.Sprintf("auth_method: %s\n    username: %s\n    password: {value: %s}\n    to: [%s]", method, strangersUser, strangersPassword, strangersUser)
	}
	o.open(soon,
		atStranger("chain", exim.SMTP, exim.CA, login("plain"))+
			atStranger("keys", exim.SMTP, exim.CA, login("login"), "payload: pem_and_key")+
			atStranger("java", exim.SMTPS, exim.CA, login("plain"), "tls_mode: smtps", "payload: pkcs12", "pkcs12_passphrase: {value: "+p12Passphrase+"}"))
	_, keyFile, chain := o.issue("www.example.com")
	key, err := os.ReadFile(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	targets := []string{"chain", "keys", "java"}
	ev := &events.Event{ID: "e1", Certificate: events.Certificate{PEM: chain}, PrivateKey: &events.Reference{File: keyFile}, Targets: targets}
	if _, _, err := o.service.broker.Publish(t.Context(), ev); err != nil {
		t.Fatal(err)
	}
	o.settled()
	if letters := o.letters(); len(letters) != 0 {
		t.Fatalf("dead letters: %+v", letters)
	}
	for _, target := range targets {
		receipt := o.entry(target, "e1").Receipt
		if receipt == nil || receipt.QueueID == "" || contains(t, exim.Log, receipt.QueueID+" <= certs@lab.test") != 1 {
			t.Errorf("%s: the receipt %+v does not name a mail of Exim's log", target, receipt)
		}
	}
	stored := map[string][]byte{}
	for _, mail := range exim.Mails(t, strangersUser, len(targets)) {
		for _, target := range targets {
			if bytes.Contains(mail, []byte("X-Certpost-Target: "+target+"\n")) {
				stored[target] = mail
			}
		}
	}
	if len(stored) != len(targets) {
		t.Fatalf("Exim holds mails for %d targets, want %d", len(stored), len(targets))
	}
	if got := attachmentOf(t, stored["chain"], "www.example.com.pem"); string(got) != chain {
		t.Errorf("the chain arrived as %q", got)
	}
	if got := attachmentOf(t, stored["keys"], "www.example.com.key.pem"); !bytes.Equal(got, key) {
		t.Error("the private key in the mail differs from the file")
	}
	if _, _, _, err := pkcs12.DecodeChain(attachmentOf(t, stored["java"], "www.example.com.p12"), p12Passphrase); err != nil {
		t.Errorf("the PKCS#12 file that arrived: %v", err)
	}
}

// Each recipient has its own outcome at Exim, too: accepted, deferred, refused.
//
// Fault: some recipients refused. Result: only those with 4yz are retried; those with 5yz
// end in one letter that names them.
func TestEximRefusesSomeRecipients(t *testing.T) {
	t.Parallel()
	exim := lab.Exim(t, lab.EximOptions{
		Users:  map[string]string{strangersUser: strangersPassword},
		Refuse: map[string]string{"full@lab.test": "452 4.2.2 the mailbox is full"},
	})
	o := bareFixture(t)
	o.open(soon,
		atStranger("unknown", exim.SMTP, exim.CA, "to: [ops@lab.test, nobody@lab.test]")+
			atStranger("full", exim.SMTP, exim.CA, "to: [full@lab.test, ops@lab.test]"))
	o.publish("e1", "unknown")
	o.settled()
	o.wantLetter("unknown", 550, "nobody@lab.test")
	o.publish("e2", "full")
	var entry broker.Entry
	o.until("a third attempt for the full mailbox", func() bool {
		entry = o.entry("full", "e2")
		return entry.Attempts >= 3
	})
	if f := entry.Failure; f == nil || f.Code != verdict.SMTPTransient || f.Phase != verdict.PhaseRcpt || f.ReplyCode != 452 || f.EnhancedCode != "4.2.2" {
		t.Errorf("the full mailbox: %+v", f)
	}
	if !slices.Equal(entry.Owed, []string{"full@lab.test"}) || !slices.Equal(entry.Accepted, []string{strangersUser}) {
		t.Errorf("owed %v, accepted %v", entry.Owed, entry.Accepted)
	}
	if mails := exim.Mails(t, strangersUser, 2); len(mails) != 2 {
		t.Errorf("two events for %s came as %d mails", strangersUser, len(mails))
	}
}

// wantLetter requires exactly one open dead letter: a refusal at RCPT of only this
// recipient.
func (o *fixture) wantLetter(target string, reply int, recipient string) {
	o.t.Helper()
	letters := o.letters()
	if len(letters) != 1 {
		o.t.Fatalf("%d dead letters, want one: %+v", len(letters), letters)
	}
	l := letters[0]
	if l.Target != target || l.Code != verdict.SMTPPermanent || l.Phase != verdict.PhaseRcpt || l.ReplyCode != reply || !slices.Equal(l.Recipients, []string{recipient}) {
		o.t.Errorf("the dead letter is %+v", l)
	}
}

// greylist is a policy server for Postfix (SMTPD_POLICY_README). It defers every
// recipient until letPass is called.
type greylist struct {
	address string

	mu    sync.Mutex
	open  bool
	asked map[string]int // recipient -> how often
}

func newGreylist(t *testing.T) *greylist {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	g := &greylist{address: l.Addr().String(), asked: map[string]int{}}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go g.serve(conn)
		}
	}()
	return g
}

// serve answers requests: lines of name=value up to an empty one.
func (g *greylist) serve(conn net.Conn) {
	defer conn.Close()
	recipient := ""
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		if lines.Text() != "" {
			if value, ok := strings.CutPrefix(lines.Text(), "recipient="); ok {
				recipient = value
			}
			continue
		}
		g.mu.Lock()
		g.asked[recipient]++
		action := "DUNNO"
		if !g.open {
			action = "defer_if_permit 4.7.1 greylisted"
		}
		g.mu.Unlock()
		fmt.Fprintf(conn, "action=%s\n\n", action)
	}
}

func (g *greylist) letPass() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open = true
}

// Fault: 4yz in any phase. Result: retried (SMTP_TRANSIENT).
func TestPostfixGreylists(t *testing.T) {
	t.Parallel()
	grey := newGreylist(t)
	second := "second@lab.test"
	server := lab.Postfix(t, lab.MailOptions{
		Users: map[string]string{strangersUser: strangersPassword, second: strangersPassword},
		Main:  map[string]string{"smtpd_recipient_restrictions": "check_policy_service inet:" + grey.address},
	})
	o := bareFixture(t)
	o.open(soon, atStranger("grey", server.SMTP, server.CA, "to: [ops@lab.test, second@lab.test]"))
	o.publish("e1", "grey")
	var entry broker.Entry
	o.until("a greylisted attempt", func() bool {
		entry = o.entry("grey", "e1")
		return entry.Failure != nil
	})
	if f := entry.Failure; f.Code != verdict.SMTPTransient || f.Phase != verdict.PhaseRcpt || f.ReplyCode != 450 || f.EnhancedCode != "4.7.1" {
		t.Errorf("greylisting is classified as %+v", f)
	}
	if entry.Receipt != nil || len(entry.Accepted) != 0 {
		t.Errorf("no recipient was accepted, but the ledger says %+v", entry)
	}
	grey.letPass()
	o.settled()
	for _, recipient := range []string{strangersUser, second} {
		if mails := server.Fetch(t, recipient, lab.AtLeast(1)); len(mails) != 1 {
			t.Errorf("%s has %d mails", recipient, len(mails))
		}
		grey.mu.Lock()
		if grey.asked[recipient] < 2 {
			t.Errorf("Postfix asked %d times about %s", grey.asked[recipient], recipient)
		}
		grey.mu.Unlock()
	}
	if letters := o.letters(); len(letters) != 0 {
		t.Errorf("dead letters: %+v", letters)
	}
	if entry := o.entry("grey", "e1"); entry.State != broker.StateSent || entry.Attempts < 2 || entry.PossibleDuplicates != 0 {
		t.Errorf("in the end: %+v", entry)
	}
}

// Fault: some recipients refused. Result: those with 5yz end in one letter that names them.
func TestPostfixRefusesSomeRecipients(t *testing.T) {
	t.Parallel()
	server := lab.Postfix(t, lab.MailOptions{
		Users: map[string]string{strangersUser: strangersPassword},
		Main: map[string]string{
			"smtpd_recipient_restrictions": "reject_non_fqdn_recipient, reject_unlisted_recipient, reject_unauth_destination",
			// Otherwise another check would refuse the recipient before the one above.
			"smtpd_reject_unlisted_recipient": "no",
		},
	})
	o := bareFixture(t)
	o.open(soon, atStranger("mixed", server.SMTP, server.CA, "to: [nobody@lab.test, ops@lab.test]"))
	o.publish("e1", "mixed")
	o.settled()
	o.wantLetter("mixed", 550, "nobody@lab.test")
	if mails := server.Fetch(t, strangersUser, lab.AtLeast(1)); len(mails) != 1 {
		t.Errorf("%s has %d mails", strangersUser, len(mails))
	}
}

// A mail larger than the announced limit is not begun: Postfix's summary of the session
// counts no MAIL.
//
// Fault: accepts only smaller mails (SIZE). Result: dead (SMTP_PERMANENT), before MAIL.
func TestPostfixTakesLessThanTheMail(t *testing.T) {
	t.Parallel()
	server := lab.Postfix(t, lab.MailOptions{
		Users: map[string]string{strangersUser: strangersPassword},
		Main:  map[string]string{"message_size_limit": "2000"},
	})
	o := bareFixture(t)
	o.open(soon, atStranger("small", server.SMTP, server.CA, "to: [ops@lab.test]"))
	o.publish("e1", "small")
	o.settled()
	letters := o.letters()
	if len(letters) != 1 || letters[0].Code != verdict.SMTPPermanent || letters[0].Phase != verdict.PhaseMail || letters[0].ReplyCode != 0 || !strings.Contains(letters[0].Reason, "2000") {
		t.Fatalf("dead letters: %+v", letters)
	}
	o.until("the summary of the session", func() bool { return contains(t, server.Log, " ehlo=") > 0 })
	if n := contains(t, server.Log, " mail="); n != 0 {
		t.Errorf("Postfix counts MAIL in %d sessions", n)
	}
}

// A refusal because of too many connections is the relay's: no attempt is counted, and
// all mails arrive once when a connection is free.
//
// Fault: accepts few connections. Result: treated as unavailable: nothing is lost; no
// attempt counted.
func TestPostfixTakesOneConnection(t *testing.T) {
	t.Parallel()
	const mails = 4
	server := lab.Postfix(t, lab.MailOptions{
		Users: map[string]string{strangersUser: strangersPassword},
		// By default the limit does not apply to loopback.
		Main: map[string]string{"smtpd_client_connection_count_limit": "1", "smtpd_client_event_limit_exceptions": ""},
	})
	o := bareFixture(t)
	o.open(soon, atStranger("narrow", server.SMTP, server.CA, "to: [ops@lab.test]"))
	held := holdConnection(o, server.SMTP)
	for i := range mails {
		o.publish(fmt.Sprintf("e%d", i), "narrow")
	}
	o.until("a refusal", func() bool {
		return strings.Contains(o.log.String(), `"code":"SMTP_TRANSIENT","phase":"banner"`) && strings.Contains(o.log.String(), `"reply_code":421`)
	})
	if contains(t, server.Log, "Connection concurrency limit exceeded") == 0 {
		t.Error("Postfix's log has nothing of the limit")
	}
	for i := range mails {
		if entry := o.entry("narrow", fmt.Sprintf("e%d", i)); entry.Attempts != 0 || entry.Receipt != nil {
			t.Errorf("e%d, without a connection: %+v", i, entry)
		}
	}
	held.Close()
	o.settled()
	if stored := server.Fetch(t, strangersUser, lab.AtLeast(mails)); len(stored) != mails {
		t.Errorf("%d mails for %d events", len(stored), mails)
	}
	if letters := o.letters(); len(letters) != 0 {
		t.Errorf("dead letters: %+v", letters)
	}
}

// holdConnection opens the only connection that a relay allows.
func holdConnection(o *fixture, address string) net.Conn {
	o.t.Helper()
	var held net.Conn
	o.until("the relay's one connection", func() bool {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			return false
		}
		line, err := bufio.NewReader(conn).ReadString('\n')
		if err != nil || !strings.HasPrefix(line, "220 ") {
			conn.Close()
			return false
		}
		held = conn
		return true
	})
	o.t.Cleanup(func() { held.Close() })
	return held
}
