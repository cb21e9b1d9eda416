package delivery

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// TestTheIndexFindsWhatAScanFinds compares the index with a look at every target, for many
// sets of definitions and certificates made of the same few words.
func TestTheIndexFindsWhatAScanFinds(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	one := func(of ...string) string { return of[random.IntN(len(of))] }
	name := func() string {
		return one("www", "a", "*", "xn--bcher-kva", "") + one(".", ".x.", "") + one("example.com", "bücher.example", "xn--bcher-kva.example", "com", "localhost")
	}
	pattern := func() string {
		return one("*", "**", "www", "w*", "*.x", "bü*", "") + one(".", "*.", "**", "") + one("example.com", "bücher.example", "xn--bcher-kva.example", "com", "*", "e*.com")
	}
	matched := 0
	for range 400 {
		var targets []*Target
		for i := range 12 {
			m := &Match{}
			for range random.IntN(3) {
				m.DNSNames = append(m.DNSNames, pattern())
			}
			if random.IntN(4) == 0 {
				m.Issuers = []string{one("*R1*", "r11", "*")}
			}
			if random.IntN(3) == 0 {
				m.Labels = map[string]string{one("env", "team"): one("prod", "p*", "*")}
			}
			if random.IntN(10) == 0 {
				m = nil
			}
			targets = append(targets, &Target{ID: fmt.Sprint(i), Match: m, Disabled: random.IntN(10) == 0, matcher: newMatcher(m)})
		}
		d := &Definitions{targets: targets, index: newMatchIndex(targets)}
		for range 20 {
			leaf := &x509.Certificate{Subject: pkix.Name{CommonName: name()}, Issuer: pkix.Name{CommonName: one("R11", "E5")}}
			for range random.IntN(3) {
				leaf.DNSNames = append(leaf.DNSNames, name())
			}
			labels := map[string]string{one("env", "team"): one("prod", "test", "p")}
			got := d.Matching(leaf, labels)
			want := slices.DeleteFunc(slices.Clone(targets), func(t *Target) bool { return !t.matches(factsOf(leaf, labels)) })
			if !slices.Equal(got, want) {
				t.Fatalf("%q of %q with %v: the index finds %s, a scan %s", leaf.DNSNames, leaf.Subject.CommonName, labels, listed(got), listed(want))
			}
			matched += len(got)
		}
	}
	if matched == 0 {
		t.Error("nothing ever matched")
	}
}

func listed(targets []*Target) string {
	var all []string
	for _, t := range targets {
		all = append(all, fmt.Sprintf("%s %+v", t.ID, t.Match))
	}
	return strings.Join(all, ", ")
}

// BenchmarkMatching resolves one certificate against definitions of which one matches: by
// a suffix, by a literal name, and by a label.
func BenchmarkMatching(b *testing.B) {
	kinds := map[string]func(i int) *Match{
		"suffix": func(i int) *Match { return &Match{DNSNames: []string{fmt.Sprintf("*.customer%d.example.com", i)}} },
		"name":   func(i int) *Match { return &Match{DNSNames: []string{fmt.Sprintf("www.customer%d.example.com", i)}} },
		"label":  func(i int) *Match { return &Match{Labels: map[string]string{"customer": fmt.Sprint(i)}} },
	}
	for kind, match := range kinds {
		for _, n := range []int{10, 100, 1_000, 10_000} {
			b.Run(fmt.Sprintf("%s/targets=%d", kind, n), func(b *testing.B) {
				var targets []*Target
				for i := range n {
					m := match(i)
					targets = append(targets, &Target{Match: m, matcher: newMatcher(m)})
				}
				d := &Definitions{targets: targets, index: newMatchIndex(targets)}
				leaf := &x509.Certificate{DNSNames: []string{"www.customer7.example.com"}}
				labels := map[string]string{"customer": "7"}
				b.ReportAllocs()
				for b.Loop() {
					if got := d.Matching(leaf, labels); len(got) != 1 {
						b.Fatalf("%d targets match, want 1", len(got))
					}
				}
			})
		}
	}
}
