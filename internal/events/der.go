package events

import "bytes"

// Object identifiers in DER, without tag and length.
var (
	oidPKCS5     = []byte{0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x05}       // 1.2.840.113549.1.5
	oidPKCS7     = []byte{0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07}       // 1.2.840.113549.1.7
	oidPKCS12PBE = []byte{0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x0c, 0x01} // 1.2.840.113549.1.12.1
)

const (
	tagInteger     = 0x02
	tagBitString   = 0x03
	tagOctetString = 0x04
	tagOID         = 0x06
	tagSequence    = 0x30
	tagParameters  = 0xa0 // [0] in SEC 1
	tagPublicKey   = 0xa1 // [1] in SEC 1
)

// keyStores are the first bytes of Java's JKS and JCEKS stores: magic number, and the
// zero bytes of the version.
var keyStores = [][]byte{[]byte("\xfe\xed\xfe\xed\x00\x00\x00"), []byte("\xce\xce\xce\xce\x00\x00\x00")}

// binaryKey reports whether a private key in DER, a PKCS#12 file or a Java key store
// begins anywhere in b.
func binaryKey(b []byte) bool {
	for _, store := range keyStores {
		if bytes.Contains(b, store) {
			return true
		}
	}
	for {
		i := bytes.IndexByte(b, tagSequence)
		if i < 0 {
			return false
		}
		if keyAt(b[i:]) {
			return true
		}
		b = b[i+1:]
	}
}

// keyAt checks only the first fields, so that it also finds a key whose end is cut
// off:
//
//	PKCS#8 (RFC 5208)     SEQUENCE { INTEGER 0 or 1, SEQUENCE { OID ... }, OCTET STRING
//	... encrypted         SEQUENCE { SEQUENCE { OID of PKCS#5 or PKCS#12
//	PKCS#1 (RFC 8017)     SEQUENCE { INTEGER 0 or 1, INTEGER of 32 bytes or more, INTEGER; DSA keys too
//	SEC 1 (RFC 5915)      SEQUENCE { INTEGER 1, OCTET STRING of 14 to 80 bytes, [0] or [1] or nothing
//	PKCS#12 (RFC 7292)    SEQUENCE { INTEGER 3, SEQUENCE { OID of PKCS#7
//
// A certificate or revocation list of version 1 or 2 begins like PKCS#8, but has another
// SEQUENCE in place of the OCTET STRING. The fields after the first ones are checked too,
// because at three of four base64 alignments the bytes of a certificate are practically
// random, and must not look like a key by chance.
func keyAt(b []byte) bool {
	total, inner, ok := element(b, tagSequence)
	if !ok {
		return false
	}
	if _, algorithm, ok := element(inner, tagSequence); ok {
		_, oid, ok := element(algorithm, tagOID)
		return ok && (bytes.HasPrefix(oid, oidPKCS5) || bytes.HasPrefix(oid, oidPKCS12PBE))
	}
	if len(inner) < 4 || inner[0] != tagInteger || inner[1] != 1 {
		return false
	}
	version, next := inner[2], inner[3:]
	switch next[0] {
	case tagSequence:
		size, content, ok := element(next, tagSequence)
		if !ok || len(content) == 0 || content[0] != tagOID {
			return false
		}
		if version == 3 {
			_, oid, ok := element(content, tagOID)
			return ok && bytes.HasPrefix(oid, oidPKCS7)
		}
		return version <= 1 && len(content) > size && content[size] == tagOctetString
	case tagInteger:
		size, content, ok := element(next, tagInteger)
		return ok && version <= 1 && size >= 32 && (len(content) <= size || content[size] == tagInteger)
	case tagOctetString:
		size, content, ok := element(next, tagOctetString)
		if !ok || version != 1 || size < 14 || size > 80 {
			return false
		}
		return total == size+5 || len(content) <= size || content[size] == tagParameters || content[size] == tagPublicKey
	}
	return false
}

// element reads tag and length. content is everything after them, which may be shorter
// or longer than size; for the indefinite length of BER size is 0.
func element(b []byte, tag byte) (size int, content []byte, ok bool) {
	if len(b) < 2 || b[0] != tag {
		return 0, nil, false
	}
	length := b[1]
	if length <= 0x80 {
		return int(length & 0x7f), b[2:], true
	}
	n := int(length & 0x7f)
	if n > 4 || len(b) < 2+n {
		return 0, nil, false
	}
	for _, c := range b[2 : 2+n] {
		size = size<<8 | int(c)
	}
	return size, b[2+n:], true
}
