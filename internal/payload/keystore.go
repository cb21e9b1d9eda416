package payload

import (
	"bytes"
	"cmp"
	"crypto/fips140"
	"crypto/x509"
	"fmt"
	"strings"

	"github.com/pavlo-v-chernykh/keystore-go/v4"
	"software.sslmate.com/src/go-pkcs12"

	"github.com/certpost/certpost/internal/legible"
)

// The values of Settings.PKCS12Encoding.
const (
	Modern2023 = "modern2023"
	LegacyDES  = "legacydes"
	Modern2026 = "modern2026" // with PBMAC1 (RFC 9579), which few programs read yet
)

// The bounds of Settings.Iterations. The encoders' own number is the lower one; the upper one
// costs 44 ms for each mail.
const (
	MinIterations = 2048
	MaxIterations = 100_000
)

// encoder returns the encoder of PKCS#12 files.
func (s Settings) encoder() (*pkcs12.Encoder, error) {
	var e *pkcs12.Encoder
	switch s.PKCS12Encoding {
	case "", Modern2023:
		e = pkcs12.Modern2023
	case LegacyDES:
		e = pkcs12.LegacyDES
	case Modern2026:
		e = pkcs12.Modern2026
	default:
		return nil, payloadFailure(nil, "unknown pkcs12_encoding %s; use modern2023, legacydes or modern2026, then replay", legible.Clean(s.PKCS12Encoding, 40))
	}
	switch {
	case s.Iterations != 0 && s.Iterations < MinIterations || s.Iterations > MaxIterations:
		return nil, payloadFailure(nil, "pkcs12_iterations is %d; want a number from %d to %d, then replay", s.Iterations, MinIterations, MaxIterations)
	case s.Iterations > MinIterations:
		e = e.WithIterations(s.Iterations)
	}
	return e, nil
}

// FIPSProblem returns why files of these settings cannot be made with GODEBUG=fips140=only,
// "" if they can, and "" without that mode: there the libraries panic or return errors that
// nobody understands.
func (s Settings) FIPSProblem() string {
	if !fips140.Enforced() {
		return ""
	}
	// The local key id of every PKCS#12 file with a key is a SHA-1 hash.
	switch {
	case s.Kind == PKCS12:
		return "a PKCS#12 file with a key cannot be created with GODEBUG=fips140=only, because the format requires SHA-1; use fips140=on or another payload"
	case s.Kind == JKS:
		return "a Java key store cannot be created with GODEBUG=fips140=only, because the format requires SHA-1; use fips140=on or another payload"
	case s.Kind == TrustStore && s.PKCS12Encoding == LegacyDES:
		return "pkcs12_encoding legacydes cannot be used with GODEBUG=fips140=only, because it requires SHA-1; use modern2023"
	}
	return ""
}

func (a *artefact) fips() error {
	if problem := a.FIPSProblem(); problem != "" {
		return payloadFailure(nil, "%s, then replay", problem)
	}
	return nil
}

// pkcs12 packs key and certificates. Build has checked that they belong together. The
// result is not read back, because that costs more than the encoding: the passphrase is
// stretched again for each part. That the encoder writes what it is given, for every kind of
// key that Build takes, is for tests and their independent readers to prove.
func (a *artefact) pkcs12() ([]Attachment, error) {
	encoder, err := a.encoder()
	if err != nil {
		return nil, err
	}
	if err := a.fips(); err != nil {
		return nil, err
	}
	data, err := encoder.Encode(a.key, a.Leaf, a.Chain, string(a.passphrase))
	if err != nil {
		return nil, payloadFailure(nil, "the PKCS#12 file cannot be created with this key (%s)", KeyKind(a.Leaf))
	}
	if alias := entryName(a.Alias); alias != "" {
		if data, err = nameKey(data, alias, a.passphrase); err != nil {
			return nil, payloadFailure(nil, "the PKCS#12 file cannot be given the alias %q", legible.Clean(alias, 60))
		}
	}
	return []Attachment{{a.base + ".p12", typePKCS12, "the certificate, its chain and the private key, encrypted (PKCS#12)", data}}, nil
}

// trustStore packs the chain, which a program that verifies the leaf trusts, as Java and
// others read trusted certificates: with the attribute of Oracle, each with a name of its
// own. Java silently keeps one of two entries with the same name. Without a chain it
// packs the leaf.
func (a *artefact) trustStore() ([]Attachment, error) {
	encoder, err := a.encoder()
	if err != nil {
		return nil, err
	}
	if err := a.fips(); err != nil {
		return nil, err
	}
	trusted, about := a.Chain, "the issuers as trusted certificates (PKCS#12 trust store)"
	if len(trusted) == 0 {
		trusted, about = []*x509.Certificate{a.Leaf}, "the certificate as a trusted one (PKCS#12 trust store)"
	}
	var entries []pkcs12.TrustStoreEntry
	taken := map[string]bool{}
	for _, c := range trusted {
		name := uniqueName(taken, entryName(CertificateName(c, 100)))
		entries = append(entries, pkcs12.TrustStoreEntry{Cert: c, FriendlyName: name})
	}
	data, err := encoder.EncodeTrustStoreEntries(entries, string(a.passphrase))
	if err != nil {
		return nil, payloadFailure(nil, "the PKCS#12 trust store cannot be created")
	}
	return []Attachment{{a.base + ".trust.p12", typePKCS12, about, data}}, nil
}

// entryName returns the name of an entry as key stores can hold it: characters outside the Basic
// Multilingual Plane, such as emoji, become an underscore. PKCS#12 has no room for them
// (BMPString), and Java cannot open a JKS file with one, which it reads in an encoding of its own.
func entryName(name string) string {
	return strings.Map(func(r rune) rune {
		if r > 0xffff {
			return '_'
		}
		return r
	}, name)
}

// uniqueName returns a name that is not taken, whatever the case of its letters: Java lowers
// it. It notes the name.
func uniqueName(taken map[string]bool, name string) string {
	unique := name
	for n := 2; taken[strings.ToLower(unique)]; n++ {
		unique = fmt.Sprintf("%s (%d)", name, n)
	}
	taken[strings.ToLower(unique)] = true
	return unique
}

// jks packs a Java key store. Key and store have the same password: a program that knows
// only the store's could not recover the key otherwise.
func (a *artefact) jks() ([]Attachment, error) {
	if err := a.fips(); err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(a.key)
	if err != nil {
		return nil, payloadFailure(nil, "the private key cannot be encoded as PKCS#8")
	}
	defer clear(der)
	entry := keystore.PrivateKeyEntry{CreationTime: a.now, PrivateKey: der}
	for _, raw := range a.certificates() {
		entry.CertificateChain = append(entry.CertificateChain, keystore.Certificate{Type: "X509", Content: raw})
	}
	alias := entryName(cmp.Or(a.Alias, CertificateName(a.Leaf, 100)))
	store := keystore.New(keystore.WithMinPasswordLen(minKeystorePassword))
	var out bytes.Buffer
	if err := store.SetPrivateKeyEntry(alias, entry, a.passphrase); err != nil {
		return nil, payloadFailure(nil, "the Java key store cannot be created with this key (%s)", KeyKind(a.Leaf))
	}
	if err := store.Store(&out, a.passphrase); err != nil {
		return nil, payloadFailure(nil, "the Java key store cannot be created")
	}
	return []Attachment{{a.base + ".jks", typeJKS, "the certificate, its chain and the private key, encrypted (Java key store)", out.Bytes()}}, nil
}
