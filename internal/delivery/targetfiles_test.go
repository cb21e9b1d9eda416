package delivery

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/config"
)

// definition is the YAML of one target as an item of a list.
func definition(id string, lines ...string) string {
	return "  - id: " + id + "\n    host: smtp.example.com\n    from_address: a@example.com\n    to: [b@example.com]\n" +
		strings.Join(append(lines, ""), "\n")
}

func list(definitions ...string) string { return "targets:\n" + strings.Join(definitions, "") }

// single is the YAML of a document that is one target.
func single(id string) string {
	return strings.ReplaceAll(strings.Replace(definition(id), "  - ", "", 1), "    ", "")
}

// lay writes files below a directory; a name that ends in / is a directory.
func lay(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if strings.HasSuffix(name, "/") {
			if err := os.MkdirAll(path, 0o755); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func ids(d *Definitions) []string {
	var ids []string
	if d != nil {
		for _, t := range d.All() {
			ids = append(ids, t.ID)
		}
	}
	return ids
}

// texts returns problems as text, without the directory's name.
func texts(dir string, problems []config.Problem) []string {
	var texts []string
	for _, p := range problems {
		texts = append(texts, strings.ReplaceAll(p.Error(), dir+"/", ""))
	}
	return texts
}

func TestSourceLoad(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		files    map[string]string
		source   Source // paths below a directory of its own
		ids      []string
		problems []string
	}{
		{"a file with a list", map[string]string{"t.yaml": list(definition("b"), definition("a"))}, Source{File: "t.yaml"}, []string{"b", "a"}, nil},
		{"a file with one target", map[string]string{"t.yaml": single("a")}, Source{File: "t.yaml"}, []string{"a"}, nil},
		{"a file without any", map[string]string{"t.yaml": "# later\n"}, Source{File: "t.yaml"}, nil, []string{"t.yaml: warning: defines no targets"}},
		{"a file with none on purpose", map[string]string{"t.yaml": "targets: []\n"}, Source{File: "t.yaml"}, nil, nil},
		{"anchors in a file", map[string]string{"t.yaml": "x-all: &all {host: smtp.example.com, from_address: a@example.com, to: [b@example.com]}\ntargets:\n  - {<<: *all, id: a}\n  - {<<: *all, id: b}\n"},
			Source{File: "t.yaml"}, []string{"a", "b"}, nil},
		{"a variable", map[string]string{"t.yaml": strings.ReplaceAll(single("a"), "smtp.example.com", "${HOST}")}, Source{File: "t.yaml", Environ: []string{"HOST=x.example.com"}}, []string{"a"}, nil},
		{"a missing variable", map[string]string{"t.yaml": strings.ReplaceAll(single("a"), "smtp.example.com", "${HOST}")}, Source{File: "t.yaml"}, nil, []string{
			"t.yaml:2:7: host: the environment variable HOST is not set: set it, or write ${HOST:-default}"}},
		{"no file", nil, Source{File: "t.yaml"}, nil, []string{"t.yaml: does not exist"}},
		{"a misspelt list", map[string]string{"t.yaml": "target:\n" + definition("a")}, Source{File: "t.yaml"}, nil, []string{`t.yaml:1:1: unknown key "target": did you mean targets?`}},
		{"no YAML", map[string]string{"t.yaml": "targets: [\n"}, Source{File: "t.yaml"}, nil, []string{"t.yaml:1:10: a [ is not closed by ]"}},
		{"a target with a problem", map[string]string{"t.yaml": single("a") + "prot: 1\n"}, Source{File: "t.yaml"}, nil, []string{`t.yaml:5:1: unknown key "prot": did you mean port?`}},

		{"the key of a configuration", map[string]string{"c.yaml": "log: {level: info}\nnats: {url: x}\n" + list(definition("a"))}, Source{Config: "c.yaml"}, []string{"a"}, nil},
		{"a configuration without the key", map[string]string{"c.yaml": "log: {level: info}\n"}, Source{Config: "c.yaml"}, nil, []string{"c.yaml: warning: defines no targets"}},

		{"a directory", map[string]string{
			"d/b.yaml": list(definition("b1"), definition("b2")), "d/a.yml": single("a"), "d/c.yaml": "", "d/sub/z.yaml": single("z"),
			"d/.hidden.yaml": single("z"), "d/a.yaml~": single("z"), "d/README.md": "# not YAML: [", "d/a.yaml.bak": single("z"),
		}, Source{Dir: "d"}, []string{"a", "b1", "b2"}, nil},
		{"an empty directory", map[string]string{"d/": ""}, Source{Dir: "d"}, nil, []string{"d: warning: defines no targets in its files (*.yaml, *.yml)"}},
		{"no directory", nil, Source{Dir: "d"}, nil, []string{"d: does not exist"}},
		{"a file for a directory", map[string]string{"d": ""}, Source{Dir: "d"}, nil, []string{"d: cannot be read: not a directory"}},
		{"a directory for a file", map[string]string{"d/x.yaml/": ""}, Source{Dir: "d"}, nil, []string{"d/x.yaml: is not a regular file"}},
		{"problems in several files, all at once, where they are", map[string]string{
			"d/a.yaml": list(definition("a", "    port: 0"), definition("same")), "d/b.yaml": "port: 70000\n" + single("b"), "d/c.yaml": list(definition("c"), definition("same")),
		}, Source{Dir: "d"}, nil, []string{
			"d/a.yaml:6:11: targets[0].port: want 1 to 65535, got 0",
			"d/b.yaml:1:7: port: want 1 to 65535, got 70000",
			"d/c.yaml:6:9: targets[1].id: same is already the id of the target in line 7 of d/a.yaml: every target needs its own"}},
		{"a warning does no harm", map[string]string{"d/a.yaml": single("a") + "tls_skip_verify: true\n"}, Source{Dir: "d"}, []string{"a"}, []string{
			"d/a.yaml:5:18: warning: tls_skip_verify: anyone on the network path to smtp.example.com can impersonate the relay: want ca_file with its CA, or tls_fingerprint"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			lay(t, dir, test.files)
			for _, path := range []*string{&test.source.Config, &test.source.File, &test.source.Dir} {
				if *path != "" {
					*path = filepath.Join(dir, *path)
				}
			}
			definitions, problems := test.source.Load()
			if got := ids(definitions); !slices.Equal(got, test.ids) {
				t.Errorf("targets %v, want %v", got, test.ids)
			}
			if got := texts(dir, problems); !slices.Equal(got, test.problems) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(test.problems, "\n"))
			}
			if (definitions == nil) != config.Failed(problems) {
				t.Errorf("definitions %v with problems %v", definitions, problems)
			}
		})
	}
}
