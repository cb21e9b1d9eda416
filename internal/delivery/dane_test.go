package delivery

import (
	"crypto/x509"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/dane"
	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/verdict"
)

// daneAttempt is an attempt at a target on a mail host, whose DNS is asked at the server.
func daneAttempt(s *lab.DNSServer, t *Target) *attempt {
	resolver := &dane.Resolver{Servers: []dane.Server{{Address: s.Address, Trusted: true}}}
	return &attempt{Courier: &Courier{opts: Options{Resolver: resolver}}, target: t}
}

func issueFor(t *testing.T, names ...string) []*x509.Certificate {
	t.Helper()
	return []*x509.Certificate{lab.Issue(t, nil, lab.NewKey(t, "p256"), names[0], lab.DNSNames(names...)).Certificate}
}

// What has been seen of the records goes from attempt to attempt with the hold, and the receipt says that the
// records have vanished.
//
// Fault: TLSA records that a deployment waits for vanish, or an answer says so falsely. Result: it waits for two more
// TTLs, and the receipt says so.
func TestHoldRemembersRecords(t *testing.T) {
	t.Parallel()
	s := lab.DNS(t, lab.DNSBehaviour{Validates: true})
	present, wanted := issueFor(t, "mx1.example.com"), issueFor(t, "mx1.example.com")
	a := daneAttempt(s, &Target{HostKeys: HostKeys{DANE: daneHold}})
	look := func() *verdict.Hold {
		t.Helper()
		err := a.mayReplace()(t.Context(), present, wanted)
		if err == nil {
			return nil
		}
		h, ok := errors.AsType[*held](err)
		if !ok {
			t.Fatal(err)
		}
		a.order.Hold = h.hold
		return h.hold
	}
	s.Set(t, "_25._tcp.mx1.example.com.", "3600 TLSA "+dane.For(present[0]).String())
	first := look()
	if first == nil || len(first.Publish) != 1 || len(first.Seen) != 1 {
		t.Fatalf("with the old record: %+v", first)
	}
	s.Set(t, "_25._tcp.mx1.example.com.")
	gone := look()
	if gone == nil || len(gone.Publish) != 0 || gone.Gone.IsZero() || !gone.Until.Equal(gone.Gone.Add(2*time.Hour)) || gone.Same(first) {
		t.Fatalf("without records: %+v", gone)
	}
	if again := look(); !again.Same(gone) {
		t.Errorf("a moment later: %+v, want %+v", again, gone)
	}
	a.order.Hold.Gone = time.Now().Add(-2 * time.Hour)
	if h := look(); h != nil || len(a.warnings) != 1 || !strings.Contains(a.warnings[0], "of mx1.example.com, which were there before, are gone since") {
		t.Errorf("after two TTLs: %+v, warnings %q", h, a.warnings)
	}
}

// Without a name in the certificate, those of the present one are asked; without any, plan, check and the receipt say
// that DNS was not asked.
//
// Fault: a wildcard certificate for a mail host, of which no name is known. Result: the names of the present certificate are
// asked; without any a warning says to set dane_names.
func TestWildcardHasNamesToAsk(t *testing.T) {
	t.Parallel()
	s := lab.DNS(t, lab.DNSBehaviour{Validates: true})
	named, wildcard, other := issueFor(t, "mx1.example.com"), issueFor(t, "*.example.com"), issueFor(t, "*.example.com")
	a := daneAttempt(s, &Target{HostKeys: HostKeys{DANE: daneHold}, Host: "mx1"})
	s.Set(t, "_25._tcp.mx1.example.com.", "3600 TLSA "+dane.For(named[0]).String())
	if err := a.mayReplace()(t.Context(), named, wildcard); err == nil || !strings.Contains(err.Error(), "no TLSA record of mx1.example.com fits") {
		t.Errorf("a wildcard after a certificate with a name: %v", err)
	}
	for what, found := range map[string][]verdict.Finding{
		"the plan":           a.daneFindings(t.Context(), a.target, wildcard, other),
		"the first plan":     a.daneFindings(t.Context(), a.target, nil, other),
		"the check":          a.daneFindings(t.Context(), a.target, wildcard, nil),
		"the plan as warned": a.daneFindings(t.Context(), &Target{HostKeys: HostKeys{DANE: daneWarn}}, wildcard, other),
	} {
		if len(found) != 1 || found[0].Status != verdict.Warning || !strings.Contains(found[0].Message, "set dane_names") {
			t.Errorf("%s says %+v", what, found)
		}
	}
	if err := a.mayReplace()(t.Context(), wildcard, other); err != nil || len(a.warnings) != 1 || a.warnings[0] != noNames {
		t.Errorf("a wildcard after a wildcard: %v, warnings %q", err, a.warnings)
	}
	if err := a.mayReturn()(t.Context(), other, wildcard); err != nil || len(a.warnings) != 2 {
		t.Errorf("back: %v, warnings %q", err, a.warnings)
	}

	// Names without records are said, too.
	s.Set(t, "_25._tcp.mx1.example.com.")
	for what, found := range map[string][]verdict.Finding{"the plan": a.daneFindings(t.Context(), a.target, named, wildcard), "the check": a.daneFindings(t.Context(), a.target, named, nil)} {
		if len(found) != 1 || found[0].Status != verdict.OK || found[0].Message != "mx1.example.com has no TLSA records" {
			t.Errorf("%s without records says %+v", what, found)
		}
	}
}
