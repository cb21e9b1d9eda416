package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/certpost/certpost/examples"
	"github.com/certpost/certpost/internal/config"
	"github.com/certpost/certpost/internal/delivery"
	"github.com/certpost/certpost/internal/secrets"
)

//go:generate go test -run TestManual -update-manual

// Config is the whole configuration. Its comments are the manual, and the
// descriptions in the JSON Schema; docs/configuration.md says what holds for all
// keys. Relative paths start at the working directory.
type Config struct {
	// DataDir holds the embedded NATS: events, deliveries, ledger, dead letters. It
	// is not used when nats.url is given.
	DataDir string `yaml:"data_dir" required:"true"`
	// NATS is where events come from and deliveries wait.
	NATS NATSConfig `yaml:"nats"`
	// Vault is where secrets come from.
	Vault secrets.Config `yaml:"vault"`
	// HTTP is the dashboard, health checks and metrics.
	HTTP HTTPConfig `yaml:"http"`
	// Events says what events may do.
	Events EventsConfig `yaml:"events"`
	// Delivery says how deliveries are made and tried again.
	Delivery DeliveryConfig `yaml:"delivery"`
	// Relays are credentials, TLS and limits of relays, for all targets that use them.
	Relays delivery.Relays `yaml:"relays" override:"false"`
	// Targets are who gets which certificates. Give only one of targets,
	// targets_dir and targets_file.
	Targets []delivery.Target `yaml:"targets"`
	// TargetsDir is a directory of files (*.yaml, *.yml), each with a list under
	// targets or with a single target.
	TargetsDir string `yaml:"targets_dir"`
	// TargetsFile is a file with a list under targets or with a single target.
	TargetsFile string `yaml:"targets_file"`
	// Log is what is written to standard error.
	Log LogConfig `yaml:"log"`

	// Book has the definitions of the targets, wherever they come from; nil when
	// they have errors.
	Book *delivery.Book `yaml:"-"`
}

// NATSConfig is the section nats.
type NATSConfig struct {
	// URL of a server, or of several of one cluster, separated by commas:
	// nats://127.0.0.1:4222, tls://..., ws://..., wss://... Without it Certpost runs
	// a NATS server of its own below data_dir.
	URL string `yaml:"url"`
	// CredentialsFile is a .creds file with a user's JWT and seed.
	CredentialsFile string `yaml:"credentials_file"`
	// NKeyFile is a file with a user's NKey seed.
	NKeyFile string `yaml:"nkey_file"`
	// User and Password log in; the embedded server asks its clients for them.
	User string `yaml:"user"`
	// Password of the user, as a secret reference.
	Password secrets.Ref `yaml:"password"`
	// TLS of the connection.
	TLS TLSConfig `yaml:"tls"`
	// Replicas of streams, consumers and bucket; more than 1 takes a cluster.
	Replicas int `yaml:"replicas" enum:"1,3,5"`
	// Service answers requests about dead letters on certpost.dead.* and others
	// (docs/replay.md). Whoever may publish there in NATS may replay and discard.
	Service bool `yaml:"service"`

	// Listen is the embedded server's address for other clients, or none.
	Listen string `yaml:"listen" required:"true"`
	// SyncInterval is how often the embedded server writes to the disk for good:
	// always (after every message, so that a power cut loses nothing that was
	// acknowledged) or a duration.
	SyncInterval string `yaml:"sync_interval" pattern:"^(always|[0-9].*)$"`
	// MaxStore bounds what the embedded server keeps, such as 500MiB or 10GiB. When
	// it is full events are refused; nothing is dropped.
	MaxStore Size `yaml:"max_store" pattern:"^[0-9]+(KiB|MiB|GiB|TiB)$"`
}

// TLSConfig are the PEM files of a client's TLS.
type TLSConfig struct {
	// CAFile has the CAs to trust instead of the system's.
	CAFile string `yaml:"ca_file"`
	// CertFile is the client certificate.
	CertFile string `yaml:"cert_file"`
	// KeyFile is the client certificate's key.
	KeyFile string `yaml:"key_file"`
}

// EventsConfig is the section events. An event's author is not the operator:
// what an event may name has to be listed here.
type EventsConfig struct {
	// SecretPaths are globs on mount/path of the secrets that events may name; *
	// stands for one level, ** at the end for all below. None by default.
	SecretPaths []string `yaml:"secret_paths"`
	// FileRoots are absolute directories below which events may name files. None by
	// default.
	FileRoots []string `yaml:"file_roots"`
	// Unmatched is what becomes of an event that fits no target: dead_letter, or
	// ignore (a line in the log).
	Unmatched string `yaml:"unmatched" enum:"dead_letter,ignore"`
	// InvalidDates is what becomes of certificates that have expired or are not
	// valid yet: refuse (dead letter), or warn (sent with a warning).
	InvalidDates string `yaml:"invalid_dates" enum:"refuse,warn"`
}

// DeliveryConfig is the section delivery.
type DeliveryConfig struct {
	// Concurrency is how many deliveries to one relay are under way at once, per
	// process.
	Concurrency int `yaml:"concurrency" min:"1" max:"1000"`
	// Retry says how the pauses between tries grow.
	Retry RetryConfig `yaml:"retry"`
	// GiveUpAfter is the age at which a delivery that still fails becomes a dead
	// letter (DELIVERY_EXPIRED).
	GiveUpAfter time.Duration `yaml:"give_up_after" min:"1s"`
	// OnUnknownOutcome is what becomes of a mail whose fate is not known because the
	// connection broke after it was handed over: resend (it may arrive twice), or
	// dead_letter (a person decides).
	OnUnknownOutcome string `yaml:"on_unknown_outcome" enum:"resend,dead_letter"`
	// Grace is how long mails under way may take to finish when the process is told
	// to end; what is not done by then is done after the next start.
	Grace time.Duration `yaml:"grace" min:"0s" max:"1h"`
	// MessageIDDomain is the right side of Message-IDs; the sender's domain by
	// default.
	MessageIDDomain string `yaml:"message_id_domain"`
	// HELOName is the name given to relays; the host's by default, if it has a full
	// one.
	HELOName string `yaml:"helo_name"`
	// ProductName stands in subjects and bodies.
	ProductName string `yaml:"product_name" required:"true"`
}

// RetryConfig is the section delivery.retry: the first pause, and each one
// multiplier times as long as the one before, up to max; all with some jitter.
type RetryConfig struct {
	// Initial is the pause after the first failed try.
	Initial time.Duration `yaml:"initial" min:"100ms" max:"24h"`
	// Max is the longest pause.
	Max time.Duration `yaml:"max" min:"100ms" max:"24h"`
	// Multiplier is how much longer each pause is.
	Multiplier float64 `yaml:"multiplier" min:"1" max:"10"`
}

// LogConfig is the section log.
type LogConfig struct {
	// Level is the least that is written.
	Level string `yaml:"level" enum:"debug,info,warn,error"`
	// Format: json, console (coloured, for people), or auto: console on a terminal,
	// else json.
	Format string `yaml:"format" enum:"auto,json,console"`
	// Addresses writes recipients' addresses into the log.
	Addresses bool `yaml:"addresses"`
}

// Size is a number of bytes, written 500MiB or 10GiB.
type Size int64

// UnmarshalYAML reads a whole number and a unit.
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

// String is the size as it is written.
func (s Size) String() string {
	units := []string{"KiB", "MiB", "GiB", "TiB"}
	n := int64(s) >> 10
	for n >= 1024 && n%1024 == 0 && len(units) > 1 {
		n, units = n>>10, units[1:]
	}
	return strconv.FormatInt(n, 10) + units[0]
}

// defaultConfig is the configuration when nothing is configured.
func defaultConfig() *Config {
	return &Config{
		DataDir: "./data",
		NATS:    NATSConfig{Replicas: 1, Service: true, Listen: "127.0.0.1:4222", SyncInterval: "always", MaxStore: 10 << 30},
		HTTP:    defaultHTTP(),
		Events:  EventsConfig{Unmatched: "dead_letter", InvalidDates: "refuse"},
		Delivery: DeliveryConfig{
			Concurrency: 16, Retry: RetryConfig{Initial: 5 * time.Second, Max: time.Hour, Multiplier: 2},
			GiveUpAfter: 72 * time.Hour, OnUnknownOutcome: "resend", Grace: 25 * time.Second, ProductName: "Certpost",
		},
		Log: LogConfig{Level: "info", Format: "auto"},
	}
}

const (
	defaultConfigFile = "certpost.yaml"
	overridePrefix    = "CERTPOST_"
	configVariable    = "CERTPOST_CONFIG" // names the file itself
)

// loadConfig reads the configuration and the targets, and says everything that
// is wrong with them at once; with an error among the problems the rest of the
// result is only good for showing. Without a path it is CERTPOST_CONFIG's, then
// certpost.yaml's if there is one; without that everything has its default and
// there are no targets. env is what os.Environ gives.
func loadConfig(path string, env []string) (*Config, *config.Document, []config.Problem) {
	cfg, doc, problems := readConfig(path, env)
	problems = doc.Locate(append(problems, cfg.openBook(configPath(path, env), env)...))
	if cfg.Book != nil && cfg.TargetsDir+cfg.TargetsFile == "" {
		cfg.Book.Current().Remark(doc, problems)
	}
	return cfg, doc, problems
}

// loadConnection is loadConfig for commands that talk to the running program. They
// need no targets, and an edit of those that went wrong, which the program itself
// puts up with, must not keep an ACME client's hook from publishing.
func loadConnection(path string, env []string) (*Config, []config.Problem) {
	cfg, doc, problems := readConfig(path, env)
	problems = slices.DeleteFunc(problems, func(p config.Problem) bool {
		return strings.HasPrefix(p.Path, "targets") || strings.HasPrefix(p.Path, "relays")
	})
	return cfg, doc.Locate(problems)
}

// readConfig reads all but the targets' definitions that stand elsewhere.
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

// openBook reads the definitions from where the configuration says.
func (c *Config) openBook(path string, env []string) []config.Problem {
	source := delivery.Source{Dir: c.TargetsDir, File: c.TargetsFile, Relays: path, Environ: env}
	var definitions *delivery.Definitions
	var problems []config.Problem
	switch {
	case c.TargetsDir != "" && c.TargetsFile != "" || c.Targets != nil && c.TargetsDir+c.TargetsFile != "":
		return []config.Problem{{Path: "targets", Message: "give only one of targets, targets_dir and targets_file"}}
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

// validate checks what the tags of the fields do not say.
func (c *Config) validate() []config.Problem {
	var f findings
	c.NATS.validate(&f)
	for _, p := range c.Vault.Validate() {
		f.err(strings.TrimSuffix("vault."+p.Path, "."), p.Message)
	}
	c.HTTP.validate(&f)
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

// courierOptions are the settings that deliveries are made by.
func (c *Config) courierOptions() delivery.Options {
	return delivery.Options{
		EventSecrets: secrets.Policy{Paths: c.Events.SecretPaths, FileRoots: c.Events.FileRoots},
		InvalidDates: c.Events.InvalidDates, Product: c.Delivery.ProductName,
		MessageIDDomain: c.Delivery.MessageIDDomain, HELO: c.Delivery.HELOName, Readdress: c.HTTP.EditAndReplay.recipients(),
	}
}

func (n *NATSConfig) validate(f *findings) {
	for address := range strings.SplitSeq(n.URL, ",") {
		u, err := url.Parse(strings.TrimSpace(address))
		switch {
		case n.URL == "":
		case err != nil || u.Host == "" || !slices.Contains([]string{"nats", "tls", "ws", "wss"}, u.Scheme):
			f.err("nats.url", "want a URL such as nats://127.0.0.1:4222, or several of one cluster, separated by commas")
		case u.User != nil:
			f.err("nats.url", "holds a user or a token, which URLs do not keep to themselves: want nats.user and nats.password")
		}
	}
	var ways []string
	for _, way := range []struct{ key, value string }{{"credentials_file", n.CredentialsFile}, {"nkey_file", n.NKeyFile}, {"user", n.User}} {
		if way.value != "" {
			ways = append(ways, way.key)
		}
	}
	if len(ways) > 1 {
		f.err("nats", "has more than one way to log in ("+strings.Join(ways, ", ")+"): give one")
	}
	switch {
	case n.User == "" && !n.Password.IsZero():
		f.err("nats.user", "is missing: a password alone is of no use")
	case n.User != "" && n.Password.IsZero():
		f.err("nats.password", "is missing: nats.user needs it")
	case n.User != "":
		if err := n.Password.Validate(); err != nil {
			f.err("nats.password", err.Error())
		} else if warning := n.Password.Warning(); warning != "" {
			f.warn("nats.password", warning)
		}
	}
	if (n.TLS.CertFile == "") != (n.TLS.KeyFile == "") {
		f.err("nats.tls", "cert_file and key_file belong together: give both")
	}
	if n.Listen != "none" {
		f.address("nats.listen", n.Listen)
	}
	if d, err := time.ParseDuration(n.SyncInterval); n.SyncInterval != "always" && (err != nil || d <= 0) {
		f.err("nats.sync_interval", "want always, or a duration such as 2m")
	}
	if n.URL == "" && n.Replicas > 1 {
		f.err("nats.replicas", "more than one takes a cluster: want nats.url")
	}
}

// address checks where to listen.
func (f *findings) address(path, address string) {
	if address == "" {
		return // is missing, which the tag says
	}
	host, port, err := net.SplitHostPort(address)
	n, portErr := strconv.Atoi(port)
	if err != nil || portErr != nil || n < 0 || n > 65535 || strings.ContainsAny(host, " /") {
		f.err(path, "want an address and a port such as 127.0.0.1:8080, or :8080 for all addresses")
	}
}

// configSchema is the JSON Schema of the configuration.
func configSchema() []byte { return examples.ConfigSchema() }
