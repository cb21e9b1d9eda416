package events

import (
	"bytes"
	"encoding/base64"
)

// The boundaries of a certificate in PEM.
const (
	beginCertificate = "-----BEGIN CERTIFICATE-----"
	endCertificate   = "-----END CERTIFICATE-----"
)

// cutCertificates returns b with a dot in place of each certificate in PEM, and the
// certificates' DER, each followed by a byte that is a digit of no encoding. Most of an event
// is its certificates, and only the boundaries around them tell how they are encoded:
// whoever ignores these has to try each alignment, with and without escapes. What is not a
// whole certificate stays in b. Lines may end with LF, CRLF or their JSON escapes.
func cutCertificates(b []byte) (rest, ders []byte) {
	for {
		i := bytes.Index(b, []byte(beginCertificate))
		if i < 0 {
			break
		}
		from := i + len(beginCertificate)
		n := bytes.Index(b[from:], []byte(endCertificate))
		if n < 0 {
			break
		}
		if der, ok := decodeLines(b[from : from+n]); ok && isCertificate(der) {
			ders = append(append(ders, der...), 0xff)
			rest = append(append(rest, b[:i]...), '.')
			b = b[from+n+len(endCertificate):]
			continue
		}
		rest = append(rest, b[:from]...)
		b = b[from:]
	}
	if rest == nil {
		return b, nil
	}
	return append(rest, b...), ders
}

// decodeLines decodes lines of base64 in the standard alphabet.
func decodeLines(lines []byte) ([]byte, bool) {
	digits := make([]byte, 0, len(lines))
	for i := 0; i < len(lines); {
		switch c := lines[i]; {
		case c == '\n' || c == '\r':
			i++
		case c == '\\' && i+1 < len(lines) && (lines[i+1] == 'n' || lines[i+1] == 'r'):
			i += 2
		default:
			end := i + 1
			for end < len(lines) && lines[end] > '\r' && lines[end] != '\\' {
				end++
			}
			digits = append(digits, lines[i:end]...)
			i = end
		}
	}
	n, err := base64.StdEncoding.Strict().Decode(digits, digits)
	return digits[:n], err == nil
}

// isCertificate reports whether b is nothing but one Certificate (RFC 5280, section 4.1):
//
//	SEQUENCE { SEQUENCE { ... }, SEQUENCE { ... }, BIT STRING }
//
// It does not look into them.
func isCertificate(b []byte) bool {
	size, rest, ok := element(b, tagSequence)
	if !ok || size == 0 || size != len(rest) {
		return false
	}
	for _, tag := range []byte{tagSequence, tagSequence, tagBitString} {
		size, content, ok := element(rest, tag)
		if !ok || size == 0 || size > len(content) {
			return false
		}
		rest = content[size:]
	}
	return len(rest) == 0
}
