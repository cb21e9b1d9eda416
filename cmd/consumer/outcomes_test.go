package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/outcome"
)

// The program publishes what became of deliveries with the rights of its role, a webhook gets it, and the role outcomes reads it and
// nothing else.
func TestOutcomesForOthers(t *testing.T) {
	t.Parallel()
	hook := newReceiver(t)
	r := openRoles(t)
	r.write("outcome-secret", alertSecret)
	r.furnish(fmt.Sprintf("outcomes: {enabled: true, webhooks: {inventory: {url: %q, secret: {file: %s}}}}\n", hook.URL+"/hook", r.path("outcome-secret")), refuseNobody)
	cert, _, _ := r.issue("www.example.com")
	r.as("publisher-web1", "publish", "--cert="+cert, "--as=web1", "--target=ops", "--target=nobody").done(t)
	r.settled()
	r.until("the webhook has both outcomes", func() bool { return len(hook.messages()) == 2 })
	types := map[outcome.Type]*outcome.Event{}
	for _, body := range hook.messages() {
		e, err := outcome.Read([]byte(body))
		if err != nil || strings.Contains(body, "ops@") || strings.Contains(body, "nobody@") {
			t.Fatalf("%v: %s", err, body)
		}
		types[e.Data.Outcome] = e
	}
	if d := types[outcome.Delivered]; d == nil || d.Subject != "ops" || d.Data.MessageID == "" || d.Data.Certificate.DNSNames[0] != "www.example.com" {
		t.Errorf("%+v", d)
	}
	if d := types[outcome.Dead]; d == nil || d.Subject != "nobody" || d.Data.Code != "SMTP_PERMANENT" {
		t.Errorf("%+v", d)
	}
	if text := r.scrape(); !strings.Contains(text, `certpost_outcomes_published_total{type="delivered"} 1`) || !strings.Contains(text, `certpost_outcome_posts_total{result="ok",webhook="inventory"} 2`) {
		t.Errorf("%s", text)
	}
	if _, page := r.get("/healthz"); !strings.Contains(page, `"name":"outcomes","tags":["outcomes"],"status":"healthy"`) {
		t.Errorf("%s", page)
	}
	if strings.Contains(r.log.String(), alertSecret) || strings.Contains(r.log.String(), "ermissions") {
		t.Errorf("%s", r.log)
	}

	nc, err := nats.Connect(r.url, nats.UserInfo("outcomes", password("outcomes")), nats.CustomInboxPrefix("_INBOX_outcomes"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.NewWithAPIPrefix(nc, "JS.certpost.API")
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), broker.OutcomesStream)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for sequence := uint64(1); sequence <= stream.CachedInfo().State.LastSeq; sequence++ {
		m, err := stream.GetMsg(t.Context(), sequence)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := outcome.Read(m.Data); err == nil && strings.HasPrefix(m.Subject, broker.OutcomePrefix) {
			found++
		}
	}
	if found != 2 {
		t.Errorf("the role reads %d outcomes", found)
	}
	r.forbidden("outcomes", []string{"certpost.outcome.ops", "certpost.outcomes.position", "JS.certpost.API.CONSUMER.CREATE.CERTPOST_OUTCOMES.spy", "JS.certpost.API.DIRECT.GET.CERTPOST_AUDIT",
		"$JS.API.DIRECT.GET.CERTPOST_OUTCOMES", "$JS.ACK.CERTPOST_OUTCOMES.webhook-inventory.1.1.1.1.1", "certpost.dead.list", "certificate.issued"},
		[]string{"certpost.outcome.>", "certpost.audit.>", ">", "_INBOX.>", "_INBOX_certpost.>"})
}

// What the section outcomes cannot mean is refused by check, with the place.
func TestOutcomesConfiguration(t *testing.T) {
	t.Parallel()
	for section, want := range map[string]string{
		"webhooks: {a: {url: https://hooks.example.com/canary, secret: {env: S}}}":                               "outcomes.webhooks: need outcomes.enabled: true",
		"enabled: true, webhooks: {a: {secret: {env: S}}}":                                                       "outcomes.webhooks.a.url: is required",
		"enabled: true, webhooks: {a: {url: http://hooks.example.com/canary, secret: {env: S}}}":                 "outcomes.webhooks.a.url: begins with http://",
		"enabled: true, webhooks: {a: {url: https://hooks.example.com/canary}}":                                  "outcomes.webhooks.a.secret: is required",
		"enabled: true, webhooks: {a.b: {url: https://hooks.example.com/canary, secret: {env: S}}}":              "outcomes.webhooks.a.b: is no name",
		"enabled: true, webhooks: {a: {url: https://hooks.example.com/canary, secret: {env: S}, types: [sent]}}": "outcomes.webhooks.a.types",
		"enabled: true, max_bytes: 1MiB":                                                                         "outcomes.max_bytes: must be at least 16MiB",
		"enabled: true, max_age: 1m":                                                                             "outcomes.max_age",
		"enabled: true, webhooks: {a: {url: {env: U}, format: slack, types: [dead]}}":                            "the configuration is valid: 1 target on 1 lane, 0 warnings",
	} {
		o := bareFixture(t)
		o.write("certpost.yaml", "targets:\n  - {id: ops, host: smtp.example.com, auth_method: none, from_address: a@example.com, to: [b@example.com]}\noutcomes: {"+section+"}\n")
		said := command(t, nil, "-c", o.path("certpost.yaml"), "check")
		if !strings.Contains(said.stdout, want) || strings.Contains(said.stdout+said.stderr, "canary") {
			t.Errorf("%s\nsays %s%s\nwant %s", section, said.stdout, said.stderr, want)
		}
	}
}
