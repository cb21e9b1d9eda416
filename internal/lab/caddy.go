package lab

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// Caddy runs Caddy with certpost's module (examples/caddy), which gets a certificate for a domain
// from a, or renews the one that it has. Its storage is dir/storage. module is the block of the module
// in the Caddyfile. The returned function stops it, which waits for the module's work.
func Caddy(t testing.TB, a *ACME, dir, domain, module string, renew bool) (stop func()) {
	t.Helper()
	caddy := Need(t, "caddy-certpost")
	mkdir(t, dir)
	if renew {
		suggestRenewal(t, filepath.Join(dir, "storage", "certificates"))
	}
	config := writeFile(t, filepath.Join(dir, "Caddyfile"), fmt.Sprintf(`{
	admin off
	persist_config off
	default_bind 127.0.0.1
	http_port %d
	https_port %d
	storage file_system %q
	email ops@lab.test
	acme_ca %s
	acme_ca_root %q
	events {
		on cert_obtained certpost %s
	}
}
%s {
	respond "here"
}
`, a.HTTPPort, a.TLSPort, filepath.Join(dir, "storage"), a.Directory, a.CAFile, module, domain), 0o600)
	cmd := exec.Command(caddy, "run", "--config", config, "--adapter", "caddyfile")
	cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	log := filepath.Join(dir, "caddy.log")
	logOnFailure(t, log)
	server := startProcess(t, "caddy", log, cmd)
	server.await(t, "waiting for its port", func() error { return answers(loopback(a.TLSPort)) })
	return func() { server.stop(t) }
}

// suggestRenewal makes the certificates that Caddy has stored due at once: as if the CA had suggested
// to renew them in the past (ARI, RFC 9773). Caddy asks again after a day.
func suggestRenewal(t testing.TB, certificates string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(certificates, "*", "*", "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("Caddy has stored no certificate (%v)", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var stored map[string]any
		if err := json.Unmarshal(text, &stored); err != nil {
			t.Fatal(err)
		}
		issuer, ok := stored["issuer_data"].(map[string]any)
		if !ok {
			t.Fatalf("%s has no issuer_data", file)
		}
		now := time.Now()
		issuer["renewal_info"] = map[string]any{
			"suggestedWindow": map[string]any{"start": now.Add(-2 * time.Hour), "end": now.Add(-time.Hour)},
			"_selectedTime":   now.Add(-time.Hour),
			"_retryAfter":     now.Add(24 * time.Hour),
		}
		if text, err = json.Marshal(stored); err != nil {
			t.Fatal(err)
		}
		writeFile(t, file, string(text), 0o600)
	}
}
