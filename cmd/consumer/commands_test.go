package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/verdict"
)

func TestPublish(t *testing.T) {
	t.Parallel()
	o := newFixture(t, "")
	certFile, keyFile, chain := o.issue("www.example.com")

	out := o.certpost("publish", "--cert", certFile).done(t)
	if !regexp.MustCompile(`^event [0-9A-HJKMNP-TV-Z]{26} published \(sequence 1\)\n$`).MatchString(out) {
		t.Errorf("publish says %q", out)
	}
	if got := attachmentOf(t, o.mailTo("ops@demo.example", 1).Raw, "www.example.com.pem"); string(got) != chain {
		t.Errorf("the mail has\n%s\nwant\n%s", got, chain)
	}

	o.certpost("publish", "--cert", certFile, "--key-ref", "file:"+keyFile, "--target", "keys", "--target", "java").done(t)
	key, err := os.ReadFile(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	if got := attachmentOf(t, o.mailTo("keys@demo.example", 1).Raw, "www.example.com.key.pem"); string(got) != string(key) {
		t.Error("the key in the mail is not the one of the reference")
	}
	o.mailTo("java@demo.example", 1)

	other, _, _ := o.issue("www.example.net")
	o.certpost("publish", "--cert", other, "--label", "env=prod", "--label", "team=web").done(t)
	o.mailTo("prod@demo.example", 1)

	type published struct {
		ID        string `json:"id"`
		Sequence  int    `json:"sequence"`
		Duplicate bool   `json:"duplicate"`
	}
	for _, duplicate := range []bool{false, true} {
		out := o.certpost("publish", "--cert", certFile, "--id", "mine", "--source", "test://here", "-o", "json").done(t)
		if got := read[published](t, out); got != (published{"mine", 4, duplicate}) {
			t.Errorf("publish says %+v", got)
		}
	}
	if out := o.certpost("publish", "--cert", certFile, "--id", "mine").done(t); out != "event mine was published already\n" {
		t.Errorf("publish says %q", out)
	}
	o.settled()
	if n := o.relay.Count(); n != 5 {
		t.Errorf("%d mails, want 5: ops, keys, java, prod, and ops again", n)
	}
	if mail := o.mailTo("ops@demo.example", 2); !strings.Contains(string(mail.Raw), "test://here") {
		t.Error("the mail does not name the event's source")
	}
}

func TestPublishRefuses(t *testing.T) {
	t.Parallel()
	o := newFixture(t, "")
	certFile, keyFile, chain := o.issue("www.example.com")
	key, err := os.ReadFile(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	o.write("both.pem", chain+string(key))
	o.write("empty.pem", "")
	absent := o.path("absent.pem")
	for _, test := range []struct {
		name, args, want string
		code             int
	}{
		{"a key beside the certificate", "--cert " + o.path("both.pem"),
			"--cert " + o.path("both.pem") + ": the certificate file holds a private key, which must not be published: give a file with only the certificates, and name the key by a reference", exitUsage},
		{"no file", "--cert " + absent, "--cert: open " + absent + ": no such file or directory", exitUsage},
		{"no certificate", "--cert " + o.path("empty.pem"), "--cert " + o.path("empty.pem") + ": the certificate file cannot be used: it is empty", exitUsage},
		{"a key in the environment", "--cert " + certFile + " --key-ref env:KEY", "--key-ref env:KEY: an event can reference keys only in vault: or file:", exitUsage},
		{"a key on the command line", "--cert " + certFile + " --key-ref value:x", "--key-ref: a secret itself is not allowed on a command line, because every process can read it", exitUsage},
		{"a relative file", "--cert " + certFile + " --key-ref file:www.key", "the event is invalid: $.private_key.file: not an absolute path", exitUsage},
		{"nothing to store", "--cert " + certFile + " --store-key vault:secret/certs/x#private_key", "--store-key needs --key FILE: the private key to store", exitUsage},
		{"nowhere to store", "--cert " + certFile + " --key " + keyFile + " --store-key vault:secret/certs/{cn}#private_key",
			"store the private key: vault:secret/certs/www.example.com#private_key: Vault is not configured; set vault.address in the configuration, or VAULT_ADDR", exitFailed},
		{"another store", "--cert " + certFile + " --key " + keyFile + " --store-key file:" + o.path("kept"), "--store-key file:" + o.path("kept") + ": keys can be stored only in vault:", exitUsage},
		{"an unknown placeholder", "--cert " + certFile + " --key " + keyFile + " --store-key vault:secret/{foo}#private_key", "--store-key: {foo} is unknown: use {lineage}, {key_type}, {cn} and {domain}", exitUsage},
		{"a placeholder of the configuration", "--cert " + certFile + " --key " + keyFile + " --store-key vault:secret/{cn}/{target}#private_key", "--store-key: {target} is unknown: use {lineage}, {key_type}, {cn} and {domain}", exitUsage},
		{"a placeholder in a reference", "--cert " + certFile + " --key-ref vault:secret/{cn}#private_key", "--key-ref: vault:secret/{cn}#private_key: placeholders are replaced only in --store-key", exitUsage},
		{"a label that is called a key", "--cert " + certFile + " --label private_key=x", "the event is invalid: the event carries a private key, or what looks like one, at $.labels.private_key: store the key in Vault, publish a reference to it as private_key", exitUsage},
		{"no such client", "--from bot", `--from: unknown ACME client "bot"; expected one of certbot, lego, acme.sh, dehydrated, caddy, step, files`, exitUsage},
		{"not called by the client", "--from certbot", "--from: certbot passed no certificate: this works only as certbot's deploy hook: certbot ... --deploy-hook 'certpost publish --from certbot'", exitUsage},
	} {
		t.Run(test.name, func(t *testing.T) {
			o.certpost(append([]string{"publish"}, strings.Fields(test.args)...)...).failed(t, test.code, "certpost: "+test.want+"\n")
		})
	}
	if backlog, err := o.service.broker.Backlog(t.Context()); err != nil || backlog != (broker.Backlog{}) {
		t.Errorf("something was published: %+v, %v", backlog, err)
	}
	if n := o.relay.Count(); n != 0 {
		t.Errorf("%d mails", n)
	}

	gone := slowRelay(t, nil) // speaks no NATS
	o.write("elsewhere.yaml", "data_dir: "+o.path("elsewhere")+"\nnats: {url: \"nats://"+gone+"\"}\n")
	said := command(t, nil, "-c", o.path("elsewhere.yaml"), "publish", "--cert", certFile, "--id", "late")
	if said.code != exitKept || !strings.HasPrefix(said.stderr, "certpost: event late is not published yet: NATS at nats://"+gone+" does not answer (") ||
		!strings.Contains(said.stderr, "): check that `certpost run` or the NATS server is running, and that nats.url is right; it is kept in "+o.path("elsewhere/spool")+", and published by ") {
		t.Errorf("exit %d: %s", said.code, said.stderr)
	}
}

// The variables and arguments that ACME clients pass to hooks; TestRealRoad runs a real
// certbot.
func TestPublishFromHooks(t *testing.T) {
	t.Parallel()
	o := newFixture(t, "")
	certFile, keyFile, chain := o.issue("hook.example.com")
	key, err := os.ReadFile(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	live := o.path("live/hook.example.com")
	if err := os.MkdirAll(live, 0o700); err != nil {
		t.Fatal(err)
	}
	o.write("live/hook.example.com/fullchain.pem", chain)
	o.write("live/hook.example.com/privkey.pem", string(key))

	certbot := []string{"RENEWED_LINEAGE=" + live, "RENEWED_DOMAINS=hook.example.com"}
	first := o.certpostWith(certbot, "publish", "--from", "certbot", "--target", "keys").done(t)
	if got := attachmentOf(t, o.mailTo("keys@demo.example", 1).Raw, "hook.example.com.key.pem"); string(got) != string(key) {
		t.Error("the key in the mail is not certbot's")
	}
	id := strings.Fields(first)[1]
	if again := o.certpostWith(certbot, "publish", "--from", "certbot", "--target", "keys").done(t); again != "event "+id+" was published already\n" {
		t.Errorf("the hook run again says %q", again)
	}
	// The same certificate for another target is not swallowed as a duplicate.
	if other := o.certpostWith(certbot, "publish", "--from", "certbot", "--target", "java").done(t); other != "event "+id+" published (sequence 2)\n" {
		t.Errorf("for another target, the hook says %q", other)
	}
	o.mailTo("java@demo.example", 1)
	if s := o.certpostWith(certbot, "publish", "--from", "certbot", "--no-key", "--id", "keyless", "--target", "keys", "--force"); s.code != exitDone {
		t.Errorf("%+v", s)
	}
	o.settled()
	if letters := o.letters(); len(letters) != 1 || letters[0].Code != verdict.SMTPPayload {
		t.Errorf("want one dead letter, SMTP_PAYLOAD, because the key is missing: %+v", letters)
	}

	o.certpostWith([]string{"LEGO_CERT_DOMAIN=hook.example.com", "LEGO_CERT_PATH=" + certFile, "LEGO_CERT_KEY_PATH=" + keyFile}, "publish", "--from", "lego").done(t)
	o.certpostWith([]string{"Le_Domain=hook.example.com", "CERT_FULLCHAIN_PATH=" + certFile, "CERT_KEY_PATH=" + keyFile}, "publish", "--from", "acme.sh").done(t)
	o.certpost("publish", "--from", "dehydrated", "--", "deploy_cert", "hook.example.com", keyFile, certFile, certFile, certFile, "1").done(t)
	o.mailTo("ops@demo.example", 3)

	o.certpost("publish", "--from", "dehydrated", "--", "unchanged_cert", "hook.example.com", keyFile, certFile, certFile, certFile).failed(t, exitDone, "")
}

// With --store-key the key is stored in Vault before the event is published.
func TestPublishStoresKeyInVault(t *testing.T) {
	t.Parallel()
	vault := lab.Vault(t)
	vault.Policy(t, "publisher", `path "secret/data/certs/*" { capabilities = ["create", "update", "patch", "read"] }`)
	o := newFixture(t, "vault: {address: \""+vault.Address+"\", auth: {method: token, token: {value: \""+vault.RootToken+"\"}}}\n")
	o.write("token", vault.Token(t, "1h", "publisher"))
	o.write("publisher.yaml", o.connection()+"vault: {address: \""+vault.Address+"\", auth: {method: token, token: {file: "+o.path("token")+"}}}\n")
	certFile, keyFile, _ := o.issue("*.example.com")
	out := command(t, nil, "-c", o.path("publisher.yaml"), "publish", "--cert", certFile, "--key", keyFile,
		"--store-key", "vault:secret/certs/{cn}#private_key", "--target", "keys", "--id", "stored").done(t)
	if out != "event stored published (sequence 1)\n" {
		t.Errorf("publish says %q", out)
	}
	key, err := os.ReadFile(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	data := vault.Call(t, "GET", "secret/data/certs/_wildcard.example.com", nil)["data"].(map[string]any)["data"].(map[string]any)
	if data["private_key"] != string(key) {
		t.Error("Vault does not have the key")
	}
	// The fixture allows no Vault secrets in events, so this is a dead letter, with the
	// published reference in its body.
	o.settled()
	letters := o.letters()
	if len(letters) != 1 || letters[0].Code != verdict.SecretDenied || !strings.Contains(string(letters[0].Body), `"vault":{"mount":"secret","path":"certs/_wildcard.example.com","key":"private_key","version":1}`) {
		t.Errorf("dead letters: %+v", letters)
	}

	vault.Seal(t)
	said := command(t, nil, "-c", o.path("publisher.yaml"), "publish", "--cert", certFile, "--key", keyFile, "--store-key", "vault:secret/certs/{cn}#private_key", "--id", "unstored")
	if said.code != exitKept || !strings.HasPrefix(said.stderr, "certpost: event unstored is not published yet: store the private key: ") {
		t.Errorf("with a sealed Vault: exit %d, %s", said.code, said.stderr)
	}
	if backlog, err := o.service.broker.Backlog(t.Context()); err != nil || backlog.Events != 0 || len(o.letters()) != 1 {
		t.Errorf("an event was published whose key was not stored: %+v, %v", backlog, err)
	}
}

func TestDeliveries(t *testing.T) {
	t.Parallel()
	o := newFixture(t, "", refuseNobody)
	if out := o.certpost("deliveries", "list").done(t); out != "no matching deliveries\n" {
		t.Errorf("before any: %q", out)
	}
	if out := o.certpost("deliveries", "list", "-o", "json").done(t); out != "[]\n" {
		t.Errorf("before any: %q", out)
	}
	o.publish("first", "ops", "nobody")
	o.settled()
	o.publish("second", "ops")
	o.settled()
	o.until("the index has read the ledger", func() bool { return strings.Contains(o.certpost("deliveries", "list").done(t), "second ") })

	lines := strings.Split(strings.TrimSpace(o.certpost("deliveries", "list").done(t)), "\n")
	if len(lines) != 4 || !regexp.MustCompile(`^EVENT +TARGET +STATE +CODE +ATTEMPTS +LAST ATTEMPT +CERTIFICATE$`).MatchString(lines[0]) ||
		!regexp.MustCompile(`^second +ops +sent +1 +\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ +www\.example\.com$`).MatchString(lines[1]) {
		t.Errorf("table:\n%s", strings.Join(lines, "\n"))
	}
	for args, want := range map[string][]string{
		"":                              {"second ops sent", "first ops sent", "first nobody dead"},
		"--target ops":                  {"second ops sent", "first ops sent"},
		"--event first":                 {"first ops sent", "first nobody dead"},
		"--event first --target nobody": {"first nobody dead"},
		"--state dead":                  {"first nobody dead"},
		"--state sent --limit 1":        {"second ops sent"},
		"--state any --limit 0":         {"second ops sent", "first ops sent", "first nobody dead"},
		"--since 1h --target ops":       {"second ops sent", "first ops sent"},
		"--to 2020-01-01":               nil,
		"--from 2026-01-31T10:00 --event first --target ops": {"first ops sent"},
		"--to 2026-01-31":                 nil,
		"--state discarded --target prod": nil,
	} {
		var got []string
		for _, e := range read[[]broker.Entry](t, o.certpost(append([]string{"deliveries", "list", "-o", "json"}, strings.Fields(args)...)...).done(t)) {
			got = append(got, e.Event+" "+e.Target+" "+string(e.State))
		}
		if !sameInAnyOrder(got, want) {
			t.Errorf("deliveries list %s: %q, want %q", args, got, want)
		}
	}

	out := o.certpost("deliveries", "show", "first").done(t)
	for _, line := range []string{`Event +first`, `Target +nobody`, `State +dead`, `Last failure +SMTP_PERMANENT in rcpt`, `Reply +550 5\.1\.1 no such user`,
		`Sent\? +not-sent`, `Dead letter +certpost\.dead\.SMTP_PERMANENT\..*`, `State +sent`, `Relay +localhost:\d+`, `TLS +TLS 1\.3 .*`,
		`Relay's reply +250 2\.0\.0 OK: queued as D\d{6}`, `Queue id +D\d{6}`, `Has the mail +ops@demo\.example`, `Certificate +www\.example\.com`, `SHA-256 +[0-9a-fA-F:]+`} {
		if !regexp.MustCompile(`(?m)^` + line + `$`).MatchString(out) {
			t.Errorf("deliveries show has no line %s:\n%s", line, out)
		}
	}
	if one := read[broker.Entry](t, o.certpost("deliveries", "show", "second", "ops", "-o", "json").done(t)); one.Receipt == nil || one.Receipt.ReplyCode != 250 {
		t.Errorf("deliveries show: %+v", one)
	}
	o.certpost("deliveries", "show", "third").failed(t, exitFailed, "certpost: the ledger has no delivery of this event: give the target, too, to see whether one waits for its first attempt, or correct the id\n")
	o.certpost("deliveries", "show", "second", "nobody").failed(t, exitFailed, "certpost: neither the ledger nor the queue has such a delivery: check the ids, and that the event was published\n")
}

func sameInAnyOrder(a, b []string) bool {
	count := map[string]int{}
	for _, s := range a {
		count[s]++
	}
	for _, s := range b {
		count[s]--
	}
	for _, n := range count {
		if n != 0 {
			return false
		}
	}
	return true
}

func TestSchema(t *testing.T) {
	t.Parallel()
	for of, property := range map[string]string{"event": "private_key", "config": "give_up_after"} {
		out := command(t, nil, "schema", of).done(t)
		schema := read[map[string]any](t, out)
		if schema["$schema"] != "https://json-schema.org/draft/2020-12/schema" || !strings.Contains(out, `"`+property+`": {`) {
			t.Errorf("schema %s is of %v, or does not know %s", of, schema["$schema"], property)
		}
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	if out := command(t, nil, "version").done(t); !regexp.MustCompile(`^certpost \S+ \(go1\.\d+\S*\)\n$`).MatchString(out) {
		t.Errorf("version says %q", out)
	}
	v := read[map[string]string](t, command(t, nil, "version", "-o", "json").done(t))
	if v["version"] == "" || !strings.HasPrefix(v["go"], "go1.") {
		t.Errorf("version says %v", v)
	}
}

func TestRender(t *testing.T) {
	t.Parallel()
	o := newFixture(t, "")
	certFile, keyFile, chain := o.issue("www.example.com")
	key, err := os.ReadFile(keyFile)
	if err != nil {
		t.Fatal(err)
	}

	// A file that all users may read existed before.
	mail := o.path("mail.eml")
	if err := os.WriteFile(mail, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	if out := o.certpost("render", "--target", "keys", "--cert", certFile, "--key", keyFile, "-o", mail).done(t); out != "" {
		t.Errorf("render says %q", out)
	}
	info, err := os.Stat(mail)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("a mail with a private key has mode %v", info.Mode())
	}
	raw, err := os.ReadFile(mail)
	if err != nil {
		t.Fatal(err)
	}
	if string(attachmentOf(t, raw, "www.example.com.pem")) != chain || string(attachmentOf(t, raw, "www.example.com.key.pem")) != string(key) {
		t.Error("the mail does not contain the certificate and its key")
	}

	p12 := o.path("p12.eml")
	if said := o.certpost("render", "--target", "java", "--cert", certFile, "--key", keyFile, "-o", p12); said.code != exitDone ||
		said.stderr != "certpost: the mail for java has the passphrase \"sample-passphrase\" instead of pkcs12_passphrase\n" {
		t.Errorf("exit %d: %s", said.code, said.stderr)
	}
	if raw, err = os.ReadFile(p12); err != nil {
		t.Fatal(err)
	}
	if err := opensPKCS12(attachmentOf(t, raw, "www.example.com.p12"), "sample-passphrase"); err != nil {
		t.Error(err)
	}

	out := o.certpost("render", "--target", "ops", "--cert", certFile).done(t)
	if string(attachmentOf(t, []byte(out), "www.example.com.pem")) != chain {
		t.Error("the mail on standard output does not contain the certificate")
	}
	// A sample, the events of a file, and all targets at once.
	said := o.certpost("render", "--output", "json", "--target", "keys", "--target", "java")
	views := read[[]verdict.MailView](t, said.done(t))
	if len(views) != 2 || views[0].Target != "keys" || !strings.Contains(views[0].Subject, "certificate for www.example.com issued") || len(views[0].Files) != 2 ||
		!slices.Equal(views[1].Instead, []string{"a sample certificate that nobody uses", `the passphrase "sample-passphrase" instead of pkcs12_passphrase`}) || views[1].HTML == "" {
		t.Errorf("got %+v", views)
	}
	event := o.path("event.json")
	lab.Write(t, event, []byte(`{"id":"e77","certificate":{"vault":{"mount":"secret","path":"certs/x","key":"cert"}},"private_key":{"file":"/nowhere"},"targets":["ops","keys"]}`))
	mails := t.TempDir()
	said = o.certpost("render", "--event", event, "-o", mails)
	if said.code != exitDone || said.stderr != "certpost: the mail for ops has a sample certificate instead of the one that the event refers to\n"+
		"certpost: the mail for keys has a sample certificate instead of the one that the event refers to\n" {
		t.Errorf("exit %d: %s", said.code, said.stderr)
	}
	for _, name := range []string{"ops.eml", "keys.eml"} {
		if raw, err = os.ReadFile(filepath.Join(mails, name)); err != nil || !bytes.Contains(raw, []byte("X-Certpost-Event-Id: e77")) {
			t.Errorf("%s: %v", name, err)
		}
	}
	o.certpost("render", "--event", event).failed(t, exitUsage, "certpost: 2 mails: give a directory with -o, or one --target\n")
	o.certpost("render", "--target", "keys", "--key", keyFile).failed(t, exitUsage, "certpost: --key needs --cert or --event: it is the key of a certificate\n")
	// Without its key, a certificate like it stands in.
	said = o.certpost("render", "--target", "keys", "--cert", certFile, "-o", mail)
	if said.code != exitDone || !strings.HasPrefix(said.stderr, "certpost: the mail for keys has a new key that nobody uses, and a certificate like the event's") {
		t.Errorf("exit %d: %s", said.code, said.stderr)
	}
	if raw, err = os.ReadFile(mail); err != nil || string(attachmentOf(t, raw, "www.example.com.pem")) == chain || len(attachmentOf(t, raw, "www.example.com.key.pem")) == 0 {
		t.Error("the mail has the certificate itself, or no key", err)
	}

	if n := o.relay.Count(); n != 0 {
		t.Errorf("render sent %d mails", n)
	}

	_, otherKey, _ := o.issue("other.example.com")
	o.certpost("render", "--target", "nowhere", "--cert", certFile).failed(t, exitUsage, "certpost: --target nowhere: unknown target: certpost targets list shows the targets\n")
	o.certpost("render", "--target", "ops", "--cert", "absent").failed(t, exitUsage, "certpost: --cert: open absent: no such file or directory\n")
	o.certpost("render", "--target", "keys", "--cert", certFile, "--key", "absent").failed(t, exitUsage, "certpost: --key: open absent: no such file or directory\n")
	for name, args := range map[string][]string{"another key": {"--key", otherKey}, "no key at all": {"--key", certFile}} {
		out := filepath.Join(o.dir, "unmade.eml")
		said := o.certpost(append([]string{"render", "--target", "keys", "--cert", certFile, "-o", out}, args...)...)
		if said.code != exitFailed || !strings.HasPrefix(said.stderr, "certpost: SMTP_PAYLOAD in payload: ") {
			t.Errorf("%s: exit %d: %s", name, said.code, said.stderr)
		}
		if _, err := os.Stat(out); err == nil {
			t.Errorf("%s: a mail was written", name)
		}
	}
}

// A list that stops at the limit that it has by itself says so, and one that was limited does not.
func TestCutOff(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		more  bool
		limit int
		said  bool
	}{{true, usualLimit, true}, {false, usualLimit, false}, {true, 5, false}, {true, 0, false}} {
		var out strings.Builder
		(&app{stderr: &out}).cutOff(c.more, c.limit)
		if got := strings.Contains(out.String(), "only the first 100 are listed; --limit 0 lists all"); got != c.said {
			t.Errorf("%+v: %q", c, out.String())
		}
	}
}
