package delivery

import (
	"crypto/x509"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/verdict"
)

// A personal certificate goes to its owner: the addresses in it, or those of labels, fill the
// recipients, and to_domains says how far the author of an event can reach.
//
// Fault: an event's label or its certificate's e-mail address leads out of `to_domains`, also by a route such as
// `eve%evil.example@example.com`. Result: dead (SMTP_VALIDATION); nothing is sent, to nobody.
func TestRecipientsFromEvents(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		to      []string
		domains []string
		emails  []string // in the certificate
		labels  map[string]string
		want    []string // envelope
		refused string
	}{
		"the owner":                   {to: []string{"{email}"}, domains: []string{"example.com"}, emails: []string{"Ada@EXAMPLE.com"}, want: []string{"Ada@example.com"}},
		"two addresses":               {to: []string{"{email}"}, domains: []string{"*.example.com", "example.com"}, emails: []string{"ada@example.com", "ada@mail.example.com"}, want: []string{"ada@example.com", "ada@mail.example.com"}},
		"beside others":               {to: []string{"ops@example.net", "{email}"}, domains: []string{"example.com"}, emails: []string{"ada@example.com"}, want: []string{"ops@example.net", "ada@example.com"}},
		"a label":                     {to: []string{"{labels.owner}"}, domains: []string{"example.com"}, labels: map[string]string{"owner": "ada@example.com"}, want: []string{"ada@example.com"}},
		"a label as local part":       {to: []string{"{labels.team}@example.com"}, domains: []string{"example.com"}, labels: map[string]string{"team": "ops"}, want: []string{"ops@example.com"}},
		"nobody":                      {to: []string{"{email}"}, domains: []string{"example.com"}, refused: "the certificate names no e-mail address"},
		"no label":                    {to: []string{"{labels.owner}"}, domains: []string{"example.com"}, refused: "the event has no label owner"},
		"another domain":              {to: []string{"{email}"}, domains: []string{"example.com"}, emails: []string{"ada@example.com", "eve@evil.example"}, refused: "eve@evil.example, whose domain is not in to_domains"},
		"a domain below":              {to: []string{"{email}"}, domains: []string{"example.com"}, emails: []string{"ada@mail.example.com"}, refused: "not in to_domains"},
		"a second @":                  {to: []string{"{labels.team}@example.com"}, domains: []string{"example.com"}, labels: map[string]string{"team": "eve@evil.example,x"}, refused: "which is no address"},
		"quoted second @":             {to: []string{"{labels.team}@example.com"}, domains: []string{"example.com"}, labels: map[string]string{"team": `"eve@evil.example"`}, refused: "may send on to another domain"},
		"a route with %":              {to: []string{"{labels.team}@example.com"}, domains: []string{"example.com"}, labels: map[string]string{"team": "eve%evil.example"}, refused: "may send on to another domain"},
		"a route with % in quotes":    {to: []string{"{labels.owner}"}, domains: []string{"example.com"}, labels: map[string]string{"owner": `"eve%evil.example"@example.com`}, refused: "may send on to another domain"},
		"a route with !":              {to: []string{"{email}"}, domains: []string{"example.com"}, emails: []string{"evil.example!eve@example.com"}, refused: "may send on to another domain"},
		"an escaped @":                {to: []string{"{labels.team}@example.com"}, domains: []string{"example.com"}, labels: map[string]string{"team": `"eve\@evil.example"`}, refused: "may send on to another domain"},
		"a route of the RFC":          {to: []string{"{labels.owner}"}, domains: []string{"example.com"}, labels: map[string]string{"owner": "@example.com:eve@evil.example"}, refused: "which is no address"},
		"an address literal":          {to: []string{"{labels.owner}"}, domains: []string{"**.example.com"}, labels: map[string]string{"owner": "eve@[192.0.2.1]"}, refused: "not in to_domains"},
		"a dot at the end":            {to: []string{"{labels.owner}"}, domains: []string{"example.com"}, labels: map[string]string{"owner": "ada@example.com."}, refused: "which is no address"},
		"the name as a prefix":        {to: []string{"{labels.owner}"}, domains: []string{"example.com", "*.example.com"}, labels: map[string]string{"owner": "eve@example.com.evil.example"}, refused: "not in to_domains"},
		"an internationalised domain": {to: []string{"{labels.owner}"}, domains: []string{"bücher.example"}, labels: map[string]string{"owner": "ada@BÜCHER.example"}, want: []string{"ada@xn--bcher-kva.example"}},
		"one that looks alike":        {to: []string{"{labels.owner}"}, domains: []string{"example.com"}, labels: map[string]string{"owner": "eve@ex\u0430mple.com"}, refused: "not in to_domains"},
		"a part after a plus":         {to: []string{"{email}"}, domains: []string{"example.com"}, emails: []string{"ada+certs@example.com"}, want: []string{"ada+certs@example.com"}},
		"one address written twice":   {to: []string{"{email}"}, domains: []string{"example.com"}, emails: []string{"ada@example.com", "ada@EXAMPLE.com"}, want: []string{"ada@example.com"}},
		"long, with a key in a file":  {to: []string{"{labels.owner}"}, domains: []string{"**.example.com"}, labels: map[string]string{"owner": "a@" + strings.Repeat(strings.Repeat("b", 59)+".", 4) + "example.com"}, want: []string{"a@" + strings.Repeat(strings.Repeat("b", 59)+".", 4) + "example.com"}},
		"a header more":               {to: []string{"{labels.owner}"}, domains: []string{"example.com"}, labels: map[string]string{"owner": "ada@example.com> Bcc: <eve@evil.example"}, refused: "which is no address"},
		"a place in a place":          {to: []string{"{labels.owner}"}, domains: []string{"example.com"}, labels: map[string]string{"owner": "{email}"}, emails: []string{"eve@evil.example"}, refused: "is no address"},
		"more than one mail can take": {to: []string{"{email}"}, domains: []string{"example.com"}, emails: manyAddresses(51), refused: "at most 50"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newFixture(t, "127.0.0.1:1", RelayLimits{}, func(target *Target) { target.To, target.ToDomains = c.to, c.domains })
			p := lab.NewPKI(t, "p256")
			o.event.Certificate.PEM = string(lab.PEM(lab.Issue(t, p.Intermediate, p.Leaf.Key, "Ada", func(x *x509.Certificate) { x.EmailAddresses = c.emails }), p.Intermediate))
			o.event.Labels = c.labels
			version := o.book.Current().version(&o.target)
			msg, failure := o.renderNow()
			if c.refused != "" {
				if failure == nil || failure.Code != verdict.SMTPValidation || !strings.Contains(failure.Reason, c.refused) {
					t.Fatalf("%v, want %q", failure, c.refused)
				}
				if found := o.Inspector().Examine(t.Context(), verdict.Trial{Target: o.target.ID, Event: o.event.Encode()}); !finds(found, "error mail", c.refused) {
					t.Errorf("the preflight says %q", spoken(found))
				}
				return
			}
			if failure != nil {
				t.Fatal(failure)
			}
			if !slices.Equal(msg.recipients, c.want) {
				t.Errorf("recipients %q, want %q", msg.recipients, c.want)
			}
			if view := o.Inspector().Targets()[0]; !slices.Equal(view.To, c.to) || o.book.Current().version(&o.target) != version {
				t.Errorf("the definition is shown with %q", view.To)
			}
		})
	}
}

func manyAddresses(n int) (all []string) {
	for i := range n {
		all = append(all, "a"+strings.Repeat("b", i)+"@example.com")
	}
	return all
}

func TestValidatePlaces(t *testing.T) {
	t.Parallel()
	for lines, want := range map[string]string{
		"to: ['{email}']": "want to_domains",
		"to: ['x{email}']|to_domains: [example.com]":                                         "want only {email}",
		"to: ['{labels.}']|to_domains: [example.com]":                                        "want {labels.NAME}",
		"to: ['{labels.a']|to_domains: [example.com]":                                        "want {labels.NAME}",
		"to: ['{email}']|to_domains: ['**']":                                                 "matches every domain",
		"to: ['{email}']|to_domains: ['ops@a.example']":                                      "has an @",
		"to: ['{email}']|to_domains: ['**example.com']":                                      "want example.com, and **.example.com",
		"to: ['{email}']|to_domains: ['example.*']":                                          "anybody can register",
		"to: ['{email}']|to_domains: ['example.com*']":                                       "anybody can register",
		"to: ['{email}']|to_domains: ['**.example.com']":                                     "",
		"to_domains: [example.com]":                                                          "is not used",
		"to: ['{email}']|to_domains: [example.com]":                                          "",
		"to: ['{labels.a}@{labels.b}']|to_domains: ['*.example.com']":                        "",
		"to: ['{email}']|to_domains: [example.com]|encryption: smime":                        "want recipient_keys_dir",
		"to: ['{email}']|to_domains: [example.com]|encryption: smime|recipient_keys_dir: /k": "",
	} {
		_, problems := loadTarget(t, strings.Split(lines, "|")...)
		if want == "" && len(problems) > 0 || want != "" && (len(problems) != 1 || !strings.Contains(problems[0], want)) {
			t.Errorf("%s: %q, want %q", lines, problems, want)
		}
	}
}

// The conditions on kinds of certificates: each list needs one that fits.
func TestMatchKinds(t *testing.T) {
	t.Parallel()
	p := lab.NewPKI(t, "p256")
	personal := lab.Issue(t, p.Intermediate, lab.NewKey(t, "rsa"), "Ada", func(c *x509.Certificate) {
		c.EmailAddresses, c.ExtKeyUsage = []string{"Ada@Example.com"}, []x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection}
	}).Certificate
	device := lab.Issue(t, p.Intermediate, p.Leaf.Key, "printer", func(c *x509.Certificate) {
		c.IPAddresses, c.ExtKeyUsage = []net.IP{net.ParseIP("192.0.2.7"), net.ParseIP("2001:db8::7")}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}).Certificate
	edwards := lab.Issue(t, p.Intermediate, lab.NewKey(t, "ed25519"), "edwards").Certificate
	for name, c := range map[string]struct {
		match                     Match
		personal, device, edwards bool
	}{
		"emails":           {Match{Emails: []string{"*@example.com"}}, true, false, false},
		"another domain":   {Match{Emails: []string{"*@example.net"}}, false, false, false},
		"a network":        {Match{IPAddresses: []string{"192.0.2.0/24"}}, false, true, false},
		"an address, IPv6": {Match{IPAddresses: []string{"198.51.100.1", "2001:db8::7"}}, false, true, false},
		"another network":  {Match{IPAddresses: []string{"198.51.100.0/24"}}, false, false, false},
		"for e-mail":       {Match{ExtKeyUsages: []string{"email_protection"}}, true, false, false},
		"for either":       {Match{ExtKeyUsages: []string{"email_protection", "server_auth"}}, true, true, false},
		"RSA":              {Match{KeyTypes: []string{"rsa"}}, true, false, false},
		"ECDSA or Ed25519": {Match{KeyTypes: []string{"ecdsa", "ed25519"}}, false, true, true},
		"all of them":      {Match{Emails: []string{"*"}, KeyTypes: []string{"rsa"}, ExtKeyUsages: []string{"email_protection"}}, true, false, false},
		"one does not fit": {Match{Emails: []string{"*"}, KeyTypes: []string{"ecdsa"}}, false, false, false},
		"with an issuer":   {Match{Issuers: []string{"*"}, KeyTypes: []string{"rsa"}}, true, false, false},
	} {
		target := *testTarget()
		target.Match = &c.match
		target.SetDefaults()
		defs, problems := Relays{}.Define([]Target{target})
		if defs == nil {
			t.Fatalf("%s: %v", name, problems)
		}
		for of, want := range map[*x509.Certificate]bool{personal: c.personal, device: c.device, edwards: c.edwards} {
			if got := len(defs.Matching(of, nil)) == 1; got != want {
				t.Errorf("%s: %s matches: %v", name, of.Subject.CommonName, got)
			}
		}
	}
	for lines, want := range map[string]string{
		"match: {ip_addresses: [example.com]}":  "want an IP address or a network",
		"match: {ip_addresses: [192.0.2.0/33]}": "want an IP address or a network",
		"match: {ext_key_usages: [serverAuth]}": "want one of any, client_auth",
		"match: {key_types: [dsa]}":             "want one of ecdsa, ed25519, rsa",
		"match: {emails: ['']}":                 "is empty and matches nothing",
	} {
		if _, problems := loadTarget(t, lines); len(problems) != 1 || !strings.Contains(problems[0], want) {
			t.Errorf("%s: %q, want %q", lines, problems, want)
		}
	}
}
