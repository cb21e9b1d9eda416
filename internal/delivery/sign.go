package delivery

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/textproto"
	"slices"
	"strings"
	"time"

	"github.com/emersion/go-msgauth/dkim"
	gomail "github.com/wneessen/go-mail"

	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/smime"
	"github.com/certpost/certpost/internal/verdict"
)

// Sign says how mails are signed.
type Sign struct {
	// SMIME signs the mail with an S/MIME certificate of the sender; an encrypted mail is
	// signed first.
	SMIME SignSMIME `yaml:"smime"`
}

// SignSMIME is the sender's S/MIME certificate.
type SignSMIME struct {
	// Certificate is the certificate in PEM, as a secret reference. One issuer may follow it.
	Certificate secrets.Ref `yaml:"certificate"`
	// PrivateKey is its private key in PEM, RSA or ECDSA, as a secret reference.
	PrivateKey secrets.Ref `yaml:"private_key"`
}

// DKIM signs mails for a domain (RFC 6376), over the exact bytes that the relay gets.
type DKIM struct {
	// Domain is the domain that signs; its DNS has the public key. It should be that of
	// from_address.
	Domain string `yaml:"domain"`
	// Selector names the key: DNS has it at SELECTOR._domainkey.DOMAIN.
	Selector string `yaml:"selector"`
	// PrivateKey is the private key in PEM, RSA from 2,048 bits or Ed25519, as a secret
	// reference.
	PrivateKey secrets.Ref `yaml:"private_key"`
}

// IsZero reports whether nothing is set.
func (s Sign) IsZero() bool { return s.SMIME.Certificate.IsZero() && s.SMIME.PrivateKey.IsZero() }

// IsZero reports whether nothing is set.
func (d DKIM) IsZero() bool { return d.Domain == "" && d.Selector == "" && d.PrivateKey.IsZero() }

// signing signs one mail. The zero value signs nothing.
type signing struct {
	smime *tls.Certificate // with the parsed leaf
	dkim  *dkim.SignOptions
}

// signing fetches the keys that the target's mails are signed with.
func (c *Courier) signing(ctx context.Context, t *Target, p *provisions, now time.Time) (s signing, failure *verdict.Failure) {
	if !t.Sign.IsZero() {
		certificate, failure := c.secret(ctx, t.Sign.SMIME.Certificate, p)
		if failure != nil {
			return s, failure
		}
		failure = c.withKey(ctx, t.Sign.SMIME.PrivateKey, p, func(key []byte) (err error) {
			s.smime, err = smimeSigner(certificate.Reveal(), key, now)
			return err
		})
		if failure != nil {
			return s, failure
		}
	}
	if t.DKIM.IsZero() {
		return s, nil
	}
	failure = c.withKey(ctx, t.DKIM.PrivateKey, p, func(text []byte) error {
		key, err := dkimKey(text)
		s.dkim = &dkim.SignOptions{Domain: nameOf(t.DKIM.Domain).ascii, Selector: t.DKIM.Selector, Signer: key, Hash: crypto.SHA256,
			HeaderCanonicalization: dkim.CanonicalizationRelaxed, BodyCanonicalization: dkim.CanonicalizationRelaxed}
		return err
	})
	return s, failure
}

// probeSigning checks that mails to the target can be signed, and whether recipients accept the
// S/MIME certificate as the sender's. What stands in for a certificate of an event is not read.
func (c *Courier) probeSigning(ctx context.Context, t *Target) []verdict.Finding {
	if t.Sign.IsZero() && t.DKIM.IsZero() || slices.ContainsFunc([]secrets.Ref{t.Sign.SMIME.Certificate, t.Sign.SMIME.PrivateKey, t.DKIM.PrivateKey}, needsCertificate) {
		return nil
	}
	now := time.Now()
	p := targetProvisions(t)
	s, failure := c.signing(ctx, t, p, now)
	switch {
	case failure != nil && failure.Code == verdict.SMTPPayload:
		return []verdict.Finding{{What: "signature", Status: verdict.Error, Message: failure.Reason}}
	case failure != nil:
		return nil // a secret that cannot be read has a finding of its own
	}
	all := []verdict.Finding{{What: "signature", Status: verdict.OK, Message: "mails can be signed"}}
	if s.smime == nil {
		return all
	}
	leaf := s.smime.Leaf
	if !slices.ContainsFunc(leaf.EmailAddresses, func(a string) bool { return strings.EqualFold(a, t.FromAddress) }) {
		all = append(all, verdict.Finding{What: "signature", Status: verdict.Warning,
			Message: "the certificate of sign.smime does not name from_address, " + legible.Clean(t.FromAddress, 254) + ": mail programs will say that the signature is another's"})
	}
	if leaf.NotAfter.Sub(now) < KeyWarning {
		all = append(all, verdict.Finding{What: "signature", Status: verdict.Warning,
			Message: "the certificate of sign.smime expires on " + leaf.NotAfter.UTC().Format(time.DateOnly) + ": put the next one in its place before"})
	}
	return all
}

// withKey fetches one of the target's own private keys, which no cache keeps, and clears it
// after use.
func (c *Courier) withKey(ctx context.Context, ref secrets.Ref, p *provisions, use func(text []byte) error) *verdict.Failure {
	secret, err := c.store.Uncached(ctx, ref, p.vars)
	if err != nil {
		return secretFailure(err)
	}
	p.remember(ref, secret)
	text := secret.Value.Reveal()
	defer clear(text)
	if err := use(text); err != nil {
		return verdict.Fail(verdict.SMTPPayload, verdict.PhasePayload, fmt.Sprintf("the mail cannot be signed with %s: %v; fix it, then replay", ref, err))
	}
	return nil
}

// smimeSigner returns the certificate with its key. Errors quote nothing.
func smimeSigner(certificate, key []byte, now time.Time) (*tls.Certificate, error) {
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return nil, errors.New("certificate and private_key are not PEM, or do not belong together")
	}
	if pair.Leaf == nil {
		if pair.Leaf, err = x509.ParseCertificate(pair.Certificate[0]); err != nil {
			return nil, errors.New("the certificate cannot be parsed")
		}
	}
	leaf := pair.Leaf
	switch pair.PrivateKey.(type) {
	case *rsa.PrivateKey, *ecdsa.PrivateKey:
	default:
		return nil, errors.New("the key must be RSA or ECDSA")
	}
	if err := smime.InDate(leaf, now); err != nil {
		return nil, err
	}
	if leaf.KeyUsage != 0 && leaf.KeyUsage&(x509.KeyUsageDigitalSignature|x509.KeyUsageContentCommitment) == 0 {
		return nil, errors.New("the certificate's key usage does not include digitalSignature")
	}
	if err := smime.ForMail(leaf); err != nil {
		return nil, err
	}
	return &pair, nil
}

// minDKIMBits is the size from which receivers trust an RSA key (RFC 8301 section 3.2
// recommends it).
const minDKIMBits = 2048

// dkimKey parses a key for DKIM. Errors quote nothing.
func dkimKey(text []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("it is not a private key in PEM")
	}
	defer clear(block.Bytes)
	if key, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
		return longEnough(key)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("it is not a private key in PKCS#8 or PKCS#1, not encrypted")
	}
	switch key := key.(type) {
	case *rsa.PrivateKey:
		return longEnough(key)
	case ed25519.PrivateKey:
		return key, nil
	}
	return nil, errors.New("it must be RSA or Ed25519")
}

func longEnough(key *rsa.PrivateKey) (crypto.Signer, error) {
	if bits := key.N.BitLen(); bits < minDKIMBits {
		return nil, fmt.Errorf("the RSA key has %d bits: at least %d are required", bits, minDKIMBits)
	}
	return key, nil
}

// message signs a mail that is about to be rendered, as S/MIME.
func (s signing) message(msg *gomail.Msg) error {
	if s.smime == nil {
		return nil
	}
	return msg.SignWithTLSCertificate(s.smime)
}

// dkimHeaders are the headers that a signature covers. Each counts once more than the mail
// has it, so that nobody can put a second one on top (RFC 6376 section 8.15).
var dkimHeaders = []string{"From", "To", "Cc", "Reply-To", "Subject", "Date", "Message-Id", "Mime-Version", "Content-Type",
	"Content-Transfer-Encoding", "Content-Disposition", "In-Reply-To", "References", "List-Id", "Auto-Submitted", "Sender"}

// wire puts a DKIM signature before a rendered mail; it clears the mail that it copies.
func (s signing) wire(raw []byte) ([]byte, error) {
	if s.dkim == nil {
		return raw, nil
	}
	defer clear(raw)
	head, _, _ := bytes.Cut(raw, []byte("\r\n\r\n"))
	count := map[string]int{}
	for line := range bytes.SplitSeq(head, []byte("\r\n")) {
		if name, _, ok := bytes.Cut(line, []byte(":")); ok && line[0] != ' ' && line[0] != '\t' {
			count[textproto.CanonicalMIMEHeaderKey(string(name))]++
		}
	}
	options := *s.dkim
	for _, name := range dkimHeaders {
		for range count[name] + 1 {
			options.HeaderKeys = append(options.HeaderKeys, name)
		}
	}
	var out bytes.Buffer
	out.Grow(len(raw) + 2<<10)
	if err := dkim.Sign(&out, bytes.NewReader(raw), &options); err != nil {
		return nil, renderFailure("the mail cannot be signed with DKIM", err)
	}
	return out.Bytes(), nil
}
