// Package devrelay is a mail relay for experiments: real SMTP with STARTTLS, SMTPS and
// AUTH on loopback, a mailbox in memory with pages to read it, its own CA, and rules
// that make it refuse mails. The demo delivers to it, and tests and benchmarks send
// through it.
package devrelay

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"sync"
	"time"

	"github.com/emersion/go-smtp"
)

// Config says what a relay listens on and how it behaves. The zero value is a relay on
// free loopback ports that accepts every mail from every client.
type Config struct {
	// Submission, SMTPS and Plain are the addresses to listen on;
	// "127.0.0.1:0" when empty.
	Submission, SMTPS, Plain string
	// Hostname is the relay's name in its banner: "devrelay.test" when empty. The
	// certificate is valid for it, localhost and the loopback addresses.
	Hostname string
	// Users maps user names to passwords. If there are any, a mail is accepted only after
	// AUTH (PLAIN or LOGIN), which is offered only over TLS.
	Users map[string]string
	// Rules are tried in order; the first that matches answers.
	Rules []Rule
	// MaxMails limits the mailbox: the oldest mail is removed first. 1,000 when 0.
	MaxMails int
	// MaxMailBytes is announced as SIZE and enforced. 10 MiB when 0.
	MaxMailBytes int64
	// Discard counts mails and does not keep them.
	Discard bool
	// Delay is how long it takes the relay to accept a mail, after its final dot.
	Delay time.Duration
}

// Relay is a running relay. Its methods are safe for concurrent use.
type Relay struct {
	config    Config
	rules     *rules
	mailbox   *mailbox
	authority *authority
	servers   []*smtp.Server
	listeners []net.Listener // submission, SMTPS, plain
	serving   sync.WaitGroup

	passwords sync.Mutex
	changed   map[string]string // by SetPassword; guarded by passwords
}

// How long a client may be silent, and how long it may leave a reply unread.
const (
	readTimeout  = 5 * time.Minute
	writeTimeout = time.Minute
)

// Start listens and serves until Close. It fails if a rule is malformed or an address is
// in use, and the error says which.
func Start(config Config) (*Relay, error) {
	if config.Hostname == "" {
		config.Hostname = "devrelay.test"
	}
	if config.MaxMails <= 0 {
		config.MaxMails = 1000
	}
	if config.MaxMailBytes <= 0 {
		config.MaxMailBytes = 10 << 20
	}
	rules, err := newRules(config.Rules)
	if err != nil {
		return nil, err
	}
	authority, err := newAuthority(config.Hostname)
	if err != nil {
		return nil, fmt.Errorf("making the demo relay's certificate: %w", err)
	}
	r := &Relay{config: config, rules: rules, mailbox: newMailbox(config.MaxMails), authority: authority, changed: map[string]string{}}
	for _, address := range []string{config.Submission, config.SMTPS, config.Plain} {
		if address == "" {
			address = "127.0.0.1:0"
		}
		listener, err := net.Listen("tcp", address)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("the demo relay cannot listen on %s: %w", address, err), r.Close())
		}
		r.listeners = append(r.listeners, listener)
	}
	r.serve(r.listeners[0], authority.server)
	r.serve(tls.NewListener(r.listeners[1], authority.server), authority.server)
	r.serve(r.listeners[2], nil)
	return r, nil
}

func (r *Relay) serve(listener net.Listener, secure *tls.Config) {
	server := smtp.NewServer(smtp.BackendFunc(func(c *smtp.Conn) (smtp.Session, error) {
		return &session{relay: r, conn: c}, nil
	}))
	server.Domain = r.config.Hostname
	server.TLSConfig = secure
	server.MaxMessageBytes = r.config.MaxMailBytes
	server.MaxRecipients = 100
	server.ReadTimeout, server.WriteTimeout = readTimeout, writeTimeout
	server.EnableSMTPUTF8, server.EnableDSN = true, true
	server.ErrorLog = log.New(io.Discard, "", 0) // clients get their errors as replies
	r.servers = append(r.servers, server)
	r.serving.Go(func() { _ = server.Serve(listener) })
}

// SetPassword changes a user's password, from the next AUTH on.
func (r *Relay) SetPassword(user, password string) {
	r.passwords.Lock()
	defer r.passwords.Unlock()
	r.changed[user] = password
}

// SetRules replaces the rules, from the next command on. If a rule is malformed it fails,
// and the old rules stay.
func (r *Relay) SetRules(list []Rule) error {
	fresh, err := newRules(list)
	if err != nil {
		return err
	}
	r.rules.replace(fresh)
	return nil
}

// password returns the user's current password.
func (r *Relay) password(user string) (password string, known bool) {
	r.passwords.Lock()
	defer r.passwords.Unlock()
	if password, known = r.changed[user]; known {
		return password, true
	}
	password, known = r.config.Users[user]
	return password, known
}

// Submission is host:port of the listener that offers STARTTLS.
func (r *Relay) Submission() string { return r.listeners[0].Addr().String() }

// SMTPS is host:port of the listener with implicit TLS.
func (r *Relay) SMTPS() string { return r.listeners[1].Addr().String() }

// Plain is host:port of the listener without TLS.
func (r *Relay) Plain() string { return r.listeners[2].Addr().String() }

// Close stops listening and closes all connections; a mail whose content is not complete
// is not accepted.
func (r *Relay) Close() error {
	var errs []error
	for _, server := range r.servers {
		if err := server.Close(); err != nil && !errors.Is(err, smtp.ErrServerClosed) {
			errs = append(errs, err)
		}
	}
	for _, listener := range r.listeners {
		if err := listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	r.serving.Wait()
	return errors.Join(errs...)
}
