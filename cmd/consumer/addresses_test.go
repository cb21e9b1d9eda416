package main

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/certpost/certpost/internal/access"
	"github.com/certpost/certpost/internal/lab"
)

// Each address of the running program has a row in docs/security.md, with the role that it
// needs. It fails for an address that is new or newly open.
//
// Fault: forged roles. Result: refused.
func TestAddressesAndRoles(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join(lab.Root(), "docs", "security.md"))
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([A-Z]+ /[^`]*)` \\| (\\w+) \\|$").FindAllStringSubmatch(string(page), -1) {
		if _, twice := rows[m[1]]; twice {
			t.Errorf("docs/security.md has %s twice", m[1])
		}
		rows[m[1]] = m[2]
	}
	service := serve(t, bareFixture(t), `http:
  listen: 127.0.0.1:0
  url: http://localhost
  sign_in:
    users: [{name: ada, password_hash: "`+hashFor(t, "canary-password")+`", role: admin}]
    oidc: {issuer: "https://id.example.com", client_id: c, roles: {viewer: [x]}}
`)
	routes := service.http.people.guard.Routes()
	if len(routes) < 40 {
		t.Errorf("%d addresses", len(routes))
	}
	for _, route := range routes {
		switch role, known := rows[route.Pattern]; {
		case !known:
			t.Errorf("docs/security.md lacks: | `%s` | %s |", route.Pattern, route.Needs)
		case role != route.Needs.String():
			t.Errorf("%s needs the role %s, and %s by docs/security.md", route.Pattern, route.Needs, role)
		}
		if route.Needs == access.Anyone && route.Kind == access.Page && !regexp.MustCompile(`^(GET|POST) /sign-(in|out)`).MatchString(route.Pattern) {
			t.Errorf("%s is a page for everybody", route.Pattern)
		}
		delete(rows, route.Pattern)
	}
	for pattern := range rows {
		t.Errorf("docs/security.md has %s, which the program does not serve", pattern)
	}
}
