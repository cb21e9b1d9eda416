//go:build unix

package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/config"
)

// agent starts `certpost run --mail-host mx1` with five lines of configuration, and returns its
// log and how to stop it.
func (r *roles) agent(host string) (log *writings, s *instance, stop func()) {
	r.t.Helper()
	name := "agent-" + host + ".yaml"
	r.write(name, "nats: "+r.section("mailhost-"+host)+`
audit: {key: {file: `+r.path("audit.key")+`}}
events: {file_roots: [`+r.dir+`]}
targets_file: `+r.path("targets.yaml")+`
http: {listen: "127.0.0.1:0"}
`)
	cfg, _, problems := loadConfig(r.path(name), nil)
	if config.Failed(problems) {
		r.t.Fatal(problems)
	}
	cfg.MailHost, cfg.agent = host, true
	log = &writings{}
	s, err := newService(r.t.Context(), cfg, zerolog.New(log).Level(zerolog.InfoLevel))
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, end := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		end()
		if err := <-ended; err != nil {
			r.t.Errorf("the agent ended with %v", err)
		}
		s.close()
		if r.t.Failed() {
			r.t.Logf("agent: %s", log)
		}
	}
	r.t.Cleanup(stop)
	return log, s, stop
}

// An agent on a mail host has a NATS user for its lane only. It deploys, makes dead letters, takes
// orders and is suspended; its user can do nothing with other lanes, events or other targets.
//
// Fault: the NATS user of a mail host is stolen. Result: it reaches neither events nor other lanes.
func TestAgentOnAMailHost(t *testing.T) {
	t.Parallel()
	r := openRoles(t)
	o := &hostFixture{fixture: r.fixture, files: filepath.Join(t.TempDir(), "certs")}
	if err := os.Mkdir(o.files, 0o755); err != nil {
		t.Fatal(err)
	}
	o.write("audit.key", broker.NewAuditKey())
	o.more = func() string {
		return o.hostTarget("file", "mx1", "/bin/sh -c 'test ! -e "+o.dir+"/break'") + o.hostTarget("elsewhere", "mx2", "/bin/true")
	}
	o.furnish("audit: {key: {file: " + o.path("audit.key") + "}}\n")
	health := func(text string) bool {
		_, body := get(o.service, "/healthz")
		return strings.Contains(body, text)
	}
	o.issueTo("e1", "file", "ops")
	o.mailTo("ops@demo.example", 1) // the central process sends mails, and leaves the host's lane alone
	o.until("the host is away", func() bool {
		return health("mail host mx1: no process has run there yet, 1 delivery waits")
	})

	log, s, stop := r.agent("mx1")
	if e := o.entry("e1", "file", broker.StateSent); e.Receipt.State != "deployed" {
		t.Errorf("the receipt is %+v", e.Receipt)
	}
	o.until("the agent is seen", func() bool { return strings.Contains(r.as("certpost", "relays", "list").stdout, "ready") })
	if status, body := get(s, "/readyz"); status != 200 {
		t.Errorf("the agent's readyz: %d %s", status, body)
	}
	if status, _ := get(s, "/dead-letters"); status == 200 {
		t.Error("the agent serves pages")
	}

	o.issueTo("e2", "file")
	o.entry("e2", "file", broker.StateSent)
	if said := r.as("operator", "deliveries", "rollback", "e2", "--reason", "a try").done(t); !strings.Contains(said, "mail host mx1") {
		t.Errorf("rollback: %s", said)
	}
	o.until("the rollback is recorded", func() bool { return o.entry("e2", "file", broker.StateSent).Receipt.RolledBack != nil })

	// A dead letter, its replay, and the end of the letter.
	o.write("break", "")
	o.issueTo("e3", "file")
	o.entry("e3", "file", broker.StateDead)
	if letters := o.letters(); len(letters) != 1 || letters[0].Rollback != "failed" {
		t.Errorf("letters: %+v", letters)
	}
	if err := os.Remove(o.path("break")); err != nil {
		t.Fatal(err)
	}
	o.until("the letter is in the index", func() bool { return r.as("operator", "dead-letters", "replay", "1").code == 0 })
	o.entry("e3", "file", broker.StateSent)
	o.until("the letter is off the list", func() bool { return len(o.letters()) == 0 })

	// A suspension holds it back.
	operator := broker.Actor{Name: "ada", Via: broker.ViaShell}
	if err := o.service.broker.Suspend(t.Context(), broker.Suspension{Lane: "host-mx1", Reason: "maintenance"}, operator); err != nil {
		t.Fatal(err)
	}
	o.until("the agent knows of it", func() bool {
		suspended := false
		for _, l := range s.runner.Suspensions() {
			suspended = suspended || l.Lane == "host-mx1"
		}
		return suspended
	})
	o.issueTo("e4", "file")
	if err := o.service.broker.Resume(t.Context(), "host-mx1", operator, "done"); err != nil {
		t.Fatal(err)
	}
	o.entry("e4", "file", broker.StateSent)

	for name, text := range map[string]string{"agent": log.String(), "program": o.log.String()} {
		if strings.Contains(text, "NATS denies") || strings.Contains(strings.ToLower(text), "permissions violation") {
			t.Errorf("the %s lacks a permission: %s", name, text)
		}
	}
	o.until("the audit is right", func() bool { return o.service.auditor.Problem() == nil && o.service.auditor.State().Report.Records > 5 })
	stop()
	o.until("the host is away again", func() bool { return health("mail host mx1: last seen ") })

	// What was published while it was away: the newest certificate is there in the end.
	var newest string
	for _, id := range []string{"e5", "e6", "e7"} {
		newest = o.issueTo(id, "file")
	}
	_, _, stop = r.agent("mx1")
	for _, id := range []string{"e5", "e6", "e7"} {
		o.until(id+" is settled", func() bool {
			list, err := o.service.broker.Deliveries(t.Context(), "file", id)
			return err == nil && len(list) == 1 && (list[0].State == broker.StateSent || list[0].State == broker.StateSkipped)
		})
	}
	if got, err := os.ReadFile(filepath.Join(o.files, "file.pem")); err != nil || !strings.Contains(string(got), newest) {
		t.Errorf("the host has another certificate than the newest: %v", err)
	}
	stop()

	r.forbidden("mailhost-mx1", []string{"certificate.issued.x", "certpost.delivery.host-mx1.file", "certpost.delivery.localhost-1.ops", "certpost.dead.SMTP_AUTH.other.ops.e1",
		"$KV.CERTPOST_RELAYS.suspended.host-mx1", "$KV.CERTPOST_RELAYS.seal", "$JS.API.CONSUMER.MSG.NEXT.CERTPOST_DELIVERIES.lane-host-mx2", "$JS.API.CONSUMER.CREATE.CERTPOST_DELIVERIES.spy",
		"$JS.API.CONSUMER.CREATE.CERTPOST_EVENTS.spy", "$JS.API.STREAM.MSG.GET.CERTPOST_EVENTS", "$JS.API.STREAM.MSG.GET.CERTPOST_DELIVERIES", "$JS.API.STREAM.MSG.GET.KV_CERTPOST_RELAYS",
		"$JS.API.STREAM.DELETE.CERTPOST_EVENTS", "$JS.ACK.CERTPOST_DELIVERIES.lane-host-mx2.1.1.1.1.1", "certpost.host.host-mx2", "certpost.deliveries.rollback"},
		[]string{"certificate.issued.>", "certpost.delivery.>", "certpost.dead.>", "certpost.host.host-mx2", "certpost.audit.>", "$KV.>", ">", "_INBOX.>", "_INBOX_certpost.>"})
}
