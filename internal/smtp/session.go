// Package smtp is the conversation with one relay: connection, TLS, AUTH, envelope and
// content, with a verdict on each reply (reason.go has the texts, classify.go the rules), the
// pool that keeps connections for later mails, and the breakers that keep deliveries
// away from a relay that does not answer. It depends on neither targets nor the rendering of mails.
package smtp

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"time"

	"github.com/certpost/certpost/internal/verdict"
)

// Session is one connection to a relay, after TLS and AUTH. It carries one mail
// after the other and belongs to one goroutine at a time.
//
// It speaks SMTP itself, because go-mail's client has one call for several
// phases: a verdict needs to know which recipient was refused, in which phase, and
// whether the final dot was sent.
type Session struct {
	relay     Relay
	address   string // host:port
	created   time.Time
	dialled   time.Duration // duration of Dial
	mails     int           // transactions so far, successful or not
	key       poolKey       // which mails may reuse it
	idleUntil time.Time     // when the pool closes it, if it is idle until then
	idleEnded chan struct{} // closed when Pool.watchIdle has returned; nil if it does not watch

	tcp    net.Conn             // the socket, which abort closes directly
	wire   *wire                // the connection in use: tcp, or TLS over it
	in     *bufio.Reader        // replies, read from wire
	offers offers               // the relay's extensions, since the last EHLO
	tls    *tls.ConnectionState // nil in plaintext

	transcript transcript // of the current mail; for the first mail it includes Dial

	inTransaction bool // a transaction was begun and not ended: RSET before the next
	answered      bool // the relay has replied to MAIL of the current mail
	contentSent   bool // the content and the final dot were sent
	spent         bool // the relay wants no more mails on this connection
	alone         bool // the envelope of the current mail has a single recipient
	dead          bool // no further command is possible
}

// Dial connects to the relay and completes TLS and AUTH. Every phase has its own
// deadline, capped by the context's. When the context is cancelled, the socket is
// closed at once; no failure leaves a socket open.
func Dial(ctx context.Context, r Relay) (*Session, *verdict.Failure) {
	s := &Session{relay: r, address: r.Address(), created: time.Now()}
	if failure := s.establish(ctx); failure != nil {
		failure.Transcript = s.snapshot()
		if s.dead {
			s.abort()
		} else {
			s.Close()
		}
		return nil, failure
	}
	s.dialled = time.Since(s.created)
	return s, nil
}

func (s *Session) establish(ctx context.Context) *verdict.Failure {
	config, failure := s.relay.tlsConfig()
	if failure != nil {
		return failure
	}
	if failure := s.connect(ctx); failure != nil {
		return failure
	}
	defer s.closeOnDone(ctx)()

	if s.relay.TLSMode == TLSSMTPS {
		if failure := s.handshake(ctx, config); failure != nil {
			return failure
		}
	}
	if failure := s.readGreeting(ctx); failure != nil {
		return failure
	}
	if failure := s.ehlo(ctx); failure != nil {
		return failure
	}
	if failure := s.startTLS(ctx, config); failure != nil {
		return failure
	}
	return s.authenticate(ctx)
}

// connect resolves the relay's name and opens the TCP connection.
func (s *Session) connect(ctx context.Context) *verdict.Failure {
	limit, cancel := context.WithTimeout(ctx, phaseTimeout(verdict.PhaseConnect))
	defer cancel()
	started := time.Now()
	tcp, err := new(net.Dialer).DialContext(limit, "tcp", s.relay.dialAddress())
	s.transcript.recordPhase(verdict.PhaseConnect, started)
	if err != nil {
		s.dead = true
		return fault{phase: verdict.PhaseConnect, relay: s.address, err: err, ctx: ctx.Err(), waited: time.Since(started)}.Failure()
	}
	s.tcp = tcp
	s.setConn(tcp)
	return nil
}

func (s *Session) setConn(conn net.Conn) {
	s.wire = &wire{Conn: conn}
	s.wire.expect(1)
	s.in = bufio.NewReader(s.wire)
}

// readGreeting reads the relay's greeting.
func (s *Session) readGreeting(ctx context.Context) *verdict.Failure {
	return s.step(ctx, verdict.PhaseBanner, func() error {
		_, _, err := s.readReply(220)
		return err
	})
}

// ehlo sends EHLO and stores the relay's extensions. It falls back to HELO only if the
// relay does not know EHLO (500 or 502, RFC 5321 section 3.2).
func (s *Session) ehlo(ctx context.Context) *verdict.Failure {
	name := heloName(s.relay.HELO, s.tcp.LocalAddr())
	return s.step(ctx, verdict.PhaseEHLO, func() error {
		_, text, err := s.command(250, "EHLO "+name)
		if code := replyCode(err); code == 500 || code == 502 {
			_, _, err = s.command(250, "HELO "+name)
			text = ""
		}
		s.offers = parseOffers(text)
		return err
	})
}

// startTLS upgrades the connection to TLS as the mode requires. If a relay offers
// STARTTLS and then fails at it, nothing is sent in plaintext, in any mode.
func (s *Session) startTLS(ctx context.Context, config *tls.Config) *verdict.Failure {
	switch s.relay.TLSMode {
	case TLSSMTPS, TLSPlaintext:
		return nil
	}
	if !s.offers.has("STARTTLS") {
		if s.relay.TLSMode == TLSOpportunistic {
			return nil
		}
		return fault{phase: verdict.PhaseSTARTTLS, relay: s.address, err: errNoSTARTTLS}.Failure()
	}
	failure := s.step(ctx, verdict.PhaseSTARTTLS, func() error {
		if _, _, err := s.command(220, "STARTTLS"); err != nil {
			return err
		}
		if s.in.Buffered() > 0 {
			return errInjected
		}
		return nil
	})
	if failure != nil {
		return failure
	}
	if failure := s.handshake(ctx, config); failure != nil {
		return failure
	}
	return s.ehlo(ctx)
}

// handshake runs the TLS handshake and continues over TLS.
func (s *Session) handshake(ctx context.Context, config *tls.Config) *verdict.Failure {
	secured := tls.Client(s.tcp, config)
	failure := s.step(ctx, verdict.PhaseTLS, func() error {
		err := secured.HandshakeContext(ctx)
		if untrusted, ok := errors.AsType[*tls.CertificateVerificationError](err); ok && len(untrusted.UnverifiedCertificates) > 0 {
			s.transcript.untrusted = untrusted.UnverifiedCertificates[0]
		} else if stranger, ok := errors.AsType[*strangerError](err); ok {
			s.transcript.untrusted = stranger.cert
		}
		return err
	})
	if failure != nil {
		s.shown(s.transcript.untrusted)
		return failure
	}
	state := secured.ConnectionState()
	s.tls = &state
	s.shown(s.PeerCertificate())
	s.setConn(secured)
	return nil
}

func (s *Session) shown(leaf *x509.Certificate) {
	if s.relay.Shown != nil && leaf != nil {
		s.relay.Shown(leaf)
	}
}

// step runs one phase under its deadline and turns an error into a failure. After any
// failure other than a plain refusal the session is dead.
func (s *Session) step(ctx context.Context, phase verdict.Phase, do func() error) *verdict.Failure {
	return s.stepBy(ctx, time.Now().Add(phaseTimeout(phase)), phase, do)
}

// stepBy is step with a deadline that may be earlier than the phase's. The context has to
// be the one given to closeOnDone: a context derived from it may be cancelled only after
// the socket is closed, and a shutdown would look like a closed connection.
func (s *Session) stepBy(ctx context.Context, limit time.Time, phase verdict.Phase, do func() error) *verdict.Failure {
	started := time.Now()
	if end := started.Add(phaseTimeout(phase)); end.Before(limit) {
		limit = end
	}
	if end, ok := ctx.Deadline(); ok && end.Before(limit) {
		limit = end
	}
	_ = s.tcp.SetDeadline(limit) // fails only on a closed socket, and then do fails too
	err := do()
	s.transcript.recordPhase(phase, started)
	if err == nil {
		return nil
	}
	f := fault{phase: phase, relay: s.address, err: err, ctx: ctx.Err(), waited: time.Since(started), dot: s.contentSent, alone: s.alone, login: s.lacks()}
	s.dead = s.dead || f.ends() || s.wire.broken
	return f.Failure()
}

// lacks says what a relay that answers 530 probably demands (RFC 4954 section 6, RFC 3207
// section 4): a login, or TLS and then perhaps a login.
func (s *Session) lacks() string {
	switch method := s.relay.AuthMethod; {
	case method != "" && method != AuthNone:
		return ""
	case s.tls == nil:
		return wantsTLS
	}
	return wantsLogin
}

// closeOnDone closes the socket as soon as the context is done, which makes a blocked
// read or write return. The returned function ends this; it marks the session dead if
// the context was done.
func (s *Session) closeOnDone(ctx context.Context) (end func()) {
	stop := context.AfterFunc(ctx, s.abort)
	return func() {
		if !stop() {
			s.dead = true
		}
	}
}

// abort closes the socket without QUIT. The relay then drops a mail in DATA, whereas
// QUIT would end it as if it were complete.
func (s *Session) abort() {
	if s.tcp != nil {
		_ = s.tcp.Close()
	}
}

// Close ends the session in the background: a relay that is slow to answer QUIT must
// not delay the verdict on a mail it has accepted, and its answer changes nothing.
func (s *Session) Close() {
	if s.dead || s.in == nil {
		s.abort()
		return
	}
	s.dead = true
	go s.sendQuit()
}

// quit is Close, but waits until the connection is closed.
func (s *Session) quit() {
	if s.dead {
		s.abort()
		return
	}
	s.dead = true
	s.sendQuit()
}

func (s *Session) sendQuit() {
	_ = s.tcp.SetDeadline(time.Now().Add(quitTimeout))
	_, _, _ = s.command(221, "QUIT")
	_ = s.wire.Close()
}

// tlsVersion is protocol version and cipher suite for the receipt, "" in plaintext.
func (s *Session) tlsVersion() string {
	if s.tls == nil {
		return ""
	}
	return tls.VersionName(s.tls.Version) + " " + tls.CipherSuiteName(s.tls.CipherSuite)
}

// Describe names the relay and the protection of the connection, "host:587 answers, TLS 1.3 ...".
func (s *Session) Describe() string {
	if s.tls == nil {
		return s.address + " answers, in plaintext"
	}
	return s.address + " answers, " + s.tlsVersion()
}

// PeerCertificate is the relay's certificate, nil in plaintext.
func (s *Session) PeerCertificate() *x509.Certificate {
	if s.tls == nil || len(s.tls.PeerCertificates) == 0 {
		return nil
	}
	return s.tls.PeerCertificates[0]
}

// SizeLimit is the largest mail that the relay accepts, in bytes; 0 if it states no limit.
func (s *Session) SizeLimit() int { return s.offers.SizeLimit() }
