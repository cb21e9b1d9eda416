package dashboard

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/access"
	"github.com/certpost/certpost/internal/desk"
)

// maxWeight is the limit for a page with everything that it loads, compressed, in bytes.
const maxWeight = 60_000

func TestPageWeight(t *testing.T) {
	t.Parallel()
	look := newTestLook(t)
	loaded := 0
	for path, file := range look.assets.files {
		if !strings.HasSuffix(path, ".txt") {
			loaded += weightOf(file.kind, file.content)
		}
	}
	all := views("")
	long := all["letters"]
	list := long.data.(lettersView)
	list.List = nil
	for n := range uint64(50) { // a page of the list
		l := sample(n + 1)
		l.Event, l.Reason = strings.Repeat(l.Fingerprint, 4)+string(rune('a'+n%26)), l.Reason+" and again, in other words, to be long"
		list.List = append(list.List, l)
	}
	long.data = list
	all["letters, a full page"] = long
	causes := all["overview"]
	overview := causes.data.(overviewView)
	for len(overview.Groups) < groupsAtAGlance {
		overview.Groups = append(overview.Groups, newGroupView(sampleGroup()))
	}
	overview.Runs = []desk.Run{sampleRun(), sampleRun()}
	causes.data = overview
	all["overview, full"] = causes
	heaviest := 0
	for name, v := range all {
		_, text := show(t, look, v, access.Admin)
		if weight := loaded + weightOf("text/html", []byte(text)); weight > maxWeight {
			t.Errorf("%s and what it loads are %d bytes, more than %d", name, weight, maxWeight)
		} else {
			heaviest = max(heaviest, weight)
		}
	}
	t.Logf("static files: %d bytes; the largest page with them: %d bytes", loaded, heaviest)
}

// weightOf is the size of a response's body as it is sent to a browser.
func weightOf(kind string, content []byte) int {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Accept-Encoding", "gzip")
	w := httptest.NewRecorder()
	compressed(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kind)
		_, _ = w.Write(content)
	})).ServeHTTP(w, r)
	return w.Body.Len()
}
