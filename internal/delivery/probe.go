package delivery

import (
	"context"
	"fmt"
	"time"

	"github.com/certpost/certpost/internal/secrets"
)

// certificateWarning is how long before its end a relay's certificate is worth a
// warning.
const certificateWarning = 21 * 24 * time.Hour

// Probing is what a probe found out about one part of a target.
type Probing struct {
	What    string // secret or relay
	Status  string // ok, warning or error
	Message string
}

// Probe tries all that a delivery to the target needs, without sending anything:
// its secrets, and its relay and each fallback up to AUTH.
func (c *Courier) Probe(ctx context.Context, t *Target) (all []Probing) {
	for i, way := range c.book.Current().ways[t.ID] {
		all = append(all, c.probeWay(ctx, way, i > 0)...)
	}
	return all
}

func (c *Courier) probeWay(ctx context.Context, t *Target, fallback bool) (all []Probing) {
	p := &provisions{versions: map[string]string{}, vars: secrets.Vars{"host": t.Host, "target": t.ID}}
	canLogIn := true
	for _, secret := range []struct {
		ref   secrets.Ref
		login bool
	}{{t.Username.Ref, true}, {t.Password, true}, {t.OAuth2.ClientSecret, true}, {t.PKCS12Passphrase, false}} {
		if secret.ref.IsZero() || fallback && !secret.login {
			continue
		}
		findings, readable := c.probeSecret(ctx, secret.ref, p.vars)
		all = append(all, findings...)
		canLogIn = canLogIn && (readable || !secret.login)
	}
	if !canLogIn {
		return append(all, Probing{"relay", "warning", "not tried, because its login cannot be read now"})
	}
	return append(all, c.probeRelay(ctx, t, p)...)
}

func (c *Courier) probeSecret(ctx context.Context, ref secrets.Ref, vars secrets.Vars) (all []Probing, readable bool) {
	if needsCertificate(ref) {
		return []Probing{{"secret", "ok", ref.String() + " depends on the certificate and is not read now"}}, false
	}
	found, err := c.store.Check(ctx, ref, vars)
	if err != nil {
		return []Probing{{"secret", "error", err.Error()}}, false
	}
	all = append(all, Probing{"secret", "ok", ref.String() + " can be read"})
	for _, w := range found.Warnings {
		all = append(all, Probing{"secret", "warning", ref.String() + ": " + w})
	}
	return all, true
}

func needsCertificate(ref secrets.Ref) bool {
	for _, name := range ref.Needs() {
		if name == "cn" || name == "domain" {
			return true
		}
	}
	return false
}

func (c *Courier) probeRelay(ctx context.Context, t *Target, p *provisions) []Probing {
	ctx, cancel := context.WithTimeout(ctx, t.Timeout)
	defer cancel()
	if failure := c.login(ctx, t, p); failure != nil {
		return []Probing{{"relay", "error", failure.Error()}}
	}
	r, failure := c.relayOf(t, p)
	if failure != nil {
		return []Probing{{"relay", "error", failure.Error()}}
	}
	s, failure := c.dial(ctx, t, p, r)
	if failure != nil {
		return []Probing{{"relay", "error", failure.Error()}}
	}
	defer s.close()
	text := fmt.Sprintf("%s answers, %s", s.address, s.tlsVersion())
	if s.tls == nil {
		text = s.address + " answers, in plaintext"
	}
	if t.AuthMethod != AuthNone {
		text += ", AUTH " + t.AuthMethod + " accepted"
	}
	all := []Probing{{"relay", "ok", text}}
	if s.tls != nil && len(s.tls.PeerCertificates) > 0 {
		end := s.tls.PeerCertificates[0].NotAfter
		if left := time.Until(end); left < certificateWarning {
			all = append(all, Probing{"relay", "warning", fmt.Sprintf("its certificate expires on %s, in %d days", moment(end), int(left.Hours()/24))})
		}
	}
	return all
}
