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

	"github.com/certpost/certpost/internal/desk"
)

// json prints a value as indented JSON.
func (a *app) json(v any) error {
	enc := json.NewEncoder(a.stdout)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// table prints rows in columns. Cells come from events, relays and certificates:
// what would move the cursor or hide text is replaced.
func table(w io.Writer, head []string, rows [][]string) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, strings.Join(head, "\t"))
	for _, row := range rows {
		cells := make([]string, len(row))
		for i, cell := range row {
			cells[i] = printable(cell)
		}
		fmt.Fprintln(tw, strings.Join(cells, "\t"))
	}
	return tw.Flush()
}

// printList prints items as a table, as JSON or as CSV. short is true for cells of
// a table, where long texts are cut.
// As CSV a list has the columns that it has on the pages, if there is a page of it.
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
				cells[i] = spreadsheetCell(cell)
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
	rows := make([][]string, len(items))
	for i, item := range items {
		rows[i] = row(item, true)
	}
	return table(a.stdout, head, rows)
}

// spreadsheetCell keeps a cell that comes from outside from being a formula.
func spreadsheetCell(s string) string {
	if s = printable(s); s != "" && strings.ContainsRune("=+-@", rune(s[0])) {
		return "'" + s
	}
	return s
}

// pairs prints a record, one field a line; empty ones are left out.
func pairs(w io.Writer, fields ...[2]string) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, f := range fields {
		if f[1] != "" {
			fmt.Fprintf(tw, "%s\t%s\n", f[0], printable(f[1]))
		}
	}
	return tw.Flush()
}

// printable keeps control characters, line ends and invisible directions of
// writing away from the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == unicode.ReplacementChar {
			return '?'
		}
		return r
	}, s)
}

// reply is a relay's reply on one line. Its text begins with the enhanced code,
// unless it was left out because it quoted a secret.
func reply(code int, enhanced, text string) string {
	if code == 0 {
		return ""
	}
	if !strings.HasPrefix(text, enhanced) {
		text = enhanced + " " + text
	}
	return strings.TrimSpace(fmt.Sprintf("%d %s", code, text))
}

// shellWord is a word as a POSIX shell takes it: subjects and paths come from
// others, and what is printed as a command gets pasted.
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

func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

func number(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}
