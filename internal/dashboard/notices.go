package dashboard

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/certpost/certpost/internal/access"
	"github.com/certpost/certpost/internal/desk"
)

// noticePace is the minimum time between two looks for what is worth a notification.
const noticePace = 3 * time.Second

// notice is a notification of the browser: a group that grew, or a replay that ended or waits for
// an operator. Title and Text are plain text.
type notice struct {
	Title string `json:"title"`
	Text  string `json:"text"`
	URL   string `json:"url"` // a path
	Tag   string `json:"tag"` // a later notice with the same one takes its place
}

// watcher remembers what a browser was told.
type watcher struct {
	desk   *desk.Desk
	groups map[string]int // letters, by fingerprint
	runs   map[string]desk.RunState
}

// newWatcher begins with the present state, which is no news.
func newWatcher(d *desk.Desk) *watcher {
	w := &watcher{desk: d}
	w.look()
	return w
}

// look returns what has happened since the last look.
func (w *watcher) look() (news []notice) {
	groups, runs := map[string]int{}, map[string]desk.RunState{}
	for _, g := range w.desk.Groups(desk.Query{}) {
		groups[g.Fingerprint] = g.Count
		if before := w.groups[g.Fingerprint]; w.groups != nil && g.Count > before {
			news = append(news, notice{plural(g.Count-before, "new dead letter"), plain(g.Title()), newGroupView(g).Address, "group-" + g.Fingerprint})
		}
	}
	for _, r := range w.desk.Runs(desk.RunQuery{}) {
		runs[r.ID] = r.State
		if before := w.runs[r.ID]; w.runs != nil && before != r.State && r.State != desk.RunRunning && r.State != desk.RunWatching {
			text := fmt.Sprintf("%d of %d delivered", r.Delivered, r.Spec.Frozen.Count)
			if r.Why != "" {
				text += ": " + plain(r.Why)
			}
			news = append(news, notice{"Replay " + string(r.State), text, "/replays/" + url.PathEscape(r.ID), "run-" + r.ID})
		}
	}
	w.groups, w.runs = groups, runs
	return news[:min(len(news), maxNotices)]
}

// maxNotices is how many notifications one look gives: more say no more.
const maxNotices = 5

// noticeEvents encodes notices as server-sent events.
func noticeEvents(news []notice) (text string) {
	for _, n := range news {
		data, _ := json.Marshal(n) // strings can always be marshalled
		text += "event: notice\ndata: " + string(data) + "\n\n"
	}
	return text
}

// icon is the icon of a page with the number of open dead letters. It shows nothing but the number
// in its address.
func icon(w http.ResponseWriter, r *http.Request, _ access.Visit) {
	n, err := strconv.ParseUint(r.PathValue("count"), 10, 32)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	text := strconv.FormatUint(n, 10)
	if n > 99 {
		text = "99+"
	}
	plain, _ := static.ReadFile("static/icon.svg") // it is embedded
	badge := fmt.Sprintf(`<rect x="%d" y="15" width="%d" height="17" rx="4" fill="#b3261e"/><text x="31" y="29" text-anchor="end" font-family="sans-serif" font-weight="700" font-size="15" fill="#fff">%s</text></svg>`,
		31-9*len(text)-2, 9*len(text)+3, text)
	h := w.Header()
	h.Set("Content-Type", kinds[".svg"])
	h.Set("Cache-Control", "private, max-age=86400")
	_, _ = w.Write(bytes.Replace(plain, []byte("</svg>"), []byte(badge), 1))
}
