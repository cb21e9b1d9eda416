package main

import (
	"cmp"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/broker"
)

// newDoorsFixture has the letters 1 (open), 2 (held) and 3 (discarded). They may be edited
// for the target prod, which the configuration lists twice, for off, which is disabled, and
// for absent, which is not defined.
func newDoorsFixture(t *testing.T) *doors {
	t.Helper()
	o := bareFixture(t)
	o.http = ", edit_and_replay: {enabled: true, targets: [prod, prod, \"off\", absent], recipients: [\"*@help.example\"]}"
	o.furnish("", refuseNobody)
	targets, err := os.ReadFile(o.path("targets.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	o.write("targets.yaml", string(targets)+o.target("off", "disabled: true", "to: [off@demo.example]"))
	o.until("the disabled target", func() bool { _, ok := o.service.cfg.Book.Current().Get("off"); return ok })
	o.letters123()
	return o.doors()
}

// letters123 makes the letters 1 (open), 2 (held) and 3 (discarded).
func (o *fixture) letters123() {
	o.t.Helper()
	for _, id := range []string{"first", "second", "third"} {
		o.publish(id, "nobody")
		o.settled()
	}
	o.certpost("dead-letters", "hold", "2", "--reason", "looking into it").done(o.t)
	o.certpost("dead-letters", "discard", "3", "--reason", "not wanted").done(o.t)
}

// each is a refusal of the four acts that have a number, by number.
func each(want string, status, code int, verbs, number, reason string) (all []refusal) {
	for verb := range strings.FieldsSeq(verbs) {
		r := refusal{want: want, status: status, code: code,
			page:  "POST /dead-letters/" + number + "/" + verb + " reason=" + reason,
			shell: "dead-letters " + verb + " " + number + " --reason=" + cmp.Or(reason, "+"),
			asks:  "dead." + verb + ` {"numbers": [` + number + `], "reason": "` + strings.ReplaceAll(reason, "+", " ") + `"}`}
		all = append(all, r)
	}
	return all
}

// An act that is not possible is refused in the same words at every door, and nothing is
// done.
func TestRefusedActsAreTheSame(t *testing.T) {
	t.Parallel()
	d := newDoorsFixture(t)
	const (
		notFound, forbidden, conflict, wrongText = http.StatusNotFound, http.StatusForbidden, http.StatusConflict, http.StatusUnprocessableEntity
		noReason                                 = "a reason is required: the audit keeps it"
		tooLong                                  = "the reason is longer than 500 characters: shorten it"
		badRate                                  = "want a number of mails and a period (s, min, h, day), such as 14/s or 500/day"
	)
	long, zeros := strings.Repeat("a", 600), strings.Repeat("0", 64)
	var all []refusal
	// Reasons.
	all = append(all, each(noReason, wrongText, exitUsage, "discard hold", "1", "")...)
	all = append(all, each(noReason, wrongText, exitUsage, "discard hold", "1", "++")...)
	all = append(all, each(tooLong, wrongText, exitUsage, "replay discard hold", "1", long)...)
	all = append(all, each(tooLong, wrongText, exitUsage, "release", "2", long)...)
	all = append(all, each(tooLong, wrongText, exitUsage, "restore", "3", long)...)
	for _, verb := range []string{"replay", "discard", "hold"} {
		many := refusal{noReason, wrongText, "POST /dead-letters/bulk all=yes&action=" + verb, "dead-letters " + verb + " --all --yes", exitUsage, "dead." + verb + ` {"all": true}`}
		all = append(all, many)
		many.want, many.page, many.shell, many.asks = tooLong, many.page+"&reason="+long, many.shell+" --reason="+long, "dead."+verb+` {"all": true, "reason": "`+long+`"}`
		all = append(all, many)
	}
	all = append(all, refusal{tooLong, wrongText, "POST /dead-letters/bulk all=yes&action=release&reason=" + long, "dead-letters release --all --yes --reason=" + long, exitUsage, `dead.release {"all": true, "reason": "` + long + `"}`})
	// What a letter's state does not allow.
	all = append(all, each("dead letter 2 is held by ", conflict, exitFailed, "replay discard hold", "2", "x")...)
	all = append(all, each("dead letter 1 is not held", conflict, exitFailed, "release", "1", "x")...)
	all = append(all, each("number 1 is not a discarded dead letter", notFound, exitFailed, "restore", "1", "x")...)
	all = append(all, each("dead letter 3 was discarded by ", conflict, exitFailed, "replay discard hold release", "3", "x")...)
	all = append(all, each("there is no dead letter with the number 77", notFound, exitFailed, "replay discard hold release restore", "77", "x")...)
	all = append(all,
		refusal{want: "there is no dead letter with the number 77", status: notFound, page: "GET /dead-letters/77", shell: "dead-letters show 77", code: exitFailed, asks: `dead.show {"number": 77}`},
		refusal{want: "there is no dead letter with the number 77", status: notFound, page: "POST /dead-letters/77/preflight", shell: "dead-letters preflight 77", code: exitFailed, asks: `dead.preflight {"number": 77}`},
		refusal{want: "there is no dead letter with the number 77", status: notFound, page: "POST /dead-letters/77/edit target=prod&reason=x&confirm=yes", shell: "dead-letters edit 77 --target=prod --reason=x", code: exitFailed, asks: `dead.edit {"number": 77, "target": "prod", "reason": "x"}`})
	// Letters that were selected on the list, of which none can be acted on.
	for _, verb := range []string{"discard", "hold", "release"} {
		all = append(all, refusal{want: "there is no dead letter with the number 77", status: notFound, page: "POST /dead-letters/bulk reason=x&number=77&action=" + verb})
	}
	all = append(all, refusal{want: "dead letter 2 is held by ", status: conflict, page: "POST /dead-letters/bulk reason=x&number=2&action=hold"},
		refusal{want: "dead letter 1 is not held", status: conflict, page: "POST /dead-letters/bulk reason=x&number=1&action=release"})
	// Edits.
	edit := func(want string, status, code int, number, target, to, reason string) refusal {
		r := refusal{want: want, status: status, code: code, page: "POST /dead-letters/" + number + "/edit confirm=yes&target=" + cmp.Or(target, "nobody") + "&recipients=" + to + "&reason=" + reason,
			shell: "dead-letters edit " + number + " --reason=" + cmp.Or(reason, "+"), asks: `dead.edit {"number": ` + number + `, "target": "` + target + `", "reason": "` + reason + `"`}
		if target != "" {
			r.shell += " --target=" + target
		}
		if to != "" {
			r.shell += " --to=" + to
			r.asks += `, "recipients": ["` + to + `"]`
		}
		r.asks += "}"
		return r
	}
	const noEdit = "the edit changes nothing: name another target, or recipients"
	all = append(all,
		edit(`target "off" is disabled`, forbidden, exitFailed, "1", "off", "", "x"),
		edit(`target "absent" is not defined`, notFound, exitFailed, "1", "absent", "", "x"),
		edit(`target "nowhere" is not in http.edit_and_replay.targets`, forbidden, exitFailed, "1", "nowhere", "", "x"),
		edit(`target "ops" is not in http.edit_and_replay.targets`, forbidden, exitFailed, "1", "ops", "", "x"),
		edit(`recipient thief@evil.example is neither a recipient of the target nor in http.edit_and_replay.recipients`, forbidden, exitFailed, "1", "prod", "thief@evil.example", "x"),
		edit(`recipient nonsense is neither a recipient of the target`, forbidden, exitFailed, "1", "", "nonsense", "x"),
		edit(noEdit, wrongText, exitUsage, "1", "nobody", "", "x"),
		edit(noEdit, wrongText, exitUsage, "1", "", "", "x"),
		edit(noReason, wrongText, exitUsage, "1", "prod", "", ""),
		edit(tooLong, wrongText, exitUsage, "1", "prod", "", long),
		edit("dead letter 2 is held by ", conflict, exitFailed, "2", "prod", "", "x"),
		edit("dead letter 3 was discarded by ", conflict, exitFailed, "3", "prod", "", "x"))
	// Runs.
	all = append(all,
		refusal{want: badRate, status: http.StatusBadRequest, page: "POST /dead-letters/bulk action=replay&all=yes&reason=x&rate=fast", shell: "dead-letters replay --all --yes --reason=x --rate=fast", code: exitUsage, asks: `dead.replay {"all": true, "reason": "x", "rate": "fast"}`},
		refusal{want: badRate, status: http.StatusBadRequest, page: "POST /dead-letters/bulk action=replay&all=yes&reason=x&rate=0/s", shell: "dead-letters replay --all --yes --reason=x --rate=0/s", code: exitUsage, asks: `dead.replay {"all": true, "reason": "x", "rate": "0/s"}`},
		// On the page letters that were selected are a run, which may have a canary and a rate.
		refusal{want: "canary and rate require a filter, or all: ", status: http.StatusBadRequest, shell: "dead-letters replay 1 --canary", code: exitUsage, asks: `dead.replay {"numbers": [1], "canary": true}`},
		refusal{want: "canary and rate require a filter, or all: ", status: http.StatusBadRequest, shell: "dead-letters replay 1 --rate=1/s", code: exitUsage, asks: `dead.replay {"numbers": [1], "rate": "1/s"}`})
	for _, verb := range []string{"replay", "discard", "hold", "release"} {
		all = append(all, refusal{"the selection has changed", conflict, "POST /dead-letters/bulk all=yes&reason=x&action=" + verb + "&hash=" + zeros,
			"dead-letters " + verb + " --all --yes --reason=x --hash=" + zeros, exitFailed, "dead." + verb + ` {"all": true, "reason": "x", "hash": "` + zeros + `"}`})
	}
	for _, verb := range []string{"pause", "resume", "cancel"} {
		for _, id := range []string{"absent", "a.b", "*", ">", "a+b"} {
			all = append(all, refusal{`there is no replay run "` + strings.ReplaceAll(id, "+", " ") + `"`, notFound, "POST /replays/" + strings.ReplaceAll(id, "+", "%20") + "/" + verb + " reason=x",
				"replays " + verb + " " + id + " --reason=x", exitFailed, "replays." + verb + ` {"id": "` + strings.ReplaceAll(id, "+", " ") + `"}`})
		}
		all = append(all, refusal{tooLong, wrongText, "POST /replays/absent/" + verb + " reason=" + long, "replays " + verb + " absent --reason=" + long, exitUsage, "replays." + verb + ` {"id": "absent", "reason": "` + long + `"}`},
			refusal{`there is no replay run ""`, notFound, "", "", 0, "replays." + verb + ` {"id": ""}`})
	}
	all = append(all, refusal{`there is no replay run "absent"`, notFound, "GET /replays/absent", "replays show absent", exitFailed, `replays.show {"id": "absent"}`})
	for _, r := range all {
		d.refuse(r)
	}
	if len(d.letters()) != 2 || d.relay.Count() != 0 {
		t.Errorf("%d letters and %d mails, want 2 and none", len(d.letters()), d.relay.Count())
	}
}

// While editing is switched off, every door refuses an edit.
func TestEditsWhileOffAreRefused(t *testing.T) {
	t.Parallel()
	o := newFixture(t, "", refuseNobody)
	o.publish("first", "nobody")
	o.settled()
	d := o.doors()
	const off = "editing is disabled: http.edit_and_replay.enabled is not set"
	d.refuse(refusal{off, http.StatusForbidden, "GET /dead-letters/edit/1", "dead-letters edit 1 --target=prod --reason=x", exitFailed, `dead.edit {"number": 1, "target": "prod", "reason": "x"}`})
	d.refuse(refusal{off, http.StatusForbidden, "POST /dead-letters/1/edit target=prod&reason=x&confirm=yes", "dead-letters edit 1 --to=nobody@demo.example --reason=x", exitFailed, `dead.edit {"number": 1, "recipients": ["nobody@demo.example"], "reason": "x"}`})
}

// A reason of 500 characters is accepted at every door.
func TestLongestReason(t *testing.T) {
	t.Parallel()
	d := newDoorsFixture(t)
	longest := strings.Repeat("é", broker.MaxReason)
	for _, hold := range []func() bool{
		func() bool {
			status, _ := d.visit("POST /dead-letters/1/hold reason=" + longest)
			return status == http.StatusSeeOther
		},
		func() bool { return d.run("dead-letters hold 1 --reason="+longest).code == exitDone },
		func() bool {
			status, _ := d.request(`dead.hold {"numbers": [1], "reason": "` + longest + `"}`)
			return status == http.StatusOK
		},
	} {
		if !hold() {
			t.Error("a door does not accept a reason of 500 characters")
		}
		d.certpost("dead-letters", "release", "1").done(t)
	}
	records := d.audited(broker.ActionHeld)
	if len(records) != 4 || records[1].Reason != longest || records[2].Reason != longest || records[3].Reason != longest {
		t.Errorf("the audit has %d records of holds, want 4 of which 3 have the longest reason", len(records))
	}
}

// What is no number of a letter is refused by each door where it reads numbers: a page by
// its address, a command and the service by their kind of value.
func TestNumbersThatAreNone(t *testing.T) {
	t.Parallel()
	d := newDoorsFixture(t)
	for _, r := range []refusal{
		{want: "not found", status: http.StatusNotFound, page: "GET /dead-letters/x"},
		{want: "not found", status: http.StatusNotFound, page: "POST /dead-letters/-1/discard reason=x"},
		{want: `"x" is not a letter number`, status: http.StatusBadRequest, page: "POST /dead-letters/bulk action=discard&reason=x&number=x"},
		{want: `NUMBER: want a number, not "x"`, code: exitUsage, shell: "dead-letters discard x --reason=x"},
		{want: "the request cannot be read: ", status: http.StatusBadRequest, asks: `dead.discard {"numbers": ["x"], "reason": "x"}`},
		{want: "the request cannot be read: ", status: http.StatusBadRequest, asks: `dead.discard {"numbers": [-1], "reason": "x"}`},
		{want: "there is no dead letter with the number 0", status: http.StatusNotFound, code: exitFailed, shell: "dead-letters discard 0 --reason=x", asks: `dead.discard {"numbers": [0], "reason": "x"}`},
		{want: "there is no dead letter with the number 0", status: http.StatusNotFound, code: exitFailed, shell: "dead-letters show 0", asks: `dead.show {}`},
		{want: "there is no dead letter with the number 0", status: http.StatusNotFound, code: exitFailed, shell: "dead-letters preflight 0", asks: `dead.preflight {}`},
		{want: "there is no dead letter with the number 0", status: http.StatusNotFound, code: exitFailed, shell: "dead-letters restore 0", asks: `dead.restore {"numbers": [0]}`},
		{want: "there is no dead letter with the number 18446744073709551615", status: http.StatusNotFound, page: "POST /dead-letters/18446744073709551615/discard reason=x",
			code: exitFailed, shell: "dead-letters discard 18446744073709551615 --reason=x", asks: `dead.discard {"numbers": [18446744073709551615], "reason": "x"}`},
		{want: "no letters are selected: give ", status: http.StatusBadRequest, code: exitUsage, shell: "dead-letters discard --reason=x", asks: `dead.discard {"reason": "x"}`},
		{want: "no letter is selected", status: http.StatusBadRequest, page: "POST /dead-letters/bulk action=discard&reason=x"},
		{want: "names letters by number and all that match", status: http.StatusBadRequest, page: "POST /dead-letters/bulk action=discard&reason=x&number=1&all=yes"},
		{want: "give one of numbers, filter and all", status: http.StatusBadRequest, asks: `dead.discard {"reason": "x", "numbers": [1], "all": true}`},
		// One that is none stops the others.
		{want: "there is no dead letter with the number 77", status: http.StatusNotFound, code: exitFailed, shell: "dead-letters discard 1 77 --reason=x", asks: `dead.discard {"numbers": [1, 77], "reason": "x"}`},
	} {
		d.refuse(r)
	}
}

// A number that is given twice is one.
func TestNumbersGivenTwice(t *testing.T) {
	t.Parallel()
	d := newDoorsFixture(t)
	for _, dry := range []string{"--dry-run", "--output=text"} {
		if said := d.run("dead-letters discard 1 1 --reason=x " + dry); said.code != 0 || !strings.HasPrefix(said.stdout, "[1/1] first nobody: ") {
			t.Errorf("discard 1 1 %s: %+v, want letter 1 once", dry, said)
		}
	}
}

// A target or a recipient that is named twice is one.
func TestEditNamedTwice(t *testing.T) {
	t.Parallel()
	d := newDoorsFixture(t)
	if _, body := d.send("GET", "/dead-letters/edit/1", ""); strings.Count(body, `<option value="prod"`) != 1 || strings.Contains(body, `<option value="off"`) || strings.Contains(body, `<option value="absent"`) {
		t.Errorf("the form offers\n%s\nwant the target prod once, and neither off nor absent", body)
	}
	d.run("dead-letters edit 1 --target=prod --to=desk@help.example --to=desk@help.example --reason=x").done(t)
	d.settled()
	if got := strings.Join(d.relay.Mails()[0].Recipients, " "); got != "desk@help.example" {
		t.Errorf("the mail went to %s, want one desk@help.example", got)
	}
}
