package main

import (
	"maps"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/access"
	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/duration"
	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/secrets"
)

// NATSConfig is the section nats.
type NATSConfig struct {
	// URL is the address of a NATS server, or of several of one cluster, separated by
	// commas: nats://127.0.0.1:4222, tls://..., ws://..., wss://... Default: none;
	// Certpost then runs an embedded NATS server with its data in data_dir.
	URL string `yaml:"url"`
	// CredentialsFile is a .creds file with a user's JWT and seed. Set only one of
	// credentials_file, nkey_file and user.
	CredentialsFile string `yaml:"credentials_file"`
	// NKeyFile is a file with a user's NKey seed. Commands use it instead of the seeds in
	// data_dir; the embedded server accepts it as an administrator's, unless it is a copy of
	// the publishers' seed.
	NKeyFile string `yaml:"nkey_file"`
	// User is the NATS user name; it requires password. The embedded server then also
	// accepts administrators who log in with both.
	User string `yaml:"user"`
	// Password is the password of user, as a secret reference.
	Password secrets.Ref `yaml:"password"`
	// TLS holds the CA and the client certificate of the connection to nats.url, or the
	// certificate of the embedded server.
	TLS NATSTLSConfig `yaml:"tls"`
	// Replicas is the number of copies of streams and buckets; 3 and 5 require a cluster.
	Replicas int `yaml:"replicas" enum:"1,3,5"`
	// Domain is the JetStream domain of the server that stores the streams, if Certpost
	// connects to a leaf node of it. Set only one of domain and api_prefix.
	Domain string `yaml:"domain" pattern:"^[A-Za-z0-9_-]+$"`
	// APIPrefix is the prefix under which this account imports the JetStream API of
	// another one, such as JS.hub.API. Default: $JS.API.
	APIPrefix string `yaml:"api_prefix" pattern:"^[^ *>]+[^. *>]$"`
	// InboxPrefix replaces _INBOX in the subjects for replies, for a user who may not
	// subscribe to _INBOX.>.
	InboxPrefix string `yaml:"inbox_prefix" pattern:"^[^ *>]+[^. *>]$"`
	// TrustRequestInfo takes the user who sent a request from the header Nats-Request-Info,
	// which servers set in requests that an account imports with share: true, for users with
	// NKey or JWT. Set it only if no other user of Certpost's own account may send requests: it
	// could write the header.
	TrustRequestInfo bool `yaml:"trust_request_info"`
	// MaxBytes is the most that each stream may store, for accounts that require a limit.
	// A full stream refuses new messages; nothing stored is removed.
	MaxBytes StreamSizes `yaml:"max_bytes"`
	// DuplicateWindow is how long the streams remember message ids, at least 10s. Set it
	// if the server allows less than 2m. Default: 2m, or what an administrator has set.
	DuplicateWindow time.Duration `yaml:"duplicate_window"`
	// LedgerAge is how long the ledger remembers a delivery after its last change, 744h (31
	// days) to 26280h (three years). An event that is published again after that is mailed
	// again, and searches do not find the delivery any more. Each remembered delivery costs
	// the NATS server memory (docs/scaling.md). Default: 9600h (400 days).
	LedgerAge time.Duration `yaml:"ledger_age"`
	// MaxAckPending is how many messages of one consumer may wait for their retry or be
	// in work, 1 to 10000. Set it if the server allows less. Default: 1000 (10000 for
	// lanes that relays share), or what an administrator has set.
	MaxAckPending int `yaml:"max_ack_pending"`
	// Service answers requests about dead letters on certpost.dead.* and other NATS
	// subjects (docs/replay.md). Every client that NATS lets publish to these subjects
	// can replay and discard dead letters.
	Service bool `yaml:"service"`

	// Listen is the embedded server's address for other clients; none allows no clients.
	// They log in with the seed of a role: data_dir/nats/admin.nk may do everything,
	// data_dir/nats/publisher.nk may only publish events.
	Listen string `yaml:"listen" required:"true"`
	// Anonymous lets clients on this machine use the embedded server without a seed, as
	// administrators: each local user can then read certificates, change records and
	// delete streams. It requires a listen address on loopback.
	Anonymous bool `yaml:"anonymous"`
	// SyncInterval is how often the embedded server flushes to disk (fsync): always
	// (after every message; a power cut loses nothing that was acknowledged), or a
	// duration such as 2m (faster; a power cut loses everything of that time: events
	// that were acknowledged, and the records of mails that were sent, so that those
	// may go out again without a mark, and audit verify reports receipts as deleted).
	SyncInterval string `yaml:"sync_interval" pattern:"^(always|[0-9].*)$"`
	// MaxStore is the maximum size of the embedded server's data, such as 500MiB or
	// 10GiB. When it is reached, new events are refused; nothing stored is removed.
	MaxStore Size `yaml:"max_store" pattern:"^[0-9]+(KiB|MiB|GiB|TiB)$"`
}

// StreamSizes are limits of streams, such as 500MiB or 10GiB. Default: none, or what an
// administrator has set.
type StreamSizes struct {
	// Events is the limit of CERTPOST_EVENTS: events of 30 days.
	Events Size `yaml:"events" pattern:"^[0-9]+(KiB|MiB|GiB|TiB)$"`
	// Deliveries is the limit of CERTPOST_DELIVERIES: deliveries that are not settled.
	Deliveries Size `yaml:"deliveries" pattern:"^[0-9]+(KiB|MiB|GiB|TiB)$"`
	// Manifest is the limit of CERTPOST_MANIFEST: about 100 bytes for each delivery of 30 days.
	Manifest Size `yaml:"manifest" pattern:"^[0-9]+(KiB|MiB|GiB|TiB)$"`
	// DeadLetters is the limit of CERTPOST_DEAD_LETTERS: dead letters of 400 days.
	DeadLetters Size `yaml:"dead_letters" pattern:"^[0-9]+(KiB|MiB|GiB|TiB)$"`
	// Audit is the limit of CERTPOST_AUDIT: records of three years.
	Audit Size `yaml:"audit" pattern:"^[0-9]+(KiB|MiB|GiB|TiB)$"`
	// Ledger is the limit of the bucket CERTPOST_LEDGER: 1 to 4 KiB for each delivery of ledger_age.
	Ledger Size `yaml:"ledger" pattern:"^[0-9]+(KiB|MiB|GiB|TiB)$"`
	// Relays is the limit of the bucket CERTPOST_RELAYS; 10MiB are plenty.
	Relays Size `yaml:"relays" pattern:"^[0-9]+(KiB|MiB|GiB|TiB)$"`
	// Desk is the limit of the bucket CERTPOST_DESK: holds and replay runs; 100MiB are plenty.
	Desk Size `yaml:"desk" pattern:"^[0-9]+(KiB|MiB|GiB|TiB)$"`
}

// byStream returns the limits that are set, in bytes, by the name of the stream.
func (s StreamSizes) byStream() map[string]int64 {
	limits := map[string]int64{
		broker.EventsStream: int64(s.Events), broker.DeliveriesStream: int64(s.Deliveries), broker.ManifestStream: int64(s.Manifest),
		broker.DeadLettersStream: int64(s.DeadLetters), broker.AuditStream: int64(s.Audit), "KV_" + broker.LedgerBucket: int64(s.Ledger),
		"KV_" + broker.RelaysBucket: int64(s.Relays), "KV_" + broker.DeskBucketName: int64(s.Desk),
	}
	maps.DeleteFunc(limits, func(_ string, limit int64) bool { return limit == 0 })
	return limits
}

// NATSTLSConfig are PEM files for TLS. The embedded server uses TLS if it has cert_file and
// key_file, which are read again when they change.
type NATSTLSConfig struct {
	// CAFile is a PEM file with the CAs to trust. Default: the system's CAs; for the
	// embedded server, exactly the certificate in cert_file.
	CAFile string `yaml:"ca_file"`
	// CertFile is a PEM file with the client certificate for nats.url, or with the
	// embedded server's certificate and its chain; it requires key_file.
	CertFile string `yaml:"cert_file"`
	// KeyFile is a PEM file with the private key of cert_file.
	KeyFile string `yaml:"key_file"`
	// ClientCAFile is a PEM file with the CAs of clients; the embedded server then also
	// requires a certificate of them, in addition to the seed.
	ClientCAFile string `yaml:"client_ca_file"`
}

var domainName = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

func (n *NATSConfig) validate(f *findings) {
	for address := range strings.SplitSeq(n.URL, ",") {
		u, err := url.Parse(strings.TrimSpace(address))
		switch {
		case n.URL == "":
		case err != nil || u.Host == "" || !slices.Contains([]string{"nats", "tls", "ws", "wss"}, u.Scheme):
			f.err("nats.url", "want a URL such as nats://127.0.0.1:4222, or several of one cluster, separated by commas")
		case u.User != nil:
			f.err("nats.url", "contains a user or a token, which could be logged: use nats.user and nats.password")
		case legible.WrongPort(u) != "":
			f.err("nats.url", legible.WrongPort(u))
		case u.Port() == "8222":
			f.warn("nats.url", "has the port 8222, where a NATS server usually has its monitoring page: clients connect to another, usually 4222")
		case strings.Trim(u.Path, "/") != "" && !strings.HasPrefix(u.Scheme, "ws"), u.RawQuery != "", u.Fragment != "":
			f.warn("nats.url", "has more than scheme, host and port: the rest is ignored")
		}
	}
	var ways []string
	for _, way := range []struct{ key, value string }{{"credentials_file", n.CredentialsFile}, {"nkey_file", n.NKeyFile}, {"user", n.User}} {
		if way.value != "" {
			ways = append(ways, way.key)
		}
	}
	if len(ways) > 1 {
		f.err("nats", "sets more than one way to log in ("+strings.Join(ways, ", ")+"): set only one")
	}
	switch {
	case n.User == "" && !n.Password.IsZero():
		f.err("nats.user", "is required: nats.password is set")
	case n.User != "" && n.Password.IsZero():
		f.err("nats.password", "is required: nats.user is set")
	case n.User != "":
		if err := n.Password.Validate(); err != nil {
			f.err("nats.password", err.Error())
		} else if warning := n.Password.Warning(); warning != "" {
			f.warn("nats.password", warning)
		}
	}
	if (n.TLS.CertFile == "") != (n.TLS.KeyFile == "") {
		f.err("nats.tls", "cert_file and key_file belong together: set both")
	}
	if n.Listen != "none" {
		f.address("nats.listen", n.Listen)
	}
	n.validateEmbedded(f)
	if d, err := duration.Parse(n.SyncInterval); n.SyncInterval != "always" && (err != nil || d <= 0) {
		f.err("nats.sync_interval", "want always, or a duration such as 2m")
	}
	for _, prefix := range []struct{ key, value string }{{"nats.api_prefix", n.APIPrefix}, {"nats.inbox_prefix", n.InboxPrefix}} {
		if strings.ContainsAny(prefix.value, " \t\r\n*>") || strings.HasSuffix(prefix.value, ".") || strings.HasPrefix(prefix.value, ".") || strings.Contains(prefix.value, "..") {
			f.err(prefix.key, "want a prefix of subjects, without wildcards, blanks and a dot at its end")
		}
	}
	if n.Domain != "" && !domainName.MatchString(n.Domain) {
		f.err("nats.domain", "want a name of letters, digits, - and _")
	}
	if n.Domain != "" && n.APIPrefix != "" {
		f.err("nats", "sets domain and api_prefix: set only one")
	}
	if n.URL == "" && (n.Domain != "" || n.APIPrefix != "") {
		f.err("nats", "domain and api_prefix are for a NATS server elsewhere: set nats.url")
	}
	if n.DuplicateWindow != 0 && (n.DuplicateWindow < 10*time.Second || n.DuplicateWindow > 24*time.Hour) {
		f.err("nats.duplicate_window", "want 10s to 24h")
	}
	if n.LedgerAge != 0 && (n.LedgerAge < broker.MinLedgerAge || n.LedgerAge > 3*365*24*time.Hour) {
		f.err("nats.ledger_age", "want 744h (31 days: events are kept for 30) to 26280h (three years)")
	}
	if n.MaxAckPending != 0 && (n.MaxAckPending < 1 || n.MaxAckPending > 10_000) {
		f.err("nats.max_ack_pending", "want 1 to 10000")
	}
	if n.URL == "" && n.Replicas > 1 {
		f.err("nats.replicas", "more than 1 requires a NATS cluster: set nats.url")
	}
}

// validateEmbedded checks who can reach the embedded server.
func (n *NATSConfig) validateEmbedded(f *findings) {
	if n.URL != "" {
		if n.Anonymous {
			f.warn("nats.anonymous", "has no effect: nats.url names a server elsewhere")
		}
		if n.TLS.ClientCAFile != "" {
			f.warn("nats.tls.client_ca_file", "has no effect: nats.url names a server elsewhere")
		}
		return
	}
	if n.TLS.CertFile == "" && n.TLS.CAFile+n.TLS.ClientCAFile != "" {
		f.err("nats.tls", "has no certificate for the embedded server: set cert_file and key_file")
	}
	if n.CredentialsFile != "" {
		f.warn("nats.credentials_file", "has no effect: it is for the server in nats.url, and the embedded server uses the seeds in data_dir/nats")
	}
	if n.Listen == "none" || n.Listen == "" {
		return
	}
	beyond := false
	if _, _, err := net.SplitHostPort(n.Listen); err == nil {
		beyond = !access.IsLoopback(n.Listen)
	}
	switch {
	case n.Anonymous && beyond:
		f.err("nats.anonymous", "opens the embedded server to everybody who reaches "+n.Listen+": set nats.listen to 127.0.0.1:4222, or remove anonymous")
	case n.Anonymous && n.User != "":
		f.err("nats.anonymous", "lets clients in without the password that nats.user requires: set only one of them")
	case n.Anonymous:
		f.warn("nats.anonymous", "every process on this machine can read certificates, change records and delete streams: remove it, and use the seeds in data_dir/nats")
	}
	if beyond && n.TLS.CertFile == "" {
		f.err("nats.listen", n.Listen+" can be reached from other machines, and certificates would cross the network in clear text: set nats.tls.cert_file and nats.tls.key_file, or listen on loopback, such as 127.0.0.1:4222")
	}
}

// address checks a listen address.
