package dashboard

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/access"
)

// Every route, with every role: who has less than it needs is sent away, before
// anything is looked at, and who has enough is not.
func TestEveryRouteWithEveryRole(t *testing.T) {
	t.Parallel()
	roles := []access.Role{access.Anyone, access.Viewer, access.Operator, access.Admin}
	var accounts []access.Account
	for _, role := range roles[1:] {
		accounts = append(accounts, access.Account{Name: role.String(), Hash: access.NewHash("a password"), Role: role})
	}
	o := openOffice(t, officeConfig{access: access.Config{Accounts: accounts}, edit: &Edit{}})
	o.dies("a.example.com")
	fill := strings.NewReplacer("{number}", "999", "{fingerprint}", "none", "{id}", "none", "{target}", "none", "{event}", "none", "{lane}", "none", "{$}", "")
	for _, role := range roles {
		v, token := o.visitor(), ""
		if page := v.do(http.MethodGet, "/", ""); role != access.Anyone {
			page = page.send("Sign in", "name", role.String(), "password", "a password").is(200)
			for _, input := range all(page.doc, "input") {
				if attr(input, "name") == access.TokenField {
					token = attr(input, "value")
				}
			}
		}
		tried := 0
		for _, route := range o.guard.Routes() {
			method, path, _ := strings.Cut(route.Pattern, " ")
			if route.Kind != access.Page || route.Needs == access.Anyone || path == "/events" {
				continue
			}
			v.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
			s := v.do(method, fill.Replace(path), url.Values{access.TokenField: {token}}.Encode())
			refused := s.status == http.StatusForbidden || s.status == http.StatusUnauthorized || s.status == http.StatusSeeOther && strings.HasPrefix(s.header.Get("Location"), "/sign-in")
			if refused != (role < route.Needs) {
				t.Errorf("%s as %s is answered %d %s: %.200s", route.Pattern, role, s.status, s.header.Get("Location"), textOf(s.doc))
			}
			tried++
		}
		if tried < 30 {
			t.Errorf("only %d routes were tried", tried)
		}
	}
	if b := o.desk.Balance(); b.Open != 1 {
		t.Errorf("something was done: %+v", b)
	}
}
