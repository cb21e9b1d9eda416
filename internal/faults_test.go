package internal

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/lab"
)

// claim is what a test says of itself in its doc comment: which fault it causes, and which
// result it wants. It is written as
//
//	// Fault: FAULT. Result: RESULT.
//
// with words of the test's row in docs/faults.md: parts of the columns, which are divided
// by commas and semicolons.
type claim struct{ faults, results []string }

// faultRow is a row of docs/faults.md.
type faultRow struct {
	claim
	tests []string
}

// has reports whether the row says all that the claim says.
func (r faultRow) has(c claim) bool {
	within := func(part, whole []string) bool {
		return len(part) > 0 && !slices.ContainsFunc(part, func(p string) bool { return !slices.Contains(whole, p) })
	}
	return within(c.faults, r.faults) && within(c.results, r.results)
}

// TestEveryFaultHasItsTests: every row of docs/faults.md, the catalogue of faults, names
// tests. Each of them claims at least one fault and one result of its row, and together
// they claim the whole row: a row says nothing that none of its tests says of itself.
func TestEveryFaultHasItsTests(t *testing.T) {
	t.Parallel()
	rows, claims := faultRows(t), testClaims(t)
	if len(rows) < 60 {
		t.Errorf("docs/faults.md has %d rows, want at least 60: the table was not read correctly", len(rows))
	}
	belongs := map[string][]bool{} // by test: whether a row names the test and has the claim
	for name, list := range claims {
		belongs[name] = make([]bool, len(list))
	}
	for _, row := range rows {
		var claimed claim
		for _, name := range row.tests {
			list, exists := claims[name]
			if !exists {
				t.Errorf("docs/faults.md names %s, which does not exist", name)
				continue
			}
			claims := false
			for i, c := range list {
				if row.has(c) {
					claims, belongs[name][i] = true, true
					claimed.faults, claimed.results = append(claimed.faults, c.faults...), append(claimed.results, c.results...)
				}
			}
			if !claims {
				t.Errorf("%s does not say what docs/faults.md says of it: if it is true, add to its doc comment this, or the parts that it tests: // Fault: %s. Result: %s.",
					name, strings.Join(row.faults, "; "), strings.Join(row.results, "; "))
			}
		}
		for _, part := range row.faults {
			if !slices.Contains(claimed.faults, part) {
				t.Errorf("docs/faults.md: none of %s says that it causes this fault: %s", strings.Join(row.tests, ", "), part)
			}
		}
		for _, part := range row.results {
			if !slices.Contains(claimed.results, part) {
				t.Errorf("docs/faults.md: none of %s says that it wants this result: %s", strings.Join(row.tests, ", "), part)
			}
		}
	}
	for name, list := range claims {
		for i, c := range list {
			if !belongs[name][i] {
				t.Errorf("%s claims what no row of docs/faults.md says of it: Fault: %s. Result: %s.", name, strings.Join(c.faults, "; "), strings.Join(c.results, "; "))
			}
		}
	}
}

// parts divides text at commas and semicolons.
func parts(text string) (all []string) {
	for part := range strings.FieldsFuncSeq(strings.ReplaceAll(text, "`", ""), func(r rune) bool { return r == ',' || r == ';' }) {
		if part = strings.TrimSuffix(strings.Join(strings.Fields(part), " "), "."); part != "" {
			all = append(all, part)
		}
	}
	return all
}

func faultRows(t *testing.T) (rows []faultRow) {
	t.Helper()
	page, err := os.ReadFile(filepath.Join(lab.Root(), "docs", "faults.md"))
	if err != nil {
		t.Fatal(err)
	}
	name := regexp.MustCompile(`\b(?:Test|Fuzz)[A-Z]\w+`)
	for line := range strings.Lines(string(page)) {
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| fault |") {
			continue
		}
		cells := strings.Split(strings.TrimSpace(line), "|")
		if len(cells) != 5 || len(parts(cells[1])) == 0 || len(parts(cells[2])) == 0 || !name.MatchString(cells[3]) {
			t.Errorf("docs/faults.md: want the columns fault, effect and tests in this row: %s", line)
			continue
		}
		rows = append(rows, faultRow{claim{parts(cells[1]), parts(cells[2])}, name.FindAllString(cells[3], -1)})
	}
	return rows
}

// testClaims returns the claims of all tests of the checkout, by their names.
func testClaims(t *testing.T) map[string][]claim {
	t.Helper()
	claims := map[string][]claim{}
	err := filepath.WalkDir(lab.Root(), func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && path != lab.Root() && strings.HasPrefix(entry.Name(), ".") {
			return fs.SkipDir
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && (strings.HasPrefix(f.Name.Name, "Test") || strings.HasPrefix(f.Name.Name, "Fuzz")) {
				claims[f.Name.Name] = append(claims[f.Name.Name], claimsOf(f.Doc.Text())...)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return claims
}

// claimsOf reads the claims at the end of a doc comment.
func claimsOf(doc string) (claims []claim) {
	texts := strings.Split(strings.Join(strings.Fields(doc), " "), "Fault: ")
	for _, text := range texts[1:] {
		fault, result, _ := strings.Cut(text, " Result: ")
		claims = append(claims, claim{parts(fault), parts(result)})
	}
	return claims
}
