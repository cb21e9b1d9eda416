package access

import (
	"net/url"
	"strings"
	"testing"
)

func TestLocalPath(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"/": "/", "/dead-letters/7": "/dead-letters/7", "/dead-letters?code=SMTP_AUTH&x=%2F": "/dead-letters?code=SMTP_AUTH&x=%2F",
		"/a#fragment": "/a", "/a?b=c#d": "/a?b=c", "/a%20b": "/a%20b", "/deliveries/x/https:%2F%2Fy": "/deliveries/x/https:%2F%2Fy",
		"": "/", "x": "/", "https://evil.example": "/", "//evil.example": "/", "///evil.example": "/", `/\evil.example`: "/", `\\evil.example`: "/",
		"/\t/evil.example": "/", "/\n/evil.example": "/", " /x": "/", "/x y": "/", "javascript:alert(1)": "/", "/%2f/evil.example": "/", "/%2Fevil.example": "/",
		"/./x": "/", "/../x": "/", "/a/..//evil.example": "/", "/%2e%2e/x": "/", "/sign-in": "/", "/sign-in?return=/x": "/", "/sign-in/callback?code=x": "/", "/sign-out": "/",
		// What is encoded stays in the path, where browsers do not decode it.
		"/%09/evil.example": "/%09/evil.example", "/%5C%5Cevil.example": "/%5C%5Cevil.example", "/%0d%0aLocation:%20x": "/%0d%0aLocation:%20x", "/%252f/x": "/%252f/x",
		"/?return=//evil.example": "/?return=//evil.example", "/@evil.example": "/@evil.example", "/;//evil.example": "/;//evil.example", "/x/..%2f..%2fy": "/",
		"https:evil.example": "/", "https:/evil.example": "/", "\thttps://evil.example": "/", "/\r\nLocation: x": "/", "\\/evil.example": "/", "/\v/evil.example": "/", "/\x7f": "/", "//": "/", "/%2f": "/",
		"/sign-ins": "/sign-ins", "/é": "/", "/%zz": "/", "/\x00": "/", "/" + strings.Repeat("x", maxPath): "/", "/x\u2028y": "/", "http:/evil.example": "/",
	} {
		if got := LocalPath(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

func FuzzLocalPath(f *testing.F) {
	for _, text := range []string{"/", "/x?y=z", "//evil.example", `/\evil.example`, "/%2f%2fevil.example", "/a/../b", "/\t/x", "https://evil.example/", "/;@evil.example", "/?#"} {
		f.Add(text)
	}
	base := &url.URL{Scheme: "https", Host: "certpost.example.com", Path: "/sign-in"}
	f.Fuzz(func(t *testing.T, text string) {
		got := LocalPath(text)
		if !strings.HasPrefix(got, "/") || strings.HasPrefix(got, "//") || strings.ContainsAny(got, "\\\t\r\n #") {
			t.Fatalf("%q gives %q", text, got)
		}
		u, err := base.Parse(got)
		if err != nil || u.Host != base.Host || u.Scheme != base.Scheme || u.User != nil {
			t.Fatalf("%q gives %q, which leads to %v (%v)", text, got, u, err)
		}
		if LocalPath(got) != got {
			t.Errorf("%q gives %q, which gives %q", text, got, LocalPath(got))
		}
	})
}
