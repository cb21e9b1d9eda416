package dashboard

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"github.com/certpost/certpost/internal/access"
)

// hostile are texts that an attacker may put into a certificate, an event, a reply or a
// reason. Each contains the marker by which the test finds it on the page.
var hostile = map[string]string{
	"element":      `zzmark<evil data-evil="1"></evil><script>alert(1)</script>`,
	"attribute":    `zzmark" data-evil="1" onmouseover="alert(1)`,
	"single quote": `zzmark' data-evil='1' autofocus onfocus='alert(1)`,
	"end of title": `zzmark</title></style></textarea></select></option></pre><evil data-evil="1">`,
	"comment":      `zzmark--><evil data-evil="1"><!--`,
	"address":      `javascript:alert("zzmark")`,
	"data address": `data:text/html,zzmark<evil>`,
	"template":     `zzmark{{.}}{{template "main"}}`,
	"bidi":         "zzmark\u202egpj.exe\u2066\u2069\u200f",
	"control":      "zzmark\x00\x1b[31m\r\nSet-Cookie: x=y\x7f\u0085",
	"not UTF-8":    "zzmark\xff\xfe<evil>",
	"long":         "zzmark" + strings.Repeat("A", 10_000),
	"entity":       "zzmark&lt;evil&#62;",
}

// spoil is a copy of the value with the text in every reachable string; an empty text
// leaves the value unchanged.
func spoil[T any](v T, text string) T {
	if text == "" {
		return v
	}
	return poison(reflect.ValueOf(&v).Elem(), text).Interface().(T)
}

// poison copies a value and puts the text into every reachable string.
func poison(v reflect.Value, text string) reflect.Value {
	out := reflect.New(v.Type()).Elem()
	switch v.Kind() {
	case reflect.String:
		out.SetString(text)
	case reflect.Pointer:
		if !v.IsNil() {
			out.Set(reflect.New(v.Type().Elem()))
			out.Elem().Set(poison(v.Elem(), text))
		}
	case reflect.Interface:
		if !v.IsNil() {
			out.Set(poison(v.Elem(), text))
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			out.SetBytes([]byte(`{"id":"x","certificate":"` + strings.NewReplacer(`"`, `\"`, "\r", `\r`, "\n", `\n`).Replace(text) + `","x":` + text + `}`))
		} else if !v.IsNil() {
			out.Set(reflect.MakeSlice(v.Type(), v.Len(), v.Len()))
			for i := range v.Len() {
				out.Index(i).Set(poison(v.Index(i), text))
			}
		}
	case reflect.Map:
		out.Set(v) // its keys are constants
	case reflect.Struct:
		out.Set(v)
		if v.Type() == reflect.TypeFor[time.Time]() {
			return out
		}
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				out.Field(i).Set(poison(v.Field(i), text))
			}
		}
	default:
		out.Set(v)
	}
	return out
}

// TestHostileTexts puts each text into every field of every page. The text must create
// no element, no attribute and no link, contain no hidden characters, and be isolated in
// its writing direction.
//
// Fault: scripts in every field. Result: shown as text.
func TestHostileTexts(t *testing.T) {
	t.Parallel()
	look := newTestLook(t)
	for what, text := range hostile {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			for name, v := range views(text) {
				doc, source := show(t, look, v, access.Admin)
				harmless(t, name, doc)
				if len(source) > 1<<20 {
					t.Errorf("%s has %d bytes", name, len(source))
				}
			}
		})
	}
}

func harmless(t *testing.T, page string, doc *html.Node) {
	t.Helper()
	for n := range doc.Descendants() {
		switch n.Type {
		case html.ElementNode:
			if n.Data == "evil" || n.Data == "script" && attr(n, "src") == "" {
				t.Errorf("%s: a text created <%s>", page, n.Data)
			}
			for _, a := range n.Attr {
				if strings.HasPrefix(a.Key, "on") || a.Key == "data-evil" || a.Key == "style" {
					t.Errorf("%s: a text created <%s %s=%q>", page, n.Data, a.Key, a.Val)
				}
				if value := strings.ToLower(strings.TrimSpace(a.Val)); (a.Key == "href" || a.Key == "src" || a.Key == "action") && (strings.HasPrefix(value, "javascript:") || strings.HasPrefix(value, "data:")) {
					t.Errorf("%s: <%s %s=%q>", page, n.Data, a.Key, a.Val)
				}
			}
		case html.TextNode:
			if strings.ContainsAny(n.Data, "\u202e\u2066\u2069\u200f\x00\x1b\x7f\u0085") {
				t.Errorf("%s shows hidden characters: %.80q", page, n.Data)
			}
			if strings.Contains(n.Data, "zzmark") && !within(n, "bdi", "option", "title") {
				t.Errorf("%s: an untrusted text is not isolated, in <%s>: %.60q", page, n.Parent.Data, n.Data)
			}
		case html.CommentNode:
			t.Errorf("%s has a comment: %.60q", page, n.Data)
		}
	}
}

func within(n *html.Node, names ...string) bool {
	for p := range n.Ancestors() {
		for _, name := range names {
			if p.Data == name {
				return true
			}
		}
	}
	return false
}

// Names that imitate other names by mixing scripts are marked on the page.
//
// Fault: internationalized names. Result: mixed scripts are marked.
func TestMixedScriptsAreMarked(t *testing.T) {
	t.Parallel()
	v := views("")["letter"]
	_, text := show(t, newTestLook(t), v, access.Viewer)
	if !strings.Contains(text, "mixes Cyrillic and Latin letters") || !strings.Contains(text, "xn--pypal-4ve.com") {
		t.Error("the letter's page does not say that a name of its certificate mixes scripts")
	}
}
