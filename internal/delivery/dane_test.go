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
