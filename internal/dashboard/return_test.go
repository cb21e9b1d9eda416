package dashboard

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/access"
)

// Every form and address that takes a path to go back to stays on this site: the settings, saved
// views, and the lists where an order began. All of them ask access.LocalPath, as the sign-in does.
func TestNoReturnLeavesTheSite(t *testing.T) {
	t.Parallel()
	o := openOffice(t, officeConfig{})
	page := o.visitor().opens("/settings")
	token := ""
	for _, input := range all(page.doc, "input") {
		if attr(input, "name") == access.TokenField {
			token = attr(input, "value")
		}
	}
	if token == "" {
		t.Fatal("the page has no token")
	}
	page.v.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	base, err := url.Parse(o.url)
	must(t, err)
	for _, bad := range []string{
		"https://evil.example/", "http://evil.example", "https:evil.example", "//evil.example", "///evil.example", `/\evil.example`, `\\evil.example`, `\/evil.example`,
		"/\t/evil.example", "/\n/evil.example", "/\r\n/evil.example", "\t//evil.example", " //evil.example", "/\x00/evil.example", "/\x0b/evil.example",
		"/%09/evil.example", "/%0a/evil.example", "/%2f/evil.example", "/%2f%2fevil.example", "/%5cevil.example", "/%5c%5cevil.example", "/%252f%252fevil.example",
		"/.//evil.example", "/x/..//evil.example", "/%2e%2e//evil.example", "javascript:alert(1)", "data:text/html,x", "/dead-letters/..//evil.example", "/deliveries/../\\evil.example?x",
		"/\u2028/evil.example", "//evil.example/dead-letters?code=x", "https://evil.example/deliveries?state=waiting", "/dead-letters@evil.example",
	} {
		for _, door := range []struct {
			address, field string
			fields         url.Values
		}{
			{"/settings", "return", url.Values{"scheme": {"dark"}}},
			{"/settings", "return", url.Values{"view": {"name"}}},
			{"/dead-letters/bulk", "list", url.Values{"action": {"discard"}, "reason": {"x"}}},
			{"/deliveries/bulk", "list", url.Values{"action": {"retry"}}},
			{"/deliveries/resend", "list", url.Values{"reason": {"x"}, "delivery": {"ops/e"}, "hash": {"x"}}},
			{"/dead-letters/confirm", "list", url.Values{"action": {"discard"}}},
			{"/dead-letters/confirm", "list", url.Values{"action": {"discard"}, "all": {"yes"}}},
			{"/deliveries/confirm", "list", url.Values{"action": {"retry"}}},
		} {
			door.fields.Set(door.field, bad)
			method, path, body := http.MethodPost, door.address, ""
			if strings.HasSuffix(door.address, "/confirm") {
				method, path = http.MethodGet, path+"?"+door.fields.Encode()
			} else {
				door.fields.Set(access.TokenField, token)
				body = door.fields.Encode()
			}
			s := page.v.do(method, path, body)
			if to := s.header.Get("Location"); to != "" {
				u, err := base.Parse(to)
				if err != nil || u.Host != base.Host || u.Scheme != base.Scheme || strings.HasPrefix(to, "//") || strings.ContainsAny(to, "\\\t\r\n") {
					t.Errorf("%s with %q leads to %q (%v)", door.address, bad, to, err)
				}
			} else if s.status < 400 && s.status != http.StatusOK {
				t.Errorf("%s with %q: status %d without an address", door.address, bad, s.status)
			}
			for _, a := range all(s.doc, "a") {
				if u, err := base.Parse(attr(a, "href")); err != nil || u.Host != base.Host {
					t.Errorf("%s with %q has the link %q", door.address, bad, attr(a, "href"))
				}
			}
		}
	}
}

// Who acts on some letters of a filtered list comes back to it, without the hint that nothing was
// selected; who acts on all of them comes to the list of all.
func TestAnActionReturnsToItsList(t *testing.T) {
	t.Parallel()
	o := openOffice(t, officeConfig{})
	o.dies("a.example.com", "b.example.com", "c.example.com")
	v := o.visitor()
	list := v.opens("/dead-letters?target=ops").send("Hold…").is(200).says("Select letters first.")
	held := list.send("Hold…", "number", "1", "number", "2").is(200).send("Hold 2 letters", "reason", "wait").is(200).says("target ops", "3 open letters")
	if strings.Contains(textOf(held.doc), "Select letters first.") {
		t.Error("the list says that nothing was selected")
	}
	gone := held.send("Discard…", "number", "3").is(200).send("Discard 1 letter", "reason", "no").is(200).says("Discarded.", "Undo: restore 1 letter", "target ops", "2 open letters")
	gone.send("Undo: restore 1 letter").is(200).says("Restored.")
	all := v.opens("/dead-letters?name=c.example.com").follow("Discard…").is(200).send("Discard 1 letter", "reason", "no").is(200)
	if all.url.Query().Get("name") != "" {
		t.Errorf("the act on all that match leads to %s", all.url)
	}

	o.refuses("")
	o.publish("sent", "d.example.com", "java")
	o.until("it is listed as sent", func() bool { return strings.Contains(v.opens("/deliveries?state=sent").body, "d.example.com") })
	chosen := v.opens("/deliveries?state=sent").send("Send again…").is(200).says("Select deliveries first.").send("Send again…", "delivery", "java/sent").is(200)
	if text := textOf(chosen.follow("Back").is(200).doc); strings.Contains(text, "Select deliveries first.") {
		t.Error("back on the list of deliveries, it says that nothing was selected")
	}
}
