package pemtext

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// MaxCertificates is the size of the largest text that may hold a certificate and its chain, in
// bytes. It leaves room for what `openssl x509 -text` writes around the blocks.
const MaxCertificates = 256 << 10

// ErrPrivateKey says that a text that should hold certificates holds a private key as well.
var ErrPrivateKey = errors.New("it contains a private key")

// Certificates returns the certificates of a text, unparsed, and the labels of the blocks that it
// skipped because they are neither certificates nor likely to be meant as one. A block that might
// be a certificate in another form is an error: leaving it out would make another one the leaf.
// With an error it returns what it read before.
func Certificates(text []byte) (certs []Block, skipped []string, err error) {
	if len(text) > MaxCertificates {
		return nil, nil, fmt.Errorf("it has %d bytes, the limit is %d", len(text), MaxCertificates)
	}
	blocks, err := Read(text)
	if holdsKey(text, blocks) {
		return nil, nil, ErrPrivateKey
	}
	for _, block := range blocks {
		switch kind := block.Kind; {
		case kind == "CERTIFICATE" || kind == "X509 CERTIFICATE":
			if isPKCS7(block.DER) {
				return certs, skipped, fmt.Errorf("line %d begins PKCS#7 under the label %s; convert it with `openssl pkcs7 -print_certs`", block.Line, kind)
			}
			certs = append(certs, block)
		case kind == "PKCS7" || kind == "CMS" || kind == "PKCS #7 SIGNED DATA":
			return certs, skipped, fmt.Errorf("line %d begins PKCS#7; convert it with `openssl pkcs7 -print_certs`", block.Line)
		case strings.HasSuffix(kind, "CERTIFICATE REQUEST"):
			return certs, skipped, fmt.Errorf("line %d begins a certificate request; publish the issued certificate instead", block.Line)
		case kind == "TRUSTED CERTIFICATE":
			return certs, skipped, fmt.Errorf("line %d begins a TRUSTED CERTIFICATE, a format that only OpenSSL uses; convert it with `openssl x509`", block.Line)
		case strings.HasSuffix(kind, "CERTIFICATE"):
			return certs, skipped, fmt.Errorf("line %d begins a block labelled %s, which is not an X.509 certificate", block.Line, kind)
		default:
			skipped = append(skipped, kind)
		}
	}
	if err == nil && len(certs) == 0 {
		err = errors.New("it has no CERTIFICATE block")
	}
	return certs, skipped, err
}

// holdsKey also looks at the text itself, for a key that is cut off.
func holdsKey(text []byte, blocks []Block) bool {
	for _, block := range blocks {
		if strings.HasSuffix(block.Kind, "PRIVATE KEY") || strings.HasSuffix(block.Kind, "PRIVATE KEY BLOCK") {
			return true
		}
	}
	return bytes.Contains(text, []byte("PRIVATE KEY-----")) || bytes.Contains(text, []byte("PRIVATE KEY BLOCK-----"))
}

// oidPKCS7 is 1.2.840.113549.1.7 as the first element of a SEQUENCE, without its own length and
// last arc (RFC 2315 section 14).
var oidPKCS7 = []byte{0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07}

// isPKCS7 reports whether der is a ContentInfo. A certificate begins with two SEQUENCEs, a
// ContentInfo with a SEQUENCE and an OBJECT IDENTIFIER.
func isPKCS7(der []byte) bool {
	i := bytes.Index(der[:min(len(der), 20)], oidPKCS7)
	return i >= 2 && der[0] == 0x30 && der[i-2] == 0x06 && i <= 8
}

// Encode returns certificates as a PEM text in its canonical form: CERTIFICATE blocks alone.
func Encode(ders ...[]byte) []byte {
	const begin, end = beginMark + "CERTIFICATE" + dashes + "\n", endMark + "CERTIFICATE" + dashes + "\n"
	size := 0
	for _, der := range ders {
		encoded := base64.StdEncoding.EncodedLen(len(der))
		size += len(begin) + encoded + (encoded+63)/64 + len(end)
	}
	out := make([]byte, 0, size)
	for _, der := range ders {
		out = append(out, begin...)
		for line := range slices.Chunk(der, 48) { // 64 characters
			out = append(base64.StdEncoding.AppendEncode(out, line), '\n')
		}
		out = append(out, end...)
	}
	return out
}
