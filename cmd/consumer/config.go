package main

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/certpost/certpost/examples"
	"github.com/certpost/certpost/internal/access"
	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/config"
	"github.com/certpost/certpost/internal/delivery"
	"github.com/certpost/certpost/internal/secrets"
)

//go:generate go test -run TestManual -update-manual

// Config is the whole configuration. Its comments are the manual and the
// descriptions in the JSON Schema; docs/configuration.md describes what applies to
// all keys. Relative paths start at the working directory.
type Config struct {
	// DataDir is the directory of the embedded NATS server: events, deliveries,
	// ledger, dead letters. It is not used when nats.url is set.
	DataDir string `yaml:"data_dir" required:"true"`
	// NATS is the connection to a NATS server, or the embedded server.
	NATS NATSConfig `yaml:"nats"`
	// Vault is the connection to HashiCorp Vault, for secrets that are stored there.
	Vault secrets.Config `yaml:"vault"`
	// HTTP is the server of the dashboard, health checks and metrics.
	HTTP HTTPConfig `yaml:"http"`
	// Events says what events may name, and what happens to those without a target.
	Events EventsConfig `yaml:"events"`
	// Delivery says how deliveries are made and retried.
	Delivery DeliveryConfig `yaml:"delivery"`
	// Audit is the protection of the audit and of the receipts (docs/audit.md).
	Audit AuditConfig `yaml:"audit"`
	// Relays are credentials, TLS and limits of relays, for all targets that use them.
	Relays delivery.Relays `yaml:"relays" override:"false"`
	// Targets define who receives which certificates. Set only one of targets,
	// targets_dir and targets_file.
	Targets []delivery.Target `yaml:"targets"`
	// TargetsDir is a directory of target files (*.yaml, *.yml). Each contains a list
	// under targets, or a single target. Example: /etc/certpost/targets.
	TargetsDir string `yaml:"targets_dir"`
	// TargetsFile is one such file. Example: /etc/certpost/targets.yaml.
	TargetsFile string `yaml:"targets_file"`
	// Log is the log on standard error.
	Log LogConfig `yaml:"log"`

	// Book contains the definitions of the targets; nil when they have errors.
	Book *delivery.Book `yaml:"-"`
}

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
	// MaxBytes is the most that each stream may store, for accounts that require a limit.
	// A full stream refuses new messages; nothing stored is removed.
	MaxBytes StreamSizes `yaml:"max_bytes"`
	// DuplicateWindow is how long the streams remember message ids, at least 10s. Set it
	// if the server allows less than 2m. Default: 2m, or what an administrator has set.
	DuplicateWindow time.Duration `yaml:"duplicate_window"`
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
	// duration such as 2m (faster; a power cut can lose the messages of that time).
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
	// Ledger is the limit of the bucket CERTPOST_LEDGER: 1 to 4 KiB for each delivery of 400 days.
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

// EventsConfig is the section events. The author of an event is not the operator:
// an event may name only the secrets and files that are listed here.
type EventsConfig struct {
	// SecretPaths are globs on mount/path of the Vault secrets that events may name: *
	// matches one level, ** at the end all levels below. Example: secret/certs/*.
	// Default: none.
	SecretPaths []string `yaml:"secret_paths"`
	// FileRoots are absolute directories below which events may name files: regular ones
	// without further hard links. Certpost must be allowed to read and enter every directory
	// on the way, also where symbolic links lead. Default: none.
	FileRoots []string `yaml:"file_roots"`
	// Unmatched says what happens to an event that matches no target: dead_letter
	// stores a dead letter, ignore only writes a line to the log.
	Unmatched string `yaml:"unmatched" enum:"dead_letter,ignore"`
	// InvalidDates says what happens to certificates that have expired or are not
	// valid yet: refuse makes a dead letter, warn sends the mail with a warning.
	InvalidDates string `yaml:"invalid_dates" enum:"refuse,warn"`
}

// AuditConfig is the section audit.
type AuditConfig struct {
	// Key is a reference to the keys that sign the audit and the receipts: 32 bytes each in
	// base64, as printed by certpost audit key, the newest first. All processes on one NATS need
	// the same keys. Default: the file audit.key in data_dir, which is made at the first start
	// with the embedded NATS; with nats.url and without that file, nothing is signed.
	Key secrets.Ref `yaml:"key"`
}

// DeliveryConfig is the section delivery.
type DeliveryConfig struct {
	// Concurrency is the maximum number of deliveries at a time, per lane (the queue
	// of a relay) and process. The number of connections to the relay has a limit of its
	// own, max_connections.
	Concurrency int `yaml:"concurrency" min:"1" max:"1000"`
	// Retry says how long the pauses between attempts are.
	Retry RetryConfig `yaml:"retry"`
	// GiveUpAfter is the age at which a delivery that fails again is no longer retried
	// and becomes a dead letter (DELIVERY_EXPIRED).
	GiveUpAfter time.Duration `yaml:"give_up_after" min:"1s"`
	// OnUnknownOutcome says what happens to a mail whose outcome is unknown because
	// the connection broke after the content was sent: resend sends it again (it may
	// arrive twice), dead_letter stores a dead letter (an operator decides).
	OnUnknownOutcome string `yaml:"on_unknown_outcome" enum:"resend,dead_letter"`
	// Grace is how long mails that are being sent may take to finish when the process
	// is told to stop; unfinished deliveries continue after the next start.
	Grace time.Duration `yaml:"grace" min:"0s" max:"1h"`
	// MessageIDDomain is the part of Message-IDs after the @, such as example.com.
	// Default: the domain of the target's from_address.
	MessageIDDomain string `yaml:"message_id_domain"`
	// HELOName is the name in the EHLO command, such as certpost.example.com. Default:
	// the host's name if it is fully qualified, else the local IP address.
	HELOName string `yaml:"helo_name"`
	// ProductName is the name of the product in subjects and bodies of mails.
	ProductName string `yaml:"product_name" required:"true"`
}

// RetryConfig is the section delivery.retry. Each pause is multiplier times as long
// as the previous one, up to max, with a jitter of 20 % in either direction.
type RetryConfig struct {
	// Initial is the pause after the first failed attempt.
	Initial time.Duration `yaml:"initial" min:"100ms" max:"24h"`
	// Max is the longest pause between two attempts.
	Max time.Duration `yaml:"max" min:"100ms" max:"24h"`
	// Multiplier is the factor by which the pause grows after each failed attempt.
	Multiplier float64 `yaml:"multiplier" min:"1" max:"10"`
}

// LogConfig is the section log.
type LogConfig struct {
	// Level is the lowest level that is written.
	Level string `yaml:"level" enum:"debug,info,warn,error"`
	// Format is json, console (coloured), or auto: console on a terminal, else json.
	Format string `yaml:"format" enum:"auto,json,console"`
	// Addresses also writes the addresses of recipients to the log.
	Addresses bool `yaml:"addresses"`
}

// Size is a number of bytes, written as 500MiB or 10GiB.
type Size int64

// UnmarshalYAML reads a whole number and a unit: KiB, MiB, GiB or TiB.
func (s *Size) UnmarshalYAML(unmarshal func(any) error) error {
	var text string
	if err := unmarshal(&text); err != nil {
		return err
	}
	digits := strings.TrimRight(text, "KMGTiB")
	shift, known := map[string]int{"KiB": 10, "MiB": 20, "GiB": 30, "TiB": 40}[text[len(digits):]]
	n, err := strconv.ParseInt(digits, 10, 22)
	if !known || err != nil || n < 1 {
		return errors.New("want a size such as 500MiB or 10GiB")
	}
	*s = Size(n << shift)
	return nil
}

// String returns the size in the largest unit that gives a whole number.
func (s Size) String() string {
	units := []string{"KiB", "MiB", "GiB", "TiB"}
	n := int64(s) >> 10
	for n >= 1024 && n%1024 == 0 && len(units) > 1 {
		n, units = n>>10, units[1:]
	}
	return strconv.FormatInt(n, 10) + units[0]
}

// defaultConfig returns the configuration without any setting.
func defaultConfig() *Config {
	return &Config{
		DataDir: "./data",
		NATS:    NATSConfig{Replicas: 1, Service: true, Listen: "127.0.0.1:4222", SyncInterval: "always", MaxStore: 10 << 30},
		HTTP:    defaultHTTP(),
		Events:  EventsConfig{Unmatched: "dead_letter", InvalidDates: "refuse"},
		Delivery: DeliveryConfig{
			Concurrency: 64, Retry: RetryConfig{Initial: 5 * time.Second, Max: time.Hour, Multiplier: 2},
			GiveUpAfter: 72 * time.Hour, OnUnknownOutcome: "resend", Grace: 25 * time.Second, ProductName: "Certpost",
		},
		Log: LogConfig{Level: "info", Format: "auto"},
	}
}

const (
	defaultConfigFile = "certpost.yaml"
	overridePrefix    = "CERTPOST_"
	configVariable    = "CERTPOST_CONFIG" // the path of the configuration file
)

// loadConfig reads the configuration and the targets and returns all problems at
// once; if one of them is an error, the rest of the result may only be shown, not
// used. An empty path means the path in CERTPOST_CONFIG, then certpost.yaml if it
// exists; otherwise every setting has its default and there are no targets. env is
// the result of os.Environ.
func loadConfig(path string, env []string) (*Config, *config.Document, []config.Problem) {
	cfg, doc, problems := readConfig(path, env)
	problems = doc.Locate(append(problems, cfg.openBook(configPath(path, env), env)...))
	if cfg.Book != nil && cfg.TargetsDir+cfg.TargetsFile == "" {
		cfg.Book.Current().Remark(doc, problems)
	}
	return cfg, doc, problems
}

// loadConnection is loadConfig for commands that talk to the running program. They
// need no targets: errors in targets and relays, with which the running program
// keeps its old definitions, must not stop an ACME client's hook from publishing.
func loadConnection(path string, env []string) (*Config, []config.Problem) {
	cfg, doc, problems := readConfig(path, env)
	problems = slices.DeleteFunc(problems, func(p config.Problem) bool {
		return strings.HasPrefix(p.Path, "targets") || strings.HasPrefix(p.Path, "relays")
	})
	return cfg, doc.Locate(problems)
}

// readConfig reads the configuration without targets_dir and targets_file.
func readConfig(path string, env []string) (*Config, *config.Document, []config.Problem) {
	cfg := defaultConfig()
	options := []config.Option{config.Variables(env), config.Overrides(overridePrefix, env, configVariable)}
	path = configPath(path, env)
	var doc *config.Document
	var problems []config.Problem
	if path == "" {
		doc, problems = config.Parse("", nil, cfg, options...)
	} else {
		doc, problems = config.Load(path, cfg, options...)
	}
	cfg.HTTP.file = path
	cfg.HTTP.again = func() (*HTTPConfig, []config.Problem) {
		next, doc, problems := readConfig(path, env)
		return &next.HTTP, doc.Locate(problems)
	}
	problems = append(problems, config.Check(cfg, "")...)
	return cfg, doc, append(problems, cfg.validate()...)
}

func configPath(path string, env []string) string {
	if path != "" {
		return path
	}
	for _, variable := range env {
		if path, ok := strings.CutPrefix(variable, configVariable+"="); ok && path != "" {
			return path
		}
	}
	if _, err := os.Stat(defaultConfigFile); errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	return defaultConfigFile
}

// openBook reads the definitions of the targets from the source that is configured.
func (c *Config) openBook(path string, env []string) []config.Problem {
	source := delivery.Source{Dir: c.TargetsDir, File: c.TargetsFile, Relays: path, Environ: env}
	var definitions *delivery.Definitions
	var problems []config.Problem
	switch {
	case c.TargetsDir != "" && c.TargetsFile != "" || c.Targets != nil && c.TargetsDir+c.TargetsFile != "":
		return []config.Problem{{Path: "targets", Message: "set only one of targets, targets_dir and targets_file"}}
	case c.TargetsDir+c.TargetsFile != "":
		definitions, problems = source.Load()
	default:
		source.Config = path
		definitions, problems = c.Relays.Define(c.Targets)
	}
	if definitions != nil {
		c.Book = delivery.NewBook(definitions, source)
	}
	return problems
}

// findings collects problems by path.
type findings []config.Problem

func (f *findings) err(path, message string) {
	*f = append(*f, config.Problem{Path: path, Message: message})
}

func (f *findings) warn(path, message string) {
	*f = append(*f, config.Problem{Path: path, Message: message, Severity: config.Warning})
}

// validate checks what the tags of the fields cannot express.
func (c *Config) validate() []config.Problem {
	var f findings
	c.NATS.validate(&f)
	vault := c.Vault.Validate()
	for _, p := range vault {
		f.err(strings.TrimSuffix("vault."+p.Path, "."), p.Message)
	}
	if len(vault) == 0 {
		for _, p := range c.Vault.Warnings() {
			f.warn("vault."+p.Path, p.Message)
		}
	}
	c.HTTP.validate(&f)
	c.Audit.validate(&f)
	for _, p := range (secrets.Policy{Paths: c.Events.SecretPaths, FileRoots: c.Events.FileRoots}).Validate() {
		f.err("events."+p.Path, p.Message)
	}
	if c.Delivery.Retry.Max < c.Delivery.Retry.Initial {
		f.err("delivery.retry.max", fmt.Sprintf("is shorter than the first pause, %v", c.Delivery.Retry.Initial))
	}
	for _, p := range c.courierOptions().Validate() {
		f.err("delivery."+p.Path, p.Message)
	}
	return f
}

// courierOptions returns the settings of the courier.
func (c *Config) courierOptions() delivery.Options {
	return delivery.Options{
		EventSecrets: secrets.Policy{Paths: c.Events.SecretPaths, FileRoots: c.Events.FileRoots},
		InvalidDates: c.Events.InvalidDates, Product: c.Delivery.ProductName,
		MessageIDDomain: c.Delivery.MessageIDDomain, HELO: c.Delivery.HELOName, Readdress: c.HTTP.EditAndReplay.recipients(),
	}
}

func (k *AuditConfig) validate(f *findings) {
	if k.Key.IsZero() {
		return
	}
	if err := k.Key.Validate(); err != nil {
		f.err("audit.key", err.Error())
	} else if warning := k.Key.Warning(); warning != "" {
		f.warn("audit.key", warning)
	}
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
		case secrets.WrongPort(u) != "":
			f.err("nats.url", secrets.WrongPort(u))
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
	if d, err := time.ParseDuration(n.SyncInterval); n.SyncInterval != "always" && (err != nil || d <= 0) {
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
func (f *findings) address(path, address string) {
	if address == "" {
		return // the required tag reports it
	}
	host, port, err := net.SplitHostPort(address)
	n, portErr := strconv.Atoi(port)
	if err != nil || portErr != nil || n < 0 || n > 65535 || strings.ContainsAny(host, " /") {
		f.err(path, "want an address and a port such as 127.0.0.1:8080, or :8080 for all addresses")
	}
}

// configSchema returns the JSON Schema of the configuration.
func configSchema() []byte { return examples.ConfigSchema() }
