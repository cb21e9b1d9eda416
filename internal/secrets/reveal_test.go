package secrets_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/lab"
)

// Functions that put their arguments into a text that leaves the process, by package
// and by the names of zerolog's and testing's methods.
var (
	printingPackages = []string{"fmt", "log", "slog", "errors", "panic", "println", "print"}
	printingMethods  = []string{"Any", "Bytes", "Err", "Error", "Errorf", "Fatal", "Fatalf", "Fields", "Hex", "Interface", "Log", "Logf", "Msg", "Msgf",
		"Panic", "Panicf", "Print", "Printf", "RawJSON", "Send", "Skip", "Skipf", "Str", "Stringer", "Strs", "Warn", "Warnf"}
)

// A Value cannot be printed, but the result of Reveal can. So nowhere in the program may
// a call of Reveal be inside the arguments of a printing function.
func TestRevealedBytesAreNotPrinted(t *testing.T) {
	t.Parallel()
	files := token.NewFileSet()
	reveals := 0
	err := filepath.WalkDir(lab.Root(), func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir():
			if name := entry.Name(); name != "." && strings.HasPrefix(name, ".") || name == "tools" || name == "node_modules" || name == "testdata" {
				return filepath.SkipDir
			}
			return nil
		case !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		file, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		n, bad := printedReveals(file)
		reveals += n
		for _, call := range bad {
			t.Errorf("%s: a revealed secret is printed", files.Position(call.Pos()))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if reveals == 0 {
		t.Error("no call of Reveal was found: the test searches the wrong directory")
	}
}

// printedReveals counts the calls of Reveal (and of this package's revealed) and returns
// those inside the arguments of a printing function.
func printedReveals(file *ast.File) (all int, printed []ast.Node) {
	var stack []ast.Node
	ast.Inspect(file, func(n ast.Node) bool {
		if n == nil {
			stack = stack[:len(stack)-1]
			return true
		}
		if call, ok := n.(*ast.CallExpr); ok && (callee(call) == "Reveal" || callee(call) == "revealed") {
			all++
			if slices.ContainsFunc(stack, func(outer ast.Node) bool {
				outerCall, ok := outer.(*ast.CallExpr)
				return ok && prints(outerCall)
			}) {
				printed = append(printed, call)
			}
		}
		stack = append(stack, n)
		return true
	})
	return all, printed
}

func callee(call *ast.CallExpr) string {
	switch f := call.Fun.(type) {
	case *ast.Ident:
		return f.Name
	case *ast.SelectorExpr:
		return f.Sel.Name
	}
	return ""
}

func prints(call *ast.CallExpr) bool {
	switch f := call.Fun.(type) {
	case *ast.Ident:
		return slices.Contains(printingPackages, f.Name)
	case *ast.SelectorExpr:
		if pkg, ok := f.X.(*ast.Ident); ok && slices.Contains(printingPackages, pkg.Name) {
			return true
		}
		return slices.Contains(printingMethods, f.Sel.Name)
	}
	return false
}

func TestPrintedRevealsAreFound(t *testing.T) {
	t.Parallel()
	const source = `package x
func f() {
	fmt.Println(string(v.Reveal()))
	log.Info().Str("k", string(v.Reveal())).Msg("x")
	log.Debug().Bytes("k", target.Password.Reveal()).Send()
	return fmt.Errorf("x: %w", wrap(secret.Value.Reveal()))
	panic(v.Reveal())
	t.Logf("%s", revealed(v))
	use(v.Reveal())
	b := v.Reveal()
	clear(b)
}`
	file, err := parser.ParseFile(token.NewFileSet(), "x.go", source, 0)
	if err != nil {
		t.Fatal(err)
	}
	if all, printed := printedReveals(file); all != 8 || len(printed) != 6 {
		t.Errorf("found %d, of which %d are printed", all, len(printed))
	}
}
