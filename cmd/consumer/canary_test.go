package main

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"mime/quotedprintable"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/certpost/certpost/internal/devrelay"
	"github.com/certpost/certpost/internal/lab"
)

// canaries are secrets that must not be found anywhere. Their characters look different
// in every encoding.
type canaries map[string]string // what it is -> the secret

func (c canaries) add(what string) string {
	c[what] = "Canary=" + strings.ReplaceAll(what, " ", "+") + "/" + fmt.Sprintf("%x", time.Now().UnixNano())
	return c[what]
}

// found returns the canaries that the text contains, and in which encoding.
func (c canaries) found(text string) []string {
	var found []string
	lower := strings.ToLower(text)
	for what, secret := range c {
		var qp strings.Builder
		w := quotedprintable.NewWriter(&qp)
		w.Write([]byte(secret))
		w.Close()
		clothes := map[string]string{"plain": secret, "quoted-printable": qp.String(), "escaped": url.QueryEscape(secret)}
		for shift := range 3 { // base64 looks different at each alignment
			enc := base64.RawStdEncoding.EncodeToString([]byte(strings.Repeat("x", shift) + secret))
			clothes[fmt.Sprintf("base64 (%d)", shift)] = enc[4 : len(enc)-2]
		}
		for how, dressed := range clothes {
			if strings.Contains(text, dressed) {
				found = append(found, what+" as "+how)
			}
		}
		if strings.Contains(lower, hex.EncodeToString([]byte(secret))) {
			found = append(found, what+" as hexadecimal")
		}
	}
	return found
}

// The program runs as users run it, through success and every failure that involves
// secrets; then everything that it has written anywhere is searched.
//
// Fault: a private key in the event. Result: its body is not copied anywhere.
func TestNoSecretAnywhere(t *testing.T) {
	t.Parallel()
	c := canaries{}
	vault := lab.Vault(t)
	dir := t.TempDir()
	password, wrong := c.add("smtp password"), c.add("refused smtp password")
	passphrase, other := c.add("passphrase"), c.add("secret of another path")
	natsPassword, inline, environment := c.add("nats password"), c.add("inline value"), c.add("value in the environment")
	relay, err := devrelay.Start(devrelay.Config{Users: map[string]string{"certs": password, "inline": inline, "environment": environment}})
	if err != nil {
		t.Fatal(err)
	}
	defer relay.Close()
	ca, err := relay.CAFile(dir)
	if err != nil {
		t.Fatal(err)
	}
	authority, err := newDemoCA()
	if err != nil {
		t.Fatal(err)
	}
	chain, key, err := authority.issue("www.example.com")
	if err != nil {
		t.Fatal(err)
	}
	c["private key"] = strings.Split(string(key), "\n")[1]
	vault.Put(t, "secret/smtp/good", map[string]any{"password": password})
	vault.Put(t, "secret/smtp/wrong", map[string]any{"password": wrong})
	vault.Put(t, "secret/p12/java", map[string]any{"passphrase": passphrase})
	vault.Put(t, "secret/certs/www", map[string]any{"private_key": string(key)})
	vault.Put(t, "secret/closed/other", map[string]any{"password": other})
	vault.Policy(t, "certpost", `path "secret/data/smtp/*" { capabilities = ["read"] }
path "secret/data/p12/*" { capabilities = ["read"] }
path "secret/data/certs/*" { capabilities = ["read"] }`)
	role, secretID := vault.AppRole(t, "1h", "certpost")
	c["secret id"], c["root token"] = secretID, vault.RootToken

	natsAddr, httpAddr, echo := lab.FreeAddress(t), lab.FreeAddress(t), echoingRelay(t)
	hangs, hang, asked := hangingRelay(t)
	target := func(id, at, more string) string {
		return fmt.Sprintf("  - id: %s\n    host: localhost\n    port: %s\n    ca_file: %s\n    from_address: certs@example.com\n    to: [ops@example.com]\n%s", id, port(at), ca, more)
	}
	login := func(path string) string {
		return fmt.Sprintf("    username: certs\n    password: {vault: {mount: secret, path: %s, key: password}}\n", path)
	}
	config := fmt.Sprintf(`data_dir: %s/data
nats: {listen: %q, user: certpost, password: {file: %s/nats-password}}
http: {listen: %q, edit_and_replay: {enabled: true, recipients: ["*@example.com"]}}
vault: {address: %q, auth: {method: approle, role_id: {value: %q}, secret_id: {file: %s/secret-id}}}
events: {secret_paths: ["secret/certs/*"]}
delivery: {retry: {initial: 200ms, max: 1s}, give_up_after: 5s}
log: {format: json, level: debug}
targets:
`, dir, natsAddr, dir, httpAddr, vault.Address, role, dir) +
		target("keys", relay.Submission(), login("smtp/good")+"    payload: pem_and_key\n") +
		target("java", relay.SMTPS(), "    tls_mode: smtps\n"+login("smtp/good")+"    payload: pkcs12\n    pkcs12_passphrase: {vault: {mount: secret, path: p12/java, key: passphrase}}\n") +
		target("inline", relay.Submission(), "    username: inline\n    password: {value: \""+inline+"\"}\n") +
		target("environment", relay.Submission(), "    username: environment\n    password: {env: CANARY_RELAY_PASSWORD}\n") +
		target("hangs", hangs, "    tls_mode: plaintext\n    allow_insecure_auth: true\n"+login("smtp/good")+"    payload: pem_and_key\n    allow_plaintext_key: true\n") +
		target("refused", relay.Submission(), login("smtp/wrong")) +
		target("echo", echo, "    tls_mode: plaintext\n    allow_insecure_auth: true\n"+login("smtp/wrong")) +
		target("denied", relay.Submission(), login("closed/other")) +
		target("missing", relay.Submission(), login("smtp/none"))
	files := map[string]string{"certpost.yaml": config, "nats-password": natsPassword, "secret-id": secretID}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	temp := filepath.Join(dir, "tmp")
	if err := os.Mkdir(temp, 0o700); err != nil {
		t.Fatal(err)
	}
	program := lab.Build(t)
	logFile, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer logFile.Close()
	cmd := exec.Command(program, "run", "-c", filepath.Join(dir, "certpost.yaml"))
	cmd.Env = append(os.Environ(), "TMPDIR="+temp, "CANARY_RELAY_PASSWORD="+environment)
	cmd.Stdout, cmd.Stderr, cmd.Dir = logFile, logFile, temp
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()

	nc, err := nats.Connect("nats://"+natsAddr, nats.UserInfo("certpost", natsPassword), nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	await(t, "ready", func() bool { return fetch(httpAddr, "/readyz") == "ready\n" })

	put := func(event map[string]any) {
		body, err := json.Marshal(event)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := js.Publish(ctx, "certificate.issued", body); err != nil {
			t.Fatal(err)
		}
	}
	ref := func(mount, path string) map[string]any {
		return map[string]any{"vault": map[string]any{"mount": mount, "path": path, "key": "private_key"}}
	}
	put(map[string]any{"id": "good", "certificate": string(chain), "private_key": ref("secret", "certs/www"),
		"targets": []string{"keys", "java", "inline", "environment", "refused", "echo", "denied", "missing"}})
	// The confused deputy: events that refer to secrets that their publisher may not use.
	for i, r := range []map[string]any{
		ref("secret", "smtp/good"), ref("secret", "certs/../smtp/good"), ref("secret", "certs/%2e%2e/smtp/good"), ref("other", "certs/www"),
		ref("secret/certs", "www"), {"file": filepath.Join(dir, "nats-password")}, {"vault": map[string]any{"mount": "secret", "path": "certs/www", "key": "other"}},
	} {
		put(map[string]any{"id": fmt.Sprintf("deputy-%d", i), "certificate": string(chain), "private_key": r, "targets": []string{"keys"}})
	}
	// A key of another domain does not match this certificate.
	foreign, _, err := authority.issue("foreign.example.com")
	if err != nil {
		t.Fatal(err)
	}
	put(map[string]any{"id": "foreign", "certificate": string(foreign), "private_key": ref("secret", "certs/www"), "targets": []string{"keys"}})

	letters := func() int {
		s, err := js.Stream(ctx, "CERTPOST_DEAD_LETTERS")
		if err != nil {
			t.Fatal(err)
		}
		return int(s.CachedInfo().State.Msgs)
	}
	await(t, "four mails and twelve dead letters", func() bool { return relay.Count() == 4 && letters() == 12 })

	// A replay and a discard, so that the audit has records.
	env := append(os.Environ(), "CANARY_RELAY_PASSWORD="+environment, "CERTPOST_CONFIG="+filepath.Join(dir, "certpost.yaml"))
	var outputs strings.Builder
	for _, args := range [][]string{
		{"dead-letters", "list"}, {"dead-letters", "list", "-o", "json"}, {"dead-letters", "list", "-o", "csv"}, {"dead-letters", "groups", "-o", "json"},
		{"dead-letters", "show", "1"}, {"dead-letters", "show", "2", "-o", "json"}, {"dead-letters", "show", "3", "--body"},
		{"dead-letters", "preflight", "1"}, {"dead-letters", "preflight", "2"}, {"dead-letters", "preflight", "3"}, {"dead-letters", "preflight", "4"}, {"dead-letters", "preflight", "5"},
		{"dead-letters", "replay", "--all", "--target", "refused", "--yes", "--reason", "test", "--wait"},
		{"dead-letters", "discard", "--all", "--target", "missing", "--reason", "test", "--yes"}, {"deliveries", "list", "-o", "json"}, {"deliveries", "list", "-o", "csv"},
		{"deliveries", "show", "good"}, {"check"}, {"check", "--live"}, {"check", "-o", "json"}, {"render", "--output", "json"}, {"relays", "list", "-o", "json"},
		{"replays", "list"}, {"replays", "list", "-o", "csv"}, {"audit", "list"}, {"audit", "list", "-o", "json"}, {"audit", "export"}, {"audit", "verify"},
	} {
		cmd := exec.Command(program, args...)
		cmd.Env, cmd.Dir = env, temp
		out, err := cmd.CombinedOutput()
		if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		if len(out) == 0 {
			t.Errorf("certpost %v printed nothing", args)
		}
		outputs.Write(out)
	}
	if !strings.Contains(outputs.String(), "ok       vault: server: answers\n") {
		t.Error("check --live does not say that Vault answers")
	}
	await(t, "the replay's letter", func() bool { return letters() == 11 })
	pages := []string{"/", "/healthz", "/metrics", "/readyz"}
	for _, list := range []string{"/dead-letters", "/dead-letters?view=groups", "/replays", "/deliveries", "/targets", "/relays", "/audit", "/dead-letters/1", "/dead-letters/2",
		"/deliveries/keys/good", "/targets/keys", "/targets/java", "/targets/inline", "/targets/refused"} {
		path, query, _ := strings.Cut(list, "?")
		pages = append(pages, list, path+".json?"+query, path+".csv?"+query)
	}
	for _, page := range pages {
		outputs.WriteString(fetch(httpAddr, page))
	}
	for _, page := range []string{"/", "/dead-letters", "/dead-letters.csv", "/dead-letters.json", "/deliveries", "/targets/keys", "/audit"} {
		if text := fetch(httpAddr, page); len(text) < 100 || strings.Contains(text, "404 page not found") {
			t.Errorf("%s has nothing to search: %q", page, text)
		}
	}
	pagesRead := crawl(t, httpAddr)
	for subject, request := range map[string]string{
		"dead.list": "{}", "dead.groups": "{}", "dead.show": `{"number": 1}`, "dead.preflight": `{"number": 2}`, "replays.list": "{}",
		"deliveries.list": "{}", "deliveries.show": `{"target": "keys", "event": "good"}`, "history.list": "{}", "dead.replay": `{"numbers": [99]}`,
	} {
		answer, err := nc.Request("certpost."+subject, []byte(request), 30*time.Second)
		if err != nil {
			t.Fatalf("certpost.%s: %v", subject, err)
		}
		fmt.Fprintf(&outputs, "%v %s\n", answer.Header, answer.Data)
	}

	// An inline private key: only the event, which the publisher sent, may contain it.
	leak := canaries{"inline private key": c["private key"]}
	before := streamed(t, js)
	put(map[string]any{"id": "leak", "certificate": string(chain), "private_key": string(key)})
	await(t, "the leak's letter", func() bool { return letters() == 12 })
	after := streamed(t, js, "CERTPOST_EVENTS")

	// Nothing serves profiles, variables or dumps of the running process.
	for _, path := range []string{"/debug", "/debug/", "/debug/pprof", "/debug/pprof/", "/debug/pprof/goroutine?debug=2", "/debug/pprof/heap", "/debug/pprof/cmdline", "/debug/vars", "/debug/requests", "/debug/events"} {
		resp, err := http.Get("http://" + httpAddr + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %s", path, resp.Status)
		}
	}
	for _, what := range []string{"PROFILEZ", "EXPVARZ", "VARZ", "SUBSZ"} {
		if answer, err := nc.Request("$SYS.REQ.SERVER.PING."+what, []byte(`{"name": "goroutine", "debug": 2}`), 5*time.Second); !errors.Is(err, nats.ErrNoResponders) {
			t.Errorf("the NATS server answers %s: %v, %v", what, answer, err)
		}
	}
	connections, err := nc.Request("$SYS.REQ.SERVER.PING.CONNZ", []byte(`{"auth": true, "subscriptions_detail": true}`), 5*time.Second) // of its own account
	if err != nil {
		t.Fatal(err)
	}
	outputs.Write(connections.Data)
	commandLine, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", cmd.Process.Pid))
	if err != nil || !strings.Contains(string(commandLine), "certpost.yaml") {
		t.Errorf("the command line: %q, %v", commandLine, err)
	}

	// A dump of all goroutines, of which one is amid AUTH with the password and has the key:
	// a crash leaves the same in the log, and could leave a core file.
	hang()
	put(map[string]any{"id": "hangs", "certificate": string(chain), "private_key": ref("secret", "certs/www"), "targets": []string{"hangs"}})
	select {
	case <-asked:
	case <-time.After(2 * time.Minute):
		t.Fatal("nobody signs in to the relay that hangs")
	}
	if err := cmd.Process.Signal(syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	log, err := os.ReadFile(logFile.Name())
	if err != nil {
		t.Fatal(err)
	}
	if dump := string(log); strings.Count(dump, "\ngoroutine ") < 10 || !strings.Contains(dump, "internal/smtp.") {
		t.Errorf("SIGQUIT left %d stacks in the log, or none of the conversation with the relay: the search would prove too little", strings.Count(dump, "\ngoroutine "))
	}
	for where, text := range map[string]string{"the log": string(log), "the command line": strings.Repeat(string(commandLine), 50), "commands and pages": outputs.String(), "all pages": pagesRead, "the streams": before, "the streams after the leak": after} {
		if len(text) < 1000 {
			t.Errorf("%s: only %d bytes to search", where, len(text))
		}
		for _, what := range append(c.found(text), leak.found(text)...) {
			t.Errorf("%s: %s", where, what)
		}
	}
	searched := 0
	err = filepath.WalkDir(temp, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		searched++
		for _, what := range c.found(string(text)) {
			t.Errorf("%s: %s", path, what)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	t.Logf("%d files below the temporary and working directory", searched)
}

// streamed returns all messages in JetStream with their headers, except those of the
// streams named.
func streamed(t *testing.T, js jetstream.JetStream, without ...string) string {
	t.Helper()
	ctx := context.Background()
	var all strings.Builder
	names := js.StreamNames(ctx)
	for name := range names.Name() {
		if strings.Contains(strings.Join(without, " "), name) {
			continue
		}
		s, err := js.Stream(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		for seq := s.CachedInfo().State.FirstSeq; seq <= s.CachedInfo().State.LastSeq; seq++ {
			m, err := s.GetMsg(ctx, seq)
			if errors.Is(err, jetstream.ErrMsgNotFound) {
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&all, "%s %v %s\n", m.Subject, m.Header, m.Data)
		}
	}
	if err := names.Err(); err != nil {
		t.Fatal(err)
	}
	return all.String()
}

func fetch(addr, path string) string {
	resp, err := http.Get("http://" + addr + path)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	var body strings.Builder
	_ = resp.Write(&body)
	_, text, _ := strings.Cut(body.String(), "\r\n\r\n")
	return text
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("timed out waiting for: %s", what)
}

// The search finds a secret in each encoding.
func TestCanariesAreFound(t *testing.T) {
	t.Parallel()
	c := canaries{}
	secret := c.add("a secret")
	var qp strings.Builder
	w := quotedprintable.NewWriter(&qp)
	w.Write([]byte("it is " + secret))
	w.Close()
	for how, text := range map[string]string{
		"plain": "x" + secret + "x", "base64 after one": base64.StdEncoding.EncodeToString([]byte("1" + secret + " tail")),
		"base64 after two": base64.StdEncoding.EncodeToString([]byte("12" + secret)), "base64": base64.StdEncoding.EncodeToString([]byte(secret)),
		"hexadecimal": strings.ToUpper(hex.EncodeToString([]byte(secret))), "quoted-printable": qp.String(), "query": url.QueryEscape(secret),
	} {
		if len(c.found(text)) == 0 {
			t.Errorf("%s: not found in %s", how, text)
		}
	}
	if found := c.found("nothing here"); len(found) > 0 {
		t.Errorf("found in nothing: %v", found)
	}
}
