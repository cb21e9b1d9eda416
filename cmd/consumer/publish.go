package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/inputfile"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/spool"
)

// publishTimeout limits a whole publication, because an ACME client waits for its
// hook.
const publishTimeout = 30 * time.Second

type publishCmd struct {
	Cert     string            `help:"Certificate and chain, PEM." placeholder:"FILE" xor:"what" required:""`
	From     string            `help:"Read what a CA's client passes to its hook: certbot, lego, acme.sh, dehydrated, caddy, step, or files (of any client)." placeholder:"CLIENT" xor:"what" required:""`
	Flush    bool              `help:"Publish only what earlier calls had to keep in the spool." xor:"what" required:""`
	KeyRef   string            `name:"key-ref" help:"Where the private key is stored: vault:MOUNT/PATH#FIELD, or file:PATH." placeholder:"REF" xor:"key"`
	StoreKey string            `name:"store-key" help:"Write the private key to Vault first: vault:MOUNT/PATH#FIELD; {lineage}, {key_type}, {cn} and {domain} are replaced." placeholder:"REF" xor:"key"`
	Key      string            `help:"Private key to store with --store-key (with --from: the client's)." placeholder:"FILE"`
	NoKey    bool              `name:"no-key" help:"With --from: do not reference the client's key file." xor:"key"`
	Target   []string          `help:"Deliver to this target (repeatable) instead of those that match." placeholder:"ID" sep:"none"`
	Label    map[string]string `help:"Label to match on (repeatable)." placeholder:"K=V"`
	ID       string            `name:"id" help:"Id of the event (default: with --from derived from certificate and source, else new)."`
	Source   string            `help:"Source in the event." placeholder:"URI"`
	As       string            `name:"as" help:"Publish on certificate.issued.SOURCE, as the source that NATS and events.sources know." placeholder:"SOURCE"`
	Force    bool              `name:"force" help:"Publish even what cannot be delivered as it is."`
	Output   string            `help:"Format: text or json." enum:"text,json" default:"text" short:"o"`
	Args     []string          `arg:"" optional:"" help:"What the client passes to its hook."`

	targets []string // that can get the event, as far as the configuration knows
	noForce bool     // there is no flag --force: another command publishes
}

// Validate checks the command line after it was parsed.
func (c *publishCmd) Validate() error {
	// Several in one flag are separated by commas. An empty one is a mistake, such as a variable
	// that is not set.
	var targets []string
	for _, given := range c.Target {
		targets = append(targets, strings.Split(given, ",")...)
	}
	c.Target = targets
	switch {
	case slices.Contains(c.Target, ""):
		return errors.New("--target is empty: an event without targets goes to all targets that match, so leave the flag out if that is meant")
	case len(c.Args) > 0 && c.From == "":
		return fmt.Errorf("unexpected argument %s: arguments are allowed only with --from, from the client's hook", c.Args[0])
	case c.NoKey && c.From == "":
		return errors.New("--no-key requires --from: without --from the event has no key file")
	case events.WrongSource(c.As) != "":
		return fmt.Errorf("--as %s: %s; want what follows certificate.issued., such as web1", printable(c.As), events.WrongSource(c.As))
	case c.Key != "" && c.StoreKey == "":
		return errors.New("--key requires --store-key: to reference a stored key use --key-ref")
	}
	return nil
}

// Run publishes one event. What cannot be published now is kept in the spool.
func (c *publishCmd) Run(a *app) error {
	a.unnamed = a.unnamed && c.From == "" && !c.Flush // a hook has nothing to say about it
	var p publication
	var err error
	if !c.Flush {
		// Before anything else: dehydrated calls its hook at every step, and stops if one fails.
		if p, err = c.publication(a); errors.Is(err, events.ErrNotIssued) {
			return nil
		}
	}
	cfg, problems := loadConnection(a.config, a.env)
	if err := errors.Join(err, a.usable(problems)); err != nil {
		return err
	}
	if c.Flush {
		return c.flushSpool(a, cfg)
	}
	if p.again {
		published, err := cfg.spool().Remembers(p.ev.ID)
		if err != nil {
			fmt.Fprintln(a.stderr, "certpost: warning: the certificate may be published once more:", err)
		}
		if published {
			return c.flushQuietly(a, cfg)
		}
	}
	entry, err := c.prepare(a, cfg, p)
	if err != nil {
		return err
	}
	return c.send(a, cfg, entry)
}

// prepare returns the entry for the spool. It refuses what could never be delivered, with exit
// code 2.
func (c *publishCmd) prepare(a *app, cfg *Config, p publication) (*spool.Entry, error) {
	err := c.check(a, cfg, p)
	if err != nil {
		return nil, err
	}
	entry := &spool.Entry{}
	if c.StoreKey != "" {
		if entry.StoreKey, err = c.keyToStore(a, cfg, p); err != nil {
			return nil, err
		}
		p.ev.PrivateKey = nil
	}
	if entry.Event, err = decoded(p.ev); err != nil {
		return nil, err
	}
	return entry, nil
}

// publication is an event, and what the publisher knows beyond it.
type publication struct {
	ev       *events.Event
	certFile string // path of the certificate's file
	keyFile  string // path of the private key's file; "" if not known
	lineage  string // of the ACME client; "" without one
	again    bool   // the client says that the certificate is not new
	// passphrase refers to the passphrase of keyFile, if that is a PKCS#12 file.
	passphrase string
}

// publication makes the event.
func (c *publishCmd) publication(a *app) (p publication, err error) {
	if c.From != "" {
		p, err = c.fromHook(a)
	} else {
		p.certFile = c.Cert
		p.ev, err = eventFromFile(c.Cert)
	}
	if err != nil {
		return p, err
	}
	return p, c.complete(&p)
}

// complete adds to a publication what the flags say.
func (c *publishCmd) complete(p *publication) (err error) {
	ev := p.ev
	if c.Key != "" {
		p.keyFile = c.Key
	}
	if c.KeyRef != "" {
		if ev.PrivateKey, err = keyReference(c.KeyRef); err != nil {
			return err
		}
	}
	if c.NoKey {
		ev.PrivateKey = nil
	}
	if c.ID != "" {
		ev.ID = c.ID
	}
	if c.Source != "" {
		ev.Source = c.Source
	}
	if ev.Time.IsZero() {
		ev.Time = time.Now().UTC().Truncate(time.Millisecond)
	}
	ev.Targets, ev.Labels, ev.Subject = c.Target, c.Label, events.SourceSubject(c.As)
	return nil
}

// decoded is the event as the consumer will decode it, so that an invalid one is refused here and
// not published.
func decoded(ev *events.Event) (*events.Event, error) {
	read, err := events.Decode(nil, ev.Encode())
	if err != nil {
		return nil, usage("the event is invalid: %s", events.BeforePublication(err))
	}
	read.Subject = ev.Subject
	return read, nil
}

func eventFromFile(path string) (*events.Event, error) {
	text, err := readFile(path)
	if err != nil {
		return nil, usage("--cert: %w", err)
	}
	ev, err := events.FromPEM(text)
	if err != nil {
		return nil, usage("--cert %s: %w", path, err)
	}
	return ev, nil
}

func (c *publishCmd) fromHook(a *app) (publication, error) {
	host := hostname()
	issued, err := events.FromHook(c.From, events.Host{Name: host, Env: a.getenv, Args: c.Args, ReadFile: readFile})
	if err != nil {
		return publication{}, usage("--from: %w", err)
	}
	ev, err := issued.Event()
	return publication{ev: ev, certFile: issued.CertFile, keyFile: issued.KeyFile, lineage: issued.Lineage, again: issued.Again}, err
}

// maxFile is the size of the largest file with a certificate or a key that is read, in bytes: a link
// to the wrong file must not fill the memory.
const maxFile = 4 << 20

func readFile(path string) ([]byte, error) { return inputfile.Read(path, maxFile) }

// hostname is this machine's name, for sources.
func hostname() string {
	host, err := os.Hostname()
	if err != nil {
		return "localhost"
	}
	return host
}

func (a *app) getenv(name string) string {
	for _, v := range a.env {
		if value, ok := strings.CutPrefix(v, name+"="); ok {
			return value
		}
	}
	return ""
}

func keyReference(text string) (*events.Reference, error) {
	ref, err := secrets.ParseRef(text)
	if err != nil {
		return nil, usage("--key-ref: %w", err)
	}
	if len(ref.Needs()) > 0 { // in the configuration a path may have them
		return nil, usage("--key-ref: %s: placeholders are replaced only in --store-key", ref)
	}
	if found := eventReference(ref); found != nil {
		return found, nil
	}
	return nil, usage("--key-ref %s: an event can reference keys only in vault: or file:", ref)
}

// eventReference returns a reference as one of an event; nil if events cannot have it.
func eventReference(ref secrets.Ref) *events.Reference {
	switch {
	case ref.Vault != nil:
		v := ref.Vault
		return &events.Reference{Vault: &events.VaultReference{Mount: v.Mount, Path: v.Path, Key: v.Key, Version: v.Version}}
	case ref.File != "":
		return &events.Reference{File: ref.File}
	}
	return nil
}
