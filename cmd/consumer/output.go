package main

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"

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

// printList prints items as a table, as JSON or as CSV; instead of an empty table it
// prints none. short is true for cells of a table, where long texts are shortened. As
// CSV a list has the columns that it has on the pages, if there is a page of it. With
// the format wide, a terminal gets all columns and whole texts, as a pipe does.
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
	out := screenOf(a.stdout)
	rows, whole := make([][]string, len(items)), make([][]string, len(items))
	for i, item := range items {
		rows[i], whole[i] = row(item, out.width > 0), row(item, false)
	}
	if format == "wide" {
		return tableWithin(out, head, whole, whole, 0)
	}
	return tableWithin(out, head, rows, whole, out.width, "; -o wide prints all")
}

// pairs prints a record, one field per line, without empty fields. In a terminal long texts
// are wrapped between words.
func pairs(w io.Writer, fields ...[2]string) error {
	return pairsWithin(w, screenOf(w).width, fields...)
}

// pairsWithin is pairs in a terminal with width columns; 0: there is none.
func pairsWithin(w io.Writer, width int, fields ...[2]string) error {
	label := 0
	for _, f := range fields {
		if f[1] != "" {
			label = max(label, utf8.RuneCountInString(f[0]))
		}
	}
	if width > 0 && width-label-columnGap < narrowestColumn {
		return stacked(w, width, fields)
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

// stacked prints a record whose names leave no room beside them: each value is below its name.
func stacked(w io.Writer, width int, fields [][2]string) error {
	for _, f := range fields {
		if f[1] == "" {
			continue
		}
		lines := append([]string{f[0]}, wrapped(printable(f[1]), width-columnGap)...)
		if _, err := fmt.Fprintln(w, strings.Join(lines, "\n"+strings.Repeat(" ", columnGap))); err != nil {
			return err
		}
	}
	return nil
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

// day is the date of a time, in UTC.
func day(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.DateOnly)
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
