package dashboard

import (
	"encoding/csv"
	"encoding/json"
	"io"
	"iter"
	"net/http"
	"time"

	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/legible"
)

// table is an export: the complete list, row by row, not only the page that is shown.
type table struct {
	name    string // of the file
	columns []string
	rows    iter.Seq2[[]string, any] // the cells for CSV, and the object for JSON
}

// exported is a list of the desk as an export.
func exported[T any](t desk.Table[T], all iter.Seq[T]) *table {
	return &table{name: t.Name, columns: t.Columns, rows: rowsOf(all, t.Cells)}
}

// rowsOf turns values into the rows of a table.
func rowsOf[T any](all iter.Seq[T], cells func(T) []string) iter.Seq2[[]string, any] {
	return func(yield func([]string, any) bool) {
		for one := range all {
			if !yield(cells(one), one) {
				return
			}
		}
	}
}

// longest is how long writing an export may take. It replaces the server's write
// timeout, which is meant for pages.
const longest = 10 * time.Minute

func (t *table) begin(w http.ResponseWriter, kind, extension string) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(longest)) // a writer without deadlines needs none
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Content-Disposition", `attachment; filename="`+t.name+extension+`"`)
	w.WriteHeader(http.StatusOK)
}

// csv writes CSV with a header line (RFC 4180).
func (t *table) csv(w http.ResponseWriter) {
	t.begin(w, "text/csv; charset=utf-8; header=present", ".csv")
	out := csv.NewWriter(w)
	out.UseCRLF = true
	_ = out.Write(t.columns) // the writer keeps the error for the next Write
	for cells := range t.rows {
		for i, cell := range cells {
			cells[i] = legible.Cell(cell)
		}
		if out.Write(cells) != nil {
			return // the client has closed the connection
		}
	}
	out.Flush()
}

// json writes an array with an object on each line.
func (t *table) json(w http.ResponseWriter) {
	t.begin(w, "application/json", ".json")
	before := "[\n"
	for _, object := range t.rows {
		line, err := json.Marshal(object)
		if err != nil {
			return // the array stays open, so readers reject it as incomplete
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
