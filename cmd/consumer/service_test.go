package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/devrelay"
	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/service"
	"github.com/certpost/certpost/internal/verdict"
)

// natsClient has only a NATS connection.
type natsClient struct {
	t  *testing.T
	nc *nats.Conn
}

func (o *fixture) client() natsClient {
	o.t.Helper()
	nc := lab.Admin(o.t, o.service.broker.URL(), o.path("data"))
	return natsClient{o.t, nc}
}

// ask returns the status ("" if there is none) and the answer.
func (c natsClient) ask(subject, request string) (status string, answer *nats.Msg) {
	c.t.Helper()
	m, err := c.nc.Request("certpost."+subject, []byte(request), 30*time.Second)
	if err != nil {
		c.t.Fatalf("certpost.%s %s: %v", subject, request, err)
	}
	return m.Header.Get("Nats-Service-Error-Code"), m
}

func asked[A any](c natsClient, subject, request string) (answer A) {
	c.t.Helper()
	status, m := c.ask(subject, request)
	if status != "" {
		c.t.Fatalf("certpost.%s %s: %s %s", subject, request, status, m.Data)
	}
	return read[A](c.t, string(m.Data))
}

func TestServiceAnswers(t *testing.T) {
	t.Parallel()
	o := newFixture(t, "", refuseNobody)
	for i := range 5 {
		o.publish(fmt.Sprintf("e%d", i+1), "nobody")
	}
	o.settled()
	c := o.client()

	all := asked[desk.Listing](c, "dead.list", `{"filter": {"order": "oldest"}, "size": 2}`)
	rest := asked[desk.Listing](c, "dead.list", fmt.Sprintf(`{"filter": {"order": "oldest"}, "after": %d}`, all.Next))
	if len(all.Letters) != 2 || all.Total != 5 || all.AsOf != 5 || len(rest.Letters) != 3 || rest.Letters[0].Sequence != 3 || rest.Next != 0 {
		t.Errorf("pages: %+v, %+v", all, rest)
	}
	groups := asked[service.GroupsAnswer](c, "dead.groups", ``)
	if len(groups.Groups) != 1 || groups.Groups[0].Count != 5 || groups.Balance.Open != 5 || groups.Balance.Total != 5 {
		t.Errorf("groups: %+v", groups)
	}
	if one := asked[desk.WholeLetter](c, "dead.show", `{"number": 1}`); one.Status != desk.Open || one.Target != "nobody" || !strings.Contains(one.Body, `"certificate"`) {
		t.Errorf("show: %+v", one)
	}
	if found := asked[service.PreflightAnswer](c, "dead.preflight", `{"number": 1}`); found.OK || len(found.Findings) < 4 || found.Outlook != verdict.NotKnown ||
		found.Verdict != "It is not known whether a replay would be delivered: recipients: not tried; last reply 550 5.1.1 no such user." {
		t.Errorf("preflight: %+v", found)
	}
	if found := asked[service.PreflightAnswer](c, "dead.preflight", `{"number": 1, "recipients": true}`); found.OK || found.Outlook != verdict.WouldFail ||
		!strings.HasPrefix(found.Verdict, "A replay would fail now: recipients: nobody@demo.example: ") {
		t.Errorf("preflight with recipients: %+v", found)
	}
	if found := asked[service.PreflightAnswer](c, "dead.preflight", `{"all": true}`); found.OK || found.Set == nil || len(found.Set.Parts) != 1 || found.Set.Parts[0].Letters != 5 ||
		!strings.HasPrefix(found.Verdict, "Of 5 dead letters: 5 not known") {
		t.Errorf("preflight of all: %+v", found)
	}

	// An invalid request is refused with the reason, and does nothing.
	for request, want := range map[string]string{
		`dead.list {"filter": {"cod": "SMTP_AUTH"}}`:                               `400 invalid filter: unknown key "cod": did you mean code?`,
		`dead.hold {"numbers": [1], "reason": "` + strings.Repeat("é", 501) + `"}`: `422 the reason is longer than 500 characters`,
		`dead.replay {"numbers": [1], "by": "` + strings.Repeat("a", 129) + `"}`:   `400 by is longer than 128 characters`,
		`replays.pause {"id": "x", "reason": "` + strings.Repeat("a", 501) + `"}`:  `422 the reason is longer than 500 characters`,
		`dead.list {"filtre": {"code": "SMTP_AUTH"}}`:                              `400 invalid filter: unknown key "filtre": did you mean filter?`,
		`dead.list {}{}`: `400 the request has more than one JSON value`,
		`dead.list [`:    `400 the request cannot be read: `,
		`dead.list {"filter": {"certainty": "maybe"}}`: `400 invalid filter: certainty: unknown value "maybe": want one of`,
		`dead.replay {}`: `400 no letters are selected: give numbers, a filter, or all`,
		`dead.replay {"numbers": [1], "all": true}`:                                           `400 give one of numbers, filter and all`,
		`dead.replay {"numbers": [1], "canary": true}`:                                        `400 canary and rate require a filter, or all`,
		`dead.replay {"all": true, "rate": "fast"}`:                                           `400 the request cannot be read: `,
		`dead.discard {"numbers": [1]}`:                                                       `422 a reason is required`,
		`dead.hold {"numbers": [1], "reason": "  "}`:                                          `422 a reason is required`,
		`dead.preflight {"number": 1, "all": true}`:                                           `400 give number, or one of`,
		`dead.preflight {"numbers": [1, 77]}`:                                                 `404 there is no dead letter with the number 77`,
		`dead.show {"number": 77}`:                                                            `404 there is no dead letter with the number 77`,
		`dead.replay {"numbers": [1, 77]}`:                                                    `404 there is no dead letter with the number 77`,
		`replays.show {"id": "none"}`:                                                         `404 `,
		`replays.pause {"id": "none"}`:                                                        `404 `,
		`deliveries.show {"traget": "nobody", "event": "gone"}`:                               `400 the request cannot be read: unknown key "traget": did you mean target?`,
		`deliveries.list {"stat": "sent"}`:                                                    `400 invalid filter: unknown key "stat": did you mean state?`,
		`deliveries.retry {"All": true}`:                                                      `400 the request cannot be read: unknown key "All": did you mean all?`,
		`deliveries.show {"target": "nobody", "event": "gone"}`:                               `404 `,
		`dead.replay {"all": true, "reason": "x", "hash": "` + strings.Repeat("0", 64) + `"}`: `409 the selection has changed`,
	} {
		subject, body, _ := strings.Cut(request, " ")
		status, m := c.ask(subject, body)
		var r service.Refusal
		if err := json.Unmarshal(m.Data, &r); err != nil || !strings.HasPrefix(status+" "+r.Text, want) || m.Header.Get("Nats-Service-Error") == "" || fmt.Sprint(r.Status) != status {
			t.Errorf("%s: %s %s, want %s", request, status, m.Data, want)
		}
	}
	if len(o.letters()) != 5 {
		t.Fatal("something was done")
	}

	// A held letter can be replayed only after its release.
	if held := asked[service.OrderAnswer](c, "dead.hold", `{"numbers": [2], "reason": "looking into it", "by": "Ann\u0000e"}`); held.Done != 1 {
		t.Errorf("hold: %+v", held)
	}
	if status, m := c.ask("dead.replay", `{"numbers": [2]}`); status != "409" || !strings.Contains(string(m.Data), "held") {
		t.Errorf("replay of a held letter: %s %s", status, m.Data)
	}
	// An action that the letter's state does not allow is refused, with what to do.
	for request, want := range map[string]string{
		`dead.hold {"numbers": [2], "reason": "me too"}`: "409 dead letter 2 is held by Ann�e, unproved since ",
		`dead.discard {"numbers": [2], "reason": "x"}`:   "looking into it; release it first",
		`dead.replay {"numbers": [2]}`:                   "409 dead letter 2 is held by Ann�e, unproved since ",
		`dead.release {"numbers": [3]}`:                  "409 dead letter 3 is not held",
		`dead.restore {"numbers": [3]}`:                  "404 number 3 is not a discarded dead letter",
		`replays.pause {"id": "none"}`:                   `404 there is no replay run "none"`,
	} {
		subject, body, _ := strings.Cut(request, " ")
		status, m := c.ask(subject, body)
		var r service.Refusal
		if err := json.Unmarshal(m.Data, &r); err != nil || !strings.Contains(status+" "+r.Text, want) || !strings.HasPrefix(status, "4") {
			t.Errorf("%s: %s %s, want %s", request, status, m.Data, want)
		}
	}
	if left := asked[service.OrderAnswer](c, "dead.replay", `{"all": true, "dry_run": true}`); left.Frozen.Count != 4 || left.Frozen.Held != 1 || left.Run != nil {
		t.Errorf("dry run: %+v", left.Frozen)
	}
	if out := o.certpost("dead-letters", "show", "2").done(t); !strings.Contains(out, "looking into it") || !strings.Contains(out, "Ann?e") {
		t.Errorf("the hold is not shown:\n%s", out)
	}
	if free := asked[service.OrderAnswer](c, "dead.release", `{"numbers": [2]}`); free.Done != 1 {
		t.Errorf("release: %+v", free)
	}

	if err := o.relay.SetRules([]devrelay.Rule{}); err != nil {
		t.Fatal(err)
	}
	if done := asked[service.OrderAnswer](c, "dead.replay", `{"numbers": [2], "by": "night job", "reason": "fixed"}`); done.Done != 1 || done.Letters[0].Error != "" {
		t.Errorf("replay: %+v", done)
	}
	status, m := c.ask("dead.replay", `{"numbers": [2]}`)
	conflict := read[service.Refusal](t, string(m.Data))
	if status != fmt.Sprint(http.StatusConflict) || conflict.Conflict == nil || conflict.Conflict.LetterNumber != 2 {
		t.Errorf("a second replay: %s %s", status, m.Data)
	}
	records := asked[service.HistoryAnswer](c, "history.list", `{"letter": 2, "action": "replayed"}`)
	if len(records.Records) == 0 || records.Records[0].Name != "night job" || records.Records[0].Via != broker.ViaService || records.Records[0].Hash == "" {
		t.Errorf("audit: %+v", records)
	}

	o.until("the replayed letter is off the list", func() bool {
		return len(asked[desk.Listing](c, "dead.list", `{"filter": {"target": "nobody"}}`).Letters) == 4
	})
	// The rest is replayed by a run, on which the running program works.
	started := asked[service.OrderAnswer](c, "dead.replay", `{"filter": {"target": "nobody"}, "reason": "fixed", "rate": "100/s", "by": "night job"}`)
	if started.Run == nil || started.Frozen.Count != 4 {
		t.Fatalf("run: %+v of %+v", started.Run, started.Frozen)
	}
	o.until("the end of the run", func() bool {
		run := asked[desk.RunPage](c, "replays.show", fmt.Sprintf(`{"id": %q, "size": 10}`, started.Run.ID))
		return run.State == desk.RunDone && run.Delivered == 4 && len(run.Results) == 4
	})
	if n := o.relay.Count(); n != 5 {
		t.Errorf("%d mails, want 5", n)
	}
	o.until("the balance", func() bool {
		b := asked[service.GroupsAnswer](c, "dead.groups", ``).Balance
		return b.Open == 0 && b.Total == 5 && b.Ended[desk.Replayed] == 5
	})
	if sent := asked[desk.DeliveryListing](c, "deliveries.list", `{"name": "www.example.com", "state": "sent"}`); sent.Total != 5 {
		t.Errorf("deliveries: %+v", sent)
	}
	entry := asked[desk.DeliveryDetail](c, "deliveries.show", `{"target": "nobody", "event": "e2"}`)
	if entry.State != broker.StateSent || len(entry.History) == 0 {
		t.Errorf("delivery: %+v", entry)
	}
}

// Without the NATS service the commands read the streams directly, and report what they
// cannot do.
func TestCommandsWithoutTheService(t *testing.T) {
	t.Parallel()
	o := bareFixture(t)
	o.silent = true
	o.furnish("", refuseNobody)
	for i := range 3 {
		o.publish(fmt.Sprintf("e%d", i+1), "nobody")
		o.settled()
	}
	if list := read[[]desk.Letter](t, o.certpost("dead-letters", "list", "-o", "json").done(t)); len(list) != 3 {
		t.Errorf("list: %+v", list)
	}
	if out := o.certpost("dead-letters", "show", "1").done(t); !strings.Contains(out, "no such user") {
		t.Errorf("show:\n%s", out)
	}
	if said := o.certpost("dead-letters", "preflight", "1"); said.code != exitFailed || !strings.Contains(said.stdout, "no running certpost answers") {
		t.Errorf("preflight: %+v", said)
	}
	o.certpost("dead-letters", "hold", "1", "--reason", "wait").done(t)
	if said := o.certpost("dead-letters", "discard", "1", "--reason", "no"); said.code != exitFailed || !strings.Contains(said.stderr, "held") {
		t.Errorf("discard of a held letter: %+v", said)
	}
	if out, _ := o.certpost("dead-letters", "discard", "--all", "--event", "e2", "--reason", "no", "--yes").undoable(t); out != "1 dead letter discarded\n" {
		t.Errorf("discard: %q", out)
	}
	if err := o.relay.SetRules([]devrelay.Rule{}); err != nil {
		t.Fatal(err)
	}
	o.certpost("dead-letters", "release", "1").done(t)
	// The program works on the run, even if it learns of it before it has read the last letter.
	if out := o.certpost("dead-letters", "replay", "--all", "--yes", "--wait", "--reason", "fixed").done(t); !strings.Contains(out, "Delivered") {
		t.Errorf("run:\n%s", out)
	}
	if n := o.relay.Count(); n != 2 {
		t.Errorf("%d mails, want 2", n)
	}
}

func TestAuditCommands(t *testing.T) {
	t.Parallel()
	o := newFixture(t, "", refuseNobody)
	o.until("the first record, of the key", func() bool {
		return strings.Contains(o.certpost("audit", "list").done(t), "from this record on, all records and all entries of the ledger are signed")
	})
	if out := o.certpost("audit", "list", "--action", "discarded").done(t); out != "no matching records\n" {
		t.Errorf("before anything: %q", out)
	}
	o.publish("first", "nobody")
	o.settled()
	o.certpost("dead-letters", "discard", "1", "--reason", "=SUM(1)").done(t)
	o.certpost("dead-letters", "restore", "1", "--reason", "after all").done(t)

	list := read[[]desk.Record](t, o.certpost("audit", "list", "--letter", "1", "--action", "discarded", "-o", "json").done(t))
	if len(list) == 0 || list[0].Reason != "=SUM(1)" || list[0].Name != actor() || list[0].Via != broker.ViaShell || list[0].Body != nil {
		t.Errorf("list: %+v", list)
	}
	if out := o.certpost("audit", "list", "--action", "discarded", "-o", "csv").done(t); !strings.Contains(out, ",'=SUM(1),") {
		t.Errorf("a reason becomes a formula:\n%s", out)
	}
	o.laneAndTime(list[0].Time)
	before := ""
	for line := range strings.Lines(o.certpost("audit", "export").done(t)) {
		r := read[desk.Record](t, line)
		if before != "" && r.Previous != before {
			t.Errorf("record %d does not follow: %s", r.Sequence, line)
		}
		before = r.Hash
	}
	out := o.certpost("audit", "verify").done(t)
	_, anchor, _ := strings.Cut(strings.TrimSpace(out), "--anchor ")
	if !strings.HasSuffix(anchor, ":"+before) {
		t.Errorf("verify says\n%s\nand the export ends with %s", out, before)
	}
	o.certpost("dead-letters", "hold", "2", "--reason", "wait").done(t)
	o.certpost("audit", "verify", "--anchor", anchor).done(t)
	number, _, _ := strings.Cut(anchor, ":")
	if said := o.certpost("audit", "verify", "--anchor", number+":"+strings.Repeat("0", 64)); said.code != exitFailed || !strings.Contains(said.stderr, "differs from its anchor") {
		t.Errorf("another anchor: %+v", said)
	}
	nc := o.client().nc
	if err := nc.Publish("certpost.audit.discarded.nobody.first", []byte(`{"by": "thief"}`)); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	if said := o.certpost("audit", "verify"); said.code != exitFailed || !strings.Contains(said.stderr, "was not written by Certpost") {
		t.Errorf("a forged record: %+v", said)
	}
	report := read[broker.AuditReport](t, o.certpost("audit", "verify", "-o", "json").stdout)
	if report.Break == nil || report.Break.Kind != broker.BreakForeign {
		t.Errorf("a forged record: %+v", report)
	}
}

// Every caller may change only what the configuration lists.
func TestEditAndReplay(t *testing.T) {
	t.Parallel()
	o := newFixture(t, "", refuseNobody)
	o.publish("first", "nobody")
	o.settled()
	edit := func(more ...string) said {
		return o.certpost(append([]string{"dead-letters", "edit", "1", "--reason", "they have moved"}, more...)...)
	}
	for _, more := range [][]string{{"--target", "prod"}, {"--to", "nobody@demo.example"}} {
		if said := edit(more...); said.code != exitFailed || !strings.Contains(said.stderr, "editing is disabled") {
			t.Errorf("%v: %+v", more, said)
		}
	}
	edit().failed(t, exitUsage, "certpost: dead-letters edit: the edit changes nothing: name another target, or recipients\nSee certpost dead-letters edit --help.\n")

	on := newEditingFixture(t)
	on.publish("first", "nobody")
	on.settled()
	o = on
	for _, more := range [][]string{{"--target", "keys"}, {"--target", "prod", "--to", "thief@evil.example"}, {"--to", "prod@demo.example"}} {
		if said := edit(more...); said.code != exitFailed || !strings.Contains(said.stderr, "in http.edit_and_replay.") {
			t.Errorf("%v: %+v", more, said)
		}
	}
	if out := edit("--target", "prod", "--to", "desk@help.example", "--to", "prod@demo.example").done(t); out != "[1/1] first prod: published for prod\n" {
		t.Errorf("edit says %q", out)
	}
	on.mailTo("prod@demo.example desk@help.example", 1)
	on.settled()
	records := on.audited(broker.ActionReplayed)
	if len(records) == 0 || records[len(records)-1].NewTarget != "prod" || len(records[len(records)-1].NewRecipients) != 2 || records[len(records)-1].Reason != "they have moved" {
		t.Errorf("audit: %+v", records)
	}
}

func newEditingFixture(t *testing.T) *fixture {
	t.Helper()
	o := bareFixture(t)
	o.http = ", edit_and_replay: {enabled: true, targets: [prod], recipients: [\"*@help.example\"]}"
	o.furnish("", refuseNobody)
	return o
}

// A request must not become a message of a stream.
func TestNoStreamTakesRequests(t *testing.T) {
	t.Parallel()
	o := newFixture(t, "")
	js := o.jetStream()
	for _, name := range service.Names() {
		if stream, err := js.StreamNameBySubject(t.Context(), "certpost."+name); err == nil {
			t.Errorf("stream %s takes certpost.%s", stream, name)
		}
	}
}

// laneAndTime requests records by lane and by time, from the running program and from the
// stream: both return the same.
func (o *fixture) laneAndTime(at time.Time) {
	o.t.Helper()
	lanes := read[[]struct{ Lane string }](o.t, o.certpost("relays", "list", "-o", "json").done(o.t))
	if len(lanes) == 0 {
		o.t.Fatal("there is no lane")
	}
	lane := lanes[0].Lane
	o.certpost("relays", "suspend", lane, "--reason", "maintenance", "--for", "1h").done(o.t)
	o.certpost("relays", "resume", lane).done(o.t)
	moment := at.UTC().Format(time.RFC3339Nano)
	counts := map[string]int{}
	for name, filter := range map[string][]string{"lane": {"--lane", lane}, "another lane": {"--lane", "none"}, "before": {"--to", moment}, "from": {"--from", moment}, "neither": {"--from", moment, "--to", moment}} {
		listed := read[[]desk.Record](o.t, o.certpost(append([]string{"audit", "list", "--limit", "0", "-o", "json"}, filter...)...).done(o.t))
		if exported := o.certpost(append([]string{"audit", "export"}, filter...)...).done(o.t); strings.Count(exported, "\n") != len(listed) {
			o.t.Errorf("%s: the list has %d records, the export\n%s", name, len(listed), exported)
		}
		counts[name] = len(listed)
	}
	if counts["lane"] != 2 || counts["another lane"] != 0 || counts["before"] == 0 || counts["from"] < 3 || counts["neither"] != 0 {
		o.t.Errorf("%v", counts)
	}
	if all := read[[]desk.Record](o.t, o.certpost("audit", "list", "--limit", "0", "-o", "json").done(o.t)); len(all) != counts["before"]+counts["from"] {
		o.t.Errorf("%d records, %v", len(all), counts)
	}
	if said := o.certpost("audit", "list", "--from", "yesterday"); said.code != exitUsage || !strings.Contains(said.stderr, "want a date (2026-01-31)") {
		o.t.Errorf("%+v", said)
	}
}
