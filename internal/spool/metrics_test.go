package spool

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/certpost/certpost/internal/lab"
)

func scraped(t *testing.T, s *Spool) string {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(s)
	w := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	return w.Body.String()
}

// The numbers of a spool are those of its State, before its first use, while events wait, and when
// it cannot be read.
func TestMetrics(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "spool")
	s := New(dir, someLimits)
	for _, want := range []string{"certpost_spool_readable 1", `certpost_spool_events{state="waiting"} 0`, "certpost_spool_oldest_timestamp_seconds 0"} {
		if text := scraped(t, s); !strings.Contains(text, want+"\n") {
			t.Errorf("before its first use, no %s:\n%s", want, text)
		}
	}
	before := time.Now().Truncate(time.Microsecond)
	add(t, s, entry("a1", "a"))
	add(t, s, entry("bad", "b"))
	r := &receiver{fail: func(id string) error {
		if id == "bad" {
			return &Refusal{os.ErrInvalid}
		}
		return os.ErrDeadlineExceeded
	}}
	r.flush(t, s)
	held, err := s.Held()
	state, stateErr := s.State()
	if err != nil || stateErr != nil || held.Waiting != state.Waiting || held.Waiting != 1 || held.Refused != len(state.Refused) || held.Refused != 1 || held.Bytes < state.Bytes {
		t.Errorf("%+v, %+v, %v, %v", held, state, err, stateErr)
	}
	if held.Oldest.Before(before) || held.Oldest.After(time.Now()) {
		t.Errorf("the oldest is of %s, want after %s", held.Oldest, before)
	}
	text := scraped(t, s)
	for _, want := range []string{`certpost_spool_events{state="waiting"} 1`, `certpost_spool_events{state="refused"} 1`} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("no %s:\n%s", want, text)
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	lab.Write(t, file, nil)
	if text := scraped(t, New(file, someLimits)); !strings.Contains(text, "certpost_spool_readable 0\n") || strings.Contains(text, "certpost_spool_events") {
		t.Errorf("a spool that is no directory:\n%s", text)
	}
}
