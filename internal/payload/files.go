package payload

import (
	"archive/zip"
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

func (a *artefact) pem() ([]Attachment, error) {
	return []Attachment{{a.base + ".pem", TypePEM, "the certificate and its chain", a.PEM()}}, nil
}

func (a *artefact) pemAndKey() ([]Attachment, error) {
	key, err := a.keyPEM()
	if err != nil {
		return nil, err
	}
	files, err := a.pem()
	return append(files, Attachment{a.base + ".key.pem", TypePEM, "the private key, not encrypted (PKCS#8)", key}), err
}

// keyPEM returns the private key in PKCS#8.
func (a *artefact) keyPEM() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(a.key)
	if err != nil {
		return nil, payloadFailure(nil, "the private key cannot be encoded as PKCS#8")
	}
	defer clear(der)
	return keyToPEM(der)
}

// zip packs the files that servers ask for, under the names that certbot gives them.
func (a *artefact) zip() ([]Attachment, error) {
	full := a.PEM()
	leaf := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Leaf.Raw})
	files := []file{{"cert.pem", leaf}}
	if len(a.Chain) > 0 {
		files = append(files, file{"chain.pem", full[len(leaf):]})
	}
	files = append(files, file{"fullchain.pem", full})
	about := "cert.pem, chain.pem and fullchain.pem, for servers that want them apart"
	if a.key != nil {
		key, err := a.keyPEM()
		if err != nil {
			return nil, err
		}
		defer clear(key)
		files = append(files, file{"privkey.pem", key})
		about += "; and privkey.pem, the private key, not encrypted"
	}
	return a.archive(about, files)
}

// der packs the certificates in their binary form. They are in an archive, because mail
// filters drop attachments that end in .der or .crt.
func (a *artefact) der() ([]Attachment, error) {
	var files []file
	for i, raw := range a.certificates() {
		name := "leaf.der"
		if i > 0 {
			name = fmt.Sprintf("chain%d.der", i)
		}
		files = append(files, file{name, raw})
	}
	return a.archive("leaf.der and the certificates of its chain, binary", files)
}

type file struct {
	name string
	data []byte
}

// archive returns a zip of files that are not compressed: certificates hardly shrink, and
// the size is known before anything is packed.
func (a *artefact) archive(about string, files []file) ([]Attachment, error) {
	size := 1 << 10
	for _, f := range files {
		size += len(f.data) + 256
	}
	var out bytes.Buffer
	out.Grow(size) // growing later would leave copies of the key in memory
	w := zip.NewWriter(&out)
	for _, f := range files {
		// Without a time, the entry is dated in a month that does not exist.
		entry, err := w.CreateHeader(&zip.FileHeader{Name: f.name, Method: zip.Store, Modified: a.now.UTC().Truncate(2 * time.Second)})
		if err == nil {
			_, err = entry.Write(f.data)
		}
		if err != nil {
			return nil, payloadFailure(nil, "the archive cannot be created")
		}
	}
	if err := w.Close(); err != nil {
		return nil, payloadFailure(nil, "the archive cannot be created")
	}
	return []Attachment{{a.base + ".zip", typeZIP, about, out.Bytes()}}, nil
}

var (
	oidSignedData = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
	oidData       = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}
)

// pkcs7 returns a SignedData without content and signers: a bag of certificates, the leaf
// first (RFC 5652 section 5.1; RFC 2315 section 9.1 calls it degenerate).
func (a *artefact) pkcs7() ([]Attachment, error) {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(oidSignedData)
		b.AddASN1(cbasn1.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1Int64(1)
				b.AddASN1(cbasn1.SET, func(*cryptobyte.Builder) {}) // digest algorithms
				b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(oidData) })
				b.AddASN1(cbasn1.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
					for _, raw := range a.certificates() {
						b.AddBytes(raw)
					}
				})
				b.AddASN1(cbasn1.SET, func(*cryptobyte.Builder) {}) // signers
			})
		})
	})
	data, err := b.Bytes()
	if err != nil {
		return nil, payloadFailure(nil, "the PKCS#7 file cannot be created")
	}
	return []Attachment{{a.base + ".p7b", typePKCS7, "the certificate and its chain (PKCS#7)", data}}, nil
}
