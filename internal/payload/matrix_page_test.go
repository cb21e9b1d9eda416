package payload

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/lab"
)

var updateReaders = flag.Bool("update-readers", false, "write the table of readers into docs/payloads.md")

const page = "docs/payloads.md"

// The page's table is that of the test.
func TestReadersAreOnThePage(t *testing.T) {
	t.Parallel()
	const begin, end = "<!-- begin of the readers, written by a test -->\n", "<!-- end of the readers -->\n"
	path := filepath.Join(lab.Root(), page)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(text), begin)
	_, after, closed := strings.Cut(rest, end)
	if !found || !closed {
		t.Fatalf("%s has no place for the table", page)
	}
	want := before + begin + readersTable() + end + after
	if *updateReaders {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil { //nolint:gosec // a page of the manual
			t.Fatal(err)
		}
	} else if want != string(text) {
		t.Errorf("%s is not what TestReaders says: go test ./internal/payload -run OnThePage -update-readers", page)
	}
}

// readersTable writes the matrix, kinds of keys with the same result together, and the reasons below.
func readersTable() string {
	var out strings.Builder
	var reasons []string
	note := func(why string) string {
		why = strings.Trim(why, "()")
		if !slices.Contains(reasons, why) {
			reasons = append(reasons, why)
		}
		return fmt.Sprintf("[%d]", slices.Index(reasons, why)+1)
	}
	fmt.Fprintf(&out, "| file | %s |\n|---|%s\n", strings.Join(readers, " | "), strings.Repeat("---|", len(readers)))
	for _, row := range matrix {
		out.WriteString("| " + row.name)
		for _, reader := range readers {
			var yes, no []string
			why := ""
			for _, kind := range row.of() {
				if cell := row.cell(reader, kind); cell != "" {
					no, why = append(no, kindNames[kind]), cell
				} else {
					yes = append(yes, kindNames[kind])
				}
			}
			switch {
			case len(no) == 0:
				out.WriteString(" | yes")
			case len(yes) == 0:
				out.WriteString(" | no " + note(why))
			case len(yes) < len(no):
				out.WriteString(" | only " + strings.Join(yes, ", ") + " " + note(why))
			default:
				out.WriteString(" | yes, not " + strings.Join(no, ", ") + " " + note(why))
			}
		}
		out.WriteString(" |\n")
	}
	out.WriteString("\n")
	for i, why := range reasons {
		fmt.Fprintf(&out, "[%d] %s  \n", i+1, why)
	}
	return out.String()
}
