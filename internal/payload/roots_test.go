package payload

import (
	"bytes"
	"encoding/pem"
	"os"
	"testing"

	"software.sslmate.com/src/go-pkcs12"

	"github.com/certpost/certpost/internal/lab"
)

// The CAs that Debian trusts, with all oddities of real certificates, go through every payload that
// needs no key.
func TestRealRoots(t *testing.T) {
	t.Parallel()
	const bundle = "/etc/ssl/certs/ca-certificates.crt"
	rest, err := os.ReadFile(bundle)
	if err != nil {
		lab.Skip(t, bundle+" is not on this machine: `go run -C tools/test .` installs what the tests need and runs them")
	}
	n := 0
	for block, rest := pem.Decode(rest); block != nil; block, rest = pem.Decode(rest) {
		n++
		b, err := ParseBundle(pem.EncodeToMemory(block))
		if err != nil {
			t.Errorf("certificate %d: %v", n, err)
			continue
		}
		for _, kind := range []string{PEM, DER, PKCS7, TrustStore, ZIP} {
			files, err := Build(Settings{Kind: kind}, b, nil, []byte(passphrase), lab.TestNow)
			switch {
			case err != nil:
				t.Errorf("%s: %s: %v", b.Name(), kind, err)
			case kind == TrustStore:
				if certs, err := pkcs12.DecodeTrustStore(files[0].Data, passphrase); err != nil || len(certs) != 1 || !certs[0].Equal(b.Leaf) {
					t.Errorf("%s: %s: %v", b.Name(), kind, err)
				}
			case kind != PEM && !bytes.Contains(files[0].Data, block.Bytes) && kind != ZIP:
				t.Errorf("%s: %s does not have the certificate", b.Name(), kind)
			}
		}
	}
	if n < 50 {
		t.Errorf("%s has %d certificates", bundle, n)
	}
}
