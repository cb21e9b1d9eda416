package dashboard

import (
	"compress/gzip"
	"encoding/csv"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/desk"
)

// TestPagesOfALivingOffice walks through the lists as a browser without scripts does.
func TestPagesOfALivingOffice(t *testing.T) {
	t.Parallel()
	o := openOffice(t, officeConfig{})
	v := o.visitor()
	v.opens("/dead-letters").says("No open dead letters")
	o.dies("a.example.com", "b.example.com", "xn--pypal-4ve.com")

	list := v.opens("/dead-letters").says("3 open letters", "a.example.com", "mixes Cyrillic and Latin letters", "not sent")
	list.send("Search", "name", "a.example.com").is(200).says("1 open letter", "name a.example.com").follow("name a.example.com").is(200).says("3 open letters")
	v.opens("/dead-letters?name=a.example.com&code=SMTP_PERMANENT&q=%26").follow("code SMTP_PERMANENT").is(200).says("name a.example.com", "text &")
	v.opens("/deliveries?target=ops&state=sent").follow("state sent").is(200).says("target ops")
	v.opens("/audit?target=ops&by=ann").follow("by ann").is(200).says("target ops")
	v.opens("/dead-letters?q=nothing-has-this").says("No matching dead letters")
	group := list.follow("By cause").is(200).says("SMTP_PERMANENT", "3 letters").follow("Review").is(200).says("Newest letter", "answered 550 5.1.1 to RCPT TO")
	sound(t, "group", group.doc, false)
	for page, want := range map[string]string{"/": "Overview: 3 dead letters · Certpost", "/dead-letters?name=a.example.com": "1 dead letter · Certpost", "/dead-letters?view=groups": "3 dead letters by cause · Certpost"} {
		if got := textOf(all(v.opens(page).doc, "title")[0]); got != want {
			t.Errorf("%s is titled %q, want %q", page, got, want)
		}
	}
	if got := textOf(all(group.doc, "title")[0]); !strings.HasPrefix(got, "3 dead letters: ") {
		t.Errorf("the cause is titled %q", got)
	}
	if first := v.opens("/dead-letters?size=2").follow("Next page").is(200); !strings.Contains(textOf(first.doc), "1 of 3 letters") {
		t.Error("the second page does not show exactly the last letter")
	}
	v.do(http.MethodGet, "/dead-letters?from=yesterday", "").is(400).says("Invalid request", "want a date")
	v.do(http.MethodGet, "/dead-letters/groups/none", "").is(404).says("Not found")
	v.do(http.MethodGet, "/nowhere", "").is(404).says("Page not found")

	since := v.do(http.MethodGet, "/dead-letters/news?newer_than=2", "").is(200)
	if got := textOf(since.doc); got != "1 new, show" {
		t.Errorf("news after letter 2: %q", got)
	}
}

// Each list has the same content in every format, requested by suffix or by Accept.
func TestFormats(t *testing.T) {
	t.Parallel()
	o := openOffice(t, officeConfig{})
	o.dies("a.example.com", "b.example.com")
	v := o.visitor()
	for _, s := range []*sheet{v.do(http.MethodGet, "/dead-letters.json", ""), v.do(http.MethodGet, "/dead-letters", "", "Accept", "application/json")} {
		var letters []desk.Letter
		if err := json.Unmarshal([]byte(s.body), &letters); err != nil || len(letters) != 2 || letters[0].Certificate == nil {
			t.Errorf("%s: %v, %+v", s.body, err, letters)
		}
	}
	for _, s := range []*sheet{v.do(http.MethodGet, "/dead-letters.csv?name=a.example.com", ""), v.do(http.MethodGet, "/dead-letters?name=a.example.com", "", "Accept", "text/csv")} {
		rows, err := csv.NewReader(strings.NewReader(s.body)).ReadAll()
		if err != nil || len(rows) != 2 || rows[1][5] != "SMTP_PERMANENT" || rows[1][14] != "a.example.com" {
			t.Errorf("%q: %v", s.body, err)
		}
	}
	for _, path := range []string{"/dead-letters.csv?code=FOO", "/deliveries.csv?state=FOO", "/audit.csv?action=FOO", "/replays.csv?state=FOO"} {
		s := v.do(http.MethodGet, path, "").is(http.StatusBadRequest).says("unknown value \"FOO\"")
		if kind := s.header.Get("Content-Type"); !strings.HasPrefix(kind, "text/plain") {
			t.Errorf("%s: a refusal as %s, want text/plain", path, kind)
		}
	}
	for _, path := range []string{"/deliveries?state=FOO", "/audit?action=FOO", "/replays?state=FOO"} {
		list, _, _ := strings.Cut(path, "?")
		if s := v.do(http.MethodGet, path, "").is(http.StatusBadRequest); !strings.Contains(s.body, `<a class="button" href="`+list+`"`) {
			t.Errorf("%s does not lead back to %s:\n%s", path, list, s.body)
		}
	}
	var groups []desk.Group
	if s := v.do(http.MethodGet, "/dead-letters.json?view=groups", ""); json.Unmarshal([]byte(s.body), &groups) != nil || len(groups) != 1 || groups[0].Count != 2 {
		t.Errorf("%s", s.body)
	}
	list := v.opens("/dead-letters?code=SMTP_PERMANENT")
	if s := list.follow("CSV"); s.header.Get("Content-Type") != "text/csv; charset=utf-8; header=present" || strings.Count(s.body, "\n") != 3 {
		t.Errorf("the CSV link leads to %s: %q", s.url, s.body)
	}
}

// A compressed page has the same content as an uncompressed one, and all responses have
// the security headers.
func TestHeadersAndPacking(t *testing.T) {
	t.Parallel()
	o := openOffice(t, officeConfig{})
	v := o.visitor()
	plain := v.opens("/dead-letters")
	for name, want := range map[string]string{
		"Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
		"X-Content-Type-Options":  "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store", "Content-Type": "text/html; charset=utf-8",
	} {
		if got := plain.header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	packed := v.do(http.MethodGet, "/dead-letters", "", "Accept-Encoding", "gzip")
	if packed.header.Get("Content-Encoding") != "gzip" || packed.header.Get("Content-Length") != "" && len(packed.body) > len(plain.body) {
		t.Fatalf("the page is not compressed: %v", packed.header)
	}
	z, err := gzip.NewReader(strings.NewReader(packed.body))
	must(t, err)
	text, err := io.ReadAll(z)
	must(t, err)
	if !strings.Contains(string(text), "No open dead letters") {
		t.Error("the compressed content is not the page")
	}
	if s := v.do(http.MethodGet, "/dead-letters", "", "Accept-Encoding", "gzip;q=0, br"); s.header.Get("Content-Encoding") != "" {
		t.Error("the page is compressed for a client that does not accept gzip")
	}
	for _, tag := range all(plain.doc, "link", "script", "img") {
		path := attr(tag, "href") + attr(tag, "src")
		s := v.do(http.MethodGet, path, "")
		if s.status != 200 || !strings.Contains(s.header.Get("Cache-Control"), "immutable") || s.header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: status %d, headers %v", path, s.status, s.header)
		}
		again := v.do(http.MethodGet, path, "", "Accept-Encoding", "gzip")
		if again.header.Get("Content-Encoding") != "gzip" && len(s.body) >= 1024 { // gzip does not make smaller ones smaller
			t.Errorf("%s is not compressed", path)
		}
	}
	v.do(http.MethodGet, "/static/app.css", "").is(404)
}
