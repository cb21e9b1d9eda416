package main

import (
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// table prints rows in columns. Cells contain text from events, relays and
// certificates, so characters that would move the cursor or hide text are replaced. In a
// terminal columns without any text are left out, and long cells are shortened so that a row
// fits on a line; where that is not enough, columns of less importance are left out, and where
// that is impossible, each row is a record with a field for each cell.
func table(w io.Writer, head []string, rows [][]string) error {
	return tableWithin(w, head, rows, rows, screenOf(w).width)
}

// tableWithin is table in a terminal with width columns; 0: there is none. Records are made of
// whole, which has the same rows without shortened texts. hint says how to see columns that are
// left out.
func tableWithin(w io.Writer, head []string, rows, whole [][]string, width int, hint ...string) error {
	all := printableTable(head, rows)
	var missing []string
	if width > 0 {
		var fits bool
		if all, missing, fits = fitTable(withoutEmpty(all), width); !fits {
			whole = withoutEmpty(printableTable(head, whole))
			return records(w, whole[0], whole[1:], width)
		}
	}
	if err := columns(w, all); err != nil || missing == nil {
		return err
	}
	left := "left out, as the terminal is narrow: " + strings.Join(missing, ", ") + strings.Join(hint, "")
	_, err := fmt.Fprintln(w, "\n"+strings.Join(wrapped(left, width), "\n"))
	return err
}

// columns prints the rows, of which the first is the head, in columns.
func columns(w io.Writer, all [][]string) error {
	out, widths := screenOf(w), widths(all)
	for i, row := range all {
		var line strings.Builder
		for j, cell := range row {
			paint := bold
			if i > 0 {
				paint = ""
				if slices.Contains(columnsOfStates, all[0][j]) {
					paint = colourOf(cell)
				}
			}
			line.WriteString(out.paint(paint, cell))
			if j < len(row)-1 {
				line.WriteString(strings.Repeat(" ", widths[j]-utf8.RuneCountInString(cell)+columnGap))
			}
		}
		if _, err := fmt.Fprintln(w, strings.TrimRight(line.String(), " ")); err != nil {
			return err
		}
	}
	return nil
}

// dispensable are the columns that a narrow terminal does without, the least important first.
// The first column, by which a row is named, is never left out.
var dispensable = []string{"VIA", "PROOF", "FILES", "SERIAL", "TYPE", "WHERE", "RATE AND CONNECTIONS", "GONE", "FAILED", "PUBLISHED", "ENDED", "IN FLIGHT", "PAYLOAD",
	"EVENT", "ATTEMPTS", "WHY", "BY", "RELAYS", "SENT?", "LANE", "NOTE", "REASON", "LAST ATTEMPT", "TIME", "CODE"}

// fitTable shortens cells and leaves columns out until a row fits into width characters. It
// returns the rows and the heads of the missing columns, and whether that was possible.
func fitTable(all [][]string, width int) (fitted [][]string, missing []string, fits bool) {
	head := all[0]
	for _, name := range append([]string{""}, dispensable...) {
		if name != "" {
			if at := slices.Index(head, name); at < 1 || len(head)-len(missing) <= fewestColumns {
				continue
			}
			missing = append(missing, name)
		}
		if fitted = withoutColumns(all, missing); fitColumns(fitted, width) {
			fits = true
			break
		}
	}
	if !fits {
		return nil, nil, false
	}
	// What was left out before a wider column may have room again.
	for _, name := range slices.Backward(slices.Clone(missing)) {
		rest := slices.DeleteFunc(slices.Clone(missing), func(m string) bool { return m == name })
		if again := withoutColumns(all, rest); fitColumns(again, width) {
			fitted, missing = again, rest
		}
	}
	slices.SortFunc(missing, func(a, b string) int { return slices.Index(head, a) - slices.Index(head, b) })
	if len(missing) == 0 {
		missing = nil
	}
	return fitted, missing, true
}

// withoutColumns returns the rows without the columns that are missing.
func withoutColumns(all [][]string, missing []string) [][]string {
	kept := make([][]string, len(all))
	for i, row := range all {
		for j, cell := range row {
			if !slices.Contains(missing, all[0][j]) {
				kept[i] = append(kept[i], cell)
			}
		}
	}
	return kept
}

func printableTable(head []string, rows [][]string) [][]string {
	all := [][]string{slices.Clone(head)}
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
// cells are shortened at most, narrowestName that of the first column: a ULID, the id of an
// event, is whole. A table of fewer columns than fewestColumns, where there are more, says too little.
const (
	columnGap       = 2
	narrowestColumn = 16
	narrowestName   = 26
	fewestColumns   = 5
)

func widths(rows [][]string) []int {
	all := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			all[i] = max(all[i], utf8.RuneCountInString(cell))
		}
	}
	return all
}

// moment finds a cell that is a time, which is not shortened.
var moment = regexp.MustCompile(`^\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ$`)

// fitColumns shortens the cells of the widest columns until a row fits into width
// characters, if it is known. It reports whether that was possible.
func fitColumns(rows [][]string, width int) bool {
	if width <= 0 {
		return true
	}
	columns := widths(rows)
	least := make([]int, len(columns)) // to which a column can be shortened
	total := -columnGap
	for i := range columns {
		total += columns[i] + columnGap
		least[i] = narrowestColumn
		if i == 0 {
			least[i] = narrowestName
		}
		for _, row := range rows {
			if i < len(row) && moment.MatchString(row[i]) {
				least[i] = max(least[i], len(row[i]))
			}
		}
	}
	for total > width {
		widest, second := -1, 0
		for i, w := range columns {
			if w > least[i] && (widest < 0 || w > columns[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			return false
		}
		for i, w := range columns {
			if i != widest && w > least[i] {
				second = max(second, w)
			}
		}
		// At once down to the next widest column, then in turn.
		less := min(total-width, max(1, columns[widest]-max(second, least[widest])))
		columns[widest] -= less
		total -= less
	}
	for _, row := range rows {
		for i := range row {
			row[i] = shortened(row[i], columns[i])
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
