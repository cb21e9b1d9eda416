// Package mailtext makes the subject and the bodies of mails from templates that operators
// write. A template sees a Model and nothing else, and cannot run without limits: it is
// checked when it is parsed, and stopped when it takes too many steps or writes too much.
//
// The default mail needs no template; package delivery writes it.
package mailtext

import (
	"time"

	"github.com/certpost/certpost/internal/legible"
)

// Model is what a template knows of a mail. docs/templates.md describes it for those who
// write templates. It has texts and numbers only, and no secret: all text that comes from
// outside is cleaned (no line breaks, no control characters) and cut before it gets here.
type Model struct {
	Product string // product_name
	Target  string // id of the target
	Contact string // reply_to, else from_address

	Name      Name   // of the certificate: its CN, else its first other name
	Names     []Name // the alternative names, at most MaxNames
	MoreNames int    // how many names are left out in Names

	NotBefore, NotAfter Moment
	DaysLeft            int  // whole days until NotAfter; negative after it
	Expired             bool // NotAfter has passed
	Endless             bool // there is no end: DaysLeft means nothing

	Issuer string
	Chain  []string // names of the issuers' certificates, the next one first
	Key    string   // kind of the public key
	Serial string   // hexadecimal with colons
	SHA256 string   // fingerprint, hexadecimal with colons

	Payload         string // kind of payload
	Files           []File
	HasKey          bool   // the files contain the private key
	KeyInClear      bool   // and whoever reads the mail can use it
	Encryption      string // none, smime, openpgp, age
	NeedsPassphrase bool   // a passphrase opens the file
	PassphraseVault string // where it is in Vault, mount/path#field; "" if it is elsewhere
	HowToOpen       []Tip  // a command for each program

	Warnings  []string // in English; what the recipient must know
	Notes     []string // in English
	Duplicate bool     // the mail may have been sent before

	EventID string
	Source  string
	Time    Moment // of the event; zero if it has none
	Labels  map[string]string
}

// MaxNames limits Model.Names: an event's author chooses how many names there are.
const MaxNames = 100

// Name is a name for display. An internationalised name has its ASCII form (A-labels) first,
// because letters of other scripts can imitate a known name.
type Name struct {
	ASCII   string // A-labels
	Unicode string // the form with other letters, and what is odd about them; else ""
}

// String returns "xn--bcher-kva.example (bücher.example)", or ASCII alone.
func (n Name) String() string {
	if n.Unicode == "" {
		return n.ASCII
	}
	return n.ASCII + " (" + n.Unicode + ")"
}

// File is an attachment.
type File struct {
	Name  string
	Size  string // with its unit
	About string // in English; what is in it
}

// Tip is a command that shows or imports a file.
type Tip struct {
	Program string // OpenSSL, Java, Windows, macOS
	Command string
}

// Moment is a time. Its field is hidden from templates, which would reach all methods of
// time.Time otherwise.
type Moment struct{ at time.Time }

// At returns the moment of a time; that of the zero time is empty.
func At(t time.Time) Moment { return Moment{t} }

// String is the time in UTC, to the minute; "" for the zero Moment.
func (m Moment) String() string {
	if m.at.IsZero() {
		return ""
	}
	return legible.Moment(m.at)
}
