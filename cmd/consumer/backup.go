package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/secrets"
)

type backupCmd struct {
	Dir    string `arg:"" help:"Directory for the backup; it must not exist yet." placeholder:"DIR"`
	NoKeys bool   `help:"Leave out the keys of data_dir (audit.key and the seeds of the embedded NATS)."`
	Output string `help:"Format: text or json." enum:"text,json" default:"text" short:"o"`
}

type restoreCmd struct {
	Dir    string `arg:"" help:"Directory of a backup." placeholder:"DIR"`
	Output string `help:"Format: text or json." enum:"text,json" default:"text" short:"o"`
}

// backup is the file backup.json of a backup: what is in it.
type backup struct {
	Format  int               `json:"format"` // 1
	Version string            `json:"version"`
	NATS    string            `json:"nats"`
	Began   time.Time         `json:"began"`
	Ended   time.Time         `json:"ended"`
	Streams []broker.BackedUp `json:"streams"`
	Keys    []backedUpKey     `json:"keys"`
}

// backedUpKey is a file below keys/, by its path below data_dir.
type backedUpKey struct {
	File   string `json:"file"`
	SHA256 string `json:"sha256"`
}

const (
	backupFormat  = 1
	backupFile    = "backup.json"
	backupStreams = "streams"
	backupKeys    = "keys"
)

// keyFiles are the files of data_dir without which a restored store cannot be used: they exist
// with the embedded NATS only.
var keyFiles = []string{auditKeyFile, "nats/admin.nk", "nats/publisher.nk"}

// Run copies all that lies in NATS, and the keys of data_dir, while certpost goes on working.
func (c *backupCmd) Run(a *app) error {
	cfg, problems := loadConnection(a.config, a.env)
	if err := a.usable(problems); err != nil {
		return err
	}
	c.Dir = filepath.Clean(c.Dir)
	if _, err := os.Lstat(c.Dir); !errors.Is(err, fs.ErrNotExist) {
		return usage("%s exists already: name a directory that does not", c.Dir)
	}
	b, done, err := a.dialWith(a.ctx, cfg)
	if err != nil {
		return err
	}
	defer done()
	part := c.Dir + ".part" // becomes c.Dir when it is complete
	switch err := os.Mkdir(part, 0o700); {
	case errors.Is(err, fs.ErrExist):
		return fmt.Errorf("%w: remove what an earlier backup has left there, or use another directory", err)
	case errors.Is(err, fs.ErrNotExist):
		return usage("%s does not exist: make it first", filepath.Dir(part))
	case err != nil:
		return err
	}
	content := backup{Format: backupFormat, Version: programVersion(), NATS: b.URL(), Began: time.Now().UTC()}
	if err := c.fill(a, b, cfg, part, &content); err != nil {
		return errors.Join(err, os.RemoveAll(part))
	}
	if err := os.Rename(part, c.Dir); err != nil {
		return err
	}
	if c.Output == "json" {
		return a.json(content)
	}
	fmt.Fprintf(a.stdout, "%s has %d streams and %d files with keys\n", c.Dir, len(content.Streams), len(content.Keys))
	if len(content.Keys) > 0 {
		fmt.Fprintln(a.stdout, "keep it as secret as data_dir: who has the keys can read and forge everything in NATS")
	}
	return nil
}

func (c *backupCmd) fill(a *app, b *broker.Broker, cfg *Config, dir string, content *backup) error {
	err := b.BackUp(a.ctx, filepath.Join(dir, backupStreams), func(s broker.BackedUp) {
		content.Streams = append(content.Streams, s)
		c.say(a, s)
	})
	if err != nil {
		return err
	}
	if cfg.NATS.URL == "" && !c.NoKeys {
		for _, name := range keyFiles {
			switch sum, err := copyPrivate(filepath.Join(cfg.DataDir, name), filepath.Join(dir, backupKeys, name), ""); {
			case errors.Is(err, fs.ErrNotExist): // audit.key may be a reference
			case err != nil:
				return fmt.Errorf("%w: run the backup as the user of certpost, or with --no-keys", err)
			default:
				content.Keys = append(content.Keys, backedUpKey{name, sum})
			}
		}
	}
	content.Ended = time.Now().UTC()
	text, err := json.MarshalIndent(content, "", "  ")
	if err != nil {
		return err
	}
	return broker.WritePrivate(filepath.Join(dir, backupFile), append(text, '\n'))
}

func (c *backupCmd) say(a *app, s broker.BackedUp) {
	if c.Output != "json" {
		fmt.Fprintf(a.stdout, "%-24s %d messages\n", s.Stream, s.Messages)
	}
}

// Run makes the streams of a backup in a NATS that has none of them, and the keys in a data_dir
// that has none.
func (c *restoreCmd) Run(a *app) error {
	cfg, problems := loadConnection(a.config, a.env)
	if err := a.usable(problems); err != nil {
		return err
	}
	content, err := c.read()
	if err != nil {
		return err
	}
	log := a.logger(LogConfig{Level: "error", Format: cfg.Log.Format})
	store, err := secrets.Open(cfg.Vault, log)
	if err != nil {
		return err
	}
	defer store.Close()
	embedded := cfg.NATS.URL == ""
	if embedded {
		if err := c.restoreKeys(cfg.DataDir, content); err != nil {
			return err
		}
		// No client may publish, and nothing may be delivered, before the restore is complete.
		cfg.NATS.Listen = "none"
	}
	opened := cfg.brokerConfig(a.ctx, store)
	opened.Restoring = true
	b, err := broker.Open(opened, log)
	if err != nil {
		return err
	}
	defer b.Close()
	if err := c.restore(a, b, content); err != nil {
		return err
	}
	if embedded {
		if err := broker.EndRestore(cfg.DataDir); err != nil {
			return err
		}
	}
	if c.Output == "json" {
		return a.json(content)
	}
	fmt.Fprintf(a.stdout, "restored as of %s; `certpost run` delivers what waits. What was delivered after that time and is in the backup as waiting goes out again,\n"+
		"with the header X-Certpost-Possible-Duplicate (or ends as DELIVERY_UNCERTAIN, with delivery.on_unknown_outcome: dead_letter).\n"+
		"Events published after that time are not in the backup: publish them again.\n", content.Ended.Local().Format(time.DateTime))
	return nil
}

func (c *restoreCmd) read() (content backup, err error) {
	path := filepath.Join(c.Dir, backupFile)
	text, err := os.ReadFile(path)
	if err != nil {
		return content, usage("%s is not a complete backup: %w", c.Dir, err)
	}
	if err := json.Unmarshal(text, &content); err != nil || len(content.Streams) == 0 {
		return content, usage("%s cannot be read as the content of a backup", path)
	}
	if content.Format > backupFormat {
		return content, usage("%s was made by certpost %s in a newer format: restore it with that version or a later one", c.Dir, content.Version)
	}
	return content, nil
}

// restoreKeys copies the keys into data_dir. Keys that are there already are not overwritten:
// they may be all that is left of another store.
func (c *restoreCmd) restoreKeys(dataDir string, content backup) error {
	for _, key := range content.Keys {
		if !slices.Contains(keyFiles, key.File) {
			return usage("%s names a key that no backup has: %s", backupFile, key.File)
		}
		to := filepath.Join(dataDir, key.File)
		if _, err := os.Lstat(to); !errors.Is(err, fs.ErrNotExist) {
			return usage("%s exists: restore into an empty data_dir", to)
		}
	}
	if err := broker.BeginRestore(dataDir); err != nil {
		return usage("%w", err)
	}
	for _, key := range content.Keys {
		if _, err := copyPrivate(filepath.Join(c.Dir, backupKeys, key.File), filepath.Join(dataDir, key.File), key.SHA256); err != nil {
			return err
		}
	}
	return nil
}

func (c *restoreCmd) restore(a *app, b *broker.Broker, content backup) error {
	ctx, cancel := context.WithTimeout(a.ctx, 10*time.Second)
	defer cancel()
	if err := b.Disconnected(); err != nil {
		return err
	}
	existing, err := b.Existing(ctx)
	if err != nil {
		return err
	}
	if len(existing) > 0 {
		return usage("NATS has %s already, with %d streams of certpost: restore into an empty one, or into another account", existing[0], len(existing))
	}
	err = b.RestoreBackup(a.ctx, filepath.Join(c.Dir, backupStreams), content.Streams, func(s broker.BackedUp) {
		if c.Output != "json" {
			fmt.Fprintf(a.stdout, "%-24s %d messages\n", s.Stream, s.Messages)
		}
	})
	if err != nil {
		return fmt.Errorf("%w; what was restored so far is not usable: empty the place, and begin again", err)
	}
	return nil
}

// maxKeyFile is the size in bytes of the largest file with keys.
const maxKeyFile = 64 << 10

// copyPrivate copies a small file, and returns its SHA-256, which must be sum unless that is "". Only
// its user may read the copy. A link, or anything else that is no file, is refused: a backup may
// be forged.
func copyPrivate(from, to, sum string) (string, error) {
	info, err := os.Lstat(from)
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() || info.Size() > maxKeyFile {
		return "", usage("%s is not a file with keys", from)
	}
	text, err := os.ReadFile(from)
	if err != nil {
		return "", err
	}
	defer clear(text)
	got := fmt.Sprintf("%x", sha256.Sum256(text))
	if sum != "" && got != sum {
		return "", usage("%s is not what the backup wrote", from)
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return "", err
	}
	return got, broker.WritePrivate(to, text)
}
