//go:build unix

package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/certpost/certpost/bench/road"
	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/events"
)

// account is what the streams and the relays know of everything at the end.
type account struct {
	entries   map[string]broker.Entry        // by event and target
	letters   map[string][]broker.DeadLetter // by event and target
	discarded map[string]bool                // letters given up in the audit and not restored, by event and target
	mails     map[string][]accepted          // by event, target and recipient, in order

	events, deliveries, sent, dead, given, duplicates, unknown int
	broken                                                     []string
}

func (a *account) fault(format string, args ...any) {
	a.broken = append(a.broken, fmt.Sprintf(format, args...))
}

func pair(event, target string) string { return event + " " + target }

// read reads the streams.
func (w *world) read(ctx context.Context) (*account, error) {
	a := &account{entries: map[string]broker.Entry{}, letters: map[string][]broker.DeadLetter{}, discarded: map[string]bool{}, mails: map[string][]accepted{}}
	entries, err := w.observer.Deliveries(ctx, "", "")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		a.entries[pair(e.Event, e.Target)] = e
		a.unknown += e.PossibleDuplicates
		a.leaks(w, "the ledger", e)
	}
	for d, err := range w.observer.ReadLetters(ctx, 1) {
		if err != nil {
			return nil, err
		}
		a.letters[pair(d.Event, d.Target)] = append(a.letters[pair(d.Event, d.Target)], d)
		a.leaks(w, "a letter", d)
		a.leaks(w, "the body of a letter", string(d.Body))
	}
	for r, err := range w.observer.ReadAudit(ctx, 1) {
		if err != nil {
			return nil, err
		}
		a.leaks(w, "the audit", r)
		switch {
		case r.Stage == broker.StageIntent:
		case r.Action == broker.ActionDiscarded:
			a.discarded[pair(r.Event, r.Target)] = true
		case r.Action == broker.ActionRestored:
			delete(a.discarded, pair(r.Event, r.Target))
		}
	}
	for _, relay := range w.relays {
		for _, m := range relay.taken() {
			for _, recipient := range m.recipients {
				key := pair(pair(m.event, m.target), recipient)
				a.mails[key] = append(a.mails[key], m)
			}
		}
	}
	return a, nil
}

// leaks looks for secrets in what is stored.
func (a *account) leaks(w *world, where string, stored any) {
	text, err := json.Marshal(stored)
	if err != nil {
		a.fault("%s cannot be written as JSON: %v", where, err)
	}
	for _, s := range w.secrets {
		if bytes.Contains(text, []byte(s)) {
			a.fault("a secret is in %s", where)
		}
	}
}

// check compares every event with what became of it.
func (w *world) check(ctx context.Context) (*account, error) {
	a, err := w.read(ctx)
	if err != nil {
		return nil, err
	}
	for _, p := range w.source.list() {
		a.events++
		if len(p.targets) == 0 {
			a.unreadable(p)
		}
		for _, id := range p.targets {
			a.deliveries++
			a.delivery(p, w.target(id), id)
		}
	}
	a.broken = append(a.broken, w.agreement(ctx, a)...)
	a.broken = append(a.broken, w.logs()...)
	a.broken = append(a.broken, w.health(ctx)...)
	if text, err := w.certpost(ctx, "audit", "verify").CombinedOutput(); err != nil {
		a.fault("audit verify: %v: %s", err, text)
	}
	return a, nil
}

// unreadable checks an event that has one end as a whole.
func (a *account) unreadable(p *published) {
	for _, name := range []string{p.id, fmt.Sprintf("event-%d", p.stored)} {
		if n := len(a.letters[pair(name, "")]); n == 1 || n == 0 && a.discarded[pair(name, "")] {
			a.dead++
			return
		}
	}
	a.fault("event %s (%s, sequence %d) has no dead letter", p.id, p.kind, p.stored)
}

// delivery checks that a delivery has exactly one end, and the mails for it.
func (a *account) delivery(p *published, t target, id string) {
	key := pair(p.id, id)
	e, known := a.entries[key]
	letters := len(a.letters[key])
	switch {
	case known && e.State == broker.StateSent && letters == 0:
		a.sent++
		if p.never {
			a.fault("%s (%s) was sent", key, p.kind)
		}
		for _, to := range t.to {
			if len(a.mails[pair(key, to)]) == 0 {
				a.fault("LOST: %s is sent, and no relay has accepted it for %s", key, to)
			}
		}
	case (!known || e.State == broker.StateDead) && letters == 1:
		a.dead++
	case (!known || e.State == broker.StateDiscarded) && letters == 0 && a.discarded[key]:
		a.given++
	default:
		a.fault("LOST: %s (%s): ledger %q (known %v, generation %d, sequence %d), %d open letters, discarded %v",
			key, p.kind, e.State, known, e.Generation, e.Sequence, letters, a.discarded[key])
	}
	second := map[uint64]bool{} // mails that brought a recipient what it had
	for _, to := range t.to {
		mails := a.mails[pair(key, to)]
		for _, m := range mails[min(1, len(mails)):] {
			second[m.number] = true
			if !m.marked {
				a.fault("%s went to %s again and is not marked", key, to)
			}
		}
	}
	a.duplicates += len(second)
	if len(second) > e.PossibleDuplicates {
		a.fault("%s: %d second mails, and only %d unknown outcomes in the ledger", key, len(second), e.PossibleDuplicates)
	}
}

// agreement compares manifest, events and ledger.
func (w *world) agreement(ctx context.Context, a *account) (broken []string) {
	listed := map[string]bool{} // ledger keys
	for m, err := range w.observer.ReadManifest(ctx, 1) {
		if err != nil {
			return []string{"the manifest cannot be read: " + err.Error()}
		}
		for _, e := range m.Events {
			for _, d := range e.Deliveries {
				listed[broker.LedgerKey(d.Target, e.Token)] = true
			}
		}
	}
	for _, e := range a.entries {
		key := broker.LedgerKey(e.Target, events.Token(e.Event))
		if !listed[key] {
			broken = append(broken, key+" is in the ledger and not in the manifest")
		}
		delete(listed, key)
		if !e.State.Final() {
			broken = append(broken, fmt.Sprintf("%s is %q in the ledger", key, e.State))
		}
	}
	for key := range listed {
		broken = append(broken, key+" is in the manifest and not in the ledger")
	}
	return broken
}

// logs looks for secrets, panics and defects in all logs.
func (w *world) logs() (broken []string) {
	found := map[string]bool{}
	for _, p := range append(w.certposts, w.servers...) {
		text, err := os.ReadFile(p.Log)
		if err != nil {
			return []string{err.Error()}
		}
		for _, s := range w.secrets {
			// In base64 a text may begin at three places of a group.
			for i := range 3 {
				inner := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("x", i) + s))[i*4/3+2 : len(s)]
				if bytes.Contains(text, []byte(s)) || bytes.Contains(text, []byte(inner)) {
					found["a secret is in the log of "+p.Name] = true
				}
			}
		}
		for _, word := range []string{"a defect:", "panic:", "fatal error:", "DATA RACE"} {
			if bytes.Contains(text, []byte(word)) {
				found[fmt.Sprintf("the log of %s says %q", p.Name, word)] = true
			}
		}
	}
	for f := range found {
		broken = append(broken, f)
	}
	slices.Sort(broken)
	return broken
}

// health asks every Certpost whether it is well.
func (w *world) health(ctx context.Context) (broken []string) {
	for i, page := range w.pages {
		for _, path := range []string{"/readyz", "/healthz"} {
			if err := get(ctx, "http://"+page+path); err != nil {
				broken = append(broken, w.certposts[i].Name+": "+err.Error())
			}
		}
	}
	return broken
}

func get(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", url, resp.Status, body)
	}
	return err
}

// settle waits until nothing waits and every delivery of the manifest has an end, and
// returns how long that took. A delivery that was deleted is missed after two minutes.
func (w *world) settle(ctx context.Context, patience time.Duration) (time.Duration, error) {
	began := time.Now()
	err := road.Poll(ctx, patience, func() error {
		time.Sleep(500 * time.Millisecond)
		left, err := w.observer.Backlog(ctx)
		if err == nil && left.Events+left.Deliveries > 0 {
			err = fmt.Errorf("%d events and %d deliveries wait", left.Events, left.Deliveries)
		}
		if err != nil {
			return err
		}
		a, err := w.read(ctx)
		if err != nil {
			return err
		}
		if broken := w.agreement(ctx, a); len(broken) > 0 {
			return errors.New(broken[0])
		}
		return nil
	})
	return time.Since(began), err
}
