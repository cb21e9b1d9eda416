package certfiles

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	gopkcs12 "software.sslmate.com/src/go-pkcs12"

	"github.com/certpost/certpost/internal/lab"
)

func TestPKCS12Files(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	pack := func(name, passphrase string) []byte {
		c := lab.Issue(t, a.ca, lab.NewKey(t, "p256"), name, lab.DNSNames(name), today)
		data, err := gopkcs12.Modern.Encode(c.Key, c.Certificate, []*x509.Certificate{a.ca.Certificate}, passphrase)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	tr := newTree(t)
	web := pack("web.example.com", "right")
	tr.write("web.p12", web)
	tr.write("web-again.p12", web)
	tr.write("other.pfx", pack("other.example.com", "wrong"))
	tr.write("rubbish.p12", []byte("rubbish"))
	// Without a passphrase they are left out, and named unless the same is there as PEM.
	_, full, _ := a.issue("web.example.com")
	tr.write("pem/web.crt", full)
	tr.write("pem/web.pfx", web)
	all, left := (&Scanner{Host: "web1", NoKey: true}).Scan([]string{tr.dir})
	if len(all) != 1 || len(left) != 4 {
		t.Errorf("%v, %v", all, left)
	}
	for _, p := range left {
		if !p.LeftOut || p.Settling || !strings.Contains(p.Reason, "--pkcs12-passphrase") || filepath.Dir(p.Path) != tr.dir {
			t.Errorf("%+v", p)
		}
	}
	if err := os.RemoveAll(tr.path("pem")); err != nil {
		t.Fatal(err)
	}
	tr.s = &Scanner{Host: "web1", Passphrase: func() ([]byte, error) { return []byte("right"), nil }}
	found, problems := tr.s.Scan([]string{tr.dir})
	if len(found) != 1 || !found[0].PKCS12 || found[0].KeyFile != tr.path("web-again.p12") || !strings.Contains(string(found[0].Chain), "BEGIN CERTIFICATE") {
		t.Errorf("%+v", found)
	}
	if len(problems) != 2 || problems[0].Reason != "the passphrase does not open this PKCS#12 file" || !strings.HasPrefix(problems[1].Reason, "it cannot be read as PKCS#12") {
		t.Errorf("%v", problems)
	}
	_, key, err := PKCS12(pack("x.example.com", "p"), "p")
	if err != nil || !strings.HasPrefix(string(key), "-----BEGIN PRIVATE KEY-----") {
		t.Error(err)
	}
	// .NET writes the issuer first.
	c := lab.Issue(t, a.ca, lab.NewKey(t, "p256"), "net.example.com", lab.DNSNames("net.example.com"), today)
	data, err := gopkcs12.Modern.Encode(c.Key, a.ca.Certificate, []*x509.Certificate{c.Certificate}, "p")
	if err != nil {
		t.Fatal(err)
	}
	chain, _, err := PKCS12(data, "p")
	if leaf, rest := pem.Decode(chain); err != nil || leaf == nil || !bytes.Equal(leaf.Bytes, c.Certificate.Raw) || len(rest) == 0 {
		t.Errorf("the leaf is not first: %v\n%s", err, chain)
	}
}
