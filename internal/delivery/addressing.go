package delivery

import (
	"fmt"
	"slices"
	"strings"

	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/payload"
	"github.com/certpost/certpost/internal/verdict"
)

// A recipient may be a place that each event fills: {email} stands for the e-mail addresses
// in its certificate, {labels.NAME} for the value of one of its labels. One target then
// serves as many owners as there are certificates. The author of an event chooses what fills
// a place, so to_domains says how far such a mail may go: without it, anybody who may
// publish an event could have a private key sent anywhere.

const (
	emailPlace  = "{email}"
	labelPlace  = "{labels."
	placeOpens  = "{"
	placeCloses = "}"
)

// hasPlace reports whether a recipient is filled by each event.
func hasPlace(address string) bool {
	return strings.Contains(address, emailPlace) || strings.Contains(address, labelPlace)
}

// places reports whether one of the target's recipients is filled by each event.
func (t *Target) places() bool {
	return slices.ContainsFunc(slices.Concat(t.To, t.CC, t.BCC), hasPlace)
}

// addressed returns the target with the places of its recipients filled for one event. It is
// the target itself if there are none.
func (t *Target) addressed(b *payload.Bundle, ev *events.Event) (*Target, *verdict.Failure) {
	if !t.places() {
		return t, nil
	}
	filled := *t
	for _, list := range []struct {
		key string
		of  *[]string
	}{{"to", &filled.To}, {"cc", &filled.CC}, {"bcc", &filled.BCC}} {
		var all []string
		for _, address := range *list.of {
			found, problem := fillPlaces(address, b, ev.Labels)
			if problem == "" {
				problem = t.outside(address, found)
			}
			if problem != "" {
				return nil, verdict.Fail(verdict.SMTPValidation, verdict.PhaseRender, fmt.Sprintf("%s %s of the target %s", list.key, legible.Clean(address, 100), problem))
			}
			for _, a := range found {
				if !slices.Contains(all, a) {
					all = append(all, a)
				}
			}
		}
		if len(all) > maxAddresses {
			return nil, verdict.Fail(verdict.SMTPValidation, verdict.PhaseRender, fmt.Sprintf("%s has %d addresses with those of the certificate: at most %d are allowed", list.key, len(all), maxAddresses))
		}
		*list.of = all
	}
	return &filled, nil
}

// Addressed returns the Message-ID of the mail of an event to a target, and its recipients by the
// target's present definition; "" and nil if no mail can be made. It fetches nothing, so a place that
// only a certificate in a secret fills has no recipients.
func (c *Courier) Addressed(ev *events.Event, target string) (id string, recipients []string) {
	t, known := c.book.Current().Get(target)
	if !known || t.onHost() {
		return "", nil
	}
	id = Inspector{c}.MessageID(target, ev.ID)
	if t.places() {
		leaf, err := ev.Leaf()
		if err != nil || leaf == nil {
			return id, nil
		}
		var failure *verdict.Failure
		if t, failure = t.addressed(&payload.Bundle{Leaf: leaf}, ev); failure != nil {
			return id, nil
		}
	}
	if all, err := addressesOf(t, nil, nil, nil); err == nil {
		recipients = all.envelope
	}
	return id, recipients
}

// fillPlaces returns the addresses that a recipient stands for, or what is missing.
func fillPlaces(address string, b *payload.Bundle, labels map[string]string) (all []string, problem string) {
	if address == emailPlace {
		if all = b.Leaf.EmailAddresses; len(all) == 0 {
			problem = "has nobody to send to: the certificate names no e-mail address"
		}
		return all, problem
	}
	for {
		before, rest, found := strings.Cut(address, labelPlace)
		name, after, closed := strings.Cut(rest, placeCloses)
		if !found || !closed {
			return []string{address}, ""
		}
		value := strings.TrimSpace(labels[name])
		if value == "" {
			return nil, "has nobody to send to: the event has no label " + legible.Clean(name, 100)
		}
		if strings.Contains(value, placeOpens) {
			return nil, "cannot be filled: the event's label " + legible.Clean(name, 100) + " is no address"
		}
		address = before + value + after
	}
}

// outside returns why the mail may not go to the addresses that fill a place, or "".
func (t *Target) outside(place string, addresses []string) string {
	if !hasPlace(place) {
		return ""
	}
	for _, address := range addresses {
		shown := legible.Clean(address, 254)
		box, err := parseMailbox("", address)
		if err != nil {
			return "becomes " + shown + ", which is no address"
		}
		if !t.mayGoTo(box) {
			return "becomes " + shown + ", whose domain is not in to_domains"
		}
		if box.routed() {
			return "becomes " + shown + ", which a relay may send on to another domain: want no @, %, !, : or quotes before the @"
		}
	}
	return ""
}

// routed reports whether relays may read the address as a route, and send the mail on to a
// host that is named before the @ (RFC 5321 appendix F.2; RFC 1123 section 5.2.16). Postfix
// does for those it trusts, as it does a sender who has logged in: x%b.example@a.example and
// "x@b.example"@a.example go to x@b.example if a.example is its own domain.
func (b mailbox) routed() bool {
	return strings.ContainsAny(string(b[:strings.LastIndexByte(string(b), '@')]), `@%!:"\\`)
}

func (t *Target) mayGoTo(box mailbox) bool {
	return slices.ContainsFunc(t.ToDomains, func(pattern string) bool { return newDNSGlob(pattern).match(nameOf(box.domain())) })
}

// validatePlaces checks a recipient that is filled by each event. It reports whether the
// recipient is one.
func (t *Target) validatePlaces(v *validation, at, address string) bool {
	if !hasPlace(address) {
		return false
	}
	switch {
	case strings.Contains(address, emailPlace) && address != emailPlace:
		v.err(at, "has {email} beside other text: want only {email}, which stands for whole addresses")
	case address != emailPlace && badLabelPlace(address):
		v.err(at, "has a place that is not closed or has no name: want {labels.NAME}")
	case len(t.ToDomains) == 0:
		v.err(at, "is filled by each event, so its author would choose who gets the mail: want to_domains, the domains that it may go to")
	}
	return true
}

func badLabelPlace(address string) bool {
	for {
		_, rest, found := strings.Cut(address, labelPlace)
		if !found {
			return false
		}
		name, after, closed := strings.Cut(rest, placeCloses)
		if !closed || name == "" || strings.Contains(name, placeOpens) {
			return true
		}
		address = after
	}
}

func (t *Target) validateToDomains(v *validation) {
	for i, pattern := range t.ToDomains {
		at := fmt.Sprintf("to_domains[%d]", i)
		v.glob(at, pattern)
		switch {
		case strings.Contains(pattern, "@"):
			v.err(at, "has an @: want only the domain, such as example.com or *.example.com")
		case strings.Trim(pattern, "*.") == "":
			v.err(at, "matches every domain: want those of your organisation")
		case strings.Contains(pattern[strings.LastIndexByte(pattern, '.')+1:], "*"):
			v.warn(at, "has a wildcard in its last label, so it matches domains that anybody can register: want those of your organisation")
		case strings.HasPrefix(pattern, "*") && !strings.HasPrefix(strings.TrimLeft(pattern, "*"), "."):
			name := strings.TrimLeft(pattern, "*")
			v.warn(at, "matches also domains of others, such as not%s: want %s, and **.%s for those below it", name, name, name)
		}
	}
	if len(t.ToDomains) > 0 && !t.places() {
		v.warn("to_domains", "is not used: no recipient is {email} or {labels.NAME}")
	}
}
