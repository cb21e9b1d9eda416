// Package internal has no code. Its tests enforce the project's rules that the compiler
// does not check.
package internal

import (
	"bytes"
	"errors"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/lab"
)

const module = "github.com/certpost/certpost/"

// rule is one row of the table "Imports" in docs/flow.md.
type rule struct {
	imports  []string // packages of this module
	anything bool     // may import every package of this module
	remark   string
}

// importer, never, forTests and toCome are the remarks that the tests evaluate.
var (
	importer = regexp.MustCompile(`imports (github\.com/\S+)`)
	never    = regexp.MustCompile(`never reaches ([a-z/]+)`)
)

const (
	forTests = "for tests only"
	toCome   = "to come"
)

// rules reads the table: three columns, separated by two or more spaces.
func rules(t *testing.T) map[string]rule {
	t.Helper()
	page, err := os.ReadFile(filepath.Join(lab.Root(), "docs", "flow.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(page), "\n## Imports\n")
	if !found {
		t.Fatal(`docs/flow.md has no section "Imports"`)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	table := map[string]rule{}
	for line := range strings.Lines(section) {
		if !strings.HasPrefix(line, "    ") {
			continue
		}
		columns := regexp.MustCompile(` {2,}`).Split(strings.TrimSpace(line), 3)
		if len(columns) < 2 {
			t.Fatalf("docs/flow.md: %q is not a row of package, imports and remark", line)
		}
		var r rule
		switch columns[1] {
		case "none of ours":
		case "everything":
			r.anything = true
		default:
			r.imports = strings.Split(columns[1], ", ")
		}
		if len(columns) == 3 {
			r.remark = columns[2]
		}
		table[columns[0]] = r
	}
	return table
}

// pkg is what the go command reports about a package, without its tests.
type pkg struct{ imports, deps []string }

// packages returns the packages of this module by their names in the table: without
// the module path, and without internal/.
func packages(t *testing.T) map[string]pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-f", `{{.ImportPath}}|{{join .Imports " "}}|{{join .Deps " "}}`, "./...")
	cmd.Dir = lab.Root()
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		errors.As(err, &exit)
		t.Fatalf("go list: %v: %s", err, exit.Stderr)
	}
	all := map[string]pkg{}
	for line := range strings.Lines(string(out)) {
		columns := strings.Split(strings.TrimSpace(line), "|")
		all[short(columns[0])] = pkg{strings.Fields(columns[1]), strings.Fields(columns[2])}
	}
	return all
}

func short(importPath string) string {
	return strings.TrimPrefix(strings.TrimPrefix(importPath, module), "internal/")
}

func TestImportGraph(t *testing.T) {
	t.Parallel()
	table, all := rules(t), packages(t)
	for name := range all {
		free := name == "internal" || strings.HasPrefix(name, "bench/") // not imported by any package
		if _, ok := table[name]; !free && !ok {
			t.Errorf("package %s is not in the table of docs/flow.md: add it there with its imports", name)
		}
	}
	for name, r := range table {
		p, exists := all[name]
		if !exists {
			if r.remark != toCome && !strings.HasPrefix(r.remark, toCome+"; ") {
				t.Errorf("docs/flow.md lists package %s, which does not exist", name)
			}
			continue
		}
		for _, imported := range p.imports {
			if !strings.HasPrefix(imported, module) {
				continue
			}
			other := short(imported)
			if strings.HasPrefix(table[other].remark, forTests) {
				t.Errorf("%s imports %s, which is %s", name, other, forTests)
			} else if !r.anything && !slices.Contains(r.imports, other) {
				t.Errorf("%s imports %s: docs/flow.md allows only %v", name, other, r.imports)
			}
		}
		if m := never.FindStringSubmatch(r.remark); m != nil && slices.Contains(p.deps, module+"internal/"+m[1]) {
			t.Errorf("%s depends on %s, which docs/flow.md forbids", name, m[1])
		}
	}
	for library, importers := range libraries(table) {
		for name, p := range all {
			if strings.HasPrefix(name, "bench/") {
				continue // a benchmark may compare with a library itself
			}
			imports := slices.ContainsFunc(p.imports, func(i string) bool { return i == library || strings.HasPrefix(i, library+"/") })
			if imports != slices.Contains(importers, name) {
				t.Errorf("%s importing %s is %v, but the table says that its importers are %v", name, library, imports, importers)
			}
		}
	}
}

// libraries are those that only some packages may import, each with these packages.
func libraries(table map[string]rule) map[string][]string {
	all := map[string][]string{}
	for name, r := range table {
		if m := importer.FindStringSubmatch(r.remark); m != nil {
			all[m[1]] = append(all[m[1]], name)
		}
	}
	return all
}

// TestRulesAreRead: rules would forbid nothing if the table were read wrongly.
func TestRulesAreRead(t *testing.T) {
	t.Parallel()
	table := rules(t)
	for name, imports := range map[string][]string{"legible": nil, "events": {"legible", "oddities", "pemtext"}, "broker": {"events", "backoff", "legible", "verdict"}} {
		if r, ok := table[name]; !ok || r.anything || !slices.Equal(r.imports, imports) {
			t.Errorf("%s: %+v", name, r)
		}
	}
	for name, remark := range map[string]string{
		"broker": "imports github.com/nats-io", "delivery": "imports github.com/wneessen/go-mail", "smtp": "imports github.com/wneessen/go-mail",
		"dashboard": "never reaches secrets", "lab": forTests,
	} {
		if !strings.Contains(table[name].remark, remark) {
			t.Errorf("%s: %q, want %q", name, table[name].remark, remark)
		}
	}
	if len(libraries(table)) != 2 || never.FindString("never reaches secrets") == "" {
		t.Error("the patterns do not match the remarks")
	}
}

// tracked returns the files of the checkout that git tracks, with slashes.
func tracked(t *testing.T) []string {
	t.Helper()
	// The stat makes go test discard its cached result when files were added.
	_, _ = os.Stat(filepath.Join(lab.Root(), ".git", "index"))
	cmd := exec.Command("git", "-c", "safe.directory=*", "ls-files", "-z")
	cmd.Dir = lab.Root()
	out, err := cmd.Output()
	if err != nil {
		lab.Skip(t, "git does not list the files of the checkout")
	}
	return strings.FieldsFunc(string(out), func(r rune) bool { return r == 0 })
}

// content returns the content of a tracked file; false if the file was removed and the
// removal is not committed yet.
func content(t *testing.T, file string) ([]byte, bool) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(lab.Root(), filepath.FromSlash(file)))
	if errors.Is(err, os.ErrNotExist) {
		return nil, false
	}
	if err != nil {
		t.Fatal(err)
	}
	return text, true
}

func TestPackageNames(t *testing.T) {
	t.Parallel()
	for _, file := range tracked(t) {
		for _, dir := range strings.Split(path.Dir(file), "/") {
			if slices.Contains([]string{"util", "utils", "common", "helper", "helpers", "models", "pkg", "misc", "shared"}, dir) {
				t.Errorf("%s: the directory name %q does not say what is in it", file, dir)
			}
		}
	}
}

const maxLines = 500

// longer are the files with more than maxLines lines, and the reason for each.
var longer = map[string]string{
	"internal/queue/queue_test.go":   "one test for each guarantee of the package, with one harness",
	"internal/delivery/mail_test.go": "every mail with every program that reads it",
	"internal/lab/scriptedrelay.go":  "one scripted server with all its faults",
	"internal/smtp/session_test.go":  "the table of relays' behaviour, row by row",
}

func TestFileLengths(t *testing.T) {
	t.Parallel()
	unused := maps.Clone(longer)
	for _, file := range tracked(t) {
		text, ok := content(t, file)
		if !ok || path.Ext(file) != ".go" {
			continue
		}
		lines := bytes.Count(text, []byte("\n"))
		if lines > maxLines && longer[file] == "" {
			t.Errorf("%s has %d lines, the limit is %d: split it, or add it with a reason to longer in this test", file, lines, maxLines)
		}
		if lines > maxLines*3/4 { // close to the limit: it may grow beyond it again
			delete(unused, file)
		}
	}
	for file := range unused {
		t.Errorf("%s is in longer, but is much shorter than %d lines: remove it there", file, maxLines)
	}
}

// registries are the hosts of package registries. Which of them a developer uses belongs
// in their settings, not in the repository.
var registries = []string{"proxy.golang" + ".org", "sum.golang" + ".org", "registry.npmjs" + ".org", "pypi" + ".org", "files.pythonhosted" + ".org"}

// TestNoMachineInTrackedFiles: a tracked file names no place that depends on one
// machine: no home directory, no path of the checkout, no host of a registry.
func TestNoMachineInTrackedFiles(t *testing.T) {
	t.Parallel()
	homes := []string{"/ho" + "me/", "/Us" + "ers/", "C:" + `\Users`, "/ro" + "ot/."}
	places := []string{lab.Root()}
	if home, err := os.UserHomeDir(); err == nil {
		places = append(places, home)
	}
	var here []*regexp.Regexp
	for _, place := range places {
		if strings.Count(place, "/") > 1 { // a path such as "/src" occurs in legitimate texts
			here = append(here, regexp.MustCompile(`(^|[^A-Za-z0-9_.-])`+regexp.QuoteMeta(place)+`(/|\b)`))
		}
	}
	hosts := append(slices.Clone(registries), configuredRegistries()...)
	for _, file := range tracked(t) {
		text, ok := content(t, file)
		if !ok {
			continue
		}
		for _, bad := range slices.Concat(homes, hosts) {
			if bytes.Contains(text, []byte(bad)) {
				t.Errorf("%s contains %q", file, bad)
			}
		}
		for _, bad := range here {
			if found := bad.Find(text); found != nil {
				t.Errorf("%s contains %q", file, found)
			}
		}
	}
}

// configuredRegistries returns the registry hosts in the settings of this machine.
func configuredRegistries() []string {
	var hosts []string
	for _, variable := range []string{"GOPROXY", "GOSUMDB", "NPM_CONFIG_REGISTRY", "npm_config_registry", "PIP_INDEX_URL", "UV_INDEX_URL"} {
		for _, address := range strings.FieldsFunc(os.Getenv(variable), func(r rune) bool { return strings.ContainsRune(",| ", r) }) {
			if u, err := url.Parse(address); err == nil && u.Hostname() != "" {
				hosts = append(hosts, u.Hostname())
			}
		}
	}
	return hosts
}
