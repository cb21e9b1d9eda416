package dashboard

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/certpost/certpost/internal/access"
	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/legible"
)

func lettersTable(letters ...desk.Letter) *table {
	return &table{name: "dead-letters", columns: []string{"number", "reason"}, rows: rowsOf(slices.Values(letters), func(l desk.Letter) []string {
		return []string{stamp(l.Time), l.Reason}
	})}
}

// No cell starts like a formula (OWASP, CSV Injection).
func TestCellsAreNoFormulas(t *testing.T) {
	t.Parallel()
	var letters []desk.Letter
	reasons := []string{`=cmd|' /C calc'!A0`, "+1+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "plain", "", `with "quotes", commas`, "two\nlines"}
	for _, reason := range reasons {
		l := sample(1)
		l.Reason = reason
		letters = append(letters, l)
	}
	w := httptest.NewRecorder()
	lettersTable(letters...).csv(w)
	if kind := w.Header().Get("Content-Type"); !strings.HasPrefix(kind, "text/csv") || w.Header().Get("Content-Disposition") != `attachment; filename="dead-letters.csv"` {
		t.Errorf("Content-Type %q, Content-Disposition %q", kind, w.Header().Get("Content-Disposition"))
	}
	rows, err := csv.NewReader(w.Body).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) != len(reasons)+1 {
		t.Fatalf("%d rows", len(rows))
	}
	for i, row := range rows[1:] {
		cell := row[1]
		if cell != "" && strings.ContainsRune("=+-@\t\r\n", rune(cell[0])) {
			t.Errorf("%q is written as %q, which a spreadsheet reads as a formula", reasons[i], cell)
		}
		if want := legible.Clean(reasons[i], 1000); strings.TrimPrefix(cell, "'") != want {
			t.Errorf("%q is written as %q", reasons[i], cell)
		}
	}
}

func TestTableAsJSON(t *testing.T) {
	t.Parallel()
	for _, letters := range [][]desk.Letter{nil, {sample(1)}, {sample(1), sample(2)}} {
		w := httptest.NewRecorder()
		lettersTable(letters...).json(w)
		var read []desk.Letter
		if err := json.Unmarshal(w.Body.Bytes(), &read); err != nil || len(read) != len(letters) {
			t.Errorf("%d letters are written as %q: %v", len(letters), w.Body, err)
		}
		for i := range read {
			if read[i].Sequence != letters[i].Sequence || read[i].Certificate.Serial != letters[i].Certificate.Serial {
				t.Errorf("%+v was read back as %+v", letters[i], read[i])
			}
		}
	}
}

// An export is written row by row, and reading stops when the client has disconnected.
func TestTableStopsWithItsReader(t *testing.T) {
	t.Parallel()
	asked := 0
	endless := &table{columns: []string{"x"}, rows: func(yield func([]string, any) bool) {
		for asked = 1; asked < 1_000_000 && yield([]string{strings.Repeat("x", 100)}, "x"); asked++ {
		}
	}}
	endless.csv(&gone{httptest.NewRecorder()})
	if asked > 1000 {
		t.Errorf("%d rows were read for a disconnected client", asked)
	}
	endless.json(&gone{httptest.NewRecorder()})
	if asked > 1000 {
		t.Errorf("%d objects were read for a disconnected client", asked)
	}
}

// gone is a connection that the client has closed.
type gone struct{ *httptest.ResponseRecorder }

func (gone) Write([]byte) (int, error)       { return 0, errors.New("the client has disconnected") }
func (gone) WriteString(string) (int, error) { return 0, errors.New("the client has disconnected") }

// The number of concurrent exports is limited: further ones are refused, and an export
// that ends or is aborted frees its place.
func TestExportsAreLimited(t *testing.T) {
	t.Parallel()
	p := &pages{Look: newTestLook(t), exports: newLive(2, 3)}
	begun, end := make(chan struct{}), make(chan struct{})
	slow := &table{name: "slow", columns: []string{"a"}, rows: func(yield func([]string, any) bool) {
		begun <- struct{}{}
		<-end
		yield([]string{"1"}, 1)
	}}
	quick := &table{name: "quick", columns: []string{"a"}, rows: func(func([]string, any) bool) {}}
	export := func(user, path string, of *table) int {
		w := httptest.NewRecorder()
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
		suffixed(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			p.render(w, &request{Request: r, visit: access.Visit{User: access.User{Subject: user}}}, view{table: of})
		})).ServeHTTP(w, r)
		return w.Code
	}
	var writing sync.WaitGroup
	for _, user := range []string{"ann", "ann", "ben"} {
		writing.Go(func() { export(user, "/deliveries.csv", slow) })
		<-begun
	}
	for _, path := range []string{"/deliveries.csv", "/deliveries.json"} {
		if got := export("ben", path, quick); got != http.StatusTooManyRequests {
			t.Errorf("one export above the total limit: status %d", got)
		}
	}
	end <- struct{}{}
	end <- struct{}{}
	end <- struct{}{}
	writing.Wait()
	broken := &table{name: "broken", columns: []string{"a"}, rows: func(func([]string, any) bool) { panic(http.ErrAbortHandler) }}
	for range 5 {
		func() {
			defer func() { _ = recover() }()
			export("ann", "/deliveries.csv", broken)
		}()
	}
	if got := export("ann", "/deliveries.csv", quick); got != http.StatusOK {
		t.Errorf("an export after all others have ended: status %d", got)
	}
}
