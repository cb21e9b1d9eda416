package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/certpost/certpost/internal/alert"
	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/devrelay"
	"github.com/certpost/certpost/internal/lab"
)

const alertSecret = "canary-alert-secret"

// receiver is the receiver of a webhook.
type receiver struct {
	*httptest.Server
	mu      sync.Mutex
	headers []http.Header
	bodies  []string
	status  int
}

func newReceiver(t *testing.T) *receiver {
	r := &receiver{status: http.StatusNoContent}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, _ := io.ReadAll(q.Body)
		r.mu.Lock()
		defer r.mu.Unlock()
		if q.Method == http.MethodPost {
			r.headers, r.bodies = append(r.headers, q.Header), append(r.bodies, string(body))
		}
		w.WriteHeader(r.status)
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) messages() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.bodies...)
}

// alerts is the section alerts that tells mail and the receiver at once.
func (o *fixture) alerts(r *receiver) string {
	o.write("alert-secret", alertSecret)
	return fmt.Sprintf("alerts:\n  mail: {target: ops, to: [oncall@demo.example]}\n  webhook: {url: %q, secret: {file: %s}}\n  group_wait: 0s\n  interval: 0s\n  health: any\n  not_ready: 1s\n",
		r.URL+"/hook", o.path("alert-secret"))
}

// New dead letters are told by mail and by a signed webhook, are on /healthz and in the metrics, and can be
// silenced.
//
// Fault: a delivery ends as a dead letter, and no operator looks at the pages. Result: with the section alerts a
// mail and a webhook say so, once.
func TestAlertsByMailAndWebhook(t *testing.T) {
	t.Parallel()
	o := bareFixture(t)
	r := newReceiver(t)
	o.http = ", ingest: {enabled: true, hmac: [{name: alerts, secret: {file: " + o.path("alert-secret") + "}}]}"
	o.furnish(o.alerts(r), refuseNobody)
	o.publish("first", "nobody")
	o.settled()
	o.until("the webhook", func() bool { o.service.alerts.Round(t.Context()); return len(r.messages()) == 1 })
	mail := o.mailTo("oncall@demo.example", 1)
	for _, want := range []string{"[ALERT] Certpost: 1 dead letter SMTP_PERMANENT", "Auto-Submitted: auto-generated"} {
		if !strings.Contains(strings.ReplaceAll(string(mail.Raw), "\r\n ", " "), want) {
			t.Errorf("the mail lacks %q: %s", want, mail.Raw)
		}
	}
	body := r.messages()[0]
	if !strings.Contains(body, `"type":"certpost.alerts","status":"firing"`) || strings.Contains(body, "demo.example") {
		t.Errorf("%s", body)
	}
	// The signature is one that our own door for signed requests accepts: what it refuses is the event.
	signature := func(body string) []string {
		h := r.headers[0]
		return []string{"Webhook-Id: " + h.Get("Webhook-Id"), "Webhook-Timestamp: " + h.Get("Webhook-Timestamp"), "Webhook-Signature: " + h.Get("Webhook-Signature")}
	}
	if status, text := o.post(http.DefaultClient, body, signature(body)...); status != http.StatusBadRequest {
		t.Errorf("the signature does not fit: %d %s", status, text)
	}
	if status, text := o.post(http.DefaultClient, body+" ", signature(body)...); status != http.StatusUnauthorized {
		t.Errorf("the signature of another body fits: %d %s", status, text)
	}
	o.until("/healthz", func() bool {
		status, page := o.get("/healthz")
		return status == http.StatusOK && strings.Contains(page, `"status":"degraded"`) && strings.Contains(page, `"name":"dead_letters","tags":["dead_letters"],"status":"degraded","message":"1 dead letter open, the oldest since `)
	})
	if text := o.scrape(); !strings.Contains(text, `certpost_alerts{kind="dead_letters",state="firing"} 1`) || !strings.Contains(text, `certpost_alert_failures_total{channel="mail"} 0`) {
		t.Errorf("%s", text)
	}

	list := read[desk.Alerts](t, o.certpost("alerts", "list", "-o", "json").done(t))
	if len(list.Alerts) != 1 || list.Alerts[0].Kind != alert.DeadLetters || list.Alerts[0].State != alert.Firing {
		t.Fatalf("%+v", list)
	}
	key := list.Alerts[0].Key
	if out := o.certpost("alerts", "silence", key, "--for", "2h", "--reason", "known").done(t); !strings.Contains(out, key+" is silenced until ") {
		t.Errorf("%s", out)
	}
	if out := o.certpost("alerts", "list").done(t); !strings.Contains(out, "silenced") || !strings.Contains(out, "known") || !strings.Contains(out, "mail 2") {
		t.Errorf("%s", out)
	}
	o.until("the metric", func() bool {
		o.service.alerts.Round(t.Context())
		return strings.Contains(o.scrape(), `certpost_alerts{kind="dead_letters",state="silenced"} 1`)
	})
	if out := o.certpost("alerts", "unsilence", key).done(t); out != key+" is no longer silenced\n" {
		t.Errorf("%s", out)
	}
	if records := o.audited(broker.ActionSilenced); len(records) != 1 || records[0].Alert != key || records[0].Reason != "known" {
		t.Errorf("%+v", records)
	}
	if len(r.messages()) != 1 || strings.Contains(o.log.String(), alertSecret) {
		t.Errorf("%d messages; the log: %s", len(r.messages()), o.log)
	}

	d := o.doors()
	for _, c := range []refusal{
		{want: `there is no alert "absent"`, status: http.StatusNotFound, page: "POST /alerts/silence alert=absent&for=1h&reason=x", shell: "alerts silence absent --for=2h --reason=x", code: exitFailed, asks: `alerts.silence {"alert": "absent", "for": "2h", "reason": "x"}`},
		{want: "a silence lasts 1s to 31d, not 31d1h", status: http.StatusBadRequest, shell: "alerts silence all --for=745h --reason=x", code: exitUsage, asks: `alerts.silence {"alert": "all", "for": "31d1h", "reason": "x"}`},
		{want: "a reason is required: the audit keeps it", status: http.StatusUnprocessableEntity, page: "POST /alerts/silence alert=all&for=1h&reason=", shell: "alerts silence all --for=2h --reason=+", code: exitUsage, asks: `alerts.silence {"alert": "all", "for": "2h"}`},
		{want: `"all" is not silenced`, status: http.StatusConflict, page: "POST /alerts/unsilence alert=all", shell: "alerts unsilence all", code: exitFailed, asks: `alerts.unsilence {"alert": "all"}`},
		{want: "for: want a duration such as 2h or 7d", status: http.StatusBadRequest, asks: `alerts.silence {"alert": "all", "for": "long", "reason": "x"}`},
	} {
		d.refuse(c)
	}
	for _, step := range []struct {
		request string
		status  int
		want    string
	}{
		{"GET /alerts", http.StatusOK, "1 dead letter SMTP_PERMANENT"},
		{"POST /alerts/silence alert=" + key + "&for=1h&reason=known", http.StatusSeeOther, ""},
		{"GET /alerts", http.StatusOK, "silenced until"},
		{"POST /alerts/unsilence alert=" + key, http.StatusSeeOther, ""},
		{"POST /alerts/silence alert=all&for=1y&reason=x", http.StatusUnprocessableEntity, "Select one of the durations."},
		{"GET /", http.StatusOK, "Alerts"},
	} {
		if status, text := d.visit(step.request); status != step.status || !strings.Contains(text, step.want) {
			t.Errorf("%s: %d %s", step.request, status, text)
		}
	}
}

// Without NATS a process tells what it knows. A way that fails is visible, and does not keep the other from telling.
//
// Fault: NATS is shut down, and the relay of alerts.mail refuses the mails. Result: the webhook is told all
// the same; /healthz, log and metrics say that the mail fails.
func TestAlertsWithoutNATS(t *testing.T) {
	t.Parallel()
	o := bareFixture(t)
	r := newReceiver(t)
	server := lab.NATS(t, lab.FreeAddress(t), "")
	o.server = fmt.Sprintf("{url: %q}", server.ClientURL())
	o.furnish(o.alerts(r), devrelay.Rule{Stage: devrelay.StageRcpt, Recipient: "oncall@demo.example", Code: 550, Enhanced: "5.1.1", Text: "no canary here"})
	server.Shutdown()
	server.WaitForShutdown()
	var bodies []string
	o.until("the webhook", func() bool {
		o.service.alerts.Round(t.Context())
		bodies = r.messages()
		return len(bodies) > 0
	})
	if !strings.Contains(bodies[0], `"kind":"not_ready"`) || !strings.Contains(bodies[0], "Certpost on "+hostName()) {
		t.Errorf("%s", bodies[0])
	}
	o.until("/healthz", func() bool {
		_, page := o.get("/healthz")
		return strings.Contains(page, `"name":"alerts","tags":["alerts"],"status":"degraded","message":"the mail fails (1 tries): alerts.mail: SMTP_`)
	})
	if text := o.scrape(); !strings.Contains(text, `certpost_alert_failures_total{channel="mail"} 1`) || !strings.Contains(o.log.String(), "alerts: a message could not be sent") {
		t.Errorf("%s\n%s", text, o.log)
	}
}

// `certpost alerts test` sends by each way, and says when one fails; `check` finds what is wrong before.
func TestAlertsTestAndCheck(t *testing.T) {
	t.Parallel()
	o := bareFixture(t)
	r := newReceiver(t)
	o.furnish("")
	section := o.alerts(r)
	o.write("client.yaml", o.connection()+"targets_file: "+o.path("targets.yaml")+"\n"+section)
	if said := o.certpost("check", "--live", "--target", "ops"); said.code != exitDone || !strings.Contains(said.stdout, "ok       alerts: webhook: the receiver answers") || len(r.messages()) != 0 {
		t.Errorf("%+v", said)
	}
	out := o.certpost("alerts", "test").done(t)
	if !strings.Contains(out, "accepted the mail for oncall@demo.example") || !strings.Contains(out, "the webhook accepted the message") {
		t.Errorf("%s", out)
	}
	if mail := o.mailTo("oncall@demo.example", 1); !strings.Contains(string(mail.Raw), "This is a test of Certpost's alerts") {
		t.Errorf("%s", mail.Raw)
	}
	if bodies := r.messages(); len(bodies) != 2 || !strings.Contains(bodies[1], `"status":"resolved"`) {
		t.Errorf("%q", bodies)
	}
	r.mu.Lock()
	r.status = http.StatusInternalServerError
	r.mu.Unlock()
	if said := o.certpost("alerts", "test"); said.code != exitFailed || !strings.Contains(said.stderr, "the receiver did not take the message (500 Internal Server Error)") || strings.Contains(said.stderr, "/hook") {
		t.Errorf("%+v", said)
	}
	r.Close()
	if said := o.certpost("check", "--live", "--target", "ops"); said.code != exitFailed || !strings.Contains(said.stdout, "error    alerts: webhook: alerts.webhook: no answer") || strings.Contains(said.stdout, "/hook") {
		t.Errorf("%+v", said)
	}
}

// What the section alerts cannot mean is refused by check, with the place.
func TestAlertsConfiguration(t *testing.T) {
	t.Parallel()
	const key32 = "0123456789abcdef0123456789abcdef"
	for section, want := range map[string]string{
		"mail: {target: absent, to: [a@example.com]}":                              `alerts.mail.target: target "absent" is not defined`,
		"mail: {target: ops}":                                                      "alerts.mail.to: is required",
		"mail: {to: [a@example.com]}":                                              "alerts.mail.target: is required",
		"mail: {target: ops, to: [nonsense]}":                                      "alerts.mail.to[0]: want an address",
		"mail: {target: mx, to: [a@example.com]}":                                  "is on a mail host",
		"webhook: {url: http://hooks.example.com/canary, secret: {env: S}}":        "alerts.webhook.url: begins with http://",
		"webhook: {url: https://hooks.example.com/canary}":                         "alerts.webhook.secret: is required",
		"webhook: {url: https://hooks.example.com/canary, secret: {value: short}}": "alerts.webhook.secret: is too short",
		"webhook: {url: {env: U}, format: slack, secret: {env: S}}":                "alerts.webhook.secret: has no use with format slack",
		"webhook: {url: https://hooks.slack.com/canary, format: slack}":            "alerts.webhook.url: is in the configuration",
		"webhook: {url: {env: U}, format: pagerduty}":                              "alerts.webhook.secret: is required: the integration key",
		"webhook: {secret: {env: S}}":                                              "alerts.webhook.url: is required",
		"webhook: {url: {env: U}, format: discord}":                                "alerts.webhook.format",
		"repeat: 5m":     "alerts.repeat: must be longer than alerts.interval",
		"letter_age: 0s": "alerts.health: old requires alerts.letter_age",
		"waiting: 2h":    "alerts: sends nothing",
		"webhook: {url: {env: U}, format: slack}, waiting: 72h": "warning: alerts.waiting: is never reached: after delivery.give_up_after, 72h0m0s, a delivery is a dead letter",
		"webhook: {url: {env: U}, format: slack}, waiting: 71h": "the configuration is valid: 2 targets on 2 lanes, 1 warning\n",
		"group_wait: 1m": "alerts: sends nothing",
		"":               "alerts: is empty, and sends nothing",
		"mail: {}":       "alerts.mail: is empty, and sends nothing",
		"health: never":  "the configuration is valid: 2 targets on 2 lanes, 1 warning\n",
		"webhook: {url: https://events.pagerduty.com/v2/enqueue, format: pagerduty, secret: {env: S}}": "the configuration is valid: 2 targets on 2 lanes, 1 warning",
		"webhook: {url: https://hooks.example.com/x, secret: {value: " + key32 + "}}":                  "valid: 2 targets on 2 lanes, 2 warnings",
	} {
		o := bareFixture(t)
		o.write("certpost.yaml", "targets:\n  - {id: ops, host: smtp.example.com, auth_method: none, from_address: a@example.com, to: [b@example.com]}\n"+
			"  - {id: mx, type: file, host: mx1, cert_path: /x/cert.pem, key_path: /x/key.pem}\nalerts: {"+strings.TrimSuffix(strings.TrimPrefix(section, "{"), "\n")+"}\n")
		said := command(t, nil, "-c", o.path("certpost.yaml"), "check")
		if !strings.Contains(said.stdout, want) || strings.Contains(said.stdout+said.stderr, "canary") {
			t.Errorf("%s\nsays %s%s\nwant %s", section, said.stdout, said.stderr, want)
		}
	}
}
