package delivery

import (
	"context"
	"crypto/x509"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/config"
	"github.com/certpost/certpost/internal/devrelay"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/payload"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/verdict"
)

// The key that counts for a source is the most specific one, in whatever order they are.
func TestTheMostSpecificSourceCounts(t *testing.T) {
	t.Parallel()
	for source, want := range map[string]string{
		"web1":                 "web1",            // without wildcards
		"web10":                "web1*",           // more characters than web*
		"web2":                 "web*",            // * is also nothing
		"web":                  "web*",            //
		"www.example.com":      "www.example.com", //
		"mail.example.com":     "*.example.com",   // as specific as **.example.com, without **
		"a.b.example.com":      "**.example.com",  // * does not match a dot
		"example.com":          "**.*",            // neither *.example.com nor **.example.com
		"Web1":                 "*",               // names of subjects differ by case
		"":                     "",                // certificate.issued itself
		"x.y":                  "**.*",            //
		strings.Repeat("a", 6): "*",               // a**: as many characters as *a, and sorted after it
	} {
		b := newSourceBook(Sources{Listed: map[string]Opened{"": {}, "*": {}, "**.*": {}, "web*": {}, "web1*": {}, "web1": {},
			"*.example.com": {}, "**.example.com": {}, "www.example.com": {}}}, secrets.Policy{})
		r, failure := b.of(&events.Event{Subject: events.SourceSubject(source)})
		if failure != nil || r.setting != settingOf(want) {
			t.Errorf("%q: %s counts, want %s (%v)", source, r.setting, settingOf(want), failure)
		}
	}
	if b := newSourceBook(Sources{Listed: map[string]Opened{"b*": {}, "*a": {}, "a*": {}}}, secrets.Policy{}); b.rules[0].key != "*a" || b.rules[1].key != "a*" {
		t.Errorf("equally specific keys are not sorted by the alphabet: %+v", b.rules)
	}
	for _, catchAll := range []string{"*", "**"} { // as in names, both match nothing too
		b := newSourceBook(Sources{Listed: map[string]Opened{catchAll: {}}}, secrets.Policy{})
		if _, failure := b.of(&events.Event{Subject: events.Subject}); failure != nil {
			t.Errorf("%s does not cover events without a source: %v", catchAll, failure)
		}
	}
}

// Every way on which an event reaches a target or a secret knows the limits of its source: the
// fan-out, each attempt (also of what was fanned out or replayed under other settings), the
// preflight and the check before a publication.
//
// Fault: an event names a target or a secret that is not opened to its source, or its source has no
// key in `events.sources`. Result: refused before anything is fetched.
func TestSourcesAtEveryDoor(t *testing.T) {
	t.Parallel()
	dir, elsewhere := t.TempDir(), t.TempDir()
	p := lab.NewPKI(t, "p256")
	now := time.Now()
	leaf := lab.Issue(t, p.Intermediate, p.Leaf.Key, "www.example.com", lab.DNSNames("www.example.com"), func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = now.Add(-time.Hour), now.Add(time.Hour)
	})
	for _, d := range []string{dir, elsewhere} {
		lab.Write(t, filepath.Join(d, "key.pem"), lab.KeyPEM(t, p.Leaf.Key))
		lab.Write(t, filepath.Join(d, "cert.pem"), lab.PEM(leaf, p.Intermediate))
	}
	relay, err := devrelay.Start(devrelay.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = relay.Close() })
	_, port, _ := net.SplitHostPort(relay.Plain())

	listed := map[string]Opened{
		"web1":            {FileRoots: []string{dir}, Targets: []string{"ops"}},
		"www.example.com": {FileRoots: []string{dir}, Targets: []string{"o*"}},
		"none":            {FileRoots: []string{dir}, Targets: []string{"other"}},
		"keyless":         {SecretPaths: []string{"secret/certs/keyless/*"}, Targets: []string{"*"}},
	}
	key := func(d string) *events.Reference { return &events.Reference{File: filepath.Join(d, "key.pem")} }
	const (
		noEntry   = `the source "web9" has no entry in events.sources: if nobody should publish there, find out who did; else add events.sources.web9, or set events.other_sources to allow`
		noTarget  = `the source "none" may not send to target "ops": add it to events.sources.none.targets`
		noMatch   = `the source "none" may not send to the targets that match the event (ops): add one to events.sources.none.targets`
		notBelow  = `an event of the source "web1" may not name it: it is not a file below events.sources.web1.file_roots; add its directory to events.sources.web1.file_roots`
		notPath   = `an event of the source "keyless" may not name it: it is outside events.sources.keyless.secret_paths; add its path to events.sources.keyless.secret_paths`
		noGeneral = `an event may not name it: it is not a file below events.file_roots`
	)
	for name, test := range map[string]struct {
		source  string
		unknown bool // the subject is not known
		sources Sources
		change  func(*events.Event)
		code    verdict.Code // "": the mail is sent
		want    string       // in the reason
		matched bool         // the event names no target, so only the fan-out decides of the target
	}{
		"no sources":              {source: "web9"},
		"no sources, elsewhere":   {source: "web9", change: func(e *events.Event) { e.PrivateKey = key(elsewhere) }, code: verdict.SecretDenied, want: noGeneral},
		"listed":                  {source: "web1", sources: Sources{Listed: listed}},
		"with dots":               {source: "www.example.com", sources: Sources{Listed: listed}},
		"matched":                 {source: "web1", sources: Sources{Listed: listed}, change: func(e *events.Event) { e.Targets = nil }},
		"not listed":              {source: "web9", sources: Sources{Listed: listed}, code: verdict.EventInvalid, want: noEntry},
		"not listed, matched":     {source: "web9", sources: Sources{Listed: listed}, change: func(e *events.Event) { e.Targets = nil }, code: verdict.EventInvalid, want: noEntry},
		"not listed, allowed":     {source: "web9", sources: Sources{Listed: listed, AllowOthers: true}},
		"allowed, elsewhere":      {source: "web9", sources: Sources{Listed: listed, AllowOthers: true}, change: func(e *events.Event) { e.PrivateKey = key(elsewhere) }, code: verdict.SecretDenied, want: noGeneral},
		"no source":               {sources: Sources{Listed: listed}, code: verdict.EventInvalid, want: `certificate.issued (no source) has no entry in events.sources: if nobody should publish there, find out who did; else add events.sources[""]`},
		"no source, opened":       {sources: Sources{Listed: map[string]Opened{"": {FileRoots: []string{dir}, Targets: []string{"ops"}}}}},
		"unknown subject":         {unknown: true, sources: Sources{Listed: listed}, code: verdict.EventInvalid, want: "has no entry"},
		"another target":          {source: "none", sources: Sources{Listed: listed}, code: verdict.EventInvalid, want: noTarget},
		"another target, matched": {source: "none", sources: Sources{Listed: listed}, change: func(e *events.Event) { e.Targets = nil }, code: verdict.EventInvalid, want: noMatch, matched: true},
		"a key elsewhere":         {source: "web1", sources: Sources{Listed: listed}, change: func(e *events.Event) { e.PrivateKey = key(elsewhere) }, code: verdict.SecretDenied, want: notBelow},
		"a certificate elsewhere": {source: "web1", sources: Sources{Listed: listed}, change: func(e *events.Event) {
			e.Certificate = events.Certificate{Ref: &events.Reference{File: filepath.Join(elsewhere, "cert.pem")}}
		}, code: verdict.SecretDenied, want: notBelow},
		"a path in Vault": {source: "keyless", sources: Sources{Listed: listed}, change: func(e *events.Event) {
			e.PrivateKey = &events.Reference{Vault: &events.VaultReference{Mount: "secret", Path: "certs/other", Key: "k"}}
		}, code: verdict.SecretDenied, want: notPath},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			port := port
			if test.code != "" {
				port = "1" // where nobody listens: what dials it does not get the wanted code
			}
			o := newFixture(t, net.JoinHostPort("localhost", port), RelayLimits{}, func(target *Target) {
				target.ID, target.Payload, target.Match = "ops", payload.PEMAndKey, &Match{DNSNames: []string{"www.example.com"}}
				target.Timeout = 20 * time.Second
			})
			general := secrets.Policy{FileRoots: []string{dir}}
			o.sources = newSourceBook(test.sources, general)
			o.event = &events.Event{ID: "e1", Subject: events.SourceSubject(test.source), Targets: []string{"ops"}, PrivateKey: key(dir),
				Certificate: events.Certificate{PEM: string(lab.PEM(leaf, p.Intermediate))}}
			if test.unknown {
				o.event.Subject = ""
			}
			if test.change != nil {
				test.change(o.event)
			}
			check := func(door string, f *verdict.Failure) {
				t.Helper()
				switch {
				case test.code == "" && f != nil:
					t.Errorf("%s: %v, want success", door, f)
				case test.code != "" && (f == nil || f.Code != test.code || !strings.Contains(f.Reason, test.want)):
					t.Errorf("%s: %v\nwant %s with %q", door, f, test.code, test.want)
				}
			}
			ctx := lab.Patient(t)
			routes, failure := o.Resolve(ctx, o.event)
			if failure == nil && len(routes) == 1 {
				failure = routes[0].Failure
			}
			if test.code != verdict.SecretDenied { // keys are fetched by the attempt
				check("fan-out", failure)
			}
			_, failure = o.deliver(ctx)
			if !test.matched {
				check("attempt", failure)
			} else if failure == nil || failure.Code != verdict.EventInvalid || !strings.Contains(failure.Reason, noTarget) {
				t.Errorf("attempt: %v, want that the target is not opened", failure)
			}
			checkRefusals(t, o, test.code, test.want, test.matched)
			checkPreflight(t, ctx, o, test.want, test.matched)
		})
	}
}

// checkRefusals compares what publish says before the publication. Which targets match is not
// known there.
func checkRefusals(t *testing.T, o *fixture, code verdict.Code, want string, matched bool) {
	t.Helper()
	options := Options{EventSecrets: o.sources.general, Sources: Sources{AllowOthers: o.sources.others}}
	if o.sources.limited {
		options.Sources.Listed = map[string]Opened{}
		for _, rule := range o.sources.rules {
			opened := Opened{SecretPaths: rule.rights.secrets.Paths, FileRoots: rule.rights.secrets.FileRoots}
			for _, g := range rule.rights.targets {
				opened.Targets = append(opened.Targets, strings.Join(g.parts, "*"))
			}
			options.Sources.Listed[rule.key] = opened
		}
	}
	said := strings.Join(options.Refusals(o.event), "\n")
	switch {
	case (code == "" || matched) && said != "":
		t.Errorf("publish says %s, want nothing", said)
	case code != "" && !matched && !strings.Contains(said, want):
		t.Errorf("publish says %q, want %q", said, want)
	}
}

func checkPreflight(t *testing.T, ctx context.Context, o *fixture, want string, matched bool) {
	t.Helper()
	var errs []string
	for _, f := range o.Inspector().Examine(ctx, verdict.Trial{Target: "ops", From: verdict.Origin{Subject: o.event.Subject}, Event: o.event.Encode()}) {
		if f.Status == verdict.Error {
			errs = append(errs, f.Message)
		}
	}
	if matched {
		want = `the source "none" may not send to target "ops"`
	}
	said := strings.Join(errs, "\n")
	if want == "" && said != "" || !strings.Contains(said, want) {
		t.Errorf("the preflight says %q, want %q", said, want)
	}
}

func TestSourcesThatCannotBe(t *testing.T) {
	t.Parallel()
	target := *testTarget()
	target.SetDefaults()
	definitions, problems := Relays{}.Define([]Target{target})
	if definitions == nil {
		t.Fatal(problems)
	}
	id := target.ID
	opens := func(targets ...string) Opened { return Opened{Targets: targets} }
	for name, test := range map[string]struct {
		listed map[string]Opened
		want   string // "severity path: message"; "" for none
	}{
		"good":                  {map[string]Opened{"web1": opens(id), "": opens("*"), "*.example.com": opens(id[:2] + "*")}, ""},
		"none":                  {map[string]Opened{}, "error sources: is empty, so every event would be refused"},
		"a subject":             {map[string]Opened{"certificate.issued.web1": opens(id)}, `error sources["certificate.issued.web1"]: is a subject: want only what follows certificate.issued., "web1"`},
		"a wildcard of NATS":    {map[string]Opened{"web.>": opens(id)}, `error sources["web.>"]: has a >: write **`},
		"a blank":               {map[string]Opened{"web 1": opens(id)}, `error sources["web 1"]: has a blank`},
		"two dots":              {map[string]Opened{"web..1": opens(id)}, `error sources["web..1"]: begins or ends with a dot`},
		"no targets":            {map[string]Opened{"web1": {}}, "warning sources.web1: opens no target"},
		"an unknown target":     {map[string]Opened{"web1": opens(id + "x")}, `warning sources.web1.targets[0]: target "` + id + `x" is not defined: did you mean "` + id + `"?`},
		"a glob for nothing":    {map[string]Opened{"web1": opens(id, "zz*")}, "warning sources.web1.targets[1]: matches no target"},
		"no target's id":        {map[string]Opened{"web1": opens("a b")}, "error sources.web1.targets[0]: want the id of a target"},
		"an empty target":       {map[string]Opened{"web1": opens("")}, "error sources.web1.targets[0]: want the id of a target"},
		"a path without /":      {map[string]Opened{"web1": {SecretPaths: []string{"secret"}, Targets: []string{id}}}, "error sources.web1.secret_paths[0]: has a mount but no path below it"},
		"a relative root":       {map[string]Opened{"a.b": {FileRoots: []string{"certs"}, Targets: []string{id}}}, `error sources["a.b"].file_roots[0]: is not an absolute path`},
		"a source that is long": {map[string]Opened{strings.Repeat("w", 300): opens(id)}, "is longer than 255 bytes"},
	} {
		s := Sources{Listed: test.listed}
		var said []string
		found := s.Validate()
		if !config.Failed(found) {
			found = append(found, s.Undefined(definitions)...)
		}
		for _, p := range found {
			said = append(said, p.Severity.String()+" "+p.Path+": "+p.Message)
		}
		if all := strings.Join(said, "\n"); test.want == "" && all != "" || !strings.Contains(all, test.want) || len(said) > 1 {
			t.Errorf("%s: %q, want %q", name, all, test.want)
		}
	}
}
