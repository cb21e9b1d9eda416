package main

import (
	"crypto/tls"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/lab"
)

// The template of examples/vault-agent.hcl, rendered by the engine that Vault Agent has inside, with a
// real Vault.
//
// Fault: NATS is away while Vault Agent's template publishes. Result: the event is kept with the path
// of the key's file; `publish --flush` publishes it, once; the template does not issue another one
// meanwhile.
func TestVaultAgentTemplate(t *testing.T) {
	t.Parallel()
	engine := lab.Need(t, "consul-template")
	vault := lab.Vault(t)
	vault.Mount(t, "pki", "pki")
	vault.Call(t, "POST", "pki/root/generate/internal", map[string]any{"common_name": "Lab CA", "ttl": "2000h"})
	vault.Call(t, "POST", "pki/roles/web", map[string]any{"allowed_domains": "example.com", "allow_subdomains": true, "max_ttl": "1000h", "key_type": "ec", "key_bits": 256})
	addr := lab.FreeAddress(t)
	p := newPublisher(t, "nats://"+addr, "vault: {address: \""+vault.Address+"\", auth: {method: token, token: {value: \""+vault.RootToken+"\"}}}\n")
	text, err := os.ReadFile(root + "/examples/vault-agent.hcl")
	if err != nil {
		t.Fatal(err)
	}
	_, template, found := strings.Cut(string(text), "\ntemplate {")
	if !found {
		t.Fatal("examples/vault-agent.hcl has no template")
	}
	for from, to := range map[string]string{"/var/lib/vault-agent": p.path("agent"), "/usr/local/bin/certpost": lab.Build(t), "/etc/certpost/agent.yaml": p.path("certpost.yaml")} {
		if !strings.Contains(template, from) {
			t.Errorf("examples/vault-agent.hcl does not have %s", from)
		}
		template = strings.ReplaceAll(template, from, to)
	}
	p.write("agent.hcl", "template {"+template)
	if err := os.Mkdir(p.path("agent"), 0o700); err != nil {
		t.Fatal(err)
	}
	render := func() {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), engine, "-config", p.path("agent.hcl"), "-once")
		cmd.Env = append(os.Environ(), "VAULT_ADDR="+vault.Address, "VAULT_TOKEN="+vault.RootToken)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}

	for range 2 { // the second time nothing has changed
		render()
		if state := p.state(); state.Waiting != 1 || len(state.Refused) != 0 {
			t.Fatalf("%+v", state)
		}
	}
	lab.NATS(t, addr, "")
	stream := eventStream(t, "nats://"+addr, -1)
	p.publish(nil, "--flush").done(t)
	if err := os.Remove(p.path("agent/www.agent")); err != nil { // as if it were to be renewed
		t.Fatal(err)
	}
	render()
	got := ids(t, stream)
	if len(got) != 2 || got[0] == got[1] || p.state().Waiting != 0 {
		t.Fatalf("published %q", got)
	}
	for n := range got {
		m, err := stream.GetMsg(t.Context(), uint64(n+1))
		if err != nil {
			t.Fatal(err)
		}
		ev, err := events.Decode(nil, m.Data)
		if err != nil {
			t.Fatal(err)
		}
		ref := ev.PrivateKey.Vault
		stored := vault.Call(t, "GET", fmt.Sprintf("secret/data/%s?version=%d", ref.Path, ref.Version), nil)["data"].(map[string]any)["data"].(map[string]any)
		pair, err := tls.X509KeyPair([]byte(ev.Certificate.PEM), []byte(stored["private_key"].(string)))
		if err != nil || ref.Path != "certs/www.example.com" || len(pair.Certificate) != 2 || ev.Source != "file://"+hostname()+p.path("agent/www.crt") {
			t.Errorf("%v: %s", err, m.Data)
		}
	}
}
