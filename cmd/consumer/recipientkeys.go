package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/delivery"
)

// keyWatch looks at the keys that mails are encrypted to: one that ends unnoticed stops its
// target's mails.
type keyWatch struct {
	hourly // also ordered when the definitions have changed

	keys    func(context.Context) []delivery.RecipientKey
	warning time.Duration // before the end of a key
	log     zerolog.Logger
	soonest prometheus.Gauge

	mu   sync.Mutex
	seen []delivery.RecipientKey
	said map[string]bool // what the log has said of them today
}

func newKeyWatch(keys func(context.Context) []delivery.RecipientKey, warning time.Duration, registry prometheus.Registerer, log zerolog.Logger) *keyWatch {
	w := &keyWatch{keys: keys, warning: warning, log: log, hourly: newHourly(), said: map[string]bool{}, soonest: prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "certpost_recipient_key_expiry_timestamp_seconds",
		Help: "When the first of the keys that mails are encrypted to expires, in seconds since 1970; 0 if none expires.",
	})}
	registry.MustRegister(w.soonest)
	return w
}

func (w *keyWatch) run(ctx context.Context) { w.every(ctx, w.look) }

func (w *keyWatch) look(ctx context.Context) {
	keys := w.keys(ctx)
	if ctx.Err() != nil {
		return // a key that was not read because the program ends says nothing
	}
	var first time.Time
	now := time.Now()
	said := map[string]bool{}
	for _, k := range keys {
		if !k.Expires.IsZero() && (first.IsZero() || k.Expires.Before(first)) {
			first = k.Expires
		}
		if !k.Ends(now, w.warning) {
			continue
		}
		text := now.Format(time.DateOnly) + k.Target + k.String()
		if said[text] = true; !w.said[text] {
			w.log.Warn().Str("target", k.Target).Str("problem", k.String()).Msg("a key that mails are encrypted to ends")
		}
	}
	if first.IsZero() {
		w.soonest.Set(0)
	} else {
		w.soonest.Set(float64(first.Unix()))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen, w.said = keys, said
}

// health is unhealthy if a key has expired, degraded if one cannot be used otherwise, or expires soon. there
// is false if no mail is encrypted.
func (w *keyWatch) health(now time.Time) (c check, there bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c = check{Name: "recipient_keys", Tags: []string{"tls"}, Status: healthy}
	var texts []string
	more := 0
	for _, k := range w.seen {
		if !k.Ends(now, w.warning) {
			continue
		}
		c.Status = worse(c.Status, worse(degraded, expiry(k.Expires, now, w.warning)))
		if len(texts) == shownProblems {
			more++
			continue
		}
		texts = append(texts, "target "+k.Target+": "+k.String())
	}
	if more > 0 {
		texts = append(texts, fmt.Sprintf("and %d more", more))
	}
	c.Message = strings.Join(texts, "; ")
	return c, len(w.seen) > 0
}
