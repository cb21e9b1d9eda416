package access

import (
	"fmt"
	"net/http"
	"runtime/debug"
)

// begun is an answer that knows whether any of it is on its way.
type begun struct {
	http.ResponseWriter
	yes bool
}

func (b *begun) WriteHeader(status int) {
	b.yes = b.yes || status >= 200
	b.ResponseWriter.WriteHeader(status)
}

func (b *begun) Write(p []byte) (int, error) {
	b.yes = true
	return b.ResponseWriter.Write(p)
}

// Unwrap is for http.ResponseController, which flushes events and sets deadlines.
func (b *begun) Unwrap() http.ResponseWriter { return b.ResponseWriter }

// contain keeps a panic to the request that caused it: a page says so, and the log
// has the stack. An answer that has begun breaks off, so that nobody takes a part
// for the whole. http.ErrAbortHandler is no defect, but how a handler breaks off.
func (a *Access) contain(w *begun, r *http.Request) {
	p := recover()
	if p == nil {
		return
	}
	if p == http.ErrAbortHandler {
		panic(p)
	}
	// The value may quote input; its type and our stack say enough.
	a.cfg.Log.Error().Str("panic", fmt.Sprintf("%T", p)).Str("stack", string(debug.Stack())).
		Str("method", shown(r.Method, 20)).Str("path", shown(r.URL.Path, maxReason)).Msg("a defect: answering a request panicked; please report it with the stack")
	if w.yes {
		panic(http.ErrAbortHandler)
	}
	for _, name := range []string{"Content-Disposition", "Content-Encoding", "Content-Length", "Location", "Set-Cookie"} {
		w.Header().Del(name)
	}
	w.Header().Set("Cache-Control", "no-store")
	a.pages.Refused(w, r, http.StatusInternalServerError, "A defect in Certpost",
		"This could not be answered, and the log says where it went wrong. If something was to be done, look whether it was before you do it again.")
}
