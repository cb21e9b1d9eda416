package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/secrets"
)

// auditKeyFile is the file with the keys of the audit below data_dir, if audit.key is not set.
const auditKeyFile = "audit.key"

// auditMemoryFile is the file below data_dir with the audit's last verified record.
const auditMemoryFile = "audit.head"

func (c *Config) auditKeyPath() string { return filepath.Join(c.DataDir, auditKeyFile) }

// auditKeys sets where the keys of the audit come from: audit.key, or the file in data_dir. With
// a NATS server elsewhere and neither of them, nothing is signed.
func (c *Config) auditKeys(b *broker.Config, store *secrets.Store) {
	path := c.auditKeyPath()
	_, err := os.Lstat(path)
	there := !errors.Is(err, fs.ErrNotExist)
	switch {
	case !c.Audit.Key.IsZero():
		b.AuditKeys = func(ctx context.Context) (*broker.AuditKeys, error) {
			s, err := store.Get(ctx, c.Audit.Key, nil)
			if err != nil {
				return nil, fmt.Errorf("audit.key: %w", err)
			}
			keys, err := broker.ParseAuditKeys(s.Value.Reveal())
			if err != nil {
				return nil, fmt.Errorf("audit.key: %w", err)
			}
			return keys, nil
		}
	case there || c.NATS.URL == "":
		b.AuditKeys = func(context.Context) (*broker.AuditKeys, error) {
			if owner := broker.ForeignOwner(path, c.DataDir); owner != "" {
				return nil, fmt.Errorf("%s belongs to user %s, who may know this key: restore yours, or make the user who runs Certpost its owner", path, owner)
			}
			return readAuditKeys(path)
		}
	}
	if there || c.NATS.URL == "" {
		b.AuditMemory = filepath.Join(c.DataDir, auditMemoryFile)
	}
}

// unsignedWarning says that nothing is signed, "" if a key is configured.
func (c *Config) unsignedWarning() string {
	if _, err := os.Lstat(c.auditKeyPath()); err == nil || c.NATS.URL == "" || !c.Audit.Key.IsZero() {
		return ""
	}
	return broker.UnsignedWithoutKey
}

// readAuditKeys reads the keys from a file that only its owner may read.
func readAuditKeys(path string) (*broker.AuditKeys, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s does not exist: `certpost run` makes it at its first start; if it is lost, restore it from a backup, or make another one with `certpost audit rotate --lost-key`", path)
	}
	if err != nil {
		return nil, err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("%s may be read by other users (mode %04o): run chmod 600 %s", path, mode, path)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%w: run the command as the user of `certpost run`", err)
	}
	defer clear(text)
	keys, err := broker.ParseAuditKeys(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return keys, nil
}

// makeAuditKey makes the file with the first key, unless it exists or is not needed. A missing
// file beside a store that has run before is not replaced if the store was signed: only its
// last verified record tells that here.
func (c *Config) makeAuditKey() error {
	if c.NATS.URL != "" || !c.Audit.Key.IsZero() {
		return nil
	}
	path := c.auditKeyPath()
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return nil // readAuditKeys says what is wrong with it
	}
	if _, err := os.Stat(filepath.Join(c.DataDir, auditMemoryFile)); err == nil {
		_, err := readAuditKeys(path)
		return err
	}
	if err := os.MkdirAll(c.DataDir, 0o700); err != nil {
		return fmt.Errorf("data_dir %s: %w", c.DataDir, err)
	}
	return writeAuditKeys(path, nil)
}

// writeAuditKeys adds a new key to a file, in front of those that it has.
func writeAuditKeys(path string, before []byte) error {
	var text bytes.Buffer
	text.WriteString("# The keys of Certpost's audit, the newest first. Keep a copy elsewhere, and keep old keys: records are verified with them.\n")
	text.WriteString(broker.NewAuditKey() + "\n")
	for line := range strings.Lines(string(before)) {
		if !strings.HasPrefix(line, "#") {
			text.WriteString(line)
		}
	}
	defer clear(text.Bytes())
	err := broker.WritePrivate(path, text.Bytes())
	if err != nil {
		return fmt.Errorf("the audit's key cannot be stored: %w", err)
	}
	return nil
}

type auditKeyCmd struct{}

// Run prints a new key, for audit.key.
func (c *auditKeyCmd) Run(a *app) error {
	_, err := fmt.Fprintln(a.stdout, broker.NewAuditKey())
	return err
}

type auditRotateCmd struct {
	Reason  string `help:"Why, for the audit." placeholder:"TEXT"`
	LostKey bool   `help:"The key in force is lost: begin anew with another one. Earlier records cannot be verified any more."`
}

// Run puts a new key in force. With the file in data_dir it makes the key, too; with audit.key
// the operator has put it in front of the others before.
func (c *auditRotateCmd) Run(a *app) error {
	cfg, problems := loadConnection(a.config, a.env)
	if err := a.usable(problems); err != nil {
		return err
	}
	if c.LostKey {
		return c.beginAnew(a, cfg)
	}
	inFile := cfg.Audit.Key.IsZero()
	b, done, err := a.dialWith(a.ctx, cfg)
	if err != nil {
		return err
	}
	defer done()
	by := broker.Actor{Name: actor(), Via: broker.ViaShell}
	changed, err := b.Rotate(a.ctx, by, c.Reason, false)
	if err == nil && !changed && inFile {
		text, rerr := os.ReadFile(cfg.auditKeyPath())
		if rerr != nil {
			return rerr
		}
		defer clear(text)
		if err := writeAuditKeys(cfg.auditKeyPath(), text); err != nil {
			return err
		}
		b.ForgetKeys()
		changed, err = b.Rotate(a.ctx, by, c.Reason, false)
	}
	if err != nil {
		return err
	}
	if !changed {
		return usage("the first key of audit.key is in force already: put a new one (`certpost audit key`) in front of it, for all processes, and run this again")
	}
	_, id := b.Sealed()
	fmt.Fprintf(a.stdout, "Key %s is in force. Keep the old keys: earlier records are verified with them.\n", id)
	return nil
}

// beginAnew records a new beginning, signed with another key. A process whose key is lost does
// not start, so with the embedded NATS this command opens the store itself.
func (c *auditRotateCmd) beginAnew(a *app, cfg *Config) error {
	if _, err := os.Lstat(cfg.auditKeyPath()); cfg.Audit.Key.IsZero() && errors.Is(err, fs.ErrNotExist) {
		if err := writeAuditKeys(cfg.auditKeyPath(), nil); err != nil {
			return err
		}
	}
	var b *broker.Broker
	var done func()
	var err error
	if cfg.NATS.URL != "" {
		b, done, err = a.dialWith(a.ctx, cfg)
	} else {
		b, done, err = a.openStore(cfg)
	}
	if err != nil {
		return err
	}
	defer done()
	if _, err := b.Rotate(a.ctx, broker.Actor{Name: actor(), Via: broker.ViaShell}, c.Reason, true); err != nil {
		return err
	}
	_, id := b.Sealed()
	fmt.Fprintf(a.stdout, "Records are signed with key %s from now on. Those signed before cannot be verified any more.\n", id)
	return nil
}

// openStore opens the store of the embedded NATS. It fails while `certpost run` uses it.
func (a *app) openStore(cfg *Config) (*broker.Broker, func(), error) {
	log := a.logger(LogConfig{Level: "error", Format: cfg.Log.Format})
	store, err := secrets.Open(cfg.Vault, log)
	if err != nil {
		return nil, nil, err
	}
	private := *cfg
	private.NATS.Listen = "none"
	b, err := broker.Open(private.brokerConfig(a.ctx, store), log)
	if err != nil {
		store.Close()
		return nil, nil, err
	}
	return b, func() { b.Close(); store.Close() }, nil
}
