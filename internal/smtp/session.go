// Package smtp is the conversation with one relay: connection, TLS, AUTH, envelope and
// content, with a verdict on each reply (reason.go has the words, classify.go the rules), the
// pool that keeps connections for the mails to come, and the breakers that keep deliveries
// away from a relay that does not answer. It knows neither targets nor mails.
package smtp

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/textproto"
	"time"

	"github.com/certpost/certpost/internal/verdict"
)

// Session is one connection to a relay, past TLS and AUTH. It carries one mail
// after the other and belongs to one goroutine at a time.
//
// It speaks for itself over textproto, where go-mail's client has one call for
// several phases: a verdict wants to know which recipient was refused, in which
// phase, and whether the final dot had gone out.
type Session struct {
	relay     Relay
	address   string // host:port
	created   time.Time
	dialled   time.Duration // what dial took
	mails     int           // mails, whatever became of them
	key       poolKey       // what it may be used for again
	idleEnded chan struct{} // closed when the watch over the idle session has ended

	tcp    net.Conn // what abort closes, whatever stands above it
	wire   *wire    // what is spoken over: tcp, or TLS on it
	text   *textproto.Reader
	offers offers               // the relay's extensions, since the last EHLO
	tls    *tls.ConnectionState // nil in plaintext

	transcript transcript // of the present mail; of a new connection from its beginning

	inTransaction bool // a transaction was begun and not ended: RSET before the next
	answered      bool // the relay has answered something of the present mail
	contentSent   bool // the content is out, its end included
	dead          bool // no further command makes sense
}

// Dial connects to the relay and takes the connection past TLS and AUTH. Every
// phase has its own deadline, capped by the context's; when the context is
// cancelled the socket is closed at once, and no failure leaves one open.
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

// connect opens the TCP connection; name resolution is part of it.
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
	s.text = textproto.NewReader(bufio.NewReader(s.wire))
}

// readGreeting reads the relay's greeting.
func (s *Session) readGreeting(ctx context.Context) *verdict.Failure {
	return s.step(ctx, verdict.PhaseBanner, func() error {
		_, _, err := s.readReply(220)
		return err
	})
}

// ehlo introduces us and learns what the relay offers. HELO is for relays that
// do not know EHLO (500 or 502, RFC 5321 section 3.2); any other answer stands.
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

// startTLS moves the connection to TLS as the mode asks. A relay that offers
// STARTTLS and then fails at it is never spoken to in plaintext, in no mode.
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
		if s.text.R.Buffered() > 0 {
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

// handshake puts TLS on the connection.
func (s *Session) handshake(ctx context.Context, config *tls.Config) *verdict.Failure {
	secured := tls.Client(s.tcp, config)
	failure := s.step(ctx, verdict.PhaseTLS, func() error {
		err := secured.HandshakeContext(ctx)
		if untrusted, ok := errors.AsType[*tls.CertificateVerificationError](err); ok && len(untrusted.UnverifiedCertificates) > 0 {
			s.transcript.untrusted = untrusted.UnverifiedCertificates[0]
		}
		return err
	})
	if failure != nil {
		return failure
	}
	state := secured.ConnectionState()
	s.tls = &state
	s.setConn(secured)
	return nil
}

// step runs one phase: under its deadline, and with what went wrong turned into
// a failure. After anything but a plain reply the session is dead.
func (s *Session) step(ctx context.Context, phase verdict.Phase, do func() error) *verdict.Failure {
	started := time.Now()
	limit := started.Add(phaseTimeout(phase))
	if end, ok := ctx.Deadline(); ok && end.Before(limit) {
		limit = end
	}
	_ = s.tcp.SetDeadline(limit) // fails on a closed socket alone, and then do fails as well
	err := do()
	s.transcript.recordPhase(phase, started)
	if err == nil {
		return nil
	}
	f := fault{phase: phase, relay: s.address, err: err, ctx: ctx.Err(), waited: time.Since(started), dot: s.contentSent}
	s.dead = s.dead || f.ends() || s.wire.broken
	return f.Failure()
}

// closeOnDone closes the socket the moment the context is done, which is what makes a
// blocked read or write return. The returned function ends the closeOnDone.
func (s *Session) closeOnDone(ctx context.Context) (end func()) {
	stop := context.AfterFunc(ctx, s.abort)
	return func() {
		if !stop() {
			s.dead = true
		}
	}
}

// abort closes the socket without a word. A mail in DATA is dropped by the
// relay then, where a QUIT would end it as if it were complete.
func (s *Session) abort() {
	if s.tcp != nil {
		_ = s.tcp.Close()
	}
}

// Close ends the session in the background: a relay that is slow to say goodbye
// must not hold up the verdict on a mail it has taken, and whether it says
// goodbye at all changes nothing.
func (s *Session) Close() {
	if s.dead || s.text == nil {
		s.abort()
		return
	}
	s.dead = true
	go s.sendQuit()
}

// quit is close, and waits for it.
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

// tlsVersion names protocol and cipher for the receipt, "" in plaintext.
func (s *Session) tlsVersion() string {
	if s.tls == nil {
		return ""
	}
	return tls.VersionName(s.tls.Version) + " " + tls.CipherSuiteName(s.tls.CipherSuite)
}

// Describe says where the session leads and how it is protected.
func (s *Session) Describe() string {
	if s.tls == nil {
		return s.address + " answers, in plaintext"
	}
	return s.address + " answers, " + s.tlsVersion()
}

// PeerCertificate is the certificate that the relay has shown, nil in plaintext.
func (s *Session) PeerCertificate() *x509.Certificate {
	if s.tls == nil || len(s.tls.PeerCertificates) == 0 {
		return nil
	}
	return s.tls.PeerCertificates[0]
}

// SizeLimit is the largest mail that the relay takes, in bytes; 0 when it names none.
func (s *Session) SizeLimit() int { return s.offers.SizeLimit() }
