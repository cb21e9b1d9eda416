package dashboard

import (
	"compress/gzip"
	"net/http"
	"strings"
	"sync"
)

// compressed packs documents and lists. What is packed already, and events, which
// have to go out at once, are left alone.
//
// Packing a page that holds both a secret and a stranger's text can betray the
// secret by the page's length (BREACH). The one secret in a page is the token of its
// forms, which access masks anew each time.
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

// packer packs an answer once its headers say that it is worth it.
type packer struct {
	http.ResponseWriter
	packers *sync.Pool
	decided bool
	z       *gzip.Writer // nil: it goes out as it is
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

// Unwrap is for http.ResponseController, which flushes events and sets deadlines.
func (p *packer) Unwrap() http.ResponseWriter { return p.ResponseWriter }

func (p *packer) close() {
	if p.z != nil {
		_ = p.z.Close() // the other side may have gone
		p.packers.Put(p.z)
		p.z = nil
	}
}
