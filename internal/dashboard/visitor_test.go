package dashboard

import (
	"cmp"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"

	"golang.org/x/net/html"

	"github.com/certpost/certpost/internal/access"
)

// visitor is a browser without scripts: it follows the links and submits the forms of
// pages.
type visitor struct {
	t      testing.TB
	base   string
	client *http.Client
}

// sheet is the response to a request.
type sheet struct {
	v      *visitor
	status int
	header http.Header
	url    *url.URL
	body   string
	doc    *html.Node
}

func (o *office) visitor() *visitor {
	jar, _ := cookiejar.New(nil) // never fails
	v := &visitor{o.t, o.url, &http.Client{Jar: jar}}
	o.t.Cleanup(v.client.CloseIdleConnections)
	return v
}

func (v *visitor) do(method, path, body string, header ...string) *sheet {
	v.t.Helper()
	req, err := http.NewRequest(method, v.base+path, strings.NewReader(body))
	must(v.t, err)
	req.Header.Set("Accept", "text/html,*/*")
	req.Header.Set("Sec-Fetch-Site", "same-origin")
	req.Header.Set("Sec-Fetch-Mode", "navigate")
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	answer, err := v.client.Do(req)
	must(v.t, err)
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	must(v.t, err)
	doc, err := html.Parse(strings.NewReader(string(text)))
	must(v.t, err)
	return &sheet{v, answer.StatusCode, answer.Header, answer.Request.URL, string(text), doc}
}

// opens gets a page and checks its status and structure.
func (v *visitor) opens(path string) *sheet {
	v.t.Helper()
	s := v.do(http.MethodGet, path, "")
	s.is(http.StatusOK)
	if t, ok := v.t.(*testing.T); ok {
		sound(t, path, s.doc, false)
	}
	return s
}

func (s *sheet) is(status int) *sheet {
	s.v.t.Helper()
	if s.status != status {
		s.v.t.Fatalf("%s: status %d, want %d: %.600s", s.url, s.status, status, textOf(s.doc))
	}
	return s
}

func (s *sheet) says(texts ...string) *sheet {
	s.v.t.Helper()
	for _, text := range texts {
		if !strings.Contains(textOf(s.doc), text) {
			s.v.t.Fatalf("%s does not say %q: %.2000s", s.url, text, textOf(s.doc))
		}
	}
	return s
}

// follow opens the link with this text.
func (s *sheet) follow(text string) *sheet {
	s.v.t.Helper()
	for _, a := range all(s.doc, "a") {
		if textOf(a) == text {
			to, err := s.url.Parse(attr(a, "href"))
			must(s.v.t, err)
			return s.v.do(http.MethodGet, to.RequestURI(), "")
		}
	}
	s.v.t.Fatalf("%s has no link %q: %.1500s", s.url, text, textOf(s.doc))
	return nil
}

// send presses a button. The fields of its form keep the values on the page, except
// those given as pairs of name and value.
func (s *sheet) send(button string, fields ...string) *sheet {
	s.v.t.Helper()
	for _, form := range all(s.doc, "form") {
		for _, b := range all(form, "button") {
			if textOf(b) != button {
				continue
			}
			values := url.Values{}
			for _, input := range all(form, "input") {
				ticked := attr(input, "type") != "checkbox" && attr(input, "type") != "radio" || has(input, "checked")
				if attr(input, "name") != "" && ticked {
					values.Add(attr(input, "name"), attr(input, "value"))
				}
			}
			for i := 0; i < len(fields); i += 2 {
				if i == 0 || fields[i] != fields[i-2] {
					values.Del(fields[i])
				}
				if fields[i+1] != "" {
					values.Add(fields[i], fields[i+1])
				}
			}
			if name := attr(b, "name"); name != "" {
				values.Set(name, attr(b, "value"))
			}
			to, err := s.url.Parse(cmp.Or(attr(b, "formaction"), attr(form, "action")))
			must(s.v.t, err)
			if attr(form, "method") == "post" {
				return s.v.do(http.MethodPost, to.RequestURI(), values.Encode())
			}
			to.RawQuery = values.Encode()
			return s.v.do(http.MethodGet, to.RequestURI(), "")
		}
	}
	s.v.t.Fatalf("%s has no button %q: %.1500s", s.url, button, textOf(s.doc))
	return nil
}

// operatorAndViewer have accounts as ann and vic.
func operatorAndViewer() access.Config {
	return access.Config{Accounts: []access.Account{person("ann", access.Operator), person("vic", access.Viewer)}}
}

func person(name string, role access.Role) access.Account {
	return access.Account{Name: name, Hash: access.NewHash("a password of " + name), Role: role}
}

// signIn returns a visitor who has signed in with the name of a person.
func (o *office) signIn(name string) *visitor {
	o.t.Helper()
	v := o.visitor()
	v.do(http.MethodGet, "/", "").send("Sign in", "name", name, "password", "a password of "+name).is(200).says(name)
	return v
}
