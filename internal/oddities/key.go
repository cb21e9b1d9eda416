package oddities

import (
	"encoding/asn1"
	"math/big"

	"golang.org/x/crypto/cryptobyte"
	der "golang.org/x/crypto/cryptobyte/asn1"
)

// Key describes a private key in DER (PKCS#8, PKCS#1 or SEC 1) that crypto/x509 refuses, as
// the end of the sentence "the private key is ..."; "" if nothing in particular is odd.
// The description has nothing of the key itself.
func Key(key []byte) string {
	s, fields := cryptobyte.String(key), cryptobyte.String(nil)
	var version int
	if !s.ReadASN1(&fields, der.SEQUENCE) || !fields.ReadASN1Integer(&version) {
		return ""
	}
	switch {
	case fields.PeekASN1Tag(der.SEQUENCE): // PKCS#8: RFC 5958 section 2
		var algorithm, inner cryptobyte.String
		var oid asn1.ObjectIdentifier
		if !fields.ReadASN1(&algorithm, der.SEQUENCE) || !algorithm.ReadASN1ObjectIdentifier(&oid) || !fields.ReadASN1(&inner, der.OCTET_STRING) {
			return ""
		}
		switch {
		case oid.Equal(oidEC):
			return ellipticKey(algorithm)
		case oid.Equal(oidRSA):
			return Key(inner)
		}
		if name := algorithms[oid.String()]; name != "" {
			return "of the unsupported type " + name + "; use RSA, ECDSA or Ed25519"
		}
		return ""
	case fields.PeekASN1Tag(der.OCTET_STRING): // SEC 1: RFC 5915 section 3
		var parameters cryptobyte.String
		if fields.SkipASN1(der.OCTET_STRING) && fields.PeekASN1Tag(der.Tag(0).Constructed().ContextSpecific()) &&
			fields.ReadASN1(&parameters, der.Tag(0).Constructed().ContextSpecific()) {
			return ellipticKey(parameters)
		}
		return ""
	}
	return factorlessKey(fields)
}

func ellipticKey(parameters cryptobyte.String) string {
	if curve := ellipticCurve(parameters); curve != "" {
		return "an EC key " + curve + "; convert one with explicit parameters with `openssl pkey -ec_param_enc named_curve`, and use P-256, P-384 or P-521 for others"
	}
	return ""
}

// factorlessKey looks for an RSA key (RFC 8017 appendix A.1.2) without its primes, or
// without the values for the Chinese remainder theorem: they are zero.
func factorlessKey(fields cryptobyte.String) string {
	for i := range 8 { // n, e, d, p, q, dP, dQ, qInv
		value := new(big.Int)
		if !fields.ReadASN1Integer(value) {
			return ""
		}
		switch {
		case value.Sign() > 0:
		case i == 3 || i == 4:
			return "an RSA key without its primes, which RFC 8017 requires; export it again with all its values"
		case i > 4:
			return "an RSA key without its CRT values (dP, dQ, qInv), which RFC 8017 requires; export it again with all its values"
		}
	}
	return ""
}
