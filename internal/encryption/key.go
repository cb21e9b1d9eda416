package encryption

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"github.com/ProtonMail/go-crypto/openpgp"

	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/pemtext"
)

// MaxKey limits the text of a key, in bytes. An OpenPGP key with many signatures fits.
const MaxKey = 256 << 10

// errPrivate is for texts with a private key: Certpost needs none of a recipient, and should
// not have it.
var errPrivate = errors.New("it contains a private key: want only the public key or certificate, and treat the private key as known to others")

// Parse reads the public key of a recipient: for smime the certificate in PEM, which may be
// followed by its issuers; for openpgp one key, armored; for age one or more lines, each an
// age or SSH public key. Errors begin with "it" and quote nothing of the text.
func Parse(kind string, text []byte) (*Key, error) {
	if len(text) > MaxKey {
		return nil, fmt.Errorf("it has %d bytes, the limit is %d", len(text), MaxKey)
	}
	if bytes.Contains(text, []byte("PRIVATE KEY")) || bytes.Contains(bytes.ToUpper(text), []byte("AGE-SECRET-KEY-")) {
		return nil, errPrivate
	}
	switch kind {
	case SMIME:
		return parseCertificate(text)
	case OpenPGP:
		return parsePGP(text)
	case Age:
		return parseAge(text)
	}
	return nil, fmt.Errorf("it is for an unknown encryption, %s", legible.Clean(kind, 40))
}

func parseCertificate(text []byte) (*Key, error) {
	blocks, _, err := pemtext.Certificates(text)
	if err != nil {
		return nil, err
	}
	var own []*x509.Certificate
	for _, block := range blocks {
		c, err := x509.ParseCertificate(block.DER)
		if err != nil {
			return nil, errors.New("it has a certificate that cannot be parsed")
		}
		if !c.IsCA || len(blocks) == 1 {
			own = append(own, c)
		}
	}
	switch len(own) {
	case 0:
		return nil, errors.New("it has no certificate of a recipient: want an S/MIME certificate in PEM")
	case 1:
	default:
		return nil, fmt.Errorf("it has %d certificates that are not of CAs: want that of one recipient", len(own))
	}
	sum := sha256.Sum256(own[0].Raw)
	about := fmt.Sprintf("S/MIME certificate with SHA-256 %s…, until %s", hex.EncodeToString(sum[:8]), own[0].NotAfter.UTC().Format(time.DateOnly))
	return &Key{kind: SMIME, certificate: own[0], about: about}, nil
}

func parsePGP(text []byte) (*Key, error) {
	ring, err := openpgp.ReadArmoredKeyRing(bytes.NewReader(text))
	if err != nil || len(ring) == 0 {
		return nil, errors.New("it is no OpenPGP public key: want the output of `gpg --armor --export ADDRESS`")
	}
	if len(ring) > 1 {
		return nil, fmt.Errorf("it has %d OpenPGP keys: want that of one recipient", len(ring))
	}
	if ring[0].PrivateKey != nil {
		return nil, errPrivate
	}
	if ring[0].PrimaryKey.Version > 4 {
		return nil, errors.New("it is an OpenPGP key of version 6, which GnuPG cannot read: want one of version 4")
	}
	about := "OpenPGP key " + strings.ToUpper(hex.EncodeToString(ring[0].PrimaryKey.Fingerprint))
	if end := pgpExpiry(ring[0]); !end.IsZero() {
		about += ", until " + end.UTC().Format(time.DateOnly)
	}
	return &Key{kind: OpenPGP, entity: ring[0], about: about}, nil
}

func pgpUsable(e *openpgp.Entity, now time.Time) error {
	if _, ok := e.EncryptionKey(now); ok {
		return nil
	}
	switch end := pgpExpiry(e); {
	case e.Revoked(now):
		return errors.New("the key is revoked")
	case !end.IsZero() && now.After(end):
		return errors.New("the key expired on " + end.UTC().Format(time.DateOnly))
	case now.Before(e.PrimaryKey.CreationTime):
		return errors.New("the key is not valid before " + e.PrimaryKey.CreationTime.UTC().Format(time.DateOnly))
	}
	return errors.New("the key can only sign: want one with a subkey for encryption")
}

// pgpExpiry returns when the key ends, or the last of its subkeys for encryption if that is
// earlier.
func pgpExpiry(e *openpgp.Entity) time.Time {
	end := time.Time{}
	if s, _ := e.PrimarySelfSignature(); s != nil && s.KeyLifetimeSecs != nil && *s.KeyLifetimeSecs > 0 {
		end = e.PrimaryKey.CreationTime.Add(time.Duration(*s.KeyLifetimeSecs) * time.Second)
	}
	last, endless := time.Time{}, false
	for _, sub := range e.Subkeys {
		if s := sub.Sig; s == nil || !s.FlagsValid || !s.FlagEncryptCommunications && !s.FlagEncryptStorage || len(sub.Revocations) > 0 {
			continue
		} else if s.KeyLifetimeSecs == nil || *s.KeyLifetimeSecs == 0 {
			endless = true
		} else if t := sub.PublicKey.CreationTime.Add(time.Duration(*s.KeyLifetimeSecs) * time.Second); t.After(last) {
			last = t
		}
	}
	if !endless && !last.IsZero() && (end.IsZero() || last.Before(end)) {
		return last
	}
	return end
}

func parseAge(text []byte) (*Key, error) {
	k := &Key{kind: Age}
	var kinds []string
	hybrid := 0
	for line := range strings.SplitSeq(string(text), "\n") {
		line = strings.TrimSpace(strings.TrimPrefix(line, "\ufeff"))
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, recipient, err := parseAgeLine(line)
		if err != nil {
			return nil, err
		}
		if name == "age hybrid" {
			hybrid++
		}
		k.recipients, kinds = append(k.recipients, recipient), append(kinds, name)
	}
	switch {
	case len(k.recipients) == 0:
		return nil, errors.New("it has no key: want lines that begin with age1, ssh-ed25519 or ssh-rsa")
	case hybrid > 0 && hybrid < len(kinds):
		return nil, errors.New("it has hybrid keys (age1pq...) beside others, which age does not mix: want only one kind")
	}
	k.about = strings.Join(kinds, ", ") + " key"
	return k, nil
}

func parseAgeLine(line string) (name string, r age.Recipient, err error) {
	switch word, _, _ := strings.Cut(line, " "); {
	case strings.HasPrefix(line, "age1pq1"):
		name = "age hybrid"
		r, err = age.ParseHybridRecipient(line)
	case strings.HasPrefix(line, "age1"):
		name = "age"
		r, err = age.ParseX25519Recipient(line)
	case word == "ssh-ed25519", word == "ssh-rsa":
		name = word
		r, err = agessh.ParseRecipient(line)
	case strings.HasPrefix(line, "ecdsa-"), strings.HasPrefix(line, "sk-"):
		return "", nil, errors.New("it has an SSH key that age cannot encrypt to: want ssh-ed25519 or ssh-rsa")
	default:
		return "", nil, errors.New("it has a line that is no key: want lines that begin with age1, ssh-ed25519 or ssh-rsa")
	}
	if err != nil {
		return "", nil, fmt.Errorf("it has a %s key that is damaged", name)
	}
	return name, r, nil
}

// Hybrid reports whether an age key is post-quantum; age does not mix those with others.
func (k *Key) Hybrid() bool {
	if len(k.recipients) == 0 {
		return false
	}
	_, hybrid := k.recipients[0].(*age.HybridRecipient)
	return hybrid
}
