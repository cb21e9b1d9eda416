package delivery

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/certpost/certpost/internal/encryption"
	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/payload"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/verdict"
)

// mailView is the data for both bodies of a mail. All text from outside in it has
// been cleaned.
type mailView struct {
	Product      string
	Name         legible.Shown
	Valid        string // "It is valid until 2026-02-19, 89 days left."
	Warnings     []string
	Duplicate    bool
	Rows         []viewRow
	Attachments  []viewFile
	KeyInClear   bool       // the first thing to know
	Instructions []viewText // what to know before opening the files, what to take care of
	Tips         []tip      // how to open them
	Notes        []string
	Target       string
	EventID      string
	Source       string
	Time         string
}

// viewRow is one fact: a label and the lines of its value.
type viewRow struct {
	Label string
	Lines []legible.Shown
	Code  bool // digits to compare, in a fixed-width font
}

type viewFile struct{ Name, Size, About string }

// viewText is a paragraph; with Care it is highlighted.
type viewText struct {
	Text string
	Care bool
}

// maxNames limits the names that a mail lists; of the others it gives the number.
const maxNames = 20

func newMailView(t *Target, m mailFacts) *mailView {
	leaf := m.bundle.Leaf
	v := &mailView{
		Product:   m.product,
		Name:      legible.Name(m.bundle.Name(), maxShownName),
		Valid:     validity(leaf.NotAfter, m.now),
		Duplicate: m.possibleDuplicate,
		Target:    legible.Clean(t.ID, 64),
		EventID:   legible.Clean(m.eventID, maxEventID),
		Source:    legible.Clean(m.source, 200),
	}
	if !m.time.IsZero() {
		v.Time = legible.Moment(m.time)
	}
	for _, w := range m.warnings {
		v.Warnings = append(v.Warnings, sentence(legible.Clean(w, 300)))
	}
	for _, a := range m.attachments {
		v.Attachments = append(v.Attachments, viewFile{a.Name, size(len(a.Data)), a.About})
	}
	v.KeyInClear = t.keyInClear()
	v.Instructions = instructions(t, m.passphraseAt)
	v.Tips = howToOpen(t, m.attachments)
	v.Notes = notes(t, m)

	fingerprint := sha256.Sum256(leaf.Raw)
	v.add("Names", false, namesOf(m.bundle)...)
	v.add("Valid", false, legible.Shown{Text: legible.Moment(leaf.NotBefore) + " to " + legible.Moment(leaf.NotAfter)})
	v.add("Issuer", false, legible.Shown{Text: legible.Clean(leaf.Issuer.String(), 200)})
	v.add("Chain", false, chainOf(m.bundle)...)
	v.add("Key", false, legible.Shown{Text: payload.KeyKind(leaf)})
	v.add("Serial", true, colons(verdict.SerialNumber(leaf))...)
	v.add("SHA-256", true, colons(hex.EncodeToString(fingerprint[:]))...)
	return v
}

func (v *mailView) add(label string, code bool, lines ...legible.Shown) {
	if len(lines) > 0 && lines[0].Text != "" {
		v.Rows = append(v.Rows, viewRow{label, lines, code})
	}
}

// namesOf returns the subject alternative names, those beyond maxNames as a number.
func namesOf(b *payload.Bundle) (lines []legible.Shown) {
	all := verdict.AlternativeNames(b.Leaf)
	for _, n := range all[:min(len(all), maxNames)] {
		if shown := legible.Name(n, maxShownName); shown.Text != "" {
			lines = append(lines, shown)
		}
	}
	if len(all) > maxNames {
		lines = append(lines, legible.Shown{Text: fmt.Sprintf("and %d more", len(all)-maxNames)})
	}
	return lines
}

func chainOf(b *payload.Bundle) (lines []legible.Shown) {
	for _, cert := range b.Chain {
		lines = append(lines, legible.Shown{Text: payload.CertificateName(cert, maxShownName)})
	}
	return lines
}

// colons writes hexadecimal as browsers and openssl show it, 16 bytes per line, so
// that two people can compare it by telephone.
func colons(hexadecimal string) (lines []legible.Shown) {
	digits := strings.ToUpper(hexadecimal)
	for len(digits) > 0 {
		line := digits[:min(len(digits), 32)]
		digits = digits[len(line):]
		var b strings.Builder
		for i := 0; i < len(line); i += 2 {
			if i > 0 {
				b.WriteByte(':')
			}
			b.WriteString(line[i : i+2])
		}
		lines = append(lines, legible.Shown{Text: b.String()})
	}
	return lines
}

// validity says how many days are left, rounded down: a renewal that is a day early
// does no harm.
func validity(until, now time.Time) string {
	date := until.UTC().Format(time.DateOnly)
	left := legible.Days(now, until)
	switch {
	case legible.Endless(until):
		return "It has no expiry date (" + date + ")."
	case now.After(until):
		return "It expired on " + date + "."
	case left == 0:
		return "It is valid until " + date + ", less than a day left."
	default:
		return "It is valid until " + date + ", " + days(left) + " left."
	}
}

// size returns a file's size in bytes or kB.
func size(bytes int) string {
	if bytes < 1000 {
		return fmt.Sprintf("%d bytes", bytes)
	}
	return fmt.Sprintf("%.1f kB", float64(bytes)/1000)
}

// sentence returns s with a capital at the start and a full stop at the end.
func sentence(s string) string {
	if s == "" {
		return s
	}
	first, n := utf8.DecodeRuneInString(s)
	return strings.ToUpper(string(first)) + strings.TrimRight(s[n:], ".") + "."
}

// instructions returns how to open the attachments, and what to take care of.
func instructions(t *Target, passphraseAt secrets.Ref) (all []viewText) {
	settings := t.settings(nil)
	if text := howToDecrypt[t.Encryption]; text != "" {
		all = append(all, viewText{Text: text})
	}
	if settings.KeyInClear() && t.encrypts() {
		all = append(all, viewText{Care: true, Text: "Once decrypted, the private key is not protected any more. Anyone who has the key can impersonate the names above. " +
			"Store it where only the server can read it, and delete other decrypted copies."})
	}
	if settings.Passphrase() != "" {
		all = append(all, viewText{Text: passphrasePlace(t, passphraseAt)})
	}
	if text := remarks[t.Payload]; text != "" {
		all = append(all, viewText{Text: text})
	}
	return all
}

// keyWarning is what the recipients of a key in clear have to know first.
const keyWarning = "This mail contains the private key, not encrypted. Anyone who has the key can impersonate the names below. " +
	"Install the key, then delete this mail, also from the trash. If this mail reached the wrong person, have the certificate revoked."

// passphrasePlace says where a recipient finds the passphrase. It names the place only if
// that is Vault: the name of a variable or a file on Certpost's machine is of no use there.
func passphrasePlace(t *Target, at secrets.Ref) string {
	const says = "The file requires a passphrase, which is not in this mail"
	if ref := passphraseRef(t, at); ref.Vault != nil {
		return says + ". The passphrase is in Vault: " + legible.Clean(strings.TrimPrefix(ref.String(), "vault:"), 300) + " (" + shapeOf(ref) + ")."
	}
	ask := t.ReplyTo
	if ask == "" {
		ask = t.FromAddress
	}
	return says + " and is never sent by mail. If you do not have it, ask the operators of this service (" + legible.Clean(ask, 254) + ")."
}

// passphraseRef returns where the passphrase of the file is: at, if it was made for this
// certificate.
func passphraseRef(t *Target, at secrets.Ref) secrets.Ref {
	if at.IsZero() {
		return t.passphrase().Place()
	}
	return at
}

// shapeOf says how to read a place in Vault.
func shapeOf(ref secrets.Ref) string {
	if ref.Vault.Version != 0 {
		return fmt.Sprintf("mount/path#field@version; version %d was made for this certificate", ref.Vault.Version)
	}
	return "mount/path#field"
}

// howToDecrypt has, by kind of encryption, what a recipient has to know.
var howToDecrypt = map[string]string{
	encryption.SMIME:   "This mail was encrypted with the S/MIME certificates of its recipients.",
	encryption.OpenPGP: "This mail was encrypted with the OpenPGP keys of its recipients.",
	encryption.Age:     "The files were encrypted with the age or SSH keys of the recipients. This text was not encrypted.",
}

// notes returns information that needs no action by a recipient.
func notes(t *Target, m mailFacts) (list []string) {
	for _, n := range m.bundle.Notes {
		list = append(list, sentence(legible.Clean(n, 200)))
	}
	for _, cert := range m.bundle.Chain {
		if m.now.After(cert.NotAfter) {
			list = append(list, fmt.Sprintf("%s in the chain expired on %s.", payload.ShortName(cert), cert.NotAfter.UTC().Format(time.DateOnly)))
		}
	}
	if _, ok := m.bundle.Leaf.PublicKey.(ed25519.PublicKey); ok && t.Payload == payload.PKCS12 {
		list = append(list, "The key is Ed25519: Firefox and other programs built on NSS cannot open this .p12 file.")
	}
	return list
}
