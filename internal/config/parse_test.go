package config

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// shape has a setting of every kind.
type shape struct {
	Name    string        `yaml:"name"`
	Port    int           `yaml:"port" min:"1" max:"65535"`
	Ratio   float64       `yaml:"ratio" min:"1"`
	On      bool          `yaml:"on"`
	Timeout time.Duration `yaml:"timeout" min:"1s" max:"600s"`
	Mode    string        `yaml:"mode" enum:"fast,slow" later:"warp"`
	Hosts   []string      `yaml:"hosts"`
	Labels  map[string]string
	TLS     *files  `yaml:"tls"`
	Nested  nested  `yaml:"nested"`
	Items   []item  `yaml:"items"`
	Secret  word    `yaml:"secret"`
	Either  scalars `yaml:"either"`
	//lint:ignore U1000 the decoder must ignore a field that is not exported
	hidden  string
	Ignored string `yaml:"-"`
}

type files struct {
	CAFile  string `yaml:"ca_file"`
	KeyFile string `yaml:"key_file"`
}

type nested struct {
	GiveUpAfter time.Duration `yaml:"give_up_after"`
	Files       files         `yaml:",inline"`
	Deeper      struct {
		Count int `yaml:"count"`
	} `yaml:"deeper"`
}

type item struct {
	ID   string   `yaml:"id" required:"true"`
	Port int      `yaml:"port" min:"1" max:"65535"`
	To   []string `yaml:"to"`
}

func (i *item) SetDefaults() {
	if i.Port == 0 {
		i.Port = 587
	}
}

// word is a scalar with its own UnmarshalYAML, like the value of a secret.
type word struct{ text func() string }

func (w *word) UnmarshalYAML(unmarshal func(any) error) error {
	var text string
	if err := unmarshal(&text); err != nil {
		return err
	}
	w.text = func() string { return text }
	return nil
}

// scalars is a scalar or a mapping.
type scalars struct {
	Plain string `yaml:"-"`
	Env   string `yaml:"env"`
	Value word   `yaml:"value"`
}

func (s *scalars) UnmarshalYAML(unmarshal func(any) error) error { return unmarshal(&s.Plain) }

func parse(t *testing.T, text string, options ...Option) (shape, []string) {
	t.Helper()
	into := shape{Port: 25, Ratio: 1, Timeout: 30 * time.Second, Mode: "slow"}
	doc, problems := Parse("c.yaml", []byte(text), &into, options...)
	problems = doc.Locate(append(problems, Check(&into, "")...))
	return into, texts(problems)
}

func texts(problems []Problem) []string {
	var list []string
	for _, p := range problems {
		list = append(list, p.Error())
	}
	return list
}

func TestParseGood(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, text string
		want       func(*shape)
	}{
		{"nothing", "", func(*shape) {}},
		{"comments alone", "# nothing here\n\n# or here\n", func(*shape) {}},
		{"three dashes alone", "---\n", func(*shape) {}},
		{"null", "null\n", func(*shape) {}},
		{"byte order mark", "\ufeffname: x\n", func(s *shape) { s.Name = "x" }},
		{"carriage returns", "name: x\r\nport: 587\r\n", func(s *shape) { s.Name, s.Port = "x", 587 }},
		{"every scalar", "name: x\nport: 587\nratio: 2.5\n\"on\": true\ntimeout: 1m30s\nmode: fast\n", func(s *shape) {
			s.Name, s.Port, s.Ratio, s.On, s.Timeout, s.Mode = "x", 587, 2.5, true, 90*time.Second, "fast"
		}},
		{"a key without a value keeps the default", "port:\ntimeout: ~\nhosts:\ntls:\nnested:\n", func(*shape) {}},
		{"a duration in days", `timeout: 0.005d`, func(s *shape) { s.Timeout = 432 * time.Second }},
		{"a duration in quotes", `timeout: "45s"`, func(s *shape) { s.Timeout = 45 * time.Second }},
		{"a whole number for a ratio", "ratio: 2", func(s *shape) { s.Ratio = 2 }},
		{"lists", "hosts: [a, \"b c\", 'd']\n", func(s *shape) { s.Hosts = []string{"a", "b c", "d"} }},
		{"an empty list", "hosts: []\n", func(s *shape) { s.Hosts = []string{} }},
		{"mappings", "labels: {env: prod, \"a.b\": \"1\"}\n", func(s *shape) { s.Labels = map[string]string{"env": "prod", "a.b": "1"} }},
		{"behind a pointer", "tls:\n  ca_file: a.pem\n", func(s *shape) { s.TLS = &files{CAFile: "a.pem"} }},
		{"inlined and nested", "nested:\n  give_up_after: 72h\n  ca_file: a\n  deeper: {count: 3}\n", func(s *shape) {
			s.Nested.GiveUpAfter, s.Nested.Files.CAFile, s.Nested.Deeper.Count = 72*time.Hour, "a", 3
		}},
		{"items get their defaults", "items:\n  - id: a\n  - id: b\n    port: 25\n    to: [x]\n", func(s *shape) {
			s.Items = []item{{ID: "a", Port: 587}, {ID: "b", Port: 25, To: []string{"x"}}}
		}},
		{"scalar or mapping: scalar", "either: x\n", func(s *shape) { s.Either.Plain = "x" }},
		{"scalar or mapping: mapping", "either: {env: X}\n", func(s *shape) { s.Either.Env = "X" }},
		{"anchors and aliases", "x-to: &to [a, b]\nhosts: *to\nitems: [{id: a, to: *to}]\n", func(s *shape) {
			s.Hosts, s.Items = []string{"a", "b"}, []item{{ID: "a", Port: 587, To: []string{"a", "b"}}}
		}},
		{"a redefined anchor", "x-a: &a one\nname: *a\nx-b: &a two\nmode: fast\nhosts: [*a]\n", func(s *shape) {
			s.Name, s.Mode, s.Hosts = "one", "fast", []string{"two"}
		}},
		{"merge keys", "x-base: &base {port: 25, to: [a]}\nitems:\n  - <<: *base\n    id: a\n  - {<<: *base, id: b, port: 465}\n", func(s *shape) {
			s.Items = []item{{ID: "a", Port: 25, To: []string{"a"}}, {ID: "b", Port: 465, To: []string{"a"}}}
		}},
		{"the first of several merged goes before", "x-a: &a {port: 1}\nx-b: &b {port: 2, id: b}\nitems:\n  - <<: [*a, *b]\n", func(s *shape) {
			s.Items = []item{{ID: "b", Port: 1}}
		}},
		{"a merge of a merge", "x-a: &a {port: 1}\nx-b: &b {<<: *a, id: b}\nitems: [{<<: *b}]\n", func(s *shape) {
			s.Items = []item{{ID: "b", Port: 1}}
		}},
		{"block text", "name: |\n  one\n  two\n", func(s *shape) { s.Name = "one\ntwo\n" }},
		{"folded text", "name: >-\n  one\n  two\n", func(s *shape) { s.Name = "one two" }},
		{"text that other YAML takes for a boolean", "name: yes\nmode: fast\n", func(s *shape) { s.Name, s.Mode = "yes", "fast" }},
		{"a key with a question mark", "? name\n: x\n", func(s *shape) { s.Name = "x" }},
		{"dollars without the option", "name: ${X}$$\n", func(s *shape) { s.Name = "${X}$$" }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got, problems := parse(t, test.text)
			if len(problems) > 0 {
				t.Fatalf("problems:\n%s", strings.Join(problems, "\n"))
			}
			want := shape{Port: 25, Ratio: 1, Timeout: 30 * time.Second, Mode: "slow"}
			test.want(&want)
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
		})
	}
}

func TestLoad(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	good := filepath.Join(dir, "good.yaml")
	if err := os.WriteFile(good, []byte("name: x\nport: a\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var into shape
	doc, problems := Load(good, &into)
	if got, want := texts(problems), []string{good + `:2:7: port: want a whole number, got a`}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if into.Name != "x" || doc.Name() != good {
		t.Errorf("name %q from %q", into.Name, doc.Name())
	}

	absent := filepath.Join(dir, "absent.yaml")
	doc, problems = Load(absent, &into)
	if got, want := texts(problems), []string{absent + ": does not exist"}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if line, column := doc.At("port"); line != 0 || column != 0 {
		t.Errorf("a place in no document: %d:%d", line, column)
	}

	_, problems = Load(dir, &into)
	if got, want := texts(problems), []string{dir + ": cannot be read: it is a directory, not a regular file"}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
