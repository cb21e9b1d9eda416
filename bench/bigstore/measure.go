package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/mail"
	"slices"
	"time"

	"github.com/certpost/certpost/internal/backoff"
	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/devrelay"
	"github.com/certpost/certpost/internal/events"
)

// times are durations, sorted in ascending order.
type times []time.Duration

func (t times) at(share float64) time.Duration {
	if len(t) == 0 {
		return 0
	}
	return t[min(int(share*float64(len(t))), len(t)-1)]
}

// startUp is the result of a start: times since the process was started.
type startUp struct {
	ready, listed, indexed time.Duration
	live                   times   // of events published in the meantime, until the relay had them
	memory, most           float64 // MiB, after everything was read
}

// launch starts the program on its filled store, publishes events until the program
// has read the whole store, and looks at its memory after a rest.
func launch(ctx context.Context, f *office, t *town, s size, rest time.Duration) (u startUp, err error) {
	if err := f.start(f.sync); err != nil {
		return u, err
	}
	reading, read := context.WithCancel(ctx)
	live := make(chan error, 1)
	go func() {
		var err error
		u.live, err = traffic(ctx, reading, f, t.relays[0], "start")
		live <- err
	}()
	err = f.poll(ctx, 10*time.Minute, "/readyz", func() error {
		_, err := f.get(ctx, "/readyz")
		return err
	})
	u.ready = time.Since(f.began)
	if err == nil {
		err = f.poll(ctx, 10*time.Minute, "the index", func() error {
			var o desk.Overview
			if err := f.ask(ctx, "/", &o); err != nil {
				return err
			}
			if o.Balance.Open < s.letters {
				return fmt.Errorf("%d of %d letters are listed", o.Balance.Open, s.letters)
			}
			if u.listed == 0 {
				u.listed = time.Since(f.began)
			}
			if o.Reading != "" {
				return errors.New(o.Reading)
			}
			u.indexed = time.Since(f.began)
			return nil
		})
	}
	if err == nil {
		// The program returns what reading and verifying the ledger have left, some time later.
		backoff.Sleep(ctx, rest)
		u.memory, u.most = f.memory()
	}
	read()
	return u, errors.Join(err, <-live)
}

// pause is the time between two events of the traffic.
const pause = 25 * time.Millisecond

// traffic waits for NATS, publishes events until while is cancelled, and waits until
// the relay has all of them. It returns the time that each took.
func traffic(ctx, while context.Context, f *office, relay *devrelay.Relay, name string) (times, error) {
	ca, err := newAuthority()
	if err != nil {
		return nil, err
	}
	chain, err := ca.issue(certificate(0, 0, time.Now()))
	if err != nil {
		return nil, err
	}
	b, err := f.dial(ctx)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	published := map[string]time.Time{}
	for n := 0; while.Err() == nil; n++ {
		ev := &events.Event{ID: fmt.Sprintf("%s-%s-%d", name, f.name, n), Source: "bench://ca", Time: time.Now(), Certificate: events.Certificate{PEM: chain}, Targets: []string{kinds[0].target(n)}}
		at := time.Now()
		if err := f.poll(ctx, time.Minute, "the stream of events", func() error { _, _, err := b.Publish(ctx, ev); return err }); err != nil {
			return nil, err
		}
		published[ev.ID] = at
		select {
		case <-while.Done():
		case <-time.After(pause):
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	var took times
	_, err = relay.WaitFor(ctx, func(mails []devrelay.Mail) bool {
		took = took[:0]
		for _, m := range mails {
			read, err := mail.ReadMessage(bytes.NewReader(m.Raw))
			if err != nil {
				continue
			}
			if at, ours := published[read.Header.Get("X-Certpost-Event-Id")]; ours {
				took = append(took, m.Received.Sub(at))
			}
		}
		return len(took) >= len(published)
	})
	if err != nil {
		return nil, fmt.Errorf("%d of %d events published to the %s store have arrived: %w", len(took), len(published), f.name, err)
	}
	slices.Sort(took)
	return took, nil
}

// look is a page to be measured.
type look struct{ name, path string }

// looks lists the pages, with queries that have results in both stores.
func looks() []look {
	c := certificate(7, 0, time.Now()) // of the deliveries 21 to 23
	return []look{
		{"overview", "/"},
		{"dead letters", "/dead-letters"},
		{"dead letters, the oldest first", "/dead-letters?order=oldest"},
		{"groups", "/dead-letters?view=groups"},
		{"filtered by code", "/dead-letters?code=SMTP_AUTH"},
		{"filtered by target", "/dead-letters?target=login-007"},
		{"free text", "/dead-letters?q=over+its+quota"},
		{"free text, found nowhere", "/dead-letters?q=nothing+like+this"},
		{"one letter", "/dead-letters/15"},
		{"deliveries", "/deliveries"},
		{"deliveries, name", "/deliveries?name=" + c.CommonName},
		{"deliveries, *.suffix", "/deliveries?name=*.unit-7.example.com"},
		{"deliveries, serial", "/deliveries?serial=" + c.Serial},
		{"deliveries, fingerprint", "/deliveries?fingerprint=" + c.Fingerprint},
		{"deliveries, target", "/deliveries?target=live-014"},
		{"one delivery", "/deliveries/live-014/01KSENT" + fmt.Sprintf("%019d", 7)},
		{"audit", "/audit"},
	}
}

// measured is a page with its times for each store.
type measured struct {
	look
	took   []times // by store
	weight int     // compressed bytes, from the last store
}

// measure requests each page from each store alternately, that many times after one
// unmeasured request, with a pause before each page. It stops early if while is cancelled.
func measure(ctx, while context.Context, requests int, pause time.Duration, offices ...*office) ([]measured, error) {
	var all []measured
	for _, l := range looks() {
		all = append(all, measured{look: l, took: make([]times, len(offices))})
	}
	for n := -1; n < requests && while.Err() == nil; n++ {
		for i := range all {
			select {
			case <-while.Done():
			case <-time.After(pause):
			}
			for j, f := range offices {
				p, err := f.get(ctx, all[i].path)
				if err != nil {
					return nil, err
				}
				if all[i].weight = len(p.body); n >= 0 {
					all[i].took[j] = append(all[i].took[j], p.took)
				}
			}
		}
	}
	for _, m := range all {
		for _, t := range m.took {
			slices.Sort(t)
		}
	}
	return all, nil
}
