package verdict

import (
	"crypto/x509"
	"math/big"
	"net"
	"net/url"
	"slices"
	"testing"

	"github.com/certpost/certpost/internal/lab"
)

// A certificate without CN is shown under its first alternative name, of any kind.
//
// Fault: a certificate without CN. Result: shown under its first alternative name of any
// kind (DNS, IP, mail, URI), else its serial number.
func TestCertificateName(t *testing.T) {
	t.Parallel()
	spiffe, err := url.Parse("spiffe://example.com/web")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		want  string
		other []string
		cn    string
		edit  func(*x509.Certificate)
	}{
		{"web1", nil, "web1", lab.DNSNames("www.example.com")},
		{"www.example.com", nil, "", lab.DNSNames("www.example.com", "example.com")},
		{"192.0.2.7", []string{"192.0.2.7", "2001:db8::1"}, "", func(c *x509.Certificate) {
			c.IPAddresses = []net.IP{net.ParseIP("192.0.2.7"), net.ParseIP("2001:db8::1")}
		}},
		{"2001:db8::1", []string{"2001:db8::1"}, " \n", func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.ParseIP("2001:db8::1")} }},
		{"ops@example.com", []string{"ops@example.com"}, "", func(c *x509.Certificate) { c.EmailAddresses = []string{"ops@example.com"} }},
		{"spiffe://example.com/web", []string{"spiffe://example.com/web"}, "", func(c *x509.Certificate) { c.URIs = []*url.URL{spiffe} }},
		{"www.example.com", []string{"192.0.2.7"}, "", func(c *x509.Certificate) {
			c.DNSNames, c.IPAddresses = []string{"www.example.com"}, []net.IP{net.ParseIP("192.0.2.7")}
		}},
		{"serial 4a7be5", nil, "", func(*x509.Certificate) {}},
		{"serial 00", nil, "", func(c *x509.Certificate) { c.SerialNumber = big.NewInt(0) }},
	} {
		cert := CertificateOf(lab.Issue(t, nil, lab.SeededKey(1), c.cn, c.edit).Certificate)
		if cert.Name() != c.want || !slices.Equal(cert.OtherNames, c.other) {
			t.Errorf("name %q, want %q; other names %q, want %q", cert.Name(), c.want, cert.OtherNames, c.other)
		}
	}
	many := CertificateOf(lab.Issue(t, nil, lab.SeededKey(1), "", func(c *x509.Certificate) {
		c.DNSNames, c.EmailAddresses = lab.ManyNames(90), []string{"a@example.com", "b@example.com"}
		for i := range 50 {
			c.IPAddresses = append(c.IPAddresses, net.IPv4(192, 0, 2, byte(i)))
		}
	}).Certificate)
	if len(many.DNSNames) != 90 || len(many.OtherNames) != 10 {
		t.Errorf("%d and %d names are kept, want 90 and 10", len(many.DNSNames), len(many.OtherNames))
	}
}
