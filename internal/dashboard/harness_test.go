package dashboard

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/net/html"

	"github.com/certpost/certpost/internal/access"
)

// noon is the current time of the tests' pages.
var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func newTestLook(t testing.TB) *Look {
	t.Helper()
	return NewLook("test", zerolog.New(zerolog.NewTestWriter(t)))
}

// show renders a view for a role and parses the result.
func show(t testing.TB, l *Look, v view, role access.Role) (*html.Node, string) {
	t.Helper()
	f := frame{Title: v.title, Here: "/here", Now: noon, Scheme: "system", Keys: "on", Times: "local", About: "Certpost test", Data: v.data,
		Who: newWho(access.Visit{User: access.User{Name: "ann", Role: role}, Token: "token-of-the-form", SignedIn: true})}
	var text bytes.Buffer
	if err := l.execute(&text, v, f); err != nil {
		t.Fatalf("%s: %v", v.template, err)
	}
	doc, err := html.Parse(bytes.NewReader(text.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	return doc, text.String()
}

// all returns the elements of a document that have one of the names, or all elements if
// no name is given, in document order.
func all(doc *html.Node, names ...string) []*html.Node {
	var found []*html.Node
	for n := range doc.Descendants() {
		if n.Type == html.ElementNode && (len(names) == 0 || slices.Contains(names, n.Data)) {
			found = append(found, n)
		}
	}
	return found
}

// attr is the value of an attribute, "" when it is absent.
func attr(n *html.Node, name string) string {
	for _, a := range n.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
}

// textOf is the text below a node, with single spaces.
func textOf(n *html.Node) string {
	var b strings.Builder
	for d := range n.Descendants() {
		if d.Type == html.TextNode {
			b.WriteString(d.Data + " ")
		}
	}
	return strings.Join(strings.Fields(b.String()), " ")
}
