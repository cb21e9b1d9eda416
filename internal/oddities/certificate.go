package oddities

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"time"

	"golang.org/x/crypto/cryptobyte"
	der "golang.org/x/crypto/cryptobyte/asn1"
)

// ErrNotCertificate says that a text is not the DER of one certificate, complete and
// with nothing after it.
var ErrNotCertificate = errors.New("not an X.509 certificate, or damaged")

// Certificate parses a certificate. Where crypto/x509 refuses one that is complete DER, it
// returns what can be read without judging it, and what is odd, as the end of a sentence
// "... cannot be verified: ". Such a certificate has no PublicKey and no extensions but
// names: it is for display, for order by names, and to be passed on byte by byte.
func Certificate(raw []byte) (cert *x509.Certificate, odd string, err error) {
	if cert, err := x509.ParseCertificate(raw); err == nil {
		return cert, "", nil
	}
	c, ok := read(raw)
	if !ok {
		return nil, "", ErrNotCertificate
	}
	if c.odd == "" {
		c.odd = "it breaks a rule of RFC 5280 that Certpost's parser enforces; check it with `openssl x509 -text` or an X.509 linter"
	}
	return &c.Certificate, c.odd, nil
}

// lenient is a certificate that is read without judging it.
type lenient struct {
	x509.Certificate
	odd string // the first oddity
}

func (c *lenient) say(format string, args ...any) {
	if c.odd == "" {
		c.odd = fmt.Sprintf(format, args...)
	}
}

// read reads the structure of RFC 5280 section 4.1.
func read(raw []byte) (*lenient, bool) {
	c := &lenient{}
	s, outer, tbs := cryptobyte.String(raw), cryptobyte.String(nil), cryptobyte.String(nil)
	var signed, signature cryptobyte.String
	if !s.ReadASN1(&outer, der.SEQUENCE) || !s.Empty() || !outer.ReadASN1Element(&signed, der.SEQUENCE) ||
		!outer.SkipASN1(der.SEQUENCE) || !outer.ReadASN1(&signature, der.BIT_STRING) || !outer.Empty() {
		return nil, false
	}
	c.Raw, c.RawTBSCertificate = raw, signed
	if !signed.ReadASN1(&tbs, der.SEQUENCE) || !tbs.ReadOptionalASN1Integer(&c.Version, der.Tag(0).Constructed().ContextSpecific(), 0) {
		return nil, false
	}
	c.Version++
	var issuer, subject, validity, key, keyAlgorithm cryptobyte.String
	c.SerialNumber = new(big.Int)
	if !tbs.ReadASN1Integer(c.SerialNumber) || !tbs.SkipASN1(der.SEQUENCE) || !tbs.ReadASN1Element(&issuer, der.SEQUENCE) ||
		!tbs.ReadASN1(&validity, der.SEQUENCE) || !tbs.ReadASN1Element(&subject, der.SEQUENCE) || !tbs.ReadASN1(&key, der.SEQUENCE) ||
		!key.ReadASN1(&keyAlgorithm, der.SEQUENCE) || !readTime(&validity, &c.NotBefore) || !readTime(&validity, &c.NotAfter) {
		return nil, false
	}
	if c.SerialNumber.Sign() < 0 {
		c.say("its serial number is negative")
	}
	var algorithm asn1.ObjectIdentifier
	if keyAlgorithm.ReadASN1ObjectIdentifier(&algorithm) && algorithm.Equal(oidEC) {
		if curve := ellipticCurve(keyAlgorithm); curve != "" {
			c.say("its key is an EC key %s, which Certpost does not support", curve)
		}
	}
	c.RawIssuer, c.RawSubject = issuer, subject
	c.Issuer, c.Subject = c.name("issuer", issuer), c.name("subject", subject)
	return c, c.extensions(tbs)
}

func readTime(s *cryptobyte.String, t *time.Time) bool {
	if s.PeekASN1Tag(der.UTCTime) {
		return s.ReadASN1UTCTime(t)
	}
	return s.ReadASN1GeneralizedTime(t)
}

const universalString = der.Tag(28)

// name reads the common name and the organization of a distinguished name.
func (c *lenient) name(of string, element cryptobyte.String) (n pkix.Name) {
	var sets, set, attribute, value cryptobyte.String
	if !element.ReadASN1(&sets, der.SEQUENCE) {
		return n
	}
	for sets.ReadASN1(&set, der.SET) {
		for set.ReadASN1(&attribute, der.SEQUENCE) {
			var kind asn1.ObjectIdentifier
			var tag der.Tag
			if !attribute.ReadASN1ObjectIdentifier(&kind) || !attribute.ReadAnyASN1(&value, &tag) {
				return n
			}
			text := string(value)
			switch tag {
			case universalString:
				c.say("its %s has a UniversalString, which RFC 5280 allows only for old certificates", of)
				text = wide(value, 4)
			case der.Tag(30): // BMPString
				text = wide(value, 2)
			}
			switch kind.String() {
			case "2.5.4.3":
				n.CommonName = text
			case "2.5.4.10":
				n.Organization = append(n.Organization, text)
			}
		}
	}
	return n
}

// wide decodes a string of characters of some bytes each.
func wide(b []byte, bytes int) string {
	var out []rune
	for ; len(b) >= bytes; b = b[bytes:] {
		r := rune(0)
		for _, c := range b[:bytes] {
			r = r<<8 | rune(c)
		}
		out = append(out, r)
	}
	return string(out)
}

// extensions reads basicConstraints and the alternative names.
func (c *lenient) extensions(tbs cryptobyte.String) bool {
	var all, list, one, id, value cryptobyte.String
	tag := der.Tag(3).Constructed().ContextSpecific()
	for _, unique := range []uint8{1, 2} { // issuerUniqueID, subjectUniqueID
		if !tbs.SkipOptionalASN1(der.Tag(unique).ContextSpecific()) {
			return false
		}
	}
	present := false
	if !tbs.ReadOptionalASN1(&all, &present, tag) || !present {
		return tbs.Empty()
	}
	if !all.ReadASN1(&list, der.SEQUENCE) || !all.Empty() || !tbs.Empty() {
		return false
	}
	for !list.Empty() {
		if !list.ReadASN1(&one, der.SEQUENCE) || !one.ReadASN1(&id, der.OBJECT_IDENTIFIER) || !one.SkipOptionalASN1(der.BOOLEAN) || !one.ReadASN1(&value, der.OCTET_STRING) {
			return false
		}
		switch {
		case string(id) == "\x55\x1d\x13": // 2.5.29.19
			var constraints cryptobyte.String
			isCA := false
			if value.ReadASN1(&constraints, der.SEQUENCE) && constraints.PeekASN1Tag(der.BOOLEAN) && constraints.ReadASN1Boolean(&isCA) {
				c.IsCA, c.BasicConstraintsValid = isCA, true
			}
		case string(id) == "\x55\x1d\x11": // 2.5.29.17
			c.alternativeNames(value)
		}
	}
	return true
}

// alternativeNames reads GeneralNames (RFC 5280 section 4.2.1.6).
func (c *lenient) alternativeNames(value cryptobyte.String) {
	var names, name cryptobyte.String
	if !value.ReadASN1(&names, der.SEQUENCE) {
		c.say("its subject alternative names are damaged")
		return
	}
	for !names.Empty() {
		var tag der.Tag
		if !names.ReadAnyASN1(&name, &tag) {
			c.say("its subject alternative names are damaged")
			return
		}
		switch tag {
		case der.Tag(1).ContextSpecific():
			c.EmailAddresses = append(c.EmailAddresses, c.text(name, "mail address"))
		case der.Tag(2).ContextSpecific():
			c.DNSNames = append(c.DNSNames, c.text(name, "DNS name"))
		case der.Tag(6).ContextSpecific():
			if u, err := url.Parse(c.text(name, "URI")); err != nil {
				c.say("one of its subject alternative names is a URI that cannot be parsed")
			} else {
				c.URIs = append(c.URIs, u)
			}
		case der.Tag(7).ContextSpecific():
			if len(name) != 4 && len(name) != 16 {
				c.say("one of its subject alternative names is an IP address of %d octets; one has 4 or 16", len(name))
			} else {
				c.IPAddresses = append(c.IPAddresses, []byte(name))
			}
		}
	}
}

// text returns an IA5String; other characters are odd.
func (c *lenient) text(s []byte, what string) string {
	for _, b := range s {
		if b > 0x7f {
			c.say("one of its subject alternative names is a %s with characters beyond ASCII", what)
			break
		}
	}
	return string(s)
}
