package delivery

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/certpost/certpost/internal/config"
	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/verdict"
)

// Recipients are addresses to which a replay may send a mail that is meant for
// others: whole addresses, or *@domain for all of one domain.
type Recipients []string

// Validate says which of them are no addresses; paths are "[i]".
func (r Recipients) Validate() []config.Problem {
	v := &validation{}
	for i, pattern := range r {
		if problem := wrongAddress(strings.Replace(pattern, "*@", "any@", 1)); problem != "" || strings.Contains(strings.TrimPrefix(pattern, "*@"), "*") {
			v.err("["+strconv.Itoa(i)+"]", "want an address, or *@ and a domain for all addresses of the domain")
		}
	}
	return v.found
}

// Allows reports whether a replay for somebody who has recipients of his own may go
// to an address.
func (r Recipients) Allows(own []string, address string) bool {
	b, err := parseMailbox("", address)
	return err == nil && (mailboxes(own)[b] || r.allow(b))
}

// allow reports whether a mailbox is among them.
func (r Recipients) allow(b mailbox) bool {
	return slices.ContainsFunc(r, func(pattern string) bool {
		if domain, all := strings.CutPrefix(pattern, "*@"); all {
			return nameOf(domain).ascii == b.domain()
		}
		allowed, err := parseMailbox("", pattern)
		return err == nil && allowed == b
	})
}

// recipients are who is owed the mail of an attempt (nil: all whom the target
// names), and those of them whom the target does not name.
func (r Recipients) recipients(t *Target, a verdict.Attempt) (owed []string, others []mailbox, failure *verdict.Failure) {
	if len(a.Override) == 0 {
		return a.Recipients, nil, nil
	}
	others, failure = r.readdress(t, a.Override)
	// What an earlier try of this replay left is a part of what it names; what was
	// owed before the replay is not.
	owed = a.Override
	named := mailboxes(a.Override)
	if len(a.Recipients) > 0 && !slices.ContainsFunc(slices.Collect(maps.Keys(mailboxes(a.Recipients))), func(b mailbox) bool { return !named[b] }) {
		owed = a.Recipients
	}
	return owed, others, failure
}

// readdress reads the recipients that a replay names in place of the target's own:
// those that are, and those that are allowed besides. One that is neither ends the
// delivery; whoever may publish is not to choose who gets a private key.
func (r Recipients) readdress(t *Target, wanted []string) (others []mailbox, failure *verdict.Failure) {
	refuse := func(address, why string) *verdict.Failure {
		return verdict.Fail(verdict.SMTPValidation, verdict.PhaseRender,
			"the recipient "+legible.Clean(address, 100)+" of the replay "+why)
	}
	if len(wanted) > maxRecipients {
		return nil, refuse(wanted[maxRecipients], "exceeds the limit: at most 50 are allowed")
	}
	own := mailboxes(slices.Concat(t.To, t.CC, t.BCC))
	for _, address := range wanted {
		if problem := wrongAddress(address); problem != "" {
			return nil, refuse(address, problem)
		}
		b, err := parseMailbox("", address)
		switch {
		case err != nil:
			return nil, refuse(address, "is not an address")
		case own[b]:
		case !r.allow(b):
			return nil, refuse(address, "is neither a recipient of the target nor in http.edit_and_replay.recipients: choose another recipient, or add this one there")
		case !slices.Contains(others, b):
			others = append(others, b)
		}
	}
	return others, nil
}
