package delivery

import (
	"context"
	"crypto/x509"
	"fmt"
	"time"

	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/mailhost"
	"github.com/certpost/certpost/internal/payload"
	"github.com/certpost/certpost/internal/verdict"
)

// HostCertificate is a certificate on this mail host: in the file of a target, or served at one of its
// endpoints.
type HostCertificate struct {
	Target  string
	Where   string    // the path, or "127.0.0.1:25 (smtp)"
	Name    string    // of the certificate; "" if the endpoint showed none
	Expires time.Time // zero if the endpoint showed none
	// Otherwise says that the endpoint serves something else than the file, or does not answer; "" if
	// not.
	Otherwise string
}

// Expired reports whether the certificate has expired.
func (c HostCertificate) Expired(now time.Time) bool {
	return !c.Expires.IsZero() && !now.Before(c.Expires)
}

// Problem says what is wrong with it, "" for nothing: that something else is served, or that it expires
// within the time.
func (c HostCertificate) Problem(now time.Time, within time.Duration) string {
	at := fmt.Sprintf("target %s, %s: ", c.Target, legible.Clean(c.Where, 300))
	switch {
	case c.Otherwise != "":
		return at + c.Otherwise
	case c.Expired(now):
		return at + fmt.Sprintf("%s expired on %s", c.Name, legible.Moment(c.Expires))
	case c.Expires.Sub(now) < within:
		return at + fmt.Sprintf("%s expires on %s", c.Name, legible.Moment(c.Expires))
	}
	return ""
}

// HostCertificates looks at the files of the targets on this mail host, and at what their
// endpoints serve. Targets whose files are not there yet are left out.
func (c *Courier) HostCertificates(ctx context.Context) (all []HostCertificate) {
	for _, t := range c.book.Current().targets {
		if t.lane != c.opts.HostLane || c.opts.HostLane == "" || t.Disabled {
			continue
		}
		d := t.deployment()
		seen := mailhost.Deployer{}.Inspect(ctx, d)
		if seen.Leaf == nil {
			continue
		}
		add := func(where string, leaf *x509.Certificate, otherwise string) {
			h := HostCertificate{Target: t.ID, Where: where, Otherwise: otherwise}
			if leaf != nil {
				h.Name, h.Expires = payload.ShortName(leaf), leaf.NotAfter
			}
			all = append(all, h)
		}
		add(seen.Path, seen.Leaf, "")
		for _, s := range seen.Served {
			add(fmt.Sprintf("%s (%s)", s.Endpoint.Address, s.Endpoint.Protocol), s.Leaf, s.Problem)
		}
		for _, f := range c.daneOfPresent(ctx, t, mailhost.Present(d)) {
			if f.Status == verdict.Warning && f.What == "dane" {
				add("TLSA records", nil, f.Message)
			}
		}
	}
	return all
}
