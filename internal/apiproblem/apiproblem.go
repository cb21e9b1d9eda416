// Package apiproblem answers programs with what is wrong, as application/problem+json (RFC 9457).
package apiproblem

import (
	"encoding/json"
	"net/http"
)

// Type is the content type of the answers.
const Type = "application/problem+json"

// details are the members of an answer. The type is about:blank, so the title is that of the status
// (RFC 9457, section 4.2.1).
type details struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	// Error is Detail once more, for clients that were written before there were problem details.
	Error string `json:"error"`
}

// Write answers with a status, and detail: what is wrong and what to do. It quotes nothing of the
// request.
func Write(w http.ResponseWriter, status int, detail string) {
	body, err := json.Marshal(details{"about:blank", http.StatusText(status), status, detail, detail})
	if err != nil { // never: these are strings and a number
		body = []byte(`{"type":"about:blank","title":"Internal Server Error","status":500}`)
	}
	w.Header().Set("Content-Type", Type)
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n'))
}
