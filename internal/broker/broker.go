// Package broker keeps Certpost's state in JetStream: the streams, buckets and consumers and
// their ownership (topology.go), the ledger with the state of each delivery (ledger.go), dead
// letters (deadletter.go) and the actions on them (act.go), the audit as a chain of hashes
// (chain.go), holds, suspensions, and the embedded server (embedded.go). Package queue processes
// events and deliveries on top of it.
package broker

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
)

// Config says where JetStream is. Without URL the server is embedded.
type Config struct {
	// URL of a NATS server or cluster, comma separated; "" embeds one.
	URL string
	// CredentialsFile, NKeyFile, or User and Password authenticate; NKeyFile's user, and User
	// with Password, are administrators of an embedded server.
	CredentialsFile string
	NKeyFile        string
	User            string
	Password        func() ([]byte, error) // called at every connect; nil: none
	// CAFile, CertFile and KeyFile are PEM files for TLS and a client certificate.
	CAFile, CertFile, KeyFile string
	// Restoring opens an embedded store whose restore has not ended.
	Restoring bool
	// Replicas of streams, consumers and bucket: 1, 3 or 5.
	Replicas int
	// MaxBytes are limits of streams, by name, for accounts that require them; a full
	// stream refuses what is new. Streams without an entry have the limit that they have.
	MaxBytes map[string]int64
	// DuplicateWindow of the streams; 0: 2 minutes, or what an administrator has set.
	DuplicateWindow time.Duration
	// LedgerAge is how long the ledger keeps an entry after its last change, at least
	// MinLedgerAge; 0: 400 days, or more if an administrator has set more.
	LedgerAge time.Duration
	// Outcomes are the limits of CERTPOST_OUTCOMES; without MaxAge there is no such stream.
	Outcomes OutcomeLimits
	// MaxAckPending of all consumers; 0: 1,000, 10,000 for lanes shared by several relays,
	// or what an administrator has set.
	MaxAckPending int
	// InboxPrefix replaces _INBOX in the subjects for replies.
	InboxPrefix string
	// TrustRequestInfo believes the server's header about who sent a request. It is safe only
	// if all requests come from other accounts.
	TrustRequestInfo bool
	// Domain is JetStream's domain, APIPrefix the prefix of its subjects as imported from
	// another account; at most one is set.
	Domain, APIPrefix string

	// DataDir holds the embedded server's store.
	DataDir string
	// Listen is the embedded server's address; "" is 127.0.0.1:4222, "none" accepts
	// connections from this process only.
	Listen string
	// ServerTLS is the TLS of the embedded server; nil: none. DialTLS is how Dial connects
	// to such a server.
	ServerTLS, DialTLS *tls.Config
	// Anonymous opens the embedded server to clients that do not log in: they may do what an
	// administrator may.
	Anonymous bool
	// SyncInterval is how often the embedded store is flushed to disk: "always"
	// (after every write) or a Go duration. "" is always.
	SyncInterval string
	// MaxStore bounds the embedded store, in bytes; 0 is 10 GiB. A full store
	// refuses events; it never drops stored messages.
	MaxStore int64

	// AuditKeys returns the keys that sign the audit and the ledger; nil: neither is signed.
	// It is called again when the audit says that another key is in force.
	AuditKeys func(context.Context) (*AuditKeys, error)
	// AuditMemory is a file in which a process keeps the audit's last verified record, out of
	// reach of NATS clients; "": none.
	AuditMemory string

	// AckWait is how long a fetched message may go without a sign of life before the
	// server delivers it again; 0 is 30 s. Tests make it shorter.
	AckWait time.Duration
	// Lost, if set, is called when the connection is lost while a request of Ask is out.
	Lost func()
	// LostGrace is how long Ask waits for the answer once a lost connection is back; 0 is 10 s.
	// Tests make it shorter.
	LostGrace time.Duration
	// Unprotected leaves out the streams' deny_delete and deny_purge where the program does
	// not depend on them. Tests lose messages with it.
	Unprotected bool
	// ClaimLife is how long an intent to act on a dead letter blocks other actions;
	// 0 is claimLife. Tests make it shorter.
	ClaimLife time.Duration
	// Reached, if set, is called when an action on a dead letter reaches one of the points
	// in points.go. Tests end the process there.
	Reached func(point string)
}

// Broker is a connection to JetStream and, where the configuration names no
// server, the server itself.
type Broker struct {
	cfg    Config
	log    zerolog.Logger
	server *embedded // nil with an external server
	nc     *nats.Conn
	js     jetstream.JetStream

	denied *denials // to the user of the connection

	outcomesAt atomic.Pointer[OutcomePosition] // that this process has published last

	chain chain // the audit
	seals seals // what signs it, and the ledger
	// receipts are those that no checkpoint covers yet.
	receipts receiptLog
	auditor  atomic.Pointer[Auditor] // nil: this process does not verify what it reads
	seen     sync.Map                // names of streams that this process has found

	numbers struct { // of dead letters
		sync.Mutex
		seen, noted uint64    // the highest; guarded
		at          time.Time // of the last note; guarded
	}
}

// Open starts the embedded server or connects to the configured one. An unreachable
// external server is no error: the connection is retried without limit, and all work waits
// for it. Errors are for the operator: a locked store, a port in use, an unreadable
// credentials file.
func Open(cfg Config, log zerolog.Logger) (*Broker, error) {
	b := newBroker(cfg, log)
	var err error
	if cfg.URL == "" {
		if b.server, err = startEmbedded(cfg, log); err != nil {
			return nil, err
		}
	}
	if b.nc, err = connect(cfg, b.server, b.denied, log); err != nil {
		b.Close()
		return nil, err
	}
	if b.js, err = openJetStream(b.nc, b.apiPrefix()); err != nil {
		b.Close()
		return nil, err
	}
	return b, nil
}

// Dial connects as a command does: once, within the context's deadline, and without
// starting a server. Without a URL it connects to the address where `certpost run` serves
// its embedded server, and logs in, if the configuration does not say how, with the seed of
// the first of the roles whose seed it can read; no role means Administrator.
func Dial(ctx context.Context, cfg Config, log zerolog.Logger, roles ...Role) (*Broker, error) {
	login, err := credentials(cfg, log)
	if err != nil {
		return nil, err
	}
	seed := ""
	if cfg.URL == "" {
		cfg.URL = "nats://" + cfg.listen()
		if cfg.NKeyFile == "" && cfg.User == "" {
			var option nats.Option
			if option, seed, err = cfg.seedLogin(roles); err != nil {
				return nil, err
			}
			if option != nil {
				login = append(login, option)
			}
		}
		if cfg.DialTLS != nil {
			login = append(login, nats.Secure(cfg.DialTLS))
		}
	}
	b := newBroker(cfg, log)
	opts := append(options(cfg, b.denied, log), login...)
	opts = append(opts, nats.RetryOnFailedConnect(false))
	if end, ok := ctx.Deadline(); ok {
		opts = append(opts, nats.Timeout(time.Until(end)))
	}
	b.nc, err = nats.Connect(cfg.URL, opts...)
	switch {
	case errors.Is(err, nats.ErrAuthorization) && seed != "":
		return nil, fmt.Errorf("NATS at %s does not accept the seed %s: check that data_dir is that of the certpost that runs there, or remove the seed and restart it, which makes a new one", safeURL(cfg.URL), seed)
	case errors.Is(err, nats.ErrAuthorization):
		return nil, fmt.Errorf("NATS at %s does not let this user in (%w): %s", safeURL(cfg.URL), err, cfg.adviceOnLogin())
	case err != nil:
		return nil, fmt.Errorf("NATS at %s does not answer (%w): check that `certpost run` or the NATS server is running, and that nats.url is right", safeURL(cfg.URL), err)
	}
	if b.js, err = openJetStream(b.nc, b.apiPrefix()); err != nil {
		b.Close()
		return nil, err
	}
	b.js = commandJetStream{b.js, b}
	return b, nil
}

// adviceOnLogin says what to do when a server refuses this configuration's user.
func (c Config) adviceOnLogin() string {
	switch {
	case c.CredentialsFile != "":
		return "check nats.credentials_file"
	case c.NKeyFile != "":
		return "check that the server knows the user of nats.nkey_file"
	case c.User != "":
		return "check nats.user and nats.password"
	}
	return "set nats.credentials_file, nats.nkey_file or nats.user; for the server that another certpost embeds, nats.nkey_file names " + SeedFile("its data_dir", Administrator) + " or a copy of it"
}

func newBroker(cfg Config, log zerolog.Logger) *Broker {
	cfg.Replicas = max(cfg.Replicas, 1)
	if cfg.AckWait == 0 {
		cfg.AckWait = ackWait
	}
	if cfg.ClaimLife == 0 {
		cfg.ClaimLife = claimLife
	}
	cfg.LostGrace = cmp.Or(cfg.LostGrace, lostGrace)
	return &Broker{cfg: cfg, log: log, denied: &denials{inbox: cmp.Or(cfg.InboxPrefix, strings.TrimSuffix(nats.InboxPrefix, "."))}, receipts: receiptLog{full: make(chan struct{}, 1)}}
}

// apiPrefix is the prefix of JetStream's subjects, with the last dot.
func apiPrefix(domain, prefix string) string {
	switch {
	case domain != "":
		return "$JS." + domain + ".API."
	case prefix != "":
		return strings.TrimSuffix(prefix, ".") + "."
	}
	return jetstream.DefaultAPIPrefix
}

func (b *Broker) apiPrefix() string { return apiPrefix(b.cfg.Domain, b.cfg.APIPrefix) }

// ledgerSubject is the subject to publish a ledger entry to.
func (b *Broker) ledgerSubject(key string) string {
	_, kv := apiSubjects(b.apiPrefix())
	return kv + LedgerBucket + "." + key
}

func openJetStream(nc *nats.Conn, prefix string) (jetstream.JetStream, error) {
	js, err := jetstream.NewWithAPIPrefix(nc, prefix, jetstream.WithDefaultTimeout(apiTimeout), jetstream.WithPublishAsyncTimeout(apiTimeout))
	if err != nil {
		return nil, fmt.Errorf("JetStream: %w", err)
	}
	return js, nil
}

// Close ends the connection and, last, the embedded server and the lock on its
// store.
func (b *Broker) Close() {
	if b.nc != nil {
		b.nc.Close()
	}
	if b.server != nil {
		b.server.stop()
	}
}

// URL is the address at which other programs reach the same JetStream.
func (b *Broker) URL() string {
	if b.server != nil {
		return b.server.url()
	}
	return safeURL(b.cfg.URL)
}

// Health returns what is wrong with JetStream right now; nil if all streams are there, and
// those that a delivery passes answer. It makes one request for each.
func (b *Broker) Health(ctx context.Context) error {
	if err := b.Disconnected(); err != nil {
		return err
	}
	short, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	for _, want := range b.streams() {
		passed := slices.Contains([]string{EventsStream, DeliveriesStream, DeadLettersStream}, want.Name)
		asking := short // pages and actions need it: one whose leader is being elected is there
		if passed {
			asking = ctx
		}
		if _, err := b.js.Stream(asking, want.Name); errors.Is(err, jetstream.ErrStreamNotFound) {
			return fmt.Errorf("stream %s does not exist", want.Name)
		} else if err != nil && passed {
			return fmt.Errorf("stream %s: %w", want.Name, Explain(err, want.Name))
		}
	}
	return nil
}

// Disconnected returns an error if there is no connection. Its text is clearer than the
// client's for a request that it cannot send.
func (b *Broker) Disconnected() error {
	if b.nc.IsConnected() {
		return nil
	}
	return fmt.Errorf("not connected to NATS at %s", b.URL())
}

// JetStream is the connection to JetStream, for the work of the queue.
func (b *Broker) JetStream() jetstream.JetStream { return b.js }

// Conn is the connection to NATS.
func (b *Broker) Conn() *nats.Conn { return b.nc }

// Log is the log of the broker and of the packages that use it.
func (b *Broker) Log() zerolog.Logger { return b.log }

// AckWait is how long a fetched message may go without a sign of life before the server
// delivers it again.
func (b *Broker) AckWait() time.Duration { return b.cfg.AckWait }

// Embedded reports whether this process runs the server.
func (b *Broker) Embedded() bool { return b.server != nil }

// StoreFailed returns ErrStoreFailed if the embedded store cannot be written any more, nil
// otherwise.
func (b *Broker) StoreFailed() error {
	if b.server == nil {
		return nil
	}
	return b.server.failed()
}
