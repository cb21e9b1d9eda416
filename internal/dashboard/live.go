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

// live counts what takes long, such as pages that are kept up to date, so that nobody
// can have so much of it that the others have none.
type live struct {
	ofUser, inAll int // as many there may be

	mu    sync.Mutex
	users map[string]int // guarded by mu
	total int            // guarded by mu
}

// Browsers allow six connections to one host at a time over HTTP/1.1; a person has
// two or three of them open.
const (
	streamsOfUser = 12
	streamsInAll  = 500
	heartbeat     = 20 * time.Second
)

func newLive(ofUser, inAll int) *live {
	return &live{ofUser: ofUser, inAll: inAll, users: map[string]int{}}
}

// enter says whether one more may begin; each that may has to leave.
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

// events says which parts of the pages are out of date, by name and nothing else:
// the page fetches what it shows. The stream ends with the session, which ends the
// request's context.
func (p *pages) events(w http.ResponseWriter, r *http.Request, v access.Visit) {
	if !p.live.enter(v.User.Subject) {
		w.Header().Set("Retry-After", "60")
		http.Error(w, "Too many pages are kept up to date already. Close some; every page works without.", http.StatusTooManyRequests)
		return
	}
	defer p.live.leave(v.User.Subject)
	control := http.NewResponseController(w)
	send := func(text string) bool {
		_ = control.SetWriteDeadline(p.now().Add(2 * heartbeat)) // a writer without deadlines has none to pass
		_, err := io.WriteString(w, text)
		return err == nil && control.Flush() == nil
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // nginx would collect them
	w.WriteHeader(http.StatusOK)
	changes := p.desk.Changes(r.Context())
	hello := "retry: 5000\n\n"
	// What changed after the page was read, and while the stream was broken, is told now.
	if since := r.URL.Query().Get("since"); since != "" && since != p.desk.Mark() {
		hello += eventsOf(desk.Change{Letters: true, Runs: true, Lanes: true, Audit: true})
	}
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	for open := send(hello); open; {
		select {
		case <-r.Context().Done():
			return
		case change, more := <-changes:
			open = more && send(eventsOf(change))
		case <-beat.C:
			open = send(": still here\n\n")
		}
	}
}

// eventsOf are the names under which templates wait for a change.
func eventsOf(c desk.Change) (text string) {
	for _, part := range []struct {
		changed bool
		name    string
	}{{c.Letters, "letters"}, {c.Runs, "runs"}, {c.Lanes, "lanes"}, {c.Audit, "audit"}} {
		if part.changed {
			text += fmt.Sprintf("event: %s\ndata: %d\n\n", part.name, c.Newer)
		}
	}
	return text
}
