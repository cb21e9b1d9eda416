//go:build unix

package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/delivery"
	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/verdict"
)

// hostFixture is a fixture that runs on mail host mx1.
type hostFixture struct {
	*fixture
	files string // the directory of the deployed files
}

// newBareHost has a directory for the files of targets, and the program is not started yet.
func newBareHost(t *testing.T) *hostFixture {
	t.Helper()
	o := &hostFixture{fixture: bareFixture(t), files: filepath.Join(t.TempDir(), "certs")}
	if err := os.Mkdir(o.files, 0o755); err != nil {
		t.Fatal(err)
	}
	return o
}

// newHostFixture has the targets file (one file), broken (its reload fails) and away (on mx2).
func newHostFixture(t *testing.T) *hostFixture {
	t.Helper()
	o := newBareHost(t)
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

// refuses runs a command that must fail with a text in its error.
func (o *hostFixture) refuses(text string, args ...string) {
	o.t.Helper()
	if s := o.certpost(args...); s.code == 0 || !strings.Contains(s.stderr, text) {
		o.t.Errorf("certpost %s: exit %d, %s, want an error with %q", strings.Join(args, " "), s.code, s.stderr, text)
	}
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
	// The log has what is true of files, and nothing of mails; list and page say the same state.
	o.until("the line of the second deployment", func() bool { return strings.Contains(o.log.String(), `"event":"e2"`) })
	for line := range strings.Lines(o.log.String()) {
		if strings.Contains(line, `"event":"e2"`) && (!strings.Contains(line, `"host":"mx1","result":"deployed"`) || !strings.Contains(line, `"message":"deployed"`) || strings.Contains(line, "queue_id") || strings.Contains(line, `"reply_code"`)) {
			t.Errorf("the log says %s", line)
		}
	}
	o.until("the list to have it", func() bool { return strings.Contains(o.certpost("deliveries", "list", "--event", "e2").done(t), "e2") })
	for _, said := range []string{o.certpost("deliveries", "list", "--event", "e2").done(t), second(get(o.service, "/deliveries/file/"+events.Token("e2"))), second(get(o.service, "/deliveries"))} {
		if !strings.Contains(said, "sent (deployed)") {
			t.Errorf("the state is not sent (deployed): %s", said)
		}
	}
	shown := o.certpost("deliveries", "show", "e2", "file").done(t)
	for _, want := range []string{"Deployed", "mx1", "Rollback", "certpost deliveries rollback e2 file", "sent (deployed)", "in the files on the host, mode 0600"} {
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
	if text := o.certpost("dead-letters", "preflight", "1"); !strings.Contains(text.stdout, "broken is defined: file on mail host mx1") || !strings.Contains(text.stdout, "would be replaced") || strings.Contains(text.stdout, "relay") {
		t.Errorf("the preflight of a deployment says %+v", text)
	}
	cert, _, _ := o.issue("render.example.com")
	o.refuses("gets no mail: certpost deliveries plan", "render", "--target", "file", "--cert", cert)
	o.refuses("gets no mail: certpost deliveries plan", "send-test", "--target", "file")
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

// A rollback by command puts the former pair back, and says so in receipt, audit and at every
// door; it is refused for mails, a second time, and while the host is away.
func TestRollbackByCommand(t *testing.T) {
	t.Parallel()
	o := newHostFixture(t)
	o.issueTo("e1", "file")
	o.entry("e1", "file", broker.StateSent)
	former := o.content("file.pem")
	o.refuses("no deployment that can be rolled back", "deliveries", "rollback", "e1", "--reason", "x") // the first one replaced nothing
	o.issueTo("e2", "file", "nobody")
	o.entry("e2", "file", broker.StateSent)
	o.mailTo("nobody@demo.example", 1)
	o.entry("e2", "nobody", broker.StateSent)
	if o.content("file.pem") == former {
		t.Fatal("the second certificate is not there")
	}
	o.refuses("a mail cannot be taken back; if it must not be used, revoke the certificate at its CA", "deliveries", "rollback", "e2", "nobody", "--reason", "x")
	o.refuses("reason", "deliveries", "rollback", "e2")
	if status, _ := o.doors().visit("POST /deliveries/file/" + events.Token("e2") + "/rollback reason="); status == 303 {
		t.Error("the page rolls back without a reason")
	}
	text := o.certpost("deliveries", "rollback", "e2", "--reason", "clients reject it").done(t)
	if !strings.Contains(text, "target file on mail host mx1") || !strings.Contains(text, "e1.example.com") {
		t.Errorf("rollback: %s", text)
	}
	if o.content("file.pem") != former {
		t.Error("the former file is not back")
	}
	if text, _ := os.ReadFile(o.path("reloads")); strings.Count(string(text), "reloaded") != 3 {
		t.Errorf("reloads: %q", text)
	}
	e := o.entry("e2", "file", broker.StateSent)
	if back := e.Receipt.RolledBack; back == nil || back.Reason != "clients reject it" || back.Certificate == nil || back.Certificate.Name() != "e1.example.com" || e.Receipt.CanRollBack() {
		t.Errorf("the receipt says %+v", back)
	}
	shown := o.certpost("deliveries", "show", "e2", "file").done(t)
	if !strings.Contains(shown, "Rolled back") || !strings.Contains(shown, "clients reject it") {
		t.Errorf("deliveries show: %s", shown)
	}
	o.refuses("the former certificate is back", "deliveries", "rollback", "e2", "file", "--reason", "x")
	log := o.certpost("audit", "list").done(t)
	for _, want := range []string{"rollback-ordered", "rolled-back", "clients reject it"} {
		if !strings.Contains(log, want) {
			t.Errorf("the audit lacks %s:\n%s", want, log)
		}
	}
	if r := o.certpost("audit", "verify"); r.code != 0 {
		t.Errorf("audit verify after a rollback: %s%s", r.stdout, r.stderr)
	}

	// Another certificate came meanwhile: a rollback of the one before does not touch it.
	o.issueTo("e3", "file")
	o.entry("e3", "file", broker.StateSent)
	o.issueTo("e4", "file")
	o.entry("e4", "file", broker.StateSent)
	there := o.content("file.pem")
	o.refuses("not the certificate of this deployment", "deliveries", "rollback", "e3", "file", "--reason", "x")
	if o.content("file.pem") != there {
		t.Error("a rollback of an earlier deployment has touched the file")
	}
	if log := o.certpost("audit", "list").done(t); !strings.Contains(log, "rollback-failed") {
		t.Errorf("the audit has no record of the refusal:\n%s", log)
	}

	// The page has the same rule.
	_, page := get(o.service, "/deliveries/file/"+events.Token("e4"))
	if !strings.Contains(page, "/rollback") || !strings.Contains(page, "certpost deliveries rollback e4 file") {
		t.Error("the page of a deployment offers no rollback")
	}
	if _, page := get(o.service, "/deliveries/nobody/"+events.Token("e2")); strings.Contains(page, "/rollback") || !strings.Contains(page, "revoke the certificate at its CA") {
		t.Error("the page of a mail offers a rollback, or not its remedy")
	}
	if status, body := o.doors().visit("POST /deliveries/file/" + events.Token("e4") + "/rollback reason=by+page"); status != 303 {
		t.Errorf("rollback on the page: %d %s", status, body)
	}
	if back := o.entry("e4", "file", broker.StateSent).Receipt.RolledBack; back == nil || back.Reason != "by page" || back.Certificate.Name() != "e3.example.com" {
		t.Errorf("the receipt after the page's rollback says %+v", back)
	}
}

// deliveries plan says what a deployment would do, and does nothing.
func TestPlanOfADeployment(t *testing.T) {
	t.Parallel()
	o := newHostFixture(t)
	o.issueTo("e1", "file")
	o.entry("e1", "file", broker.StateSent)
	before := o.content("file.pem")
	cert, key, _ := o.issue("plan.example.com")
	text := o.certpost("deliveries", "plan", "--target", "file", "--cert", cert, "--key-ref", "file:"+key).done(t)
	for _, want := range []string{"plan.example.com", "file.pem would be replaced, mode 0600", "would run after that"} {
		if !strings.Contains(text, want) {
			t.Errorf("the plan lacks %q:\n%s", want, text)
		}
	}
	same := o.certpost("deliveries", "plan", "--target", "file", "--cert", o.path("e1.example.com.pem"), "--key-ref", "file:"+o.path("e1.example.com.key")).done(t)
	if !strings.Contains(same, "unchanged: nothing would be written") {
		t.Errorf("the plan for the same certificate: %s", same)
	}
	wrong := o.certpost("deliveries", "plan", "--target", "file", "--cert", cert, "--key-ref", "file:"+o.path("e1.example.com.key"))
	if wrong.code != exitFailed || !strings.Contains(wrong.stdout, "SMTP_PAYLOAD") {
		t.Errorf("the plan with a wrong key: %d %s%s", wrong.code, wrong.stdout, wrong.stderr)
	}
	o.refuses("mail host mx2: no process runs on this mail host now", "deliveries", "plan", "--target", "away", "--cert", cert, "--key-ref", "file:"+key)
	o.refuses("certpost render shows it", "deliveries", "plan", "--target", "ops", "--cert", cert)
	// On the host itself the command looks, also at a key in a file.
	o.write("here.yaml", "mail_host: mx1\n"+string(must(os.ReadFile(o.config))))
	here := command(t, nil, "-c", o.path("here.yaml"), "deliveries", "plan", "--target", "file", "--cert", cert, "--key", key, "-o", "json").done(t)
	if !strings.Contains(here, `"ok": true`) {
		t.Errorf("the plan on the host: %s", here)
	}
	if o.content("file.pem") != before {
		t.Error("a plan has changed the file")
	}
}

func must[A any](a A, err error) A {
	if err != nil {
		panic(err)
	}
	return a
}

// What is served is compared with what was deployed, and expiry is watched, on /healthz and in
// metrics; neither makes the process unready.
//
// Fault: a program on a mail host serves another certificate than was deployed, or one that has
// expired. Result: a health finding with the tag tls and a metric.
func TestStillServed(t *testing.T) {
	t.Parallel()
	o := &hostFixture{fixture: bareFixture(t), files: filepath.Join(t.TempDir(), "certs")}
	if err := os.Mkdir(o.files, 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(o.files, "web.pem")
	var served atomic.Value // the path of the file that the program serves from
	served.Store(file)
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(served.Load().(string), served.Load().(string))
		return &pair, err
	}})
	if err != nil {
		t.Fatal(err)
	}
	program := &http.Server{ErrorLog: log.New(io.Discard, "", 0)}
	go program.Serve(listener)
	t.Cleanup(func() { program.Close() })
	o.more = func() string {
		return fmt.Sprintf("  - {id: web, type: file, host: mx1, cert_path: %[1]s, key_path: %[1]s, post_deploy_verify: {endpoint: %[2]q, protocol: tls, backoff: 1ms}}\n", file, listener.Addr())
	}
	o.furnish("mail_host: mx1\n")
	o.issueTo("e1", "web")
	o.entry("e1", "web", broker.StateSent)

	type state struct {
		Checks []struct{ Name, Status, Message string }
	}
	is := func(status, message string) bool {
		_, body := get(o.service, "/healthz")
		for _, c := range read[state](t, body).Checks {
			if c.Name == "mail_host_certificates" {
				return c.Status == status && strings.Contains(c.Message, message)
			}
		}
		return false
	}
	o.until("healthy after the deployment", func() bool { return is("healthy", "") })
	where := fmt.Sprintf(`{target="web",where="%s (tls)"}`, listener.Addr())
	if _, text := get(o.service, "/metrics"); !strings.Contains(text, "certpost_mail_host_served_otherwise"+where+" 0") || !strings.Contains(text, "certpost_mail_host_certificate_expiry_timestamp_seconds"+where+" 1.") {
		t.Error("the metrics lack the certificate")
	}

	cert, key, err := o.ca.issue("other.example.com")
	if err != nil {
		t.Fatal(err)
	}
	o.write("other.pem", string(cert)+string(key))
	served.Store(o.path("other.pem"))
	o.service.onHost.look(t.Context())
	o.until("degraded", func() bool { return is("degraded", `it serves "other.example.com"`) })
	if _, text := get(o.service, "/metrics"); !strings.Contains(text, "certpost_mail_host_served_otherwise"+where+" 1") {
		t.Error("the metric does not say that something else is served")
	}

	late := delivery.HostCertificate{Target: "web", Where: file, Name: "web", Expires: time.Now().Add(-time.Hour)}
	o.service.onHost.certificates = func(context.Context) []delivery.HostCertificate { return []delivery.HostCertificate{late} }
	o.service.onHost.look(t.Context())
	o.until("unhealthy", func() bool { return is("unhealthy", "expired on") })
	if status, body := get(o.service, "/readyz"); status != 200 {
		t.Errorf("an expired certificate makes the process unready: %d %s", status, body)
	}
	late.Expires = time.Now().Add(29 * 24 * time.Hour)
	o.service.onHost.look(t.Context())
	o.until("degraded before it expires", func() bool { return is("degraded", "expires on") })
}
