// Certpost delivers certificates: it consumes certificate.issued events from NATS
// JetStream and mails each certificate to the recipients that its targets define. This
// package is the command line and the wiring; docs/flow.md describes the rest.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"reflect"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/config"
	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/duration"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/service"
)

// Exit codes.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2 // wrong usage or configuration
	// exitKept: publish could not publish yet, and keeps the event in the spool. It is the
	// number of EX_TEMPFAIL in sysexits.h.
	exitKept = 75
)

// version is set by the linker (-X main.version=v1.2.3). If it is empty,
// programVersion reads Go's build information.
var version string

// cli is the command line. The help lists the commands in this order.
type cli struct {
	Config      string           `help:"Configuration file (default: certpost.yaml, if it exists)." env:"CERTPOST_CONFIG" placeholder:"FILE" short:"c"`
	NATSURL     string           `name:"nats-url" help:"NATS server to use instead of that of the configuration (nats.url)." placeholder:"URL"`
	Quiet       bool             `help:"Print only errors and warnings, not what was done." short:"q"`
	VersionFlag kong.VersionFlag `name:"version" help:"Print the version and exit."`

	Run          runCmd          `cmd:"" help:"Consume events and deliver certificates; serve dashboard, health and metrics."`
	Demo         demoCmd         `cmd:"" help:"Run everything in one process, with a demo relay and an inbox page."`
	Init         initCmd         `cmd:"" help:"Write a commented configuration, after a few questions or from flags."`
	Publish      publishCmd      `cmd:"" help:"Publish a certificate.issued event, by hand or from an ACME client's hook."`
	Issue        issueCmd        `cmd:"" help:"Have Vault's PKI engine issue a certificate, store its key, and publish it."`
	Watch        watchGroup      `cmd:"" help:"Publish certificates as they appear, and what hooks had to leave in the spool: directories, kubernetes."`
	Hook         hookCmd         `cmd:"" help:"Hooks of ACME clients: install."`
	Check        checkCmd        `cmd:"" help:"Check configuration and targets; with --live also NATS, Vault, relays and secrets."`
	Render       renderCmd       `cmd:"" help:"Write the mails that targets would get, without sending them, without secrets and without a network."`
	SendTest     sendTestCmd     `cmd:"" name:"send-test" help:"Send a target's mail with a test certificate, without NATS."`
	Relay        relayCmd        `cmd:"" help:"Run the demo relay: an SMTP server that keeps mails and delivers none, with an inbox page."`
	Status       statusCmd       `cmd:"" help:"What waits, what ended as dead letters, and which lanes do not deliver."`
	Targets      targetsCmd      `cmd:"" help:"Targets of the configuration: list, show."`
	DeadLetters  deadLettersCmd  `cmd:"" name:"dead-letters" help:"Dead letters (failed deliveries): list, groups, show, preflight, replay, edit, discard, restore, hold, release, assign, ticket, note."`
	Replays      replaysCmd      `cmd:"" help:"Replay runs of many dead letters: list, show, pause, resume, cancel."`
	Audit        auditCmd        `cmd:"" help:"What was done, and by whom: list, export, verify, accept, rotate, key."`
	Relays       relaysCmd       `cmd:"" help:"Lanes and their relays: list, suspend, resume."`
	Alerts       alertsCmd       `cmd:"" help:"Alerts that Certpost sends by itself: list, silence, unsilence, test."`
	Deliveries   deliveriesCmd   `cmd:"" help:"Deliveries and their state in the ledger: list, show, who, retry, cancel, resend, rollback, plan."`
	Schema       schemaCmd       `cmd:"" help:"Print the JSON Schema of events, of outcomes or of the configuration."`
	HashPassword hashPasswordCmd `cmd:"" name:"hash-password" help:"Print the hash of a password for http.sign_in.users."`
	NATSAccount  natsAccountCmd  `cmd:"" name:"nats-account" help:"Print NATS accounts with a user for each role, and what each may do."`
	Backup       backupCmd       `cmd:"" help:"Copy all that lies in NATS, and the keys of data_dir, into a directory, while certpost runs."`
	Restore      restoreCmd      `cmd:"" help:"Make the streams of a backup in an empty NATS."`
	Completion   completionCmd   `cmd:"" help:"Print the script that completes commands in bash, zsh or fish."`
	Complete     completeCmd     `cmd:"" hidden:""`
	Man          manCmd          `cmd:"" help:"Print the manual page."`
	Help         helpCmd         `cmd:"" help:"Show the help of a command."`
	Version      versionCmd      `cmd:"" help:"Print the version."`
}

// newCLI is the command line with the flags that come from the tables of the lists.
func newCLI() *cli {
	c := &cli{}
	letters := &c.DeadLetters
	for _, filter := range []*letterFilter{&letters.List.letterFilter, &letters.Groups.letterFilter, &letters.Preflight.letterFilter, &letters.Replay.letterFilter, &letters.Discard.letterFilter, &letters.Restore.letterFilter, &letters.Hold.letterFilter, &letters.Release.letterFilter} {
		*filter = newLetterFilter()
	}
	for _, filter := range []*recordFilter{&c.Audit.List.recordFilter, &c.Audit.Export.recordFilter} {
		filter.filterFlags = newFilterFlags(desk.HistoryConditions.All())
	}
	c.Deliveries.List.filterFlags = newFilterFlags(desk.DeliveryConditions.All())
	c.Deliveries.Retry.filterFlags = newFilterFlags(desk.DeliveryConditions.All())
	c.Deliveries.Cancel.filterFlags = newFilterFlags(desk.DeliveryConditions.All())
	c.Deliveries.Resend.filterFlags = newFilterFlags(desk.DeliveryConditions.All())
	c.Replays.List.filterFlags = newFilterFlags(desk.RunConditions.All())
	return c
}

// newParser reads command lines into c. Durations may have days.
func newParser(c *cli, options ...kong.Option) (*kong.Kong, error) {
	durations := kong.MapperFunc(func(ctx *kong.DecodeContext, target reflect.Value) error {
		var text string
		if err := ctx.Scan.PopValueInto("duration", &text); err != nil {
			return err
		}
		d, err := duration.Parse(text)
		target.SetInt(int64(d))
		return err
	})
	return kong.New(c, append([]kong.Option{kong.Name("certpost"), kong.TypeMapper(reflect.TypeFor[time.Duration](), durations)}, options...)...)
}

// app is the environment in which a command runs.
type app struct {
	ctx            context.Context
	config         string
	env            []string
	stdout, stderr io.Writer
	answers        io.Reader       // the terminal; nil if standard input is none
	natsURL        string          // --nats-url, which is in env as well
	quiet          bool            // --quiet
	unnamed        bool            // the command acts, and has not said yet on which system
	lostGrace      time.Duration   // broker.Config.LostGrace; 0 outside of tests
	readWithin     time.Duration   // of client; 0 outside of tests
	log            *zerolog.Logger // the JSON log of a command that keeps running; else nil
}

// failure is an error with an exit code of its own.
type failure struct {
	code int
	err  error // nil if the message was printed already
}

func (f *failure) Error() string {
	if f.err == nil {
		return "failed"
	}
	return f.err.Error()
}

func (f *failure) Unwrap() error { return f.err }

func usage(format string, args ...any) error {
	return &failure{exitUsage, fmt.Errorf(format, args...)}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A second signal ends the process at once, as kill -9 would. Within a second of the
	// first it is ignored: it is the same signal, forwarded twice.
	context.AfterFunc(ctx, func() { time.AfterFunc(time.Second, stop) })
	code := execute(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// execute runs a command line and returns the exit code of the process.
func execute(ctx context.Context, args, env []string, stdout, stderr io.Writer) (code int) {
	c := newCLI()
	out, errs := newScreen(stdout, env), newScreen(stderr, env)
	exited := -1
	parser, err := newParser(c, kong.UsageOnError(), kong.Writers(out, errs),
		kong.Vars{"version": "certpost " + programVersion() + " (" + goVersion() + ")"},
		kong.Description("Deliver issued certificates by e-mail, from events in NATS JetStream."),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true}), kong.Help(printHelp),
		kong.Exit(func(code int) { exited = code }))
	if err != nil {
		complain(errs, err)
		return exitFailed
	}
	args = helpArguments(args)
	if err := emptyValue(parser, args); err != nil {
		return misused(err, args, errs)
	}
	k, err := parser.Parse(args)
	if exited >= 0 { // --help or --version has been printed
		return exited
	}
	if err == nil {
		err = c.checkCommon(k.Selected())
	}
	if err != nil {
		return misused(err, args, errs)
	}
	a := c.app(ctx, k.Selected(), env, out, errs)
	if err = k.Run(a, parser); err == nil {
		return exitDone
	}
	f := &failure{exitFailed, err}
	if refused := (*service.Refusal)(nil); errors.As(err, &refused) && refused.WrongValue() {
		f.code = exitUsage
	}
	errors.As(err, &f)
	switch {
	case f.err == nil:
	case a.log != nil: // every line of the log is JSON
		a.log.WithLevel(zerolog.FatalLevel).Err(f.err).Msg("certpost has ended")
	default:
		complain(errs, f.err)
	}
	return f.code
}

// complain prints an error.
func complain(w io.Writer, err error) {
	fmt.Fprintf(w, "%s %v\n", screenOf(w).paint(red, "certpost:"), err)
}

// app is the environment of a command, with what the flags of all commands say.
func (c *cli) app(ctx context.Context, command *kong.Node, env []string, stdout, stderr io.Writer) *app {
	a := &app{ctx: ctx, config: c.Config, env: withFlag(env, c.NATSURL), stdout: stdout, stderr: stderr, answers: terminal(os.Stdin), natsURL: c.NATSURL, quiet: c.Quiet}
	a.unnamed = factsOf(command).acts && !a.quiet
	if a.quiet && factsOf(command).acts && outputOf(command) != "json" {
		a.stdout = io.Discard
	}
	return a
}

// checkCommon refuses a flag of all commands where it has no effect.
func (c *cli) checkCommon(command *kong.Node) error {
	if c.NATSURL != "" && !factsOf(command).nats {
		return &commonError{"--nats-url: " + command.FullPath() + " does not connect to NATS", command.FullPath()}
	}
	return nil
}

// load reads the configuration. If it is invalid, load prints all its problems and
// fails. Otherwise the problems are warnings: `run` and `check` show them, other
// commands do not.
func (a *app) load() (cfg *Config, warnings []config.Problem, err error) {
	cfg, _, problems := loadConfig(a.config, a.env)
	return cfg, problems, a.usable(problems)
}

// usable prints the problems of an invalid configuration, and fails.
func (a *app) usable(problems []config.Problem) error {
	if !config.Failed(problems) {
		return nil
	}
	for _, p := range problems {
		fmt.Fprintln(a.stderr, p.Error())
	}
	return &failure{code: exitUsage}
}

// logger writes JSON, or readable lines if the format is console, or if it is auto and
// standard error is a terminal.
func (a *app) logger(cfg LogConfig) zerolog.Logger {
	out := a.stderr
	if a.logsForPeople(cfg) {
		out = zerolog.ConsoleWriter{Out: a.stderr, TimeFormat: time.TimeOnly, NoColor: !screenOf(a.stderr).colours}
	}
	level, err := zerolog.ParseLevel(cfg.Level)
	if err != nil {
		level = zerolog.InfoLevel
	}
	return zerolog.New(out).Level(level).With().Timestamp().Logger()
}

// logsForPeople reports whether the log is text. Otherwise each of its lines is JSON.
func (a *app) logsForPeople(cfg LogConfig) bool {
	return cfg.Format == "console" || cfg.Format == "auto" && screenOf(a.stderr).terminal
}

// serviceLogger returns the log of a command that keeps running. The error that ends the command
// becomes a line of it.
func (a *app) serviceLogger(cfg LogConfig) zerolog.Logger {
	log := a.logger(cfg)
	if !a.logsForPeople(cfg) {
		a.log = &log
	}
	return log
}

// brokerConfig maps the configuration to the broker's. The password is read again at
// every connect.
func (c *Config) brokerConfig(ctx context.Context, store *secrets.Store) broker.Config {
	b := broker.Config{
		URL: c.NATS.URL, CredentialsFile: c.NATS.CredentialsFile, NKeyFile: c.NATS.NKeyFile, User: c.NATS.User,
		Replicas: c.NATS.Replicas,
		DataDir:  c.DataDir, Listen: c.NATS.Listen, Anonymous: c.NATS.Anonymous, SyncInterval: c.NATS.SyncInterval, MaxStore: int64(c.NATS.MaxStore),
	}
	if b.URL == "" {
		b.CredentialsFile = "" // the embedded server has no JWTs
		b.DialTLS = c.NATS.commandTLS()
	} else {
		b.CAFile, b.CertFile, b.KeyFile = c.NATS.TLS.CAFile, c.NATS.TLS.CertFile, c.NATS.TLS.KeyFile
	}
	b.MaxBytes, b.DuplicateWindow, b.MaxAckPending = c.NATS.MaxBytes.byStream(), c.NATS.DuplicateWindow, c.NATS.MaxAckPending
	b.LedgerAge = c.NATS.LedgerAge
	b.Outcomes = c.Outcomes.limits()
	b.InboxPrefix, b.Domain, b.APIPrefix, b.TrustRequestInfo = c.NATS.InboxPrefix, c.NATS.Domain, c.NATS.APIPrefix, c.NATS.TrustRequestInfo
	c.auditKeys(&b, store)
	if !c.NATS.Password.IsZero() {
		b.Password = func() ([]byte, error) {
			s, err := store.Get(ctx, c.NATS.Password, nil)
			if err != nil {
				return nil, err
			}
			return s.Value.Reveal(), nil
		}
	}
	return b
}

// dial connects a command to the JetStream of the running program.
func (a *app) dial(ctx context.Context) (*broker.Broker, func(), error) {
	cfg, problems := loadConnection(a.config, a.env)
	if err := a.usable(problems); err != nil {
		return nil, nil, err
	}
	return a.dialWith(ctx, cfg)
}

// dialWith connects in the first of the roles that this process can prove to the embedded
// server; without one as an administrator.
func (a *app) dialWith(ctx context.Context, cfg *Config, roles ...broker.Role) (*broker.Broker, func(), error) {
	log := a.logger(LogConfig{Level: "error", Format: cfg.Log.Format})
	store, err := secrets.Open(cfg.Vault, log)
	if err != nil {
		return nil, nil, err
	}
	if cfg.NATS.URL == "" && cfg.NATS.Listen == "none" {
		store.Close()
		return nil, nil, usage("nats.listen is none: commands cannot reach the embedded NATS, which serves only its own process")
	}
	connection := cfg.brokerConfig(ctx, store)
	connection.Lost, connection.LostGrace = func() { a.say("the connection to NATS was lost; waiting for it") }, a.lostGrace
	b, err := broker.Dial(ctx, connection, log, roles...)
	if err != nil {
		store.Close()
		return nil, nil, err
	}
	a.nameSystem(b.URL())
	return b, func() { b.Close(); store.Close() }, nil
}

// nameSystem says, once and before a command acts, which system it acts on.
func (a *app) nameSystem(url string) {
	if a.unnamed {
		a.unnamed = false
		fmt.Fprintln(a.stderr, "certpost: acting on", printable(url))
	}
}

type versionCmd struct {
	Output string `help:"Format: text or json." enum:"text,json" default:"text" short:"o"`
	SBOM   bool   `name:"sbom" help:"Print what the program is built from, as CycloneDX JSON."`
	// Program is for releases: the packages of other architectures.
	Program string `help:"With --sbom: describe this Certpost, of the same version, instead of the running one." placeholder:"FILE"`
}

func (c *versionCmd) Run(a *app) error {
	if c.SBOM {
		return a.sbom(c.Program)
	}
	if c.Program != "" {
		return usage("--program needs --sbom")
	}
	v := map[string]string{"version": programVersion(), "go": goVersion()}
	if c.Output == "json" {
		return a.json(v)
	}
	fmt.Fprintf(a.stdout, "certpost %s (%s)\n", v["version"], v["go"])
	return nil
}

func programVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "development"
}

func goVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		return info.GoVersion
	}
	return "unknown"
}
