package delivery

import (
	"context"
	"crypto/x509"
	"time"

	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/verdict"
)

// relay is everything a connection to one SMTP server depends on: a change of
// any field asks for another connection.
type relay struct {
	host    string // a name or an IP address; its certificate has to be valid for it
	port    int
	tlsMode string // starttls | smtps | opportunistic | plaintext

	skipVerify bool           // accept any certificate
	roots      *x509.CertPool // CAs to trust; nil: the system's

	helo string // "": the host's name when it is a full domain, else an address literal

	authMethod        string // none | plain | login
	username          string
	password          secrets.Value
	allowInsecureAuth bool // let the password go over plaintext or to an unverified relay
}

// envelope is what the relay is told about a mail: addresses without angle
// brackets, domains as A-labels, no duplicates.
type envelope struct {
	from       string
	recipients []string
	utf8       bool // an address needs SMTPUTF8 (RFC 6531)
}

// result is what one transaction came to. The relay took the mail for
// receipt.Recipients, refused some recipients, or ended the transaction as a whole.
type result struct {
	receipt verdict.Receipt  // without Recipients when the relay did not take the mail
	refused []refusal        // recipients refused one by one at RCPT
	failure *verdict.Failure // why the relay did not take the mail; nil when it did
}

// refusal is one recipient that the relay did not take.
type refusal struct {
	recipient string
	failure   *verdict.Failure
}

// session is one connection to a relay, past TLS and AUTH. It carries one mail
// after the other and belongs to one goroutine at a time.
type session struct {
	relay   relay
	created time.Time
	used    time.Time // end of the last transaction
	sent    int       // mails taken by the relay on this connection
}

// dial connects to the relay and takes the connection past TLS and AUTH.
func dial(ctx context.Context, r relay) (*session, *verdict.Failure) {
	panic("unwritten")
}

// send carries one mail. claim is called after the relay has taken the envelope
// and before any content goes out.
func (s *session) send(ctx context.Context, env envelope, raw []byte, claim func(until time.Time) error) result {
	panic("unwritten")
}

// verdicts sums the result up in what the broker acts on: the receipt when the
// relay took the mail for anybody, the failure when somebody is still owed it.
func (r result) verdicts() (*verdict.Receipt, *verdict.Failure) {
	panic("unwritten")
}

// close ends the session; it does not wait for the relay's goodbye.
func (s *session) close() {}
