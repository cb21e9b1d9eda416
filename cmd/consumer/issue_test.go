package main

import (
	"crypto/tls"
	"fmt"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/lab"
)

// Vault's PKI engine issues, the key is stored in KV, and the event is published, or kept while NATS
// is away.
//
// Fault: NATS is away, or the key cannot be stored, after Vault has issued a certificate. Result: the
// event is kept with the reference to the stored key; without a stored key nothing is published, and
// the error says which certificate is lost.
func TestIssue(t *testing.T) {
	t.Parallel()
	vault := lab.Vault(t)
	vault.Mount(t, "pki", "pki")
	vault.Call(t, "POST", "pki/root/generate/internal", map[string]any{"common_name": "Lab CA", "ttl": "100h"})
	vault.Call(t, "POST", "pki/roles/web", map[string]any{"allowed_domains": "example.com", "allow_subdomains": true, "max_ttl": "50h", "key_type": "ec", "key_bits": 256})
	vault.Policy(t, "issuer", `path "pki/issue/web" { capabilities = ["update"] } path "secret/data/certs/*" { capabilities = ["create", "update", "patch", "read"] }`)
	addr := lab.FreeAddress(t)
	p := newPublisher(t, "nats://"+addr, "events: {secret_paths: [\"secret/certs/*\"]}\nvault: {address: \""+vault.Address+"\", auth: {method: token, token: {value: \""+vault.Token(t, "1h", "issuer")+"\"}}}\n")
	issue := func(args ...string) said {
		return command(t, nil, append([]string{"-c", p.path("certpost.yaml"), "issue"}, args...)...)
	}
	web := []string{"--vault", "pki/issue/web", "--cn", "www.example.com", "--san", "web.example.com", "--ttl", "10h", "--store-key", "vault:secret/certs/{cn}#private_key", "--target", "ops"}
	if s := issue(web...); s.code != exitKept || !strings.Contains(s.stderr, "it is kept in "+p.path("spool")) || p.state().Waiting != 1 {
		t.Fatalf("%+v", s)
	}
	lab.NATS(t, addr, "")
	stream := eventStream(t, "nats://"+addr, -1)
	if out := issue(web...).stdout; !strings.Contains(out, " published (sequence 2)\n") {
		t.Errorf("%s", out)
	}
	host := hostname()
	for n := uint64(1); n <= 2; n++ {
		m, err := stream.GetMsg(t.Context(), n)
		if err != nil {
			t.Fatal(err)
		}
		ev, err := events.Decode(nil, m.Data)
		if err != nil {
			t.Fatal(err)
		}
		ref := ev.PrivateKey.Vault
		key := vault.Call(t, "GET", fmt.Sprintf("secret/data/%s?version=%d", ref.Path, n), nil)["data"].(map[string]any)["data"].(map[string]any)["private_key"].(string)
		pair, err := tls.X509KeyPair([]byte(ev.Certificate.PEM), []byte(key))
		if err != nil || ref.Version != int(n) || ref.Path != "certs/www.example.com" || ev.Source != "vault://"+host+"/pki/issue/web" || strings.Join(ev.Targets, " ") != "ops" {
			t.Errorf("%v: %s", err, m.Data)
		}
		if names := strings.Join(pair.Leaf.DNSNames, " "); names != "web.example.com www.example.com" || len(pair.Certificate) != 2 {
			t.Errorf("names %s, %d certificates", names, len(pair.Certificate))
		}
	}

	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"--vault", "pki/issue/web", "--cn", "www.example.org", "--store-key", "vault:secret/certs/x#k"}, exitFailed, "issue the certificate: Vault does not issue: common name www.example.org not allowed by this role"},
		{[]string{"--vault", "pki/issue/other", "--cn", "www.example.com", "--store-key", "vault:secret/certs/x#k"}, exitFailed, "Vault does not let Certpost's token issue at pki/issue/other"},
		{[]string{"--vault", "pki/issue/web", "--cn", "www.example.com", "--store-key", "vault:secret/elsewhere/x#k"}, exitUsage, "nothing was issued: vault:secret/elsewhere/x#k: an event may not name it: it is outside events.secret_paths"},
		{[]string{"--vault", "pki/issue/web", "--cn", "www.example.com", "--store-key", "vault:secret/certs/{lineage}#k"}, exitUsage, "{lineage} is known only with --from"},
		{[]string{"--vault", "pki/web", "--cn", "www.example.com", "--store-key", "vault:secret/certs/x#k"}, exitUsage, "--vault: want MOUNT/issue/ROLE"},
		{[]string{"--vault", "pki/issue/web", "--cn", "www.example.com", "--store-key", "vault:nowhere/{key_type}#k"}, exitFailed, "was issued, but its key could not be stored and is lost ("},
	} {
		if s := issue(c.args...); s.code != c.code || !strings.Contains(s.stderr, c.want) {
			t.Errorf("%q: %+v, want %s", c.args, s, c.want)
		}
	}
	if n := lengthOf(t, stream); n != 2 || p.state().Waiting != 0 {
		t.Errorf("%d events", n)
	}
}
