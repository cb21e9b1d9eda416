package lab

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Document requires that parts of a page, such as docs/codes.md, are what the program's own tables
// say: each part stands between <!-- begin: name --> and <!-- end: name -->. With
// UPDATE_DOCS=true it writes them.
func Document(t testing.TB, page string, parts map[string]string) {
	t.Helper()
	path := filepath.Join(Root(), page)
	stored, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := string(stored)
	for name, part := range parts {
		begin, end := "<!-- begin: "+name+" -->\n", "<!-- end: "+name+" -->"
		before, rest, found := strings.Cut(text, begin)
		_, after, closed := strings.Cut(rest, end)
		if !found || !closed {
			t.Fatalf("%s has no markers for %s", page, name)
		}
		text = before + begin + part + end + after
	}
	if text == string(stored) {
		return
	}
	if os.Getenv("UPDATE_DOCS") != "true" {
		t.Fatalf("%s differs from the program; run this test with UPDATE_DOCS=true and read the difference", page)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
