package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/certfiles"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/spool"
)

const (
	// hurry is how long `watch --once` waits for files that a client is writing.
	hurry = 15 * time.Second
	// refusalLife is how long a refused certificate is not looked at: its targets may be
	// defined meanwhile.
	refusalLife = 10 * time.Minute
	// watchFlush bounds a flush of the watcher, which has to notice changes meanwhile.
	watchFlush = 10 * time.Second
)

// look adds the certificates that are new to the spool. It reports whether files may be
// complete a moment later.
func (w *dirWatcher) look(ctx context.Context) (settling bool) {
	found, problems := w.scanner.Scan(w.cmd.Dir)
	now := time.Now()
	present := map[string]bool{}
	for _, p := range problems {
		at := problemAt(p)
		present[at] = true
		since, known := w.told[at]
		switch {
		case p.Settling && !known:
			w.told[at] = now
		case !p.Settling && !since.IsZero(), !p.Settling && !known:
			w.told[at] = time.Time{}
			w.report(p)
		}
		settling = settling || p.Settling
	}
	for at := range w.told {
		if !present[at] && strings.Contains(at, "\x00") {
			delete(w.told, at)
		}
	}
	for _, f := range found {
		if ctx.Err() != nil {
			return false
		}
		w.consider(ctx, f, w.skip, now)
	}
	if !settling {
		w.endSkip(ctx)
		w.probes.look(unusable(problems) + w.refusedOf(found))
	}
	return settling
}

// unusable is how many of these problems are failures.
func unusable(problems []certfiles.Problem) (n int) {
	for _, p := range problems {
		if !p.LeftOut {
			n++
		}
	}
	return n
}

// refusedOf is how many of these certificates are refused.
func (w *dirWatcher) refusedOf(found []certfiles.Found) (n int) {
	for _, f := range found {
		if ev, err := f.Event(); err == nil && !w.handled[ev.ID] && w.refused[ev.ID].reason != "" {
			n++
		}
	}
	return n
}

// beginSkip begins to skip what is there, if the directories were never watched before.
func (w *dirWatcher) beginSkip() error {
	if !w.cmd.SkipExisting {
		return nil
	}
	seen, err := w.cfg.spool().Remembers(w.watched())
	w.skip = !seen
	return err
}

// endSkip remembers that what is there was skipped: a later start publishes what is new then.
func (w *dirWatcher) endSkip(ctx context.Context) {
	if !w.skip {
		return
	}
	err := w.cfg.spool().Remember(ctx, map[string]time.Time{w.watched(): time.Now().AddDate(100, 0, 0)})
	if err != nil {
		w.log.Error().Err(err).Msg("that these directories were watched cannot be remembered; the next start skips what is there then")
	}
	w.skip = false
}

// watched is what the memory has for the directories. It cannot be the id of a certificate's event.
func (w *dirWatcher) watched() string { return "watched:" + strings.Join(w.cmd.Dir, "\x00") }

func problemAt(p certfiles.Problem) string { return p.Path + "\x00" + p.Reason }

func (w *dirWatcher) report(p certfiles.Problem) {
	w.log.Warn().Str("file", printable(p.Path)).Str("reason", printable(p.Reason)).Msg("not published")
}

// say reports whether something is to be logged: once for each text.
func (w *dirWatcher) say(what, text string) bool {
	at := what + ": " + text
	_, said := w.told[at]
	w.told[at] = time.Time{}
	return !said
}

// consider publishes a certificate that was not published before.
func (w *dirWatcher) consider(ctx context.Context, f certfiles.Found, skip bool, now time.Time) {
	ev, err := f.Event()
	if err != nil || w.handled[ev.ID] {
		return
	}
	if r, known := w.refused[ev.ID]; known && now.Sub(r.at) < refusalLife {
		return
	}
	log := w.log.With().Str("event", ev.ID).Str("file", printable(f.File)).Str("source", ev.Source).Logger()
	published, err := w.cfg.spool().Remembers(ev.ID)
	if err != nil && w.say("memory", err.Error()) {
		log.Warn().Err(err).Msg("what was published before is not known")
	}
	if published {
		w.handled[ev.ID] = true
		return
	}
	reason := ""
	if skip {
		err = w.pass(ctx, f)
	} else {
		reason, err = w.add(ctx, f, log)
	}
	switch {
	case reason != "":
		if w.refused[ev.ID].reason != reason {
			log.Warn().Str("reason", printable(reason)).Msg("not published")
		}
		w.refused[ev.ID] = refusedCertificate{reason, now}
	case err != nil: // tried again at the next look
		if w.say(ev.ID, err.Error()) {
			log.Error().Err(err).Msg("a new certificate cannot be kept for publication; trying again")
		}
	case skip:
		w.handled[ev.ID] = true
		log.Info().Msg("not published: it was there at the first start")
	default:
		w.handled[ev.ID] = true
		delete(w.refused, ev.ID)
		log.Info().Msg("a new certificate")
	}
}

// pass remembers a certificate as if it had been published.
func (w *dirWatcher) pass(ctx context.Context, f certfiles.Found) error {
	ev, err := f.Event()
	if err != nil {
		return err
	}
	leaf, err := ev.Leaf()
	if err != nil {
		return err
	}
	return w.cfg.spool().Remember(ctx, map[string]time.Time{ev.ID: leaf.NotAfter})
}

// add checks a certificate as `certpost publish` does, and adds it to the spool. reason says
// why it is refused.
func (w *dirWatcher) add(ctx context.Context, f certfiles.Found, log zerolog.Logger) (reason string, err error) {
	cfg, problems := loadConnection(w.app.config, w.app.env)
	a := *w.app
	a.ctx, a.stderr = ctx, warnings{log}
	if err := a.usable(problems); err != nil {
		return "", errors.New("the configuration is not valid")
	}
	w.cfg = cfg
	c := w.cmd.publish()
	if err := c.Validate(); err != nil {
		return "", err
	}
	ev, err := f.Event()
	if err != nil {
		return "", err
	}
	ev.Time = time.Now().UTC().Truncate(time.Millisecond)
	ev.Targets, ev.Labels, ev.Subject = c.Target, c.Label, events.SourceSubject(c.As)
	if w.cmd.NoKey || f.PKCS12 { // a reference leads to PEM
		ev.PrivateKey = nil
	}
	p := publication{ev: ev, certFile: f.CertFile, keyFile: f.KeyFile, lineage: f.Lineage}
	if f.PKCS12 {
		p.passphrase = w.cmd.Passphrase
	}
	e, err := c.prepare(&a, cfg, p)
	var wrong *failure
	if errors.As(err, &wrong) && wrong.code == exitUsage {
		return wrong.Error(), nil
	}
	if err != nil {
		return "", err
	}
	out := a.outbox(cfg, func(text string) { log.Warn().Msg(text) })
	defer out.close()
	if err := out.add(ctx, e); err != nil {
		return "", err
	}
	out.remember(ctx, e)
	return "", nil
}

// passphrase reads the passphrase of PKCS#12 files.
func (w *dirWatcher) passphrase() ([]byte, error) {
	ref, err := secrets.ParseRef(w.cmd.Passphrase)
	if err != nil {
		return nil, err
	}
	store, err := secrets.Open(w.cfg.Vault, w.app.logger(LogConfig{Level: "error", Format: w.cfg.Log.Format}))
	if err != nil {
		return nil, err
	}
	defer store.Close()
	ctx, cancel := context.WithTimeout(w.app.ctx, watchFlush)
	defer cancel()
	s, err := store.Get(ctx, ref, nil)
	if err != nil {
		return nil, err
	}
	return s.Value.Reveal(), nil
}

// flush publishes what waits in the spool, also what hooks had to leave there, and returns how
// many events still wait.
func (w *dirWatcher) flush(ctx context.Context) (left int, err error) {
	before, err := w.cfg.spool().State()
	if err != nil {
		if w.say("spool", err.Error()) {
			w.log.Error().Err(err).Msg("the spool cannot be read")
		}
		return 0, err
	}
	for _, file := range before.Damaged() {
		if w.say("damaged", file.Err.Error()) {
			w.log.Error().Err(file.Err).Msg("a file of the spool cannot be published")
		}
	}
	if before.Waiting == 0 {
		return 0, nil
	}
	ctx, cancel := context.WithTimeout(ctx, watchFlush)
	defer cancel()
	a := *w.app
	a.ctx = ctx
	out := a.outbox(w.cfg, func(text string) { w.log.Warn().Msg(text) })
	defer out.close()
	var failures []spool.Failure
	if err = out.dial(ctx); err == nil {
		failures, err = out.flush(ctx)
	}
	w.probes.publish(out.published)
	if out.published > 0 {
		w.log.Info().Int("events", out.published).Msg("published")
	}
	for _, f := range failures {
		if f.Entry == nil { // damaged
			continue
		}
		if text := f.Err.Error(); w.say("failure", text) {
			w.log.Warn().Str("event", f.Entry.Event.ID).Str("reason", text).Msg("waits in the spool, or was set aside")
		}
	}
	if err != nil && w.say("flush", err.Error()) {
		w.log.Warn().Err(err).Int("events", before.Waiting).Msg("what waits in the spool cannot be published; trying again")
	}
	after, stateErr := w.cfg.spool().State()
	if after.Waiting == 0 && stateErr == nil {
		for at := range w.told { // the next outage is logged again
			if strings.HasPrefix(at, "flush: ") || strings.HasPrefix(at, "failure: ") {
				delete(w.told, at)
			}
		}
	} else if now := time.Now(); now.Sub(after.Oldest) > w.cfg.Spool.WarnAfter && now.Sub(w.warned) > time.Hour {
		w.warned = now
		w.log.Error().Str("spool", after.Dir).Msg(waitingText(after, now))
	}
	return after.Waiting, errors.Join(err, stateErr)
}

// once looks until all files have settled, publishes, and says what is left.
func (w *dirWatcher) once(ctx context.Context) error {
	end := time.Now().Add(hurry)
	for w.look(ctx) && time.Now().Before(end) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(certfiles.Settle + 20*time.Millisecond):
		}
	}
	_, problems := w.scanner.Scan(w.cmd.Dir)
	for _, p := range problems {
		if since, known := w.told[problemAt(p)]; !known || !since.IsZero() {
			w.report(p)
		}
	}
	left, err := w.flush(ctx)
	switch {
	case err != nil && left == 0:
		return err
	case left > 0:
		fmt.Fprintf(w.app.stderr, "certpost: %s in the spool %s, published by the next certpost watch, or certpost publish --flush\n", count(left, "event waits", "events wait"), w.cfg.spool().Dir())
	}
	var failures []string
	if n := len(w.refused); n > 0 {
		failures = append(failures, count(n, "certificate was", "certificates were")+" refused")
	}
	if n := unusable(problems); n > 0 {
		failures = append(failures, count(n, "file or directory", "files or directories")+" cannot be used")
	}
	if state, err := w.cfg.spool().State(); err == nil && len(state.Damaged()) > 0 {
		failures = append(failures, count(len(state.Damaged()), "file")+" of the spool cannot be published")
	}
	switch {
	case len(failures) > 0:
		return &failure{exitFailed, errors.New(strings.Join(failures, ", ") + ": the lines before say why")}
	case left > 0:
		return &failure{code: exitKept}
	}
	return nil
}

// warnings logs the lines that a command would print.
type warnings struct{ log zerolog.Logger }

func (w warnings) Write(text []byte) (int, error) {
	for line := range strings.Lines(string(text)) {
		line = strings.TrimPrefix(strings.TrimSpace(line), "certpost: ")
		w.log.Warn().Msg(strings.TrimPrefix(line, "warning: "))
	}
	return len(text), nil
}
