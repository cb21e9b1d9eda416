package desk

import (
	"slices"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/verdict"
)

// Letters that one act fixes are one group: an unknown target, a secret, the domain of refused
// recipients and a source are groups of their own.
func TestGroupsByWhatHasToBeFixed(t *testing.T) {
	t.Parallel()
	letter := func(code verdict.Code, phase verdict.Phase, target, enhanced, ref string, recipients ...string) broker.DeadLetter {
		return broker.DeadLetter{Outcome: verdict.Outcome{Code: code, Phase: phase, EnhancedCode: enhanced, ToFix: ref}, Target: target, Recipients: recipients,
			EventSubject: "certificate.issued." + target, Time: time.Unix(1_700_000_000, 0)}
	}
	for name, c := range map[string]struct {
		one, other broker.DeadLetter
		toFix      string // of one
		same       bool
	}{
		"unknown targets":         {letter(verdict.TargetUnknown, verdict.PhaseResolve, "a", "", ""), letter(verdict.TargetUnknown, verdict.PhaseResolve, "b", "", ""), "a", false},
		"invalid targets":         {letter(verdict.TargetInvalid, verdict.PhaseResolve, "a", "", ""), letter(verdict.TargetInvalid, verdict.PhaseResolve, "b", "", ""), "a", false},
		"secrets":                 {letter(verdict.SecretNotFound, verdict.PhaseSecrets, "a", "", "env:A"), letter(verdict.SecretNotFound, verdict.PhaseSecrets, "a", "", "env:B"), "env:A", false},
		"one secret":              {letter(verdict.SecretDenied, verdict.PhaseSecrets, "a", "", "env:A"), letter(verdict.SecretDenied, verdict.PhaseSecrets, "b", "", "env:A"), "env:A", true},
		"recipients' domains":     {letter(verdict.SMTPPermanent, verdict.PhaseRcpt, "a", "5.1.1", "", "x@One.example"), letter(verdict.SMTPPermanent, verdict.PhaseRcpt, "a", "5.1.1", "", "x@two.example"), "one.example", false},
		"one domain":              {letter(verdict.SMTPPermanent, verdict.PhaseRcpt, "a", "5.2.1", "", "x@one.example"), letter(verdict.SMTPPermanent, verdict.PhaseRcpt, "b", "5.2.1", "", "y@ONE.example", "z@one.example"), "one.example", true},
		"without enhanced code":   {letter(verdict.SMTPPermanent, verdict.PhaseRcpt, "a", "", "", "x@one.example"), letter(verdict.SMTPPermanent, verdict.PhaseRcpt, "a", "", "", "x@two.example"), "one.example", false},
		"the relay's own policy":  {letter(verdict.SMTPPermanent, verdict.PhaseRcpt, "a", "5.7.1", "", "x@one.example"), letter(verdict.SMTPPermanent, verdict.PhaseRcpt, "a", "5.7.1", "", "x@two.example"), "", true},
		"several domains":         {letter(verdict.SMTPPermanent, verdict.PhaseRcpt, "a", "5.1.1", "", "x@one.example", "x@two.example"), letter(verdict.SMTPPermanent, verdict.PhaseRcpt, "a", "5.1.1", ""), "", true},
		"sources":                 {letter(verdict.EventInvalid, verdict.PhaseSource, "a", "", ""), letter(verdict.EventInvalid, verdict.PhaseSource, "b", "", ""), "certificate.issued.a", false},
		"the login of one relay":  {letter(verdict.SMTPAuth, verdict.PhaseAuth, "a", "5.7.8", "", "x@one.example"), letter(verdict.SMTPAuth, verdict.PhaseAuth, "b", "5.7.8", "", "x@two.example"), "", true},
		"events that match none":  {letter(verdict.TargetUnknown, verdict.PhaseResolve, "", "", ""), letter(verdict.TargetUnknown, verdict.PhaseResolve, "", "", ""), "", true},
		"the content of the mail": {letter(verdict.SMTPPermanent, verdict.PhaseContent, "a", "5.7.1", "", "x@one.example"), letter(verdict.SMTPPermanent, verdict.PhaseContent, "b", "5.7.1", "", "x@two.example"), "", true},
	} {
		if got := toFix(&c.one); got != c.toFix {
			t.Errorf("%s: %q is to be fixed, want %q", name, got, c.toFix)
		}
		if same := fingerprintOf(&c.one) == fingerprintOf(&c.other); same != c.same {
			t.Errorf("%s: one group is %t, want %t", name, same, c.same)
		}
	}
}

// The title of a group has what has to be fixed; an event without a target adds no empty name.
func TestGroupsHaveNoEmptyNames(t *testing.T) {
	t.Parallel()
	d := dry()
	for i, target := range []string{"", "typo", "typo", "wrong"} {
		d.add(broker.DeadLetter{Outcome: verdict.Outcome{Code: verdict.TargetUnknown, Phase: verdict.PhaseResolve}, Sequence: uint64(i + 1), Time: time.Now(), Target: target}, nil)
	}
	var titles []string
	for _, g := range d.Groups(Query{}) {
		titles = append(titles, g.Title())
		if slices.Contains(g.Targets, "") || g.TargetCount != len(g.Targets) || g.ToFix != "" && g.Targets[0] != g.ToFix {
			t.Errorf("group %q lists the targets %q, and counts %d", g.Title(), g.Targets, g.TargetCount)
		}
	}
	slices.Sort(titles)
	want := []string{"No target was found for the event.", "No target was found for the event: typo", "No target was found for the event: wrong"}
	if !slices.Equal(titles, want) {
		t.Errorf("got %q, want %q", titles, want)
	}
	for n := range uint64(4) { // and taking them off again leaves nothing
		d.off(n + 1)
	}
	if rest := d.Groups(Query{}); len(rest) != 0 {
		t.Errorf("%d groups are left", len(rest))
	}
}

// Of groups of one size, that whose certificate expires first is the first; one that has none is
// the last.
func TestEqualGroupsAreOrderedByExpiry(t *testing.T) {
	t.Parallel()
	d, now := dry(), time.Now()
	for i, expiry := range []time.Duration{0, 90, 2, 30} {
		var cert *leaf
		if expiry != 0 {
			cert = &leaf{cn: "a", notAfter: now.Add(expiry * 24 * time.Hour).Unix()}
		}
		d.add(broker.DeadLetter{Outcome: verdict.Outcome{Code: verdict.TargetUnknown}, Sequence: uint64(i + 1), Time: now.Add(-time.Duration(i) * time.Hour), Target: []string{"none", "late", "soon", "then"}[i]}, cert)
	}
	var order []string
	for _, g := range d.Groups(Query{}) {
		order = append(order, g.ToFix)
	}
	if want := []string{"soon", "then", "late", "none"}; !slices.Equal(order, want) {
		t.Errorf("got %q, want %q", order, want)
	}
}
