package main

import (
	"context"
	"errors"
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
	log     zerolog.Logger
	soonest prometheus.Gauge

	mu   sync.Mutex
	ends []delivery.RecipientKey // that cannot be used, or not for much longer
	said map[string]bool         // what the log has said of them today
}

func newKeyWatch(keys func(context.Context) []delivery.RecipientKey, registry prometheus.Registerer, log zerolog.Logger) *keyWatch {
	w := &keyWatch{keys: keys, log: log, hourly: newHourly(), said: map[string]bool{}, soonest: prometheus.NewGauge(prometheus.GaugeOpts{
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
	var ends []delivery.RecipientKey
	var first time.Time
	now := time.Now()
	said := map[string]bool{}
	for _, k := range keys {
		if !k.Expires.IsZero() && (first.IsZero() || k.Expires.Before(first)) {
			first = k.Expires
		}
		if !k.Ends(now) {
			continue
		}
		ends = append(ends, k)
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
	w.ends, w.said = ends, said
}

// health names the keys that cannot be used, or not for much longer.
func (w *keyWatch) health() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	const shown = 5
	var texts []string
	for _, k := range w.ends[:min(len(w.ends), shown)] {
		texts = append(texts, "target "+k.Target+": "+k.String())
	}
	if more := len(w.ends) - shown; more > 0 {
		texts = append(texts, fmt.Sprintf("and %d more", more))
	}
	if len(texts) == 0 {
		return nil
	}
	return errors.New(strings.Join(texts, "; "))
}
