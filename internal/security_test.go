package internal

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/lab"
)

// securityPage returns docs/security.md.
func securityPage(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile(filepath.Join(lab.Root(), "docs", "security.md"))
	if err != nil {
		t.Fatal(err)
	}
	return string(page)
}

// Libraries that Certpost uses register /debug/pprof and /debug/vars with net/http's default
// mux. So nothing of this program may serve it.
func TestNothingServesTheDefaultMux(t *testing.T) {
	t.Parallel()
	defaults := []string{"DefaultServeMux", "Handle", "HandleFunc", "ListenAndServe", "ListenAndServeTLS", "Serve", "ServeTLS"}
	seen := 0
	for _, file := range tracked(t) {
		if !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
			continue
		}
		source, there := content(t, file)
		if !there {
			continue
		}
		set := token.NewFileSet()
		parsed, err := parser.ParseFile(set, file, source, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range parsed.Imports {
			if path := strings.Trim(i.Path.Value, `"`); path == "net/http/pprof" || path == "expvar" {
				t.Errorf("%s imports %s", file, path)
			}
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.SelectorExpr:
				if of, is := n.X.(*ast.Ident); is && of.Name == "http" && slices.Contains(defaults, n.Sel.Name) {
					t.Errorf("%s uses http.%s, which serves the default mux, or may", set.Position(n.Pos()), n.Sel.Name)
				}
			case *ast.CompositeLit:
				if is := selects(n.Type, "http", "Server"); is {
					seen++
					if !slices.ContainsFunc(n.Elts, func(e ast.Expr) bool {
						kv, is := e.(*ast.KeyValueExpr)
						return is && kv.Key.(*ast.Ident).Name == "Handler"
					}) {
						t.Errorf("%s: an http.Server without a Handler serves the default mux", set.Position(n.Pos()))
					}
				}
			}
			return true
		})
	}
	if seen == 0 {
		t.Error("no http.Server was found: the search proves nothing")
	}
}

func selects(e ast.Expr, pkg, name string) bool {
	selector, is := e.(*ast.SelectorExpr)
	if !is || selector.Sel.Name != name {
		return false
	}
	of, is := selector.X.(*ast.Ident)
	return is && of.Name == pkg
}

// The table of direct dependencies in docs/security.md is that of go.mod, and each row has a
// reason.
func TestDependenciesHaveReasons(t *testing.T) {
	t.Parallel()
	mod, err := os.ReadFile(filepath.Join(lab.Root(), "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	direct := map[string]bool{} // whether the table has it
	for _, m := range regexp.MustCompile(`(?m)^(?:require )?\t?([a-z0-9.]+\.[a-z]+/\S+) v\S+$`).FindAllSubmatch(mod, -1) {
		direct[string(m[1])] = false
	}
	if len(direct) < 20 {
		t.Fatalf("go.mod has %d direct dependencies: it was not read correctly", len(direct))
	}
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z0-9.]+\\.[a-z]+/[^`]+)` \\| (.*) \\|$").FindAllStringSubmatch(securityPage(t), -1) {
		had, known := direct[row[1]]
		switch {
		case !known:
			t.Errorf("docs/security.md has %s, which go.mod does not require directly", row[1])
		case had:
			t.Errorf("docs/security.md has %s twice", row[1])
		case len(row[2]) < 20:
			t.Errorf("docs/security.md gives no reason for %s", row[1])
		}
		direct[row[1]] = true
	}
	for path, has := range direct {
		if !has {
			t.Errorf("docs/security.md has no row for %s: say what it is for, and why it is not written here", path)
		}
	}
}

// Each requirement in docs/security.md names tests, and they exist.
func TestRequirementsHaveTests(t *testing.T) {
	t.Parallel()
	exists := map[string]bool{}
	function := regexp.MustCompile(`(?m)^func (Test\w+|Fuzz\w+)\(`)
	for _, file := range tracked(t) {
		if strings.HasSuffix(file, "_test.go") {
			source, _ := content(t, file)
			for _, m := range function.FindAllSubmatch(source, -1) {
				exists[string(m[1])] = true
			}
		}
	}
	page := securityPage(t)
	name := regexp.MustCompile("`((?:Test|Fuzz)[A-Z]\\w+)`")
	for _, m := range name.FindAllStringSubmatch(page, -1) {
		if !exists[m[1]] {
			t.Errorf("docs/security.md names %s, which does not exist", m[1])
		}
	}
	rows := regexp.MustCompile(`(?m)^\| V\d+\.\d+\.\d+ .*$`).FindAllString(page, -1)
	for _, row := range rows {
		if !name.MatchString(row) {
			t.Errorf("this requirement names no test: %s", row)
		}
	}
	if len(rows) < 30 {
		t.Errorf("docs/security.md has %d requirements: they were not read correctly", len(rows))
	}
}
