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

// publishTimeout bounds a publication as a whole: an ACME client waits for its
// hook.
const publishTimeout = 30 * time.Second

type publishCmd struct {
	Cert     string            `help:"Certificate and chain, PEM." placeholder:"FILE" xor:"what" required:""`
	From     string            `help:"Read what an ACME client tells its hook: certbot, lego, acme.sh or dehydrated." placeholder:"CLIENT" xor:"what" required:""`
	KeyRef   string            `name:"key-ref" help:"Where the private key is kept: vault:MOUNT/PATH#FIELD, or file:PATH." placeholder:"REF" xor:"key"`
	StoreKey string            `name:"store-key" help:"Write the private key to Vault first: vault:MOUNT/PATH#FIELD; {cn} and {domain} are filled in." placeholder:"REF" xor:"key"`
	Key      string            `help:"Private key to store with --store-key (with --from: the client's)." placeholder:"FILE"`
	NoKey    bool              `name:"no-key" help:"With --from: do not name the client's key file." xor:"key"`
	Target   []string          `help:"Deliver to this target (repeatable), instead of those that match." placeholder:"ID"`
	Label    map[string]string `help:"Label to match on (repeatable)." placeholder:"K=V"`
	ID       string            `name:"id" help:"Id of the event (default: from certificate and source, or a new one)."`
	Source   string            `help:"Source of the event." placeholder:"URI"`
	Output   string            `help:"Format: text or json." enum:"text,json" default:"text" short:"o"`
	Args     []string          `arg:"" optional:"" help:"What the client passes to its hook."`
}

// Validate is called when the command line has been read.
func (c *publishCmd) Validate() error {
	switch {
	case len(c.Args) > 0 && c.From == "":
		return fmt.Errorf("unexpected argument %s: only --from has arguments, those of the client's hook", c.Args[0])
	case c.NoKey && c.From == "":
		return errors.New("--no-key goes with --from: without it there is no key to leave out")
	case c.Key != "" && c.StoreKey == "":
		return errors.New("--key goes with --store-key: to name a key that is kept somewhere take --key-ref")
	}
	return nil
}

// Run publishes one event. An ACME client learns from the exit code whether its
// certificate is in good hands.
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
	// What the consumer will read is what counts: the event goes through the same
	// door as everybody's.
	if ev, err = events.Decode(nil, ev.Encode()); err != nil {
		return usage("this makes no valid event: %w", err)
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
		fmt.Fprintf(a.stdout, "event %s had been published already\n", ev.ID)
		return nil
	}
	fmt.Fprintf(a.stdout, "event %s published (sequence %d)\n", ev.ID, sequence)
	return nil
}

// event makes the event and says where the private key's file is, if that is known.
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
	return nil, usage("--key-ref %s: an event may name keys in vault: and file: alone", ref)
}

// storeKey writes the key to Vault and names that place in the event. It comes
// before the publication: an event must never name a key that is not there.
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
		return usage("--store-key %s: keys are stored in vault: alone", ref)
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

// commonName is the certificate's name, fit for a path in Vault.
func commonName(ev *events.Event) (string, error) {
	leaf, err := leafOf(ev)
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
			return "", usage("--store-key: the certificate's name is not fit for {cn}; give the path in full")
		}
	}
	if name == "" || strings.Trim(name, ".") == "" {
		return "", usage("--store-key: the certificate has no name for {cn}; give the path in full")
	}
	return name, nil
}
