package dane

import (
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/certpost/certpost/internal/legible"
)

// Change is a certificate that is to replace another one.
type Change struct {
	// Servers are the names by which other mail servers reach this one.
	Servers []string
	// Former and New are the chains as they are sent, the leaf first. Former is nil if there is none.
	Former, New []*x509.Certificate
}

// State is what has to be remembered between two checks of one change.
type State struct {
	// Fits is since when each name has had a record that fits the new certificate; zero if one lacks it.
	Fits time.Time
	// TTL is the longest that was seen: others may keep records so long that are gone by now.
	TTL time.Duration
	// Seen are the names that had records. Gone is since when one of them has none; zero if all have.
	Seen []string
	Gone time.Time
}

// Verdict is the result of a check.
type Verdict struct {
	// Ready says that others accept the new certificate, whatever they have in their caches.
	Ready bool
	// Reason says, if not Ready, why not and what to do, on one line.
	Reason string
	// Publish are the records that are missing, as lines of a zone file.
	Publish []string
	// Until is when the change will be Ready if the records stay; zero if that is not known.
	Until time.Time
	// Unknown says that some records could not be looked up.
	Unknown bool
	// Broken says that the former certificate does not fit the records either: others that use DANE
	// do not deliver now.
	Broken bool
	// Notes say what was found, a text for each name that could be looked up.
	Notes []string
	// Vanished says, if Ready, of which names the records have vanished while the change waited; "" for none.
	Vanished string
	State    State
}

// standing is what the records of one name say about a change.
type standing int

const (
	noRecords standing = iota
	steady             // the new certificate fits all records that the former one does
	heals              // the former fits none, the new one does: to wait would only be longer without mail
	fresh              // the new one fits a record that the former does not: caches may lack it
	missing            // the new one fits none
	unknown            // the records could not be looked up
)

// Check looks up the records of all names and says whether the change may be made now.
//
// A record that fits only the new certificate has to be there for two TTLs: after one, caches
// no longer have what was there before it; the second is for secondary servers and for answers
// that were cached on the way here (RFC 7671, section 8.1). Records that were seen and have vanished have to
// stay away as long: others may have them in their caches, and that there are none needs no proof, so
// one wrong answer would be enough.
func (r *Resolver) Check(ctx context.Context, c Change, s State, now time.Time) Verdict {
	looked := r.look(ctx, c)
	v := Verdict{State: s}
	if s.TTL > 0 && len(s.Seen) == 0 { // noted by a version that did not note names
		v.State.Seen = c.names()
	}
	var parts, waits, gone []string
	cached := false // some of others' caches have records that only the former certificate fits
	for _, n := range looked {
		v.State.TTL = max(v.State.TTL, n.answer.TTL)
		switch n.standing {
		case noRecords:
			if slices.Contains(v.State.Seen, n.server) {
				gone = append(gone, n.server)
			}
		case unknown:
			v.Unknown = true
			parts = append(parts, fmt.Sprintf("the records of %s are not known: %s", n.server, n.err))
		case missing:
			line := Line(n.server, For(c.New[0]))
			v.Publish = append(v.Publish, line)
			parts = append(parts, fmt.Sprintf("no TLSA record of %s fits the new certificate: publish %s", n.server, line))
			cached = cached || n.formerFits
			if n.broken {
				v.Broken = true
				parts = append(parts, "the certificate that is there now does not fit either: mail servers that use DANE do not deliver to "+n.server)
			}
		case fresh:
			waits = append(waits, n.server)
		}
		if n.standing != noRecords && n.standing != unknown && !slices.Contains(v.State.Seen, n.server) {
			v.State.Seen = append(slices.Clip(v.State.Seen), n.server)
		}
		if text := n.note(); text != "" {
			v.Notes = append(v.Notes, text)
		}
	}
	if text := v.vanished(gone, now); text != "" {
		parts = append(parts, text)
	}
	switch {
	case len(v.Publish) > 0:
		v.State.Fits = time.Time{}
		if cached || len(waits) > 0 {
			parts = append(parts, fmt.Sprintf("keep the present records as well; it is deployed two TTLs (%v) after the new ones can be seen", 2*v.State.TTL))
		} else {
			parts = append(parts, "it is deployed as soon as the new records can be seen, because no certificate that fits is there now")
		}
	case v.Unknown:
	case len(waits) > 0:
		if v.State.Fits.IsZero() {
			v.State.Fits = now
		}
		if until := v.State.Fits.Add(2 * v.State.TTL); now.Before(until) {
			v.wait(until)
			parts = append(parts, fmt.Sprintf("the TLSA records of %s fit the new certificate since %s: it is deployed two TTLs (%v) later, at %s, when no cache lacks them",
				strings.Join(waits, ", "), legible.Moment(v.State.Fits), 2*v.State.TTL, legible.Moment(until)))
		}
	}
	v.Ready, v.Reason = len(parts) == 0, strings.Join(parts, "; ")
	if len(v.Publish) > 0 || v.Unknown {
		v.Until = time.Time{}
	}
	return v
}

// vanished returns why the change waits although names that had records have none now; "" if it does not wait
// for that.
func (v *Verdict) vanished(gone []string, now time.Time) string {
	if len(gone) == 0 {
		v.State.Gone = time.Time{}
		return ""
	}
	if v.State.Gone.IsZero() {
		v.State.Gone = now
	}
	until := v.State.Gone.Add(2 * v.State.TTL)
	said := fmt.Sprintf("the TLSA records of %s, which were there before, are gone since %s", strings.Join(gone, ", "), legible.Moment(v.State.Gone))
	if !now.Before(until) {
		v.Vanished = said + ", for two TTLs: no cache has them any more"
		return ""
	}
	v.wait(until)
	return fmt.Sprintf("%s: it is deployed two TTLs (%v) later, at %s, when no cache has them any more, if they stay away", said, 2*v.State.TTL, legible.Moment(until))
}

// wait notes that the change is not made before a time.
func (v *Verdict) wait(until time.Time) {
	if until.After(v.Until) {
		v.Until = until
	}
}

// name is one name with its records.
type name struct {
	server   string
	answer   Answer
	err      error
	standing standing
	// broken says that the former certificate fits none of a set of records, formerFits that it fits one of them.
	broken, formerFits bool
}

const sideBySide = 8

// names are the servers, each once.
func (c Change) names() []string {
	servers := slices.Clone(c.Servers)
	slices.Sort(servers)
	return slices.Compact(servers)
}

func (r *Resolver) look(ctx context.Context, c Change) []name {
	servers := c.names()
	looked := make([]name, len(servers))
	var g errgroup.Group
	g.SetLimit(sideBySide)
	for i, server := range servers {
		g.Go(func() error {
			n := &looked[i]
			n.server = server
			n.answer, n.err = r.TLSA(ctx, server)
			n.judge(c)
			return nil
		})
	}
	_ = g.Wait() // errors are kept by name
	return looked
}

// judge compares the certificates with each set of records that others may see.
func (n *name) judge(c Change) {
	if n.err != nil {
		n.standing = unknown
		return
	}
	for _, set := range n.answer.Sets {
		if !slices.ContainsFunc(set, Record.usable) {
			continue
		}
		of := n.judgeSet(set, c)
		n.standing = max(n.standing, of)
		n.formerFits = n.formerFits || len(fitting(set, n.server, c.Former)) > 0
		n.broken = n.broken || of == missing && len(fitting(set, n.server, c.Former)) == 0 && c.Former != nil
	}
}

func (n *name) judgeSet(set []Record, c Change) standing {
	now, then := fitting(set, n.server, c.New), fitting(set, n.server, c.Former)
	switch {
	case len(now) == 0:
		return missing
	case len(then) == 0:
		return heals
	case slices.ContainsFunc(then, func(r Record) bool { return !slices.Contains(now, r) }):
		return fresh
	}
	return steady
}

func fitting(set []Record, server string, chain []*x509.Certificate) (all []Record) {
	for _, r := range set {
		if r.fits(server, chain) {
			all = append(all, r)
		}
	}
	return all
}

// note says what was found, "" if that is not known.
func (n *name) note() string {
	text := ""
	switch {
	case n.answer.Unsigned:
		return fmt.Sprintf("%s has TLSA records in a zone without DNSSEC, which mail servers ignore", Owner(n.server))
	case n.standing == steady:
		text = "fit the new certificate as they do the present one"
	case n.standing == heals:
		text = "fit the new certificate, and none that is there now"
	case n.standing == fresh:
		text = "fit the new certificate"
	case n.standing == missing:
		text = "do not fit the new certificate"
	case n.standing == noRecords && len(n.answer.Sets) > 0 && slices.ContainsFunc(n.answer.Sets, func(set []Record) bool { return len(set) > 0 }):
		return n.server + " has only TLSA records that mail servers ignore"
	case n.standing == noRecords:
		return n.server + " has no TLSA records"
	default:
		return ""
	}
	return fmt.Sprintf("the TLSA records of %s %s (TTL %v; %s)", n.server, text, n.answer.TTL, n.answer.Source)
}

// Servers returns the names by which mail servers may reach a host with a certificate: those in it, and
// others that are known. Wildcards and addresses are no names.
func Servers(leaf *x509.Certificate, others ...string) (all []string) {
	for _, n := range append(slices.Clone(leaf.DNSNames), others...) {
		n = strings.ToLower(strings.TrimSuffix(n, "."))
		if strings.Contains(n, ".") && !strings.Contains(n, "*") && strings.Trim(n, "0123456789.:") != "" && !slices.Contains(all, n) {
			all = append(all, n)
		}
	}
	return all
}
