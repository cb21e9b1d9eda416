// Package devrelay is a mail relay to try things with: real SMTP with
// STARTTLS, SMTPS and AUTH on loopback, a mailbox in memory with pages to read
// it, a CA of its own, and rules that make it refuse what one wants to see
// refused. The demo delivers to it, and tests and benchmarks send through it.
package devrelay

import (
	"context"
	"crypto/x509"
	"net/http"
	"time"
)

// Config says what a relay listens on and how it behaves. The zero value is a
// relay on free loopback ports that takes everything from everybody.
type Config struct {
	// Submission, SMTPS and Plain are the addresses to listen on;
	// "127.0.0.1:0" when empty.
	Submission, SMTPS, Plain string
	// Hostname is the relay's name in its banner: "devrelay.test" when empty. The
	// certificate is valid for it, localhost and the loopback addresses.
	Hostname string
	// Users maps user names to passwords. With any, a mail is taken only after
	// AUTH (PLAIN or LOGIN), and without TLS AUTH is not offered.
	Users map[string]string
	// Rules are tried in order; the first that fits answers.
	Rules []Rule
	// MaxMails bounds the mailbox: the oldest mail goes first. 1,000 when 0.
	MaxMails int
	// MaxMailBytes is announced as SIZE and enforced. 10 MiB when 0.
	MaxMailBytes int64
	// Discard counts mails and keeps none of them.
	Discard bool
}

// Stage is the command that a rule answers.
type Stage string

// The stages.
const (
	StageMail Stage = "mail" // MAIL FROM
	StageRcpt Stage = "rcpt" // RCPT TO
	StageData Stage = "data" // the final dot
)

// Rule answers a command with a reply of its own.
type Rule struct {
	Stage     Stage
	Sender    string // glob on the envelope sender; "" fits any
	Recipient string // glob on a recipient; "" fits any
	Code      int    // 4yz or 5yz
	Enhanced  string // RFC 3463, "5.1.1"; "" sends the class with .0.0
	Text      string
	Times     int // how often it answers; 0 is always
}

// Mail is one mail that the relay took.
type Mail struct {
	ID         int // counts from 1
	Received   time.Time
	From       string   // envelope sender
	Recipients []string // envelope recipients
	User       string   // who authenticated, "" for nobody
	TLS        bool
	Raw        []byte // as received, without dot-stuffing; not to be changed
}

// Relay is a running relay.
type Relay struct{}

// Start listens and serves until Close.
func Start(config Config) (*Relay, error) { panic("unwritten") }

// Submission is host:port of the listener that offers STARTTLS.
func (r *Relay) Submission() string { panic("unwritten") }

// SMTPS is host:port of the listener that speaks TLS at once.
func (r *Relay) SMTPS() string { panic("unwritten") }

// Plain is host:port of the listener without TLS.
func (r *Relay) Plain() string { panic("unwritten") }

// CertPool holds the CA that signed the relay's certificate.
func (r *Relay) CertPool() *x509.CertPool { panic("unwritten") }

// CAFile writes the CA as PEM into the directory and returns the file's path.
func (r *Relay) CAFile(dir string) (string, error) { panic("unwritten") }

// Mails returns the mailbox, oldest first.
func (r *Relay) Mails() []Mail { panic("unwritten") }

// Count is the number of mails taken since the start, kept or not.
func (r *Relay) Count() int { panic("unwritten") }

// WaitFor returns the mailbox once it is as wanted, or the context's error.
func (r *Relay) WaitFor(ctx context.Context, wanted func([]Mail) bool) ([]Mail, error) {
	panic("unwritten")
}

// Handler serves the inbox pages; it may be mounted below any path.
func (r *Relay) Handler() http.Handler { panic("unwritten") }

// Close stops listening and ends all connections.
func (r *Relay) Close() error { panic("unwritten") }
