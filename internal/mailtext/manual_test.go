package mailtext

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/lab"
)

func page(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(lab.Root(), "docs", "templates.md"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func section(t *testing.T, title string) (rows [][]string) {
	t.Helper()
	_, text, found := strings.Cut(page(t), "\n## "+title+"\n")
	if !found {
		t.Fatalf("docs/templates.md has no section %s", title)
	}
	text, _, _ = strings.Cut(text, "\n## ")
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "| `") {
			rows = append(rows, strings.Split(strings.Trim(line, "| \n"), " | "))
		}
	}
	return rows
}

func code(s string) string { return strings.TrimSuffix(strings.TrimPrefix(s, "`"), "`") }

// The page has every field, with its type, and the value that the sample has.
func TestManualHasEveryField(t *testing.T) {
	t.Parallel()
	documented := map[string]bool{}
	for _, row := range section(t, "The fields") {
		if len(row) != 4 {
			t.Fatalf("%q has %d columns", row, len(row))
		}
		field, kind, example := code(row[0]), row[1], code(row[2])
		documented[regexp.MustCompile(`^\(index (\.\w+) 0\)`).ReplaceAllString(field, "$1[]")] = true
		got, err := parsed(t, Text, "x{{if .Labels}}{{if .HowToOpen}}{{"+field+"}}{{end}}{{end}}").Execute(Sample())
		if err != nil || got != "x"+example {
			t.Errorf("%s is %q, the page says %q: %v", field, got, example, err)
		}
		if f, ok := reflect.TypeFor[Model]().FieldByName(field[1:]); ok && strings.TrimSuffix(kind, "s") != typeName(f.Type) {
			t.Errorf("%s is a %s, the page says %s", field, typeName(f.Type), kind)
		}
	}
	var walk func(path string, of reflect.Type)
	walk = func(path string, of reflect.Type) {
		for _, name := range fieldNames(of) {
			field, _ := of.FieldByName(name)
			at := path + "." + name
			if field.Type.Kind() == reflect.Map {
				at += ".owner"
			}
			if !documented[at] && !strings.HasPrefix(at, ".Names[].") {
				t.Errorf("the page does not have %s", at)
			}
			switch field.Type.Kind() {
			case reflect.Struct:
				walk(at, field.Type)
			case reflect.Slice:
				walk(at+"[]", field.Type.Elem())
			}
		}
	}
	walk("", reflect.TypeFor[Model]())
}

// Every template on the page works, and every mistake gives the message that stands there.
func TestManualTemplates(t *testing.T) {
	t.Parallel()
	for _, row := range section(t, "How to write one") {
		source := code(row[0])
		if strings.Contains(source, "index .Files") {
			source = "{{if .Files}}" + source + "{{end}}"
		}
		parsed(t, Text, "x"+source)
	}
	for _, name := range functionNames {
		if !strings.Contains(page(t), name) && name != "slice" {
			t.Errorf("the page does not mention %s", name)
		}
	}
	for _, row := range section(t, "What `certpost check` says") {
		_, problems := Parse(Text, "f", code(row[0]))
		if len(problems) == 0 || problems[0].Message != code(row[1]) {
			t.Errorf("%s says %v, the page says %s", row[0], problems, row[1])
		}
	}
}
