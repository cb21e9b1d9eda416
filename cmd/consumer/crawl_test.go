package main

import (
	"cmp"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"

	"github.com/rs/zerolog"
	"golang.org/x/net/html"

	"github.com/certpost/certpost/internal/access"
	"github.com/certpost/certpost/internal/dashboard"
)

// crawler reads a whole dashboard: it follows every link, reads every list in every
// format, and submits every form that changes nothing.
type crawler struct {
	t      *testing.T
	base   *url.URL
	client *http.Client
	text   strings.Builder // of all answers, headers included
	routes *http.ServeMux
	seen   map[string]int  // of addresses without their queries: how often
	done   map[string]bool // whole addresses
	found  map[string]bool // patterns of routes
}

// variants is how many queries of one address are followed (orders, filters, pages).
const variants = 8

// crawl returns all answers of the dashboard at an address. A page that no other links
// to is an error, because its content was not searched.
func crawl(t *testing.T, address string) string {
	t.Helper()
	guard, err := access.New(access.Config{Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	dashboard.New(nil, guard, dashboard.Options{Look: dashboard.NewLook("test", zerolog.Nop())})
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	c := &crawler{t: t, base: &url.URL{Scheme: "http", Host: address, Path: "/"}, client: &http.Client{Jar: jar},
		routes: http.NewServeMux(), seen: map[string]int{}, done: map[string]bool{}, found: map[string]bool{}}
	for _, route := range guard.Routes() {
		c.routes.Handle(route.Pattern, http.NotFoundHandler())
	}
	c.open("/")
	c.open("/deliveries/confirm?action=cancel&all=yes")         // linked if something waits
	c.open("/deliveries/resend?state=sent&target=keys&all=yes") // from the boxes of the list
	for _, route := range guard.Routes() {
		method, path, _ := strings.Cut(route.Pattern, " ")
		looks := method == http.MethodGet && path != "/events" && route.Kind == access.Page || strings.HasSuffix(path, "/preflight") || strings.HasSuffix(path, "/check") || strings.HasSuffix(path, "/edit")
		if looks && !c.found[route.Pattern] {
			t.Errorf("no page links to %s, so its content was not searched", route.Pattern)
		}
	}
	t.Logf("%d addresses of the dashboard were read", len(c.done))
	return c.text.String()
}

// open reads a page and the pages that it links to.
func (c *crawler) open(reference string) {
	c.t.Helper()
	to, err := c.base.Parse(reference)
	if err != nil {
		c.t.Errorf("the address %q: %v", reference, err)
		return
	}
	if to.Fragment = ""; to.Host != c.base.Host || c.done[to.String()] || c.seen[to.Path] >= variants {
		return
	}
	c.done[to.String()] = true
	c.seen[to.Path]++
	c.send(http.MethodGet, to, "")
}

func (c *crawler) send(method string, to *url.URL, form string) {
	c.t.Helper()
	req, err := http.NewRequestWithContext(c.t.Context(), method, to.String(), strings.NewReader(form))
	if err != nil {
		c.t.Fatal(err)
	}
	req.Header.Set("Accept", "text/html")
	req.Header.Set("Sec-Fetch-Site", "same-origin")
	req.Header.Set("Sec-Fetch-Mode", "navigate")
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := c.client.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode >= 400 && resp.StatusCode != http.StatusUnprocessableEntity {
		c.t.Errorf("%s %s: %s: %v", method, to, resp.Status, err)
	}
	fmt.Fprintf(&c.text, "%s %s %v\n%s\n", method, to, resp.Header, body)
	bare := *req
	bare.URL = &url.URL{Path: cmp.Or(strings.TrimSuffix(strings.TrimSuffix(to.Path, ".json"), ".csv"), "/")}
	if _, pattern := c.routes.Handler(&bare); pattern != "" {
		c.found[pattern] = true
	}
	if !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html") {
		return
	}
	doc, err := html.Parse(strings.NewReader(string(body)))
	if err != nil {
		c.t.Fatal(err)
	}
	for n := range doc.Descendants() {
		if n.Type != html.ElementNode {
			continue
		}
		for _, a := range n.Attr {
			if a.Key == "href" && (n.Data != "link" || strings.HasPrefix(a.Val, "/icon/")) || a.Key == "hx-get" || a.Key == "src" && n.Data == "iframe" {
				c.open(a.Val)
			}
		}
		if n.Data == "form" {
			c.press(to, n, method)
		}
	}
}

// press submits a form if it changes nothing.
func (c *crawler) press(page *url.URL, form *html.Node, before string) {
	c.t.Helper()
	attr := func(n *html.Node, name string) string {
		for _, a := range n.Attr {
			if a.Key == name {
				return a.Val
			}
		}
		return ""
	}
	if attr(form, "method") != "post" || before == http.MethodPost {
		return
	}
	values := url.Values{}
	for n := range form.Descendants() {
		if n.Type == html.ElementNode && n.Data == "input" && attr(n, "name") != "" {
			values.Set(attr(n, "name"), attr(n, "value"))
		}
		if n.Type == html.ElementNode && n.Data == "option" && !values.Has("target") {
			values.Set("target", attr(n, "value"))
		}
	}
	addresses := []string{attr(form, "action")}
	for n := range form.Descendants() {
		if address := attr(n, "formaction"); n.Type == html.ElementNode && n.Data == "button" && address != "" {
			addresses = append(addresses, address)
		}
	}
	for _, address := range addresses {
		to, err := page.Parse(address)
		if err != nil {
			c.t.Fatal(err)
		}
		switch to.Path[strings.LastIndexByte(to.Path, '/')+1:] {
		case "edit":
			values.Set("reason", "to see what would change")
		case "preflight", "check":
		default:
			continue
		}
		c.send(http.MethodPost, to, values.Encode())
	}
}
