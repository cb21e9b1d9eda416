package main

import (
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/broker"
)

// Letters for the former id of a target go to the target at every door once the targets say so, and
// every door says where they go.
func TestLettersOfARenamedTarget(t *testing.T) {
	t.Parallel()
	o := newFixture(t, "")
	d := o.doors()
	for _, id := range []string{"r1", "r2", "r3", "r4", "r5"} {
		o.publish(id, "retired")
	}
	o.settled()
	if out := o.certpost("dead-letters", "show", "1").done(t); strings.Contains(out, "redirected") || !strings.Contains(out, "former_ids") {
		t.Errorf("before: %s", out)
	}
	text, err := os.ReadFile(o.path("targets.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	o.write("targets.yaml", strings.Replace(string(text), "id: ops\n", "id: ops\n    former_ids: [retired]\n", 1))
	o.until("the targets are read again", func() bool {
		return strings.Contains(o.certpost("dead-letters", "show", "1").done(t), "redirected to ops")
	})

	if status, text := d.visit("GET /dead-letters/1"); status != http.StatusOK || !strings.Contains(text, "redirected to ops") {
		t.Errorf("the page: %d, %s", status, text)
	}
	if status, text := d.request(`dead.show {"number": 1}`); status != http.StatusOK || !strings.Contains(text, `"redirected_to":"ops"`) {
		t.Errorf("the service: %d, %s", status, text)
	}
	if out := o.certpost("dead-letters", "preflight", "1").done(t); !strings.Contains(out, "redirected to ops, of which retired is a former id") {
		t.Errorf("preflight: %s", out)
	}
	if status, text := d.visit("POST /dead-letters/1/replay reason=renamed"); status != http.StatusSeeOther {
		t.Errorf("replay on the page: %d, %s", status, text)
	}
	if out := o.certpost("dead-letters", "replay", "2", "--wait", "--timeout", "1m").done(t); !strings.HasSuffix(out, " ops: delivered\n") {
		t.Errorf("replay by command: %q", out)
	}
	if status, text := d.request(`dead.replay {"numbers": [3]}`); status != http.StatusOK || !strings.Contains(text, "redirected to ops and published for it") {
		t.Errorf("replay by request: %d, %s", status, text)
	}
	o.certpost("dead-letters", "replay", "--all", "--reason", "renamed", "--yes", "--wait").done(t)
	o.settled()
	for _, id := range []string{"r1", "r2", "r3", "r4", "r5"} {
		o.publish(id+"-again", "retired", "ops")
		if e := read[broker.Entry](t, o.certpost("deliveries", "show", id, "ops", "-o", "json").done(t)); e.State != broker.StateSent {
			t.Errorf("%s is %s", id, e.State)
		}
	}
	o.settled()
	if n := o.relay.Count(); n != 10 || len(o.letters()) != 0 {
		t.Errorf("%d mails, %d letters, want 10 and none", n, len(o.letters()))
	}
	// What takes the id of a target takes a former one, and says so.
	const note = "certpost: retired is a former id of target ops\n"
	o.publish("later", "ops")
	o.settled()
	for line, want := range map[string]string{
		"targets show retired":          "former_ids",
		"render --target retired":       "Subject: ",
		"send-test --target retired":    "accepted the test mail",
		"deliveries show later retired": "ops",
	} {
		if s := o.certpost(strings.Fields(line)...); s.code != exitDone || !strings.HasPrefix(s.stderr, note) || !strings.Contains(s.stdout, want) {
			t.Errorf("%s: exit %d, %q and %.300q", line, s.code, s.stderr, s.stdout)
		}
	}
	for line, want := range map[string]string{
		"targets show opps":           `unknown target "opps": did you mean ops?`,
		"send-test --target nonsense": `--target nonsense: unknown target: certpost targets list shows the targets`,
	} {
		if s := o.certpost(strings.Fields(line)...); s.code != exitUsage || !strings.Contains(s.stderr, want) {
			t.Errorf("%s: exit %d, %q", line, s.code, s.stderr)
		}
	}
	if status, text := d.visit("GET /targets/retired"); status != http.StatusOK || !strings.Contains(text, "retired is a former id of this target") {
		t.Errorf("the target's page: %d, %s", status, text)
	}
	if status, text := d.visit("GET /deliveries/retired/later"); status != http.StatusOK || !strings.Contains(text, "ops") {
		t.Errorf("the delivery's page: %d, %s", status, text)
	}
	if status, text := d.request(`deliveries.show {"target": "retired", "event": "later"}`); status != http.StatusOK || !strings.Contains(text, `"target":"ops"`) {
		t.Errorf("the delivery by request: %d, %s", status, text)
	}
	if out := o.certpost("audit", "list", "--action", "replayed", "-o", "json").done(t); strings.Count(out, `"new_target": "ops"`) != 10 { // an intent and an outcome for each
		t.Errorf("audit: %s", out)
	}
}
