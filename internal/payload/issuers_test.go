package payload

import (
	"slices"
	"testing"

	"github.com/certpost/certpost/internal/lab"
)

// Events of one CA share its certificate as it was parsed; leaves are parsed each time.
func TestIssuersAreParsedOnce(t *testing.T) {
	t.Parallel()
	ca := lab.Issue(t, nil, lab.SeededKey(1), "CA", lab.AsCA)
	var c Cache
	var bundles []*Bundle
	for i, name := range []string{"one.example.com", "two.example.com"} {
		leaf := lab.Issue(t, ca, lab.SeededKey(byte(2+i)), name)
		b, err := c.Parse(slices.Concat(lab.PEM(ca), lab.PEM(leaf)), i == 1)
		if err != nil || b.Leaf.Subject.CommonName != name || len(b.Chain) != 1 || !slices.Equal(b.Chain[0].Raw, ca.Raw) {
			t.Fatalf("%s: %+v, %v", name, b, err)
		}
		bundles = append(bundles, b)
	}
	if bundles[0].Chain[0] != bundles[1].Chain[0] {
		t.Error("the issuer was parsed twice")
	}
	if len(c.issuers.known) != 1 {
		t.Errorf("%d certificates are kept, want that of the CA", len(c.issuers.known))
	}
	if _, _, err := c.issuers.read([]byte("no certificate")); err == nil {
		t.Error("what is no certificate was read")
	}
	for i := range maxIssuers + 1 {
		other := lab.Issue(t, nil, lab.SeededKey(1), "CA "+string(rune('0'+i)), lab.AsCA)
		if cert, odd, err := c.issuers.read(other.Raw); err != nil || odd != "" || !cert.Equal(other.Certificate) {
			t.Fatal(odd, err)
		}
	}
	if n := len(c.issuers.known); n == 0 || n > maxIssuers {
		t.Errorf("%d issuers are kept, at most %d are allowed", n, maxIssuers)
	}
}
