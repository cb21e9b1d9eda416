package dashboard

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
)

// Requests that no browser sends are answered without a panic; otherwise anyone who can
// reach the port could fill the log with stack traces.
func TestOddRequestsAreAnswered(t *testing.T) {
	t.Parallel()
	o := openOffice(t, officeConfig{})
	host := strings.TrimPrefix(o.url, "http://")
	for line, want := range map[string]int{
		"CONNECT example.com:443":                        421,
		"CONNECT /":                                      405,
		"POST http://localhost":                          404, // without a path
		"GET http://localhost":                           307,
		"DELETE http://localhost/":                       405,
		"GET *":                                          404,
		"GET //evil.example/":                            404,
		"GET /%2e%2e/%2e%2e/":                            404,
		"GET /.json.csv":                                 404,
		"GET /.csv.json":                                 404,
		"GET /dead-letters%2f1.json":                     404, // not /dead-letters/1
		"GET /dead-letters/18446744073709551616":         404,
		"GET /dead-letters/-1":                           404,
		"GET /deliveries/*/a":                            404,
		"GET /deliveries/ops/%3E":                        404,
		"GET /replays/%00":                               404,
		"GET /targets?after=18446744073709551615":        200,
		"GET /dead-letters?size=-9&after=99":             200,
		"GET /dead-letters/news?newer_than=1&order=none": 400,
		"TRACE /":                                        405,
	} {
		c, err := net.Dial("tcp", host)
		must(t, err)
		fmt.Fprintf(c, "%s HTTP/1.1\r\nHost: localhost\r\nAccept: text/html\r\nConnection: close\r\n\r\n", line)
		method, _, _ := strings.Cut(line, " ")
		answer, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
		switch {
		case err != nil:
			t.Errorf("%s: %v", line, err)
		case answer.StatusCode != want:
			t.Errorf("%s: status %s (%s), want %d", line, answer.Status, answer.Header.Get("Location"), want)
		}
		c.Close()
	}
}

// The response to a form has an address that accepts only POST: no link on it leads
// there, and forms on it return to the page with the form.
func TestPagesThatFormsMake(t *testing.T) {
	t.Parallel()
	o := openOffice(t, officeConfig{})
	o.dies("a.example.com")
	for path, button := range map[string]string{"/dead-letters/1": "Preflight", "/targets/ops": "Check now"} {
		page := o.visitor().opens(path).send(button).is(200)
		for _, a := range all(page.doc, "a") {
			if to, err := page.url.Parse(attr(a, "href")); err != nil || strings.HasPrefix(to.Path, page.url.Path) && !strings.HasPrefix(attr(a, "href"), "#") {
				t.Errorf("%s links to %s", page.url.Path, to)
			}
		}
		if back := page.send("dark").is(200); back.url.Path != path {
			t.Errorf("the colour buttons on %s lead to %s", page.url.Path, back.url.Path)
		}
	}
}
