package main

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/legible"
)

// json prints a value as indented JSON.
func (a *app) json(v any) error {
	enc := json.NewEncoder(a.stdout)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// table prints rows in columns. Cells contain text from events, relays and
// certificates, so characters that would move the cursor or hide text are replaced. In a
// terminal columns without any text are left out, and long cells are shortened so that a row
// fits on a line; where that is impossible, each row is a record with a field for each cell.
func table(w io.Writer, head []string, rows [][]string) error {
	return tableWithin(w, head, rows, rows, terminalWidth(w))
}

// tableWithin is table in a terminal with width columns; 0: there is none. Records are made of
// whole, which has the same rows without shortened texts.
func tableWithin(w io.Writer, head []string, rows, whole [][]string, width int) error {
	all := printableTable(head, rows)
	if width > 0 {
		if all = withoutEmpty(all); !fitColumns(all, width) {
			whole = withoutEmpty(printableTable(head, whole))
			return records(w, whole[0], whole[1:], width)
		}
	}
	tw := tabwriter.NewWriter(w, 0, 0, columnGap, ' ', 0)
	for _, row := range all {
		fmt.Fprintln(tw, strings.Join(row, "\t"))
	}
	return tw.Flush()
}

func printableTable(head []string, rows [][]string) [][]string {
	all := [][]string{head}
	for _, row := range rows {
		cells := make([]string, len(row))
		for i, cell := range row {
			cells[i] = printable(cell)
		}
		all = append(all, cells)
	}
	return all
}

// withoutEmpty returns the rows without the columns that have only a head.
func withoutEmpty(rows [][]string) [][]string {
	if len(rows) == 1 {
		return rows
	}
	kept := make([][]string, len(rows))
	for column := range rows[0] {
		if !slices.ContainsFunc(rows[1:], func(row []string) bool { return column < len(row) && row[column] != "" }) {
			continue
		}
		for i, row := range rows {
			if column < len(row) {
				kept[i] = append(kept[i], row[column])
			}
		}
	}
	return kept
}

// records prints each row as a record, with an empty line between two.
func records(w io.Writer, head []string, rows [][]string, width int) error {
	for i, row := range rows {
		if i > 0 {
			fmt.Fprintln(w)
		}
		fields := make([][2]string, len(row))
		for j, cell := range row {
			fields[j] = [2]string{head[j], cell}
		}
		if err := pairsWithin(w, width, fields...); err != nil {
			return err
		}
	}
	return nil
}

// columnGap is the number of spaces between columns, narrowestColumn the width to which
// cells are shortened at most.
const (
	columnGap       = 2
	narrowestColumn = 16
)

// fitColumns shortens the cells of the widest columns until a row fits into width
// characters, if it is known. It reports whether that was possible.
func fitColumns(rows [][]string, width int) bool {
	if width <= 0 {
		return true
	}
	columns := make([]int, len(rows[0]))
	total := -columnGap
	for i := range columns {
		for _, row := range rows {
			if i < len(row) {
				columns[i] = max(columns[i], utf8.RuneCountInString(row[i]))
			}
		}
		total += columns[i] + columnGap
	}
	for total > width {
		widest, second := 0, narrowestColumn
		for i, w := range columns {
			if w > columns[widest] {
				widest = i
			}
		}
		for i, w := range columns {
			if i != widest {
				second = max(second, w)
			}
		}
		// At once down to the next widest column, then in turn.
		less := min(total-width, max(1, columns[widest]-second))
		if columns[widest]-less < narrowestColumn {
			return false
		}
		columns[widest] -= less
		total -= less
		for _, row := range rows {
			if widest < len(row) {
				row[widest] = shortened(row[widest], columns[widest])
			}
		}
	}
	return true
}

// shortened cuts a text to a number of characters, the last of which says so.
func shortened(s string, most int) string {
	if utf8.RuneCountInString(s) <= most {
		return s
	}
	return string([]rune(s)[:most-1]) + "…"
}

// terminalWidth is the number of columns of the terminal that w is, 0 if it is none.
func terminalWidth(w io.Writer) int {
	file, ok := w.(*os.File)
	if !ok {
		return 0
	}
	width, _, err := term.GetSize(int(file.Fd()))
	if err != nil {
		return 0
	}
	return width
}

// printList prints items as a table, as JSON or as CSV; instead of an empty table it
// prints none. short is true for cells of a table, where long texts are shortened. As
// CSV a list has the columns that it has on the pages, if there is a page of it.
func printList[T any](a *app, format string, items []T, none string, head []string, row func(item T, short bool) []string, page ...desk.Table[T]) error {
	if format == "csv" && len(page) == 1 {
		head, row = page[0].Columns, func(item T, _ bool) []string { return page[0].Cells(item) }
	}
	switch {
	case format == "json":
		return a.json(append([]T{}, items...))
	case format == "csv":
		w := csv.NewWriter(a.stdout)
		if err := w.Write(head); err != nil {
			return err
		}
		for _, item := range items {
			cells := row(item, false)
			for i, cell := range cells {
				cells[i] = legible.Cell(cell)
			}
			if err := w.Write(cells); err != nil {
				return err
			}
		}
		w.Flush()
		return w.Error()
	case len(items) == 0:
		fmt.Fprintln(a.stdout, none)
		return nil
	}
	rows, whole := make([][]string, len(items)), make([][]string, len(items))
	for i, item := range items {
		rows[i], whole[i] = row(item, true), row(item, false)
	}
	return tableWithin(a.stdout, head, rows, whole, terminalWidth(a.stdout))
}

// pairs prints a record, one field per line, without empty fields. In a terminal long texts
// are wrapped between words.
func pairs(w io.Writer, fields ...[2]string) error {
	return pairsWithin(w, terminalWidth(w), fields...)
}

// pairsWithin is pairs in a terminal with width columns; 0: there is none.
func pairsWithin(w io.Writer, width int, fields ...[2]string) error {
	label := 0
	for _, f := range fields {
		if f[1] != "" {
			label = max(label, utf8.RuneCountInString(f[0]))
		}
	}
	tw := tabwriter.NewWriter(w, 0, 0, columnGap, ' ', 0)
	for _, f := range fields {
		if f[1] == "" {
			continue
		}
		name := f[0]
		for _, line := range wrapped(printable(f[1]), width-label-columnGap) {
			fmt.Fprintf(tw, "%s\t%s\n", name, line)
			name = ""
		}
	}
	return tw.Flush()
}

// wrapped returns a text in lines of at most width characters, if that is no less than
// narrowestColumn; a longer word has a line of its own.
func wrapped(text string, width int) (lines []string) {
	if width < narrowestColumn || utf8.RuneCountInString(text) <= width {
		return []string{text}
	}
	line := ""
	for _, word := range strings.Fields(text) {
		switch {
		case line == "":
			line = word
		case utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) <= width:
			line += " " + word
		default:
			lines, line = append(lines, line), word
		}
	}
	return append(lines, line)
}

// printable replaces control characters, line ends and invisible characters (such as
// those that reverse the direction of text) with question marks.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == unicode.ReplacementChar {
			return '?'
		}
		return r
	}, s)
}

// reply formats a relay's reply on one line. The text begins with the enhanced code,
// unless it was replaced because it quoted a secret; then reply adds the code.
func reply(code int, enhanced, text string) string {
	if code == 0 {
		return ""
	}
	if !strings.HasPrefix(text, enhanced) {
		text = enhanced + " " + text
	}
	return strings.TrimSpace(fmt.Sprintf("%d %s", code, text))
}

// shellWord quotes a word for a POSIX shell if necessary: subjects and paths come from
// outside, and operators paste the commands that are printed.
func shellWord(s string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./:@%+=,"
	if s != "" && strings.Trim(s, plain) == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

func when(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}

// count is a number with its noun: "1 letter", "20 letters". An irregular plural is given as
// the second noun.
func count(n int, noun ...string) string {
	switch {
	case n == 1:
		return "1 " + noun[0]
	case len(noun) > 1:
		return fmt.Sprintf("%d %s", n, noun[1])
	}
	return fmt.Sprintf("%d %ss", n, noun[0])
}

func number(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}
