package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/config"
	"github.com/certpost/certpost/internal/config/manual"
)

var updateManual = flag.Bool("update-manual", false, "write the JSON Schema and the reference of the configuration")

const (
	root       = "../.."
	manualPage = root + "/docs/configuration.md"
	schemaFile = root + "/examples/config.schema.json"
)

func comments(t *testing.T) manual.Comments {
	t.Helper()
	comments, err := manual.ReadComments(root+"/cmd/consumer", root+"/internal/delivery", root+"/internal/secrets")
	if err != nil {
		t.Fatal(err)
	}
	return comments
}

// upToDate compares a file with its expected content; with -update-manual it writes it.
func upToDate(t *testing.T, path string, want []byte) {
	t.Helper()
	if *updateManual {
		if err := os.WriteFile(path, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is out of date: run go generate ./cmd/consumer", path)
	}
}

// partUpToDate is upToDate for the part of a page between two lines.
func partUpToDate(t *testing.T, path, begin, end, want string) {
	t.Helper()
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(page), begin)
	_, after, closed := strings.Cut(rest, end)
	if !ok || !closed {
		t.Fatalf("%s has no place between %q and %q", path, begin, end)
	}
	upToDate(t, path, []byte(before+begin+want+end+after))
}

func TestManualSchema(t *testing.T) {
	want, err := manual.Schema(defaultConfig(), "Certpost's configuration", comments(t))
	if err != nil {
		t.Fatal(err)
	}
	upToDate(t, schemaFile, want)
	if !*updateManual && !bytes.Equal(configSchema(), want) {
		t.Error("certpost schema config prints another schema")
	}
	var parsed struct {
		Properties map[string]any
		Defs       map[string]any `json:"$defs"`
	}
	if err := json.Unmarshal(want, &parsed); err != nil {
		t.Fatal(err)
	}
	if parsed.Properties["nats"] == nil || parsed.Defs["delivery.Target"] == nil || parsed.Defs["secrets.Ref"] == nil {
		t.Error("the schema lacks nats, delivery.Target or secrets.Ref")
	}
}

func TestManualReference(t *testing.T) {
	const begin, end = "<!-- reference: go generate ./cmd/consumer -->\n", "<!-- end of the reference -->\n"
	partUpToDate(t, manualPage, begin, end, "\n"+manual.Reference(defaultConfig(), comments(t)))
}

// TestManualDescribesEveryKey: the comments of the structs are the manual.
func TestManualDescribesEveryKey(t *testing.T) {
	t.Parallel()
	comments := comments(t)
	eachSetting(reflect.TypeFor[Config](), "", func(owner reflect.Type, s config.Setting, path string) {
		if comments.Of(owner, s) == "" {
			t.Errorf("%s has no comment", path)
		}
	})
}

func eachSetting(t reflect.Type, path string, visit func(owner reflect.Type, s config.Setting, path string)) {
	for _, s := range config.Settings(t) {
		at := config.Join(path, s.Name)
		visit(t, s, at)
		inner := s.Field.Type
		for inner.Kind() == reflect.Pointer || inner.Kind() == reflect.Slice || inner.Kind() == reflect.Map {
			inner = inner.Elem()
		}
		if inner.Kind() == reflect.Struct {
			eachSetting(inner, at, visit)
		}
	}
}

// TestManualExamples: every example is a configuration, or targets, without problems,
// and certpost.yaml shows every key.
func TestManualExamples(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"certpost.yaml", "small.yaml"} {
		cfg, _, problems := loadConfig(root+"/examples/"+name, nil)
		if len(problems) > 0 {
			t.Errorf("%s: %v", name, problems)
		}
		if cfg.Book == nil || len(cfg.Book.Current().All()) != 1 {
			t.Errorf("%s does not have its target", name)
		}
	}
	cfg, problems := load(t, "targets_dir: ../../examples/targets\n")
	if len(problems) > 0 {
		t.Fatalf("targets: %v", problems)
	}
	var ids []string
	for _, target := range cfg.Book.Current().All() {
		ids = append(ids, target.ID)
	}
	if want := []string{"ops-archive", "web", "mail"}; !slices.Equal(ids, want) {
		t.Errorf("targets: %v, want %v", ids, want)
	}

	complete, err := os.ReadFile(root + "/examples/certpost.yaml")
	if err != nil {
		t.Fatal(err)
	}
	eachSetting(reflect.TypeFor[Config](), "", func(_ reflect.Type, s config.Setting, path string) {
		if !regexp.MustCompile(`\b` + s.Name + `\b`).Match(complete) {
			t.Errorf("certpost.yaml does not show %s", path)
		}
	})
}

// TestManualSaysWhatHappens reads every YAML block of the pages. A block that is followed
// by a text block has exactly those problems, the others have none.
func TestManualSaysWhatHappens(t *testing.T) {
	var pages []byte
	for _, name := range []string{manualPage, root + "/docs/payloads.md"} {
		page, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		pages = append(pages, page...)
	}
	t.Chdir(t.TempDir())
	if err := os.Mkdir("targets", 0o755); err != nil {
		t.Fatal(err)
	}
	env := []string{"SMTP_HOST=smtp.example.com", "SMTP_PORT=2525"}
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```(\n+```text\n(.*?)```)?").FindAllStringSubmatch(string(pages), -1)
	if len(blocks) < 5 {
		t.Fatalf("%d blocks of YAML", len(blocks))
	}
	for _, block := range blocks {
		if err := os.WriteFile("certpost.yaml", []byte(block[1]), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join("targets", "ops.yaml"), []byte("targets: []\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		_, _, problems := loadConfig("", env)
		var got strings.Builder
		for _, p := range problems {
			got.WriteString(p.Error() + "\n")
		}
		if got.String() != block[3] {
			t.Errorf("%s\nsays\n%s\nwant\n%s", block[1], got.String(), block[3])
		}
	}
}
