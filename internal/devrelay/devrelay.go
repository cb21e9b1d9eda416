// Package devrelay is a mail relay for experiments: real SMTP with STARTTLS, SMTPS and
// AUTH on loopback, a mailbox in memory with pages to read it, its own CA, and rules
// that make it refuse mails. The demo delivers to it, and tests and benchmarks send
// through it.
package devrelay

import (
	"cmp"
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
	// certificate of its own CA is valid for it, localhost and the loopback addresses.
	Hostname string
	// Certificate are the files of the certificate to serve. Without them the relay has a
	// CA of its own, new at every start.
	Certificate CertificateFiles
	// NoTLS is a relay without a certificate: no STARTTLS, and no SMTPS listener.
	NoTLS bool
	// Opportunistic offers STARTTLS on the Plain listener, too.
	Opportunistic bool
	// RequireTLS makes the Submission listener refuse mails before STARTTLS (530 5.7.0). It
	// has no effect without a certificate.
	RequireTLS bool
	// Users maps user names to passwords. If there are any, a mail is accepted only after
	// AUTH (PLAIN or LOGIN), which is offered only over TLS.
	Users map[string]string
	// AllowUnsecureAuthentication offers AUTH without TLS, too: passwords in clear text.
	AllowUnsecureAuthentication bool
	// Rules are tried in order; the first that matches answers.
	Rules []Rule
	// MaxMails limits the mailbox: the oldest mail is removed first. 1,000 when 0.
	MaxMails int
	// MaxMailboxBytes limits the mails in the mailbox together, likewise; the newest one stays. 256 MiB
	// when 0.
	MaxMailboxBytes int
	// MaxMailBytes is the size of a mail as it was sent, without dot-stuffing (RFC 1870,
	// section 5): a larger one gets 552 5.3.4. 50 MiB when 0.
	MaxMailBytes int64
	// MaxAttachmentBytes is the size of one attachment, decoded; likewise. 25 MiB when 0.
	MaxAttachmentBytes int64
	// Discard counts mails and does not keep them.
	Discard bool
	// Folder is where each mail is stored before it is acknowledged; nowhere when it is zero.
	Folder Folder
	// Log is told of accepted mails and of certificates that cannot be loaded, without
	// addresses and content; nil for no log.
	Log func(text string)
	// Delay is how long it takes the relay to accept a mail, after its final dot.
	Delay time.Duration
}

// Relay is a running relay. Its methods are safe for concurrent use.
type Relay struct {
	config    Config
	rules     *rules
	mailbox   *mailbox
	authority *authority // nil with a certificate from files, or without TLS
	servers   []*smtp.Server
	listeners []net.Listener // submission, SMTPS (nil without TLS), plain
	serving   sync.WaitGroup

	passwords sync.Mutex
	changed   map[string]string // by SetPassword; guarded by passwords
}

// How long a client may be silent, and how long it may leave a reply unread.
const (
	readTimeout  = 5 * time.Minute
	writeTimeout = time.Minute
)

// The sizes that a relay accepts by default.
const (
	defaultMailBytes       = 50 << 20
	defaultAttachmentBytes = 25 << 20
)

// Start listens and serves until Close. It fails if a rule is malformed, the certificate
// cannot be loaded, the folder cannot be used, or an address is in use; the error says which.
func Start(config Config) (*Relay, error) {
	config.Hostname = cmp.Or(config.Hostname, "devrelay.test")
	config.MaxMails = cmp.Or(config.MaxMails, 1000)
	config.MaxMailboxBytes = cmp.Or(config.MaxMailboxBytes, 256<<20)
	config.MaxMailBytes = cmp.Or(config.MaxMailBytes, defaultMailBytes)
	config.MaxAttachmentBytes = cmp.Or(config.MaxAttachmentBytes, defaultAttachmentBytes)
	if config.Log == nil {
		config.Log = func(string) {}
	}
	rules, err := newRules(config.Rules)
	if err != nil {
		return nil, err
	}
	if err := config.Folder.open(); err != nil {
		return nil, err
	}
	r := &Relay{config: config, rules: rules, mailbox: newMailbox(config.MaxMails, config.MaxMailboxBytes), changed: map[string]string{}}
	secure, err := r.secure()
	if err != nil {
		return nil, err
	}
	for i, address := range []string{config.Submission, config.SMTPS, config.Plain} {
		if i == smtpsListener && secure == nil {
			r.listeners = append(r.listeners, nil)
			continue
		}
		listener, err := net.Listen("tcp", cmp.Or(address, "127.0.0.1:0"))
		if err != nil {
			return nil, errors.Join(fmt.Errorf("the demo relay cannot listen on %s: %w", address, err), r.Close())
		}
		r.listeners = append(r.listeners, listener)
	}
	r.serve(r.listeners[submissionListener], secure, config.RequireTLS && secure != nil)
	if secure != nil {
		r.serve(tls.NewListener(r.listeners[smtpsListener], secure), secure, false)
	}
	if !config.Opportunistic {
		secure = nil
	}
	r.serve(r.listeners[plainListener], secure, false)
	return r, nil
}

// The positions of the listeners.
const (
	submissionListener = iota
	smtpsListener
	plainListener
)

// secure returns the relay's side of TLS; nil without a certificate.
func (r *Relay) secure() (*tls.Config, error) {
	if r.config.NoTLS {
		return nil, nil
	}
	if r.config.Certificate != (CertificateFiles{}) {
		served, err := newServed(r.config.Certificate, r.config.Log)
		if err != nil {
			return nil, err
		}
		return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: served.current}, nil
	}
	authority, err := newAuthority(r.config.Hostname)
	if err != nil {
		return nil, fmt.Errorf("making the demo relay's certificate: %w", err)
	}
	r.authority = authority
	return authority.server, nil
}

// serve accepts connections on a listener. A listener that requires TLS refuses mails before
// STARTTLS.
func (r *Relay) serve(listener net.Listener, secure *tls.Config, requireTLS bool) {
	server := smtp.NewServer(smtp.BackendFunc(func(c *smtp.Conn) (smtp.Session, error) {
		return &session{relay: r, conn: c, requireTLS: requireTLS}, nil
	}))
	server.Domain = r.config.Hostname
	server.TLSConfig = secure
	server.AllowInsecureAuth = r.config.AllowUnsecureAuthentication
	// One more, because go-smtp refuses a mail that reaches this number; session.Data and
	// session.Mail have the exact limit.
	server.MaxMessageBytes = r.config.MaxMailBytes + 1
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
func (r *Relay) Submission() string { return r.listeners[submissionListener].Addr().String() }

// SMTPS is host:port of the listener with implicit TLS; "" without a certificate.
func (r *Relay) SMTPS() string {
	if r.listeners[smtpsListener] == nil {
		return ""
	}
	return r.listeners[smtpsListener].Addr().String()
}

// Plain is host:port of the listener without TLS, or with opportunistic STARTTLS.
func (r *Relay) Plain() string { return r.listeners[plainListener].Addr().String() }

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
		if listener == nil {
			continue
		}
		if err := listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	r.serving.Wait()
	return errors.Join(errs...)
}
