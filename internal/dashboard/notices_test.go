package dashboard

import (
	"net/http"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/desk"
)

// What a browser is told: a group that grew and a run that stopped, once each, and nothing that was
// so before.
func TestNotices(t *testing.T) {
	t.Parallel()
	o := openOffice(t, officeConfig{})
	o.dies("a.example.com")
	w := newWatcher(o.desk)
	if news := w.look(); len(news) != 0 {
		t.Fatalf("told what was so before: %+v", news)
	}
	o.dies("b.example.com", "c.example.com")
	news := w.look()
	if len(news) != 1 || news[0].Title != "2 new dead letters" || !strings.HasPrefix(news[0].Text, "The relay permanently refused a recipient") || !strings.HasPrefix(news[0].URL, "/dead-letters/groups/") {
		t.Fatalf("%+v", news)
	}
	v := o.visitor()
	v.opens(news[0].URL)
	list := v.opens("/dead-letters")
	list.follow("Replay…").is(200).send("Replay 3 letters", "reason", "try").is(200)
	o.until("the replay ends", func() bool {
		runs := o.desk.Runs(desk.RunQuery{})
		return len(runs) == 1 && runs[0].State == desk.RunStopped
	})
	news = w.look()
	found := false
	for _, n := range news {
		found = found || n.Title == "Replay stopped" && strings.HasPrefix(n.Text, "0 of 3 delivered: ") && strings.HasPrefix(n.URL, "/replays/")
	}
	if !found {
		t.Errorf("%+v", news)
	}
	if again := w.look(); len(again) != 0 {
		t.Errorf("told twice: %+v", again)
	}
	text := noticeEvents([]notice{{Title: "a\nb", Text: "<script>"}})
	if strings.Count(text, "\n") != 3 || !strings.HasPrefix(text, "event: notice\ndata: {") {
		t.Errorf("%q is not one event", text)
	}
}

// The icon of a page has the number of open letters, without a script.
func TestIconHasTheCount(t *testing.T) {
	t.Parallel()
	o := openOffice(t, officeConfig{})
	v := o.visitor()
	iconOf := func() string {
		for _, link := range all(v.opens("/keys").doc, "link") {
			if attr(link, "rel") == "icon" {
				return attr(link, "href")
			}
		}
		return ""
	}
	if at := iconOf(); !strings.HasPrefix(at, "/static/icon.") {
		t.Errorf("without letters: %q", at)
	}
	o.dies("a.example.com")
	at := iconOf()
	if at != "/icon/1" {
		t.Fatalf("with a letter: %q", at)
	}
	for path, want := range map[string]string{at: ">1</text>", "/icon/99": ">99</text>", "/icon/100000": ">99+</text>"} {
		if s := v.do(http.MethodGet, path, "").is(200); !strings.Contains(s.body, want) || s.header.Get("Content-Type") != "image/svg+xml" || !strings.Contains(s.header.Get("Content-Security-Policy"), "default-src 'none'") {
			t.Errorf("%s: %s, %v", path, s.body, s.header)
		}
	}
	for _, wrong := range []string{"/icon/x", "/icon/-1", "/icon/%3Cscript%3E"} {
		v.do(http.MethodGet, wrong, "").is(http.StatusNotFound)
	}
}
