package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/backoff"
	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/secrets"
)

// kubeWatcher publishes the certificates of secrets. It keeps nothing on disk: the secrets are the
// store, and who leads next reads them again (docs/decisions/0096).
type kubeWatcher struct {
	app    *app
	cmd    *watchKubernetesCmd
	helper string // path
	log    zerolog.Logger

	metrics kubeMetrics

	mu       sync.Mutex // for the HTTP server
	role     string     // kubeLeading, kubeStandby; "" before the helper has said
	holder   string     // of the lease, if this is a standby
	complete bool       // all secrets were reported
	trouble  string     // with Kubernetes
	failing  string     // why something waits: NATS, Vault
	secrets  map[string]*kubeSecret
}

func newKubeWatcher(a *app, c *watchKubernetesCmd, helper string) (*kubeWatcher, error) {
	cfg, _ := loadConnection(a.config, a.env)
	w := &kubeWatcher{app: a, cmd: c, helper: helper, log: a.serviceLogger(cfg.Log), secrets: map[string]*kubeSecret{}}
	w.metrics = newKubeMetrics(w)
	return w, nil
}

// serve runs the helper until it ends, and publishes what it reports.
func (w *kubeWatcher) serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	h, err := startHelper(ctx, w.helper, w.cmd.helperArgs(), w.app.env, warnings{w.log})
	if err != nil {
		cancel()
		return err
	}
	defer func() {
		cancel()
		for range h.lines { // until it has ended
		}
	}()
	failed, next := 0, time.Time{}
	for {
		var due <-chan time.Time
		if w.waiting() > 0 {
			due = time.After(time.Until(next))
		} else if w.cmd.Once && w.isComplete() {
			return w.outcome()
		}
		select {
		case l, running := <-h.lines:
			if !running {
				return cmp.Or(<-h.ended, errors.New("certpost-kubernetes has ended"))
			}
			if changed := w.take(&l); changed {
				// A burst, such as at the start, is published with one connection.
				failed, next = 0, time.Now().Add(kubeBurst)
			}
		case <-due:
			if w.publishWaiting(ctx, h) {
				failed = 0
				continue
			}
			if w.cmd.Once && w.isComplete() {
				return w.outcome()
			}
			next = time.Now().Add(backoff.Jitter(time.Second << min(failed, 5)))
			failed++
		}
	}
}

// kubeBurst is how long more lines are waited for before a publication.
const kubeBurst = 50 * time.Millisecond

// ended notes that the helper has ended. What it has reported is read again.
func (w *kubeWatcher) ended(err error) {
	w.log.Error().Err(err).Msg("the connection to Kubernetes has ended; starting it again")
	w.mu.Lock()
	defer w.mu.Unlock()
	w.role, w.complete, w.trouble = "", false, err.Error()
}

// publishWaiting publishes what waits, oldest first, and reports whether nothing waits any more.
func (w *kubeWatcher) publishWaiting(ctx context.Context, h *helperProcess) (done bool) {
	var waiting []*kubeSecret
	w.mu.Lock()
	for _, s := range w.secrets {
		if s.state == kubeWaiting {
			waiting = append(waiting, s)
		}
	}
	slices.SortFunc(waiting, func(a, b *kubeSecret) int {
		return cmp.Or(a.since.Compare(b.since), cmp.Compare(a.secretID(), b.secretID()))
	})
	w.mu.Unlock()
	cfg, problems := loadConnection(w.app.config, w.app.env)
	a := *w.app
	a.ctx, a.stderr = ctx, warnings{w.log}
	if err := a.usable(problems); err != nil {
		w.fails(errors.New("the configuration is not valid"), waiting...)
		return false
	}
	out := a.outbox(cfg, func(text string) { w.log.Warn().Msg(text) })
	defer out.close()
	dialing, cancel := context.WithTimeout(ctx, watchFlush)
	defer cancel()
	connected := out.dial(dialing)
	done = true
	var failure error
	blind := false // NATS lets this user read neither stream nor ledger
	for _, s := range waiting {
		id, known, err := "", false, connected
		publish, p, refusal := w.cmd.publication(s)
		if refusal == nil {
			refusal = w.permitted(&a, cfg, publish, p)
		}
		if refusal == nil && err == nil {
			if id, known, err = w.publishOne(ctx, out, publish, p, s, &blind); broker.Unpublishable(err) {
				refusal = err
			}
		}
		switch {
		case refusal != nil: // also while NATS is away
			w.refused(h, s, refusal)
		case err != nil:
			done, failure = false, err
			w.fails(err, s)
			if connected == nil && (ctx.Err() != nil || out.broker.Disconnected() != nil) {
				connected = err
			}
		default:
			w.published(h, s, id, known)
		}
	}
	if failure == nil {
		w.works()
	}
	return done
}

// permitted refuses what `certpost publish` would refuse.
func (w *kubeWatcher) permitted(a *app, cfg *Config, publish *publishCmd, p publication) error {
	err := publish.check(a, cfg, p)
	if err == nil && publish.StoreKey != "" {
		leaf, _ := p.ev.Leaf() // publication has read it
		ref, place := publish.storePlace(p, leaf)
		if place != nil {
			return place
		}
		named := *p.ev
		named.PrivateKey = eventReference(ref)
		if problems := closed(cfg, &named); len(problems) > 0 {
			return fmt.Errorf("--store-key: %s", problems[0])
		}
	}
	return err
}

// publishOne stores the key, then publishes the event, unless it was published before.
func (w *kubeWatcher) publishOne(ctx context.Context, out *outbox, publish *publishCmd, p publication, s *kubeSecret, blind *bool) (id string, known bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	if publish.StoreKey != "" {
		if p.ev.PrivateKey, err = storeKubeKey(ctx, out, publish, p, s.PrivateKey); err != nil {
			return "", false, fmt.Errorf("store the private key: %w", err)
		}
	}
	p.ev.Time = time.Now().UTC().Truncate(time.Millisecond)
	ev, err := decoded(p.ev)
	if err != nil {
		return "", false, err
	}
	// A replica that was killed may have published it and not remembered. NATS does not answer users
	// who may not ask; then the stream's duplicate window and the ledger have to do.
	if began := time.Now(); !*blind {
		if out.broker.Known(ctx, ev) {
			return ev.ID, true, nil
		}
		*blind = time.Since(began) > time.Second
	}
	_, duplicate, err := out.broker.Publish(ctx, ev)
	return ev.ID, duplicate, err
}

// storeKubeKey writes the private key to Vault and returns its reference, with the version. Nothing
// is written if it is there already.
func storeKubeKey(ctx context.Context, out *outbox, publish *publishCmd, p publication, key []byte) (*events.Reference, error) {
	leaf, err := p.ev.Leaf()
	if err != nil {
		return nil, err
	}
	ref, err := publish.storePlace(p, leaf)
	if err != nil {
		return nil, err
	}
	if err := out.openKeys(); err != nil {
		return nil, err
	}
	written, err := out.keys.Put(ctx, ref, secrets.New(key))
	if err != nil {
		return nil, err
	}
	clear(written.Before.Reveal())
	stored := eventReference(ref)
	stored.Vault.Version = written.Version
	return stored, nil
}

// published notes that a secret's certificate is in the stream.
func (w *kubeWatcher) published(h *helperProcess, s *kubeSecret, id string, known bool) {
	log := w.log.Info().Str("secret", s.secretID()).Str("event", id)
	note := kubeNote{Namespace: s.Namespace, Name: s.Name, UID: s.UID, Digest: s.mark()}
	if known {
		log.Msg("it was published before")
	} else {
		w.metrics.published.Inc()
		log.Msg("published")
		note.Text = "Certificate published as event " + id
	}
	h.note(note)
	w.settle(s, kubePublished, "")
}

// refused notes that a secret cannot be published as it is. It is looked at again when it changes,
// and after a while: its targets may be defined meanwhile.
func (w *kubeWatcher) refused(h *helperProcess, s *kubeSecret, reason error) {
	text := printable(reasonOf(reason))
	if s.reason != text {
		w.log.Warn().Str("secret", s.secretID()).Str("reason", text).Msg("not published")
		h.note(kubeNote{Namespace: s.Namespace, Name: s.Name, UID: s.UID, Refused: true, Text: "Certificate not published: " + text})
	}
	w.settle(s, kubeRefused, text)
}

func (w *kubeWatcher) settle(s *kubeSecret, state kubeState, reason string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s.state, s.reason, s.since = state, reason, time.Now()
	s.forget()
}

// fails notes why secrets wait. The same reason is logged once.
func (w *kubeWatcher) fails(err error, waiting ...*kubeSecret) {
	w.metrics.failures.Inc()
	w.mu.Lock()
	defer w.mu.Unlock()
	text := printable(err.Error())
	if w.failing != text {
		w.log.Warn().Str("reason", text).Int("secrets", len(waiting)).Msg("certificates cannot be published; trying again")
	}
	w.failing = text
	for _, s := range waiting {
		s.reason = text
	}
}

// works notes that nothing waits because of a failure.
func (w *kubeWatcher) works() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failing != "" {
		w.log.Info().Msg("certificates can be published again")
	}
	w.failing = ""
}

func (w *kubeWatcher) isComplete() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.complete
}

// outcome is the result of --once.
func (w *kubeWatcher) outcome() error {
	n := w.counts()
	switch {
	case n[kubeWaiting] > 0:
		fmt.Fprintf(w.app.stderr, "certpost: %s not published yet; the next run tries again\n", count(n[kubeWaiting], "certificate is", "certificates are"))
		return &failure{code: exitKept}
	case n[kubeRefused] > 0:
		return &failure{exitFailed, fmt.Errorf("%s refused", count(n[kubeRefused], "certificate was", "certificates were"))}
	}
	return nil
}

func (w *kubeWatcher) waiting() int { return w.counts()[kubeWaiting] }

func (w *kubeWatcher) counts() map[kubeState]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := map[kubeState]int{}
	for _, s := range w.secrets {
		n[s.state]++
	}
	return n
}
