package dashboard

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/access"
	"github.com/certpost/certpost/internal/desk"
)

// Every route is tried with every role and in every form of its address. A role below
// the required one is refused before the request is read any further; other roles are
// not refused. Methods that a route does not have are refused for all roles.
//
// Fault: forged roles. Result: refused.
func TestEveryRouteWithEveryRole(t *testing.T) {
	t.Parallel()
	roles := []access.Role{access.Anyone, access.Viewer, access.Operator, access.Admin}
	var accounts []access.Account
	for _, role := range roles[1:] {
		accounts = append(accounts, access.Account{Name: role.String(), Hash: access.NewHash("a password"), Role: role})
	}
	o := openOffice(t, officeConfig{access: access.Config{Accounts: accounts}, edit: desk.EditRules{Enabled: true}})
	o.dies("a.example.com")
	fill := strings.NewReplacer("{number}", "999", "{fingerprint}", "none", "{id}", "none", "{target}", "none", "{event}", "none", "{lane}", "none", "{$}", "")
	methods := map[string][]string{} // of each path
	for _, route := range o.guard.Routes() {
		method, path, _ := strings.Cut(route.Pattern, " ")
		if methods[path] = append(methods[path], method); method == http.MethodGet {
			methods[path] = append(methods[path], http.MethodHead)
		}
	}
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
		v.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		form := url.Values{access.TokenField: {token}}.Encode()
		tried := 0
		for _, route := range o.guard.Routes() {
			method, path, _ := strings.Cut(route.Pattern, " ")
			switch {
			case path == "/events":
				ctx, end := context.WithCancel(t.Context())
				if status, _ := v.stream(ctx); status != map[bool]int{true: http.StatusOK, false: http.StatusUnauthorized}[role >= route.Needs] {
					t.Errorf("%s as %s: status %d", route.Pattern, role, status)
				}
				end()
				continue
			case route.Kind == access.Files:
				v.do(method, path+"none", "").is(http.StatusNotFound)
				continue
			case strings.HasPrefix(path, "/sign-"):
				continue // open to everyone
			}
			for _, suffix := range []string{"", ".json", ".csv"} {
				for _, m := range methods[path] {
					s := v.do(m, fill.Replace(path)+suffix, form)
					refused := s.status == http.StatusForbidden || s.status == http.StatusUnauthorized || s.status == http.StatusSeeOther && strings.HasPrefix(s.header.Get("Location"), "/sign-in")
					if refused != (role < route.Needs) {
						t.Errorf("%s %s%s as %s: status %d %s: %.200s", m, path, suffix, role, s.status, s.header.Get("Location"), textOf(s.doc))
					}
				}
			}
			for _, m := range []string{http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions, http.MethodTrace, "PROPFIND"} {
				if s := v.do(m, fill.Replace(path), form); s.status != http.StatusMethodNotAllowed || strings.Contains(s.header.Get("Allow"), m) {
					t.Errorf("%s %s as %s: status %d, Allow %q", m, path, role, s.status, s.header.Get("Allow"))
				}
			}
			// Headers of scripts and other sites do not bypass the check.
			for _, header := range [][]string{{"Accept", "text/event-stream"}, {"HX-Request", "true"}, {"Sec-Fetch-Mode", "no-cors"}, {"X-HTTP-Method-Override", "GET"}} {
				s := v.do(method, fill.Replace(path), form, header...)
				if refused := s.status == http.StatusForbidden || s.status == http.StatusUnauthorized || s.status == http.StatusSeeOther && strings.HasPrefix(s.header.Get("Location"), "/sign-in"); refused != (role < route.Needs) {
					t.Errorf("%s with %v as %s: status %d", route.Pattern, header, role, s.status)
				}
			}
			tried++
		}
		if tried < 34 || tried > len(o.guard.Routes()) {
			t.Errorf("tried %d routes", tried)
		}
	}
	if b := o.desk.Balance(); b.Open != 1 {
		t.Errorf("a refused request changed something: %+v", b)
	}
}
