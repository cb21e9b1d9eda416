package delivery

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/certpost/certpost/internal/config"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/verdict"
)

// Opened is what events of one source may name. What is not listed is closed.
type Opened struct {
	// SecretPaths are globs on mount/path of the Vault secrets that events of the source
	// may name, as in events.secret_paths, which does not apply to the source. Default: none.
	SecretPaths []string `yaml:"secret_paths"`
	// FileRoots are the directories below which events of the source may name files, as in
	// events.file_roots, which does not apply to the source. Default: none.
	FileRoots []string `yaml:"file_roots"`
	// Targets are the ids of the targets that events of the source may go to, named or
	// matched; * matches any characters. Default: none.
	Targets []string `yaml:"targets"`
}

// Sources limit what events may name by their source: what follows certificate.issued. in
// the subject that an event was published on. NATS decides who may publish on which
// subject, so it is the one thing in an event that its author cannot choose.
type Sources struct {
	// Listed has what is opened to each source, by a glob on its name: * matches any
	// characters except a dot, ** any characters. Nil: all events have the same rights.
	Listed map[string]Opened
	// AllowOthers gives sources that match no key of Listed the general secret paths and
	// file roots, and every target. Otherwise their events are refused.
	AllowOthers bool
}

// sourceRule is a compiled entry of Sources.
type sourceRule struct {
	key     string
	pattern glob
	rights  rights
}

// rights are what one event may name.
type rights struct {
	source  string // as messages show it
	setting string // events.sources.web1; "" for the general rights
	secrets secrets.Policy
	targets []glob // nil: all
}

// sourceBook is the compiled Sources, most specific entries first.
type sourceBook struct {
	rules   []sourceRule
	limited bool // there are sources
	others  bool
	general secrets.Policy
}

func newSourceBook(s Sources, general secrets.Policy) *sourceBook {
	b := &sourceBook{limited: s.Listed != nil, others: s.AllowOthers, general: general}
	for key, opened := range s.Listed {
		r := rights{setting: settingOf(key), secrets: secrets.Policy{Paths: opened.SecretPaths, FileRoots: opened.FileRoots}, targets: []glob{}}
		for _, id := range opened.Targets {
			r.targets = append(r.targets, newGlob(id, 0))
		}
		b.rules = append(b.rules, sourceRule{key, newGlob(key, '.'), r})
	}
	slices.SortFunc(b.rules, func(a, b sourceRule) int { return moreSpecific(a, b) })
	return b
}

// moreSpecific orders keys so that the first one that matches a source is the one that
// counts: a key without wildcards, then the one with more other characters, then the one
// with fewer **, then with fewer *, then by the alphabet.
func moreSpecific(a, b sourceRule) int {
	return cmp.Or(
		cmp.Compare(min(len(a.pattern.any), 1), min(len(b.pattern.any), 1)),
		-cmp.Compare(a.pattern.literal(), b.pattern.literal()),
		cmp.Compare(a.pattern.doubles(), b.pattern.doubles()),
		cmp.Compare(len(a.pattern.any), len(b.pattern.any)),
		cmp.Compare(a.key, b.key),
	)
}

// MatchesSource reports whether a source matches a key of events.sources.
func MatchesSource(pattern, source string) bool {
	return len(source) <= maxMatched && newGlob(pattern, '.').match(source)
}

// MatchesTarget reports whether a target's id matches an entry of a list of targets.
func MatchesTarget(pattern, id string) bool {
	return len(id) <= maxMatched && newGlob(pattern, 0).match(id)
}

// literal is the number of bytes of a pattern that are no wildcard.
func (g glob) literal() (n int) {
	for _, part := range g.parts {
		n += len(part)
	}
	return n
}

// doubles is the number of ** in a pattern.
func (g glob) doubles() (n int) {
	for _, double := range g.any {
		if double {
			n++
		}
	}
	return n
}

// settingOf is the setting of a source's entry, as a path of the configuration.
func settingOf(key string) string { return config.Join("events.sources", key) }

// of returns what an event may name. An event whose subject is not known counts as
// published on certificate.issued: only somebody who may publish deliveries can have made
// the message, and left the header out.
func (b *sourceBook) of(ev *events.Event) (rights, *verdict.Failure) {
	source, _ := events.SourceOf(ev.Subject)
	shown := fmt.Sprintf("the source %q", legible.Clean(source, maxShownSource))
	if source == "" {
		shown = events.Subject + " (no source)"
	}
	if !b.limited {
		return rights{secrets: b.general}, nil
	}
	for _, rule := range b.rules {
		if len(source) <= maxMatched && rule.pattern.match(source) {
			r := rule.rights
			r.source, r.secrets.Of = shown, secrets.Origin{Source: shown, Setting: r.setting}
			return r, nil
		}
	}
	if b.others {
		return rights{source: shown, secrets: b.general}, nil
	}
	return rights{}, verdict.Fail(verdict.EventInvalid, verdict.PhaseSource, fmt.Sprintf(
		"%s has no entry in events.sources: if nobody should publish there, find out who did; else add %s, or set events.other_sources to allow, then replay",
		shown, legible.Clean(settingOf(source), 2*maxShownSource)))
}

// maxShownSource is the most characters of a source in a message.
const maxShownSource = 100

// target returns the failure of an event that names, or would go to, a target that is not
// opened to its source.
func (r rights) target(id string) *verdict.Failure {
	if r.opens(id) {
		return nil
	}
	return verdict.Fail(verdict.EventInvalid, verdict.PhaseSource, fmt.Sprintf(
		"%s may not send to target %q: add it to %s.targets if it should, then replay", r.source, legible.Clean(id, 80), r.setting))
}

func (r rights) opens(id string) bool {
	return r.targets == nil || slices.ContainsFunc(r.targets, func(g glob) bool { return g.match(id) })
}

// filter returns the targets that match an event and are opened to its source. That none of
// several is opened is a failure of its own: the event matches, and goes nowhere.
func (r rights) filter(matching []*Target) (opened []*Target, failure *verdict.Failure) {
	var closed []string
	for _, t := range matching {
		if r.opens(t.ID) {
			opened = append(opened, t)
		} else {
			closed = append(closed, t.ID)
		}
	}
	if len(opened) > 0 || len(closed) == 0 {
		return opened, nil
	}
	more := ""
	if len(closed) > 3 {
		more = fmt.Sprintf(" and %d more", len(closed)-3)
		closed = closed[:3]
	}
	return nil, verdict.Fail(verdict.EventInvalid, verdict.PhaseSource, fmt.Sprintf(
		"%s may not send to the targets that match the event (%s%s): add one to %s.targets if it should, then replay",
		r.source, strings.Join(closed, ", "), more, r.setting))
}

// Refusals returns why an event cannot be delivered because of its source, or of what it
// names: the same texts as those of a dead letter. It fetches nothing.
func (o Options) Refusals(ev *events.Event) (all []string) {
	r, failure := newSourceBook(o.Sources, o.EventSecrets).of(ev)
	if failure != nil {
		return []string{failure.Reason}
	}
	for _, id := range ev.Targets {
		if failure := r.target(id); failure != nil {
			all = append(all, failure.Reason)
		}
	}
	for _, named := range []*events.Reference{ev.Certificate.Ref, ev.PrivateKey} {
		if named == nil {
			continue
		}
		if err := r.secrets.Allows(refOf(named)); err != nil {
			all = append(all, err.Error())
		}
	}
	return all
}

// Opens returns why an event that was published on a subject may not go to a target, nil if
// it may.
func (c *Courier) Opens(subject, target string) error {
	r, failure := c.sources.of(&events.Event{Subject: subject})
	if failure == nil {
		failure = r.target(target)
	}
	if failure != nil {
		return failure
	}
	return nil
}

// Roots are all directories below which events may name files, by their setting.
func (o Options) Roots() map[string]secrets.Policy {
	all := map[string]secrets.Policy{"events": o.EventSecrets}
	for key, opened := range o.Sources.Listed {
		all[settingOf(key)] = secrets.Policy{FileRoots: opened.FileRoots, Of: secrets.Origin{Setting: settingOf(key)}}
	}
	return all
}

// Validate returns the problems of the sources; paths begin with "sources".
func (s Sources) Validate() []config.Problem {
	v := &validation{}
	if s.Listed != nil && len(s.Listed) == 0 {
		v.err("sources", "is empty, so every event would be refused: list the sources that may publish, or leave it out")
	}
	for _, key := range slices.Sorted(maps.Keys(s.Listed)) {
		opened, at := s.Listed[key], config.Join("sources", key)
		if problem := wrongSourceGlob(key); problem != "" {
			v.err(at, "%s", problem)
		}
		for _, p := range (secrets.Policy{Paths: opened.SecretPaths, FileRoots: opened.FileRoots}).Validate() {
			v.err(at+"."+p.Path, "%s", p.Message)
		}
		for i, id := range opened.Targets {
			if strings.Trim(strings.ReplaceAll(id, "*", ""), tokenCharacters) != "" || id == "" {
				v.err(fmt.Sprintf("%s.targets[%d]", at, i), "want the id of a target, or a glob such as ops-*")
			}
		}
		if len(opened.Targets) == 0 {
			v.warn(at, "opens no target: all events of this source become dead letters")
		}
	}
	return v.found
}

const tokenCharacters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"

func wrongSourceGlob(key string) string {
	if rest, ok := strings.CutPrefix(key, events.Subject+"."); ok {
		return fmt.Sprintf("is a subject: want only what follows %s., %q", events.Subject, legible.Clean(rest, maxShownSource))
	}
	if strings.Contains(key, ">") {
		return "has a >: write ** for any number of tokens"
	}
	return events.WrongSource(strings.ReplaceAll(key, "*", "x"))
}

// Undefined returns a warning for each target that the sources name and the definitions do not have.
func (s Sources) Undefined(d *Definitions) []config.Problem {
	var found []config.Problem
	for _, key := range slices.Sorted(maps.Keys(s.Listed)) {
		found = append(found, d.Undefined(config.Join("sources", key)+".targets", s.Listed[key].Targets)...)
	}
	return found
}

// Undefined returns a warning for each id and each pattern in a list of allowed targets that no target
// has. It opens nothing, and is no error: a target that was removed must not keep the program from its
// next start.
func (d *Definitions) Undefined(path string, ids []string) []config.Problem {
	v := &validation{}
	for i, id := range ids {
		at, pattern := fmt.Sprintf("%s[%d]", path, i), newGlob(id, 0)
		switch {
		case id == "": // an error of its own
		case slices.ContainsFunc(d.targets, func(t *Target) bool { return pattern.match(t.ID) }):
		case strings.Contains(id, "*"):
			v.warn(at, "matches no target")
		default:
			v.warn(at, "target %q is not defined%s", legible.Clean(id, 80), nearest(id, d))
		}
	}
	return v.found
}

// nearest names the target of a former id, or asks for one whose id is similar; "" if there is none.
func nearest(id string, d *Definitions) string {
	if now := d.current(id); now != id {
		return fmt.Sprintf(": it is a former id of %q", now)
	}
	if near := legible.Nearest(id, slices.Sorted(maps.Keys(d.byID))...); near != "" {
		return fmt.Sprintf(": did you mean %q?", near)
	}
	return ""
}
