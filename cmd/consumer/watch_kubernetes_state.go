package main

import (
	"crypto/sha256"
	"time"
)

// take notes what the helper reports. It returns whether there is something new to publish.
func (w *kubeWatcher) take(l *kubeLine) (changed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch l.Type {
	case kubeHello:
		w.trouble = ""
	case kubeStandby:
		if w.role != kubeStandby || w.holder != l.Holder {
			w.log.Info().Str("leader", printable(l.Holder)).Msg("another replica publishes, or none yet; waiting")
		}
		for _, s := range w.secrets {
			s.forget()
		}
		w.role, w.holder, w.complete, w.failing = kubeStandby, l.Holder, false, ""
		clear(w.secrets)
	case kubeLeading:
		w.log.Info().Msg("this replica publishes")
		w.role, w.holder, w.complete = kubeLeading, "", false
		for _, s := range w.secrets {
			s.seen = false
		}
	case kubeFound:
		return w.role == kubeLeading && w.found(l)
	case kubeGone:
		w.gone(l.secretID())
	case kubeComplete:
		for id, s := range w.secrets {
			if !s.seen {
				w.gone(id)
			}
		}
		w.complete = true
		w.log.Info().Int("secrets", len(w.secrets)).Msg("all secrets are known")
	case kubeTrouble:
		if w.trouble != l.Text && l.Text != "" {
			w.log.Error().Str("reason", printable(l.Text)).Msg("Kubernetes cannot be watched; trying again")
		} else if w.trouble != "" && l.Text == "" {
			w.log.Info().Msg("Kubernetes can be watched again")
		}
		w.trouble = l.Text
	}
	return false
}

// found notes a secret that exists.
func (w *kubeWatcher) found(l *kubeLine) (changed bool) {
	digest, now := l.content(), time.Now()
	before := w.secrets[l.secretID()]
	if before != nil && before.digest == digest && (before.state != kubeRefused || now.Sub(before.since) < refusalLife) {
		before.seen = true
		clear(l.PrivateKey)
		return false
	}
	if before == nil && l.Published == l.mark() {
		s := &kubeSecret{kubeLine: *l, state: kubePublished, digest: digest, since: now, seen: true}
		s.forget()
		w.secrets[l.secretID()] = s
		return false
	}
	s := &kubeSecret{kubeLine: *l, state: kubeWaiting, digest: digest, leaf: sha256.Sum256(l.Certificate), since: now, seen: true}
	if before != nil {
		if before.state == kubeWaiting && before.leaf != s.leaf {
			w.lost(before, "replaced")
		}
		if before.digest == digest {
			s.reason = before.reason // it is not said again
		}
		before.forget()
	}
	w.secrets[l.secretID()] = s
	return true
}

// gone notes that a secret does not exist any more, or is not to be published.
func (w *kubeWatcher) gone(id string) {
	s := w.secrets[id]
	if s == nil {
		return
	}
	if s.state == kubeWaiting {
		w.lost(s, "deleted")
	}
	s.forget()
	delete(w.secrets, id)
}

// lost says that a certificate was not published and never will be.
func (w *kubeWatcher) lost(s *kubeSecret, how string) {
	w.metrics.lost.WithLabelValues(how).Inc()
	w.log.Warn().Str("secret", s.secretID()).Str("reason", s.reason).Msg("the secret was " + how + " before its certificate could be published")
}
