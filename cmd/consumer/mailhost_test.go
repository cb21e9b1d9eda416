//go:build unix

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/verdict"
)

// hostFixture is a fixture that runs on mail host mx1.
type hostFixture struct {
	*fixture
	files string // the directory of the deployed files
}

// newHostFixture has the targets file (one file), broken (its reload fails) and away (on mx2).
func newHostFixture(t *testing.T) *hostFixture {
	t.Helper()
	o := &hostFixture{fixture: bareFixture(t), files: filepath.Join(t.TempDir(), "certs")}
	if err := os.Mkdir(o.files, 0o755); err != nil {
		t.Fatal(err)
	}
	o.more = func() string {
		return o.hostTarget("file", "mx1", "/bin/sh -c 'echo reloaded >> "+o.dir+"/reloads'") +
			o.hostTarget("broken", "mx1", "/bin/sh -c 'test ! -e "+o.dir+"/break'") +
			o.hostTarget("away", "mx2", "/bin/false")
	}
	o.furnish("mail_host: mx1\n")
	return o
}

func (o *hostFixture) hostTarget(id, host, reload string) string {
	return fmt.Sprintf("  - {id: %s, type: file, host: %s, cert_path: %[3]s/%[1]s.pem, key_path: %[3]s/%[1]s.pem, reload_command: %[4]q, post_deploy_verify: {enabled: false}}\n", id, host, o.files, reload)
}

// issueTo publishes an event with a new certificate and its key, and returns the certificate.
func (o *hostFixture) issueTo(id string, targets ...string) string {
	o.t.Helper()
	_, key, chain := o.issue(id + ".example.com")
	ev := &events.Event{ID: id, Certificate: events.Certificate{PEM: chain}, PrivateKey: &events.Reference{File: key}, Targets: targets}
	if _, _, err := o.service.broker.Publish(o.t.Context(), ev); err != nil {
		o.t.Fatal(err)
	}
	return chain
}

// entry waits until the ledger has a delivery in a state.
func (o *hostFixture) entry(event, target string, state broker.State) (e broker.Entry) {
	o.t.Helper()
	o.until("delivery of "+event+" to "+target+" is "+string(state), func() bool {
		list, err := o.service.broker.Deliveries(context.Background(), target, event)
		if err != nil || len(list) != 1 || list[0].State != state {
			return false
		}
		e = list[0]
		return true
	})
	return e
}

func (o *hostFixture) content(name string) string {
	text, err := os.ReadFile(filepath.Join(o.files, name))
	if err != nil {
		return ""
	}
	return string(text)
}

// An event for a mail host replaces the files and makes the program load them. The same
// certificate again changes nothing. A failure is put back, and its letter says so.
//
// Fault: a deployment fails on its host. Result: the former files are back, the letter says how
// the rollback ended.
func TestDeploymentByEvent(t *testing.T) {
	t.Parallel()
	o := newHostFixture(t)
	first := o.issueTo("e1", "file", "broken")
	e := o.entry("e1", "file", broker.StateSent)
	r := e.Receipt
	if r == nil || r.State != "deployed" || r.Host != "mx1" || e.Lane != "host-mx1" || r.RollbackAvailable || r.Relay != "" || len(r.Files) != 1 || r.PrivateKey != verdict.KeyClear {
		t.Fatalf("the receipt of the first deployment is %+v in lane %s", r, e.Lane)
	}
	if got := o.content("file.pem"); !strings.HasSuffix(got, first) || !strings.HasPrefix(got, "-----BEGIN PRIVATE KEY") {
		t.Errorf("the file is not key, leaf and chain:\n%s", strings.ReplaceAll(got, "PRIVATE KEY", "KEY"))
	}
	if text, _ := os.ReadFile(o.path("reloads")); string(text) != "reloaded\n" {
		t.Errorf("reloads: %q", text)
	}

	// The same certificate under another id, as another source may publish it.
	_, key, chain := o.path("e1.example.com.pem"), o.path("e1.example.com.key"), first
	again := &events.Event{ID: "e1-again", Certificate: events.Certificate{PEM: chain}, PrivateKey: &events.Reference{File: key}, Targets: []string{"file"}}
	if _, _, err := o.service.broker.Publish(t.Context(), again); err != nil {
		t.Fatal(err)
	}
	if e := o.entry("e1-again", "file", broker.StateSent); e.Receipt.State != "unchanged" || len(e.Receipt.Steps) != 0 {
		t.Errorf("the receipt of the same certificate is %+v", e.Receipt)
	}
	if text, _ := os.ReadFile(o.path("reloads")); string(text) != "reloaded\n" {
		t.Errorf("the same certificate was loaded again: %q", text)
	}

	o.issueTo("e2", "file")
	if e := o.entry("e2", "file", broker.StateSent); e.Receipt.State != "deployed" || !e.Receipt.RollbackAvailable {
		t.Errorf("the receipt of the second deployment is %+v", e.Receipt)
	}
	shown := o.certpost("deliveries", "show", "e2", "file").done(t)
	for _, want := range []string{"Deployed", "mx1", "Rollback", "certpost deliveries rollback e2 file"} {
		if !strings.Contains(shown, want) {
			t.Errorf("deliveries show lacks %q:\n%s", want, shown)
		}
	}

	o.entry("e1", "broken", broker.StateSent)
	before := o.content("broken.pem")
	o.write("break", "")
	o.issueTo("e3", "broken", "nobody")
	e = o.entry("e3", "broken", broker.StateDead)
	if e.Failure == nil || e.Failure.Code != verdict.DeployReload || e.Failure.Rollback != verdict.RollbackFailed {
		t.Errorf("the failure is %+v", e.Failure) // the reload of the former files fails as well
	}
	if o.content("broken.pem") != before {
		t.Error("the former file is not back")
	}
	letters := o.letters()
	if len(letters) != 1 || letters[0].Code != verdict.DeployReload || letters[0].Rollback != verdict.RollbackFailed || letters[0].Class != verdict.IOPermanent {
		t.Errorf("the letters are %+v", letters)
	}
	o.mailTo("nobody@demo.example", 1)
	mail := read[desk.DeliveryDetail](t, o.certpost("deliveries", "show", "e3", "nobody", "-o", "json").done(t))
	if mail.Receipt == nil || mail.Receipt.RollbackAvailable || mail.RollbackRemedy == "" {
		t.Errorf("a mail's receipt: %+v, remedy %q", mail.Receipt, mail.RollbackRemedy)
	}
	if text := o.certpost("deliveries", "show", "e3", "nobody").done(t); !strings.Contains(text, "revoke the certificate at its CA") {
		t.Errorf("deliveries show of a mail lacks the remedy:\n%s", text)
	}
}

// What no file can be made of ends before anything is touched.
//
// Fault: an event for a mail host has no key, or that of another certificate.
// Result: dead (SMTP_PAYLOAD), no file is touched.
func TestDeploymentNeedsTheRightKey(t *testing.T) {
	t.Parallel()
	o := newHostFixture(t)
	_, wrong, _ := o.issue("other.example.com")
	_, _, chain := o.issue("www.example.com")
	for id, ref := range map[string]*events.Reference{"no-key": nil, "wrong-key": {File: wrong}} {
		ev := &events.Event{ID: id, Certificate: events.Certificate{PEM: chain}, PrivateKey: ref, Targets: []string{"file"}}
		if _, _, err := o.service.broker.Publish(t.Context(), ev); err != nil {
			t.Fatal(err)
		}
		e := o.entry(id, "file", broker.StateDead)
		if e.Failure.Code != verdict.SMTPPayload || e.Failure.Rollback != verdict.RollbackNotNeeded {
			t.Errorf("%s: %+v", id, e.Failure)
		}
	}
	if o.content("file.pem") != "" {
		t.Error("a file was written")
	}
}

// What is for a mail host that is away waits for it, and every door says so; nothing is lost,
// dead or called a dead relay.
//
// Fault: a mail host is away. Result: its deliveries wait, pages and `certpost status` say so.
func TestMailHostThatIsAway(t *testing.T) {
	t.Parallel()
	o := newHostFixture(t)
	o.issueTo("e1", "away", "file")
	o.entry("e1", "file", broker.StateSent)
	var lane broker.LaneInfo
	o.until("the delivery waits", func() bool {
		lanes, err := o.service.broker.LaneInfos(context.Background())
		for _, l := range lanes {
			if l.Lane == "host-mx2" {
				lane = l
			}
		}
		return err == nil && lane.Waiting == 1
	})
	if !lane.Away() || !lane.LastSeen.IsZero() {
		t.Errorf("the lane of a host that never ran: %+v", lane)
	}
	const words = "mail host mx2: no process has run there yet, 1 delivery waits"
	if _, body := get(o.service, "/healthz"); !strings.Contains(body, words) || !strings.Contains(body, `"mail_host"`) || strings.Contains(body, "no answer from the relay") {
		t.Errorf("healthz: %s", body)
	}
	if status, _ := get(o.service, "/readyz"); status != 200 {
		t.Errorf("a host that is away makes the others not ready: %d", status)
	}
	s := o.certpost("status")
	if s.code != exitFailed || !strings.Contains(s.stdout, words) {
		t.Errorf("status: %d %s%s", s.code, s.stdout, s.stderr)
	}
	if text := o.certpost("relays", "list").done(t); !strings.Contains(text, "mail host is away") {
		t.Errorf("relays list: %s", text)
	}
	if _, page := get(o.service, "/relays"); !strings.Contains(page, "mail host is away") {
		t.Errorf("the page of relays: %s", page)
	}
	if letters := o.letters(); len(letters) != 0 {
		t.Errorf("letters: %+v", letters)
	}
	o.until("this host is seen", func() bool {
		lanes, _ := o.service.broker.LaneInfos(context.Background())
		for _, l := range lanes {
			if l.Lane == "host-mx1" {
				return !l.LastSeen.IsZero() && l.Replicas == 1
			}
		}
		return false
	})
}
