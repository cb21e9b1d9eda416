package mailhost

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"

	"github.com/certpost/certpost/internal/backoff"
)

// Inspection is what is on the host now, and what the program serves.
type Inspection struct {
	Path   string            // of the certificate, as in the settings
	Leaf   *x509.Certificate // in that file; nil if there is none that can be read
	Served []Serving         // by endpoint
}

// Serving is what one endpoint serves now.
type Serving struct {
	Endpoint Endpoint
	Leaf     *x509.Certificate // nil if it does not answer, or without TLS
	Problem  string            // "" if it serves the leaf of the file
}

// Inspect compares what the program serves with the file, by the connections of a verification.
// It changes nothing. The verification's roots and names are not asked for: the deployment has done
// that.
func (h Deployer) Inspect(ctx context.Context, d Deployment) Inspection {
	d = d.WithDefaults()
	out := Inspection{Path: d.CertPath}
	if certs := certificatesIn(d.CertPath); len(certs) > 0 {
		out.Leaf = certs[0]
	}
	if out.Leaf == nil {
		return out // nothing was deployed yet
	}
	for _, e := range d.Verify.Endpoints {
		out.Served = append(out.Served, d.Verify.inspect(ctx, e, out.Leaf))
	}
	return out
}

// inspect asks one endpoint, a second time if the first connection did not go well: servers restart.
func (v Verification) inspect(ctx context.Context, e Endpoint, want *x509.Certificate) Serving {
	s := Serving{Endpoint: Endpoint{e.Address, e.protocol()}}
	for range 2 {
		s.Leaf = nil
		_, err := v.probe(ctx, e, func(state *tls.ConnectionState) error {
			if s.Leaf = state.PeerCertificates[0]; !s.Leaf.Equal(want) {
				return fmt.Errorf("it serves %s, and the file has %s", shortName(s.Leaf), shortName(want))
			}
			return nil
		})
		if err == nil {
			s.Problem = ""
			return s
		}
		s.Problem = fail("", "", "%s", err).Reason
		backoff.Sleep(ctx, v.Backoff)
	}
	return s
}
