package browser

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/chromedp"
)

// testFlood opens far more event streams than a person has pages. The program accepts
// some of them, refuses the others with a message, and serves pages as before; when the
// flood is over, the next page has live updates again.
func testFlood(t *testing.T, c *chromium) {
	o := newOffice(t, "")
	const flood = 200
	streams := openStreams(t, o.http, flood)
	open, refused := streams.count()
	if open == 0 || open > 100 || open+refused != flood {
		t.Errorf("%d of %d streams are open, %d refused: want some open and all others refused", open, flood, refused)
	}

	tb := c.tab(t, o.http)
	tb.open("/")
	tb.sees("Overview")
	tb.expect("status 429")
	tb.click("Dead letters")
	tb.at("/dead-letters")
	tb.expect("status 429")
	tb.do("leaving the program's pages", chromedp.Navigate("about:blank"))
	tb.take() // the browser may have retried

	streams.close()
	o.until("a stream to be accepted again", func() bool {
		again := openStreams(t, o.http, 1)
		defer again.close()
		open, _ := again.count()
		return open == 1
	})
	tb.open("/")
	tb.updates()
}

// updates waits until the page's event stream is open.
func (tb *tab) updates() {
	tb.t.Helper()
	tb.until("the page's event stream", func() bool {
		tb.mu.Lock()
		defer tb.mu.Unlock()
		return tb.streaming
	})
}

// streams are event streams opened without a browser.
type streams struct {
	cancel context.CancelFunc
	ended  sync.WaitGroup

	mu      sync.Mutex
	open    int // guarded by mu
	refused int // guarded by mu
}

// openStreams opens n streams and returns when each has received a response.
func openStreams(t *testing.T, base string, n int) *streams {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	s := &streams{cancel: cancel}
	t.Cleanup(s.close)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	var answered sync.WaitGroup
	for range n {
		answered.Add(1)
		s.ended.Go(func() { s.follow(ctx, t, client, base, answered.Done) })
	}
	answered.Wait()
	return s
}

// follow opens a stream and reads it to its end. It calls answered once, when the stream
// has its response.
func (s *streams) follow(ctx context.Context, t *testing.T, client *http.Client, base string, answered func()) {
	once := sync.OnceFunc(answered)
	defer once()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/events", nil)
	if err != nil {
		t.Error(err)
		return
	}
	req.Header.Set("Accept", "text/event-stream")
	resp, err := client.Do(req)
	if err != nil {
		t.Errorf("opening a stream: %v", err)
		return
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusTooManyRequests:
		text, err := io.ReadAll(resp.Body)
		if err != nil || resp.Header.Get("Retry-After") == "" || !strings.Contains(string(text), "Close some") {
			t.Errorf("refused with %q, Retry-After %q, %v", text, resp.Header.Get("Retry-After"), err)
		}
		s.add(0, 1)
		return
	case resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream":
		t.Errorf("answered %s, %s", resp.Status, resp.Header.Get("Content-Type"))
		return
	}
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); { // the first line is the retry delay
		s.add(1, 0)
		once()
		for lines.Scan() {
			continue
		}
	}
}

func (s *streams) add(open, refused int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open += open
	s.refused += refused
}

func (s *streams) count() (open, refused int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open, s.refused
}

// close ends all streams.
func (s *streams) close() {
	s.cancel()
	s.ended.Wait()
}
