package payload

import (
	"bytes"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"hash"
	"math/big"
	"slices"
	"unicode/utf16"
)

// The parts of a PKCS#12 file that naming its key touches (RFC 7292 section 4).
type pfx struct {
	Version  int
	AuthSafe contentInfo
	MacData  macData
}

type contentInfo struct {
	Type    asn1.ObjectIdentifier
	Content asn1.RawValue `asn1:"tag:0,explicit,optional"`
}

type macData struct {
	Mac        digestInfo
	Salt       []byte
	Iterations int `asn1:"optional,default:1"`
}

type digestInfo struct {
	Algorithm pkix.AlgorithmIdentifier
	Digest    []byte
}

type safeBag struct {
	ID         asn1.ObjectIdentifier
	Value      asn1.RawValue   `asn1:"tag:0,explicit"`
	Attributes []asn1.RawValue `asn1:"set,optional"`
}

var (
	oidFriendlyName = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 20}
	oidShroudedKey  = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 12, 10, 1, 2}
	oidSHA1         = asn1.ObjectIdentifier{1, 3, 14, 3, 2, 26}
	oidSHA256       = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}
	oidPBMAC1       = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 14}
)

var errNotNamed = errors.New("the PKCS#12 file is not as its encoder writes it")

// nameKey gives the key of a PKCS#12 file a friendly name. go-pkcs12 has no way to set it. It
// writes the key's bag last, into a part that is not encrypted (the key in it is), so the
// name can be added there and the file's MAC computed anew. Java shows the name as alias.
func nameKey(file []byte, name string, passphrase []byte) ([]byte, error) {
	var p pfx
	if err := unmarshal(file, &p); err != nil {
		return nil, err
	}
	var safe []byte
	if err := unmarshal(p.AuthSafe.Content.Bytes, &safe); err != nil {
		return nil, err
	}
	var parts []contentInfo
	if err := unmarshal(safe, &parts); err != nil {
		return nil, err
	}
	if len(parts) == 0 || !parts[len(parts)-1].Type.Equal(oidData) {
		return nil, errNotNamed
	}
	last := &parts[len(parts)-1]
	var contents []byte
	if err := unmarshal(last.Content.Bytes, &contents); err != nil {
		return nil, err
	}
	contents, err := nameBag(contents, name)
	if err != nil {
		return nil, err
	}
	if last.Content.Bytes, err = asn1.Marshal(contents); err != nil {
		return nil, err
	}
	last.Content.FullBytes = nil
	if safe, err = asn1.Marshal(parts); err != nil {
		return nil, err
	}
	if p.AuthSafe.Content.Bytes, err = asn1.Marshal(safe); err != nil {
		return nil, err
	}
	p.AuthSafe.Content.FullBytes = nil
	if p.MacData.Mac.Digest, err = p.MacData.of(safe, passphrase); err != nil {
		return nil, err
	}
	return asn1.Marshal(p)
}

func unmarshal(der []byte, into any) error {
	rest, err := asn1.Unmarshal(der, into)
	if err == nil && len(rest) > 0 {
		err = errNotNamed
	}
	return err
}

// nameBag adds the attribute to the key's bag of SafeContents.
func nameBag(contents []byte, name string) ([]byte, error) {
	var bags []safeBag
	if err := unmarshal(contents, &bags); err != nil {
		return nil, err
	}
	if len(bags) != 1 || !bags[0].ID.Equal(oidShroudedKey) {
		return nil, errNotNamed
	}
	attribute, err := friendlyName(name)
	if err != nil {
		return nil, err
	}
	all := append(bags[0].Attributes, asn1.RawValue{FullBytes: attribute})
	// A SET OF is sorted by its encoded members (X.690 section 11.6).
	slices.SortFunc(all, func(a, b asn1.RawValue) int { return bytes.Compare(a.FullBytes, b.FullBytes) })
	bags[0].Attributes = all
	return asn1.Marshal(bags)
}

// friendlyName encodes the attribute of RFC 2985 section 5.5.1: a set with one BMPString.
func friendlyName(name string) ([]byte, error) {
	text, err := bmpString(name)
	if err != nil {
		return nil, err
	}
	value, err := asn1.Marshal(asn1.RawValue{Tag: asn1.TagBMPString, Bytes: text})
	if err != nil {
		return nil, err
	}
	return asn1.Marshal(struct {
		ID    asn1.ObjectIdentifier
		Value []asn1.RawValue `asn1:"set"`
	}{oidFriendlyName, []asn1.RawValue{{FullBytes: value}}})
}

// bmpString encodes text as big-endian UTF-16 without surrogates.
func bmpString(text string) (out []byte, err error) {
	for _, r := range text {
		if utf16.RuneLen(r) != 1 {
			return nil, errors.New("a character beyond the Basic Multilingual Plane")
		}
		out = append(out, byte(r>>8), byte(r))
	}
	return out, nil
}

// of returns the MAC over the authenticated safe, with the algorithm and the salt of m.
func (m macData) of(safe, passphrase []byte) ([]byte, error) {
	var key []byte
	algorithm := sha256.New
	switch {
	case m.Mac.Algorithm.Algorithm.Equal(oidPBMAC1):
		var err error
		if key, err = pbmac1Key(m.Mac.Algorithm.Parameters.FullBytes, passphrase); err != nil {
			return nil, err
		}
	case m.Mac.Algorithm.Algorithm.Equal(oidSHA256), m.Mac.Algorithm.Algorithm.Equal(oidSHA1):
		if m.Mac.Algorithm.Algorithm.Equal(oidSHA1) {
			algorithm = sha1.New
		}
		text, err := bmpString(string(passphrase))
		if err != nil {
			return nil, err
		}
		key = macKey(algorithm, append(text, 0, 0), m.Salt, m.Iterations)
	default:
		return nil, errNotNamed
	}
	defer clear(key)
	mac := hmac.New(algorithm, key)
	mac.Write(safe)
	return mac.Sum(nil), nil
}

// macKey derives the key for the MAC (RFC 7292 appendix B.2 with ID 3). One round suffices,
// because the key is as long as the hash.
func macKey(algorithm func() hash.Hash, passphrase, salt []byte, iterations int) []byte {
	const id, block = 3, 64 // both SHA-1 and SHA-256 work on blocks of 64 bytes
	h := algorithm()
	h.Write(bytes.Repeat([]byte{id}, block))
	h.Write(filled(salt, block))
	h.Write(filled(passphrase, block))
	key := h.Sum(nil)
	for range iterations - 1 {
		h.Reset()
		h.Write(key)
		key = h.Sum(key[:0])
	}
	return key
}

// filled repeats data up to the next multiple of the block's size.
func filled(data []byte, block int) []byte {
	if len(data) == 0 {
		return nil
	}
	size := (len(data) + block - 1) / block * block
	return bytes.Repeat(data, size/len(data)+1)[:size]
}

// pbmac1Key derives the key of PBMAC1 (RFC 9579): PBKDF2 with HMAC-SHA-256 over the
// passphrase in UTF-8, as go-pkcs12 writes it.
func pbmac1Key(parameters, passphrase []byte) ([]byte, error) {
	var p struct {
		KDF struct {
			ID         asn1.ObjectIdentifier
			Parameters struct {
				Salt       []byte
				Iterations int
				Length     *big.Int `asn1:"optional"`
				PRF        pkix.AlgorithmIdentifier
			}
		}
		MAC pkix.AlgorithmIdentifier
	}
	if err := unmarshal(parameters, &p); err != nil {
		return nil, err
	}
	k := p.KDF.Parameters
	if k.Length == nil || !k.Length.IsInt64() {
		return nil, errNotNamed
	}
	return pbkdf2.Key(sha256.New, string(passphrase), k.Salt, k.Iterations, int(k.Length.Int64()))
}
