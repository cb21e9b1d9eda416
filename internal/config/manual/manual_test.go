package manual_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/config/manual"
)

// The comments of these types are in source, below, because test files are not read for
// comments.
type document struct {
	DataDir string        `yaml:"data_dir"`
	Port    int           `yaml:"port" min:"1" max:"65535"`
	Wait    time.Duration `yaml:"wait" min:"1s" max:"10m"`
	Mode    string        `yaml:"mode" enum:"fast,slow"`
	Copies  int           `yaml:"copies" enum:"1,3"`
	Ratio   float64       `yaml:"ratio" min:"1"`
	Items   []item        `yaml:"items"`
	Files   *files        `yaml:"files"`
	Labels  map[string]string
	Name    either `yaml:"name"`
}

type item struct {
	ID      string   `yaml:"id" required:"true" pattern:"^[a-z]+$"`
	Quiet   bool     `yaml:"quiet"`
	Retries int      `yaml:"retries"`
	To      []string `yaml:"to" required:"true"`
}

func (i *item) SetDefaults() { i.Retries = 3 }

type files struct {
	KeyFile string `yaml:"key_file"`
}

type either struct {
	Text string `yaml:"-"`
	Env  string `yaml:"env"`
}

func (e *either) UnmarshalYAML(unmarshal func(any) error) error { return unmarshal(&e.Text) }

const source = `package manual_test

type document struct {
	// DataDir is where data lies; a|b, *c*.
	DataDir string
	// Port and Wait
	// go together.
	Port int
	Wait int

	Mode string // behind the field
	Copies int
	// Ratio, with key_file and KeyFileX.
	Ratio float64
}

type files struct {
	// KeyFile is a file, KeyFile.
	KeyFile string
}
`

func read(t *testing.T) manual.Comments {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"a.go": source, "a_test.go": "not Go", "b.txt": "not Go"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	comments, err := manual.ReadComments(dir)
	if err != nil {
		t.Fatal(err)
	}
	return comments
}

func defaults() *document {
	return &document{DataDir: "./data", Port: 587, Wait: 90 * time.Second, Copies: 1, Ratio: 2}
}

func TestReference(t *testing.T) {
	t.Parallel()
	const head = "| key | value | default | |\n|---|---|---|---|\n"
	want := "### The top level\n\n" + head +
		"| `data_dir` | text | `./data` | data_dir is where data lies; a\\|b, \\*c\\*. |\n" +
		"| `port` | whole number, 1 to 65535 | `587` | Port and Wait go together. |\n" +
		"| `wait` | duration, 1s to 10m | `1m30s` | Port and Wait go together. |\n" +
		"| `mode` | `fast` `slow` |  | behind the field |\n" +
		"| `copies` | `1` `3` | `1` | behind the field |\n" +
		"| `ratio` | number, at least 1 | `2` | Ratio, with key_file and KeyFileX. |\n" +
		"| `items` | list of mappings |  |  |\n" +
		"| `files` | mapping |  |  |\n" +
		"| `labels` | mapping |  |  |\n" +
		"| `name` | secret reference |  |  |\n" +
		"\n### `items[]`\n\n" + head +
		"| `id` | text | **required** |  |\n" +
		"| `quiet` | true or false | `false` |  |\n" +
		"| `retries` | whole number | `3` |  |\n" +
		"| `to` | list of text | **required** |  |\n" +
		"\n### `files`\n\n" + head +
		"| `key_file` | text |  | key_file is a file, key_file. |\n" +
		"\n### either\n\n" + head +
		"| `env` | text |  |  |\n\n"
	if got := manual.Reference(defaults(), read(t)); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestSchema(t *testing.T) {
	t.Parallel()
	text, err := manual.Schema(defaults(), "a title", read(t))
	if err != nil {
		t.Fatal(err)
	}
	var schema map[string]any
	if err := json.Unmarshal(text, &schema); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"title":                              `"a title"`,
		"additionalProperties":               `false`,
		"properties.data_dir":                `{"default":"./data","description":"data_dir is where data lies; a|b, *c*.","type":"string"}`,
		"properties.port.anyOf":              `[{"maximum":65535,"minimum":1,"type":"integer"},{"$ref":"#/$defs/variable"}]`,
		"properties.wait.default":            `"1m30s"`,
		"properties.mode.anyOf":              `[{"enum":["fast","slow"]},{"$ref":"#/$defs/variable"}]`,
		"properties.copies.anyOf":            `[{"enum":[1,3]},{"$ref":"#/$defs/variable"}]`,
		"properties.ratio.anyOf":             `[{"minimum":1,"type":"number"},{"$ref":"#/$defs/variable"}]`,
		"properties.items":                   `{"items":{"$ref":"#/$defs/manual_test.item"},"type":["array","null"]}`,
		"properties.files":                   `{"$ref":"#/$defs/manual_test.files"}`,
		"properties.labels":                  `{"additionalProperties":{"type":"string"},"type":["object","null"]}`,
		"properties.name":                    `{"anyOf":[{"type":"string"},{"$ref":"#/$defs/manual_test.either"}]}`,
		"$defs.manual_test.item.required":    `["id","to"]`,
		"$defs.manual_test.item.properties":  `{"id":{"pattern":"^[a-z]+$|\\$\\{","type":"string"},"quiet":{"anyOf":[{"type":"boolean"},{"$ref":"#/$defs/variable"}]},"retries":{"anyOf":[{"type":"integer"},{"$ref":"#/$defs/variable"}],"default":3},"to":{"items":{"type":"string"},"type":["array","null"]}}`,
		"$defs.manual_test.files.properties": `{"key_file":{"description":"key_file is a file, key_file.","type":"string"}}`,
	} {
		if got := at(t, schema, path); got != want {
			t.Errorf("%s is %s, want %s", path, got, want)
		}
	}
}

// at returns the JSON at a path. Names of definitions contain a dot.
func at(t *testing.T, schema map[string]any, path string) string {
	t.Helper()
	var value any = schema
	for name := range strings.SplitSeq(strings.ReplaceAll(path, "manual_test.", "manual_test/"), ".") {
		inner, ok := value.(map[string]any)
		if !ok {
			t.Fatalf("nothing at %s", path)
		}
		value = inner[strings.ReplaceAll(name, "/", ".")]
	}
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
