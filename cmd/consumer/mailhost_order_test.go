//go:build unix

package main

import (
	"os"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/verdict"
)

// The letter of an older certificate is replayed after a newer one was deployed: it is skipped, and every
// door says why. With force it is deployed, and what was newer does not come back by itself.
//
// Fault: an old letter of a mail host is replayed after a newer certificate was deployed.
// Result: with force it is deployed.
func TestOldLettersDoNotGoBack(t *testing.T) {
	t.Parallel()
	o := newHostFixture(t)
	o.issueTo("e0", "broken")
	o.entry("e0", "broken", broker.StateSent)
	o.write("break", "")
	o.issueTo("e1", "broken")
	o.entry("e1", "broken", broker.StateDead)
	if err := os.Remove(o.path("break")); err != nil {
		t.Fatal(err)
	}
	o.issueTo("e2", "broken")
	o.entry("e2", "broken", broker.StateSent)
	newer := o.content("broken.pem")

	text := o.certpost("dead-letters", "preflight", "1")
	if !strings.Contains(text.stdout, "skipped: the certificate of event e2") {
		t.Errorf("the preflight does not say that it would be skipped: %s", text.stdout)
	}
	o.certpost("dead-letters", "replay", "1", "--reason", "it works now").done(t)
	e := o.entry("e1", "broken", broker.StateSkipped)
	if e.Failure == nil || e.Failure.Code != verdict.SMTPValidation || e.Failure.Rollback != verdict.RollbackNotNeeded || !strings.Contains(e.Failure.Reason, "the certificate of event e2, which was published later") {
		t.Errorf("the ledger says %+v", e.Failure)
	}
	if o.content("broken.pem") != newer {
		t.Fatal("the older certificate is there")
	}
	for _, door := range []string{
		o.certpost("deliveries", "show", "e1", "broken").done(t),
		o.certpost("deliveries", "show", "e1", "broken", "-o", "json").done(t),
		second(get(o.service, "/deliveries/broken/"+events.Token("e1"))),
	} {
		if !strings.Contains(door, "the certificate of event e2, which was published later") || !strings.Contains(door, "skipped") {
			t.Errorf("a door does not say why it was skipped: %s", door)
		}
	}

	// The same again, with force. A letter that is made again has the place of the first.
	o.write("break", "")
	o.issueTo("e3", "broken")
	o.entry("e3", "broken", broker.StateDead)
	if err := os.Remove(o.path("break")); err != nil {
		t.Fatal(err)
	}
	o.issueTo("e4", "broken")
	o.entry("e4", "broken", broker.StateSent)
	o.certpost("dead-letters", "replay", "2", "--force", "--reason", "back to this one").done(t)
	o.entry("e3", "broken", broker.StateSent)
	if text := o.content("broken.pem"); !strings.HasSuffix(text, o.read("e3.example.com.pem")) {
		t.Error("the forced certificate is not there")
	}
	o.issueTo("e5", "broken")
	o.entry("e5", "broken", broker.StateSent)
	if text := o.content("broken.pem"); !strings.HasSuffix(text, o.read("e5.example.com.pem")) {
		t.Error("a newer event was not deployed after the forced one")
	}
}

// Rollbacks go further back each time, every door says which certificate is back, and newer events are
// deployed after them.
//
// Fault: a rollback after a rollback. Result: the certificate before both.
func TestRollbackAfterRollback(t *testing.T) {
	t.Parallel()
	o := newHostFixture(t)
	for _, id := range []string{"e1", "e2", "e3"} {
		o.issueTo(id, "file")
		o.entry(id, "file", broker.StateSent)
	}
	e2, e3 := o.entry("e2", "file", broker.StateSent), o.entry("e3", "file", broker.StateSent)
	if e3.Receipt.Replaced == "" || e3.Receipt.Replaced != e2.Certificate.Fingerprint {
		t.Errorf("the receipt says that %q was replaced, want %s", e3.Receipt.Replaced, e2.Certificate.Fingerprint)
	}
	for _, step := range []struct{ event, back string }{{"e3", "e2"}, {"e2", "e1"}} {
		text := o.certpost("deliveries", "rollback", step.event, "file", "--reason", "rejected").done(t)
		cert := o.entry(step.event, "file", broker.StateSent).Receipt.RolledBack.Certificate
		shown := o.certpost("deliveries", "show", step.event, "file").done(t)
		_, page := get(o.service, "/deliveries/file/"+events.Token(step.event))
		for door, said := range map[string]string{"the rollback": text, "deliveries show": shown, "the page": page} {
			for _, want := range []string{step.back + ".example.com", cert.Serial, cert.NotAfter.UTC().Format(" 2006")} {
				if !strings.Contains(said, want) {
					t.Errorf("rollback of %s: %s lacks %q:\n%s", step.event, door, want, said)
				}
			}
		}
		if text := o.content("file.pem"); !strings.HasSuffix(text, o.read(step.back+".example.com.pem")) {
			t.Fatalf("after the rollback of %s the certificate of %s is not there", step.event, step.back)
		}
	}
	o.refuses("keeps no former files", "deliveries", "rollback", "e1", "file", "--reason", "rejected")
	o.issueTo("e4", "file")
	o.entry("e4", "file", broker.StateSent)
	if text := o.content("file.pem"); !strings.HasSuffix(text, o.read("e4.example.com.pem")) {
		t.Error("a newer event was not deployed after the rollbacks")
	}
}

// read is a file of the fixture.
func (o *hostFixture) read(name string) string { return string(must(os.ReadFile(o.path(name)))) }

func second[A, B any](_ A, b B) B { return b }
