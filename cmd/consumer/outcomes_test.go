package main

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

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
	// As the page says: what follows a sequence, in one request.
	inbox, err := nc.SubscribeSync(nc.NewRespInbox())
	if err != nil {
		t.Fatal(err)
	}
	var subjects []string
	for next := uint64(1); ; {
		if err := nc.PublishRequest("JS.certpost.API.DIRECT.GET.CERTPOST_OUTCOMES", inbox.Subject, fmt.Appendf(nil, `{"seq": %d, "batch": 100, "next_by_subj": "certpost.outcome.*"}`, next)); err != nil {
			t.Fatal(err)
		}
		var m *nats.Msg
		for {
			if m, err = inbox.NextMsg(30 * time.Second); err != nil {
				t.Fatal(err)
			}
			if m.Header.Get("Status") != "" {
				break
			}
			if _, err := outcome.Read(m.Data); err != nil {
				t.Error(err)
			}
			sequence, err := strconv.ParseUint(m.Header.Get("Nats-Sequence"), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			subjects, next = append(subjects, m.Header.Get("Nats-Subject")), sequence+1
		}
		if status := m.Header.Get("Status"); status == "404" {
			break
		} else if status != "204" {
			t.Fatalf("%v", m.Header)
		}
	}
	if slices.Sort(subjects); !slices.Equal(subjects, []string{"certpost.outcome.nobody", "certpost.outcome.ops"}) {
		t.Errorf("the role reads %q", subjects)
	}
	r.forbidden("outcomes", []string{"certpost.outcome.ops", "certpost.outcomes.position", "JS.certpost.API.CONSUMER.CREATE.CERTPOST_OUTCOMES.spy", "JS.certpost.API.CONSUMER.MSG.NEXT.CERTPOST_OUTCOMES.webhook-inventory", "JS.certpost.API.DIRECT.GET.CERTPOST_AUDIT",
		"$JS.API.DIRECT.GET.CERTPOST_OUTCOMES", "$JS.ACK.CERTPOST_OUTCOMES.webhook-inventory.1.1.1.1.1", "certpost.dead.list", "certificate.issued"},
		[]string{"certpost.outcome.>", "certpost.audit.>", ">", "_INBOX.>", "_INBOX_certpost.>"})
}

// Fault: the receiver of a webhook of outcomes refuses for longer than a minute. Result: deliveries go on, and the log, /healthz
// (degraded), the metrics, the overview page and `certpost status` say which webhook and why, without its address; /readyz stays 200.
func TestDeadOutcomeWebhookIsSeen(t *testing.T) {
	t.Parallel()
	hook := newReceiver(t)
	hook.status = http.StatusBadGateway
	o := bareFixture(t)
	var later atomic.Int64
	o.clock = func() time.Time { return time.Now().Add(time.Duration(later.Load())) }
	o.write("outcome-secret", alertSecret)
	o.furnish(fmt.Sprintf("outcomes: {enabled: true, webhooks: {inventory: {url: %q, secret: {file: %s}}}}\n", hook.URL+"/canary", o.path("outcome-secret")))
	o.publish("e1", "ops")
	o.settled()
	o.until("the receiver has refused an outcome", func() bool { return len(hook.messages()) > 0 })
	if _, page := o.get("/healthz"); !strings.Contains(page, `"name":"outcomes","tags":["outcomes"],"status":"healthy"`) {
		t.Errorf("before a minute: %s", page)
	}
	later.Store(int64(2 * time.Minute))
	const reason = "outcomes.webhooks.inventory: the receiver did not take the message (502 Bad Gateway)"
	o.until("/healthz is degraded", func() bool {
		_, page := o.get("/healthz")
		return strings.Contains(page, `"name":"outcomes","tags":["outcomes"],"status":"degraded"`) && strings.Contains(page, "outcome_webhook inventory") && strings.Contains(page, reason)
	})
	o.until("/readyz is 200", func() bool { // the jump of the clock may find a lane between two looks
		status, _ := o.get("/readyz")
		return status == http.StatusOK
	})
	o.until("the log has it", func() bool {
		log := o.log.String()
		return strings.Contains(log, `"part":"outcome_webhook","name":"inventory"`) && strings.Contains(log, reason) && strings.Contains(log, "outcomes wait that should have been published or posted; deliveries go on")
	})
	o.until("the metrics have it", func() bool {
		text := o.scrape()
		return strings.Contains(text, `certpost_standstill{part="outcome_webhook"} 1`) && strings.Contains(text, `certpost_outcome_webhook_waiting{webhook="inventory"} 1`)
	})
	o.until("the overview page has it", func() bool {
		_, page := o.get("/")
		return strings.Contains(page, "webhook of outcomes") && strings.Contains(page, "inventory") && strings.Contains(page, reason)
	})
	if said := command(t, nil, "-c", o.config, "status"); !strings.Contains(said.stdout, ": webhook of outcomes inventory: "+reason) {
		t.Errorf("certpost status: %s%s", said.stdout, said.stderr)
	}
	if log := o.log.String(); strings.Contains(log, "canary") || strings.Contains(log, alertSecret) {
		t.Errorf("%s", log)
	}
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
		"enabled: true, webhooks: {a: {url: {env: U}, format: slack, targets: [opps]}}":                          "warning: outcomes.webhooks.a.targets[0]: target \"opps\" is not defined: did you mean \"ops\"?",
		"enabled: true, webhooks: {a: {url: {env: U}, format: slack, targets: [ops, 'op*']}}":                    "outcomes.webhooks.a.targets[1]: want the id of a target; patterns are not possible here",
		"enabled: true, webhooks: {a: {url: {env: U}, format: slack, targets: [ops]}}":                           "the configuration is valid: 1 target on 1 lane, 0 warnings",
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

// A key or an address of a webhook that cannot be right is told without --live if it is in a file or a variable, and without its value.
func TestKeysOfWebhooksAreChecked(t *testing.T) {
	t.Parallel()
	const targets = "targets:\n  - {id: ops, host: smtp.example.com, auth_method: none, from_address: a@example.com, to: [b@example.com]}\n"
	key := strings.Repeat("c", 32)
	for name, c := range map[string]struct{ content, section, want string }{
		"PagerDuty short":      {key[1:] + "\n", "outcomes: {enabled: true, webhooks: {oncall: {url: https://events.pagerduty.com/v2/enqueue, format: pagerduty, secret: {file: 'FILE'}}}}", "outcomes.webhooks.oncall.secret: file:FILE is not an integration key of PagerDuty: has 31 characters, want 32"},
		"PagerDuty alerts":     {key + "c", "alerts: {webhook: {url: https://events.pagerduty.com/v2/enqueue, format: pagerduty, secret: {file: 'FILE'}}}", "alerts.webhook.secret: file:FILE is not an integration key of PagerDuty: has 33 characters, want 32"},
		"PagerDuty right":      {key + "\n", "alerts: {webhook: {url: https://events.pagerduty.com/v2/enqueue, format: pagerduty, secret: {file: 'FILE'}}}", "the configuration is valid"},
		"certpost short":       {"canary", "alerts: {webhook: {url: https://hooks.example.com/x, secret: {file: 'FILE'}}}", "alerts.webhook.secret: file:FILE is too short"},
		"Slack no address":     {"hooks.slack.com/canary", "outcomes: {enabled: true, webhooks: {chat: {url: {file: 'FILE'}, format: slack}}}", "outcomes.webhooks.chat.url: file:FILE is not an address"},
		"Slack by http":        {"http://hooks.slack.com/canary", "outcomes: {enabled: true, webhooks: {chat: {url: {file: 'FILE'}, format: slack}}}", "outcomes.webhooks.chat.url: file:FILE begins with http://"},
		"in a file to be made": {"", "outcomes: {enabled: true, webhooks: {chat: {url: {file: 'FILE.later'}, format: slack}}}", "the configuration is valid"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := bareFixture(t)
			o.write("key", c.content)
			file := o.path("key")
			o.write("certpost.yaml", targets+strings.ReplaceAll(c.section, "FILE", file)+"\n")
			said := command(t, nil, "-c", o.path("certpost.yaml"), "check")
			if !strings.Contains(said.stdout, strings.ReplaceAll(c.want, "FILE", file)) || strings.Contains(said.stdout, "canary") || strings.Contains(said.stdout, "cccc") {
				t.Errorf("%s%s\nwant %s", said.stdout, said.stderr, c.want)
			}
			if valid := c.want == "the configuration is valid"; (said.code == exitDone) != valid {
				t.Errorf("exit code %d", said.code)
			}
		})
	}
}
