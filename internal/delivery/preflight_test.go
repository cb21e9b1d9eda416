package delivery

import (
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/config"
	"github.com/certpost/certpost/internal/devrelay"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/payload"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/smtp"
	"github.com/certpost/certpost/internal/verdict"
)

// spoken returns findings as "status what: message".
func spoken(findings []verdict.Finding) (lines []string) {
	for _, f := range findings {
		lines = append(lines, fmt.Sprintf("%s %s: %s", f.Status, f.What, f.Message))
	}
	return lines
}

// finds reports whether one of the findings begins with status and what, and holds
// the text.
func finds(findings []verdict.Finding, start, text string) bool {
	return slices.ContainsFunc(spoken(findings), func(line string) bool { return strings.HasPrefix(line, start) && strings.Contains(line, text) })
}

// A preflight finds what a delivery would find, and sends no mail.
//
// Fault: a stray root or intermediate. Result: the preflight warns, too.
func TestExamine(t *testing.T) {
	t.Parallel()
	const password, phrase = "hunter2-canary", "open-sesame-canary"
	dir := t.TempDir()
	file := func(name string, text []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	server, err := devrelay.Start(devrelay.Config{Users: map[string]string{"certs": password}, MaxMailBytes: 200_000})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	ca, err := server.CAFile(dir)
	if err != nil {
		t.Fatal(err)
	}
	p := lab.NewPKI(t, "p256")
	now := time.Now()
	valid := func(days int) func(*events.Event) {
		leaf := lab.Issue(t, p.Intermediate, p.Leaf.Key, "*.example.com", lab.DNSNames("*.example.com"), validFor(now, days))
		return func(e *events.Event) { e.Certificate.PEM = string(lab.PEM(leaf, p.Intermediate)) }
	}
	stray := func(e *events.Event) {
		e.Certificate.PEM += string(lab.PEM(lab.Issue(t, nil, p.Leaf.Key, "Another Root", lab.AsCA)))
	}
	key := file("key.pem", lab.KeyPEM(t, p.Leaf.Key))
	other := file("other.pem", lab.KeyPEM(t, lab.NewKey(t, "p256")))
	submission := server.Submission()
	// Written once: the tests run in parallel, and a file that is being written is empty at first.
	login, opening := file("password", []byte(password+"\n")), file("phrase", []byte(phrase+"\n"))
	wrong := file("wrong", []byte("wrong"))
	good := func(target *Target) {
		target.TLSMode, target.CAFile = smtp.TLSStartTLS, ca
		target.Username, target.Password = Text{Plain: "certs"}, secrets.Ref{File: login}
		target.Payload, target.PKCS12Passphrase = payload.PKCS12, Passphrase{Ref: secrets.Ref{File: opening}}
		target.Timeout = 20 * time.Second
	}
	for name, test := range map[string]struct {
		target func(*Target)
		event  func(*events.Event)
		body   string // in place of the event
		id     string // of the target, in place of the fixture's
		want   [][2]string
		not    []string // no finding begins like that
	}{
		"all well": {want: [][2]string{
			{"ok target", "payload pkcs12, relay localhost:"}, {"ok event", ""}, {"ok certificate", `"*.example.com": It is valid until`}, {"ok key", "pkcs12 file can be made"},
			{"ok mail", "number of recipients: 1"}, {"ok secret", "file:"}, {"ok relay", "AUTH plain accepted"}, {"ok size", "accepts up to 200001"},
		}, not: []string{"error", "warning relay"}},
		"no such target":                {id: "gone", want: [][2]string{{"error target", `"gone" is not defined`}, {"ok certificate", ""}}, not: []string{"ok relay"}},
		"disabled":                      {target: func(t *Target) { t.Disabled = true }, want: [][2]string{{"error target", "is disabled"}}},
		"no event":                      {body: "{", want: [][2]string{{"error event", "cannot be read"}, {"ok relay", ""}}, not: []string{"ok certificate"}},
		"expired":                       {event: valid(-3), want: [][2]string{{"error certificate", "the certificate expired on"}, {"ok key", ""}, {"ok relay", ""}}, not: []string{"ok mail"}},
		"a stray certificate":           {event: stray, want: [][2]string{{"warning certificate", `was left out: "Another Root" issued neither`}, {"ok key", ""}, {"ok mail", ""}}, not: []string{"error"}},
		"a stray certificate, strictly": {target: func(t *Target) { t.StrictChain = true }, event: stray, want: [][2]string{{"error certificate", `the chain is broken: "Another Root" issued neither`}}, not: []string{"ok mail"}},
		"another key":                   {event: func(e *events.Event) { e.PrivateKey.File = other }, want: [][2]string{{"error key", "does not match"}, {"ok relay", ""}}},
		"no key":                        {event: func(e *events.Event) { e.PrivateKey = nil }, want: [][2]string{{"error key", "the event has no private_key"}}},
		"a key out of bounds":           {event: func(e *events.Event) { e.PrivateKey.File = "/etc/hostname" }, want: [][2]string{{"error key", "SECRET_DENIED"}}},
		"no passphrase":                 {target: func(t *Target) { t.PKCS12Passphrase = Passphrase{Ref: secrets.Ref{File: filepath.Join(dir, "gone")}} }, want: [][2]string{{"error secret", "gone"}, {"ok relay", ""}}, not: []string{"ok key"}},
		"a passphrase by name":          {target: func(t *Target) { t.PKCS12Passphrase = Passphrase{Ref: secrets.Ref{File: opening}} }, want: [][2]string{{"ok secret", ""}, {"ok key", ""}}},
		"no password":                   {target: func(t *Target) { t.Password = secrets.Ref{File: filepath.Join(dir, "none")} }, want: [][2]string{{"error secret", "none"}, {"warning relay", "not tried"}, {"ok key", ""}}},
		"wrong password":                {target: func(t *Target) { t.Password = secrets.Ref{File: wrong} }, want: [][2]string{{"error relay", "SMTP_AUTH"}}},
		"unknown CA":                    {target: func(t *Target) { t.CAFile = "" }, want: [][2]string{{"error relay", "SMTP_TLS"}}},
		"the relay is away":             {target: func(t *Target) { t.Port = 1 }, want: [][2]string{{"error relay", "SMTP_CONNECT"}}},
		"the relay is away, its fallback is not": {target: func(t *Target) {
			t.Fallback = []Fallback{{Host: t.Host, RelayKeys: t.ownKeys()}}
			t.Port = 1
		}, want: [][2]string{{"warning relay", "a fallback answers"}, {"ok relay", "fallback: localhost"}}, not: []string{"error"}},
		"a fallback is away": {target: func(t *Target) {
			one := 1
			t.Fallback = []Fallback{{Host: t.Host, RelayKeys: RelayKeys{Port: &one, AuthMethod: smtp.AuthNone}}}
		}, want: [][2]string{{"warning relay", "fallback: SMTP_CONNECT"}, {"ok relay", "AUTH plain"}}, not: []string{"error"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, port, _ := net.SplitHostPort(submission)
			o := newFixture(t, net.JoinHostPort("localhost", port), RelayLimits{}, func(target *Target) {
				good(target)
				if test.target != nil {
					test.target(target)
				}
			})
			o.opts.InvalidDates, o.sources = "refuse", newSourceBook(Sources{}, secrets.Policy{FileRoots: []string{dir}})
			o.event.PrivateKey = &events.Reference{File: key}
			valid(60)(o.event)
			if test.event != nil {
				test.event(o.event)
			}
			body, id := o.event.Encode(), o.target.ID
			if test.body != "" {
				body = []byte(test.body)
			}
			if test.id != "" {
				id = test.id
			}
			found := o.Inspector().Examine(t.Context(), verdict.Trial{Target: id, Event: body})
			for _, want := range test.want {
				if !finds(found, want[0], want[1]) {
					t.Errorf("nothing says %q with %q in\n%s", want[0], want[1], strings.Join(spoken(found), "\n"))
				}
			}
			for _, start := range test.not {
				if finds(found, start, "") {
					t.Errorf("something says %q in\n%s", start, strings.Join(spoken(found), "\n"))
				}
			}
			if all := strings.Join(spoken(found), "\n"); strings.Contains(all, password) || strings.Contains(all, phrase) || strings.Contains(all, "PRIVATE KEY-----") {
				t.Errorf("a secret in\n%s", all)
			}
		})
	}
	t.Cleanup(func() {
		if n := server.Count(); n > 0 {
			t.Errorf("the relay took %d mails", n)
		}
	})
}

func validFor(now time.Time, days int) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = now.Add(-90*24*time.Hour), now.Add(time.Duration(days)*24*time.Hour)
	}
}

// A relay that is slow, or does not accept the size of the mail, is reported within the
// target's timeout, on one connection.
func TestExamineMoodyRelays(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		script lab.RelayScript
		want   [2]string
	}{
		"too small":     {lab.RelayScript{Offers: []string{"SIZE 2000"}}, [2]string{"error size", "accepts at most 2000"}},
		"no limit":      {lab.RelayScript{Offers: []string{"8BITMIME"}}, [2]string{"ok size", "announces no limit"}},
		"hangs":         {lab.RelayScript{Acts: map[string]lab.RelayAct{lab.AtEHLO: {Hang: true}}}, [2]string{"error relay", "SMTP_CONNECT"}},
		"421 at once":   {lab.RelayScript{Acts: map[string]lab.RelayAct{lab.AtBanner: {Reply: "421 4.3.2 later", Drop: true}}}, [2]string{"error relay", "421"}},
		"refuses EHLO":  {lab.RelayScript{Acts: map[string]lab.RelayAct{lab.AtEHLO: {Reply: "550 5.7.1 not you"}}}, [2]string{"error relay", "550"}},
		"says nonsense": {lab.RelayScript{Acts: map[string]lab.RelayAct{lab.AtBanner: {Reply: "nonsense"}}}, [2]string{"error relay", "banner"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := lab.StartRelay(t, test.script)
			o := newFixture(t, server.Address(), RelayLimits{}, func(target *Target) { target.Timeout = time.Second })
			found := o.Inspector().Examine(lab.Patient(t), verdict.Trial{Target: o.target.ID, Event: o.event.Encode()})
			if !finds(found, test.want[0], test.want[1]) {
				t.Errorf("nothing says %q in\n%s", test.want, strings.Join(spoken(found), "\n"))
			}
			if all, _ := server.Dials(); all != 1 || len(server.Taken()) > 0 || slices.Contains(server.Heard(), "MAIL") {
				t.Errorf("%d connections, heard %v", all, server.Heard())
			}
		})
	}
}

func TestCheckSaysWhatStandsInTheWay(t *testing.T) {
	t.Parallel()
	server := lab.StartRelay(t, lab.RelayScript{})
	o := newFixture(t, server.Address(), RelayLimits{}, func(target *Target) { target.Disabled = true })
	inspector := o.Inspector()
	if found := inspector.Check(t.Context(), o.target.ID); !finds(found, "warning target", "disabled") || !finds(found, "ok relay", "in plaintext") {
		t.Errorf("disabled: %q", spoken(found))
	}
	if found := inspector.Check(t.Context(), "gone"); len(found) != 1 || !finds(found, "error target", "not defined") {
		t.Errorf("unknown: %q", spoken(found))
	}
}

// A relay that cannot be verified is shown with the fingerprint that tls_fingerprint wants.
//
// Fault: from an unknown CA. Result: dead (SMTP_TLS); or with tls_fingerprint and then no
// other; the check shows its fingerprint.
// Fault: tls_fingerprint or tls_skip_verify is changed while connections are kept. Result:
// those are not used again.
func TestCheckShowsFingerprints(t *testing.T) {
	t.Parallel()
	stranger := lab.NewTLSAuthority(t, "Own CA")
	server := lab.StartRelay(t, lab.RelayScript{Cert: stranger.Issue(t, nil)})
	o := newFixture(t, server.Address(), RelayLimits{}, func(target *Target) { target.TLSMode = smtp.TLSStartTLS })
	_, f := o.deliver(t.Context())
	if f == nil || f.Code != verdict.SMTPTLS || f.Transcript.PeerCertificate == nil {
		t.Fatalf("%+v", f)
	}
	fingerprint := f.Transcript.PeerCertificate.Fingerprint
	if found := o.Inspector().Check(t.Context(), o.target.ID); !finds(found, "error relay", "(tls_fingerprint) is "+fingerprint) {
		t.Errorf("%q", spoken(found))
	}
	o.redefine(func(target *Target) { target.TLSSkipVerify = true })
	if found := o.Inspector().Check(t.Context(), o.target.ID); !finds(found, "warning relay", "tls_fingerprint: "+fingerprint) {
		t.Errorf("%q", spoken(found))
	}
	o.redefine(func(target *Target) { target.TLSSkipVerify, target.TLSFingerprint = false, fingerprint })
	for _, found := range o.Inspector().Check(t.Context(), o.target.ID) {
		if found.What == "relay" && (found.Status == verdict.Error || strings.Contains(found.Message, "tls_")) {
			t.Errorf("%q", spoken([]verdict.Finding{found}))
		}
	}
	if receipt := o.mustDeliver(); receipt.TLS == "" {
		t.Errorf("%+v", receipt)
	}
	o.redefine(func(target *Target) { target.TLSFingerprint = strings.Repeat("ab", 32) })
	if _, f := o.deliver(t.Context()); f == nil || f.Code != verdict.SMTPTLS {
		t.Errorf("a kept connection was used, although the fingerprint has changed: %+v", f)
	}
}

// The whole definition is shown, without its secrets.
func TestTargetViews(t *testing.T) {
	t.Parallel()
	const secret = "canary-in-the-configuration"
	path := filepath.Join(t.TempDir(), "c.yaml")
	text := `relays:
  default: {timeout: 50s, max_connections: 3}
  rules:
    - {host: "*.example.com", username: rule, password: {value: ` + secret + `}}
targets:
  - id: full
    host: smtp.example.com
    match: {dns_names: ["*.example.com"], labels: {env: prod, area: "1"}}
    from_address: a@example.com
    to: [b@example.com]
    cc: [c@example.com]
    bcc: [d@example.com]
    payload: pkcs12
    pkcs12_passphrase: {vault: {mount: secret, path: p12/ops, key: passphrase}}
    fallback: [{host: two.example.net, port: 465, auth_method: none}]
  - {id: off, disabled: true, host: localhost, port: 25, from_address: a@example.com, to: [b@example.com]}
`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	source := Source{Config: path, Relays: path}
	d, problems := source.Load()
	if d == nil {
		t.Fatal(problems)
	}
	inspector := NewCourier(NewBook(d, source), nil, Options{}).Inspector()
	views := inspector.Targets()
	if len(views) != 2 {
		t.Fatalf("%+v", views)
	}
	full := views[0]
	if full.Where != path+":6" || full.Lane == "" || !slices.Equal(full.Relays, []string{"smtp.example.com:587", "two.example.net:465"}) ||
		!slices.Equal(full.To, []string{"b@example.com", "c@example.com", "d@example.com"}) || full.Disabled || full.Payload != payload.PKCS12 {
		t.Errorf("%+v", full)
	}
	var got []string
	for _, r := range full.Rows {
		line := r.Key + "=" + r.Value
		if r.Default {
			line += " (default)"
		}
		got = append(got, line)
	}
	want := []string{
		"id=full", "type=smtp (default)", "disabled=false (default)", "match.dns_names=*.example.com", "match.labels=area=1, env=prod",
		"host=smtp.example.com", "port=587 (default)", "tls_mode=starttls (default)", "tls_skip_verify=false (default)", "auth_method=plain (default)",
		"username=rule (from relays.rules[0].username)", "password=value:[redacted] (from relays.rules[0].password)",
		"allow_insecure_auth=false (default)", "allow_plaintext_key=false (default)", "retry_auth=false (default)", "retry_tls=false (default)",
		"timeout=50s (from relays.default.timeout)", "fallback[0].host=two.example.net", "fallback[0].port=465", "fallback[0].auth_method=none",
		"from_address=a@example.com", "to=b@example.com", "cc=c@example.com", "bcc=d@example.com", "all_or_nothing=false (default)",
		"payload=pkcs12", "pkcs12_passphrase=vault:secret/p12/ops#passphrase", "pkcs12_encoding=modern2023 (default)", "pkcs12_iterations=2048 (default)", "zip_private_key=false (default)",
		"encryption=none (default)", "smime_oaep=false (default)", "max_attachment_bytes=26214400 (default)", "max_message_bytes=52428800 (default)", "superseded=deliver (default)",
		"strict_chain=false (default)", "allow_unsupported_certificate=false (default)",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if len(views[1].Warnings) == 0 || !views[1].Disabled {
		t.Errorf("no warnings of plaintext: %+v", views[1])
	}
	if all := fmt.Sprintf("%+v", views); strings.Contains(all, secret) {
		t.Errorf("the secret is in %s", all)
	}
	relays := inspector.Relays()
	if len(relays) != 2 || relays[0].Relay != "smtp.example.com:587" || relays[0].MaxConnections != 3 || relays[1].Fallback != 1 {
		t.Errorf("%+v", relays)
	}
}

// A replay may name the target's own recipients and the allowed ones, and no others.
func TestReaddress(t *testing.T) {
	t.Parallel()
	allowed := Recipients{"desk@help.example", "*@Bücher.example"}
	if problems := allowed.Validate(); len(problems) > 0 {
		t.Errorf("%v", problems)
	}
	for _, wrong := range []string{"", "*", "help.example", "*@", "*@*.example", "a*@help.example", "a b@help.example", "*@exa mple"} {
		if problems := (Recipients{wrong}).Validate(); len(problems) != 1 || problems[0].Severity != config.Error {
			t.Errorf("%q passes: %v", wrong, problems)
		}
	}
	for name, test := range map[string]struct {
		override, owed, accepted []string
		taken                    []string // by the relay
		refused                  string   // named in the reason
	}{
		"its own":                       {override: []string{"C@example.com"}, taken: []string{"C@example.com"}},
		"none":                          {taken: []string{"b@example.com", "C@example.com", "d@example.com"}},
		"an allowed one":                {override: []string{"desk@help.example"}, taken: []string{"desk@help.example"}},
		"of an allowed domain":          {override: []string{"x@xn--bcher-kva.example", "b@example.com"}, taken: []string{"b@example.com", "x@xn--bcher-kva.example"}},
		"what was owed before is not":   {override: []string{"desk@help.example"}, owed: []string{"b@example.com"}, taken: []string{"desk@help.example"}},
		"what is left of it is":         {override: []string{"desk@help.example", "b@example.com"}, owed: []string{"b@example.com"}, accepted: []string{"desk@help.example"}, taken: []string{"b@example.com"}},
		"who has it does not get it":    {override: []string{"b@example.com", "d@example.com"}, accepted: []string{"b@example.com"}, taken: []string{"d@example.com"}},
		"a stranger":                    {override: []string{"b@example.com", "thief@evil.example"}, refused: "thief@evil.example"},
		"a neighbour of an allowed one": {override: []string{"chief@help.example"}, refused: "chief@help.example"},
		"below an allowed domain":       {override: []string{"x@mail.bücher.example"}, refused: "x@mail.bücher.example"},
		"a route through one":           {override: []string{"thief%evil.example@bücher.example"}, refused: "thief%evil.example"},
		"a quoted route through one":    {override: []string{`"thief@evil.example"@bücher.example`}, refused: "thief@evil.example"},
		"no address":                    {override: []string{"b@example.com\r\nRCPT TO:<x@evil.example>"}, refused: "b@example.com"},
		"a list":                        {override: []string{"b@example.com, thief@evil.example"}, refused: "thief"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := lab.StartRelay(t, lab.RelayScript{})
			o := newFixture(t, server.Address(), RelayLimits{}, func(target *Target) {
				target.To, target.CC, target.BCC = []string{"b@example.com"}, []string{"C@example.com"}, []string{"d@example.com"}
			})
			o.opts.Readdress = allowed
			for _, address := range test.override {
				if own := []string{"b@example.com", "C@example.com", "d@example.com"}; allowed.Allows(own, address) != (test.refused == "" || address == "b@example.com") {
					t.Errorf("Allows disagrees about %q", address)
				}
			}
			receipt, failure := o.Deliver(t.Context(), o.event, verdict.Attempt{
				Target: o.target.ID, Number: 1, Claim: claimedAtOnce, Override: test.override, Recipients: test.owed, Accepted: test.accepted,
			})
			if test.refused != "" {
				if receipt != nil || failure == nil || failure.Code != verdict.SMTPValidation || !strings.Contains(failure.Reason, test.refused) || strings.ContainsAny(failure.Reason, "\r\n") {
					t.Fatalf("%+v, %+v", receipt, failure)
				}
				if all, _ := server.Dials(); all != 0 {
					t.Error("the relay was dialled")
				}
				return
			}
			if failure != nil || !slices.Equal(receipt.Recipients, test.taken) {
				t.Fatalf("%+v, %v", receipt, failure)
			}
			mail := server.Taken()[0]
			head, _, _ := strings.Cut(mail.Content, "\r\n\r\n")
			if strings.Contains(head, "d@example.com") || !strings.Contains(head, "b@example.com") ||
				slices.Contains(test.override, "desk@help.example") != strings.Contains(head, "desk@help.example") {
				t.Errorf("headers:\n%s", head)
			}
		})
	}
}

// The Message-ID is known without a delivered mail.
func TestMessageIDsAreKnown(t *testing.T) {
	t.Parallel()
	server := lab.StartRelay(t, lab.RelayScript{})
	for _, domain := range []string{"", "mail.example.net"} {
		o := newFixture(t, server.Address(), RelayLimits{}, nil)
		o.opts.MessageIDDomain = domain
		receipt := o.mustDeliver()
		if got := o.Inspector().MessageID(o.target.ID, o.event.ID); got != receipt.MessageID || got == "" {
			t.Errorf("domain %q: %s, the mail has %s", domain, got, receipt.MessageID)
		}
		if got := o.Inspector().MessageID("gone", o.event.ID); got != "" {
			t.Errorf("of an unknown target: %s", got)
		}
	}
}

// What the rules for passphrases refuse is said by the check, too, for every kind that has one, and shows
// nothing of it.
//
// Fault: a passphrase that Java or keytool could not use. Result: refused when targets are loaded or the
// secret is fetched (SMTP_PAYLOAD); `check --live` and preflight say so before.
func TestChecksOfPassphrases(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for phrase, says := range map[string]string{
		"correct-horse-canary": "", "canäry-horse": "is not printable ASCII", "canary\nhorse": "perhaps a line break", "   ": "is empty", "canar": "less than 6 characters",
	} {
		for _, kind := range []string{payload.PKCS12, payload.JKS, payload.TrustStore} {
			want := says
			if kind == payload.PKCS12 && strings.HasPrefix(says, "less") {
				want = "" // only keytool makes that rule
			}
			file := filepath.Join(dir, fmt.Sprintf("%x", phrase))
			lab.Write(t, file, []byte(phrase))
			o := newFixture(t, "127.0.0.1:1", RelayLimits{}, func(target *Target) {
				target.Payload = kind
				target.PKCS12Passphrase, target.KeystorePassword = Passphrase{Ref: secrets.Ref{File: file}}, Passphrase{Ref: secrets.Ref{File: file}}
			})
			found := o.Inspector().Check(t.Context(), o.target.ID)
			if bad := finds(found, "error secret", want); bad != (want != "") {
				t.Errorf("%s with %q: want an error with %q:\n%s", kind, phrase, want, strings.Join(spoken(found), "\n"))
			}
			if strings.Contains(strings.Join(spoken(found), "\n"), phrase) && want != "" && strings.TrimSpace(phrase) != "" {
				t.Error("the passphrase is shown")
			}
			o.withKey()
			if _, failure := o.deliver(t.Context()); want != "" && (failure == nil || failure.Code != verdict.SMTPPayload && failure.Code != verdict.SecretNotFound) {
				t.Errorf("%s with %q is delivered: %v", kind, phrase, failure)
			}
			v, inline := &validation{}, o.target
			inline.PKCS12Passphrase = Passphrase{Ref: secrets.Ref{Value: secrets.New([]byte(phrase))}}
			inline.KeystorePassword = inline.PKCS12Passphrase
			if inline.validatePayload(v); config.Failed(v.found) != (want != "") {
				t.Errorf("%s with %q in the configuration: %v", kind, phrase, v.found)
			}
		}
	}
}
