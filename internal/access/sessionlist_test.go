package access

import (
	"context"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A session says who, since when and where from, where it was last used, and when it ends.
// A page that refreshes itself changes none of that.
func TestSessionsList(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := door(t, func(c *Config) { c.Idle, c.Max = time.Hour, 90*time.Minute })
		var list []Session
		a.Handle("GET /list", Viewer, func(_ http.ResponseWriter, _ *http.Request, v Visit) { list = a.Sessions(v) })
		began := time.Now()
		viewer := as(t, a, "viewer")
		time.Sleep(10 * time.Minute)
		viewer.from = "203.0.113.9:1"
		const firefox = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
		viewer.send(t.Context(), "GET", "/", nil, map[string]string{"User-Agent": firefox})
		time.Sleep(time.Minute)
		viewer.from = "192.0.2.99:1"
		viewer.send(t.Context(), "GET", "/", nil, map[string]string{"HX-Request": "true", "User-Agent": "curl/8"})
		admin := as(t, a, "admin")
		admin.get("/list")
		if len(list) != 2 || !list[0].Current || !list[0].Own || list[0].User.Name != "admin" {
			t.Fatalf("an administrator sees %+v", list)
		}
		got := list[1]
		if got.User.Name != "viewer" || got.User.Address != "198.51.100.7" || got.LastAddress != "203.0.113.9" || got.Browser != "Firefox on Linux" || got.Way != "password" || got.Own || got.Current || got.ID == "" {
			t.Errorf("the viewer's session: %+v", got)
		}
		if !got.Since.Equal(began) || !got.Seen.Equal(began.Add(10*time.Minute)) || !got.Ends.Equal(began.Add(70*time.Minute)) {
			t.Errorf("since %s, seen %s, ends %s; began %s", got.Since, got.Seen, got.Ends, began)
		}
		time.Sleep(50 * time.Minute)
		viewer.get("/list")
		if len(list) != 1 || !list[0].Current || !list[0].Ends.Equal(began.Add(90*time.Minute)) {
			t.Errorf("the viewer sees %+v", list)
		}
	})
}

// Ending a session ends its streams at once, and its next request is refused. A user ends
// only their own sessions.
//
// Fault: stolen or endless sessions. Result: sessions end.
func TestSessionsAreEnded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var events []Event
		a := door(t, func(c *Config) { c.Record = func(_ context.Context, e Event) { events = append(events, e) } })
		var visit Visit
		a.Handle("GET /visit", Viewer, func(_ http.ResponseWriter, _ *http.Request, v Visit) { visit = v })
		of := func(b *browser) Visit { b.get("/visit"); return visit }
		admin, viewer, other := as(t, a, "admin"), as(t, a, "viewer"), as(t, a, "viewer")
		id := of(viewer).session.id
		var wg sync.WaitGroup
		ended := false
		wg.Go(func() {
			viewer.send(t.Context(), "GET", "/events", nil, map[string]string{"Accept": "text/event-stream", "Sec-Fetch-Mode": "cors"})
			ended = true
		})
		synctest.Wait()
		for who, b := range map[string]*browser{"an operator": as(t, a, "operator")} {
			if _, err := a.EndSession(t.Context(), of(b), id); err != ErrNoSession {
				t.Errorf("%s ends a session of another user: %v", who, err)
			}
		}
		if n := len(a.EndOtherSessions(t.Context(), of(admin))); n != 0 || ended {
			t.Errorf("ending one's own other sessions ended %d", n)
		}
		if got, err := a.EndSession(t.Context(), of(admin), id); err != nil || got.User.Name != "viewer" {
			t.Fatalf("%+v, %v", got, err)
		}
		synctest.Wait()
		if !ended {
			t.Error("the stream of the ended session goes on")
		}
		wg.Wait()
		if got := viewer.get("/"); got.Code != http.StatusSeeOther {
			t.Errorf("the ended session: %d", got.Code)
		}
		if got := other.get("/"); got.Code != http.StatusOK {
			t.Errorf("the user's other session: %d", got.Code)
		}
		if _, err := a.EndSession(t.Context(), of(admin), id); err != ErrNoSession {
			t.Errorf("ending it again: %v", err)
		}
		last := events[len(events)-1]
		if last.Kind != SignedOut || last.User.Name != "admin" || last.Way != "password" || last.Reason != "session of viewer, signed in 2000-01-01 00:00:00 UTC from 198.51.100.7" {
			t.Errorf("recorded: %+v", last)
		}
		if n := len(a.Sessions(Visit{User: User{Role: Admin}})); n != 0 {
			t.Errorf("without a session an administrator of this machine sees %d", n)
		}
	})
}

func TestBrowserFamily(t *testing.T) {
	t.Parallel()
	for agent, want := range map[string]string{
		"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0":                                                                  "Firefox on Linux",
		"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36":                         "Chrome on Windows",
		"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36 Edg/140.0.0.0":           "Edge on Windows",
		"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36 OPR/125.0.0.0":                     "Opera on Linux",
		"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.0 Safari/605.1.15":                   "Safari on macOS",
		"Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.0 Mobile/15E148 Safari/604.1": "Safari on iOS",
		"Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) CriOS/140.0 Mobile/15E148 Safari/604.1":  "Chrome on iOS",
		"Mozilla/5.0 (Linux; Android 15) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Mobile Safari/537.36":                            "Chrome on Android",
		"curl/8.14.1":               "curl",
		"Go-http-client/1.1":        "a Go program",
		"":                          "",
		"<script>alert(1)</script>": "",
		"Linux; anything\r\n":       "",
	} {
		if got := browserFamily(agent); got != want {
			t.Errorf("%q: %q, want %q", agent, got, want)
		}
	}
}
