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

// Recipients are addresses that a replay may name besides the target's own: full
// addresses, or *@domain for all addresses of a domain that no relay reads as a route to
// another one (see mailbox.routed).
type Recipients []string

// Validate returns a problem for each invalid entry; paths are "[i]".
func (r Recipients) Validate() []config.Problem {
	v := &validation{}
	for i, pattern := range r {
		if problem := wrongAddress(strings.Replace(pattern, "*@", "any@", 1)); problem != "" || strings.Contains(strings.TrimPrefix(pattern, "*@"), "*") {
			v.err("["+strconv.Itoa(i)+"]", "want an address, or *@ and a domain for all addresses of the domain")
		}
	}
	return v.found
}

// Allows reports whether a replay to a target that has the recipients own may go to an
// address.
func (r Recipients) Allows(own []string, address string) bool {
	b, err := parseMailbox("", address)
	return err == nil && (mailboxes(own)[b] || r.allow(b))
}

// allow reports whether a mailbox is one of the recipients.
func (r Recipients) allow(b mailbox) bool {
	return slices.ContainsFunc(r, func(pattern string) bool {
		if domain, all := strings.CutPrefix(pattern, "*@"); all {
			return nameOf(domain).ascii == b.domain() && !b.routed()
		}
		allowed, err := parseMailbox("", pattern)
		return err == nil && allowed == b
	})
}

// recipients returns the recipients that are owed the mail of an attempt (nil: all of
// the target), and those of them that are not the target's.
func (r Recipients) recipients(t *Target, a verdict.Attempt) (owed []string, others []mailbox, failure *verdict.Failure) {
	if len(a.Override) == 0 {
		return a.Recipients, nil, nil
	}
	others, failure = r.readdress(t, a.Override)
	// Recipients that are still owed the mail after an earlier attempt of this replay
	// are all in Override. Otherwise they date from before the replay and do not count.
	owed = a.Override
	named := mailboxes(a.Override)
	if len(a.Recipients) > 0 && !slices.ContainsFunc(slices.Collect(maps.Keys(mailboxes(a.Recipients))), func(b mailbox) bool { return !named[b] }) {
		owed = a.Recipients
	}
	return owed, others, failure
}

// readdress checks the recipients that a replay names instead of the target's own, and
// returns those that are allowed but not the target's. Any other recipient fails the
// delivery: a publisher must not be able to choose who gets a private key.
func (r Recipients) readdress(t *Target, wanted []string) (others []mailbox, failure *verdict.Failure) {
	refuse := func(address, why string) *verdict.Failure {
		return verdict.Fail(verdict.SMTPValidation, verdict.PhaseRender,
			"the recipient "+legible.Clean(address, 100)+" of the replay "+why)
	}
	if len(wanted) > maxRecipients {
		return nil, refuse(wanted[maxRecipients], "exceeds the limit: at most "+strconv.Itoa(maxRecipients)+" are allowed")
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
