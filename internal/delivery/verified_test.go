package delivery

import (
	"crypto/x509"
	"maps"
	"path/filepath"
	"testing"

	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/secrets"
)

// TestChainsAreVerifiedOnce: resolving an event verifies its chain, also if the event names its
// targets, and notes that for its deliveries where they get the very same text.
//
// Fault: an issuer in name only, a certificate that is a reference, a certificate that cannot
// be read. Result: each delivery verifies it.
func TestChainsAreVerifiedOnce(t *testing.T) {
	t.Parallel()
	p := lab.NewPKI(t, "p256")
	impostor := lab.Issue(t, nil, lab.NewKey(t, "p256"), "Test CA 1", lab.AsCA, func(c *x509.Certificate) { c.SubjectKeyId = p.Intermediate.SubjectKeyId })
	dir := t.TempDir()
	file := filepath.Join(dir, "cert.pem")
	lab.Write(t, file, lab.PEM(p.Leaf, p.Intermediate))
	text := func(certs ...*lab.Issued) events.Certificate {
		return events.Certificate{PEM: string(lab.PEM(certs...))}
	}
	for name, tt := range map[string]struct {
		certificate events.Certificate
		named, want bool
	}{
		"named":              {text(p.Leaf, p.Intermediate), true, true},
		"matched":            {text(p.Leaf, p.Intermediate), false, true},
		"named, impostor":    {text(p.Leaf, impostor), true, false},
		"matched, impostor":  {text(p.Leaf, impostor), false, false},
		"named, reference":   {events.Certificate{Ref: &events.Reference{File: file}}, true, false},
		"matched, reference": {events.Certificate{Ref: &events.Reference{File: file}}, false, false},
		"named, unreadable":  {events.Certificate{PEM: "x"}, true, false},
	} {
		o := newFixture(t, "localhost:1", RelayLimits{}, func(target *Target) { target.Match = &Match{DNSNames: []string{"*.example.com"}} })
		o.sources = newSourceBook(Sources{}, secrets.Policy{FileRoots: []string{dir}})
		o.event.Certificate, o.event.ChainVerified = tt.certificate, !tt.want
		if o.event.Subject = events.SourceSubject("web1"); tt.named {
			o.event.Targets = []string{o.target.ID}
		}
		routes, failure := o.Resolve(lab.Patient(t), o.event)
		if failure != nil || len(routes) != 1 || routes[0].Failure != nil {
			t.Errorf("%s: %v, %v", name, routes, failure)
		}
		if o.event.ChainVerified != tt.want {
			t.Errorf("%s: verified %v, want %v", name, o.event.ChainVerified, tt.want)
		}
	}
}

// TestAddressesAreParsedOnce: what define has parsed is not parsed again, and an address that a
// mail has instead of a place is.
func TestAddressesAreParsedOnce(t *testing.T) {
	t.Parallel()
	o := newFixture(t, "localhost:1", RelayLimits{}, func(target *Target) {
		target.To, target.CC, target.ReplyTo = []string{"Ops@Example.COM", "{email}"}, []string{"info@bücher.example"}, "help@example.com"
		target.ToDomains = []string{"example.com"}
	})
	got, _ := o.book.Current().Get(o.target.ID)
	want := map[string]mailbox{"Ops@Example.COM": "Ops@example.com", "info@bücher.example": "info@xn--bcher-kva.example", "help@example.com": "help@example.com", got.FromAddress: mailbox(got.FromAddress)}
	if !maps.Equal(got.mailboxes, want) {
		t.Errorf("parsed %v, want %v", got.mailboxes, want)
	}
	for address, box := range map[string]mailbox{"Ops@Example.COM": "Ops@example.com", "other@example.com": "other@example.com"} {
		if b, err := got.mailbox("to", address); err != nil || b != box {
			t.Errorf("%s: %s, %v", address, b, err)
		}
	}
	if _, err := got.mailbox("to", "nobody"); err == nil {
		t.Error("an address without a domain was taken")
	}
}
