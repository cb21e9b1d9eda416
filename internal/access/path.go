package access

import (
	"net/url"
	"strings"
)

const maxPath = 2048

// LocalPath returns a path and query of this site that is safe to redirect to. For
// everything else it returns "/": other sites, what a browser might read as another site
// (//host, /\host, a tab between two slashes), and the sign-in pages themselves.
func LocalPath(text string) string {
	const home = "/"
	if len(text) > maxPath || !strings.HasPrefix(text, "/") || strings.HasPrefix(text, "//") {
		return home
	}
	for _, c := range []byte(text) {
		if c <= ' ' || c >= 0x7f || c == '\\' {
			return home
		}
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "" || u.Opaque != "" || u.Host != "" || u.User != nil || strings.HasPrefix(u.Path, "//") {
		return home
	}
	for segment := range strings.SplitSeq(u.Path, "/") {
		if segment == "." || segment == ".." {
			return home
		}
	}
	if u.Path == signInPath || u.Path == signOutPath || strings.HasPrefix(u.Path, signInPath+"/") {
		return home
	}
	return u.RequestURI() // without the fragment
}
