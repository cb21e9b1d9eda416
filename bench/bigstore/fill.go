package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/verdict"
)

// filling creates the messages of a store: copies, with other names, of what Certpost
// itself wrote for a few deliveries.
type filling struct {
	size
	ca        *authority
	now       time.Time
	templates map[string]*template // by kind
	dead      []kind               // kinds of a hundred letters, by their shares
	waits     []message            // deliveries that wait for their next attempt
}

// size is the number of dead letters and ledger entries in a store.
type size struct{ letters, deliveries int }

// waiting is the approximate number of deliveries that wait for their next attempt.
func (s size) waiting() int { return s.deliveries / 2000 }

// fill starts the program on an empty store, fills the store and stops the program.
func fill(ctx context.Context, f *office, s size) (err error) {
	if err := f.start("2m"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.stop()) }()
	var w *wire
	if err := f.poll(ctx, time.Minute, "NATS", func() error { w, err = dialWire(ctx, f.nats); return err }); err != nil {
		return err
	}
	defer w.close()
	x := filling{size: s, now: time.Now(), templates: map[string]*template{}}
	if x.ca, err = newAuthority(); err != nil {
		return err
	}
	all, err := templates(ctx, f, w, x.ca)
	if err != nil {
		return err
	}
	for i, t := range all {
		x.templates[t.kind.prefix] = &all[i]
		if t.letter != nil {
			x.letters-- // the template's letter counts
		}
		if t.entry != nil {
			x.deliveries--
		}
		for range t.kind.share {
			x.dead = append(x.dead, t.kind)
		}
	}
	if err := w.store(ctx, x.messages()); err != nil {
		return err
	}
	// Last, because the program processes them at once, and reads their ledger entries.
	if err := w.store(ctx, x.waitingMessages); err != nil {
		return err
	}
	b, err := f.dial(ctx)
	if err != nil {
		return err
	}
	defer b.Close()
	left, err := b.Backlog(ctx)
	if err == nil && (left.Dead != uint64(s.letters) || left.Deliveries < uint64(len(x.waits))) {
		err = fmt.Errorf("the %s store has %+v, want %d letters and at least %d waiting deliveries", f.name, left, s.letters, len(x.waits))
	}
	return err
}

// messages yields the letters, each after its ledger entry, mixed with successful
// deliveries.
func (x *filling) messages() iter.Seq2[message, error] {
	return func(yield func(message, error) bool) {
		every := max(x.deliveries/max(x.letters, 1), 1)
		letters := 0
		for n := range x.deliveries {
			var some []message
			var err error
			switch {
			case n%every == 0 && letters < x.letters:
				some, err = x.deadDelivery(letters, n)
				letters++
			case n >= x.deliveries-x.waiting():
				some, err = x.delivery(x.templates[later], n)
			case n%2 == 0:
				some, err = x.delivery(x.templates["live"], n)
			default:
				some, err = x.delivery(x.templates["east"], n)
			}
			if err != nil {
				yield(message{}, err)
				return
			}
			for _, m := range some {
				if !yield(m, nil) {
					return
				}
			}
		}
	}
}

// names is the number of certificate subjects for every hundred deliveries.
const names = 10

// delivery returns the ledger entries of a sent or waiting delivery. Three deliveries
// share one event.
func (x *filling) delivery(t *template, n int) ([]message, error) {
	event, subject := fmt.Sprintf("01KSENT%019d", n/3), n/3%max(x.deliveries*names/100, 1)
	c := certificate(subject, 0, x.now)
	target := t.kind.target(subject + n%3*7)
	if t.delivery == nil { // the event is not read again
		return x.entries(t, event, target, c, c.Fingerprint, n)
	}
	chain, err := x.ca.issue(c)
	if err != nil {
		return nil, err
	}
	x.waits = append(x.waits, t.delivery.copy(t.replacer(event, target, chain)))
	return x.entries(t, event, target, c, chain, n)
}

func (x *filling) waitingMessages(yield func(message, error) bool) {
	for _, m := range x.waits {
		if !yield(m, nil) {
			return
		}
	}
}

// deadDelivery returns the messages of letter l and delivery n. Three consecutive letters
// share one event. For some letters of the kind full, the target has received a newer
// certificate since.
func (x *filling) deadDelivery(l, n int) (some []message, err error) {
	event := l / 3
	t := x.templates[x.dead[event*37%100].prefix] // well mixed
	id, target := fmt.Sprintf("01KDEAD%019d", event), t.kind.target(event/10*3+l%3)
	outdated := t.kind.prefix == "full" && event%2 == 1
	age := 0
	if outdated {
		age = 1
	}
	c := certificate(event+1_000_000, age, x.now)
	chain, err := x.ca.issue(c)
	if err != nil {
		return nil, err
	}
	if some, err = x.entries(t, id, target, c, chain, n); err != nil {
		return nil, err
	}
	if outdated {
		newer := certificate(event+1_000_000, 0, x.now)
		sent, err := x.entries(x.templates["live"], id+"newer", target, newer, newer.Fingerprint, n)
		if err != nil {
			return nil, err
		}
		some = append(some, sent...)
	}
	letter := t.letter.copy(t.replacer(id, target, chain))
	if t.entry != nil { // the letter's id contains the sequence of the failed delivery
		letter.header = strings.Replace(letter.header, fmt.Sprintf("/d%d/", t.entry.Sequence), fmt.Sprintf("/d%d/", n+1000), 1)
	}
	return append(some, letter), nil
}

// entries returns the two ledger entries of a delivery: first the state sending, then
// the outcome.
func (x *filling) entries(t *template, event, target string, c *verdict.Certificate, chain string, n int) (some []message, err error) {
	if t.entry == nil {
		return nil, nil
	}
	e := *t.entry
	e.Event, e.Target, e.Certificate = event, target, c
	e.Digest = (&events.Event{Certificate: events.Certificate{PEM: chain}}).Digest()
	e.Last = x.now.Add(-time.Duration(x.deliveries-n) * (90 * 24 * time.Hour / time.Duration(x.deliveries)))
	e.First = e.Last.Add(-50 * time.Millisecond)
	names := t.replacer(event, target, "")
	e.DeadLetter = names.Replace(e.DeadLetter)
	e.Accepted, e.Owed = replaceAll(names, e.Accepted), replaceAll(names, e.Owed)
	e.Refused = slices.Clone(e.Refused)
	for i := range e.Refused {
		e.Refused[i].Recipient = names.Replace(e.Refused[i].Recipient)
	}
	if e.Receipt != nil {
		r := *e.Receipt
		r.MessageID, r.Recipients = strings.Replace(r.MessageID, "@", fmt.Sprintf("-%d@", n), 1), replaceAll(names, r.Recipients)
		e.Receipt = &r
	}
	begun := e
	begun.State, begun.Receipt, begun.Failure, begun.Accepted, begun.DeadLetter = broker.StateSending, nil, nil, nil, ""
	begun.Owner, begun.Lease = "certpost/1", e.Last.Add(time.Minute)
	for _, e := range []broker.Entry{begun, e} {
		value, err := json.Marshal(e)
		if err != nil {
			return nil, err
		}
		some = append(some, message{subject: ledgerSubject + target + "." + event, data: value})
	}
	return some, nil
}

func replaceAll(r *strings.Replacer, texts []string) (out []string) {
	for _, text := range texts {
		out = append(out, r.Replace(text))
	}
	return out
}
