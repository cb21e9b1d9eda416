package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestReport parses the output of the real go command for a module with one test
// of each kind.
func TestReport(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	files := map[string]string{
		"go.mod": "module example.test/m\n\ngo 1.26.0\n",
		"good/good_test.go": `package good
import "testing"
func TestGood(t *testing.T) { t.Log("nobody needs this") ; t.Run("sub", func(t *testing.T) { t.Skip("no moon tonight") }) }
func TestAway(t *testing.T) { t.Skip("postfix is not on this machine: install it") }
`,
		"bad/bad_test.go": `package bad
import "testing"
func TestBad(t *testing.T) { t.Error("two and two make five") }
func TestFine(t *testing.T) {}
func FuzzFine(f *testing.F) { f.Add(1) ; f.Fuzz(func(t *testing.T, n int) { t.Skip("not a number for us") }) }
`,
		"panics/panics_test.go": `package panics
import "testing"
func TestPanics(t *testing.T) { panic("out of cheese") }
`,
		"broken/broken_test.go": "package broken\nfunc f() { undefinedName() }\n",
		"empty/empty.go":        "package empty\n",
	}
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "go", "test", "-json", "-count=1", "./...")
	cmd.Dir = dir
	events, err := cmd.Output()
	if err == nil {
		t.Fatal("go test passed, although tests in it fail")
	}

	var out strings.Builder
	ran, skipped, err := report(strings.NewReader(string(events)), &out)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"ok  \texample.test/m/good", "FAIL\texample.test/m/bad", "two and two make five",
		"FAIL\texample.test/m/panics", "out of cheese", "undefinedName", "no test files",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the report lacks %q", want)
		}
	}
	for _, unwanted := range []string{"nobody needs this", "=== RUN"} {
		if strings.Contains(out.String(), unwanted) {
			t.Errorf("the report has %q, which go test without -v does not print", unwanted)
		}
	}
	if at := strings.Index(out.String(), "two and two"); at > strings.Index(out.String(), "FAIL\texample.test/m/bad") {
		t.Error("the output of a failed test comes after the line of its package")
	}
	if ran != 5 { // TestGood, TestBad, TestFine, FuzzFine, TestPanics
		t.Errorf("%d tests ran, want 5", ran)
	}
	want := []skip{
		{"example.test/m/good", "TestGood/sub", "no moon tonight"},
		{"example.test/m/good", "TestAway", "postfix is not on this machine: install it"},
	}
	if !slices.Equal(skipped, want) {
		t.Errorf("skipped %q, want %q", skipped, want)
	}
	if t.Failed() {
		t.Log(out.String())
	}
}

func TestSplit(t *testing.T) {
	t.Parallel()
	var packages []string
	for _, name := range []string{"bench/crash", "cmd/consumer", "internal", "internal/browser", "internal/events", "internal/queue", "internal/secrets"} {
		packages = append(packages, "example.test/m/"+name)
	}
	browser, programs, others := split(packages)
	if want := []string{"example.test/m/internal/browser"}; !slices.Equal(browser, want) {
		t.Errorf("browser: %q, want %q", browser, want)
	}
	if want := []string{"example.test/m/cmd/consumer", "example.test/m/bench/crash"}; !slices.Equal(programs, want) {
		t.Errorf("programs: %q, want %q", programs, want)
	}
	want := []string{"example.test/m/internal/queue", "example.test/m/internal/secrets", "example.test/m/internal", "example.test/m/internal/events"}
	if !slices.Equal(others, want) {
		t.Errorf("others: %q, want %q", others, want)
	}
}

func TestGroupSkips(t *testing.T) {
	t.Parallel()
	got := groupSkips([]skip{
		{"github.com/certpost/certpost/internal/lab", "TestPostfix", "needs root"},
		{"github.com/certpost/certpost/internal/lab", "TestPebble", "no pebble"},
		{"github.com/certpost/certpost/cmd/consumer", "TestEndToEnd", "needs root"},
	})
	want := []string{
		"internal/lab.TestPostfix, cmd/consumer.TestEndToEnd (needs root)",
		"internal/lab.TestPebble (no pebble)",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestFingerprint(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		sum, err := fingerprint(dir)
		if err != nil {
			t.Fatal(err)
		}
		return string(sum)
	}
	first := write("go.sum", "a")
	if again := write("go.sum", "a"); again != first {
		t.Error("the fingerprint of the same files differs")
	}
	changed := write("go.sum", "b")
	added := write("main.go", "")
	if changed == first || added == changed {
		t.Errorf("a change did not change the fingerprint: %s %s %s", first, changed, added)
	}
}

func TestFuzzTests(t *testing.T) {
	t.Parallel()
	got := fuzzTests("FuzzParse\nok  \texample.test/m/config\t0.004s\n?   \texample.test/m/empty\t[no test files]\n" +
		"FuzzClean\nFuzzGlob\nok  \texample.test/m/delivery\t0.004s\n")
	want := []fuzzTest{
		{"FuzzParse", "example.test/m/config"},
		{"FuzzClean", "example.test/m/delivery"}, {"FuzzGlob", "example.test/m/delivery"},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
