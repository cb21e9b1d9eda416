package queue

import (
	"crypto/x509"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/devrelay"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/verdict"
)

// A certificate that comes after a newer one for its names and kind of key is delivered, skipped or made
// a dead letter, as the target says. An RSA and an ECDSA certificate of one name are both delivered.
//
// Fault: an older certificate comes after a newer one for its names and kind of key. Result: delivered,
// skipped or dead (SMTP_VALIDATION), as the target's `superseded` says; a replay with force is sent.
func TestSupersededPolicy(t *testing.T) {
	t.Parallel()
	relay := relayAt(t, devrelay.Config{})
	target := func(id, policy string) string {
		return fmt.Sprintf("  - {id: %s, host: 127.0.0.1, port: %s, tls_mode: plaintext, %s, superseded: %s, invalid_dates: warn}\n", id, portOf(relay.Plain()), mailKeys, policy)
	}
	courier, _ := realCourier(t, "targets:\n"+target("all", "deliver")+target("newest", "skip")+target("careful", "dead_letter"))
	b := startWith(t, courier)
	now := time.Now()
	issue := func(kind string, daysAgo int, names ...string) string {
		return string(lab.PEM(lab.Issue(t, nil, lab.NewKey(t, kind), names[0], lab.DNSNames(names...), func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = now.AddDate(0, 0, -daysAgo), now.AddDate(0, 0, 90)
		})))
	}
	ids := []string{"all", "newest", "careful"}
	send := func(id, pem string) {
		t.Helper()
		b.publish(&events.Event{ID: id, Source: "test://ca", Certificate: events.Certificate{PEM: pem}, Targets: ids})
		b.settled()
	}
	expect := func(id string, states ...broker.State) {
		t.Helper()
		for i, target := range ids {
			if e := b.entry(target, id); e.State != states[i] {
				t.Errorf("%s to %s is %s, want %s", id, target, e.State, states[i])
			}
		}
	}
	sent, skipped, dead := broker.StateSent, broker.StateSkipped, broker.StateDead

	send("newer", issue("p256", 1, "shop.example.com", "www.shop.example.com"))
	expect("newer", sent, sent, sent)
	old := issue("p256", 30, "shop.example.com")
	send("older", old)
	expect("older", sent, skipped, dead)
	send("rsa", issue("rsa", 30, "shop.example.com"))
	expect("rsa", sent, sent, sent)
	send("more-names", issue("p256", 30, "shop.example.com", "api.shop.example.com"))
	expect("more-names", sent, sent, sent)
	send("other-name", issue("p256", 30, "shop.example.org"))
	expect("other-name", sent, sent, sent)
	send("older-again", old) // the newest is still known
	expect("older-again", sent, skipped, dead)
	send("newest", issue("p256", 0, "shop.example.com", "www.shop.example.com"))
	expect("newest", sent, sent, sent)
	send("newer", issueOf(b, t, "newer")) // the same event again: it is not sent twice, and not skipped
	expect("newer", sent, sent, sent)

	send("future", issue("p256", -3, "mail.example.com")) // not valid yet, which the targets allow: it keeps nothing away
	expect("future", sent, sent, sent)
	send("today", issue("p256", 1, "mail.example.com"))
	expect("today", sent, sent, sent)

	e := b.entry("newest", "older")
	if e.Failure == nil || e.Failure.Code != verdict.SMTPValidation || !strings.Contains(e.Failure.Reason, "for event newer") || e.Receipt != nil {
		t.Errorf("the ledger says %+v", e.Failure)
	}
	var reasons []string
	for _, l := range b.letters() {
		if l.Target != "careful" || l.Code != verdict.SMTPValidation {
			t.Errorf("a dead letter of %s with %s", l.Target, l.Code)
		}
		reasons = append(reasons, l.Reason)
	}
	if len(reasons) != 2 || !strings.Contains(reasons[0], "replay it with force") {
		t.Errorf("dead letters: %q", reasons)
	}
	// A person decides otherwise.
	for _, target := range []string{"newest", "careful"} {
		m := nats.NewMsg(broker.DeliverySubject(b.entry(target, "older").Lane, target))
		m.Data = (&events.Event{ID: "older", Source: "test://ca", Certificate: events.Certificate{PEM: old}, Targets: ids}).Encode()
		m.Header.Set(broker.HeaderForce, "true")
		if _, err := b.broker.JetStream().PublishMsg(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	b.settled()
	expect("older", sent, sent, sent)
	send("older-once-more", old) // that an old one was sent does not make it the newest
	expect("older-once-more", sent, skipped, dead)
}

// issueOf returns the certificate of an event that is in the stream.
func issueOf(b *fixture, t *testing.T, id string) string {
	t.Helper()
	stream, err := b.broker.JetStream().Stream(t.Context(), broker.EventsStream)
	if err != nil {
		t.Fatal(err)
	}
	for seq := uint64(1); ; seq++ {
		m, err := stream.GetMsg(t.Context(), seq)
		if err != nil {
			t.Fatal(err)
		}
		if ev, err := events.Decode(m.Header, m.Data); err == nil && ev.ID == id {
			return ev.Certificate.PEM
		}
	}
}
