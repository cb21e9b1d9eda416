package dashboard

import (
	"bufio"
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/access"
	"github.com/certpost/certpost/internal/desk"
)

// stream opens the event stream. The channel gets its lines and is closed at its end.
func (v *visitor) stream(ctx context.Context) (status int, lines <-chan string) {
	v.t.Helper()
	return v.streamSince(ctx, "")
}

// streamSince is stream for a page that was rendered at a mark of the desk.
func (v *visitor) streamSince(ctx context.Context, mark string) (status int, lines <-chan string) {
	v.t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, v.base+"/events?since="+mark, nil)
	must(v.t, err)
	req.Header.Set("Accept", "text/event-stream")
	req.Header.Set("Accept-Encoding", "gzip")
	req.Header.Set("Sec-Fetch-Site", "same-origin")
	answer, err := v.client.Do(req)
	must(v.t, err)
	if answer.StatusCode != http.StatusOK || answer.Header.Get("Content-Type") != "text/event-stream" || answer.Header.Get("Content-Encoding") != "" {
		answer.Body.Close()
		return answer.StatusCode, nil
	}
	all := make(chan string, 100)
	go func() {
		defer close(all)
		defer answer.Body.Close()
		for scanner := bufio.NewScanner(answer.Body); scanner.Scan(); {
			all <- scanner.Text()
		}
	}()
	return answer.StatusCode, all
}

// awaits reads a stream until the wanted line arrives; false when the stream ends first.
func awaits(t *testing.T, lines <-chan string, want string) bool {
	t.Helper()
	late := time.After(20 * time.Second)
	for {
		select {
		case line, open := <-lines:
			if !open {
				return false
			}
			if line == want {
				return true
			}
		case <-late:
			t.Fatalf("%q did not arrive", want)
		}
	}
}

func TestEventsSayWhatIsOutOfDate(t *testing.T) {
	t.Parallel()
	o := openOffice(t, officeConfig{})
	status, lines := o.visitor().stream(t.Context())
	if status != http.StatusOK || !awaits(t, lines, "retry: 5000") {
		t.Fatalf("stream: status %d", status)
	}
	o.dies("a.example.com")
	if !awaits(t, lines, "event: letters") {
		t.Error("the stream ended before the event")
	}
}

// Changes between the rendering of a page and its stream are sent when the stream opens.
func TestEventsTellWhatWasMissed(t *testing.T) {
	t.Parallel()
	o := openOffice(t, officeConfig{})
	mark := o.desk.Mark()
	o.dies("a.example.com")
	for deadline := time.Now().Add(20 * time.Second); o.desk.Mark() == mark; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("a new letter did not change the desk's mark")
		}
	}
	_, lines := o.visitor().streamSince(t.Context(), mark)
	for _, name := range []string{"letters", "runs", "lanes", "audit"} {
		if !awaits(t, lines, "event: "+name) {
			t.Errorf("%s: the stream ended before the event", name)
		}
	}
}

// Streams beyond the limit are refused, and a stream that ends frees its place.
//
// Fault: endless streams. Result: sessions and streams are limited in number.
func TestStreamsAreLimited(t *testing.T) {
	t.Parallel()
	o := openOffice(t, officeConfig{})
	v := o.visitor()
	var ends []context.CancelFunc
	for range streamsOfUser {
		ctx, end := context.WithCancel(t.Context())
		ends = append(ends, end)
		status, lines := v.stream(ctx)
		if status != http.StatusOK || !awaits(t, lines, "retry: 5000") {
			t.Fatalf("stream %d: status %d", len(ends), status)
		}
	}
	if status, _ := v.stream(t.Context()); status != http.StatusTooManyRequests {
		t.Errorf("one stream above the limit: status %d", status)
	}
	v.opens("/dead-letters")
	ends[0]()
	o.until("a stream is accepted again", func() bool {
		ctx, end := context.WithCancel(t.Context())
		defer end()
		status, _ := v.stream(ctx)
		return status == http.StatusOK
	})
	for _, end := range ends {
		end()
	}
}

func TestStreamsAreCounted(t *testing.T) {
	t.Parallel()
	l := newLive(streamsOfUser, streamsInAll)
	for i := range streamsInAll {
		if !l.enter(string(rune('a' + i/streamsOfUser))) {
			t.Fatalf("stream %d is refused", i)
		}
	}
	if l.enter("another") {
		t.Error("the total limit is not enforced")
	}
	l.leave("a")
	if !l.enter("another") {
		t.Error("leave does not free a place")
	}
}

// The stream needs a session and ends with it.
func TestStreamEndsWithTheSession(t *testing.T) {
	t.Parallel()
	o := openOffice(t, officeConfig{access: access.Config{Accounts: []access.Account{{Name: "ann", Hash: access.NewHash("a password of ann"), Role: access.Viewer}}}})
	v := o.visitor()
	if status, _ := v.stream(t.Context()); status != http.StatusUnauthorized {
		t.Errorf("stream without a session: status %d", status)
	}
	page := v.do(http.MethodGet, "/dead-letters", "").is(200).says("Sign in").send("Sign in", "name", "ann", "password", "a password of ann").is(200).says("No open dead letters")
	status, lines := v.stream(t.Context())
	if status != http.StatusOK || !awaits(t, lines, "retry: 5000") {
		t.Fatalf("stream: status %d", status)
	}
	page.send("Sign out")
	if awaits(t, lines, "nothing") {
		t.Error("the stream continues after the session has ended")
	}
}

func TestNamesOfEvents(t *testing.T) {
	t.Parallel()
	if got := eventsOf(desk.Change{Letters: true, Audit: true, Newer: 3}, 12); got != "event: letters\ndata: 3\n\nevent: audit\ndata: 3\n\nevent: count\ndata: 12\n\n" || strings.Contains(got, "runs") {
		t.Errorf("%q", got)
	}
	if got := eventsOf(desk.Change{}, 12); got != "" {
		t.Errorf("%q for nothing", got)
	}
}
