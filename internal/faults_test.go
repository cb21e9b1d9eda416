package internal

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/lab"
)

// TestEveryFaultHasItsTests: every row of docs/faults.md, the catalogue of faults, names
// tests, and these exist.
func TestEveryFaultHasItsTests(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(lab.Root(), "docs", "faults.md"))
	if err != nil {
		t.Fatal(err)
	}
	there := testNames(t)
	name := regexp.MustCompile(`\b(?:Test|Fuzz)[A-Z]\w+`)
	for _, named := range name.FindAllString(string(page), -1) {
		if !there[named] {
			t.Errorf("docs/faults.md names %s, which does not exist", named)
		}
	}
	rows := 0
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| fault |") {
			continue
		}
		rows++
		if len(cells) != 5 || strings.TrimSpace(cells[1]) == "" || strings.TrimSpace(cells[2]) == "" || !name.MatchString(cells[3]) {
			t.Errorf("docs/faults.md: want the columns fault, effect and tests in this row: %s", line)
		}
	}
	if rows < 60 {
		t.Errorf("docs/faults.md has %d rows, want at least 60: the table was not read correctly", rows)
	}
}

// testNames returns the names of all tests of the checkout.
func testNames(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	function := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
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
		source, err := os.ReadFile(path)
		for _, match := range function.FindAllSubmatch(source, -1) {
			names[string(match[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}
