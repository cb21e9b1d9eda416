package delivery

import (
	"context"
	"crypto/tls"
	"net"
	"net/textproto"
	"time"

	"github.com/wneessen/go-mail/smtp"

	"github.com/certpost/certpost/internal/verdict"
)

// session is one connection to a relay, past TLS and AUTH. It carries one mail
// after the other and belongs to one goroutine at a time.
//
// It drives go-mail's client command by command, because the whole-message
// functions hide what a verdict needs: which recipient was refused, in which
// phase, and whether the final dot had gone out. Its Auth and StartTLS methods
// are passed over for the same reason: they run several phases in one call.
type session struct {
	relay   relay
	address string // host:port
	created time.Time
	dialled time.Duration // what dial took
	used    time.Time     // end of the last transaction
	sent    int           // mails taken by the relay on this connection

	tcp    net.Conn // what abort closes, whatever stands above it
	wire   *wire    // what client speaks over: tcp, or TLS on it
	client *smtp.Client
	tls    *tls.ConnectionState // nil in plaintext

	open  bool // a transaction was begun and not ended: RSET before the next
	ended bool // the end of the content is being written
	dead  bool // no further command makes sense
}

// dial connects to the relay and takes the connection past TLS and AUTH. Every
// phase has its own deadline, capped by the context's; when the context is
// cancelled the socket is closed at once, and no failure leaves one open.
func dial(ctx context.Context, r relay) (*session, *verdict.Failure) {
	s := &session{relay: r, address: r.address(), created: time.Now()}
	if failure := s.establish(ctx); failure != nil {
		if s.dead {
			s.abort()
		} else {
			s.close()
		}
		return nil, failure
	}
	s.dialled = time.Since(s.created)
	s.used = time.Now()
	return s, nil
}

func (s *session) establish(ctx context.Context) *verdict.Failure {
	if failure := s.connect(ctx); failure != nil {
		return failure
	}
	defer s.watch(ctx)()

	if s.relay.tlsMode == "smtps" {
		if failure := s.handshake(ctx, ""); failure != nil {
			return failure
		}
	}
	if failure := s.greet(ctx); failure != nil {
		return failure
	}
	if failure := s.hello(ctx); failure != nil {
		return failure
	}
	if failure := s.startTLS(ctx); failure != nil {
		return failure
	}
	return s.authenticate(ctx)
}

// connect opens the TCP connection; name resolution is part of it.
func (s *session) connect(ctx context.Context) *verdict.Failure {
	limit, cancel := context.WithTimeout(ctx, phaseTimeout(verdict.PhaseConnect))
	defer cancel()
	started := time.Now()
	tcp, err := new(net.Dialer).DialContext(limit, "tcp", s.relay.dialAddress())
	if err != nil {
		s.dead = true
		return fault{phase: verdict.PhaseConnect, relay: s.address, err: err, ctx: ctx.Err(), waited: time.Since(started)}.failure()
	}
	s.tcp = tcp
	s.wire = &wire{Conn: tcp}
	return nil
}

// greet reads the relay's greeting.
func (s *session) greet(ctx context.Context) *verdict.Failure {
	return s.step(ctx, verdict.PhaseBanner, func() (err error) {
		s.client, err = smtp.NewClient(s.wire, s.relay.host)
		return err
	})
}

// hello introduces us and learns what the relay offers.
func (s *session) hello(ctx context.Context) *verdict.Failure {
	name := heloName(s.relay.helo, s.tcp.LocalAddr())
	heard := &helloErrors{wire: s.wire}
	s.client.ErrorHandlerRegistry.RegisterHandler(s.relay.host, "ehlo", heard)
	s.client.ErrorHandlerRegistry.RegisterHandler(s.relay.host, "helo", heard)
	failure := s.step(ctx, verdict.PhaseEHLO, func() error {
		err := s.client.Hello(name)
		if err != nil && heard.last != nil {
			return heard.last
		}
		return err
	})
	if failure != nil {
		s.dead = true // heard has closed it
	}
	return failure
}

// helloErrors hears of a failed EHLO before the client goes on to HELO, which
// it does after any error at all. HELO is for relays that do not know EHLO
// (500 or 502, RFC 5321 section 3.2); any other answer stands.
type helloErrors struct {
	wire *wire
	last error
}

// HandleError keeps the error, and closes the wire when HELO is not to follow.
func (h *helloErrors) HandleError(_, command string, _ *textproto.Conn, err error) error {
	h.last = err
	if code := replyCode(err); command == "ehlo" && code != 500 && code != 502 {
		_ = h.wire.Close()
	}
	return err
}

// startTLS moves the connection to TLS as the mode asks. A relay that offers
// STARTTLS and then fails at it is never spoken to in plaintext, in no mode.
func (s *session) startTLS(ctx context.Context) *verdict.Failure {
	switch s.relay.tlsMode {
	case "smtps", "plaintext":
		return nil
	}
	if offered, _ := s.client.Extension("STARTTLS"); !offered {
		if s.relay.tlsMode == "opportunistic" {
			return nil
		}
		return fault{phase: verdict.PhaseSTARTTLS, relay: s.address, err: errNoSTARTTLS}.failure()
	}
	failure := s.step(ctx, verdict.PhaseSTARTTLS, func() error {
		if _, _, err := s.command(220, "STARTTLS"); err != nil {
			return err
		}
		if s.client.Text.R.Buffered() > 0 {
			return errInjected
		}
		return nil
	})
	if failure != nil {
		return failure
	}
	// The client wants to be greeted, and after STARTTLS a relay does not greet
	// again (RFC 3207 section 4.2).
	if failure := s.handshake(ctx, "220 TLS\r\n"); failure != nil {
		return failure
	}
	if failure := s.greet(ctx); failure != nil {
		return failure
	}
	return s.hello(ctx)
}

// handshake puts TLS on the connection; greeting is what the wire above it
// begins with.
func (s *session) handshake(ctx context.Context, greeting string) *verdict.Failure {
	secured := tls.Client(s.tcp, &tls.Config{
		ServerName:         s.relay.serverName(),
		MinVersion:         tls.VersionTLS12,
		RootCAs:            s.relay.roots,
		InsecureSkipVerify: s.relay.skipVerify, //nolint:gosec // tls_skip_verify asks for it and is warned about
	})
	failure := s.step(ctx, verdict.PhaseTLS, func() error { return secured.HandshakeContext(ctx) })
	if failure != nil {
		return failure
	}
	state := secured.ConnectionState()
	s.tls = &state
	s.wire = &wire{Conn: secured, pending: greeting}
	return nil
}

// step runs one phase: under its deadline, and with what went wrong turned into
// a failure. After anything but a plain reply the session is dead.
func (s *session) step(ctx context.Context, phase verdict.Phase, do func() error) *verdict.Failure {
	started := time.Now()
	limit := started.Add(phaseTimeout(phase))
	if end, ok := ctx.Deadline(); ok && end.Before(limit) {
		limit = end
	}
	_ = s.tcp.SetDeadline(limit) // fails on a closed socket alone, and then do fails as well
	err := do()
	if err == nil {
		return nil
	}
	f := fault{phase: phase, relay: s.address, err: err, ctx: ctx.Err(), waited: time.Since(started), dot: s.ended && !s.wire.broken}
	s.dead = f.ends() || s.wire.broken
	return f.failure()
}

// command says a line that the client has no method for.
func (s *session) command(expect int, line string) (code int, text string, err error) {
	id, err := s.client.Text.Cmd("%s", line)
	if err != nil {
		return 0, "", err
	}
	s.client.Text.StartResponse(id)
	defer s.client.Text.EndResponse(id)
	return s.client.Text.ReadResponse(expect)
}

// watch closes the socket the moment the context is done, which is what makes a
// blocked read or write return. The returned function ends the watch.
func (s *session) watch(ctx context.Context) (end func()) {
	stop := context.AfterFunc(ctx, s.abort)
	return func() {
		if !stop() {
			s.dead = true
		}
	}
}

// abort closes the socket without a word. A mail in DATA is dropped by the
// relay then, where a QUIT would end it as if it were complete.
func (s *session) abort() {
	if s.tcp != nil {
		_ = s.tcp.Close()
	}
}

// close ends the session in the background: a relay that is slow to say goodbye
// must not hold up the verdict on a mail it has taken, and whether it says
// goodbye at all changes nothing.
func (s *session) close() {
	if s.dead || s.client == nil {
		s.abort()
		return
	}
	s.dead = true
	_ = s.tcp.SetDeadline(time.Now().Add(quitTimeout))
	go func() {
		_, _, _ = s.command(221, "QUIT")
		_ = s.wire.Close()
	}()
}

// tlsVersion names protocol and cipher for the receipt, "" in plaintext.
func (s *session) tlsVersion() string {
	if s.tls == nil {
		return ""
	}
	return tls.VersionName(s.tls.Version) + " " + tls.CipherSuiteName(s.tls.CipherSuite)
}
