// Package oddities says what crypto/x509 refuses to parse, and why: its own errors do
// not tell operators what to do, and may quote their input.
package oddities

import (
	"encoding/asn1"

	"golang.org/x/crypto/cryptobyte"
	der "golang.org/x/crypto/cryptobyte/asn1"
)

var (
	oidEC  = asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}
	oidRSA = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}
)

// algorithms are names of key types that Certpost has no use for.
var algorithms = map[string]string{
	"1.2.840.10040.4.1": "DSA", "1.2.840.113549.1.3.1": "Diffie-Hellman", "1.2.840.113549.1.1.10": "RSA restricted to PSS",
	"1.3.101.110": "X25519", "1.3.101.111": "X448", "1.3.101.113": "Ed448",
	"2.16.840.1.101.3.4.3.17": "ML-DSA-44", "2.16.840.1.101.3.4.3.18": "ML-DSA-65", "2.16.840.1.101.3.4.3.19": "ML-DSA-87",
}

// known are the curves of crypto/elliptic: P-224, P-256, P-384, P-521.
var known = map[string]bool{"1.3.132.0.33": true, "1.2.840.10045.3.1.7": true, "1.3.132.0.34": true, "1.3.132.0.35": true}

// curves are names of curves that Go does not have.
var curves = map[string]string{
	"1.3.132.0.10": "secp256k1", "1.3.132.0.31": "secp192k1", "1.2.840.10045.3.1.1": "P-192",
	"1.3.36.3.3.2.8.1.1.3": "brainpoolP192r1", "1.3.36.3.3.2.8.1.1.5": "brainpoolP224r1", "1.3.36.3.3.2.8.1.1.7": "brainpoolP256r1",
	"1.3.36.3.3.2.8.1.1.8": "brainpoolP256t1", "1.3.36.3.3.2.8.1.1.9": "brainpoolP320r1", "1.3.36.3.3.2.8.1.1.11": "brainpoolP384r1",
	"1.3.36.3.3.2.8.1.1.12": "brainpoolP384t1", "1.3.36.3.3.2.8.1.1.13": "brainpoolP512r1", "1.3.36.3.3.2.8.1.1.14": "brainpoolP512t1",
	"1.2.156.10197.1.301": "SM2",
}

// ellipticCurve describes the ECParameters at the start of s (RFC 5480 section 2.1.1); ""
// if they name a curve that Go has.
func ellipticCurve(s cryptobyte.String) string {
	var oid asn1.ObjectIdentifier
	switch {
	case s.PeekASN1Tag(der.SEQUENCE):
		return "on a curve given by explicit parameters instead of its name"
	case !s.PeekASN1Tag(der.OBJECT_IDENTIFIER) || !s.ReadASN1ObjectIdentifier(&oid):
		return "on a curve that is not named"
	case known[oid.String()]:
		return ""
	}
	if name := curves[oid.String()]; name != "" {
		return "on the curve " + name
	}
	return "on the curve " + oid.String()
}
