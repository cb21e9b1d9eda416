package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/backoff"
	"github.com/certpost/certpost/internal/certfiles"
	"github.com/certpost/certpost/internal/secrets"
)

type watchCmd struct {
	Dir          []string          `arg:"" help:"Directories of certificates: of certbot, lego, acme.sh, dehydrated, step, Caddy, a mounted Kubernetes secret, or any others."`
	Once         bool              `help:"Publish what is new, and end; for cron."`
	Interval     time.Duration     `help:"How often everything is looked at, besides at each change." default:"1m"`
	Listen       string            `help:"Serve /livez, /healthz and /metrics at this address: numbers only, without sign-in." placeholder:"HOST:PORT"`
	SkipExisting bool              `name:"skip-existing" help:"Do not publish what is there at the first start; only what is issued afterwards."`
	StoreKey     string            `name:"store-key" help:"Write the private key to Vault first, as with certpost publish: vault:MOUNT/PATH#FIELD; {lineage}, {key_type}, {cn} and {domain} are replaced." placeholder:"REF" xor:"key"`
	NoKey        bool              `name:"no-key" help:"Do not reference keys; also publish certificates without a key beside them." xor:"key"`
	Passphrase   string            `name:"pkcs12-passphrase" help:"Reference to the passphrase of PKCS#12 files, such as file:PATH; without it they are left out." placeholder:"REF"`
	Target       []string          `help:"Deliver to this target (repeatable) instead of those that match." placeholder:"ID" sep:"none"`
	Label        map[string]string `help:"Label to match on (repeatable)." placeholder:"K=V"`
	As           string            `name:"as" help:"Publish on certificate.issued.SOURCE, as the source that NATS and events.sources know." placeholder:"SOURCE"`
}

// Validate checks the command line after it was parsed.
func (c *watchCmd) Validate() error {
	if c.Interval < time.Second {
		return errors.New("--interval: want at least 1s")
	}
	if c.Listen != "" && c.Once {
		return errors.New("--listen: with --once there is nothing to ask")
	}
	if c.Passphrase != "" {
		if ref, err := secrets.ParseRef(c.Passphrase); err != nil {
			return fmt.Errorf("--pkcs12-passphrase: %w", err)
		} else if len(ref.Needs()) > 0 {
			return errors.New("--pkcs12-passphrase: placeholders are not replaced here")
		}
	}
	return c.publish().Validate()
}

// publish is the command that a hook would run.
func (c *watchCmd) publish() *publishCmd {
	return &publishCmd{StoreKey: c.StoreKey, Target: slices.Clone(c.Target), Label: c.Label, As: c.As, noForce: true}
}

// Run publishes what is new in the directories until it is told to stop.
func (c *watchCmd) Run(a *app) error {
	cfg, problems := loadConnection(a.config, a.env)
	if err := a.usable(problems); err != nil {
		return err
	}
	for i, dir := range c.Dir {
		info, err := os.Stat(dir)
		if err != nil {
			return usage("%w", err)
		}
		if !info.IsDir() {
			return usage("%s is not a directory", dir)
		}
		if c.Dir[i], err = filepath.Abs(dir); err != nil {
			return err
		}
	}
	if _, err := c.publish().rehearse(); err != nil {
		return usage("%w", err)
	}
	w := newDirWatcher(a, c, cfg)
	if err := w.beginSkip(); err != nil {
		return err
	}
	if c.Once {
		return w.once(a.ctx)
	}
	return w.run(a.ctx)
}

// dirWatcher publishes the certificates that appear in directories.
type dirWatcher struct {
	app     *app
	cmd     *watchCmd
	cfg     *Config
	log     zerolog.Logger
	scanner *certfiles.Scanner

	handled map[string]bool               // ids that are published, or wait in the spool
	refused map[string]refusedCertificate // ids that publish would refuse
	told    map[string]time.Time          // problems by path and reason, since when
	warned  time.Time                     // of what waits for long
	skip    bool                          // what is there is not to be published
	probes  *watchProbes                  // nil without --listen
}

// refusedCertificate is why a certificate is not published, and when that was found.
type refusedCertificate struct {
	reason string
	at     time.Time
}

func newDirWatcher(a *app, c *watchCmd, cfg *Config) *dirWatcher {
	w := &dirWatcher{app: a, cmd: c, cfg: cfg, log: a.serviceLogger(cfg.Log), handled: map[string]bool{}, refused: map[string]refusedCertificate{}, told: map[string]time.Time{},
		scanner: &certfiles.Scanner{Host: hostname(), NoKey: c.NoKey}}
	if c.Passphrase != "" {
		w.scanner.Passphrase = w.passphrase
	}
	return w
}

// run looks at each change and at each interval.
func (w *dirWatcher) run(ctx context.Context) error {
	if w.cmd.Listen != "" {
		w.probes = newWatchProbes(w)
		stop, err := w.probes.serve(ctx, w.cmd.Listen)
		if err != nil {
			return err
		}
		defer stop()
	}
	interval := w.cmd.Interval
	notices, err := certfiles.Notice(ctx, w.cmd.Dir)
	var changes <-chan struct{}
	if err != nil {
		interval = min(interval, 5*time.Second)
		w.log.Warn().Err(err).Stringer("interval", interval).Msg("changes cannot be noticed on this machine (fs.inotify.max_user_watches may be too low); looking again and again instead")
	} else {
		changes = notices.C
	}
	w.log.Info().Strs("directories", w.cmd.Dir).Str("spool", w.cfg.spool().Dir()).Str("version", programVersion()).Int("pid", os.Getpid()).Msg("certpost watch is up")
	systemd := newSupervisor(w.app.env)
	systemd.ready("watching " + strings.Join(w.cmd.Dir, ", "))
	if systemd.alive > 0 {
		interval = min(interval, systemd.alive)
	}
	failed := 0
	for {
		systemd.signOfLife()
		if notices != nil {
			if err := notices.Extend(w.cmd.Dir); err != nil && w.say("notices", err.Error()) {
				w.log.Warn().Err(err).Msg("changes in some directories are found only at each interval (fs.inotify.max_user_watches may be too low)")
			}
		}
		settling := w.look(ctx)
		switch left, err := w.flush(ctx); {
		case ctx.Err() != nil:
			w.log.Info().Msg("certpost watch has stopped")
			return nil
		case err != nil || left > 0:
			failed++
		default:
			failed = 0
		}
		next := interval
		if settling {
			next = certfiles.Settle + 20*time.Millisecond
		}
		if failed > 0 {
			next = min(next, backoff.Jitter(time.Second<<min(failed-1, 5)))
		}
		select {
		case <-ctx.Done():
		case <-changes:
		case <-time.After(next):
		}
	}
}
