package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/payload"
	"github.com/certpost/certpost/internal/verdict"
)

// A certificate file means the same to publish and to a delivery of its text: both take the same
// leaf and chain, or both refuse it for the same reason.
//
// Fault: PEM with byte order marks, UTF-16, escaped or lost line breaks, indented, glued
// together, in any order. Result: understood by publish and in deliveries, encoded again.
// Fault: a TRUSTED CERTIFICATE, a damaged block, before or among certificates. Result:
// refused by publish and in deliveries with the line; never skipped, because the next
// certificate would be taken for the leaf.
func TestPublishAndDeliveryReadTheSamePEM(t *testing.T) {
	t.Parallel()
	p := lab.NewPKI(t, "p256")
	leaf, ca := lab.PEM(p.Leaf), lab.PEM(p.Intermediate)
	full := slices.Concat(leaf, ca)
	block := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	replaced := func(old, with string) []byte { return bytes.ReplaceAll(full, []byte(old), []byte(with)) }
	pkcs7 := []byte("\x30\x82\x01\x00\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02\xa0\x82")
	for name, c := range map[string]struct {
		text []byte
		want string // reason of both; "" if both take it
	}{
		"as it is":                      {full, ""},
		"X509 CERTIFICATE leaf":         {slices.Concat(block("X509 CERTIFICATE", p.Leaf.Raw), ca), ""},
		"glued":                         {slices.Concat(bytes.TrimSpace(leaf), ca), ""},
		"indented":                      {append([]byte("  "), replaced("\n", "\n  ")...), ""},
		"mark in the middle":            {slices.Concat(leaf, []byte("\ufeff"), ca), ""},
		"CR":                            {replaced("\n", "\r"), ""},
		"one line":                      {replaced("\n", ""), ""},
		"escaped":                       {replaced("\n", `\n`), ""},
		"UTF-16":                        {utf16LE(full), ""},
		"issuer first":                  {slices.Concat(ca, leaf), ""},
		"TRUSTED CERTIFICATE leaf":      {slices.Concat(block("TRUSTED CERTIFICATE", p.Leaf.Raw), ca), "line 1 begins a TRUSTED CERTIFICATE"},
		"PKCS#7 labelled CERTIFICATE":   {slices.Concat(block("CERTIFICATE", pkcs7), ca), "line 1 begins PKCS#7 under the label CERTIFICATE"},
		"damaged leaf":                  {slices.Concat(bytes.Replace(leaf, []byte("MII"), []byte("M*I"), 1), ca), "is damaged: its content is not base64"},
		"leaf without its END":          {slices.Concat(leaf[:300], []byte("\n"), ca), "has no END line before the next block"},
		"leaf that is no certificate":   {slices.Concat(block("CERTIFICATE", []byte("hello")), ca), "the block on line 1 is not an X.509 certificate, or it is damaged"},
		"base64 alone, on one line":     {bytes.Join(bytes.Split(leaf, []byte("\n"))[1:5], nil), "it is base64 without the -----BEGIN"},
		"leaf commented out":            {slices.Concat([]byte("# "), full), "line 1 has text before -----BEGIN"},
		"nothing that is a certificate": {block("PUBLIC KEY", []byte("x")), "it has no CERTIFICATE block"},
	} {
		file := filepath.Join(t.TempDir(), "cert.pem")
		lab.Write(t, file, c.text)
		ev, published := eventFromFile(file)
		bundle, delivered := payload.ParseBundle(c.text)
		switch {
		case c.want != "":
			if published == nil || !strings.Contains(published.Error(), c.want) {
				t.Errorf("%s: publish says %v, want %q in it", name, published, c.want)
			}
			if delivered == nil || !strings.Contains(delivered.Error(), c.want) {
				t.Errorf("%s: the delivery says %v, want %q in it", name, delivered, c.want)
			}
		case published != nil || delivered != nil:
			t.Errorf("%s: publish says %v, the delivery %v", name, published, delivered)
		default:
			again, err := payload.ParseBundle([]byte(ev.Certificate.PEM))
			if err != nil || !bytes.Equal(again.PEM(), bundle.PEM()) || !bytes.Equal(bundle.PEM(), full) {
				t.Errorf("%s: published\n%s\ndelivered\n%s\n%v", name, ev.Certificate.PEM, bundle.PEM(), err)
			}
			if named, err := ev.Leaf(); err != nil || !bytes.Equal(named.Raw, p.Leaf.Raw) {
				t.Errorf("%s: the event's leaf is another: %v", name, err)
			}
		}
	}
}

// utf16LE is what Windows PowerShell makes of ASCII.
func utf16LE(text []byte) []byte {
	out := []byte("\xff\xfe")
	for _, c := range text {
		out = append(out, c, 0)
	}
	return out
}

// today makes a certificate valid now.
func today(c *x509.Certificate) {
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
}

// published is the event at a sequence of the stream.
func (o *fixture) published(sequence uint64) *events.Event {
	o.t.Helper()
	s, err := o.service.broker.JetStream().Stream(context.Background(), broker.EventsStream)
	if err != nil {
		o.t.Fatal(err)
	}
	m, err := s.GetMsg(context.Background(), sequence)
	if err != nil {
		o.t.Fatal(err)
	}
	ev, err := events.Decode(nil, m.Data)
	if err != nil {
		o.t.Fatal(err)
	}
	return ev
}

// Three lineages that are stored at one path: each event references the version with its own key,
// and the publisher is warned. With {lineage} or {key_type} each has its own path.
//
// Fault: a key that does not match. Result: refused (exit 2) with the reason.
// Fault: several certificates whose keys --store-key writes to one path. Result: each event
// references the version with its own key; a warning says that another key was there.
func TestEachLineageKeepsItsKey(t *testing.T) {
	t.Parallel()
	vault := lab.Vault(t)
	o := newFixture(t, "")
	o.write("token", vault.RootToken)
	o.write("publisher.yaml", o.connection()+"vault: {address: \""+vault.Address+"\", auth: {method: token, token: {file: "+o.path("token")+"}}}\n")
	ca := lab.Issue(t, nil, lab.NewKey(t, "p256"), "CA", lab.AsCA)
	lineages := map[string]*lab.Issued{
		"example.com":          lab.Issue(t, ca, lab.NewKey(t, "p256"), "example.com", lab.DNSNames("example.com"), today),
		"example.com-rsa":      lab.Issue(t, ca, lab.NewKey(t, "rsa"), "example.com", lab.DNSNames("example.com"), today),
		"wildcard.example.com": lab.Issue(t, ca, lab.NewKey(t, "p256"), "*.example.com", lab.DNSNames("*.example.com"), today),
	}
	names := []string{"example.com", "example.com-rsa", "wildcard.example.com"}
	for name, cert := range lineages {
		if err := os.MkdirAll(o.path(name), 0o700); err != nil {
			t.Fatal(err)
		}
		o.write(name+"/fullchain.pem", string(lab.PEM(cert, ca)))
		o.write(name+"/privkey.pem", string(lab.KeyPEM(t, cert.Key)))
	}
	store := func(name, at string) said {
		return command(t, []string{"RENEWED_LINEAGE=" + o.path(name)}, "-c", o.path("publisher.yaml"), "publish", "--from", "certbot", "--store-key", at, "--target", "ops")
	}
	sequence := uint64(0)
	keyOf := func(name string) (path string, version int) {
		t.Helper()
		sequence++
		ref := o.published(sequence).PrivateKey.Vault
		field := vault.Call(t, "GET", fmt.Sprintf("secret/data/%s?version=%d", ref.Path, ref.Version), nil)["data"].(map[string]any)["data"].(map[string]any)[ref.Key]
		if field != string(lab.KeyPEM(t, lineages[name].Key)) {
			t.Errorf("%s: version %d of %s is not its key", name, ref.Version, ref.Path)
		}
		return ref.Path, ref.Version
	}

	const shared = "vault:secret/certs/{domain}#private_key"
	for i, name := range names {
		s := store(name, shared)
		warned := fmt.Sprintf("certpost: warning: vault:secret/certs/example.com#private_key held another private key; the event references version %d, which has the new one: "+
			"unless this is a renewal, give each certificate its own path, with {lineage} or {key_type}\n", i+1)
		if i == 0 {
			warned = ""
		}
		s.failed(t, exitDone, warned)
	}
	for i, name := range names {
		if path, version := keyOf(name); path != "certs/example.com" || version != i+1 {
			t.Errorf("%s: version %d of %s", name, version, path)
		}
	}

	for _, name := range names {
		store(name, "vault:secret/certs/by-lineage/{lineage}#private_key").done(t)
		if path, version := keyOf(name); path != "certs/by-lineage/"+name || version != 1 {
			t.Errorf("%s: version %d of %s", name, version, path)
		}
	}
	for _, name := range names {
		store(name, "vault:secret/certs/by-type/{cn}/{key_type}#private_key").done(t)
	}
	for _, want := range []string{"example.com/ecdsa-p256", "example.com/rsa-2048", "_wildcard.example.com/ecdsa-p256"} {
		sequence++
		if ref := o.published(sequence).PrivateKey.Vault; ref.Path != "certs/by-type/"+want || ref.Version != 1 {
			t.Errorf("version %d of %s, want 1 of %s", ref.Version, ref.Path, want)
		}
	}

	// The hook runs again: no new version, and the event is a duplicate.
	if out := store("example.com", "vault:secret/certs/by-lineage/{lineage}#private_key").done(t); !strings.Contains(out, "published already") {
		t.Errorf("again: %s", out)
	}
	o.certpost("publish", "--cert", o.path("example.com/fullchain.pem"), "--key", o.path("example.com/privkey.pem"), "--store-key", "vault:secret/{lineage}#k").
		failed(t, exitUsage, "certpost: --store-key: {lineage} is known only with --from; use {cn} and {key_type}, or give the path in full\n")
	o.certpost("publish", "--cert", o.path("example.com/fullchain.pem"), "--key", o.path("example.com-rsa/privkey.pem"), "--store-key", "vault:secret/x#k", "--target", "ops").
		failed(t, exitUsage, "certpost: "+o.path("example.com-rsa/privkey.pem")+" is not the private key of the certificate in "+o.path("example.com/fullchain.pem")+": the private key does not match the certificate \"example.com\"; store the key of this certificate; --force stores it all the same\n")
}

// What could only become a dead letter is refused before anything is published, unless --force says
// so.
//
// Fault: publish of what can never be delivered: several leaves, too large, several CA
// chains, expired, not yet valid, an unknown target, no key for a payload that has one, a stray
// certificate for a strict target. Result: refused (exit 2) with the reason,
// nothing is published; --force publishes it.
func TestPublishRefusesWhatCannotBeDelivered(t *testing.T) {
	t.Parallel()
	o := bareFixture(t)
	o.more = func() string { return o.target("strict", "strict_chain: true", "to: [strict@demo.example]") }
	o.furnish("")
	ca := lab.Issue(t, nil, lab.NewKey(t, "p256"), "CA", lab.AsCA)
	key := lab.NewKey(t, "p256")
	numbered := func(n int64) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.SerialNumber = big.NewInt(n) }
	}
	first := lab.Issue(t, ca, key, "www.example.com", lab.DNSNames("www.example.com"), today, numbered(0x1234))
	second := lab.Issue(t, ca, key, "www.example.com", lab.DNSNames("www.example.com"), today, numbered(0x5678))
	large := lab.Issue(t, ca, key, "large", lab.DNSNames(lab.ManyNames(1500)...), today)
	old := lab.Issue(t, ca, key, "old.example.com", lab.DNSNames("old.example.com"))
	soon := lab.Issue(t, ca, key, "soon.example.com", lab.DNSNames("soon.example.com"), func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(time.Hour), time.Now().Add(2*time.Hour)
	})
	stray := lab.Issue(t, nil, key, "Another CA", lab.AsCA)
	dead := 0
	for i, c := range []struct {
		name   string
		file   []byte
		target string
		want   string
	}{
		{"two leaves of one name", lab.PEM(first, second, ca), "ops",
			`the certificate text has 2 leaf certificates ("www.example.com" with serial 1234, "www.example.com" with serial 5678); publish an event for each of them`},
		{"1,500 names", lab.PEM(large, ca), "ops", "the certificate on line 1 is too large: the limit is 36500 bytes for one certificate and 131500 for all"},
		{"authorities without a leaf", lab.PEM(ca, stray), "ops", "only CA certificates"},
		{"unknown target", lab.PEM(first, ca), "opss", `target "opss" is not defined: add it to the targets`},
		{"expired", lab.PEM(old, ca), "ops", "the certificate expired on 2026-06-01 12:00 UTC"},
		{"not yet valid", lab.PEM(soon, ca), "ops", "the certificate is not valid before "},
		{"no key for a payload that has one", lab.PEM(first, ca), "keys", `target "keys": payload pem_and_key requires the private key`},
		{"no key for a PKCS#12 file", lab.PEM(first, ca), "java", `target "java": payload pkcs12 requires the private key`},
		{"a stray for a strict target", lab.PEM(first, ca, stray), "strict", `target "strict": the chain is broken: "Another CA" issued neither`},
		{"two targets that cannot get it", lab.PEM(first, ca), "keys,opss", `target "opss" is not defined`},
	} {
		file := fmt.Sprintf("case%d.pem", i)
		o.write(file, string(c.file))
		args := []string{"publish", "--cert", o.path(file), "--target", c.target, "--id", fmt.Sprint("forced-", i)}
		s := o.certpost(args...)
		if s.code != exitUsage || !strings.HasPrefix(s.stderr, "certpost: this cannot be delivered: ") || !strings.Contains(s.stderr, c.want) || !strings.HasSuffix(s.stderr, "; --force publishes it all the same\n") {
			t.Errorf("%s: exit %d, %s", c.name, s.code, s.stderr)
		}
		if backlog, err := o.service.broker.Backlog(t.Context()); err != nil || backlog.Dead != uint64(dead) {
			t.Errorf("%s: %+v, %v: something was published", c.name, backlog, err)
		}
		s = o.certpost(append(args, "--force")...)
		if s.code != exitDone || !strings.HasPrefix(s.stderr, "certpost: warning: this cannot be delivered as it is: ") || !strings.Contains(s.stderr, c.want) {
			t.Errorf("%s, forced: exit %d, %s", c.name, s.code, s.stderr)
		}
		dead += strings.Count(c.target, ",") + 1
		o.until("the dead letters of "+c.name, func() bool { return len(o.letters()) == dead })
	}

	// A publisher whose configuration has no targets cannot know them.
	o.write("publisher.yaml", o.connection())
	o.write("good.pem", string(lab.PEM(first, ca)))
	command(t, nil, "-c", o.path("publisher.yaml"), "publish", "--cert", o.path("good.pem"), "--target", "elsewhere").done(t)
}

// An event that no target matches, an id that was used for another certificate, and an event that
// only some of its targets can get.
//
// Fault: no matching target, an id used for another certificate. Result: refused (exit 2) with the reason, nothing is published; --force
// publishes it.
// Fault: publish for several targets of which some cannot get it. Result: published, with a
// warning that names them.
// Fault: the preflight of a dead letter whose id was used for another certificate. Result: an error
// at page, command and NATS service, because a replay fails again.
func TestPublishKnowsTheTargets(t *testing.T) {
	t.Parallel()
	o := newFixture(t, "")
	ca := lab.Issue(t, nil, lab.NewKey(t, "p256"), "CA", lab.AsCA)
	for _, name := range []string{"www.example.com", "www.example.org"} {
		leaf := lab.Issue(t, ca, lab.NewKey(t, "p256"), name, lab.DNSNames(name), today)
		o.write(name+".pem", string(lab.PEM(leaf, ca)))
		o.write(name+".key", string(lab.KeyPEM(t, leaf.Key)))
	}
	com, org := o.path("www.example.com.pem"), o.path("www.example.org.pem")

	client, err := os.ReadFile(o.config)
	if err != nil {
		t.Fatal(err)
	}
	const none = "no target matches: name targets with --target, or add a target whose match fits the certificate and the labels"
	o.certpost("publish", "--cert", org).failed(t, exitUsage, "certpost: this cannot be delivered: "+none+"; --force publishes it all the same\n")
	o.certpost("publish", "--cert", org, "--label", "env=prod").done(t)
	o.write("ignoring.yaml", "events: {unmatched: ignore}\n"+string(client))
	command(t, nil, "-c", o.path("ignoring.yaml"), "publish", "--cert", org).
		failed(t, exitDone, "certpost: warning: no target matches, so the event will be ignored (events.unmatched: ignore)\n")

	some := o.certpost("publish", "--cert", com, "--id", "some", "--target", "ops", "--target", "keys", "--target", "opss")
	want := "certpost: warning: this cannot be delivered to all targets: target \"keys\": payload pem_and_key requires the private key, but the event has no private_key; " +
		"publish the event again with private_key, or set payload: pem\n" +
		"certpost: warning: this cannot be delivered to all targets: target \"opss\" is not defined: add it to the targets, or correct the event\n"
	some.failed(t, exitDone, want)
	o.mailTo("ops@demo.example", 1)

	// A reference that events may not name counts only for targets that fetch the key.
	o.write("narrow.yaml", "events: {secret_paths: [\"secret/certs/*\"]}\n"+string(client))
	lego := []string{"LEGO_CERT_DOMAIN=www.example.com", "LEGO_CERT_PATH=" + com, "LEGO_CERT_KEY_PATH=" + o.path("www.example.com.key")}
	narrow := command(t, lego, "-c", o.path("narrow.yaml"), "publish", "--from", "lego", "--target", "keys")
	if narrow.code != exitUsage || !strings.Contains(narrow.stderr, `target "keys": file:`) || !strings.Contains(narrow.stderr, "file_roots") {
		t.Errorf("%+v", narrow)
	}
	command(t, lego, "-c", o.path("narrow.yaml"), "publish", "--from", "lego", "--target", "ops").done(t)

	// "some" has reached ops with the certificate of www.example.com.
	used := `target "ops": the event id is already used for another certificate (that delivery is "sent"); publish this event with a new id`
	o.until("the ledger knows the delivery", func() bool {
		entries, err := o.service.broker.Deliveries(t.Context(), "ops", "some")
		return err == nil && len(entries) == 1 && entries[0].State == broker.StateSent
	})
	o.certpost("publish", "--cert", org, "--id", "some", "--target", "ops").
		failed(t, exitUsage, "certpost: this cannot be delivered: "+used+"; --force publishes it all the same\n")
	o.certpost("publish", "--cert", org, "--id", "some", "--target", "ops", "--target", "prod").
		failed(t, exitDone, "certpost: warning: this cannot be delivered to all targets: "+used+"\n")
	o.certpost("publish", "--cert", org, "--id", "some", "--target", "ops", "--force").
		failed(t, exitDone, "certpost: warning: this cannot be delivered as it is: "+used+"\n")

	// The preflight of its letter says at every door that a replay fails again.
	o.settled() // the newer of two letters about one delivery replaces the other
	letter := uint64(0)
	for _, l := range o.letters() {
		if l.Code == verdict.EventInvalid {
			letter = l.Sequence
		}
	}
	const again = `the event id is already used for another certificate (that delivery is "sent"); publish this event with a new id, and discard this dead letter: a replay fails again`
	if s := o.certpost("dead-letters", "preflight", fmt.Sprint(letter)); s.code != exitFailed || !strings.Contains(s.stdout, again) {
		t.Errorf("%+v", s)
	}
	d := o.doors()
	if status, text := d.visit(fmt.Sprintf("POST /dead-letters/%d/preflight ", letter)); status != http.StatusOK || !strings.Contains(strings.ToLower(text), again) {
		t.Errorf("%d, %s", status, text)
	}
	if _, text := d.request(fmt.Sprintf(`dead.preflight {"number": %d}`, letter)); !strings.Contains(strings.ReplaceAll(text, `\"`, `"`), again) || !strings.Contains(text, `"ok":false`) {
		t.Errorf("%s", text)
	}
}

// A certificate without CN has a name wherever it is listed: its first alternative name.
//
// Fault: a certificate without CN. Result: in lists, letters, mails.
func TestCertificateWithoutCN(t *testing.T) {
	t.Parallel()
	o := newFixture(t, "", refuseNobody)
	ca := lab.Issue(t, nil, lab.NewKey(t, "p256"), "CA", lab.AsCA)
	leaf := lab.Issue(t, ca, lab.NewKey(t, "p256"), "", today, func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.ParseIP("192.0.2.7")} })
	o.write("ip.pem", string(lab.PEM(leaf, ca)))
	o.certpost("publish", "--cert", o.path("ip.pem"), "--id", "bare", "--target", "ops", "--target", "nobody").done(t)
	if mail := o.mailTo("ops@demo.example", 1); !strings.Contains(string(mail.Raw), "192.0.2.7") {
		t.Error("the mail does not name the certificate")
	}
	o.settled()
	for _, args := range [][]string{{"deliveries", "list"}, {"deliveries", "list", "-o", "csv"}, {"deliveries", "list", "--name", "192.0.2.7"}, {"deliveries", "show", "bare", "ops"},
		{"dead-letters", "list", "-o", "csv"}, {"dead-letters", "list", "--name", "192.0.2.7", "-o", "csv"}, {"dead-letters", "show", "1"}} {
		o.until(strings.Join(args, " "), func() bool { return strings.Contains(o.certpost(args...).done(t), "192.0.2.7") })
	}
}

// What only a lenient target takes is published to such a target, and refused to others: the
// publisher's door knows the same certificates as the delivery's.
func TestPublishUnsupportedCertificate(t *testing.T) {
	t.Parallel()
	o := bareFixture(t)
	o.write("targets.yaml", "")
	cert := o.path("odd.pem")
	lab.Output(t, lab.Need(t, "openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:brainpoolP256r1", "-nodes", "-subj", "/CN=odd.example.com",
		"-addext", "subjectAltName=DNS:odd.example.com", "-days", "30", "-keyout", o.path("odd.key"), "-out", cert)
	target := "  - {id: %s, host: 127.0.0.1, port: 9, auth_method: none, tls_mode: plaintext, from_address: a@demo.example, to: [b@demo.example]%s}\n"
	o.open("", fmt.Sprintf(target, "strict", "")+fmt.Sprintf(target, "lenient", ", allow_unsupported_certificate: true"))
	said := o.certpost("publish", "--cert", cert, "--target", "strict")
	if said.code != exitUsage || !strings.Contains(said.stderr, "set allow_unsupported_certificate for the target") {
		t.Errorf("%+v", said)
	}
	if out := o.certpost("publish", "--cert", cert, "--target", "lenient").done(t); !strings.Contains(out, "published") {
		t.Errorf("%s", out)
	}
	said = o.certpost("publish", "--cert", cert, "--target", "")
	if said.code != exitUsage || !strings.Contains(said.stderr, "--target is empty") {
		t.Errorf("%+v", said)
	}
	for ref, want := range map[string]string{"vault:secret/elsewhere/x#k": "outside events.secret_paths", "file:/etc/hostname": "file_roots"} {
		o.write("narrow.yaml", "events: {secret_paths: [\"secret/certs/*\"], file_roots: ["+o.dir+"]}\n"+o.connection())
		said = command(t, nil, "publish", "-c", o.path("narrow.yaml"), "--cert", cert, "--key-ref", ref)
		if said.code != exitUsage || !strings.Contains(said.stderr, want) {
			t.Errorf("%s: %+v", ref, said)
		}
	}
}
