package desk

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/verdict"
)

// constants returns the values of the constants that package verdict declares of a type.
func constants(t *testing.T, typ string) (values []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(lab.Root(), "internal", "verdict", "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok || len(spec.Values) != 1 {
				return true
			}
			if id, ok := spec.Type.(*ast.Ident); !ok || id.Name != typ {
				return true
			}
			value, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			values = append(values, value)
			return true
		})
	}
	return values
}

// Every code has a cause and a remedy in every phase, and no two codes share a cause.
func TestEveryCodeIsExplained(t *testing.T) {
	t.Parallel()
	codes, phases := constants(t, "Code"), constants(t, "Phase")
	if len(codes) < 15 || len(phases) < 17 {
		t.Fatalf("found only %d codes and %d phases", len(codes), len(phases))
	}
	unknown, _ := Explain("NO_SUCH_CODE", "")
	seen := map[string]string{}
	for _, code := range codes {
		if _, ok := byCode[verdict.Code(code)]; !ok {
			t.Errorf("byCode has no entry for %s", code)
		}
		for _, phase := range phases {
			cause, remedy := Explain(verdict.Code(code), verdict.Phase(phase))
			if cause == unknown || !strings.HasSuffix(cause, ".") || !strings.HasSuffix(remedy, ".") || cause == remedy {
				t.Errorf("%s in %s: %q, %q", code, phase, cause, remedy)
			}
			if other := seen[cause]; other != "" && other != code && !strings.Contains(cause, "blocked") {
				t.Errorf("%s and %s have the same cause %q", code, other, cause)
			}
			seen[cause] = code
		}
	}
	for o := range byPhase {
		if _, ok := byCode[o.code]; !ok {
			t.Errorf("byPhase has %v, but byCode has no entry for its code", o)
		}
	}
}

// Fingerprints are part of addresses that people bookmark: they must not change between
// versions.
func TestFingerprintsDoNotChange(t *testing.T) {
	t.Parallel()
	for want, c := range map[string][4]string{
		"9b9a170181e4": {"SMTP_AUTH", "auth", "relay-1", "5.7.8"},
		"3b72aa8377a5": {"EVENT_INVALID", "decode", "", ""},
	} {
		if got := Fingerprint(verdict.Code(c[0]), verdict.Phase(c[1]), c[2], c[3]); got != want {
			t.Errorf("%v: %s, want %s", c, got, want)
		}
	}
	if Fingerprint("A", "b", "", "") == Fingerprint("A", "", "b", "") {
		t.Error("two causes have the same fingerprint")
	}
}
