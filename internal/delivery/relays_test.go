package delivery

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/config"
	"github.com/certpost/certpost/internal/smtp"
	"github.com/certpost/certpost/internal/verdict"
)

// loadRelays reads a configuration with relays and targets.
func loadRelays(t *testing.T, text string) (*Definitions, []string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	definitions, problems := Source{Config: path, Relays: path}.Load()
	var texts []string
	for _, p := range problems {
		texts = append(texts, strings.TrimPrefix(p.Error(), path+":"))
	}
	return definitions, texts
}

// Every relay key of a rule is also a key of a target, with the same YAML name and type.
func TestRelayKeysAreThoseOfTargets(t *testing.T) {
	t.Parallel()
	target := reflect.TypeFor[Target]()
	for _, s := range config.Settings(reflect.TypeFor[RelayKeys]()) {
		field, ok := target.FieldByName(s.Field.Name)
		kind := s.Field.Type
		if kind.Kind() == reflect.Pointer {
			kind = kind.Elem()
		}
		for _, tag := range []string{"yaml", "enum", "later", "min", "max"} {
			ok = ok && field.Tag.Get(tag) == s.Field.Tag.Get(tag)
		}
		if !ok || field.Type != kind {
			t.Errorf("%s differs from the key of a target: %v %v, %v %v", s.Field.Name, field.Type, field.Tag, s.Field.Type, s.Field.Tag)
		}
	}
}

func TestRulesCompleteTargets(t *testing.T) {
	t.Parallel()
	const pin = "abababababababababababababababababababababababababababababababab"
	const head = `relays:
  default: {timeout: 50s, ca_file: /etc/ca.pem, max_connections: 20}
  rules:
    - {host: quiet.example.com, auth_method: none, max_message_rate: 500/day}
    - {host: "*.example.com", only_port: 465, username: tls, password: {env: A}}
    - {host: "*.example.com", username: rule, password: {env: P}, tls_skip_verify: true, allow_insecure_auth: true, max_messages_per_connection: 50, timeout: 40s}
    - {host: "bücher.example", port: 465}
    - {host: "192.0.2.*", port: 25, tls_mode: starttls}
    - {host: pinned.example.net, username: never, password: {env: N}, tls_server_name: mx.example.net, tls_fingerprint: ` + pin + `}
    - {host: "**", username: never, password: {env: N}}
targets:
`
	const rest = ", from_address: a@example.com, to: [b@example.com]}\n"
	for _, test := range []struct {
		target string // its keys
		want   string
	}{
		{"host: a.example.com", "a.example.com:587 starttls skip=true ca=/etc/ca.pem plain rule insecure=true 40s 20 50 "},
		{"host: A.Example.COM.", "A.Example.COM.:587 starttls skip=true ca=/etc/ca.pem plain rule insecure=true 40s 20 50 "},
		{"host: a.example.com, port: 465", "a.example.com:465 smtps skip=false ca=/etc/ca.pem plain tls insecure=false 50s 20 0 "},
		{"host: a.example.com, tls_skip_verify: false, allow_insecure_auth: false, timeout: 30s, username: own, ca_file: /own", "a.example.com:587 starttls skip=false ca=/own plain own insecure=false 30s 20 50 "},
		{"host: a.example.com, auth_method: none", "a.example.com:587 starttls skip=true ca=/etc/ca.pem none  insecure=true 40s 20 50 "},
		{"host: quiet.example.com", "quiet.example.com:587 starttls skip=false ca=/etc/ca.pem none  insecure=false 50s 20 0 500/day"},
		{"host: quiet.example.com, username: own, password: {env: O}, auth_method: login", "quiet.example.com:587 starttls skip=false ca=/etc/ca.pem login own insecure=false 50s 20 0 500/day"},
		{"host: xn--bcher-kva.example, auth_method: none", "xn--bcher-kva.example:465 smtps skip=false ca=/etc/ca.pem none  insecure=false 50s 20 0 "},
		{"host: bücher.example, port: 587", "bücher.example:587 starttls skip=false ca=/etc/ca.pem none  insecure=false 50s 20 0 "},
		{"host: 192.0.2.7", "192.0.2.7:25 starttls skip=false ca=/etc/ca.pem none  insecure=false 50s 20 0 "},
		{"host: pinned.example.net", "pinned.example.net:587 starttls skip=false ca=/etc/ca.pem plain never insecure=false 50s 20 0  name=mx.example.net pin=abab"},
		{"host: pinned.example.net, tls_server_name: own.example.net, tls_fingerprint: '" + strings.Repeat("cd", 32) + "'", "pinned.example.net:587 starttls skip=false ca=/etc/ca.pem plain never insecure=false 50s 20 0  name=own.example.net pin=cdcd"},
		{"host: a.b.example.com", "a.b.example.com:587 starttls skip=false ca=/etc/ca.pem plain never insecure=false 50s 20 0 "},
	} {
		d, problems := loadRelays(t, head+"  - {id: a, "+test.target+rest)
		if d == nil {
			t.Errorf("%s: %q", test.target, problems)
			continue
		}
		if got := shown(d, d.targets[0]); got != test.want {
			t.Errorf("%s:\ngot  %s\nwant %s", test.target, got, test.want)
		}
	}
}

func shown(d *Definitions, t *Target) string {
	limits := d.limits[smtp.RelayName(t.Host, t.Port)]
	identity := ""
	if t.TLSServerName != "" || t.TLSFingerprint != "" {
		identity = fmt.Sprintf(" name=%s pin=%.4s", t.TLSServerName, t.TLSFingerprint)
	}
	return fmt.Sprintf("%s:%d %s skip=%v ca=%s %s %s insecure=%v %v %d %d %s%s", t.Host, t.Port, t.TLSMode, t.TLSSkipVerify, t.CAFile,
		t.AuthMethod, t.Username.Plain, t.AllowInsecureAuth, t.Timeout, limits.MaxConnections, limits.MaxMessagesPerConnection, limits.MaxMessageRate, identity)
}

// A rule may choose credentials by the domain of the recipients.
func TestRulesByDomain(t *testing.T) {
	t.Parallel()
	const relays = `relays:
  default: {timeout: 50s}
  rules:
    - {domain: customer.example, username: customer, password: {vault: {mount: secret, path: "smtp-auth/{domain}/{host}", key: password}}}
    - {host: "*.example.net", domain: "**.example.org", username: org, password: {vault: {mount: secret, path: "org/{cn}"}}}
    - {domain: "bücher.example", username: {vault: {mount: secret, path: "users/{domain}", key: name}}, password: {env: B}}
    - {host: smtp.example.net, max_connections: 3, username: rest, password: {vault: {mount: secret, path: "certs/{domain}", key: password}}}
targets:
`
	const rest = ", from_address: a@example.com"
	for _, test := range []struct {
		target string // its keys
		want   string
	}{
		{"host: smtp.example.net, to: [a@customer.example, B@CUSTOMER.example]", "customer vault:secret/smtp-auth/customer.example/{host}#password 3"},
		{"host: other.example.net, to: [a@customer.example], cc: [c@customer.example], bcc: [d@customer.example]", "customer vault:secret/smtp-auth/customer.example/{host}#password 0"},
		{"host: smtp.example.net, to: [a@customer.example], bcc: [b@example.com]", "rest vault:secret/certs/{domain}#password 3"},
		{"host: smtp.example.net, to: [a@mail.customer.example]", "rest vault:secret/certs/{domain}#password 3"},
		{"host: smtp.example.net, to: [a@a.example.org, b@b.c.example.org]", "org vault:secret/org/{cn} 3"},
		{"host: smtp.example.com, to: [a@a.example.org], auth_method: none", "  0"},
		{"host: smtp.example.net, to: [a@xn--bcher-kva.example]", "vault:secret/users/xn--bcher-kva.example#name env:B 3"},
		{"host: smtp.example.net, username: own, password: {vault: {mount: secret, path: 'own/{domain}', key: k}}, to: [a@customer.example]", "own vault:secret/own/{domain}#k 3"},
	} {
		d, problems := loadRelays(t, relays+"  - {id: a, "+test.target+rest+"}\n")
		if d == nil {
			t.Errorf("%s: %v", test.target, problems)
			continue
		}
		a := d.targets[0]
		user, password := a.Username.Plain, ""
		if user == "" && !a.Username.Ref.IsZero() {
			user = a.Username.Ref.String()
		}
		if !a.Password.IsZero() {
			password = a.Password.String()
		}
		if got := fmt.Sprint(user, " ", password, " ", d.limits[smtp.RelayName(a.Host, a.Port)].MaxConnections); got != test.want {
			t.Errorf("%s:\ngot  %s\nwant %s", test.target, got, test.want)
		}
	}

	// A fallback follows the rules as well, with the recipients of the target.
	d, problems := loadRelays(t, relays+"  - {id: a, host: smtp.example.com, auth_method: none, to: [a@a.example.org], fallback: [{host: b.example.net}]"+rest+"}\n")
	if d == nil || d.relays["a"][1].Username.Plain != "org" {
		t.Errorf("%v, %+v", problems, d)
	}

	_, problems = loadRelays(t, `relays:
  rules:
    - {domain: "**.example.com", username: u, password: {vault: {mount: secret, path: "x/{domain}", key: k}}, max_message_rate: 1/s}
    - {domain: ops@example.org}
    - {username: u}
targets:
  - {id: two, host: smtp.example.net, to: [a@b.example.com, a@a.example.com], from_address: a@example.com}
  - {id: one, host: smtp.example.net, to: [a@b.example.com], from_address: a@example.com}
`)
	want := []string{
		"3:57: relays.rules[0].password: {domain} is the domain of the recipients, but those of target two are in a.example.com, b.example.com: want recipients in one domain, or a path without {domain}",
		"3:129: relays.rules[0].max_message_rate: applies to the relay, not to a domain: set it in a rule without domain",
		"4:16: relays.rules[1].domain: is an address: want only the domain after the @",
		"5:7: relays.rules[2].host: is required, unless domain is set",
	}
	if !slices.Equal(problems, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(problems, "\n"), strings.Join(want, "\n"))
	}
}

func TestFallbacksFollowTheRulesToo(t *testing.T) {
	t.Parallel()
	d, problems := loadRelays(t, `relays:
  default: {max_connections: 5}
  rules:
    - {host: two.example.com, username: two, password: {env: P}, max_message_rate: 14/s, timeout: 7s}
targets:
  - id: a
    host: one.example.com
    username: one
    password: {env: P}
    ca_file: /one.pem
    timeout: 20s
    tls_skip_verify: false
    from_address: a@example.com
    to: [b@example.com]
    fallback:
      - host: two.example.com
      - {host: three.example.com, port: 465, username: three, password: {env: T}, timeout: 3s}
  - {id: b, host: two.example.com, from_address: a@example.com, to: [b@example.com]}
`)
	if d == nil || len(problems) > 0 {
		t.Fatalf("problems: %q", problems)
	}
	var got []string
	for _, w := range d.relays["a"] {
		got = append(got, shown(d, w))
	}
	if want := []string{
		"one.example.com:587 starttls skip=false ca=/one.pem plain one insecure=false 20s 5 0 ",
		"two.example.com:587 starttls skip=false ca= plain two insecure=false 20s 5 0 14/s",
		"three.example.com:465 smtps skip=false ca= plain three insecure=false 3s 5 0 ",
	}; !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if a, b := d.byID["a"], d.byID["b"]; a.Lane() != "one_example_com-587" || b.Timeout != 7*time.Second {
		t.Errorf("lane %s, time-out of the other target %v", a.Lane(), b.Timeout)
	}
}

func TestProblemsOfRelaysStandWhereTheyCome(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, text string
		want       []string
	}{
		{"keys", "relays:\n  defaults: {}\n  rules:\n    - {port: 0, max_message_rate: 14/sec, max_connections: -1, timeout: 0s}\n    - {host: \"smtp.example.com:587\", usernam: x}\ntargets: []\n", []string{
			`2:3: relays: unknown key "defaults": did you mean default?`,
			`4:7: relays.rules[0].host: is required, unless domain is set`,
			`4:14: relays.rules[0].port: want 1 to 65535, got 0`,
			`4:35: relays.rules[0].max_message_rate: want a number of mails and a period (s, min, h, day), such as 14/s or 500/day`,
			`4:60: relays.rules[0].max_connections: want 0 to 10000, got -1`,
			`4:73: relays.rules[0].timeout: want 1s to 600s, got 0s`,
			`5:14: relays.rules[1].host: has a port: want the port in the key only_port`,
			`5:38: relays.rules[1]: unknown key "usernam": did you mean username?`}},
		{"values of rules, said once however many targets follow", `relays:
  rules:
    - {host: "*.example.com", tls_mode: plaintext, username: certs, password: hunter2}
targets:
  - {id: a, host: a.example.com, from_address: a@example.com, to: [b@example.com]}
  - {id: b, host: a.example.com, from_address: a@example.com, to: [b@example.com]}
`, []string{
			`3:41: relays.rules[0].tls_mode: plaintext would expose the password to anyone on the network path: want starttls or smtps, or allow_insecure_auth: true`,
			`3:41: warning: relays.rules[0].tls_mode: mails to a.example.com are not encrypted: anyone on the network path can read and change them`,
			`3:79: warning: relays.rules[0].password: the secret itself is in the configuration: move it to vault, env, file or credential`}},
		{"fallbacks", `targets:
  - id: a
    host: a.example.com
    from_address: a@example.com
    to: [b@example.com]
    payload: pem_and_key
    fallback:
      - {host: A.example.com.}
      - {host: b.example.com, port: 25, allow_plaintext_key: true}
      - {host: "c d"}
      - {port: 587}
      - {host: e.example.com, username: x}
      - {host: f.example.com}
`, []string{
			`6:14: targets[0].payload: pem_and_key with tls_mode plaintext would expose private keys to anyone on the network path to b.example.com: want starttls or smtps, or allow_plaintext_key: true`,
			`8:7: targets[0].fallback: has 6 relays: at most 5 are allowed`,
			`8:16: targets[0].fallback[0].host: a.example.com:587 is already a relay of this target: want another relay`,
			`9:9: warning: targets[0].fallback[1].tls_mode: mails to b.example.com are not encrypted: anyone on the network path can read and change them`,
			`9:41: targets[0].fallback[1]: unknown key "allow_plaintext_key": want one of the keys in docs/configuration.md`,
			`10:16: targets[0].fallback[2].host: is not a host name: want a name such as smtp.example.com, or an IP address`,
			`11:9: targets[0].fallback[3].host: is required`,
			`12:9: targets[0].fallback[4].password: is required by auth_method plain`}},
	} {
		_, got := loadRelays(t, test.text)
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: got\n%s\nwant\n%s", test.name, strings.Join(got, "\n"), strings.Join(test.want, "\n"))
		}
	}
}

// Relays are reloaded with the targets, wherever those are defined.
func TestRelaysAreReloaded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	main, targets := filepath.Join(dir, "main.yaml"), filepath.Join(dir, "targets.yaml")
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(targets, "targets:\n  - {id: a, host: a.example.com, from_address: a@example.com, to: [b@example.com], fallback: [{host: f.example.com, username: f, password: {value: x}}]}\n"+
		"  - {id: b, host: b.example.com, from_address: a@example.com, to: [b@example.com]}\n")
	write(main, "log: {level: info}\nrelays: {rules: [{host: a.example.com, timeout: 10s}]}\n")
	source := Source{File: targets, Relays: main}
	definitions, problems := source.Load()
	if definitions == nil {
		t.Fatal(problems)
	}
	book := NewBook(definitions, source)
	w := watcher{book: book}
	look := func() *Change {
		for range 3 {
			if c := w.poll(); c != nil {
				return c
			}
		}
		return nil
	}
	if c := look(); c != nil {
		t.Fatalf("nothing has changed: %+v", c)
	}
	for _, step := range []struct {
		relays  string
		changed []string
	}{
		{"rules: [{host: a.example.com, timeout: 20s}]", []string{"a"}},
		{"rules: [{host: b.example.com, timeout: 20s}]", []string{"a", "b"}},
		{"rules: [{host: b.example.com, timeout: 20s, max_message_rate: 1/s}]", []string{"b"}},
		{"rules: [{host: f.example.com, max_connections: 3}]", []string{"a", "b"}},
		{"rules: [{host: f.example.com, max_connections: 3}, {host: x}]", nil},
	} {
		write(main, "log: {level: debug}\nrelays: {"+step.relays+"}\n")
		c := look()
		if step.changed == nil {
			if c != nil {
				t.Errorf("%s: %+v, want no change", step.relays, c)
			}
			continue
		}
		if c == nil || c.Kept || !slices.Equal(c.Changed, step.changed) {
			t.Errorf("%s: %+v, want %v changed", step.relays, c, step.changed)
		}
	}
	if limits := book.Current().limits["f.example.com:587"]; limits.MaxConnections != 3 || limits.MaxMessageRate != (verdict.Rate{}) {
		t.Errorf("limits: %+v", limits)
	}
	write(main, "relays: {rules: [{host: f.example.com, max_connections: many}]}\n")
	if c := look(); c == nil || !c.Kept || len(c.Problems) != 2 || c.Problems[0].File != main {
		t.Errorf("a bad rule: %+v", c)
	}
	if limits := book.Current().limits["f.example.com:587"]; limits.MaxConnections != 3 {
		t.Error("the old rules are not in force after a bad rule")
	}
}
