package lab

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"
)

func TestPebbleIssuesToCertbot(t *testing.T) {
	t.Parallel()
	acme := Pebble(t)
	told := filepath.Join(t.TempDir(), "told")
	domains := []string{"www.lab.test", "lab.test"}
	lineage := Certbot(t, acme, t.TempDir(), domains, `printf '%s' "$RENEWED_LINEAGE" > `+told, "rsa")

	if said, err := os.ReadFile(told); err != nil || string(said) != lineage {
		t.Errorf("the deploy hook got %q (%v), want %q", said, err, lineage)
	}
	// This fails if the key does not match the leaf.
	pair, err := tls.LoadX509KeyPair(filepath.Join(lineage, "fullchain.pem"), filepath.Join(lineage, "privkey.pem"))
	if err != nil {
		t.Fatal(err)
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(acme.Root(t))
	between.AddCert(acme.Intermediate(t))
	for _, domain := range domains {
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{DNSName: domain, Roots: roots, Intermediates: between}); err != nil {
			t.Error(err)
		}
	}
	if got := pair.Leaf.PublicKeyAlgorithm; got != x509.RSA {
		t.Errorf("the key is %v, want RSA as asked", got)
	}
}
