package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/certpost/certpost/bench/road"
	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/delivery"
	"github.com/certpost/certpost/internal/devrelay"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/payload"
)

// kind is a group of targets with the same outcome. Their ids are prefix-000 and so on.
type kind struct {
	prefix string
	share  int // percentage of the dead letters
	relay  int // index of the relay
	rule   *devrelay.Rule
	spoil  func(t *delivery.Target, dir string) // breaks the definition of the target
}

// width is the number of targets of a kind.
const width = 40

// kinds are the outcomes of deliveries. The letters of refused are replayed after the
// relay's rule was removed.
var kinds = []kind{
	{prefix: "live", relay: 0},
	{prefix: "east", relay: 1},
	{prefix: later, relay: 2, rule: &devrelay.Rule{Stage: devrelay.StageRcpt, Recipient: "later-*", Code: 451, Enhanced: "4.7.1", Text: "greylisted, come back later"}},
	{prefix: "refused", share: 10, relay: 0, rule: &devrelay.Rule{Stage: devrelay.StageRcpt, Recipient: "refused-*", Code: 550, Enhanced: "5.1.1", Text: "no such user here"}},
	{prefix: "full", share: 20, relay: 1, rule: &devrelay.Rule{Stage: devrelay.StageData, Recipient: "full-*", Code: 552, Enhanced: "5.2.2", Text: "the mailbox is over its quota"}},
	{prefix: "login", share: 30, relay: 2, spoil: func(t *delivery.Target, dir string) { t.Password.File = filepath.Join(dir, "old-password") }},
	{prefix: "trust", share: 20, relay: 2, spoil: func(t *delivery.Target, _ string) { t.CAFile = "" }},
	{prefix: "key", share: 10, relay: 2, spoil: func(t *delivery.Target, _ string) { t.Payload = payload.PEMAndKey }},
	{prefix: "gone", share: 10, relay: nowhere}, // events name it, the configuration does not define it
}

// later is the kind of the waiting deliveries.
const later = "later"

// nowhere is the relay of targets that are not defined.
const nowhere = -1

func (k kind) target(n int) string { return fmt.Sprintf("%s-%03d", k.prefix, n%width) }

// town holds the relays and the file that defines the targets on them.
type town struct {
	relays  []*devrelay.Relay
	targets string
}

func newTown(dir string) (t *town, err error) {
	t = &town{targets: filepath.Join(dir, "targets.yaml")}
	defer func() {
		if err != nil {
			t.close()
		}
	}()
	for range 3 {
		r, err := road.Mailbox()
		if err != nil {
			return t, err
		}
		t.relays = append(t.relays, r)
	}
	if err := os.WriteFile(filepath.Join(dir, "old-password"), []byte("of last year"), 0o600); err != nil {
		return t, err
	}
	var text strings.Builder
	text.WriteString("targets:\n")
	for _, k := range kinds {
		if k.relay == nowhere {
			continue
		}
		files := filepath.Join(dir, fmt.Sprintf("relay-%d", k.relay)) // each relay has its own CA
		if err := os.MkdirAll(files, 0o700); err != nil {
			return t, err
		}
		def, err := road.SubmissionTarget(k.prefix, t.relays[k.relay], files)
		if err != nil {
			return t, err
		}
		if k.spoil != nil {
			k.spoil(&def, dir)
		}
		for n := range width {
			fmt.Fprintf(&text, "  - {id: %[1]s, host: %[2]s, port: %[3]d, ca_file: %[4]q, username: %[5]q, password: {file: %[6]q}, payload: %[7]s, from_address: %[8]s, to: [%[1]s@example.com]}\n",
				k.target(n), def.Host, def.Port, def.CAFile, def.Username.Plain, def.Password.File, def.Payload, def.FromAddress)
		}
	}
	return t, errors.Join(t.refuse(true), os.WriteFile(t.targets, []byte(text.String()), 0o600))
}

// refuse sets the relays' rules to those of the kinds, or with false removes them.
func (t *town) refuse(yes bool) error {
	rules := make([][]devrelay.Rule, len(t.relays))
	for _, k := range kinds {
		if k.rule != nil && yes {
			rules[k.relay] = append(rules[k.relay], *k.rule)
		}
	}
	for i, r := range t.relays {
		if err := r.SetRules(rules[i]); err != nil {
			return err
		}
	}
	return nil
}

func (t *town) close() {
	for _, r := range t.relays {
		_ = r.Close()
	}
}

// template is what the program itself wrote for one delivery of a kind.
type template struct {
	kind          kind
	event, target string
	chain         string        // the certificate in the event, in PEM
	letter        *message      // nil: no dead letter
	delivery      *message      // the waiting delivery; nil: none
	entry         *broker.Entry // nil: no ledger entry
}

// templates publishes one event of each kind and reads what the program wrote for it.
func templates(ctx context.Context, f *office, w *wire, ca *authority) ([]template, error) {
	b, err := f.dial(ctx)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	var all []template
	for i, k := range kinds {
		t := template{kind: k, event: "template-" + k.prefix, target: k.target(0)}
		if t.chain, err = ca.issue(certificate(-1-i, 0, time.Now())); err != nil {
			return nil, err
		}
		ev := &events.Event{ID: t.event, Source: "bench://ca", Time: time.Now(), Certificate: events.Certificate{PEM: t.chain}, Targets: []string{t.target}}
		if err := f.poll(ctx, time.Minute, "the streams", func() error { _, _, err := b.Publish(ctx, ev); return err }); err != nil {
			return nil, err
		}
		all = append(all, t)
	}
	for i := range all {
		if err := f.poll(ctx, time.Minute, "the outcome of "+all[i].event, func() error { return all[i].take(ctx, w) }); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// take reads what the program has written for the delivery. It returns an error until
// the delivery has the expected outcome.
func (t *template) take(ctx context.Context, w *wire) (err error) {
	if t.letter, err = w.newest(ctx, broker.DeadLettersStream, "certpost.dead.*.*.*."+t.event); err != nil {
		return err
	}
	key := t.target + "." + t.event
	entry, err := w.newest(ctx, "KV_"+broker.LedgerBucket, ledgerSubject+key)
	if err != nil {
		return err
	}
	if entry != nil {
		t.entry = &broker.Entry{}
		if err := json.Unmarshal(entry.data, t.entry); err != nil {
			return fmt.Errorf("entry %s: %w", key, err)
		}
	}
	want := broker.StateSent
	switch {
	case t.kind.share > 0:
		want = broker.StateDead
	case t.kind.prefix == later:
		want = broker.StateWaiting
		if t.delivery, err = w.newest(ctx, broker.DeliveriesStream, "certpost.delivery.*."+t.target); err != nil {
			return err
		}
	}
	switch {
	case t.kind.share > 0 && t.letter == nil:
		return fmt.Errorf("%s is not a dead letter", t.event)
	case t.entry == nil && t.kind.relay != nowhere, t.entry != nil && t.entry.State != want:
		return fmt.Errorf("%s is not %s in the ledger", t.event, want)
	case want == broker.StateWaiting && t.delivery == nil:
		return fmt.Errorf("%s does not wait", t.event)
	}
	return nil
}

// ledgerSubject is the subject prefix of the ledger's keys.
const ledgerSubject = "$KV." + broker.LedgerBucket + "."

// replacer replaces event, target and certificate of the template by those of another
// delivery.
func (t *template) replacer(event, target, chain string) *strings.Replacer {
	return strings.NewReplacer(t.event, event, t.target, target, quoted(t.chain), quoted(chain))
}

// quoted returns a text escaped as in a JSON string, without the quotation marks.
func quoted(text string) string {
	q, _ := json.Marshal(text) // a string cannot fail
	return strings.Trim(string(q), `"`)
}

func (m *message) copy(r *strings.Replacer) message {
	return message{r.Replace(m.subject), r.Replace(m.header), []byte(r.Replace(string(m.data)))}
}
