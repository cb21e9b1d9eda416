package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/certpost/certpost/examples"
	"github.com/certpost/certpost/internal/config"
	"github.com/certpost/certpost/internal/dane"
	"github.com/certpost/certpost/internal/deliverability"
	"github.com/certpost/certpost/internal/delivery"
	"github.com/certpost/certpost/internal/secrets"
)

//go:generate go test -run TestManual|TestNATSAccountOnThePage -update-manual

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
	// Health is what /healthz and the log report.
	Health HealthConfig `yaml:"health"`
	// Events says what events may name, and what happens to those without a target.
	Events EventsConfig `yaml:"events"`
	// Spool is where `certpost publish` keeps events that it cannot publish at once.
	Spool SpoolConfig `yaml:"spool"`
	// Delivery says how deliveries are made and retried.
	Delivery DeliveryConfig `yaml:"delivery"`
	// Audit is the protection of the audit and of the receipts (docs/audit.md).
	Audit AuditConfig `yaml:"audit"`
	// MailHost is the name of the mail host that this process runs on, as in the key host of
	// targets of type postfix, dovecot and file. Only this process makes the deliveries for
	// that host (lane host-NAME); without the key it makes none for mail hosts. Example: mx1.
	MailHost string `yaml:"mail_host"`
	// DNS is how TLSA records of mail hosts are looked up (docs/mail-hosts.md), and by check --live the records of senders
	// (docs/deliverability.md).
	DNS DNSConfig `yaml:"dns"`
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
	// Outcomes tell other systems what became of deliveries.
	Outcomes OutcomesConfig `yaml:"outcomes"`
	// Alerts are messages by mail or webhook about what needs attention.
	Alerts AlertsConfig `yaml:"alerts"`
	// DemoRelay is the SMTP server of `certpost relay`, for trying things out.
	DemoRelay DemoRelayConfig `yaml:"demo_relay"`
	// Log is the log on standard error.
	Log LogConfig `yaml:"log"`

	// agent says that this process serves the lane of its mail host and nothing else.
	agent bool

	// Book contains the definitions of the targets; nil when they have errors.
	Book *delivery.Book `yaml:"-"`
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
	// Sources limit publishers: what events on certificate.issued.web1 may name, by the key
	// web1. A key is all that follows certificate.issued., also with dots; in it * matches
	// any characters except a dot, ** any characters. The most specific key counts. Once
	// there are sources, secret_paths and file_roots are for other_sources only. Default:
	// none; all events have the same rights.
	Sources map[string]delivery.Opened `yaml:"sources"`
	// OtherSources says what happens to events of sources without a key in sources: refuse
	// makes dead letters (EVENT_INVALID), allow lets them name secret_paths, file_roots and
	// every target. Default: refuse, if there are sources.
	OtherSources string `yaml:"other_sources" enum:"refuse,allow"`
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
	// Templates are files with templates for the mails of targets that have none of their
	// own. They are read at the start.
	Templates delivery.Templates `yaml:"templates"`

	words *delivery.Words // of Templates, set by validate
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

// DNSConfig is the section dns.
type DNSConfig struct {
	// Servers are name servers that validate DNSSEC, host:port or an address, asked in this order.
	// Certpost believes their AD bit, so nothing on the way to them may be able to change answers.
	// Default: those in /etc/resolv.conf; they are believed if they run on this host, or if the
	// file has options trust-ad. Example: ["127.0.0.1"].
	Servers []string `yaml:"servers"`
	// Timeout is the time limit of one question to one server.
	Timeout time.Duration `yaml:"timeout" min:"100ms" max:"1m"`
}

// resolver returns the resolver of the settings.
func (c DNSConfig) resolver() *dane.Resolver {
	r := &dane.Resolver{Timeout: c.Timeout}
	for _, s := range c.Servers {
		r.Servers = append(r.Servers, dane.Server{Address: dnsAddress(s), Trusted: true})
	}
	return r
}

// judge returns what judges senders by the records in DNS.
func (c DNSConfig) judge() *deliverability.Judge {
	var servers []string
	for _, s := range c.Servers {
		servers = append(servers, dnsAddress(s))
	}
	return deliverability.NewJudge(servers, c.Timeout)
}

// dnsAddress adds the port of DNS to an address without one.
func dnsAddress(text string) string {
	if addr, err := netip.ParseAddr(text); err == nil {
		return net.JoinHostPort(addr.String(), "53")
	}
	return text
}

func (c DNSConfig) validate(f *findings) {
	for i, s := range c.Servers {
		if _, err := netip.ParseAddrPort(dnsAddress(s)); err != nil {
			f.err(fmt.Sprintf("dns.servers[%d]", i), fmt.Sprintf("want the IP address of a name server, with or without a port, not %q", s))
		}
	}
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
		Spool:   defaultSpool(),
		Delivery: DeliveryConfig{
			Concurrency: 64, Retry: RetryConfig{Initial: 5 * time.Second, Max: time.Hour, Multiplier: 2},
			GiveUpAfter: 72 * time.Hour, OnUnknownOutcome: "resend", Grace: 25 * time.Second, ProductName: "Certpost",
		},
		Health:    HealthConfig{ExpiryWarning: expiresSoon},
		DNS:       DNSConfig{Timeout: 5 * time.Second},
		Alerts:    defaultAlerts(),
		Outcomes:  defaultOutcomes(),
		DemoRelay: defaultDemoRelay(),
		Log:       LogConfig{Level: "info", Format: "auto"},
	}
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
		problems = append(problems, c.undefined(definitions)...)
		if c.MailHost != "" && !definitions.HasLane(c.hostLane()) {
			problems = append(problems, config.Problem{Path: "mail_host", Severity: config.Warning,
				Message: fmt.Sprintf("no target is on host %s, so nothing is deployed here", c.MailHost)})
		}
	}
	return problems
}

// undefined returns what is wrong with the targets that other sections name. An allowed target that is
// not there is a warning; alerts that cannot be mailed are an error.
func (c *Config) undefined(d *delivery.Definitions) []config.Problem {
	return slices.Concat(c.Events.undefined(d), c.Alerts.undefined(d), c.Outcomes.undefined(d), c.HTTP.Ingest.undefined(d))
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
	f = append(f, delivery.ValidateHost(c.MailHost)...)
	c.HTTP.validate(&f)
	c.DNS.validate(&f)
	c.Audit.validate(&f)
	c.DemoRelay.validate(&f)
	c.Events.validate(&f)
	c.Alerts.validate(&f)
	c.Outcomes.validate(&f)
	if a := &c.Alerts; a.on() && a.Waiting != defaultAlerts().Waiting && a.Waiting >= c.Delivery.GiveUpAfter {
		f.warn("alerts.waiting", fmt.Sprintf("is never reached: after delivery.give_up_after, %v, a delivery is a dead letter", c.Delivery.GiveUpAfter))
	}
	if c.Delivery.Retry.Max < c.Delivery.Retry.Initial {
		f.err("delivery.retry.max", fmt.Sprintf("is shorter than the first pause, %v", c.Delivery.Retry.Initial))
	}
	c.Delivery.words = delivery.ReadTemplates(c.Delivery.Templates)
	for _, p := range c.courierOptions().Validate() {
		p.Path = "delivery." + p.Path
		f = append(f, p)
	}
	return f
}

func (e *EventsConfig) validate(f *findings) {
	for _, p := range e.general().Validate() {
		f.err("events."+p.Path, p.Message)
	}
	for _, p := range e.sources().Validate() {
		p.Path = "events." + p.Path
		*f = append(*f, p)
	}
	switch {
	case e.Sources == nil && e.OtherSources == "refuse":
		f.err("events.other_sources", "refuses every event: give events.sources, or leave it out")
	case e.Sources == nil && e.OtherSources != "":
		f.warn("events.other_sources", "has no effect without events.sources")
	case e.Sources != nil && e.OtherSources != "allow" && len(e.SecretPaths)+len(e.FileRoots) > 0:
		f.warn("events.sources", "replace events.secret_paths and events.file_roots, which apply to no event: move them to the sources, or set events.other_sources to allow")
	}
}

// general is what events may name without sources, and those of other sources.
func (e *EventsConfig) general() secrets.Policy {
	return secrets.Policy{Paths: e.SecretPaths, FileRoots: e.FileRoots}
}

func (e *EventsConfig) sources() delivery.Sources {
	return delivery.Sources{Listed: e.Sources, AllowOthers: e.OtherSources == "allow"}
}

// undefined returns a warning for each target that the sources name and nothing defines.
func (e *EventsConfig) undefined(d *delivery.Definitions) []config.Problem {
	problems := e.sources().Undefined(d)
	for i := range problems {
		problems[i].Path = "events." + problems[i].Path
	}
	return problems
}

// hostLane is the lane of the mail host that this process runs on; "" for none.
func (c *Config) hostLane() string {
	if c.MailHost == "" {
		return ""
	}
	return delivery.HostLane(c.MailHost)
}

// courierOptions returns the settings of the courier.
func (c *Config) courierOptions() delivery.Options {
	return delivery.Options{
		EventSecrets: c.Events.general(), Sources: c.Events.sources(),
		InvalidDates: c.Events.InvalidDates, Product: c.Delivery.ProductName,
		Words: c.Delivery.words, MessageIDDomain: c.Delivery.MessageIDDomain, HELO: c.Delivery.HELOName, HostLane: c.hostLane(), Resolver: c.DNS.resolver(), ExpiryWarning: c.Health.ExpiryWarning, Readdress: c.HTTP.EditAndReplay.recipients(),
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
