package main

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/payload"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/spool"
)

type issueCmd struct {
	Vault    string            `help:"Role of Vault's PKI engine: MOUNT/issue/ROLE." required:"" placeholder:"PATH"`
	CN       string            `name:"cn" help:"Common name, which is also an alternative name." required:"" placeholder:"NAME"`
	SAN      []string          `name:"san" help:"Further DNS name (repeatable)." placeholder:"NAME" sep:"none"`
	IP       []string          `name:"ip" help:"IP address (repeatable)." placeholder:"ADDRESS" sep:"none"`
	TTL      time.Duration     `help:"How long the certificate is valid (default: the role's)." placeholder:"DURATION"`
	StoreKey string            `name:"store-key" help:"Where the private key is stored: vault:MOUNT/PATH#FIELD; {key_type}, {cn} and {domain} are replaced." required:"" placeholder:"REF"`
	Target   []string          `help:"Deliver to this target (repeatable) instead of those that match." placeholder:"ID" sep:"none"`
	Label    map[string]string `help:"Label to match on (repeatable)." placeholder:"K=V"`
	As       string            `name:"as" help:"Publish on certificate.issued.SOURCE, as the source that NATS and events.sources know." placeholder:"SOURCE"`
	Output   string            `help:"Format: text or json." enum:"text,json" default:"text" short:"o"`
}

// publish is the command that publishes the certificate. What is issued is published: at worst it
// becomes a dead letter.
func (c *issueCmd) publish() *publishCmd {
	return &publishCmd{StoreKey: c.StoreKey, Target: c.Target, Label: c.Label, As: c.As, Output: c.Output, Force: true}
}

// Validate checks the command line after it was parsed.
func (c *issueCmd) Validate() error {
	if parts := strings.Split(strings.Trim(c.Vault, "/"), "/"); len(parts) < 3 || parts[len(parts)-2] != "issue" {
		return errors.New("--vault: want MOUNT/issue/ROLE, such as pki/issue/web")
	}
	if c.TTL < 0 || c.TTL > 0 && c.TTL < time.Minute {
		return errors.New("--ttl: want at least 1m")
	}
	return c.publish().Validate()
}

// Run has Vault issue a certificate, stores its key, and publishes it. Vault gives the key once:
// it is stored before anything else.
func (c *issueCmd) Run(a *app) error {
	cfg, problems := loadConnection(a.config, a.env)
	if err := a.usable(problems); err != nil {
		return err
	}
	publish := c.publish()
	if err := publish.Validate(); err != nil { // splits the targets
		return usage("%w", err)
	}
	if err := c.foresee(cfg, publish); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(a.ctx, publishTimeout)
	defer cancel()
	store, err := secrets.Open(cfg.Vault, a.logger(LogConfig{Level: "error", Format: cfg.Log.Format}))
	if err != nil {
		return err
	}
	defer store.Close()
	request := secrets.Issuance{Path: strings.Trim(c.Vault, "/"), CommonName: c.CN, AltNames: c.SAN, IPs: c.IP}
	if c.TTL > 0 {
		request.TTL = c.TTL.String()
	}
	pair, err := store.Issue(ctx, request)
	if err != nil {
		return fmt.Errorf("issue the certificate: %w", err)
	}
	p, err := c.store(ctx, store, publish, pair)
	if err != nil {
		return err
	}
	entry := &spool.Entry{}
	if entry.Event, err = decoded(p.ev); err != nil {
		return err
	}
	publish.StoreKey = "" // it is stored
	if err := publish.check(a, cfg, p); err != nil {
		return err
	}
	return publish.send(a, cfg, entry)
}

// store writes the key to Vault, and returns the event that references it.
func (c *issueCmd) store(ctx context.Context, store *secrets.Store, publish *publishCmd, pair secrets.IssuedPair) (publication, error) {
	ev, err := events.Issued{Chain: pair.Chain, Source: (&url.URL{Scheme: "vault", Host: hostname(), Path: "/" + strings.Trim(c.Vault, "/")}).String()}.Event()
	if err != nil {
		return publication{}, fmt.Errorf("the certificate that Vault has issued: %w", err)
	}
	leaf, err := ev.Leaf()
	if err != nil {
		return publication{}, err
	}
	p := publication{ev: ev, keyFile: "vault"}
	ref, err := publish.storePlace(p, leaf)
	if err != nil {
		return p, err
	}
	text := pair.Key.Reveal()
	err = payload.CheckKey(text, leaf)
	clear(text)
	if err != nil {
		return p, errors.New("the key that Vault has issued cannot be used: " + reasonOf(err))
	}
	written, err := store.Put(ctx, ref, pair.Key)
	if err != nil {
		return p, fmt.Errorf("the certificate with serial %x was issued, but its key could not be stored and is lost (%w): nothing was published; run the command again, which issues another one", leaf.SerialNumber, err)
	}
	ev.PrivateKey = eventReference(ref)
	ev.PrivateKey.Vault.Version = written.Version
	ev.Time = time.Now().UTC().Truncate(time.Millisecond)
	ev.Targets, ev.Labels, ev.Subject = publish.Target, publish.Label, events.SourceSubject(publish.As)
	return p, nil
}

// foresee refuses, before a certificate is issued, a place for the key that events may not
// reference.
func (c *issueCmd) foresee(cfg *Config, publish *publishCmd) error {
	likely := &x509.Certificate{Subject: pkix.Name{CommonName: c.CN}}
	if strings.Contains(c.StoreKey, "{key_type}") {
		return nil // the role decides
	}
	ref, err := publish.storePlace(publication{keyFile: "vault"}, likely)
	if err != nil {
		return err
	}
	ev := &events.Event{ID: "foreseen", Targets: publish.Target, PrivateKey: eventReference(ref), Subject: events.SourceSubject(publish.As)}
	if problems := closed(cfg, ev); len(problems) > 0 {
		return usage("nothing was issued: %s", problems[0])
	}
	return nil
}
