package dashboard

import (
	"net/http"

	"github.com/klauspost/compress/gzhttp"
)

// compressed compresses pages, their files, JSON and CSV with gzip. Event streams, which
// must be sent at once, are not changed.
//
// Compressing a page that holds both a secret and text chosen by an attacker can reveal
// the secret through the length of the page (BREACH). The only secret in a page is the
// token of its forms, which package access masks differently each time.
func compressed(next http.Handler) http.Handler {
	// zstd is off: an encoder keeps megabytes, and the pages are small.
	wrap, err := gzhttp.NewWrapper(gzhttp.EnableZstd(false), gzhttp.CompressionLevel(5),
		gzhttp.ContentTypes([]string{"text/html", "text/css", "text/javascript", "image/svg+xml", "text/plain", "text/csv", "application/json"}))
	if err != nil {
		panic(err) // the options are constants
	}
	return wrap(next)
}
