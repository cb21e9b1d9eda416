package dashboard

import (
	"encoding/csv"
	"encoding/json"
	"io"
	"iter"
	"net/http"
	"strings"
	"time"
)

// table is a list that leaves the page: all of it, row by row, whatever the page
// itself shows of it.
type table struct {
	name    string // of the file
	columns []string
	rows    iter.Seq2[[]string, any] // the cells, and the object they were made of
}

// rowsOf makes a table's rows of a list of things.
func rowsOf[T any](all iter.Seq[T], cells func(T) []string) iter.Seq2[[]string, any] {
	return func(yield func([]string, any) bool) {
		for one := range all {
			if !yield(cells(one), one) {
				return
			}
		}
	}
}

// longest is how long a list may take to be written; the server's own limit is
// for pages.
const longest = 10 * time.Minute

func (t *table) begin(w http.ResponseWriter, kind, extension string) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(longest)) // a writer without deadlines has none to pass
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Content-Disposition", `attachment; filename="`+t.name+extension+`"`)
	w.WriteHeader(http.StatusOK)
}

// csv writes RFC 4180 with a heading.
func (t *table) csv(w http.ResponseWriter) {
	t.begin(w, "text/csv; charset=utf-8; header=present", ".csv")
	out := csv.NewWriter(w)
	out.UseCRLF = true
	_ = out.Write(t.columns) // errors stay and are seen below
	for cells := range t.rows {
		for i, cell := range cells {
			cells[i] = inert(cell)
		}
		if out.Write(cells) != nil {
			return // the other side has gone
		}
	}
	out.Flush()
}

// inert keeps a spreadsheet from taking a text for a formula: OWASP, CSV Injection.
func inert(cell string) string {
	if cell != "" && strings.ContainsRune("=+-@\t\r\n", rune(cell[0])) {
		return "'" + cell
	}
	return cell
}

// json writes an array with an object on each line.
func (t *table) json(w http.ResponseWriter) {
	t.begin(w, "application/json", ".json")
	before := "[\n"
	for _, object := range t.rows {
		line, err := json.Marshal(object)
		if err != nil {
			return // cut short, which no reader takes for the whole
		}
		if _, err := io.WriteString(w, before+string(line)); err != nil {
			return
		}
		before = ",\n"
	}
	if before == "[\n" {
		_, _ = io.WriteString(w, "[")
	}
	_, _ = io.WriteString(w, "\n]\n")
}
