package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/devrelay"
	"github.com/certpost/certpost/internal/secrets"
)

// relayCmd's flags override the section demo_relay of the configuration.
type relayCmd struct {
	SMTP                        string   `name:"smtp" help:"Address with opportunistic STARTTLS (default: 127.0.0.1:25)." placeholder:"ADDR"`
	Submission                  string   `help:"Address with STARTTLS (default: 127.0.0.1:587)." placeholder:"ADDR"`
	SMTPS                       string   `name:"smtps" help:"Address with implicit TLS; not opened without a certificate (default: 127.0.0.1:465)." placeholder:"ADDR"`
	Inbox                       string   `help:"Address of the inbox pages (default: 127.0.0.1:8025)." placeholder:"ADDR"`
	Hostname                    string   `help:"Name in the greeting (default: localhost)." placeholder:"NAME"`
	Cert                        string   `help:"Certificate: PEM, DER or PKCS#12. Changed files are used without a restart." placeholder:"FILE" xor:"certificate"`
	Key                         string   `help:"Private key, PEM or DER (default: in the certificate's file)." placeholder:"FILE"`
	Passphrase                  string   `help:"Reference to the passphrase of a PKCS#12 file, such as file:PATH." placeholder:"REF"`
	OwnCA                       string   `name:"own-ca" help:"Make a CA and a certificate, and write the CA's certificate to this file." placeholder:"FILE" xor:"certificate"`
	User                        []string `help:"Only this user may send (repeatable); REF is a secret reference to the password." placeholder:"NAME=REF" sep:"none"`
	AllowUnsecureAuthentication bool     `name:"allow-unsecure-authentication" help:"Offer AUTH without TLS, too: passwords in clear text."`
	MaxMessageBytes             int64    `name:"max-message-bytes" help:"Size of a mail as it is sent (default: 52428800)." placeholder:"N"`
	MaxAttachmentBytes          int64    `name:"max-attachment-bytes" help:"Size of an attachment, decoded (default: 26214400)." placeholder:"N"`
	Store                       string   `help:"Directory in which each mail becomes a file." placeholder:"DIR"`
	StoreFormat                 string   `name:"store-format" help:"eml or maildir (default: eml)." placeholder:"FORMAT"`
	Fault                       []string `help:"Answer an address with a refusal (repeatable): '[mail:|rcpt:|data:]ADDRESS=CODE [ENHANCED] TEXT', or =disconnect. ADDRESS may have *." placeholder:"RULE" sep:"none"`
}

// Run accepts mails until it is told to stop.
func (c *relayCmd) Run(a *app) error {
	cfg, problems := loadConnection(a.config, a.env)
	if err := a.usable(problems); err != nil {
		return err
	}
	settings := &cfg.DemoRelay
	if err := c.override(settings); err != nil {
		return usage("%w", err)
	}
	problems = settings.check()
	if err := a.usable(problems); err != nil {
		return err
	}
	log := a.serviceLogger(cfg.Log)
	for _, p := range problems {
		log.Warn().Str("setting", p.Path).Msg(p.Message)
	}
	relay, err := startRelay(a.ctx, cfg, log)
	if err != nil {
		return err
	}
	defer relay.Close()
	pages, err := listenHTTP("demo_relay.inbox", settings.Inbox, local(settings.Inbox, relay.Handler()))
	if err != nil {
		return err
	}
	defer pages.close()
	for _, line := range [][2]string{
		{"SMTP", relay.Plain()}, {"Submission", relay.Submission()}, {"SMTPS", cmp.Or(relay.SMTPS(), "not opened: there is no certificate")}, {"Inbox", pages.address() + "/"},
	} {
		fmt.Fprintf(a.stdout, "%-11s %s\n", line[0], line[1])
	}
	if err := pages.serve(a.ctx); err != nil && a.ctx.Err() == nil {
		return err
	}
	return nil
}

// override puts the flags over the settings.
func (c *relayCmd) override(s *DemoRelayConfig) error {
	for setting, flag := range map[*string]string{
		&s.SMTP: c.SMTP, &s.Submission: c.Submission, &s.SMTPS: c.SMTPS, &s.Inbox: c.Inbox, &s.Hostname: c.Hostname,
		&s.Store: c.Store, &s.StoreFormat: c.StoreFormat, &s.KeyFile: c.Key,
	} {
		*setting = cmp.Or(flag, *setting)
	}
	switch {
	case c.Cert != "":
		s.CertFile, s.KeyFile, s.OwnCAFile = c.Cert, c.Key, ""
	case c.OwnCA != "":
		s.OwnCAFile, s.CertFile, s.KeyFile = c.OwnCA, "", c.Key
	}
	s.MaxMessageBytes, s.MaxAttachmentBytes = cmp.Or(c.MaxMessageBytes, s.MaxMessageBytes), cmp.Or(c.MaxAttachmentBytes, s.MaxAttachmentBytes)
	s.AllowUnsecureAuthentication = s.AllowUnsecureAuthentication || c.AllowUnsecureAuthentication
	if c.Passphrase != "" {
		var err error
		if s.Passphrase, err = secrets.ParseRef(c.Passphrase); err != nil {
			return fmt.Errorf("--passphrase: %w", err)
		}
	}
	if len(c.User) > 0 {
		s.Users = nil
	}
	for _, text := range c.User {
		user, err := parseDemoUser(text)
		if err != nil {
			return err
		}
		s.Users = append(s.Users, user)
	}
	if len(c.Fault) > 0 {
		s.Faults = nil
	}
	for _, text := range c.Fault {
		fault, err := parseFault(text)
		if err != nil {
			return err
		}
		s.Faults = append(s.Faults, fault)
	}
	return nil
}

// startRelay starts the demo relay with its secrets.
func startRelay(ctx context.Context, cfg *Config, log zerolog.Logger) (*devrelay.Relay, error) {
	s := &cfg.DemoRelay
	store, err := secrets.Open(cfg.Vault, log)
	if err != nil {
		return nil, err
	}
	defer store.Close()
	reveal := func(ref secrets.Ref) (string, error) {
		if ref.IsZero() {
			return "", nil
		}
		found, err := store.Get(ctx, ref, nil)
		if err != nil {
			return "", err
		}
		return string(found.Value.Reveal()), nil
	}
	users := map[string]string{}
	for _, user := range s.Users {
		if users[user.Name], err = reveal(user.Password); err != nil {
			return nil, err
		}
		if users[user.Name] == "" {
			return nil, fmt.Errorf("demo_relay.users: the password of %s is empty", printable(user.Name))
		}
	}
	passphrase, err := reveal(s.Passphrase)
	if err != nil {
		return nil, err
	}
	files := devrelay.CertificateFiles{Cert: s.CertFile, Key: s.KeyFile}
	if s.CertFile != "" {
		files.Passphrase = passphrase
	}
	relay, err := devrelay.Start(devrelay.Config{
		Plain: s.SMTP, Submission: s.Submission, SMTPS: s.SMTPS, Hostname: s.Hostname,
		Certificate: files, NoTLS: s.CertFile+s.OwnCAFile == "", Opportunistic: true, RequireTLS: true,
		Users: users, AllowUnsecureAuthentication: s.AllowUnsecureAuthentication, Rules: s.rules(),
		MaxMails: s.MaxMails, MaxMailBytes: s.MaxMessageBytes, MaxAttachmentBytes: s.MaxAttachmentBytes,
		Folder: devrelay.Folder{Dir: s.Store, Format: devrelay.Format(s.StoreFormat)},
		Log:    func(text string) { log.Info().Msg(text) },
	})
	if errors.Is(err, syscall.EACCES) {
		err = fmt.Errorf("%w: ports below 1024 need root; choose others, such as --smtp 127.0.0.1:2525 --submission 127.0.0.1:2587 --smtps 127.0.0.1:2465", err)
	}
	if err == nil && s.OwnCAFile != "" {
		err = writeOwnCA(relay, s.OwnCAFile)
	}
	if err != nil {
		if relay != nil {
			err = errors.Join(err, relay.Close())
		}
		return nil, err
	}
	return relay, nil
}

// writeOwnCA writes the relay's CA beside the file and renames it.
func writeOwnCA(relay *devrelay.Relay, file string) error {
	dir, err := os.MkdirTemp(filepath.Dir(file), ".certpost-ca-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	written, err := relay.CAFile(dir)
	if err != nil {
		return err
	}
	return os.Rename(written, file)
}
