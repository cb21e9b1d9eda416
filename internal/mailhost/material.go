package mailhost

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"slices"
	"time"

	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/payload"
	"github.com/certpost/certpost/internal/verdict"
)

// Material is what is deployed.
type Material struct {
	// Bundle is the leaf and its issuers, in order, as payload.ParseBundle returns them.
	Bundle *payload.Bundle
	// Key is the leaf's private key in PEM, not encrypted. Deploy only reads it; the caller
	// clears it.
	Key []byte
	// File, if not nil, is deployed instead, as the only file: a key store, or another format
	// than PEM. CertPath and KeyPath are the same then, and ChainPath is empty. The caller
	// has checked that it belongs to Bundle and Key.
	File []byte
	// Same reports whether a file on the host has the same content as File in other bytes, as
	// encrypted ones have each time; nil: the bytes are compared.
	Same func(present []byte) bool
}

// contents are the parts that the files are made of.
type contents struct {
	leaf  *x509.Certificate
	chain []*x509.Certificate
	// The same in PEM, encoded again: nothing else of the event's text gets into a file.
	leafPEM, chainPEM, keyPEM []byte
	// Of Material.
	file []byte
	same func(present []byte) bool
}

// encode checks that the key is that of the leaf and encodes all parts. The daemons'
// own checks (postfix check, doveconf -n) read no certificate, and they accept a reload with
// any content, so what is checked here is checked nowhere else.
func encode(m Material) (*contents, error) {
	if m.Bundle == nil || m.Bundle.Leaf == nil {
		return nil, fail(verdict.SMTPPayload, StepCheck, "there is no certificate")
	}
	if m.File != nil {
		return &contents{leaf: m.Bundle.Leaf, chain: m.Bundle.Chain, file: bytes.Clone(m.File), same: m.Same}, nil
	}
	if len(m.Key) == 0 {
		return nil, fail(verdict.SMTPPayload, StepCheck, "a mail host needs the private key, but the event has no private_key; publish the event again with private_key")
	}
	parts, err := payload.Build(payload.Settings{Kind: payload.PEMAndKey}, m.Bundle, m.Key, nil, time.Time{})
	if err != nil {
		f := fail(verdict.SMTPPayload, StepCheck, "%s", "the certificate or its key cannot be used")
		if known, ok := errors.AsType[*verdict.Failure](err); ok {
			f.Reason = known.Reason
		}
		f.cause = err
		return nil, f
	}
	c := &contents{leaf: m.Bundle.Leaf, chain: m.Bundle.Chain, keyPEM: parts[1].Data}
	c.leafPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.leaf.Raw})
	for _, issuer := range c.chain {
		c.chainPEM = append(c.chainPEM, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: issuer.Raw})...)
	}
	return c, nil
}

// clear overwrites the key.
func (c *contents) clear() {
	clear(c.keyPEM)
	clear(c.file)
}

// clockSkew is how far in the future notBefore may be: CAs set it from their own clock.
const clockSkew = 5 * time.Minute

// check refuses what a server could load and clients would not accept.
func (c *contents) check(d Deployment, now time.Time) error {
	if c.file != nil {
		return c.checkPublic(d, now)
	}
	// What a server does when it loads the files.
	if _, err := tls.X509KeyPair(slices.Concat(c.leafPEM, c.chainPEM), c.keyPEM); err != nil {
		return fail(verdict.SMTPPayload, StepCheck, "the certificate %s cannot be loaded with its key", payload.ShortName(c.leaf))
	}
	return c.checkPublic(d, now)
}

// checkPublic is check without the key.
func (c *contents) checkPublic(d Deployment, now time.Time) error {
	if c.leaf.IsCA {
		return fail(verdict.SMTPPayload, StepCheck, "%s is a CA's certificate, not a server's; publish the leaf", payload.ShortName(c.leaf))
	}
	if usages := c.leaf.ExtKeyUsage; len(usages)+len(c.leaf.UnknownExtKeyUsage) > 0 &&
		!slices.Contains(usages, x509.ExtKeyUsageServerAuth) && !slices.Contains(usages, x509.ExtKeyUsageAny) {
		return fail(verdict.SMTPPayload, StepCheck, "%s is not a server's certificate: its extended key usage lacks serverAuth", payload.ShortName(c.leaf))
	}
	for i, cert := range append([]*x509.Certificate{c.leaf}, c.chain...) {
		name := payload.ShortName(cert)
		switch {
		case now.After(cert.NotAfter):
			return fail(verdict.SMTPPayload, StepCheck, "%s expired on %s; issue a new one", name, legible.Moment(cert.NotAfter))
		case now.Add(clockSkew).Before(cert.NotBefore):
			return fail(verdict.SMTPPayload, StepCheck, "%s is not valid before %s; check the clocks of this host and of the CA", name, legible.Moment(cert.NotBefore))
		case i == 0:
		case !cert.IsCA && cert.Version >= 3:
			return fail(verdict.SMTPPayload, StepCheck, "%s in the chain is not a CA's certificate", name)
		}
	}
	if err := checkChain(c.leaf, c.chain); err != nil {
		return err
	}
	return c.checkAgainst(d.Verify, now)
}

// checkChain verifies the signatures from the leaf up, as far as the chain goes. A second
// issuer of the same certificate (a cross-signed CA) may stand after the first.
func checkChain(leaf *x509.Certificate, chain []*x509.Certificate) error {
	signed := []*x509.Certificate{leaf}
	for _, issuer := range chain {
		if !slices.ContainsFunc(signed, func(child *x509.Certificate) bool {
			err := issuer.CheckSignature(child.SignatureAlgorithm, child.RawTBSCertificate, child.Signature)
			// Clients decide about algorithms that Go no longer checks.
			return err == nil || errors.As(err, new(x509.InsecureAlgorithmError)) || errors.Is(err, x509.ErrUnsupportedAlgorithm)
		}) {
			return fail(verdict.SMTPPayload, StepCheck, "the chain is broken: %s signed none of the certificates before it", payload.ShortName(issuer))
		}
		signed = append(signed, issuer)
	}
	return nil
}

// checkAgainst checks the name and the roots that the verification will ask for: a certificate
// that would fail it is refused before anything is changed.
func (c *contents) checkAgainst(v Verification, now time.Time) error {
	if v.ServerName != "" {
		if err := c.leaf.VerifyHostname(v.ServerName); err != nil {
			return fail(verdict.DeployValidate, StepCheck, "the certificate %s is not valid for the server name %q; deploy it elsewhere, or fix server_name", payload.ShortName(c.leaf), legible.Clean(v.ServerName, 255))
		}
	}
	if v.Roots == nil {
		return nil
	}
	if err := verifyChain(c.leaf, c.chain, v.Roots, now); err != nil {
		return fail(verdict.DeployValidate, StepCheck, "the certificate %s does not lead to a trusted root: %s; publish the full chain, or fix the roots", payload.ShortName(c.leaf), err)
	}
	return nil
}

func verifyChain(leaf *x509.Certificate, chain []*x509.Certificate, roots *x509.CertPool, now time.Time) error {
	between := x509.NewCertPool()
	for _, cert := range chain {
		between.AddCert(cert)
	}
	// notBefore was checked with some tolerance already.
	if now.Before(leaf.NotBefore) {
		now = leaf.NotBefore
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: now})
	return err
}
