package delivery

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestGlob(t *testing.T) {
	t.Parallel()
	tests := []struct {
		pattern string
		fits    []string
		not     []string
	}{
		{"www.example.com", []string{"www.example.com"}, []string{"www.example.org", "wwwxexample.com", "awww.example.com", "www.example.com.", ""}},
		{"*.example.com", []string{"www.example.com", "*.example.com", ".example.com"}, []string{"a.b.example.com", "example.com", "www.example.com.org"}},
		{"**.example.com", []string{"www.example.com", "a.b.c.example.com", "*.b.example.com"}, []string{"example.com", "www.example.org"}},
		{"*", []string{"localhost", ""}, []string{"a.b"}},
		{"**", []string{"localhost", "a.b", ""}, nil},
		{"www.*.com", []string{"www.example.com", "www..com"}, []string{"www.a.b.com", "www.com"}},
		{"*-prod-*.example.com", []string{"a-prod-b.example.com", "-prod-.example.com", "a-prod-prod-b.example.com"}, []string{"a-prod.example.com", "a.x-prod-b.example.com"}},
		{"a*b*c", []string{"abc", "aXbXc", "abbcc", "abcbc"}, []string{"ab", "acb", "a.bc"}},
		{"a**b", []string{"ab", "a.x.b", "abb"}, []string{"a.x.b.c"}},
		{"***", []string{"a.b"}, nil},
		{"[a-z]?.example.com", []string{"[a-z]?.example.com"}, []string{"ab.example.com"}},
		{"", []string{""}, []string{"a"}},
	}
	for _, test := range tests {
		g := newGlob(test.pattern, '.')
		for _, text := range test.fits {
			if !g.match(text) {
				t.Errorf("%q does not fit %q", test.pattern, text)
			}
		}
		for _, text := range test.not {
			if g.match(text) {
				t.Errorf("%q fits %q", test.pattern, text)
			}
		}
	}
}

// FuzzGlob compares a glob with the equivalent regular expression.
func FuzzGlob(f *testing.F) {
	f.Add("*.example.com", "www.example.com")
	f.Add("a**b*c", "a.b.c")
	f.Add("**a*", "aaa.a")
	f.Fuzz(func(t *testing.T, pattern, text string) {
		if len(pattern) > 100 || len(text) > 200 || !utf8.ValidString(pattern) || !utf8.ValidString(text) {
			t.Skip()
		}
		var expression strings.Builder
		for i := 0; i < len(pattern); i++ {
			switch {
			case strings.HasPrefix(pattern[i:], "**"):
				for i+1 < len(pattern) && pattern[i+1] == '*' {
					i++
				}
				expression.WriteString(`(?s:.*)`)
			case pattern[i] == '*':
				expression.WriteString(`[^.]*`)
			default:
				end := i + 1
				for end < len(pattern) && pattern[end] != '*' {
					end++
				}
				expression.WriteString(regexp.QuoteMeta(pattern[i:end]))
				i = end - 1
			}
		}
		want := regexp.MustCompile(`\A` + expression.String() + `\z`).MatchString(text)
		if got := newGlob(pattern, '.').match(text); got != want {
			t.Errorf("%q and %q: %v, want %v", pattern, text, got, want)
		}
	})
}

func TestGlobCost(t *testing.T) {
	t.Parallel()
	// A backtracking matcher would need 2^100 steps here.
	g := newGlob(strings.Repeat("**a", 100)+"b", '.')
	if g.match(strings.Repeat("a", 5_000)) {
		t.Error("fits")
	}
}

func TestMatching(t *testing.T) {
	t.Parallel()
	letsEncrypt := pkix.Name{Country: []string{"US"}, Organization: []string{"Let's Encrypt"}, CommonName: "R11"}
	leaf := func(issuer pkix.Name, cn string, names ...string) *x509.Certificate {
		return &x509.Certificate{
			Subject: pkix.Name{CommonName: cn}, Issuer: issuer, DNSNames: names, SerialNumber: big.NewInt(1),
		}
	}
	www := leaf(letsEncrypt, "www.example.com", "www.example.com", "example.com")
	prod := map[string]string{"env": "prod", "team": "web"}
	tests := []struct {
		match  string
		leaf   *x509.Certificate
		labels map[string]string
		want   bool
	}{
		{"dns_names: [www.example.com]", www, nil, true},
		{"dns_names: [WWW.Example.COM]", www, nil, true},
		{"dns_names: [www.example.com.]", www, nil, true},
		{"dns_names: [a.example.com, '*.example.com']", www, nil, true},
		{"dns_names: [example.org]", www, nil, false},
		{"dns_names: ['*.example.com']", leaf(letsEncrypt, "", "*.example.com"), nil, true},
		{"dns_names: [www.example.com]", leaf(letsEncrypt, "www.example.com", "other.example.com"), nil, false}, // with DNS names, the CN does not count
		{"dns_names: [www.example.com]", leaf(letsEncrypt, "WWW.example.com"), nil, true},
		{"dns_names: ['**']", leaf(letsEncrypt, ""), nil, false},
		{"dns_names: ['**']", leaf(letsEncrypt, strings.Repeat("a", 300)), nil, false}, // no DNS name
		{"dns_names: [bücher.example]", leaf(letsEncrypt, "", "xn--bcher-kva.example"), nil, true},
		{"dns_names: ['*.BÜCHER.example']", leaf(letsEncrypt, "", "www.XN--BCHER-KVA.example"), nil, true},
		{"dns_names: [xn--bcher-kva.example]", leaf(letsEncrypt, "bücher.example"), nil, true},
		{"dns_names: ['bü*.example']", leaf(letsEncrypt, "", "xn--bcher-kva.example"), nil, true},
		{"dns_names: ['bü*.example']", leaf(letsEncrypt, "", "xn--bcher-kva.example"), nil, true}, // the diaeresis as a separate character
		{"issuers: ['*R11*']", www, nil, true},
		{"issuers: [r11]", www, nil, true},
		{"issuers: [\"cn=r11,o=let's encrypt,c=us\"]", www, nil, true},
		{"issuers: [\"*O=Let's Encrypt*\"]", www, nil, true},
		{"issuers: [R10, E5]", www, nil, false},
		{"issuers: ['*Ltd.*']", leaf(pkix.Name{Organization: []string{"CAs Ltd. of Example.com"}}, ""), nil, true}, // a dot is an ordinary character here
		{"issuers: ['*']", leaf(pkix.Name{}, ""), nil, true},
		{"labels: {env: prod}", www, prod, true},
		{"labels: {env: 'p*'}", www, prod, true},
		{"labels: {env: Prod}", www, prod, false},
		{"labels: {env: '*'}", www, nil, false},
		{"labels: {env: '*'}", www, map[string]string{"env": ""}, true},
		{"labels: {env: prod, team: mail}", www, prod, false},
		{"dns_names: ['*.example.com'], issuers: ['*R11*'], labels: {env: prod}", www, prod, true},
		{"dns_names: ['*.example.com'], issuers: ['*R12*'], labels: {env: prod}", www, prod, false},
	}
	for _, test := range tests {
		target, problems := loadTarget(t, "match: {"+test.match+"}")
		if target == nil {
			t.Fatalf("%s: %v", test.match, problems)
		}
		if got := target.matches(factsOf(test.leaf, test.labels)); got != test.want {
			t.Errorf("{%s} and %v from %s with %v: %v", test.match, test.leaf.DNSNames, test.leaf.Issuer, test.labels, got)
		}
	}
	for _, lines := range [][]string{nil, {"match: {issuers: ['*']}", "disabled: true"}} {
		target, problems := loadTarget(t, lines...)
		if target == nil {
			t.Fatal(problems)
		}
		if target.matches(factsOf(www, prod)) {
			t.Errorf("%v gets an event that does not name it", lines)
		}
	}
}

func TestMatchingKeepsTheOrder(t *testing.T) {
	t.Parallel()
	var targets []Target
	for i := range 5 {
		target := Target{
			ID: fmt.Sprintf("t%d", 5-i), Host: "smtp.example.com", FromAddress: "a@example.com", To: []string{"b@example.com"},
			Match: &Match{DNSNames: []string{"*.example.com"}},
		}
		target.SetDefaults()
		targets = append(targets, target)
	}
	targets[2].Match = nil
	d, problems := Relays{}.Define(targets)
	if d == nil {
		t.Fatal(problems)
	}
	var ids []string
	for _, target := range d.Matching(&x509.Certificate{DNSNames: []string{"www.example.com"}}, nil) {
		ids = append(ids, target.ID)
	}
	if got := strings.Join(ids, " "); got != "t5 t4 t2 t1" {
		t.Errorf("matching: %s", got)
	}
}

func TestLaneOf(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 60) + ".example.com"
	tests := []struct {
		host string
		port int
		want string
	}{
		{"smtp.example.com", 587, "smtp_example_com-587"},
		{"SMTP.Example.com.", 587, "smtp_example_com-587"},
		{"smtp.example.com", 25, "smtp_example_com-25"},
		{"bücher.example", 587, "xn--bcher-kva_example-587"},
		{"xn--bcher-kva.example", 587, "xn--bcher-kva_example-587"},
		{"127.0.0.1", 2525, "127_0_0_1-2525"},
	}
	for _, test := range tests {
		if got := laneOf(test.host, test.port); got != test.want {
			t.Errorf("%s:%d has lane %s, want %s", test.host, test.port, got, test.want)
		}
	}
	form := regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
	seen := make(map[string]string)
	for _, host := range []string{long, "b" + long, long + "m", "a.b", "a_b", "a-b", "::1", "fe80::1", "1::", "ä b", strings.Repeat("ä.", 100)} {
		for _, port := range []int{25, 587} {
			relay := fmt.Sprintf("%s:%d", host, port)
			lane := laneOf(host, port)
			if !form.MatchString(lane) {
				t.Errorf("%s has lane %s", relay, lane)
			}
			if other := seen[lane]; other != "" {
				t.Errorf("%s and %s have the same lane %s", relay, other, lane)
			}
			seen[lane] = relay
		}
	}
}

func TestLanesAreShared(t *testing.T) {
	t.Parallel()
	relays := func(n int) *Definitions {
		var targets []Target
		for i := range n {
			target := Target{ID: fmt.Sprintf("t%d", i), Host: fmt.Sprintf("relay%d.example.com", i/2), FromAddress: "a@example.com", To: []string{"b@example.com"}}
			target.SetDefaults()
			targets = append(targets, target)
		}
		d, problems := Relays{}.Define(targets)
		if d == nil {
			t.Fatal(problems)
		}
		return d
	}
	if lanes := relays(400).Lanes(); len(lanes) != 200 || lanes[0] != "relay0_example_com-587" {
		t.Errorf("200 relays have %d lanes, %v", len(lanes), lanes[0])
	}
	many, more := relays(402), relays(2000)
	for _, d := range []*Definitions{many, more} {
		lanes := d.Lanes()
		if len(lanes) > 200 {
			t.Errorf("%d lanes", len(lanes))
		}
		for _, lane := range lanes {
			if !regexp.MustCompile(`^shared-[01][0-9]{2}$`).MatchString(lane) {
				t.Errorf("a shared lane called %s", lane)
			}
		}
	}
	for _, target := range many.All() {
		if same, _ := more.Get(target.ID); same.Lane() != target.Lane() {
			t.Errorf("%s moves from %s to %s when other relays are added", target.ID, target.Lane(), same.Lane())
		}
	}
}
