package desk

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/verdict"
)

// The certificate of a letter is found in every form in which an event is stored, and
// nothing else is mistaken for one.
//
// Fault: a certificate without CN. Result: letters.
func TestLeafOfALetter(t *testing.T) {
	t.Parallel()
	text := certificate("leaf.example.com", time.Now())
	block, _ := pem.Decode([]byte(text))
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	print := sha256.Sum256(cert.Raw)
	ev := &events.Event{ID: "e1", Source: "test://ca", Certificate: events.Certificate{PEM: text}, Targets: []string{"ops"}}
	for name, body := range map[string][]byte{"event": ev.Encode(), "CloudEvent": ev.CloudEvent()} {
		h, ok := leafOf(body)
		if !ok {
			t.Errorf("%s: none", name)
			continue
		}
		c := h.Value().certificate()
		if c.CommonName != "leaf.example.com" || len(c.DNSNames) != 2 || c.Fingerprint != hex.EncodeToString(print[:]) || c.Serial == "" ||
			!c.NotAfter.Equal(cert.NotAfter) || !c.NotBefore.Equal(cert.NotBefore) || c.Issuer == "" {
			t.Errorf("%s: %+v", name, c)
		}
		if l := h.Value(); !l.named("alt.leaf.example.com") || l.named("example.com") || l.primaryName() != "leaf.example.com" {
			t.Errorf("%s: names of %+v", name, c)
		}
	}
	// Without CN and DNS names, the other names identify it.
	bare := lab.Issue(t, nil, lab.SeededKey(1), "", func(c *x509.Certificate) {
		c.IPAddresses, c.EmailAddresses = []net.IP{net.ParseIP("192.0.2.7")}, []string{"Ops@example.com"}
	})
	h, ok := leafOf((&events.Event{ID: "e1", Certificate: events.Certificate{PEM: string(lab.PEM(bare))}}).Encode())
	if !ok {
		t.Fatal("none of a certificate without CN")
	}
	if l := h.Value(); l.certificate().Name() != "192.0.2.7" || !l.named("192.0.2.7") || !l.named("ops@example.com") || l.primaryName() != "192.0.2.7" ||
		!slices.Equal(l.allNames(), []string{"192.0.2.7", "ops@example.com"}) || !slices.Equal(namesOf(l.certificate()), l.allNames()) {
		t.Errorf("without CN: %+v", l)
	}
	for name, body := range map[string]string{
		"nothing": "", "no JSON": "{", "withheld": `{"withheld":"it holds a key"}`, "a reference": `{"certificate":{"file":"/etc/x.pem"}}`,
		"text": `{"certificate":"hello"}`, "cut off": `{"certificate":"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"}`, "a list": `[1]`, "data is text": `{"data":"x"}`,
	} {
		if h, ok := leafOf([]byte(body)); ok {
			t.Errorf("%s: %+v", name, h.Value())
		}
	}
	for want, c := range map[string]struct {
		cn    string
		names []string
	}{
		"www.example.com": {"WWW.example.com", []string{"example.com", "www.example.com"}},
		"example.com":     {"Example Incorporated", []string{"example.com", "www.example.com"}},
		"only.example":    {"only.example", nil},
		"":                {"", nil},
	} {
		if got := verdict.PrimaryName(c.cn, c.names); got != want {
			t.Errorf("%v: %q, want %q", c, got, want)
		}
	}
}

// The filter by name means the same in the lists of letters as in those of deliveries.
func TestNamedBySuffix(t *testing.T) {
	t.Parallel()
	l := leaf{cn: "CN.Example.com", names: "www.example.com *.wild.example.org"}
	for name, want := range map[string]bool{
		"www.example.com": true, "cn.example.com": true, "example.com": false, "*.example.com": true, "*.com": true, "*.xample.com": false, "*.www.example.com": false,
		"*.wild.example.org": true, "*.example.org": true, "wild.example.org": false, "*.": false, "*": false, "": false,
	} {
		if got := l.named(name); got != want {
			t.Errorf("%q: %t, want %t", name, got, want)
		}
	}
}
