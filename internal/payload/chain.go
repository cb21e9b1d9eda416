package payload

import (
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/certpost/certpost/internal/oddities"
)

// Limits of the signatures that are checked. A publisher chooses the certificates, and
// every event passes here: 22 certificates with 16,384 bits and the exponent 2^31-1 cost
// eight seconds.
const (
	maxSignatureBits = 8_192
	maxExponent      = 65_537
	maxSignatures    = 2 * maxCertificates // in one chain
)

// order finds the leaf, and sets Chain to the certificates that lead up from it, each
// after one that it issued. It climbs from the leaf, so that only signatures of links
// that may be kept are checked. What does not belong to the chain is left out.
func (b *Bundle) order(certs []*x509.Certificate, issued func(parent, child *x509.Certificate) (bool, error)) error {
	leaf, err := pickLeaf(certs)
	if err != nil {
		return err
	}
	b.Leaf = leaf
	if leaf.IsCA {
		b.Notes = append(b.Notes, "the certificate is a CA certificate")
	}
	b.Verified = true
	c := climber{bundle: b, certs: certs, issued: issued, seen: map[*x509.Certificate]bool{leaf: true}}
	if err := c.climb(leaf); err != nil {
		return err
	}
	var strays []*x509.Certificate
	for _, cert := range certs {
		switch {
		case c.seen[cert]:
		case !oddities.IsAuthority(cert):
			return twoLeaves([]*x509.Certificate{leaf, cert})
		default:
			strays = append(strays, cert)
		}
	}
	if len(strays) > 0 {
		b.Strays = fmt.Sprintf("%s issued neither %s nor any of its issuers", shortNames(strays), ShortName(leaf))
	}
	return nil
}

// CheckChain checks that every certificate of the event belongs to the chain: a strict
// target refuses others, for all other targets they are left out, with a warning that
// the mail and the log must contain.
func CheckChain(b *Bundle, strict bool) (warnings []string, err error) {
	switch {
	case b.Strays == "":
		return nil, nil
	case strict:
		return nil, payloadFailure(nil, "the chain is broken: %s; publish the leaf and its own issuers, or remove strict_chain from the target, then replay", b.Strays)
	case len(b.Chain) == 0 && !oddities.SelfIssued(b.Leaf):
		return []string{"the chain is broken: " + b.Strays + ", and was left out; no issuer of the certificate is attached"}, nil
	}
	return []string{"the event has a certificate that does not belong to the chain, and was left out: " + b.Strays}, nil
}

// CheckSupported checks that Certpost can parse every certificate. One that it cannot parse
// may only be passed on as it is, as payload pem, if the target allows that; the mail then
// has the warning.
func CheckSupported(b *Bundle, kind string, allowed bool) (warnings []string, err error) {
	asIs := kind == "" || kind == PEM
	switch {
	case b.Unsupported == "":
		return nil, nil
	case asIs && allowed:
		return []string{b.Unsupported}, nil
	case asIs:
		return nil, payloadFailure(nil, "the certificate %s; to deliver it as it is, set allow_unsupported_certificate for the target, then replay", b.Unsupported)
	}
	return nil, payloadFailure(nil, "the certificate %s; only payload pem can deliver it: set payload: pem and allow_unsupported_certificate for the target, then replay", b.Unsupported)
}

// climber collects the issuers of a leaf.
type climber struct {
	bundle  *Bundle
	certs   []*x509.Certificate
	issued  func(parent, child *x509.Certificate) (bool, error)
	seen    map[*x509.Certificate]bool // prevents endless recursion when CAs have signed each other
	checked int                        // signatures
}

// climb appends cert's issuers and their issuers, depth first. Issuers that lead further
// up come before self-signed ones, so that with a cross-signed root the path to the
// other root stays contiguous.
func (c *climber) climb(cert *x509.Certificate) error {
	for _, root := range []bool{false, true} {
		for _, parent := range c.certs {
			if c.seen[parent] || oddities.SelfIssued(parent) != root || !oddities.MayIssue(parent, cert) {
				continue
			}
			if c.checked++; c.checked > maxSignatures {
				return payloadFailure(nil, "too many certificates of the chain have the same name; publish only the issuers of the certificate")
			}
			ok, err := c.issued(parent, cert)
			if err != nil {
				return err
			}
			if !ok {
				c.bundle.Verified = false
				continue
			}
			c.seen[parent] = true
			c.bundle.Chain = append(c.bundle.Chain, parent)
			if err := c.climb(parent); err != nil {
				return err
			}
		}
	}
	return nil
}

// signed reports whether child has parent's signature. A signature whose algorithm
// Certpost cannot check counts as valid; the recipient's software checks it. One that
// would take too long is an error.
func signed(parent, child *x509.Certificate) (bool, error) {
	if key, ok := parent.PublicKey.(*rsa.PublicKey); ok && (key.N.BitLen() > maxSignatureBits || key.E > maxExponent) {
		return false, payloadFailure(nil, "%s has an RSA key of %d bits with the exponent %d, and Certpost checks signatures of at most %d bits with an exponent of at most %d, so it cannot be part of the chain",
			ShortName(parent), key.N.BitLen(), key.E, maxSignatureBits, maxExponent)
	}
	err := parent.CheckSignature(child.SignatureAlgorithm, child.RawTBSCertificate, child.Signature)
	var insecure x509.InsecureAlgorithmError
	return err == nil || errors.As(err, &insecure) || errors.Is(err, x509.ErrUnsupportedAlgorithm), nil
}

// pickLeaf returns the one certificate that the others lead up from, by their names, and
// an error if there is not exactly one: the only one that is not a CA's, or, of CA
// certificates alone, the only one that issued none of the others.
func pickLeaf(certs []*x509.Certificate) (*x509.Certificate, error) {
	if len(certs) == 1 {
		return certs[0], nil
	}
	var ends, lowest []*x509.Certificate // not CAs; those that issued none of the others
	for _, cert := range certs {
		if !oddities.IsAuthority(cert) {
			ends = append(ends, cert)
		}
	}
	for _, cert := range ends {
		if !oddities.IssuedAny(cert, certs) {
			lowest = append(lowest, cert)
		}
	}
	if len(ends) == 0 {
		lowest = oddities.Lowest(certs)
	}
	switch {
	case len(ends) == 1:
		return ends[0], nil
	case len(lowest) == 1: // a CA's chain; or an intermediate of version 1 is among the ends
		return lowest[0], nil
	case len(ends) == 0:
		return nil, payloadFailure(nil, "the certificate text has only CA certificates (%s) and no leaf; publish the full chain, not only the chain", shortNames(certs))
	}
	return nil, twoLeaves(ends)
}

func twoLeaves(leaves []*x509.Certificate) error {
	return payloadFailure(nil, "the certificate text has %d leaf certificates (%s); publish an event for each of them", len(leaves), namesAndSerials(leaves))
}
