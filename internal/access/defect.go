package access

import (
	"fmt"
	"net/http"
	"runtime/debug"

	"github.com/certpost/certpost/internal/apiproblem"
)

// begun is a ResponseWriter that knows whether a part of the response was written.
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

// Unwrap lets http.ResponseController flush events and set deadlines.
func (b *begun) Unwrap() http.ResponseWriter { return b.ResponseWriter }

// contain limits a panic to its request: the client gets an error page, and the log the
// stack. If a part of the response was written already, the connection is aborted, so
// that the client does not take that part for the whole. http.ErrAbortHandler is not a
// defect: handlers abort with it.
func (a *Access) contain(w *begun, r *http.Request) {
	p := recover()
	if p == nil {
		return
	}
	if p == http.ErrAbortHandler {
		panic(p)
	}
	// The value may quote input; its type and the stack are enough.
	a.cfg.Log.Error().Str("panic", fmt.Sprintf("%T", p)).Str("stack", string(debug.Stack())).
		Str("method", shown(r.Method, 20)).Str("path", shown(r.URL.Path, maxReason)).Msg("a defect: a request handler panicked; please report it with the stack")
	if w.yes {
		panic(http.ErrAbortHandler)
	}
	for _, name := range []string{"Content-Disposition", "Content-Encoding", "Content-Length", "Location", "Set-Cookie"} {
		w.Header().Del(name)
	}
	w.Header().Set("Cache-Control", "no-store")
	if forPrograms(r.URL.Path) {
		apiproblem.Write(w, http.StatusInternalServerError, "a defect in Certpost; its log has the stack. Send the request again, with the same id")
		return
	}
	a.pages.Refused(w, r, http.StatusInternalServerError, "A defect in Certpost",
		"The request failed; the log has the stack. If it was an action, check whether it took effect before you repeat it.")
}
