package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net"
	"net/http"
	"net/mail"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/lab"
)

// The whole path with real programs: Pebble issues to certbot, whose deploy hook
// publishes; Vault stores key, passphrase and passwords; Postfix accepts the mails and
// Dovecot serves them; OpenSSL reads what arrived. The NATS CLI publishes an event by
// hand, reads its dead letter and replays it, as the README shows.
func TestRealRoad(t *testing.T) {
	r := newRoad(t)
	r.start()

	t.Run("certbot to inbox", func(t *testing.T) {
		acme := lab.Pebble(t)
		hook := fmt.Sprintf("%s -c %s publish --from certbot --store-key 'vault:secret/certs/{domain}#private_key' --label env=prod",
			r.program, r.publisherConfig)
		lineage := lab.Certbot(t, acme, t.TempDir(), []string{"www.lab.test", "lab.test"}, hook, "ecdsa")

		mails := r.mail.Fetch(t, "ops@lab.test", lab.AtLeast(1))
		chain := attachmentOf(t, mails[0], "www.lab.test.pem")
		fullchain, err := os.ReadFile(filepath.Join(lineage, "fullchain.pem"))
		if err != nil {
			t.Fatal(err)
		}
		if got, want := openssl(t, chain, "crl2pkcs7", "-nocrl", "-certfile", "/dev/stdin", "-outform", "DER"),
			openssl(t, fullchain, "crl2pkcs7", "-nocrl", "-certfile", "/dev/stdin", "-outform", "DER"); !bytes.Equal(got, want) {
			t.Error("the attachment is not the chain that certbot got")
		}
		dir := t.TempDir()
		root, leaf := filepath.Join(dir, "root.pem"), filepath.Join(dir, "chain.pem")
		writePEM(t, root, acme.Root(t).Raw)
		if err := os.WriteFile(leaf, chain, 0o600); err != nil {
			t.Fatal(err)
		}
		if out := openssl(t, nil, "verify", "-CAfile", root, "-untrusted", leaf, leaf); !strings.HasSuffix(strings.TrimSpace(string(out)), ": OK") {
			t.Errorf("openssl verify: %s", out)
		}

		mails = r.mail.Fetch(t, "java@lab.test", lab.AtLeast(1))
		p12 := filepath.Join(dir, "www.p12")
		if err := os.WriteFile(p12, attachmentOf(t, mails[0], "www.lab.test.p12"), 0o600); err != nil {
			t.Fatal(err)
		}
		key := openssl(t, nil, "pkcs12", "-in", p12, "-passin", "pass:"+r.passphrase, "-nocerts", "-nodes")
		private, err := os.ReadFile(filepath.Join(lineage, "privkey.pem"))
		if err != nil {
			t.Fatal(err)
		}
		if got, want := openssl(t, key, "pkey", "-outform", "DER"), openssl(t, private, "pkey", "-outform", "DER"); !bytes.Equal(got, want) {
			t.Error("the key in the PKCS#12 file is not the one certbot made")
		}
		if out, err := exec.Command("openssl", "pkcs12", "-in", p12, "-passin", "pass:wrong", "-nokeys").CombinedOutput(); err == nil {
			t.Errorf("the PKCS#12 file opens with a wrong passphrase: %s", out)
		}

		// The hook runs again for the same certificate: no second mail.
		cmd := exec.Command(r.program, "-c", r.publisherConfig, "publish", "--from", "certbot", "--store-key", "vault:secret/certs/{domain}#private_key", "--label", "env=prod")
		cmd.Env = append(os.Environ(), "RENEWED_LINEAGE="+lineage, "RENEWED_DOMAINS=www.lab.test lab.test")
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "published already") {
			t.Errorf("publishing again: %v: %s", err, out)
		}
	})

	t.Run("dead letter with the NATS CLI", func(t *testing.T) {
		nats := lab.NATSCLI(t, r.natsURL, lab.SeedEnv(filepath.Join(r.dir, "data"), "admin"))
		event := filepath.Join(t.TempDir(), "event.json")
		body, err := json.Marshal(map[string]any{"id": "by-hand-1", "certificate": issued(t, "hand.lab.test"), "targets": []string{"mistyped"}})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(event, body, 0o600); err != nil {
			t.Fatal(err)
		}
		env := lab.NATSEnv(t, r.natsURL, lab.SeedEnv(filepath.Join(r.dir, "data"), "admin"))
		shell(t, env, "nats pub -J --force-stdin certificate.issued < "+event)

		var letter struct {
			Sequence uint64 `json:"sequence"`
			Subject  string `json:"replay_subject"`
			Code     string `json:"code"`
		}
		r.until("the dead letter", func() bool {
			var list []json.RawMessage
			if err := json.Unmarshal(r.certpost("dead-letters", "list", "-o", "json"), &list); err != nil || len(list) != 1 {
				return false
			}
			return json.Unmarshal(list[0], &letter) == nil
		})
		if letter.Code != "SMTP_AUTH" {
			t.Errorf("code %s, want SMTP_AUTH: the target's password is wrong", letter.Code)
		}
		if out := nats("stream", "get", "CERTPOST_DEAD_LETTERS", strconv.FormatUint(letter.Sequence, 10)); !strings.Contains(out, "Certpost-Code: SMTP_AUTH") ||
			!strings.Contains(out, "Certpost-Replay-Subject: "+letter.Subject) {
			t.Errorf("nats stream get: %s", out)
		}

		// Fix the target: the definitions are reloaded automatically.
		r.writeTarget("mistyped", "right")
		r.until("the fixed definition", func() bool { return strings.Contains(r.log(), `"changed":["mistyped"]`) })
		block := readmeBlock(t, "<!-- this block is run by a test -->")
		shell(t, append(env, "NUMBER="+strconv.FormatUint(letter.Sequence, 10), "REPLAY_SUBJECT="+letter.Subject), "cd "+r.dir+"\n"+block)

		r.mail.Fetch(t, "ops@lab.test", func(mails [][]byte) bool {
			for _, m := range mails {
				if bytes.Contains(m, []byte("X-Certpost-Event-Id: by-hand-1")) {
					return true
				}
			}
			return false
		})
		r.until("the letter is off the list", func() bool {
			return strings.TrimSpace(string(r.certpost("dead-letters", "list", "-o", "json"))) == "[]"
		})
		if out := r.certpost("deliveries", "show", "by-hand-1", "mistyped", "-o", "json"); !bytes.Contains(out, []byte(`"state": "sent"`)) {
			t.Errorf("deliveries show: %s", out)
		}
	})

	r.stop()
	for _, secret := range r.secrets {
		if strings.Contains(r.log(), secret) {
			t.Error("the log contains a secret")
		}
	}
}

// road is a running `certpost run` with the real servers.
type road struct {
	t                               *testing.T
	program, dir, natsURL, httpAddr string
	mail                            *lab.MailServer
	config, publisherConfig         string
	passphrase                      string
	secrets                         []string
	cmd                             *exec.Cmd
}

func newRoad(t *testing.T) *road {
	t.Helper()
	vault := lab.Vault(t)
	users := map[string]string{"ops@lab.test": "canary-ops-password", "java@lab.test": "canary-java-password"}
	r := &road{t: t, dir: t.TempDir(), mail: lab.Postfix(t, lab.MailOptions{Users: users}), program: lab.Build(t), passphrase: "canary-p12-passphrase"}
	lab.Need(t, "openssl")
	host, port, _ := net.SplitHostPort(r.mail.Submission)
	_, smtps, _ := net.SplitHostPort(r.mail.SMTPS)
	vault.Put(t, "secret/smtp-auth/"+host, map[string]any{"password": users["ops@lab.test"], "wrong": "canary-wrong-password"})
	vault.Put(t, "secret/p12/java", map[string]any{"passphrase": r.passphrase})
	vault.Policy(t, "certpost", `path "secret/data/*" { capabilities = ["read"] }`)
	vault.Policy(t, "publisher", `path "secret/data/certs/*" { capabilities = ["create", "update", "patch", "read"] }`)
	role, secret := vault.AppRole(t, "1h", "certpost")
	token := vault.Token(t, "1h", "publisher")
	r.secrets = []string{users["ops@lab.test"], users["java@lab.test"], r.passphrase, "canary-wrong-password", secret, token, vault.RootToken, "PRIVATE KEY"}

	natsAddr := lab.FreeAddress(t)
	r.natsURL, r.httpAddr = "nats://"+natsAddr, lab.FreeAddress(t)
	r.config, r.publisherConfig = filepath.Join(r.dir, "certpost.yaml"), filepath.Join(r.dir, "publisher.yaml")
	r.write("secret_id", secret)
	r.write("token", token)
	r.write("certpost.yaml", fmt.Sprintf(`data_dir: %s/data
nats: {listen: %q}
http: {listen: %q}
vault: {address: %q, auth: {method: approle, role_id: {value: %q}, secret_id: {file: %s/secret_id}}}
events: {secret_paths: ["secret/certs/*"]}
targets_dir: %s/targets
log: {format: json}
`, r.dir, natsAddr, r.httpAddr, vault.Address, role, r.dir, r.dir))
	r.write("publisher.yaml", fmt.Sprintf("%svault: {address: %q, auth: {method: token, token: {file: %s/token}}}\n", connection(filepath.Join(r.dir, "data"), r.natsURL), vault.Address, r.dir))
	if err := os.Mkdir(filepath.Join(r.dir, "targets"), 0o700); err != nil {
		t.Fatal(err)
	}
	r.write("targets/ops.yaml", fmt.Sprintf(`id: ops
match: {dns_names: ["*.lab.test"], labels: {env: prod}}
host: %q
port: %s
ca_file: %s
username: ops@lab.test
password: {vault: {mount: secret, path: "smtp-auth/{host}", key: password}}
from_address: ops@lab.test
to: [ops@lab.test]
`, host, port, r.mail.CA.File))
	r.write("targets/java.yaml", fmt.Sprintf(`id: java
match: {dns_names: ["*.lab.test"], labels: {env: prod}}
host: %q
port: %s
tls_mode: smtps
ca_file: %s
auth_method: login
username: ops@lab.test
password: {vault: {mount: secret, path: "smtp-auth/{host}", key: password}}
from_address: ops@lab.test
to: [java@lab.test]
payload: pkcs12
pkcs12_passphrase: {vault: {mount: secret, path: p12/java, key: passphrase}}
`, host, smtps, r.mail.CA.File))
	r.writeTarget("mistyped", "wrong")
	return r
}

// writeTarget defines a target whose password is the right or the wrong one.
func (r *road) writeTarget(id, which string) {
	field := map[string]string{"right": "password", "wrong": "wrong"}[which]
	host, port, _ := net.SplitHostPort(r.mail.Submission)
	r.write("targets/"+id+".yaml", fmt.Sprintf("id: %s\nhost: %q\nport: %s\nca_file: %s\nusername: ops@lab.test\n"+
		"password: {vault: {mount: secret, path: \"smtp-auth/{host}\", key: %s}}\nfrom_address: ops@lab.test\nto: [ops@lab.test]\n", id, host, port, r.mail.CA.File, field))
}

func (r *road) write(name, text string) {
	r.t.Helper()
	if err := os.WriteFile(filepath.Join(r.dir, name), []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

func (r *road) start() {
	r.t.Helper()
	log, err := os.Create(filepath.Join(r.dir, "log"))
	if err != nil {
		r.t.Fatal(err)
	}
	r.cmd = exec.Command(r.program, "run", "-c", r.config)
	r.cmd.Stderr, r.cmd.Stdout = log, log
	if err := r.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		if r.t.Failed() {
			r.t.Log(r.log())
		}
		r.stop()
		log.Close()
	})
	r.until("ready", func() bool {
		resp, err := http.Get("http://" + r.httpAddr + "/readyz")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

// stop sends SIGTERM, as an init system does, and requires exit code 0.
func (r *road) stop() {
	if r.cmd == nil {
		return
	}
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		r.t.Error(err)
	}
	if err := r.cmd.Wait(); err != nil {
		r.t.Errorf("certpost run ended with %v", err)
	}
	r.cmd = nil
}

func (r *road) log() string {
	text, err := os.ReadFile(filepath.Join(r.dir, "log"))
	if err != nil {
		r.t.Fatal(err)
	}
	return string(text)
}

// certpost runs a command of the program and returns its standard output.
func (r *road) certpost(args ...string) []byte {
	r.t.Helper()
	cmd := exec.Command(r.program, append([]string{"-c", r.config}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		r.t.Fatalf("certpost %s: %v: %s", strings.Join(args, " "), err, &stderr)
	}
	return out
}

func (r *road) until(what string, ok func() bool) {
	r.t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if ok() {
			return
		}
	}
	r.t.Fatalf("timed out waiting for: %s", what)
}

// readmeBlock returns the shell block of the README that follows a marker.
func readmeBlock(t *testing.T, marker string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(lab.Root(), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(regexp.QuoteMeta(marker) + "\n```sh\n((?s).*?)```").FindSubmatch(text)
	if found == nil {
		t.Fatalf("README.md has no block after %q", marker)
	}
	return string(found[1])
}

func shell(t *testing.T, env []string, script string) {
	t.Helper()
	cmd := exec.Command("bash", "-euo", "pipefail", "-c", script)
	cmd.Env = env
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s\n%v: %s", script, err, out)
	}
}

func openssl(t *testing.T, stdin []byte, args ...string) []byte {
	t.Helper()
	cmd := exec.Command("openssl", args...)
	cmd.Stdin = bytes.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("openssl %s: %v: %s", strings.Join(args, " "), err, &stderr)
	}
	return out
}

// attachmentOf parses a mail with the standard library and returns one of its
// attachments.
func attachmentOf(t *testing.T, raw []byte, name string) []byte {
	t.Helper()
	msg, err := mail.ReadMessage(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	_, params, err := mime.ParseMediaType(msg.Header.Get("Content-Type"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for parts := multipart.NewReader(msg.Body, params["boundary"]); ; {
		part, err := parts.NextPart()
		if err == io.EOF {
			t.Fatalf("no attachment %s, only %v", name, names)
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, part.FileName())
		if part.FileName() == name {
			data, err := io.ReadAll(base64Reader(part))
			if err != nil {
				t.Fatal(err)
			}
			return data
		}
	}
}

func base64Reader(r io.Reader) io.Reader { return base64.NewDecoder(base64.StdEncoding, r) }

func writePEM(t *testing.T, path string, der []byte) {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// issued returns a certificate of the demo's CA, with its chain.
func issued(t *testing.T, name string) string {
	t.Helper()
	ca, err := newDemoCA()
	if err != nil {
		t.Fatal(err)
	}
	chain, _, err := ca.issue(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(chain)
}
