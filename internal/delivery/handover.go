package delivery

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/certpost/certpost/internal/backoff"
	"github.com/certpost/certpost/internal/inputfile"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/smtp"
	"github.com/certpost/certpost/internal/verdict"
)

// Defaults of RelayLimits. Postfix closes its own connections
// after the same age; a busy relay may close them earlier, which costs only another
// dial.
const (
	mailsPerConnection = 100
	maxConnectionIdle  = 30 * time.Second
	maxConnectionAge   = 5 * time.Minute
	// connectionsPerProcess is the number of connections that each process opens to a relay
	// without MaxConnections: as many as Postfix by default (default_destination_concurrency_limit).
	// More deliveries than that are in work at a time: the others are being read, rendered or
	// recorded (docs/decisions/0070).
	connectionsPerProcess = 20
	defaultLimitPause     = time.Hour // RelayLimits.LimitPause
)

// termsOf returns the terms for the connections to a relay, with this process's share
// of max_connections. shared is nil if no other process shares the limits.
func termsOf(limits RelayLimits, shared verdict.Limits) smtp.Terms {
	of := smtp.Terms{Connections: limits.MaxConnections, Mails: limits.MaxMessagesPerConnection, Idle: limits.MaxConnectionIdle, Age: limits.MaxConnectionAge}
	setDefault(&of.Mails, mailsPerConnection)
	setDefault(&of.Idle, maxConnectionIdle)
	setDefault(&of.Age, maxConnectionAge)
	switch {
	case of.Connections == 0:
		of.Connections = connectionsPerProcess
	case shared != nil:
		of.Connections = shared.Share(of.Connections)
	}
	return of
}

// handover is what is needed to send the mail to one relay.
type handover struct {
	target *Target
	relay  smtp.Relay
	terms  smtp.Terms
	count  func() *verdict.Failure // counts the mail against the relay's rate, once
	permit *smtp.Permit            // of the relay's breaker
}

// handover prepares sending to a relay: its address and certificate files, the
// credentials if it is a fallback, and its limits. It fails if this process has no
// share of max_connections now; count checks max_message_rate.
func (a *attempt) handover(ctx context.Context, t *Target, fallback bool) (*handover, *verdict.Failure) {
	if fallback {
		if failure := a.logInTo(ctx, t); failure != nil {
			return nil, failure
		}
	}
	r, failure := a.relayOf(t, a.p)
	if failure != nil {
		return nil, failure
	}
	name := smtp.RelayName(t.Host, t.Port)
	limits := a.defs.limits[name]
	h := &handover{target: t, relay: r, terms: termsOf(limits, a.order.Limits), count: func() *verdict.Failure { return nil }}
	if limits.MaxConnections > 0 && h.terms.Connections == 0 {
		return nil, atLimit(r, "is at its limit max_connections: other processes have all its connections", backoff.Jitter(connectionRetryDelay))
	}
	if rate := limits.MaxMessageRate; !rate.IsZero() && a.order.Limits != nil {
		h.count = sync.OnceValue(func() *verdict.Failure {
			if wait := a.order.Limits.Take(name, rate); wait > 0 {
				return atLimit(r, "is at its limit max_message_rate, "+rate.String(), wait)
			}
			return nil
		})
	}
	return h, nil
}

// sendTo sends the mail on a kept connection or a new one; with fresh, always on a new
// one.
func (a *attempt) sendTo(ctx context.Context, h *handover, fresh bool) smtp.Result {
	s, err := a.pool.Acquire(ctx, h.relay, h.terms, fresh)
	if err != nil {
		return smtp.Result{Failure: noConnection(h.relay, err)}
	}
	if wait, reason := h.permit.Revoked(); wait > 0 { // while this mail waited for a connection
		if s == nil {
			a.pool.Release(h.relay)
		} else {
			a.pool.Put(s, h.terms)
		}
		return smtp.Result{Failure: breakerOpen(smtp.RelayName(h.target.Host, h.target.Port), wait, reason)}
	}
	// The wait for a free connection does not count against the target's timeout.
	ctx, cancel := context.WithTimeout(ctx, h.target.Timeout)
	defer cancel()
	if s == nil {
		var failure *verdict.Failure
		if s, failure = a.dial(ctx, h.target, a.p, h.relay); failure != nil {
			a.pool.Release(h.relay)
			return smtp.Result{Failure: failure}
		}
		a.pool.Adopt(s)
	}
	defer func() { a.pool.Put(s, h.terms) }()
	if failure := h.count(); failure != nil { // right before MAIL
		return smtp.Result{Failure: failure}
	}
	envelope := smtp.Envelope{From: a.msg.from, Recipients: a.msg.recipients, ID: a.msg.envelopeID, UTF8: a.msg.needsUTF8, AllOrNothing: h.target.AllOrNothing}
	return s.Send(ctx, envelope, a.msg.raw, a.order.Claim)
}

// connectionRetryDelay is how long a delivery waits when this process's share of
// max_connections is 0; the shares change when a process starts or stops.
const connectionRetryDelay = 5 * time.Second

// atLimit is the verdict when the relay is at its limits.
func atLimit(r smtp.Relay, why string, wait time.Duration) *verdict.Failure {
	return &verdict.Failure{
		Outcome: verdict.Outcome{Code: verdict.SMTPTransient, Phase: verdict.PhaseConnect, Reason: r.Address() + " " + why, Certainty: verdict.NotSent},
		Untried: true, After: wait,
	}
}

// noConnection is the verdict when the wait for a free connection ended without one. It
// says nothing about the relay.
func noConnection(r smtp.Relay, err error) *verdict.Failure {
	return &verdict.Failure{
		Outcome: verdict.Outcome{
			Code:      verdict.SMTPTransient,
			Phase:     verdict.PhaseConnect,
			Reason:    fmt.Sprintf("no connection to %s became free in time (max_connections); Certpost retries", r.Address()),
			Certainty: verdict.NotSent,
		},
		Cause: err,
	}
}

// dial connects to the target's relay. If the relay refuses the login, dial fetches
// the credentials again and, if they differ, retries once: they may have been changed
// since they were cached.
func (c *Courier) dial(ctx context.Context, t *Target, p *provisions, r smtp.Relay) (*smtp.Session, *verdict.Failure) {
	s, failure := smtp.Dial(ctx, r)
	if failure == nil || failure.Code != verdict.SMTPAuth || failure.ReplyCode == 0 {
		return s, failure
	}
	if failure := c.freshLogin(ctx, t, p); failure != nil {
		return nil, failure
	}
	if p.password.Equal(r.Password) && p.username == r.Username {
		return nil, failure
	}
	r.Username, r.Password = p.username, p.password
	return smtp.Dial(ctx, r)
}

// freshLogin fetches the credentials for AUTH again, after the relay refused them.
func (c *Courier) freshLogin(ctx context.Context, t *Target, p *provisions) (failure *verdict.Failure) {
	if !t.OAuth2.IsZero() {
		p.password, failure = c.token(ctx, t, p, p.password)
		return failure
	}
	if _, err := c.store.Fresh(ctx, t.Password, p.vars); err != nil {
		return secretFailure(err)
	}
	return c.login(ctx, t, p) // the user name may have changed with it
}

// relayOf returns the target's relay for smtp. It reads the certificate files for
// every mail: they may be renewed at any time, and a connection made with the old
// ones is not used again.
func (c *Courier) relayOf(t *Target, p *provisions) (r smtp.Relay, failure *verdict.Failure) {
	r = smtp.Relay{
		Host: t.Host, Port: t.Port, TLSMode: t.TLSMode, SkipVerify: t.TLSSkipVerify, HELO: c.opts.HELO, CAFile: t.CAFile,
		AuthMethod: t.AuthMethod, Username: p.username, Password: p.password, AllowInsecureAuth: t.AllowInsecureAuth,
		Shown: c.notes(t),
	}
	if t.TLSMode == smtp.TLSPlaintext {
		return r, nil
	}
	r.ServerName = t.TLSServerName
	if t.TLSFingerprint != "" {
		var err error
		if r.Fingerprints, err = smtp.ParseFingerprints(t.TLSFingerprint); err != nil {
			return r, verdict.Fail(verdict.TargetInvalid, verdict.PhaseConnect, "the target's tls_fingerprint "+err.Error())
		}
	}
	if t.CAFile != "" {
		if r.CAPEM, failure = readTargetFile("ca_file", t.CAFile); failure != nil {
			return r, failure
		}
	}
	if t.ClientCertFile == "" {
		return r, nil
	}
	r.ClientCertFile = t.ClientCertFile
	if r.ClientCert, failure = readTargetFile("client_cert_file", t.ClientCertFile); failure != nil {
		return r, failure
	}
	key, failure := readTargetFile("client_key_file", t.ClientKeyFile)
	defer clear(key)
	r.ClientKey = secrets.New(key)
	return r, failure
}

// maxTargetFile limits a file with certificates, in bytes; the CAs of a whole system
// have 250 kB.
const maxTargetFile = 4 << 20

func readTargetFile(key, path string) ([]byte, *verdict.Failure) {
	text, err := readRegular(path)
	if err != nil {
		return nil, smtp.Unusable(key, path, "cannot be read", err)
	}
	return text, nil
}

func readRegular(path string) ([]byte, error) {
	return inputfile.Read(path, maxTargetFile)
}
