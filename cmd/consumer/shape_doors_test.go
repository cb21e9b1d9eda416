package main

import (
	"encoding/csv"
	"encoding/json"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/devrelay"
)

// shape is one thing as JSON at the doors: the keys that lead to it from the answer of each,
// "0" for the first of a list. A door with "" does not have it.
type shape struct {
	name, page, shell, asks string
	ofPage, ofShell, ofNATS string // the way to the thing
}

// byData are the keys whose maps are keyed by data: references of secrets, statuses, ids.
var byData = map[string]bool{"secrets": true, "ended": true, "query": true}

// keysOf are the paths of all keys of a value, the things of a list under one.
func keysOf(value any, path string, keys map[string]bool) {
	switch v := value.(type) {
	case map[string]any:
		for key, inner := range v {
			keys[path+"."+key] = true
			if !byData[key] {
				keysOf(inner, path+"."+key, keys)
			}
		}
	case []any:
		for _, inner := range v {
			keysOf(inner, path+"[]", keys)
		}
	}
}

// thing is the part of an answer to which a way leads: "letters 0".
func thing(t *testing.T, text, way string) any {
	t.Helper()
	value := read[any](t, text)
	for step := range strings.FieldsSeq(way) {
		switch v := value.(type) {
		case map[string]any:
			value = v[step]
		case []any:
			if len(v) == 0 {
				t.Fatalf("an empty list where %s should lead: %s", way, text)
			}
			value = v[0]
		}
	}
	return value
}

var snakeCase = regexp.MustCompile(`^[a-z0-9_]+$`)

// A thing has the same keys in JSON at every door, in snake case, and no time that is none.
func TestOneShape(t *testing.T) {
	t.Parallel()
	o := newFixture(t, "", refuseNobody, devrelay.Rule{Stage: devrelay.StageRcpt, Recipient: "prod@*", Code: 550, Enhanced: "5.1.1", Text: "not yet", Times: 1})
	o.publish("mended", "prod")
	o.settled()
	o.certpost("dead-letters", "replay", "--all", "--yes", "--wait", "--reason", "mended").done(t)
	o.letters234()
	d := o.doors()
	run := read[[]desk.Run](t, o.certpost("replays", "list", "-o", "json").done(t))[0].ID
	o.until("the page has read the letters", func() bool { return strings.Count(d.listed("/dead-letters", nil), "<tr data-row>") == 2 })
	for _, s := range []shape{
		{"a letter of the list", "/dead-letters.json?order=oldest", "dead-letters list", `dead.list {"filter": {"order": "oldest"}}`, "0", "0", "letters 0"},
		{"a held letter of the list", "/dead-letters.json?held=yes", "dead-letters list --held=yes", `dead.list {"held": true}`, "0", "0", "letters 0"},
		{"an open letter", "/dead-letters/2.json", "dead-letters show 2", `dead.show {"number": 2}`, "", "", ""},
		{"a held letter", "/dead-letters/3.json", "dead-letters show 3", `dead.show {"number": 3}`, "", "", ""},
		{"a discarded letter", "/dead-letters/4.json", "dead-letters show 4", `dead.show {"number": 4}`, "", "", ""},
		{"a group", "/dead-letters.json?view=groups", "dead-letters groups", `dead.groups`, "0", "0", "groups 0"},
		{"a delivery that was sent", "/deliveries.json?state=sent", "deliveries list --state=sent", `deliveries.list {"state": "sent"}`, "0", "0", "entries 0"},
		{"a delivery that failed", "/deliveries.json?state=dead", "deliveries list --state=dead", `deliveries.list {"state": "dead"}`, "0", "0", "entries 0"},
		{"a delivery by its event", "/deliveries/prod/mended.json", "deliveries show mended prod", `deliveries.show {"target": "prod", "event": "mended"}`, "", "", ""},
		{"a record of the start of a run", "/audit.json?action=started", "audit list --action=started", `history.list {"action": "started"}`, "0", "0", "records 0"},
		{"a record of a discard", "/audit.json?action=discarded", "audit list --action=discarded", `history.list {"action": "discarded"}`, "0", "0", "records 0"},
		{"a record of a hold", "/audit.json?action=held", "audit list --action=held", `history.list {"action": "held"}`, "0", "0", "records 0"},
		{"a run of the list", "/replays.json", "replays list", `replays.list`, "0", "0", "runs 0"},
		{"a run", "/replays/" + run + ".json", "replays show " + run, `replays.show {"id": "` + run + `", "size": 100}`, "", "", ""},
	} {
		d.sameShape(s)
	}

	// What only some doors have.
	for _, page := range []string{"/targets.json", "/targets/ops.json", "/relays.json", "/relays/localhost-" + port(o.relay.Submission()) + ".json", "/dead-letters/confirm.json?action=replay&all=yes", "/dead-letters/groups/" + d.fingerprint() + ".json"} {
		if status, body := d.send("GET", page, ""); status != http.StatusOK {
			t.Errorf("%s: %d %s", page, status, body)
		} else {
			wellFormed(t, page, body)
		}
	}
	for _, line := range []string{"relays list", "dead-letters replay --all --dry-run"} {
		wellFormed(t, line, d.run(line+" -o json").done(t))
	}
	wellFormed(t, "dead-letters preflight 2", d.run("dead-letters preflight 2 -o json").stdout) // exit 1: the relay's answer to RCPT is not known
	for _, asks := range []string{`dead.replay {"all": true, "dry_run": true}`, `dead.preflight {"number": 2}`, `dead.discard {"numbers": [2], "dry_run": true, "reason": "x"}`} {
		subject, request, _ := strings.Cut(asks, " ")
		wellFormed(t, asks, string(asked[json.RawMessage](d.nats, subject, request)))
	}

	for page, line := range map[string]string{"/dead-letters": "dead-letters list", "/dead-letters.csv?view=groups": "dead-letters groups", "/deliveries": "deliveries list", "/audit": "audit list", "/replays": "replays list"} {
		if !strings.Contains(page, ".csv") {
			page += ".csv"
		}
		_, body := d.send("GET", page, "")
		heads := map[string]string{}
		for door, text := range map[string]string{"page": body, "certpost": d.run(line + " -o csv").done(t)} {
			rows, err := csv.NewReader(strings.NewReader(text)).ReadAll()
			if err != nil || len(rows) < 2 {
				t.Fatalf("%s of %s: %d rows, %v: %s", door, line, len(rows), err, text)
			}
			heads[door] = strings.Join(rows[0], ",")
			for _, column := range rows[0] {
				if !snakeCase.MatchString(column) {
					t.Errorf("%s of %s: the column %q is not in snake case", door, line, column)
				}
			}
			if strings.Contains(text, "0001-01-01") {
				t.Errorf("%s of %s has a time that is none:\n%s", door, line, text)
			}
		}
		if heads["page"] != heads["certpost"] {
			t.Errorf("%s has the columns\n%s\n%s has\n%s", page, heads["page"], line, heads["certpost"])
		}
	}
}

// fingerprint is that of the first group.
func (d *doors) fingerprint() string {
	d.t.Helper()
	return read[[]desk.Group](d.t, d.certpost("dead-letters", "groups", "-o", "json").done(d.t))[0].Fingerprint
}

// letters234 makes the letters 2 (open), 3 (held) and 4 (discarded).
func (o *fixture) letters234() {
	o.t.Helper()
	for _, id := range []string{"first", "second", "third"} {
		o.publish(id, "nobody")
		o.settled()
	}
	o.certpost("dead-letters", "hold", "3", "--reason", "looking into it").done(o.t)
	o.certpost("dead-letters", "discard", "4", "--reason", "not wanted").done(o.t)
}

func (d *doors) sameShape(s shape) {
	d.t.Helper()
	texts := map[string]string{}
	status, body := d.send("GET", s.page, "")
	if status != http.StatusOK {
		d.t.Fatalf("%s: %d %s", s.page, status, body)
	}
	texts["page"], texts["certpost"] = body, d.run(s.shell+" -o json").done(d.t)
	subject, request, _ := strings.Cut(s.asks, " ")
	texts["nats"] = string(asked[json.RawMessage](d.nats, subject, request))
	ways := map[string]string{"page": s.ofPage, "certpost": s.ofShell, "nats": s.ofNATS}
	shapes := map[string]string{}
	for door, text := range texts {
		keys := map[string]bool{}
		keysOf(thing(d.t, text, ways[door]), "", keys)
		shapes[door] = strings.Join(slices.Sorted(maps.Keys(keys)), "\n")
		wellFormed(d.t, s.name+", "+door, text)
	}
	for _, door := range []string{"page", "certpost"} {
		if shapes[door] != shapes["nats"] {
			d.t.Errorf("%s: %s\nhas not the keys of nats:\n%s", s.name, door, differing(shapes[door], shapes["nats"]))
		}
	}
}

// wellFormed requires that all keys are in snake case and that no time is none.
func wellFormed(t *testing.T, what, text string) {
	t.Helper()
	keys := map[string]bool{}
	keysOf(read[any](t, text), "", keys)
	for path := range keys {
		if key := path[strings.LastIndex(path, ".")+1:]; !snakeCase.MatchString(key) {
			t.Errorf("%s: the key %s is not in snake case", what, path)
		}
	}
	if strings.Contains(text, "0001-01-01") {
		t.Errorf("%s has a time that is none: %s", what, text)
	}
}

// differing are the lines that only one of two texts has.
func differing(a, b string) string {
	var lines []string
	inA, inB := strings.Split(a, "\n"), strings.Split(b, "\n")
	for _, line := range inA {
		if !slices.Contains(inB, line) {
			lines = append(lines, "+ "+line)
		}
	}
	for _, line := range inB {
		if !slices.Contains(inA, line) {
			lines = append(lines, "- "+line)
		}
	}
	return strings.Join(lines, "\n")
}
