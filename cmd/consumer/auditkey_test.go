package main

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/lab"
)

// The first start makes the key, all is signed, and a rotation is taken over by the running
// program. An entry that is forged later shows everywhere.
func TestTheAuditHolds(t *testing.T) {
	t.Parallel()
	o := newFixture(t, "")
	info, err := os.Stat(o.path("data/audit.key"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", info, err)
	}
	o.until("signed", func() bool { sealed, _ := o.service.broker.Sealed(); return sealed })
	o.publish("e-1", "ops")
	o.until("delivered", func() bool {
		return strings.Contains(o.certpost("deliveries", "list", "--state", "sent").stdout, "e-1")
	})
	if said := o.certpost("audit", "verify").done(t); !strings.Contains(said, "1 signed, all from 1 on") || !strings.Contains(said, "0 receipts covered by checkpoints, 1 not yet") {
		t.Errorf("verify: %s", said)
	}
	if said := o.certpost("audit", "rotate", "--reason", "yearly").done(t); !strings.Contains(said, "is in force") {
		t.Errorf("rotate: %s", said)
	}
	keys, err := readAuditKeys(o.path("data/audit.key"))
	if err != nil || len(keys.IDs()) != 2 {
		t.Fatalf("%v, %v", keys, err)
	}
	if err := o.service.broker.WriteCheckpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	if said := o.certpost("audit", "verify").done(t); !strings.Contains(said, "3 signed, all from 1 on") || !strings.Contains(said, "1 receipt covered by checkpoints, 0 not yet") {
		t.Errorf("verify after the rotation: %s", said)
	}
	if _, id := o.service.broker.Sealed(); id != keys.Newest() {
		t.Errorf("the running program signs with %s, not %s", id, keys.Newest())
	}
	status, page := o.get("/healthz")
	if status != http.StatusOK || !strings.Contains(page, `"name":"audit","tags":["audit"],"status":"healthy"`) {
		t.Errorf("healthz: %d %s", status, page)
	}

	verifyElsewhere(t, o)

	forged := `{"event":"e-9","target":"ops","state":"sent","receipt":{"relay":"relay:25","recipients":["ops@demo.example"]}}`
	if _, err := o.service.broker.JetStream().Publish(t.Context(), "$KV."+broker.LedgerBucket+".ops.e-9", []byte(forged)); err != nil {
		t.Fatal(err)
	}
	o.until("noticed", func() bool { return o.service.auditor.Problem() != nil })
	o.until("degraded", func() bool {
		status, page := o.get("/healthz")
		return status == http.StatusOK && strings.Contains(page, `"status":"degraded"`) && strings.Contains(page, "the ledger is not as Certpost wrote it")
	})
	for path, want := range map[string]string{"/": "Audit and receipts cannot be trusted", "/deliveries": "Audit and receipts cannot be trusted", "/metrics": `certpost_audit_breaks_total{where="ledger"} 1`} {
		if _, page := o.get(path); !strings.Contains(page, want) {
			t.Errorf("%s does not say %q", path, want)
		}
	}
	said := o.certpost("audit", "verify")
	if said.code != exitFailed || !strings.Contains(said.stdout, "ops.e-9: unsigned: it has no HMAC") || said.stderr != "certpost: the ledger is not as it was written: 1 entry\n" {
		t.Errorf("verify of a forged entry: %+v", said)
	}
	revision, _, _ := strings.Cut(said.stdout[strings.Index(said.stdout, "\nrevision ")+len("\nrevision "):], " ")
	if said := o.certpost("audit", "accept", "--revision", revision+"0", "--reason", "x"); said.code != exitUsage {
		t.Errorf("accepts what is no break: %+v", said)
	}
	if said := o.certpost("audit", "accept", "--revision", revision, "--reason", "our own test").done(t); !strings.Contains(said, "Accepted, and recorded") {
		t.Errorf("accept: %s", said)
	}
	if said := o.certpost("audit", "verify").done(t); !strings.Contains(said, "1 accepted by an operator") {
		t.Errorf("verify of an accepted entry: %s", said)
	}
}

// verifyElsewhere verifies an export with the key only, and by the configuration.
func verifyElsewhere(t *testing.T, o *fixture) {
	t.Helper()
	export := o.certpost("audit", "export", "--signed").done(t)
	file := o.path("audit.jsonl")
	if err := os.WriteFile(file, []byte(export), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, said := range []said{
		command(t, nil, "audit", "verify", "--file", file, "--key-file", o.path("data/audit.key")), o.certpost("audit", "verify", "--file", file),
	} {
		if text := said.done(t); !strings.Contains(text, "3 signed, all from 1 on") || !strings.Contains(text, "complete up to record 3") {
			t.Errorf("verify --file: %s", text)
		}
	}
	if err := os.WriteFile(file, []byte(strings.Replace(export, "yearly", "hourly", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if said := o.certpost("audit", "verify", "--file", file); said.code != exitFailed || !strings.Contains(said.stderr, "the exported audit is not as it was written: the HMAC of record 2 is wrong") {
		t.Errorf("verify of a changed file: %+v", said)
	}
	for _, args := range [][]string{{"--file", file + "x"}, {"--file", file, "--key-file", file}} {
		if said := o.certpost(append([]string{"audit", "verify"}, args...)...); said.code != exitUsage {
			t.Errorf("%q: %+v, want exit %d", args, said, exitUsage)
		}
	}
}

// Every way of asking tells who got the key of a name, and what was sent.
func TestWhoGotTheKey(t *testing.T) {
	t.Parallel()
	o := newFixture(t, "")
	certFile, keyFile, _ := o.issue("key.example.com")
	o.certpost("publish", "--cert", certFile, "--key-ref", "file:"+keyFile, "--id", "e-key", "--target", "keys", "--target", "java", "--target", "nobody").done(t)
	o.until("delivered", func() bool {
		return strings.Count(o.certpost("deliveries", "list", "--state", "sent", "-o", "csv").stdout, "e-key") == 3
	})
	all := read[[]desk.Handover](t, o.certpost("deliveries", "who", "--name", "key.example.com", "-o", "json").done(t))
	if len(all) != 3 {
		t.Fatalf("%d mails: %+v", len(all), all)
	}
	keys := read[[]desk.Handover](t, o.certpost("deliveries", "who", "--name", "*.example.com", "--key", "-o", "json").done(t))
	got := map[string]string{}
	for _, h := range keys {
		got[strings.Join(h.Recipients, " ")] = strings.Join([]string{string(h.PrivateKey), h.Payload, strings.Join(h.Files, " "), string(h.Proof)}, ", ")
		if h.At.IsZero() || h.Serial == "" || h.Definition == "" || h.MessageID == "" || h.Relay == "" {
			t.Errorf("not complete: %+v", h)
		}
	}
	want := map[string]string{
		"keys@demo.example": "clear, pem_and_key, key.example.com.pem key.example.com.key.pem, signed",
		"java@demo.example": "encrypted, pkcs12, key.example.com.p12, signed",
	}
	if !maps.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	table := o.certpost("deliveries", "who", "--name", "key.example.com").done(t)
	for _, says := range []string{"sent, not encrypted", "sent, encrypted", "not sent"} {
		if !strings.Contains(table, says) {
			t.Errorf("the table does not say %q:\n%s", says, table)
		}
	}
	if said := o.certpost("deliveries", "who", "--name", "other.example.net").done(t); !strings.Contains(said, "no certificate with this name was sent") {
		t.Errorf("%q", said)
	}
	for path, says := range map[string]string{
		"/deliveries":            `href="/deliveries/who"`,
		"/deliveries/keys/e-key": "/deliveries/who?key=yes&amp;name=key.example.com",
		"/deliveries/who?name=key.example.com&key=yes":    "sent, encrypted",
		"/deliveries/who.csv?name=key.example.com":        "key.example.com.p12",
		"/deliveries.csv?name=key.example.com&state=sent": "pem_and_key,key.example.com.pem key.example.com.key.pem,clear",
	} {
		if status, page := o.get(path); status != http.StatusOK || !strings.Contains(page, says) {
			t.Errorf("%s: %d, does not say %q", path, status, says)
		}
	}
	if said := o.certpost("deliveries", "show", "e-key", "keys").done(t); !strings.Contains(said, "sent, not encrypted") || !strings.Contains(said, "key.example.com.key.pem") {
		t.Errorf("show: %s", said)
	}
}

// get reads a page of the running program.
func (o *fixture) get(path string) (status int, body string) {
	o.t.Helper()
	resp, err := http.Get("http://" + strings.TrimPrefix(o.service.http.address(), "http://") + path)
	if err != nil {
		o.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		o.t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// A key that others may read, or that is gone, keeps the program from starting.
func TestTheAuditsKeyFile(t *testing.T) {
	t.Parallel()
	cfg := defaultConfig()
	cfg.DataDir = t.TempDir() + "/data"
	if err := cfg.makeAuditKey(); err != nil {
		t.Fatal(err)
	}
	before, err := readAuditKeys(cfg.auditKeyPath())
	if err != nil || len(before.IDs()) != 1 {
		t.Fatalf("%v, %v", before, err)
	}
	if err := cfg.makeAuditKey(); err != nil {
		t.Fatal(err)
	}
	if after, err := readAuditKeys(cfg.auditKeyPath()); err != nil || after.Newest() != before.Newest() {
		t.Errorf("the second start made another key: %v", err)
	}
	if err := os.Chmod(cfg.auditKeyPath(), 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := readAuditKeys(cfg.auditKeyPath()); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a key that the group may read: %v", err)
	}
	if err := os.Remove(cfg.auditKeyPath()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(cfg.DataDir+"/"+auditMemoryFile, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := cfg.makeAuditKey(); err == nil || !strings.Contains(err.Error(), "--lost-key") {
		t.Errorf("the key of a signed audit is gone: %v", err)
	}
}

// Everything that speaks of the audit says that nothing is signed, where that is so.
//
// Fault: a NATS server elsewhere, and no key for the audit. Result: the log, `check --live`, /healthz, the page and
// `audit verify` say that nothing is signed.
func TestNothingIsSignedWithoutAKey(t *testing.T) {
	t.Parallel()
	o := bareFixture(t)
	url := lab.NATS(t, lab.FreeAddress(t), "").ClientURL()
	o.server = fmt.Sprintf("{url: %q}", url)
	o.furnish("")
	o.write("client.yaml", "nats: "+o.server+"\ntargets_file: "+o.path("targets.yaml")+"\n")
	o.publish("e-1", "nobody")
	o.settled()
	if err := o.service.broker.Append(t.Context(), broker.AuditRecord{Action: broker.ActionSuspended, Actor: broker.Actor{Name: "ada"}, Lane: "l"}); err != nil {
		t.Fatal(err)
	}
	const says = "audit.key is not set, so audit and receipts are not signed"
	o.until("/healthz says it", func() bool {
		_, page := o.get("/healthz")
		return strings.Contains(page, `"name":"audit","tags":["audit"],"status":"healthy","message":"`+says)
	})
	if _, page := o.get("/audit"); !strings.Contains(page, says) {
		t.Errorf("the page does not say it: %s", page)
	}
	if said := o.certpost("audit", "verify").done(t); !strings.Contains(said, "No HMAC was checked, because audit.key is not set here") || strings.Contains(said, "as it was written") {
		t.Errorf("verify: %s", said)
	}
	if said := read[broker.AuditReport](t, o.certpost("audit", "verify", "-o", "json").done(t)); !said.Keyless {
		t.Errorf("verify in JSON: %+v", said)
	}
	if said := o.certpost("check", "--live", "--target", "ops"); !strings.Contains(said.stdout, "warning  audit: key: "+says) {
		t.Errorf("check: %+v", said)
	}
}
