package mailhost

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"

	"github.com/certpost/certpost/internal/backoff"
	"github.com/certpost/certpost/internal/payload"
)

// Served is what an endpoint served in a verification.
type Served struct {
	Address  string
	Protocol Protocol
	Peer     string // the address that answered, IP:port
	TLS      string // "TLS 1.3"
	Attempts int    // 1 if the first connection got the certificate
}

// verify checks that all endpoints serve a leaf, with its whole chain if that is not nil, valid
// for the server name and the roots.
func (t *transaction) verify(leaf *x509.Certificate, chain []*x509.Certificate) error {
	return t.verifyAll(func(state *tls.ConnectionState) error {
		if err := t.isLeaf(state, leaf); err != nil {
			return err
		}
		for _, cert := range chain {
			// Servers may leave out a root: clients have it.
			if !bytes.Equal(cert.RawIssuer, cert.RawSubject) && !slices.ContainsFunc(state.PeerCertificates, cert.Equal) {
				return fmt.Errorf("the server does not send the chain: %s is missing", payload.ShortName(cert))
			}
		}
		v := t.d.Verify
		if v.ServerName != "" {
			if err := leaf.VerifyHostname(v.ServerName); err != nil {
				return err
			}
		}
		if v.Roots != nil {
			return verifyChain(leaf, state.PeerCertificates[1:], v.Roots, t.now())
		}
		return nil
	})
}

// verifyFormer checks only that all endpoints serve the former leaf again.
func (t *transaction) verifyFormer() error {
	return t.verifyAll(func(state *tls.ConnectionState) error { return t.isLeaf(state, t.former) })
}

func (t *transaction) isLeaf(state *tls.ConnectionState, want *x509.Certificate) error {
	got := state.PeerCertificates[0]
	switch {
	case got.Equal(want):
		return nil
	case t.former != nil && got.Equal(t.former):
		return fmt.Errorf("the server still serves the former certificate, %s", shortName(got))
	}
	return fmt.Errorf("the server serves %s instead of %s; check which files its settings name", shortName(got), shortName(want))
}

// verifyAll connects to each endpoint until its certificate is accepted, at most
// Verification.Attempts times: programs may load files after their reload has ended, and
// Dovecot may drop a connection during it.
func (t *transaction) verifyAll(accept func(*tls.ConnectionState) error) error {
	v := t.d.Verify
	t.served = nil
	for _, e := range v.Endpoints {
		var err error
		for attempt := range v.Attempts {
			if attempt > 0 {
				backoff.Sleep(t.ctx, backoff.Jitter(v.pause(attempt-1)))
			}
			var s *Served
			if s, err = v.probe(t.ctx, e, accept); err == nil {
				s.Attempts = attempt + 1
				t.served = append(t.served, *s)
				t.did("verified %s (%s, %s)", s.Address, s.Protocol, s.TLS)
				break
			}
		}
		if err != nil {
			return fmt.Errorf("%s (%s), after %d attempts: %w", e.Address, e.protocol(), v.Attempts, err)
		}
	}
	return nil
}

// pause is the time after an attempt, from 0.
func (v Verification) pause(attempt int) time.Duration { return min(v.Backoff<<attempt, v.MaxBackoff) }

// probe makes one connection. A server with certificates of two kinds of key serves the
// kind that it prefers; if that is not accepted, the other kind is asked for as well.
func (v Verification) probe(ctx context.Context, e Endpoint, accept func(*tls.ConnectionState) error) (*Served, error) {
	served, state, err := v.connect(ctx, e, nil)
	if err != nil {
		return nil, err
	}
	refused := accept(state)
	if refused == nil {
		return served, nil
	}
	// Only in TLS 1.2 does the client choose the kind of key.
	suites := rsaSuites
	if state.PeerCertificates[0].PublicKeyAlgorithm == x509.RSA {
		suites = ecdsaSuites
	}
	if served, state, err := v.connect(ctx, e, suites); err == nil && accept(state) == nil {
		return served, nil
	}
	return nil, refused
}

var (
	rsaSuites   = []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256}
	ecdsaSuites = []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256}
)

// connect makes one connection and returns the state of its TLS. With suites it uses TLS 1.2
// and only these.
func (v Verification) connect(ctx context.Context, e Endpoint, suites []uint16) (*Served, *tls.ConnectionState, error) {
	ctx, cancel := context.WithTimeout(ctx, v.Timeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", e.Address)
	if err != nil {
		return nil, nil, err
	}
	defer conn.Close()
	end, _ := ctx.Deadline()
	if err := conn.SetDeadline(end); err != nil {
		return nil, nil, err
	}
	if err := startTLS(conn, e.protocol()); err != nil {
		return nil, nil, err
	}
	// The certificate is compared with the deployed one, and its chain and name are checked
	// after that, so that the error says what is served.
	config := &tls.Config{ServerName: v.ServerName, InsecureSkipVerify: true}
	if suites != nil {
		config.MaxVersion, config.CipherSuites = tls.VersionTLS12, suites
	}
	secured := tls.Client(conn, config)
	if err := secured.HandshakeContext(ctx); err != nil {
		if errors.Is(err, io.EOF) {
			err = errors.New("the server closed the connection")
		}
		return nil, nil, fmt.Errorf("%w: TLS: %w", errRefused, err)
	}
	state := secured.ConnectionState()
	if len(state.PeerCertificates) == 0 {
		return nil, nil, errors.New("the server sent no certificate")
	}
	// What follows cannot change the result.
	_, _ = io.WriteString(secured, goodbye[e.protocol()])
	_ = secured.Close()
	return &Served{Address: e.Address, Protocol: e.protocol(), Peer: conn.RemoteAddr().String(), TLS: tls.VersionName(state.Version)}, &state, nil
}
