package access

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/rs/zerolog"
)

// A panic in a handler gives an error page and a stack in the log, not a broken
// connection. A response that was partly written is aborted.
func TestDefects(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	a := door(t, func(c *Config) { c.Log = zerolog.New(&log) })
	a.Handle("GET /before", Viewer, func(w http.ResponseWriter, r *http.Request, _ Visit) {
		w.Header().Set("Content-Disposition", "attachment")
		w.Header().Set("Content-Length", "1000000")
		panic(errors.New("canary " + r.URL.Query().Get("q")))
	})
	a.Handle("GET /within", Viewer, func(w http.ResponseWriter, r *http.Request, _ Visit) {
		_, _ = w.Write([]byte("a part"))
		panic("canary " + r.URL.Query().Get("q"))
	})
	a.Handle("GET /breaks-off", Viewer, func(http.ResponseWriter, *http.Request, Visit) { panic(http.ErrAbortHandler) })
	b := as(t, a, "viewer")

	got := b.get("/before?q=canary")
	if got.Code != http.StatusInternalServerError || !strings.Contains(got.body, "A defect in Certpost") || got.Header().Get("Content-Disposition")+got.Header().Get("Content-Length") != "" {
		t.Errorf("%d %v %s", got.Code, got.Header(), got.body)
	}
	if text := log.String(); strings.Count(text, "a defect: a request handler panicked") != 1 || !strings.Contains(text, "defect_test.go") || !strings.Contains(text, `"path":"/before"`) || strings.Contains(text, "canary") {
		t.Errorf("the log has %s", text)
	}
	for path, logged := range map[string]bool{"/within?q=canary": true, "/breaks-off": false} {
		log.Reset()
		func() {
			defer func() {
				if p := recover(); p != http.ErrAbortHandler {
					t.Errorf("%s: %v", path, p)
				}
			}()
			b.get(path)
			t.Errorf("%s: the response is not aborted", path)
		}()
		if (log.Len() > 0) != logged || strings.Contains(log.String(), "canary") {
			t.Errorf("%s: the log has %s", path, log.String())
		}
	}
}

// A refused user chooses the length of the URL, but the reason in the audit is limited.
func TestReasonsAreBounded(t *testing.T) {
	t.Parallel()
	var events []Event
	a := door(t, func(c *Config) { c.Record = func(_ context.Context, e Event) { events = append(events, e) } })
	b := as(t, a, "viewer")
	events = nil
	if got := b.post("/dead-letters/"+strings.Repeat("9", 60_000)+"/replay", "/", nil); got.Code != http.StatusForbidden {
		t.Fatalf("%d", got.Code)
	}
	if len(events) != 1 || len(events[0].Reason) > maxReason || !strings.HasPrefix(events[0].Reason, "POST /dead-letters/999") {
		t.Errorf("%d events, the first with a reason of %d bytes", len(events), len(events[0].Reason))
	}
}

// Flushes and deadlines reach the server's own ResponseWriter.
func TestAnswersAreUnwrapped(t *testing.T) {
	t.Parallel()
	w := httptest.NewRecorder()
	if err := http.NewResponseController(&begun{ResponseWriter: w}).Flush(); err != nil || !w.Flushed {
		t.Errorf("flushed %v: %v", w.Flushed, err)
	}
}
