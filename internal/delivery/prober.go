package delivery

import (
	"context"
	"slices"
	"strings"
	"sync"

	"github.com/certpost/certpost/internal/verdict"
)

// Prober checks targets in the background after their definitions have changed, so that a
// mistake in them is noticed before a certificate is due. It sends no mail.
type Prober struct {
	inspector Inspector
	report    func(Probed)
	wake      chan struct{}

	mu      sync.Mutex
	waiting []string // ids of targets, each once
}

// Probed is what a check found.
type Probed struct {
	// Targets are the targets that need exactly what was checked: the same relays, with
	// the same credentials, and the same passphrase.
	Targets  []string
	Findings []verdict.Finding
}

// probesAtOnce limits the checks that run at a time; one may take as long as a send.
const probesAtOnce = 4

// Prober returns a prober that passes what it finds to report, one call at a time.
func (i Inspector) Prober(report func(Probed)) *Prober {
	return &Prober{inspector: i, report: report, wake: make(chan struct{}, 1)}
}

// Add orders a check of targets. It does not wait.
func (p *Prober) Add(ids ...string) {
	p.mu.Lock()
	for _, id := range ids {
		if !slices.Contains(p.waiting, id) {
			p.waiting = append(p.waiting, id)
		}
	}
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default: // it is awake already
	}
}

// Run checks what Add orders, until the context ends. Targets that are disabled, or gone
// by then, are left out.
func (p *Prober) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
			p.probe(ctx, p.take())
		}
	}
}

func (p *Prober) take() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	ids := p.waiting
	p.waiting = nil
	return ids
}

func (p *Prober) probe(ctx context.Context, ids []string) {
	groups := p.inspector.courier.book.Current().sameChecks(ids)
	var reporting sync.Mutex
	var workers sync.WaitGroup
	defer workers.Wait()
	free := make(chan struct{}, probesAtOnce)
	for _, targets := range groups {
		select {
		case <-ctx.Done():
			return
		case free <- struct{}{}:
		}
		workers.Go(func() {
			defer func() { <-free }()
			found := p.inspector.Check(ctx, targets[0])
			if ctx.Err() != nil {
				return // cut short by the end of the program
			}
			reporting.Lock()
			defer reporting.Unlock()
			p.report(Probed{targets, found})
		})
	}
}

// sameChecks groups targets that one check can stand for, in the order of ids.
func (d *Definitions) sameChecks(ids []string) [][]string {
	var groups [][]string
	known := make(map[string]int)
	for _, id := range ids {
		t, ok := d.Get(id)
		if !ok || t.Disabled {
			continue
		}
		key := d.checkKey(t)
		n, again := known[key]
		if !again {
			n = len(groups)
			known[key] = n
			groups = append(groups, nil)
		}
		groups[n] = append(groups[n], id)
	}
	return groups
}

// checkKey is equal for targets whose check has the same result.
func (d *Definitions) checkKey(t *Target) string {
	var parts []string
	for _, ref := range t.mailRefs() {
		parts = append(parts, ref.String())
		if slices.Contains(ref.Needs(), "target") || !ref.Value.IsZero() {
			parts = append(parts, t.ID) // another path, or a value that cannot be compared here
		}
	}
	if made := t.passphrase(); made.Generates() {
		parts = append(parts, made.String())
		if slices.Contains(made.Place().Needs(), "target") {
			parts = append(parts, t.ID)
		}
	}
	if t.encrypts() {
		parts = append(parts, t.ID) // its keys are those of its own recipients
	}
	if !t.Sign.IsZero() {
		parts = append(parts, t.FromAddress) // which its certificate has to name
	}
	if t.onHost() {
		return t.ID
	}
	for _, relay := range d.relays[t.ID] {
		parts = append(parts, relay.login())
		for _, ref := range relay.refs() {
			if slices.Contains(ref.Needs(), "target") || !ref.Value.IsZero() {
				parts = append(parts, t.ID) // another path, or a value that cannot be compared here
			}
		}
	}
	return strings.Join(parts, "\x00")
}
