package dashboard

import (
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/certpost/certpost/internal/access"
	"github.com/certpost/certpost/internal/desk"
)

// live limits long-running responses, such as event streams, per user and in total, so
// that one user cannot use up all of them.
type live struct {
	ofUser, inAll int // the limits

	mu    sync.Mutex
	users map[string]int // guarded by mu
	total int            // guarded by mu
}

// Browsers allow six connections to one host at a time over HTTP/1.1, and a person has
// two or three browsers open.
const (
	streamsOfUser = 12
	streamsInAll  = 500
	heartbeat     = 20 * time.Second
)

func newLive(ofUser, inAll int) *live {
	return &live{ofUser: ofUser, inAll: inAll, users: map[string]int{}}
}

// enter reports whether one more may begin; if so, the caller must call leave at its
// end.
func (l *live) enter(user string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.users[user] >= l.ofUser || l.total >= l.inAll {
		return false
	}
	l.users[user]++
	l.total++
	return true
}

func (l *live) leave(user string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	if l.users[user]--; l.users[user] == 0 {
		delete(l.users, user)
	}
}

// events streams the names of the parts of pages that are out of date, and nothing
// else: the page fetches what it shows. The stream ends with the session, whose end
// cancels the request's context.
func (p *pages) events(w http.ResponseWriter, r *http.Request, v access.Visit) {
	if !p.live.enter(v.User.Subject) {
		w.Header().Set("Retry-After", "60")
		http.Error(w, "Too many pages are receiving live updates. Close some; pages also work without live updates.", http.StatusTooManyRequests)
		return
	}
	defer p.live.leave(v.User.Subject)
	control := http.NewResponseController(w)
	send := func(text string) bool {
		_ = control.SetWriteDeadline(p.now().Add(2 * heartbeat)) // a writer without deadlines needs none
		_, err := io.WriteString(w, text)
		return err == nil && control.Flush() == nil
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // otherwise nginx buffers events
	w.WriteHeader(http.StatusOK)
	changes := p.desk.Changes(r.Context())
	hello := "retry: 5000\n\n"
	// Report what changed after the page was rendered or while the stream was broken.
	if since := r.URL.Query().Get("since"); since != "" && since != p.desk.Mark() {
		hello += eventsOf(desk.Change{Letters: true, Runs: true, Lanes: true, Audit: true}, p.desk.Balance().Open)
	}
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	var watch *watcher
	var look <-chan time.Time // while there may be news for notifications
	if r.URL.Query().Get("notices") == "yes" {
		watch = newWatcher(p.desk)
	}
	for open := send(hello); open; {
		select {
		case <-r.Context().Done():
			return
		case change, more := <-changes:
			open = more && send(eventsOf(change, p.desk.Balance().Open))
			if watch != nil && look == nil && (change.Letters || change.Runs) {
				look = time.After(noticePace)
			}
		case <-look:
			look = nil
			open = send(noticeEvents(watch.look()))
		case <-beat.C:
			open = send(": still here\n\n")
		}
	}
}

// eventsOf encodes a change as server-sent events, with the names that templates wait
// for, and with letters the number of those that are open, for the icon.
func eventsOf(c desk.Change, open int) (text string) {
	for _, part := range []struct {
		changed bool
		name    string
	}{{c.Letters, "letters"}, {c.Runs, "runs"}, {c.Lanes, "lanes"}, {c.Audit, "audit"}} {
		if part.changed {
			text += fmt.Sprintf("event: %s\ndata: %d\n\n", part.name, c.Newer)
		}
	}
	if c.Letters {
		text += fmt.Sprintf("event: count\ndata: %d\n\n", open)
	}
	return text
}
