// Package payload builds the files that a delivery carries: it reads an event's certificates
// and private key, checks that they match, and packs them in the target's kind of payload.
// It does not depend on targets, secrets or mail. Its errors are *verdict.Failure with
// SMTP_PAYLOAD; their text never quotes the input.
package payload

import (
	"crypto"
	"slices"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/legible"
)

// Content types are fixed here, not read from the system's MIME table. No file has a name
// ending in .cer, .crt or .der, because Outlook blocks these.
const (
	TypePEM    = "application/x-pem-file"
	typePKCS12 = "application/x-pkcs12"
	typePKCS7  = "application/x-pkcs7-certificates"
	typeJKS    = "application/x-java-keystore"
	typeZIP    = "application/zip"
)

// The kinds of payload.
const (
	PEM        = "pem"               // leaf and chain
	PEMAndKey  = "pem_and_key"       // and the private key, not encrypted
	PKCS12     = "pkcs12"            // leaf, chain and private key in one encrypted file
	JKS        = "jks"               // the same as a Java key store
	DER        = "der"               // leaf and chain, binary, in one archive
	PKCS7      = "pkcs7"             // leaf and chain in one .p7b
	TrustStore = "pkcs12_truststore" // the issuers as trusted certificates
	ZIP        = "zip"               // leaf, chain, both, and on request the key, as PEM files
)

// Kinds lists all kinds of payload.
var Kinds = []string{PEM, PEMAndKey, PKCS12, JKS, DER, PKCS7, TrustStore, ZIP}

// Settings are a target's payload settings.
type Settings struct {
	Kind string // one of Kinds; "" is pem
	// PKCS12Encoding selects the encryption of a PKCS#12 file: modern2023 (default),
	// legacydes or modern2026.
	PKCS12Encoding string
	// Iterations is how often the passphrase of a PKCS#12 file is stretched, from
	// MinIterations, which 0 stands for, to MaxIterations.
	Iterations int
	// Alias names the key's entry in a pkcs12 or jks; "" is no name for pkcs12, and for jks
	// the certificate's name.
	Alias string
	// WithKey puts the private key into a zip.
	WithKey bool
}

// NeedsKey reports whether the files contain the private key.
func (s Settings) NeedsKey() bool {
	return s.Kind == PEMAndKey || s.Kind == PKCS12 || s.Kind == JKS || s.Kind == ZIP && s.WithKey
}

// RequireKey returns why files that contain the private key cannot be built without one.
func (s Settings) RequireKey(given bool) error {
	if given || !s.NeedsKey() {
		return nil
	}
	return payloadFailure(nil, "payload %s requires the private key, but the event has no private_key; publish the event again with private_key, or set payload: pem, then replay", s.Kind)
}

// KeyInClear reports whether the files contain the private key without encryption.
func (s Settings) KeyInClear() bool { return s.NeedsKey() && s.Passphrase() == "" }

// Passphrase returns the name of the setting with the passphrase that the file is protected
// with: pkcs12_passphrase, keystore_password, or "" for none.
func (s Settings) Passphrase() string {
	switch s.Kind {
	case PKCS12:
		return "pkcs12_passphrase"
	case JKS, TrustStore:
		return "keystore_password"
	}
	return ""
}

// Attachment is one file of a mail.
type Attachment struct {
	Name        string // [A-Za-z0-9._-]
	ContentType string
	About       string // what the file contains, for the list in the mail
	Data        []byte
}

// artefact is what a kind's files are made of.
type artefact struct {
	Settings
	*Bundle
	base       string            // of the file names
	key        crypto.PrivateKey // nil if the kind has none
	passphrase []byte
	now        time.Time
}

// Build returns the files of one kind of payload, named after the certificate:
//
//	pem                <name>.pem      leaf and chain
//	pem_and_key        and also <name>.key.pem, the private key in PKCS#8
//	pkcs12             <name>.p12      leaf, chain and key, encrypted
//	jks                <name>.jks      the same for Java
//	der                <name>.zip      leaf.der, chain1.der, ...
//	pkcs7              <name>.p7b      leaf and chain
//	pkcs12_truststore  <name>.trust.p12  the chain, or the leaf if there is none
//	zip                <name>.zip      cert.pem, chain.pem, fullchain.pem, and privkey.pem on request
//
// key is the private key as PEM text, nil if the event has none. now dates the entries of
// key stores and archives. Build only reads key and passphrase; the caller clears them, and
// clears the attachments once they are in the mail. Errors are *verdict.Failure with
// SMTP_PAYLOAD.
func Build(s Settings, b *Bundle, key, passphrase []byte, now time.Time) ([]Attachment, error) {
	if s.Kind == "" {
		s.Kind = PEM
	}
	build := builders[s.Kind]
	if build == nil {
		return nil, payloadFailure(nil, "unknown payload %s; use %s or %s, then replay", legible.Clean(s.Kind, 40), strings.Join(Kinds[:len(Kinds)-1], ", "), Kinds[len(Kinds)-1])
	}
	a := &artefact{Settings: s, Bundle: b, base: FileName(CertificateName(b.Leaf, 255)), passphrase: passphrase, now: now}
	if err := s.RequireKey(len(key) > 0); err != nil {
		return nil, err
	}
	if s.NeedsKey() {
		var err error
		if a.key, err = parseKey(key, b.Leaf); err != nil {
			return nil, err
		}
	}
	if name := s.Passphrase(); name != "" {
		if problem := CheckPassphrase(name, passphrase); problem != "" {
			return nil, payloadFailure(nil, "%s %s, then replay", name, problem)
		}
	}
	return build(a)
}

var builders = map[string]func(*artefact) ([]Attachment, error){
	PEM: (*artefact).pem, PEMAndKey: (*artefact).pemAndKey, PKCS12: (*artefact).pkcs12, JKS: (*artefact).jks,
	DER: (*artefact).der, PKCS7: (*artefact).pkcs7, TrustStore: (*artefact).trustStore, ZIP: (*artefact).zip,
}

// certificates are the leaf and its chain.
func (a *artefact) certificates() [][]byte {
	all := [][]byte{a.Leaf.Raw}
	for _, c := range a.Chain {
		all = append(all, c.Raw)
	}
	return all
}

// minKeystorePassword is what keytool demands of a store's password, in characters.
const minKeystorePassword = 6

// CheckPassphrase returns what is wrong with the passphrase of a setting that
// Settings.Passphrase names, or "". It accepts only passphrases that every reader takes:
// Java 17 cannot open a file whose passphrase is not ASCII, and keytool wants six
// characters. Empty or blank ones are refused.
func CheckPassphrase(setting string, passphrase []byte) string {
	switch {
	case len(strings.TrimSpace(string(passphrase))) == 0:
		return "is empty; set it"
	case slices.ContainsFunc(passphrase, func(c byte) bool { return c < ' ' || c > '~' }):
		return "has a character that is not printable ASCII (perhaps a line break), so some programs could not open the file; change it"
	case setting == "keystore_password" && len(passphrase) < minKeystorePassword:
		return "has less than 6 characters, which keytool refuses; change it"
	}
	return ""
}
