package dashboard

import (
	"compress/gzip"
	"net/http"
	"strings"
	"sync"
)

// compressed compresses HTML, JSON and CSV responses with gzip. Responses that are
// compressed already, and event streams, which must be sent at once, are not changed.
//
// Compressing a page that holds both a secret and text chosen by an attacker can reveal
// the secret through the length of the page (BREACH). The only secret in a page is the
// token of its forms, which package access masks differently each time.
func compressed(next http.Handler) http.Handler {
	packers := &sync.Pool{New: func() any {
		z, _ := gzip.NewWriterLevel(nil, 5) // a valid level
		return z
	}}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !acceptsGzip(r) || r.Method == http.MethodHead {
			next.ServeHTTP(w, r)
			return
		}
		p := &packer{ResponseWriter: w, packers: packers}
		defer p.close()
		next.ServeHTTP(p, r)
	})
}

func acceptsGzip(r *http.Request) bool {
	for coding := range strings.SplitSeq(r.Header.Get("Accept-Encoding"), ",") {
		name, weight, _ := strings.Cut(strings.TrimSpace(coding), ";")
		if name == "gzip" {
			return strings.ReplaceAll(weight, " ", "") != "q=0"
		}
	}
	return false
}

// packer compresses a response if its headers say that its type is worth it.
type packer struct {
	http.ResponseWriter
	packers *sync.Pool
	decided bool
	z       *gzip.Writer // nil: the response is not compressed
}

func (p *packer) WriteHeader(status int) {
	if h := p.Header(); !p.decided {
		p.decided = true
		kind, _, _ := strings.Cut(h.Get("Content-Type"), ";")
		packable := kind == "text/html" || kind == "application/json" || kind == "text/csv"
		if packable && h.Get("Content-Encoding") == "" && status != http.StatusNoContent {
			h.Set("Content-Encoding", "gzip")
			h.Del("Content-Length")
			p.z = p.packers.Get().(*gzip.Writer)
			p.z.Reset(p.ResponseWriter)
		}
	}
	p.ResponseWriter.WriteHeader(status)
}

func (p *packer) Write(b []byte) (int, error) {
	if !p.decided {
		p.WriteHeader(http.StatusOK)
	}
	if p.z == nil {
		return p.ResponseWriter.Write(b)
	}
	return p.z.Write(b)
}

// Unwrap lets http.ResponseController flush events and set deadlines.
func (p *packer) Unwrap() http.ResponseWriter { return p.ResponseWriter }

func (p *packer) close() {
	if p.z != nil {
		_ = p.z.Close() // the client may have closed the connection
		p.packers.Put(p.z)
		p.z = nil
	}
}
