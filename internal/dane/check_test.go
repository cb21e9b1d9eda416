package dane

import (
	"crypto/x509"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/lab"
)

// chains are certificates of one server: keys "old" and "new" by a CA, "renewed" with the old
// key, and "moved", a new key by another CA.
func chains(t *testing.T) map[string][]*x509.Certificate {
	issue := func(ca *lab.Issued, key *lab.Issued) []*x509.Certificate {
		signer := lab.NewKey(t, "p256")
		if key != nil {
			signer = key.Key
		}
		leaf := lab.Issue(t, ca, signer, "mx1.example.com", lab.DNSNames("mx1.example.com"))
		if key != nil {
			key.Key = signer
		}
		return []*x509.Certificate{leaf.Certificate, ca.Certificate}
	}
	root := lab.Issue(t, nil, lab.NewKey(t, "p256"), "Root", lab.AsCA)
	ca, ca2 := lab.Issue(t, root, lab.NewKey(t, "p256"), "CA 1", lab.AsCA), lab.Issue(t, root, lab.NewKey(t, "p256"), "CA 2", lab.AsCA)
	key := &lab.Issued{Key: lab.NewKey(t, "p256")}
	return map[string][]*x509.Certificate{"old": issue(ca, key), "renewed": issue(ca, key), "new": issue(ca, nil), "moved": issue(ca2, nil), "root": {root.Certificate}, "none": nil}
}

// record is a record for a certificate of a chain.
func record(cert *x509.Certificate, usage, selector, matching uint8) Record {
	data := cert.Raw
	if selector == publicKey {
		data = cert.RawSubjectPublicKeyInfo
	}
	return Record{usage, selector, matching, digest(matching, data)}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	c := chains(t)
	leaf := func(of string, selector, matching uint8) Record { return record(c[of][0], 3, selector, matching) }
	ca := func(of string, selector, matching uint8) Record { return record(c[of][1], 2, selector, matching) }
	const ready, waits, holds = "ready", "waits", "holds"
	for name, test := range map[string]struct {
		records     []Record
		former, new string
		want        string
		broken      bool
	}{
		"no records":                               {nil, "old", "new", ready, false},
		"only records that SMTP ignores":           {[]Record{record(c["old"][0], 1, 1, 1), record(c["old"][1], 0, 1, 1), {3, 1, 1, "short"}, {3, 2, 1, leaf("old", 1, 1).Data}, {3, 1, 7, "x"}}, "old", "new", ready, false},
		"the old key alone":                        {[]Record{leaf("old", 1, 1)}, "old", "new", holds, false},
		"both keys":                                {[]Record{leaf("old", 1, 1), leaf("new", 1, 1)}, "old", "new", waits, false},
		"the same key":                             {[]Record{leaf("old", 1, 1)}, "old", "renewed", ready, false},
		"the same key, whole certificate":          {[]Record{leaf("old", 0, 1)}, "old", "renewed", holds, false},
		"whole certificates":                       {[]Record{leaf("old", 0, 2), leaf("new", 0, 2)}, "old", "new", waits, false},
		"as they are":                              {[]Record{leaf("old", 1, 0), leaf("new", 0, 0)}, "old", "new", waits, false},
		"a CA that still fits":                     {[]Record{ca("old", 1, 1)}, "old", "new", ready, false},
		"a CA's whole certificate that still fits": {[]Record{ca("old", 0, 2)}, "old", "new", ready, false},
		"another CA":                               {[]Record{ca("old", 1, 1)}, "old", "moved", holds, false},
		"a root that is not sent":                  {[]Record{record(c["root"][0], 2, 1, 1)}, "old", "new", holds, true},
		"a root in the record":                     {[]Record{record(c["root"][0], 2, 0, 0)}, "old", "moved", ready, false},
		"a root's key in the record":               {[]Record{record(c["root"][0], 2, 1, 0)}, "old", "moved", ready, false},
		"a CA beside the old key may be new":       {[]Record{leaf("old", 1, 1), ca("old", 1, 1)}, "old", "new", waits, false},
		"only the new key is there already":        {[]Record{leaf("new", 1, 1)}, "old", "new", ready, false},
		"neither":                                  {[]Record{leaf("moved", 1, 1)}, "old", "new", holds, true},
		"a first certificate":                      {[]Record{leaf("new", 1, 1)}, "none", "new", ready, false},
		"a first one without its record":           {[]Record{leaf("old", 1, 1)}, "none", "new", holds, false},
		"a leaf is no CA":                          {[]Record{record(c["new"][0], 2, 1, 1)}, "none", "new", holds, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := lab.DNS(t, lab.DNSBehaviour{Validates: true})
			r := resolver(true, s)
			var lines []string
			for _, one := range test.records {
				lines = append(lines, "3600 TLSA "+one.String())
			}
			s.Set(t, owner, lines...)
			change := Change{Servers: []string{"mx1.example.com"}, Former: c[test.former], New: c[test.new]}
			now := lab.TestNow
			v := r.Check(t.Context(), change, State{}, now)
			got := holds
			switch {
			case v.Ready:
				got = ready
			case len(v.Publish) == 0:
				got = waits
			}
			if got != test.want || v.Broken != test.broken || v.Unknown {
				t.Fatalf("%s, want %s: %+v", got, test.want, v)
			}
			switch got {
			case holds:
				if want := Line("mx1.example.com", For(change.New[0])); !slices.Equal(v.Publish, []string{want}) || !strings.Contains(v.Reason, want) || !v.State.Fits.IsZero() {
					t.Errorf("%+v does not say %s", v, want)
				}
				s.Set(t, owner, append(lines, "60 TLSA "+For(change.New[0]).String())...)
				// What was said of the wait is what happens then.
				said := strings.Contains(v.Reason, "two TTLs (")
				if after := r.Check(t.Context(), change, v.State, now); said == after.Ready {
					t.Errorf("the reason %q, and after publication %+v", v.Reason, after)
				}
				if v = r.Check(t.Context(), change, v.State, now); !test.broken && change.Former != nil && (v.Ready || !v.Until.Equal(now.Add(2*time.Hour))) {
					t.Errorf("published, with the TTL that was seen before: %+v", v)
				}
			case waits:
				if !v.Until.Equal(now.Add(2*time.Hour)) || !strings.Contains(v.Reason, "two TTLs (2h0m0s) later") {
					t.Errorf("the wait is not two TTLs: %+v", v)
				}
				for after, ready := range map[time.Duration]bool{2*time.Hour - time.Second: false, 2 * time.Hour: true} {
					if later := r.Check(t.Context(), change, v.State, now.Add(after)); later.Ready != ready {
						t.Errorf("after %v: %+v", after, later)
					}
				}
			}
		})
	}
}

// A record that goes away begins the wait anew; one that cannot be asked for does not, and nothing is
// deployed meanwhile.
func TestWaitOfRecords(t *testing.T) {
	t.Parallel()
	c := chains(t)
	s := lab.DNS(t, lab.DNSBehaviour{Validates: true})
	r := resolver(true, s)
	r.Timeout = time.Second
	both := []string{"60 TLSA " + For(c["old"][0]).String(), "60 TLSA " + For(c["new"][0]).String()}
	change := Change{Servers: []string{"mx1.example.com", "www.example.com"}, Former: c["old"], New: c["new"]}
	now := lab.TestNow
	s.Set(t, owner, both...)
	v := r.Check(t.Context(), change, State{}, now)

	s.Behave(lab.DNSBehaviour{Silent: true})
	lost := r.Check(t.Context(), change, v.State, now.Add(time.Hour))
	if lost.Ready || !lost.Unknown || !lost.State.Fits.Equal(now) || !strings.Contains(lost.Reason, "the records of mx1.example.com are not known") {
		t.Errorf("without DNS: %+v", lost)
	}
	s.Behave(lab.DNSBehaviour{Validates: true})
	if v := r.Check(t.Context(), change, lost.State, now.Add(time.Hour)); !v.Ready {
		t.Errorf("with DNS again: %+v", v)
	}
	s.Set(t, owner, both[0])
	if v = r.Check(t.Context(), change, v.State, now.Add(time.Minute)); v.Ready || !v.State.Fits.IsZero() {
		t.Errorf("the record has gone: %+v", v)
	}
	s.Set(t, owner, both...)
	if v = r.Check(t.Context(), change, v.State, now.Add(2*time.Minute)); v.Ready || !v.Until.Equal(now.Add(4*time.Minute)) {
		t.Errorf("the record is there again: %+v", v)
	}
}

// All servers of a zone must have a record before its time begins.
func TestSecondaryServerLags(t *testing.T) {
	t.Parallel()
	c := chains(t)
	r, _, first, second := zone(t, true)
	both := []string{"3600 TLSA " + For(c["old"][0]).String(), "3600 TLSA " + For(c["new"][0]).String()}
	first.Set(t, owner, both...)
	second.Set(t, owner, both[0])
	change := Change{Servers: []string{"mx1.example.com"}, Former: c["old"], New: c["new"]}
	v := r.Check(t.Context(), change, State{}, lab.TestNow)
	if v.Ready || len(v.Publish) != 1 || !v.State.Fits.IsZero() {
		t.Errorf("one server lacks it: %+v", v)
	}
	second.Set(t, owner, both...)
	if v = r.Check(t.Context(), change, v.State, lab.TestNow); v.Ready || !v.State.Fits.Equal(lab.TestNow) {
		t.Errorf("both have it: %+v", v)
	}
}

func TestServers(t *testing.T) {
	t.Parallel()
	leaf := &x509.Certificate{DNSNames: []string{"mx1.example.com", "*.example.com", "MX1.example.com"}}
	if got := Servers(leaf, "mx2.example.com.", "mx1", "192.0.2.1", ""); !slices.Equal(got, []string{"mx1.example.com", "mx2.example.com"}) {
		t.Errorf("got %v", got)
	}
}

// Records that vanish while a certificate waits for them end the wait only when no cache can have them any more:
// that there are none needs no proof, and one false answer would be enough.
//
// Fault: TLSA records that a deployment waits for vanish, or an answer says so falsely. Result: it waits for two more
// TTLs, and the receipt says so.
func TestRecordsThatVanish(t *testing.T) {
	t.Parallel()
	c := chains(t)
	s := lab.DNS(t, lab.DNSBehaviour{Validates: true})
	r := resolver(true, s)
	old := "3600 TLSA " + For(c["old"][0]).String()
	change := Change{Servers: []string{"mx1.example.com", "www.example.com"}, Former: c["old"], New: c["new"]}
	now := lab.TestNow
	s.Set(t, owner, old)
	v := r.Check(t.Context(), change, State{}, now)
	if v.Ready || !slices.Equal(v.State.Seen, []string{"mx1.example.com"}) || !v.State.Gone.IsZero() {
		t.Fatalf("%+v", v)
	}
	before := v.State

	s.Set(t, owner)
	gone := now.Add(time.Minute)
	v = r.Check(t.Context(), change, before, gone)
	if v.Ready || len(v.Publish) > 0 || !v.State.Gone.Equal(gone) || !v.Until.Equal(gone.Add(2*time.Hour)) || v.Vanished != "" ||
		!strings.Contains(v.Reason, "of mx1.example.com, which were there before, are gone since") || strings.Contains(v.Reason, "www.") {
		t.Errorf("the records have vanished: %+v", v)
	}
	if early := r.Check(t.Context(), change, v.State, v.Until.Add(-time.Second)); early.Ready {
		t.Errorf("a second too early: %+v", early)
	}
	if late := r.Check(t.Context(), change, v.State, v.Until); !late.Ready || !strings.Contains(late.Vanished, "of mx1.example.com") {
		t.Errorf("after two TTLs: %+v", late)
	}
	// As stored by a version that did not note names.
	if v := r.Check(t.Context(), change, State{TTL: time.Hour}, now); v.Ready {
		t.Errorf("without names: %+v", v)
	}

	s.Set(t, owner, old) // a false answer
	back := r.Check(t.Context(), change, v.State, gone.Add(time.Hour))
	if back.Ready || !back.State.Gone.IsZero() || len(back.Publish) != 1 || !back.Until.IsZero() {
		t.Errorf("the records are there again: %+v", back)
	}
	s.Set(t, owner)
	if again := r.Check(t.Context(), change, back.State, gone.Add(3*time.Hour)); again.Ready || !again.Until.Equal(gone.Add(5*time.Hour)) {
		t.Errorf("the records have vanished again: %+v", again)
	}
}
