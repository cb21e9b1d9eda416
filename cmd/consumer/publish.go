package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/secrets"
)

// publishTimeout limits a whole publication, because an ACME client waits for its
// hook.
const publishTimeout = 30 * time.Second

type publishCmd struct {
	Cert     string            `help:"Certificate and chain, PEM." placeholder:"FILE" xor:"what" required:""`
	From     string            `help:"Read what an ACME client passes to its hook: certbot, lego, acme.sh or dehydrated." placeholder:"CLIENT" xor:"what" required:""`
	KeyRef   string            `name:"key-ref" help:"Where the private key is stored: vault:MOUNT/PATH#FIELD, or file:PATH." placeholder:"REF" xor:"key"`
	StoreKey string            `name:"store-key" help:"Write the private key to Vault first: vault:MOUNT/PATH#FIELD; {cn} and {domain} are replaced." placeholder:"REF" xor:"key"`
	Key      string            `help:"Private key to store with --store-key (with --from: the client's)." placeholder:"FILE"`
	NoKey    bool              `name:"no-key" help:"With --from: do not reference the client's key file." xor:"key"`
	Target   []string          `help:"Deliver to this target (repeatable) instead of those that match." placeholder:"ID"`
	Label    map[string]string `help:"Label to match on (repeatable)." placeholder:"K=V"`
	ID       string            `name:"id" help:"Id of the event (default: with --from derived from certificate and source, else new)."`
	Source   string            `help:"Source of the event." placeholder:"URI"`
	Output   string            `help:"Format: text or json." enum:"text,json" default:"text" short:"o"`
	Args     []string          `arg:"" optional:"" help:"What the client passes to its hook."`
}

// Validate checks the command line after it was parsed.
func (c *publishCmd) Validate() error {
	switch {
	case len(c.Args) > 0 && c.From == "":
		return fmt.Errorf("unexpected argument %s: arguments are allowed only with --from, from the client's hook", c.Args[0])
	case c.NoKey && c.From == "":
		return errors.New("--no-key requires --from: without --from the event has no key file")
	case c.Key != "" && c.StoreKey == "":
		return errors.New("--key requires --store-key: to reference a stored key use --key-ref")
	}
	return nil
}

// Run publishes one event. The exit code tells an ACME client whether the event is
// stored.
func (c *publishCmd) Run(a *app) error {
	cfg, problems := loadConnection(a.config, a.env)
	if err := a.usable(problems); err != nil {
		return err
	}
	ev, keyFile, err := c.event(a)
	if errors.Is(err, events.ErrNotIssued) {
		fmt.Fprintln(a.stderr, "certpost: nothing to publish:", events.ErrNotIssued)
		return nil
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(a.ctx, publishTimeout)
	defer cancel()
	if c.StoreKey != "" {
		if err := c.storeKey(ctx, a, cfg, ev, keyFile); err != nil {
			return err
		}
	}
	// Decode the event as the consumer will, so that an invalid one is refused here and
	// not published.
	if ev, err = events.Decode(nil, ev.Encode()); err != nil {
		return usage("the event is invalid: %w", err)
	}
	b, done, err := a.dialWith(ctx, cfg)
	if err != nil {
		return err
	}
	defer done()
	sequence, duplicate, err := b.Publish(ctx, ev)
	if err != nil {
		return err
	}
	if c.Output == "json" {
		return a.json(map[string]any{"id": ev.ID, "sequence": sequence, "duplicate": duplicate})
	}
	if duplicate {
		fmt.Fprintf(a.stdout, "event %s was published already\n", ev.ID)
		return nil
	}
	fmt.Fprintf(a.stdout, "event %s published (sequence %d)\n", ev.ID, sequence)
	return nil
}

// event makes the event and returns the path of the private key's file, if it is known.
func (c *publishCmd) event(a *app) (ev *events.Event, keyFile string, err error) {
	if c.From != "" {
		ev, keyFile, err = c.fromHook(a)
	} else {
		ev, err = eventFromFile(c.Cert)
	}
	if err != nil {
		return nil, "", err
	}
	if c.Key != "" {
		keyFile = c.Key
	}
	if c.KeyRef != "" {
		if ev.PrivateKey, err = keyReference(c.KeyRef); err != nil {
			return nil, "", err
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
	ev.Targets, ev.Labels = c.Target, c.Label
	return ev, keyFile, nil
}

func eventFromFile(path string) (*events.Event, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, usage("--cert: %w", err)
	}
	ev, err := events.FromPEM(text)
	if err != nil {
		return nil, usage("--cert %s: %w", path, err)
	}
	return ev, nil
}

func (c *publishCmd) fromHook(a *app) (*events.Event, string, error) {
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	issued, err := events.FromHook(c.From, events.Host{Name: host, Env: a.getenv, Args: c.Args, ReadFile: os.ReadFile})
	if err != nil {
		return nil, "", usage("--from: %w", err)
	}
	ev, err := issued.Event()
	return ev, issued.KeyFile, err
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
	switch {
	case ref.Vault != nil:
		v := ref.Vault
		return &events.Reference{Vault: &events.VaultReference{Mount: v.Mount, Path: v.Path, Key: v.Key, Version: v.Version}}, nil
	case ref.File != "":
		return &events.Reference{File: ref.File}, nil
	}
	return nil, usage("--key-ref %s: an event can reference keys only in vault: or file:", ref)
}

// storeKey writes the key to Vault and references it in the event. It runs before the
// publication: a published event must never reference a key that does not exist.
func (c *publishCmd) storeKey(ctx context.Context, a *app, cfg *Config, ev *events.Event, keyFile string) error {
	if keyFile == "" {
		return usage("--store-key needs --key FILE: the private key to store")
	}
	cn, err := commonName(ev)
	if err != nil {
		return err
	}
	place := strings.NewReplacer("{cn}", cn, "{domain}", strings.TrimPrefix(cn, "_wildcard.")).Replace(c.StoreKey)
	ref, err := secrets.ParseRef(place)
	if err != nil {
		return usage("--store-key: %w", err)
	}
	if ref.Vault == nil {
		return usage("--store-key %s: keys can be stored only in vault:", ref)
	}
	text, err := os.ReadFile(keyFile)
	if err != nil {
		return usage("the private key: %w", err)
	}
	value := secrets.New(text)
	clear(text)
	store, err := secrets.Open(cfg.Vault, a.logger(LogConfig{Level: "error", Format: cfg.Log.Format}))
	if err != nil {
		return err
	}
	defer store.Close()
	if err := store.Put(ctx, ref, value); err != nil {
		return fmt.Errorf("store the private key: %w", err)
	}
	ev.PrivateKey, err = keyReference(place)
	return err
}

// commonName is the certificate's name in a form for a path in Vault.
func commonName(ev *events.Event) (string, error) {
	leaf, err := ev.Leaf()
	if err != nil {
		return "", usage("the certificate: %w", err)
	}
	name := leaf.Subject.CommonName
	if name == "" && len(leaf.DNSNames) > 0 {
		name = leaf.DNSNames[0]
	}
	name = strings.Replace(name, "*.", "_wildcard.", 1)
	for _, r := range name {
		if !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-", r) {
			return "", usage("--store-key: the certificate's name cannot be used for {cn}; give the path in full")
		}
	}
	if name == "" || strings.Trim(name, ".") == "" {
		return "", usage("--store-key: the certificate has no name for {cn}; give the path in full")
	}
	return name, nil
}
