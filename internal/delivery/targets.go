package delivery

import (
	"crypto/x509"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/certpost/certpost/internal/config"
	"github.com/certpost/certpost/internal/smtp"
)

// Definitions are the targets as defined at one moment. They are not changed; a
// reload makes new ones.
type Definitions struct {
	targets []*Target
	byID    map[string]*Target
	// byFormerID has the targets by the ids that they had before.
	byFormerID map[string]*Target
	index      *matchIndex // of targets
	// relays has, by target, its relays in the order in which they are tried: the target
	// itself, and for each fallback the target as if that were its only relay. A target on a
	// mail host has only itself there, and no relay.
	relays     map[string][]*Target
	limits     map[string]RelayLimits // by smtp.RelayName
	laneRelays map[string][][]*Target // by lane: the distinct lists of relays of its targets
	// For display, by target: which rule set a key; where it is defined, and its warnings.
	sources map[string]map[string]string
	remarks map[string]remark
	// views are made on first use: a verdict.TargetView by the target's id.
	views sync.Map
}

// Define validates targets together and completes them by the rules for relays: it sets
// the lane, TLSMode and AuthMethod of each. The paths of problems start with "targets[i]",
// those of problems with the rules with "relays". The definitions are nil if one of the
// problems is an error.
func (r Relays) Define(targets []Target) (*Definitions, []config.Problem) {
	options, problems := r.relayOptionsOf(targets)
	if config.Failed(problems) {
		return nil, problems
	}
	return define(newRuleBook(r), options), problems
}

// define makes definitions of targets that are valid.
func define(b *ruleBook, targets [][]relayOption) *Definitions {
	d := &Definitions{byID: make(map[string]*Target, len(targets)), byFormerID: map[string]*Target{}, relays: make(map[string][]*Target, len(targets)), limits: make(map[string]RelayLimits), sources: make(map[string]map[string]string)}
	for _, options := range targets {
		t := options[0].Target
		d.sources[t.ID] = options[0].from
		t.matcher = newMatcher(t.Match)
		t.parseAddresses()
		for _, o := range options {
			if o.onHost() {
				o.AuthMethod = smtp.AuthNone
				d.relays[t.ID] = append(d.relays[t.ID], o.Target)
				continue
			}
			o.TLSMode, o.AuthMethod = o.tlsMode(), o.authMethod()
			d.relays[t.ID] = append(d.relays[t.ID], o.Target)
			d.limits[smtp.RelayName(o.Host, o.Port)] = b.limits(o.Host, o.Port)
		}
		d.targets = append(d.targets, t)
		d.byID[t.ID] = t
		for _, id := range t.FormerIDs {
			d.byFormerID[id] = t
		}
	}
	assignLanes(d.targets)
	d.index = newMatchIndex(d.targets)
	d.laneRelays = laneRelaysOf(d)
	return d
}

// Get returns the target with that id, even if it is disabled.
func (d *Definitions) Get(id string) (*Target, bool) {
	t, ok := d.byID[id]
	return t, ok
}

// All returns the targets in the order in which they are defined.
func (d *Definitions) All() []*Target { return slices.Clone(d.targets) }

// Lanes returns the lanes of the targets that are not disabled, sorted.
func (d *Definitions) Lanes() []string {
	lanes := make(map[string]bool)
	for _, t := range d.targets {
		if !t.Disabled {
			lanes[t.lane] = true
		}
	}
	return slices.Sorted(maps.Keys(lanes))
}

// HasLane reports whether a target that is not disabled has a lane.
func (d *Definitions) HasLane(lane string) bool { return slices.Contains(d.Lanes(), lane) }

// Matching returns the targets that an event without explicit targets goes to, in
// the order in which they are defined.
func (d *Definitions) Matching(leaf *x509.Certificate, labels map[string]string) []*Target {
	facts := factsOf(leaf, labels)
	var matching []*Target
	for _, i := range d.index.candidates(facts) {
		if t := d.targets[i]; t.matches(facts) {
			matching = append(matching, t)
		}
	}
	return matching
}

// Book holds the current definitions. It is safe for concurrent use.
type Book struct {
	current atomic.Pointer[Definitions]
	source  Source
}

// NewBook returns a book with definitions that were loaded from source. With the
// zero Source it never changes; otherwise it changes while Watch runs.
func NewBook(definitions *Definitions, source Source) *Book {
	b := &Book{source: source}
	b.current.Store(definitions)
	return b
}

// Current returns the current definitions. Call it once per delivery and keep the
// result, so that one delivery sees one state.
func (b *Book) Current() *Definitions { return b.current.Load() }
