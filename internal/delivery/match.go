package delivery

import (
	"crypto/x509"
	"strings"

	"github.com/certpost/certpost/internal/legible"
)

// maxMatched limits the texts that globs are matched with, in bytes: the publisher of
// an event chooses them, and x509 accepts a CN of 70 kB. A longer text matches nothing.
const (
	maxMatched = 4096
	maxDNSName = 253 + 1 // RFC 1035 section 2.3.4, plus a dot at the end
)

// facts are what targets are matched against, computed once per event.
type facts struct {
	dnsNames []name   // of the leaf; its CN if it has no DNS names
	issuers  []string // the issuer's RFC 2253 name and its CN, in lower case
	labels   map[string]string
	leaf     *x509.Certificate
}

// name is a DNS name in both forms, lower case: "xn--bcher-kva.example" and
// "bücher.example". For most names they are the same.
type name struct{ ascii, unicode string }

func factsOf(leaf *x509.Certificate, labels map[string]string) facts {
	f := facts{labels: labels, leaf: leaf}
	dns := leaf.DNSNames
	if len(dns) == 0 && leaf.Subject.CommonName != "" {
		dns = []string{leaf.Subject.CommonName}
	}
	for _, n := range dns {
		if len(n) <= maxDNSName {
			f.dnsNames = append(f.dnsNames, nameOf(n))
		}
	}
	for _, issuer := range []string{leaf.Issuer.String(), leaf.Issuer.CommonName} {
		if len(issuer) <= maxMatched {
			f.issuers = append(f.issuers, strings.ToLower(issuer))
		}
	}
	return f
}

// nameOf returns both forms of a DNS name, or of a glob on DNS names.
func nameOf(s string) name {
	ascii, unicode := legible.Domain(s)
	return name{ascii, unicode}
}

// matcher is a compiled Match: globs split, those on DNS names and issuers in lower
// case.
type matcher struct {
	dnsNames []dnsGlob
	issuers  []glob
	labels   map[string]glob
	kinds    kindMatcher
}

type dnsGlob struct{ ascii, unicode glob }

func newDNSGlob(pattern string) dnsGlob {
	n := nameOf(pattern)
	return dnsGlob{newGlob(n.ascii, '.'), newGlob(n.unicode, '.')}
}

func (g dnsGlob) match(n name) bool { return g.ascii.match(n.ascii) || g.unicode.match(n.unicode) }

func newMatcher(m *Match) matcher {
	var made matcher
	if m == nil {
		return made
	}
	for _, pattern := range m.DNSNames {
		made.dnsNames = append(made.dnsNames, newDNSGlob(pattern))
	}
	for _, pattern := range m.Issuers {
		made.issuers = append(made.issuers, newGlob(strings.ToLower(pattern), 0))
	}
	made.kinds = newKindMatcher(m)
	for key, pattern := range m.Labels {
		if made.labels == nil {
			made.labels = make(map[string]glob, len(m.Labels))
		}
		made.labels[key] = newGlob(pattern, 0)
	}
	return made
}

// matches reports whether the target gets an event that names no targets: it is not
// disabled, and every condition of its Match applies. A target without Match gets no
// such event.
func (t *Target) matches(f facts) bool {
	return t.Match != nil && !t.Disabled &&
		t.matcher.fitsNames(f.dnsNames) && t.matcher.fitsIssuers(f.issuers) && t.matcher.fitsLabels(f.labels) && t.matcher.kinds.fits(f.leaf)
}

func (m *matcher) fitsNames(names []name) bool {
	for _, g := range m.dnsNames {
		for _, n := range names {
			if g.match(n) {
				return true
			}
		}
	}
	return len(m.dnsNames) == 0
}

func (m *matcher) fitsIssuers(issuers []string) bool {
	for _, g := range m.issuers {
		for _, issuer := range issuers {
			if g.match(issuer) {
				return true
			}
		}
	}
	return len(m.issuers) == 0
}

func (m *matcher) fitsLabels(labels map[string]string) bool {
	for key, g := range m.labels {
		value, present := labels[key]
		if !present || len(value) > maxMatched || !g.match(value) {
			return false
		}
	}
	return true
}

// glob is a pattern in which * matches any characters except the separator, and **
// any characters. Everything else is literal.
type glob struct {
	parts     []string // the literal texts; between two of them is a wildcard
	any       []bool   // any[i]: the wildcard between parts[i] and parts[i+1] is **
	separator byte     // 0: * means the same as **
}

func newGlob(pattern string, separator byte) glob {
	g := glob{separator: separator}
	start := 0
	for i := 0; i < len(pattern); {
		if pattern[i] != '*' {
			i++
			continue
		}
		end := i
		for end < len(pattern) && pattern[end] == '*' {
			end++
		}
		g.parts = append(g.parts, pattern[start:i])
		g.any = append(g.any, end-i > 1 || separator == 0)
		i, start = end, end
	}
	g.parts = append(g.parts, pattern[start:])
	return g
}

// match takes time proportional to the lengths of pattern and text multiplied, for
// every pattern: reached[i] says that the pattern so far can end before text[i], and
// each part advances that set.
func (g glob) match(text string) bool {
	if !strings.HasPrefix(text, g.parts[0]) {
		return false
	}
	reached := make([]bool, len(text)+1)
	reached[len(g.parts[0])] = true
	for i, wild := range g.any {
		reached = skip(reached, text, wild, g.separator)
		reached = consume(reached, text, g.parts[i+1])
	}
	return reached[len(text)]
}

// skip adds the positions that a wildcard reaches from the reached ones, by matching
// any number of bytes.
func skip(reached []bool, text string, any bool, separator byte) []bool {
	for i := range len(text) {
		if reached[i] && (any || text[i] != separator) {
			reached[i+1] = true
		}
	}
	return reached
}

// consume returns the positions after each occurrence of part that begins at a
// reached position.
func consume(reached []bool, text, part string) []bool {
	next := make([]bool, len(reached))
	for i, ok := range reached {
		if ok && strings.HasPrefix(text[i:], part) {
			next[i+len(part)] = true
		}
	}
	return next
}
