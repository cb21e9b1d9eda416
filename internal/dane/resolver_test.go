package dane

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/certpost/certpost/internal/lab"
)

const (
	owner = "_25._tcp.mx1.example.com."
	other = "3 1 1 00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
)

func resolver(trusted bool, servers ...*lab.DNSServer) *Resolver {
	r := &Resolver{Timeout: 2 * time.Second}
	for _, s := range servers {
		r.Servers = append(r.Servers, Server{s.Address, trusted})
	}
	return r
}

func ask(t *testing.T, r *Resolver) Answer {
	t.Helper()
	a, err := r.TLSA(t.Context(), "MX1.example.com")
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestValidatedAnswers(t *testing.T) {
	t.Parallel()
	s := lab.DNS(t, lab.DNSBehaviour{Validates: true, Left: 7 * time.Second})
	r := resolver(true, s)
	if a := ask(t, r); a.Sets != nil || a.Unsigned {
		t.Errorf("a name without records: %+v", a)
	}
	s.Set(t, owner, "600 TLSA "+other, "600 TLSA 2 0 0 01")
	want := Answer{Sets: [][]Record{{{3, 1, 1, ask(t, r).Sets[0][0].Data}, {2, 0, 0, "\x01"}}}, TTL: 10 * time.Minute, Source: s.Address + ", with DNSSEC"}
	if a := ask(t, r); !reflect.DeepEqual(a, want) || a.Sets[0][0].String() != other {
		t.Errorf("got %+v, want %+v: the TTL of the zone, not what the cache has left", a, want)
	}
	s.Behave(lab.DNSBehaviour{Validates: true, Cuts: true})
	if a := ask(t, r); len(a.Sets) != 1 || !slices.Contains(s.Asked(), owner+" TLSA tcp") {
		t.Errorf("an answer that does not fit: %+v, asked %v", a, s.Asked())
	}
	s.Set(t, owner, "900 CNAME _dane.example.net.")
	s.Set(t, "_dane.example.net.", "300 TLSA "+other)
	if a := ask(t, r); len(a.Sets) != 1 || len(a.Sets[0]) != 1 || a.TTL != 15*time.Minute {
		t.Errorf("behind an alias: %+v", a)
	}
}

// A server that does not answer, or cannot, is followed by the next. When none can, that is an
// error with each server's.
func TestServersThatFail(t *testing.T) {
	t.Parallel()
	broken := lab.DNS(t, lab.DNSBehaviour{RCode: dnsmessage.RCodeServerFailure})
	silent := lab.DNS(t, lab.DNSBehaviour{Silent: true})
	works := lab.DNS(t, lab.DNSBehaviour{Validates: true})
	works.Set(t, owner, "600 TLSA "+other)
	r := resolver(true, broken, silent, works)
	r.Timeout = time.Second
	if a := ask(t, r); len(a.Sets) != 1 || a.Source != works.Address+", with DNSSEC" {
		t.Errorf("got %+v", a)
	}
	r.Servers = append(r.Servers[:2], Server{"127.0.0.1:1", true})
	_, err := r.TLSA(t.Context(), "mx1.example.com")
	for _, want := range []string{broken.Address + ": server failure", silent.Address + ": no answer in time", "127.0.0.1:1: "} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	if _, err := (&Resolver{Servers: []Server{}}).TLSA(t.Context(), "mx1.example.com"); err == nil || !strings.Contains(err.Error(), "no name server to ask") {
		t.Errorf("without servers: %v", err)
	}
	if _, err := r.TLSA(t.Context(), strings.Repeat("a", 300)); err == nil {
		t.Error("a name that is none was looked up")
	}
}

// zone is a resolver that does not validate, with two servers of example.com.
func zone(t *testing.T, trusted bool) (r *Resolver, recursive, first, second *lab.DNSServer) {
	recursive, first, second = lab.DNS(t, lab.DNSBehaviour{}), lab.DNS(t, lab.DNSBehaviour{Authoritative: true, Signs: true}), lab.DNS(t, lab.DNSBehaviour{Authoritative: true, Signs: true})
	recursive.Set(t, "example.com.", "60 NS ns1.example.com.", "60 NS ns2.example.com.")
	recursive.Set(t, "ns1.example.com.", "60 A 192.0.2.1")
	recursive.Set(t, "ns2.example.com.", "60 A 192.0.2.2", "60 A 192.0.2.3")
	recursive.Set(t, owner, "60 TLSA "+other)
	r = &Resolver{Servers: []Server{{"192.0.2.53:53", trusted}}, Timeout: time.Second,
		// 192.0.2.2 cannot be reached: the second address of ns2 answers.
		Dial: lab.DNSDialer(map[string]*lab.DNSServer{"192.0.2.53:53": recursive, "192.0.2.1:53": first, "192.0.2.3:53": second})}
	return r, recursive, first, second
}

// Records that nobody has validated are asked at each server of the zone.
func TestServersOfTheZone(t *testing.T) {
	t.Parallel()
	for _, trusted := range []bool{true, false} {
		r, recursive, first, second := zone(t, trusted)
		if !trusted {
			recursive.Behave(lab.DNSBehaviour{Validates: true}) // who is not trusted can set any bit
		}
		first.Set(t, owner, "3600 TLSA "+other)
		second.Set(t, owner, "1800 TLSA "+other, "1800 TLSA 3 1 1 ff")
		a := ask(t, r)
		if len(a.Sets) != 2 || len(a.Sets[0]) != 1 || len(a.Sets[1]) != 2 || a.TTL != time.Hour || a.Unsigned || a.Source != "the servers of the zone: ns1.example.com., ns2.example.com." {
			t.Errorf("trusted %v: got %+v", trusted, a)
		}
		first.Behave(lab.DNSBehaviour{Authoritative: true})
		second.Behave(lab.DNSBehaviour{Authoritative: true})
		if a := ask(t, r); a.Sets != nil || !a.Unsigned {
			t.Errorf("a zone without signatures: %+v", a)
		}
	}
}

func TestServersOfTheZoneThatFail(t *testing.T) {
	t.Parallel()
	r, _, first, second := zone(t, true)
	first.Set(t, owner, "3600 TLSA "+other)
	for want, b := range map[string]lab.DNSBehaviour{
		"ns2.example.com.: it is not authoritative": {}, "ns2.example.com.: Refused": {RCode: dnsmessage.RCodeRefused}, "ns2.example.com.: no answer in time": {Silent: true},
	} {
		second.Behave(b)
		if _, err := r.TLSA(t.Context(), "mx1.example.com"); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "dns.servers") {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// An alias leads into another zone, whose servers have the records.
func TestAliasIntoAnotherZone(t *testing.T) {
	t.Parallel()
	r, recursive, first, second := zone(t, true)
	recursive.Set(t, owner, "60 CNAME _dane.example.net.")
	recursive.Set(t, "_dane.example.net.", "60 TLSA "+other)
	recursive.Set(t, "example.net.", "60 NS ns2.example.com.")
	first.Set(t, owner, "60 CNAME _dane.example.net.")
	second.Set(t, owner, "60 CNAME _dane.example.net.")
	if _, err := r.TLSA(t.Context(), "mx1.example.com"); err != nil {
		t.Fatal(err)
	}
	second.Set(t, "_dane.example.net.", "7200 TLSA "+other)
	if a := ask(t, r); len(a.Sets) == 0 || len(a.Sets[len(a.Sets)-1]) != 1 || a.TTL != 2*time.Hour {
		t.Errorf("got %+v", a)
	}
}

func TestSystem(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][]Server{
		"nameserver 127.0.0.53\nnameserver 192.0.2.1\n":                     {{"127.0.0.53:53", true}, {"192.0.2.1:53", false}},
		"# x\nnameserver 2001:db8::1\noptions edns0 trust-ad\nsearch a.b\n": {{"[2001:db8::1]:53", true}},
		"nameserver ::1":      {{"[::1]:53", true}},
		"nameserver nonsense": {{"127.0.0.1:53", true}},
	} {
		path := filepath.Join(t.TempDir(), "resolv.conf")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := System(path); !slices.Equal(got, want) {
			t.Errorf("%q: got %v, want %v", text, got, want)
		}
	}
	if got := System("/nonexistent"); !slices.Equal(got, []Server{{"127.0.0.1:53", true}}) {
		t.Errorf("without the file: %v", got)
	}
}
