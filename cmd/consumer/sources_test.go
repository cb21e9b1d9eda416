package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/verdict"
)

// The whole program with events.sources: what publish refuses before it publishes, what becomes a
// dead letter with which words, and that a letter's source limits its preflight, its edit at
// all doors and its replay, by the configuration of the running program.
//
// Fault: an event names a target or a secret that is not opened to its source, or its source has no
// key in `events.sources`. Result: a dead letter names the source, what it named and the setting.
func TestSources(t *testing.T) {
	t.Parallel()
	o := bareFixture(t)
	secret := t.TempDir()
	lab.Write(t, filepath.Join(secret, "other.key"), []byte("canary"))
	o.events = fmt.Sprintf(`, sources: {web1: {file_roots: [%q], targets: [ops, keys]}, "*.example.com": {targets: ["no*"]}}`, o.dir)
	o.http = `, edit_and_replay: {enabled: true, targets: [java, ops]}`
	o.furnish("")
	d := o.doors()
	cert, key, chain := o.issue("www.example.com")

	// Before the publication, with the rules of the program.
	running := o.config
	client := fmt.Sprintf("data_dir: "+o.dir+"/client\nnats: {url: %q, nkey_file: %s/data/nats/admin.nk}\ntargets_file: %s/targets.yaml\nevents: {sources: {web1: {file_roots: [%q], targets: [ops, keys]}}}\n",
		o.service.broker.URL(), o.dir, o.dir, o.dir)
	o.write("publisher.yaml", client)
	o.config = o.path("publisher.yaml")
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"no source":       {[]string{"--target=ops"}, `this cannot be delivered: certificate.issued (no source) has no entry in events.sources: if nobody should publish there, find out who did; else add events.sources[""], or set events.other_sources to allow; --force`},
		"another source":  {[]string{"--as=web2", "--target=ops"}, `this cannot be delivered: the source "web2" has no entry in events.sources: if nobody should publish there, find out who did; else add events.sources.web2,`},
		"another target":  {[]string{"--as=web1", "--target=java"}, `the source "web1" may not send to target "java": add it to events.sources.web1.targets if it should; --force`},
		"another secret":  {[]string{"--as=web1", "--target=keys", "--key-ref=file:" + secret + "/other.key"}, `an event of the source "web1" may not name it: it is not a file below events.sources.web1.file_roots`},
		"another's vault": {[]string{"--as=web1", "--target=keys", "--store-key=vault:secret/x#k", "--key=" + key}, `vault:secret/x#k: an event of the source "web1" may not name it: it is outside events.sources.web1.secret_paths`},
		"no subject":      {[]string{"--as=web 1"}, "--as web 1: has a blank, a control character, * or >; want what follows certificate.issued., such as web1"},
	} {
		said := o.certpost(append([]string{"publish", "--cert=" + cert}, c.args...)...)
		if said.code != exitUsage || !strings.Contains(said.stderr, c.want) {
			t.Errorf("%s: exit %d and\n%swant %s", name, said.code, said.stderr, c.want)
		}
	}
	o.certpost("publish", "--cert="+cert, "--as=web1", "--target=keys", "--key-ref=file:"+key).done(t)
	o.mailTo("keys@demo.example", 1)
	// Matched by the targets ops and, if it were opened to web1, prod.
	o.certpost("publish", "--cert="+cert, "--as=web1", "--label=env=prod").done(t)
	o.mailTo("ops@demo.example", 1)

	// What somebody else publishes.
	send := func(subject, id, more string) {
		t.Helper()
		body := fmt.Sprintf(`{"id": %q, "certificate": %q%s}`, id, chain, more)
		if _, err := d.js.Publish(t.Context(), subject, []byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	send("certificate.issued.web2", "stranger", `, "targets": ["ops"]`)
	send("certificate.issued.web1", "target", `, "targets": ["java", "ops"]`)
	send("certificate.issued.web1", "secret", fmt.Sprintf(`, "targets": ["keys"], "private_key": {"file": "%s/other.key"}`, secret))
	send("certificate.issued.www.example.com", "matched", "")
	o.settled()
	o.mailTo("ops@demo.example", 2) // of the event that also names java
	byEvent := map[string]broker.DeadLetter{}
	for _, l := range o.letters() {
		byEvent[l.Event] = l
	}
	for event, want := range map[string]struct {
		code   verdict.Code
		phase  verdict.Phase
		reason string
	}{
		"stranger": {verdict.EventInvalid, verdict.PhaseSource, `the source "web2" has no entry in events.sources: if nobody should publish there, find out who did; else add events.sources.web2, or set events.other_sources to allow, then replay`},
		"target":   {verdict.EventInvalid, verdict.PhaseSource, `the source "web1" may not send to target "java": add it to events.sources.web1.targets if it should, then replay`},
		"secret": {verdict.SecretDenied, verdict.PhaseSecrets, "file:" + secret + `/other.key: an event of the source "web1" may not name it: it is not a file below events.sources.web1.file_roots; ` +
			`add its directory to events.sources.web1.file_roots if events should name it`},
		"matched": {verdict.EventInvalid, verdict.PhaseSource, `the source "www.example.com" may not send to the targets that match the event (ops): add one to events.sources["*.example.com"].targets if it should, then replay`},
	} {
		l := byEvent[event]
		if l.Code != want.code || l.Phase != want.phase || l.Reason != want.reason || strings.Contains(l.Reason, "canary") {
			t.Errorf("%s: %s in %s: %s\nwant %s in %s: %s", event, l.Code, l.Phase, l.Reason, want.code, want.phase, want.reason)
		}
	}
	if len(byEvent) != 4 {
		t.Errorf("%d letters, want 4", len(byEvent))
	}

	// The letter about the key: its source may not have it sent to java, whoever edits it.
	o.config = running
	n := byEvent["secret"].Sequence
	closed := `the source "web1" may not send to target "java": add it to events.sources.web1.targets`
	d.refuse(refusal{want: closed, status: 403, page: fmt.Sprintf("POST /dead-letters/%d/edit target=java&reason=x", n), shell: fmt.Sprintf("dead-letters edit %d --target=java --reason=x", n), code: exitFailed,
		asks: fmt.Sprintf(`dead.edit {"number": %d, "target": "java", "reason": "x"}`, n)})
	shown := read[desk.Detail](t, o.certpost("dead-letters", "show", fmt.Sprint(n), "-o", "json").done(t))
	if shown.EventSubject != "certificate.issued.web1" {
		t.Errorf("the letter was published on %q", shown.EventSubject)
	}
	for n, want := range map[uint64]string{n: "it is not a file below events.sources.web1.file_roots", byEvent["stranger"].Sequence: "has no entry in events.sources"} {
		if said := o.certpost("dead-letters", "preflight", fmt.Sprint(n)); said.code != exitFailed || !strings.Contains(said.stdout, want) {
			t.Errorf("preflight of %d: exit %d, %s, want %s", n, said.code, said.stdout, want)
		}
	}
	o.certpost("dead-letters", "replay", fmt.Sprint(n)).done(t)
	o.until("the letter is back", func() bool {
		for _, l := range o.letters() {
			if l.Event == "secret" && l.Sequence > n && l.Code == verdict.SecretDenied {
				return true
			}
		}
		return false
	})
}

func TestSourcesInTheConfiguration(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ events, want string }{
		"good":          {`{sources: {web1: {targets: [ops]}}}`, ""},
		"unknown":       {`{sources: {web1: {targets: [opps]}}}`, `c.yaml:1:37: warning: events.sources.web1.targets[0]: target "opps" is not defined: did you mean "ops"?`},
		"with dots":     {`{sources: {"a.b": {targets: [ops], file_roots: [x]}}}`, `c.yaml:1:57: events.sources["a.b"].file_roots[0]: is not an absolute path`},
		"misspelt":      {`{sources: {web1: {target: [ops], targets: [ops]}}}`, `c.yaml:1:27: events.sources.web1: unknown key "target": did you mean targets?`},
		"empty":         {`{sources: {}}`, `c.yaml:1:19: events.sources: is empty, so every event would be refused: list the sources that may publish, or leave it out`},
		"refuse all":    {`{other_sources: refuse}`, `c.yaml:1:25: events.other_sources: refuses every event: give events.sources, or leave it out`},
		"without any":   {`{other_sources: allow}`, `c.yaml:1:25: warning: events.other_sources: has no effect without events.sources`},
		"not a word":    {`{sources: {web1: {targets: [ops]}}, other_sources: maybe}`, `c.yaml:1:60: events.other_sources: want refuse or allow, got maybe`},
		"general lists": {`{sources: {web1: {targets: [ops]}}, file_roots: [/x]}`, `c.yaml:1:19: warning: events.sources: replace events.secret_paths and events.file_roots, which apply to no event: move them to the sources, or set events.other_sources to allow`},
		"both":          {`{sources: {web1: {targets: [ops]}}, file_roots: [/x], other_sources: allow}`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, said := load(t, "events: "+test.events+"\ntargets: [{id: ops, host: mx.example.com, from_address: a@example.com, to: [b@example.com]}]\n")
			if all := strings.Join(said, "\n"); all != test.want {
				t.Errorf("%s\nwant\n%s", all, test.want)
			}
		})
	}
}
