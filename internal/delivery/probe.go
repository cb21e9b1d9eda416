package delivery

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/deliverability"
	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/payload"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/smtp"
	"github.com/certpost/certpost/internal/verdict"
)

// Inspector shows operators what the courier knows, and checks what its deliveries
// need. It sends no mail, and everything that it returns may be shown.
type Inspector struct{ courier *Courier }

// Inspector returns the courier's inspector.
func (c *Courier) Inspector() Inspector { return Inspector{c} }

// certificateWarning is how long before the expiry of a relay's certificate a warning
// is given.
const certificateWarning = 21 * 24 * time.Hour

// Check checks what every delivery to the target needs: its secrets, and its relay
// and each fallback up to AUTH.
func (i Inspector) Check(ctx context.Context, target string) []verdict.Finding {
	defs := i.courier.book.Current()
	all := targetState(defs, target)
	if t, failure := lookUp(defs, target); failure == nil {
		all = append(all, i.courier.probeKeys(ctx, t)...)
		all = append(all, i.courier.probeSigning(ctx, t)...)
	}
	for n, relay := range defs.relays[target] {
		if relay.onHost() {
			all = append(all, i.courier.probeHost(ctx, relay)...)
			continue
		}
		p := targetProvisions(relay)
		findings, _ := i.courier.probe(ctx, relay, n > 0, p, nil, false)
		all = append(all, findings...)
	}
	return all
}

// targetState returns a finding if the target is disabled or unknown.
func targetState(defs *Definitions, target string) []verdict.Finding {
	if t, ok := defs.Get(target); ok && t.Disabled {
		return []verdict.Finding{{What: "target", Status: verdict.Warning, Message: "it is disabled: nothing is delivered to it"}}
	} else if !ok {
		_, failure := lookUp(defs, target)
		return []verdict.Finding{{What: "target", Status: verdict.Error, Message: failure.Reason}}
	}
	return nil
}

// probe checks the secrets for one relay of a target, and the relay up to AUTH. With a
// mail it also checks whether the relay can accept it, with envelope also whether it accepts
// sender and recipients. away says that the relay is unavailable.
func (c *Courier) probe(ctx context.Context, t *Target, fallback bool, p *provisions, msg *message, envelope bool) (all []verdict.Finding, away bool) {
	canLogIn := true
	for _, secret := range []struct {
		ref   secrets.Ref
		login bool
	}{{t.Username.Ref, true}, {t.Password, true}, {t.OAuth2.ClientSecret, true}, {t.passphrase().Ref, false}, {t.keyPassphrase(), false},
		{t.Sign.SMIME.Certificate, false}, {t.Sign.SMIME.PrivateKey, false}, {t.DKIM.PrivateKey, false}} {
		if secret.ref.IsZero() || fallback && !secret.login {
			continue
		}
		findings, readable := c.probeSecret(ctx, secret.ref, p.vars)
		all = append(all, findings...)
		if readable && sameRef(secret.ref, t.passphrase().Ref) {
			all = append(all, c.probePassphrase(ctx, t, p)...)
		}
		canLogIn = canLogIn && (readable || !secret.login)
	}
	if t.passphrase().Generates() && !fallback {
		all = append(all, c.probeGenerated(ctx, t, p.vars)...)
	}
	if !canLogIn {
		return append(all, verdict.Finding{What: "relay", Status: verdict.Warning, Message: "not tried, because its credentials cannot be read now"}), false
	}
	findings, away := c.probeRelay(ctx, t, p, msg, envelope)
	return append(all, findings...), away
}

// Senders returns whose mails receivers judge, of some targets: each sender once, in the order of the targets. A DKIM key that
// cannot be used is left out; Check reports it.
func (i Inspector) Senders(ctx context.Context, targets []*Target) (all []deliverability.Sender) {
	seen := map[string]bool{}
	for _, t := range targets {
		from, err := parseMailbox("from_address", t.FromAddress)
		if t.onHost() || t.Disabled || err != nil {
			continue
		}
		s := deliverability.Sender{Domain: from.domain(), Relays: []string{t.Host}}
		for _, f := range t.Fallback {
			s.Relays = append(s.Relays, f.Host)
		}
		p := targetProvisions(t)
		if signing, failure := i.courier.signing(ctx, t, p, time.Now()); failure == nil && signing.dkim != nil {
			s.DKIM = &deliverability.Signature{Domain: signing.dkim.Domain, Selector: signing.dkim.Selector, Public: signing.dkim.Signer.Public()}
		}
		if key := s.Key(); !seen[key] {
			seen[key] = true
			all = append(all, s)
		}
	}
	return all
}

func (c *Courier) probeSecret(ctx context.Context, ref secrets.Ref, vars secrets.Vars) (all []verdict.Finding, readable bool) {
	if needsCertificate(ref) && vars["cn"] == "" {
		return []verdict.Finding{{What: "secret", Status: verdict.OK, Message: ref.String() + " depends on the certificate and was not read"}}, false
	}
	found, err := c.store.Check(ctx, ref, vars)
	if err != nil {
		return []verdict.Finding{{What: "secret", Status: verdict.Error, Message: err.Error()}}, false
	}
	text := ref.String() + " can be read"
	if ref.Vault != nil && ref.Vault.Key == "" && found.Field != "" {
		text += "; it names no key, and Certpost takes the field " + legible.Clean(found.Field, 100)
	}
	all = append(all, verdict.Finding{What: "secret", Status: verdict.OK, Message: text})
	for _, w := range found.Warnings {
		all = append(all, verdict.Finding{What: "secret", Status: verdict.Warning, Message: ref.String() + ": " + w})
	}
	return all, true
}

// probePassphrase checks the rules for the passphrase of the payload's file, which a delivery
// checks when it makes the file.
func (c *Courier) probePassphrase(ctx context.Context, t *Target, p *provisions) []verdict.Finding {
	ref := t.passphrase().Ref
	value, failure := c.secret(ctx, ref, p)
	if failure != nil {
		return nil // it could be read a moment ago; a delivery would retry
	}
	plain := value.Reveal()
	defer clear(plain)
	if problem := payload.CheckPassphrase(t.settings(nil).Passphrase(), plain); problem != "" {
		return []verdict.Finding{{What: "secret", Status: verdict.Error, Message: ref.String() + ": the passphrase " + problem}}
	}
	return nil
}

func needsCertificate(ref secrets.Ref) bool {
	for _, name := range ref.Needs() {
		if name == "cn" || name == "domain" {
			return true
		}
	}
	return false
}

func (c *Courier) probeRelay(ctx context.Context, t *Target, p *provisions, msg *message, envelope bool) (all []verdict.Finding, away bool) {
	ctx, cancel := context.WithTimeout(ctx, t.SendTimeout())
	defer cancel()
	// A check counts as a connection, so that it does not exceed max_connections.
	slot, limit := smtp.Relay{Host: t.Host, Port: t.Port}, c.book.Current().limits[smtp.RelayName(t.Host, t.Port)].MaxConnections
	if _, err := c.pool.Acquire(ctx, slot, smtp.Terms{Connections: limit}, true); err != nil {
		return []verdict.Finding{{What: "relay", Status: verdict.Warning,
			Message: "not tried, because deliveries use all connections that max_connections allows"}}, false
	}
	s, failure := c.probeSession(ctx, t, p)
	if failure != nil {
		c.pool.Release(slot)
		return []verdict.Finding{{What: "relay", Status: verdict.Error, Message: t.explainLogin(failure).Error() + shownInstead(t, failure)}}, failure.Relay
	}
	defer func() { c.pool.Put(s, smtp.Terms{Connections: limit}) }() // Mails is 0: the pool closes it
	text := s.Describe()
	if t.AuthMethod != smtp.AuthNone {
		text += ", AUTH " + t.AuthMethod + " accepted"
	}
	all = []verdict.Finding{{What: "relay", Status: verdict.OK, Message: text}}
	if shown := s.PeerCertificate(); shown != nil {
		if t.TLSSkipVerify && t.TLSFingerprint == "" {
			all = append(all, verdict.Finding{What: "relay", Status: verdict.Warning,
				Message: "its certificate is not verified (tls_skip_verify); if the relay's operator confirms it, set instead tls_fingerprint: " + smtp.CertificateFingerprint(shown).String()})
		}
		end := shown.NotAfter
		if left := time.Until(end); left < certificateWarning {
			all = append(all, verdict.Finding{What: "relay", Status: verdict.Warning,
				Message: fmt.Sprintf("its certificate expires on %s, in %s", legible.Moment(end), days(legible.Days(time.Now(), end)))})
		}
	}
	if !s.OffersDSN() && t.settings(nil).NeedsKey() {
		all = append(all, verdict.Finding{What: "bounces", Status: verdict.Warning, Message: keyInBounces(smtp.RelayName(t.Host, t.Port), t)})
	}
	if msg == nil {
		return all, false
	}
	env := smtp.Envelope{From: msg.from, Recipients: msg.recipients, UTF8: msg.needsUTF8}
	if refused := s.Admit(env, msg.raw); refused != nil {
		return append(all, verdict.Finding{What: "size", Status: verdict.Error, Message: refused.Error()}), false
	}
	all = append(all, verdict.Finding{What: "size", Status: verdict.OK, Message: sizeText(len(msg.raw), s.SizeLimit())})
	if envelope {
		all = append(all, probeEnvelope(ctx, s, env, len(msg.raw))...)
	}
	return all, false
}

// probeEnvelope asks the relay about sender and recipients, and sends nothing. A refusal for now is
// a warning: a delivery is retried then.
func probeEnvelope(ctx context.Context, s *smtp.Session, env smtp.Envelope, size int) (all []verdict.Finding) {
	say := func(what, text string, code verdict.Code) {
		status := verdict.Error
		if code.Retried() {
			status = verdict.Warning
		}
		all = append(all, verdict.Finding{What: what, Status: status, Message: text})
	}
	taken, refused, failure := s.TryEnvelope(ctx, env, size)
	if len(taken) > 0 {
		all = append(all, verdict.Finding{What: verdict.PartRecipients, Status: verdict.OK, Message: "the relay accepts the sender, and these recipients: " + legible.Clean(strings.Join(taken, ", "), 1000)})
	}
	for _, no := range refused {
		say(verdict.PartRecipients, legible.Clean(no.Recipient, 254)+": "+no.Reason, no.Code)
	}
	if failure != nil {
		say("envelope", failure.Error(), failure.Code)
	}
	return all
}

// shownInstead names the certificate of a relay that failed verification, so that it
// can be compared with the relay's own.
func shownInstead(t *Target, f *verdict.Failure) string {
	if f.Code != verdict.SMTPTLS || t.TLSFingerprint != "" || f.Transcript == nil || f.Transcript.PeerCertificate == nil {
		return "" // with tls_fingerprint the reason names it
	}
	return "; the SHA-256 of the certificate (tls_fingerprint) is " + f.Transcript.PeerCertificate.Fingerprint
}

// probeSession opens a session with the relay, including AUTH.
func (c *Courier) probeSession(ctx context.Context, t *Target, p *provisions) (*smtp.Session, *verdict.Failure) {
	if failure := c.login(ctx, t, p); failure != nil {
		return nil, failure
	}
	r, failure := c.relayOf(t, p)
	if failure != nil {
		return nil, failure
	}
	return c.dial(ctx, t, p, r)
}

// keyInBounces is the warning for a mail with a private key to a relay without DSN.
func keyInBounces(relay string, t *Target) string {
	key := "the private key"
	if !t.keyInClear() {
		key = "the encrypted private key"
	}
	return fmt.Sprintf("%s does not offer DSN (RFC 3461), so a bounce may return the whole mail with %s to from_address; let only people who may have the key read that mailbox, or use a relay with DSN", relay, key)
}

func sizeText(size, limit int) string {
	if limit == 0 {
		return fmt.Sprintf("the mail has %d bytes, and the relay announces no limit", size)
	}
	return fmt.Sprintf("the mail has %d bytes, and the relay accepts up to %d", size, limit)
}

func days(n int) string {
	if n == 1 {
		return "1 day"
	}
	return fmt.Sprintf("%d days", n)
}
