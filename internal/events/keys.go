package events

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"regexp"
	"strings"
	"unicode/utf8"
)

// The depth of the search for keys: escapes within escapes (a JSON text in a JSON
// string, percent-encoded), and encodings within encodings (PEM as base64 in
// base64).
const (
	maxEscapes   = 4
	maxEncodings = 2
)

// HoldsPrivateKey reports whether a body contains, or may contain, a private key. It
// searches bytes, not JSON, so that it also works on a body that is not an event, and
// it prefers a false alarm to a missed key:
//
//   - PEM and PuTTY blocks, OpenSSH keys, openssl's text form; encrypted ones too
//   - PKCS#8, PKCS#1, SEC 1 and DSA keys in DER; PKCS#12 files, Java key stores
//   - JSON Web Keys with a private or symmetric part, .NET's RSAKeyValue and RSAParameters
//   - what stands under a name such as private_key and does not begin like a reference
//
// each of them as it is, with JSON, Python or percent escapes, in UTF-16, as base64, as
// hexadecimal, or as a list of bytes. Keys in compressed or otherwise encrypted data are not found. A body
// over MaxSize is not searched and counts as containing one.
func HoldsPrivateKey(body []byte) bool {
	if len(body) > MaxSize {
		return true
	}
	rest, certificates := cutCertificates(body)
	return holdsKey(rest, maxEncodings) || len(certificates) > 0 && holdsKey(certificates, maxEncodings-1)
}

func holdsKey(b []byte, encodings int) bool {
	if len(b) > 0 && bytes.Count(b, []byte{0}) >= len(b)/4+1 {
		// UTF-16 or UTF-32, in either byte order: without NUL bytes it is ASCII.
		if holdsKey(bytes.ReplaceAll(b, []byte{0}, nil), encodings) {
			return true
		}
	}
	for range maxEscapes {
		if binaryKey(b) {
			return true
		}
		text := withoutBlanks(b)
		if textKey(text) || jsonWebKey(b) || encodings > 0 && encodedKey(text, encodings-1) {
			return true
		}
		if list := writtenBytes(b); encodings > 0 && len(list) > 0 && holdsKey(list, encodings-1) {
			return true
		}
		plain, changed := unescape(b)
		if !changed {
			return false
		}
		b = plain
	}
	return false
}

// withoutBlanks removes white space and control characters, so that wrapped base64
// becomes one run.
func withoutBlanks(b []byte) []byte {
	out := make([]byte, 0, len(b))
	for _, c := range b {
		if c > ' ' && c != 0x7f {
			out = append(out, c)
		}
	}
	return out
}

// keyMarks occur in keys in text form, without white space, and in nothing else.
var keyMarks = [][]byte{
	[]byte("openssh-key-v1"),   // the inside of an OpenSSH key
	[]byte("Private-Lines:"),   // PuTTY
	[]byte("Private-Key:("),    // openssl pkey -text
	[]byte("privateExponent:"), // openssl rsa -text
	[]byte("InverseQ"),         // .NET's RSAKeyValue in XML and RSAParameters in JSON, with a private part
	[]byte(`"Primes":[`),       // Go's rsa.PrivateKey in JSON
}

func textKey(text []byte) bool {
	for _, mark := range keyMarks {
		if bytes.Contains(text, mark) {
			return true
		}
	}
	if bytes.Contains(text, []byte("Modulus")) && (bytes.Contains(text, []byte("<D>")) || bytes.Contains(text, []byte(`"D":`))) {
		return true
	}
	return pemKey(text) || namedKey(text)
}

// namedKey looks for a quoted name of private keys with a value that neither is empty
// nor begins like a reference.
func namedKey(text []byte) bool {
	for i := 0; ; i++ {
		colon := bytes.IndexByte(text[i:], ':')
		if colon < 0 {
			return false
		}
		i += colon
		if i < 2 || text[i-1] != '"' && text[i-1] != '\'' {
			continue
		}
		before := text[max(0, i-1-longestKeyName-1) : i-1]
		quote := bytes.LastIndexByte(before, text[i-1])
		if quote >= 0 && namesKey(string(before[quote+1:])) && !emptyOrReference.Match(text[i+1:min(len(text), i+20)]) {
			return true
		}
	}
}

// emptyOrReference matches the start of a value without white space.
var emptyOrReference = regexp.MustCompile(`^(?:$|""|\'\'|null|true|false|\[\]|\{\}|\{["'](?:vault|transit|file)["']:)`)

// jsonWebKey looks for a JSON Web Key (RFC 7517) with a private or symmetric part, in
// JSON, as Python and JavaScript print it, or in YAML.
func jsonWebKey(b []byte) bool {
	return bytes.Contains(b, []byte("kty")) && keyType.Match(b) && keyPart.Match(b)
}

var (
	keyType = regexp.MustCompile(`kty["']?\s*[:=]`)
	keyPart = regexp.MustCompile(`(?:^|[\s{,"'])[dk]["']?\s*[:=]\s*["']?[A-Za-z0-9+/_-]`)
)

// pemKey looks for BEGIN ... PRIVATE KEY or for PRIVATE KEY ... --, without white
// space: one end of the boundary is enough.
func pemKey(text []byte) bool {
	const mark = "PRIVATEKEY"
	for offset := 0; ; {
		i := bytes.Index(text[offset:], []byte(mark))
		if i < 0 {
			return false
		}
		i += offset
		offset = i + len(mark)
		before, after := text[max(0, i-48):i], text[offset:min(len(text), offset+12)]
		if bytes.Contains(before, []byte("BEGIN")) || bytes.Contains(after, []byte("--")) {
			return true
		}
	}
}

// encodedKey decodes all runs of base64 (both alphabets, at each of the four
// alignments, because other digits may precede it) and of hexadecimal.
func encodedKey(text []byte, encodings int) bool {
	const shortest = 24 // nothing shorter decodes to a key or a PEM boundary
	var runs, hexRuns [][]byte
	for start := 0; start < len(text); {
		end, all := start, byte(base64Digit|hexDigit)
		for end < len(text) && digitOf[text[end]] != 0 {
			all &= digitOf[text[end]]
			end++
		}
		if end-start >= shortest {
			runs = append(runs, text[start:end])
			if all&hexDigit != 0 {
				hexRuns = append(hexRuns, text[start:end])
			}
		}
		start = end + 1
	}
	for alignment := range 4 {
		if len(runs) > 0 && holdsKey(decoded(runs, alignment, 4, appendBase64), encodings) {
			return true
		}
	}
	for alignment := range 2 {
		if len(hexRuns) > 0 && holdsKey(decoded(hexRuns, alignment, 2, appendHex), encodings) {
			return true
		}
	}
	return false
}

// decoded joins the decoded runs, each without its first skip digits and without an
// incomplete group at its end, separated by a byte that is a digit of no encoding.
func decoded(runs [][]byte, skip, group int, decode func(dst, digits []byte) []byte) []byte {
	size := 0
	for _, run := range runs {
		size += len(run)
	}
	out := make([]byte, 0, size) // more than needed
	for _, run := range runs {
		digits := run[skip:]
		out = append(decode(out, digits[:len(digits)-len(digits)%group]), 0xff)
	}
	return out
}

// appendHex and appendBase64 decode complete groups of valid digits, so they cannot
// fail.
func appendHex(dst, digits []byte) []byte {
	dst, _ = hex.AppendDecode(dst, digits)
	return dst
}

func appendBase64(dst, digits []byte) []byte {
	if bytes.ContainsAny(digits, "-_") {
		digits = bytes.Clone(digits)
		for i, c := range digits {
			switch c {
			case '-':
				digits[i] = '+'
			case '_':
				digits[i] = '/'
			}
		}
	}
	dst, _ = base64.RawStdEncoding.AppendDecode(dst, digits)
	return dst
}

// Encodings of which a byte may be a digit.
const (
	base64Digit = 1 << iota
	hexDigit
)

var digitOf = func() (of [256]byte) {
	for c := range 256 {
		switch {
		case c >= '0' && c <= '9', c >= 'a' && c <= 'f', c >= 'A' && c <= 'F':
			of[c] = base64Digit | hexDigit
		case c >= 'g' && c <= 'z', c >= 'G' && c <= 'Z', c == '+', c == '/', c == '-', c == '_':
			of[c] = base64Digit
		}
	}
	return of
}()

func isHex(c byte) bool { return digitOf[c]&hexDigit != 0 }

// unescape resolves the escapes of JSON and Python strings and of percent-encoding once, at any
// position, and reports whether there were any. Two-byte UTF-8 characters of Latin-1
// become single bytes, for binary data that was encoded as text.
func unescape(b []byte) ([]byte, bool) {
	isText := utf8.Valid(b)
	if bytes.IndexByte(b, '\\') < 0 && bytes.IndexByte(b, '%') < 0 && !(isText && (bytes.IndexByte(b, 0xc2) >= 0 || bytes.IndexByte(b, 0xc3) >= 0)) {
		return b, false
	}
	out := make([]byte, 0, len(b))
	changed := false
	for i := 0; i < len(b); {
		if c := b[i]; c != '\\' && c != '%' && !(isText && (c == 0xc2 || c == 0xc3)) {
			out = append(out, c)
			i++
			continue
		}
		plain, size := escape(b[i:])
		if size == 0 {
			out = append(out, b[i])
			i++
			continue
		}
		if plain < 0x100 {
			out = append(out, byte(plain))
		} else {
			out = utf8.AppendRune(out, plain)
		}
		i += size
		changed = true
	}
	return out, changed
}

// escape reads the escape at the start of b; size is 0 if there is none.
func escape(b []byte) (plain rune, size int) {
	switch b[0] {
	case '%':
		if len(b) >= 3 && isHex(b[1]) && isHex(b[2]) {
			var c [1]byte
			hex.Decode(c[:], b[1:3])
			return rune(c[0]), 3
		}
	case 0xc2, 0xc3:
		if r, size := utf8.DecodeRune(b); size == 2 {
			return r, size
		}
	case '\\':
		if len(b) < 2 {
			return 0, 0
		}
		const letters, plain = `"\/bfnrt`, "\"\\/\b\f\n\r\t"
		if i := strings.IndexByte(letters, b[1]); i >= 0 {
			return rune(plain[i]), 2
		}
		if unit, ok := escapedUnit(b, 1); ok {
			return unit, 6
		}
		if len(b) >= 4 && b[1] == 'x' && isHex(b[2]) && isHex(b[3]) {
			var c [1]byte
			hex.Decode(c[:], b[2:4])
			return rune(c[0]), 4
		}
	}
	return 0, 0
}
