package internal

import (
	"cmp"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/lab"
)

// TestNothingIsSkippedInSilence fails where programs are missing that tests need, and says
// which tests are skipped because of that: `go test` shows neither, only "ok". Give -short
// to accept it; tools/test lists the skipped tests itself.
func TestNothingIsSkippedInSilence(t *testing.T) {
	t.Parallel()
	missing := map[string][]string{}
	for program, files := range programsOfTests(t) {
		if lab.Find(program) == "" {
			missing[program] = files
		}
	}
	if len(missing) == 0 {
		return
	}
	say := t.Errorf
	if testing.Short() || os.Getenv("SKIPPED_TESTS_ARE_LISTED") != "" {
		say = t.Logf
	}
	for _, program := range slices.Sorted(maps.Keys(missing)) {
		say("NOT TESTED HERE: %s is missing, so tests are skipped in %s", program, strings.Join(missing[program], ", "))
	}
	say("`go run -C tools/test .` installs what is missing and runs everything; `go test -short ./...` accepts that these tests are skipped")
}

// nightly begins the files of tests that tools/test does not run: task test:kubernetes, test:collector and
// test:compose.
var nightly = regexp.MustCompile(`^//go:build (apiserver|collector|proof)\n`)

// programsOfTests returns the programs that tests need, each with the test files that call
// lab.Need for it, or a function of lab that does.
func programsOfTests(t *testing.T) map[string][]string {
	t.Helper()
	need := regexp.MustCompile(`\bNeed\([\w.]+, "([^"]+)"\)`)
	function := regexp.MustCompile(`(?m)^func ([A-Z]\w*)\(`)
	programs := map[string][]string{}
	users := map[string][]string{} // what in a test file names the program's user in lab -> programs
	labFiles, err := filepath.Glob(filepath.Join(lab.Root(), "internal", "lab", "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range labFiles {
		source := read(t, file)
		if strings.HasSuffix(file, "_test.go") || nightly.MatchString(source) {
			continue
		}
		for _, program := range need.FindAllStringSubmatch(source, -1) {
			for _, f := range function.FindAllStringSubmatch(source, -1) {
				users["lab."+f[1]+"("] = append(users["lab."+f[1]+"("], program[1])
			}
			programs[program[1]] = nil
		}
	}
	err = filepath.WalkDir(lab.Root(), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() && path != lab.Root() && strings.HasPrefix(entry.Name(), ".") {
			return cmp.Or(err, fs.SkipDir)
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		source := read(t, path)
		if nightly.MatchString(source) {
			return nil
		}
		name, err := filepath.Rel(lab.Root(), path)
		add := func(program string) {
			if !slices.Contains(programs[program], name) {
				programs[program] = append(programs[program], name)
			}
		}
		for _, program := range need.FindAllStringSubmatch(source, -1) {
			add(program[1])
		}
		for user, all := range users {
			if strings.Contains(source, user) {
				for _, program := range all {
					add(program)
				}
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(programs) < 10 {
		t.Errorf("found only %d programs: the sources were not read correctly", len(programs))
	}
	return programs
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
