package manual

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/certpost/certpost/internal/config"
)

// Reference returns the manual of all keys in Markdown, with a table for every mapping
// of the document. root is a pointer to the struct of the document, with its defaults.
func Reference(root any, comments Comments) string {
	r := reference{comments: comments, written: make(map[reflect.Type]bool)}
	r.section("The top level", reflect.ValueOf(root).Elem(), "")
	r.later()
	return r.out.String()
}

type reference struct {
	comments Comments
	out      strings.Builder
	written  map[reflect.Type]bool
	shared   []reflect.Type // mappings that are used in several places
	inShared bool
}

// title returns the heading of the mapping at a path.
func (r *reference) title(path string) string {
	if r.inShared {
		return "`{" + path + ": {...}}`"
	}
	return "`" + path + "`"
}

// section writes the table of one mapping, then those of the mappings in it.
func (r *reference) section(title string, v reflect.Value, path string) {
	fmt.Fprintf(&r.out, "### %s\n\n", title)
	settings := config.Settings(v.Type())
	if r.inShared {
		settings = own(v.Type())
	}
	r.table(v, settings)
	for _, s := range settings {
		field, at := v.FieldByIndex(s.Index), config.Join(path, s.Name)
		element := elementOf(field.Type())
		switch {
		case element.Kind() != reflect.Struct || len(config.Settings(element)) == 0 || r.written[element]:
		case config.IsScalar(element):
			r.written[element] = true
			r.shared = append(r.shared, element)
		case field.Kind() == reflect.Struct:
			r.section(r.title(at), field, at)
		default:
			r.written[element] = true
			one := reflect.New(element)
			config.SetDefaults(one)
			at += suffix(field.Type())
			r.section(r.title(at), one.Elem(), at)
		}
	}
}

// later writes the mappings that are used in several places.
func (r *reference) later() {
	r.inShared = true
	for len(r.shared) > 0 {
		t := r.shared[0]
		r.shared = r.shared[1:]
		if inner := inlined(t); inner != nil {
			if !r.written[inner] {
				r.written[inner] = true
				r.shared = append(r.shared, inner)
			}
			if len(own(t)) == 0 {
				continue
			}
		}
		r.section(heading(t), reflect.New(t).Elem(), "")
	}
}

// own returns the keys of a struct without those of a struct inlined into it.
func own(t reflect.Type) []config.Setting {
	return slices.DeleteFunc(config.Settings(t), func(s config.Setting) bool { return len(s.Index) > 1 })
}

// inlined returns the first struct that is inlined into another one, nil if there is
// none.
func inlined(t reflect.Type) reflect.Type {
	for i := range t.NumField() {
		if strings.HasSuffix(t.Field(i).Tag.Get("yaml"), ",inline") {
			return t.Field(i).Type
		}
	}
	return nil
}

func heading(t reflect.Type) string {
	if t.Name() == "Ref" {
		return "Secret references"
	}
	return t.Name()
}

func elementOf(t reflect.Type) reflect.Type {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Map {
		t = t.Elem()
	}
	return t
}

func suffix(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Slice:
		return "[]"
	case reflect.Map:
		return ".KEY"
	}
	return ""
}

func (r *reference) table(v reflect.Value, settings []config.Setting) {
	r.out.WriteString("| key | value | default | |\n|---|---|---|---|\n")
	for _, s := range settings {
		field := v.FieldByIndex(s.Index)
		fmt.Fprintf(&r.out, "| `%s` | %s | %s | %s |\n", s.Name, kind(field.Type(), s.Field.Tag), defaultOf(field, s.Field.Tag),
			escape.Replace(r.comments.Of(v.Type(), s)))
	}
	r.out.WriteString("\n")
}

// escape escapes characters that have a meaning in Markdown.
var escape = strings.NewReplacer("|", `\|`, "*", `\*`, "<", `\<`)

func defaultOf(v reflect.Value, tag reflect.StructTag) string {
	switch {
	case !v.IsZero() && isPlain(v.Type()):
		return fmt.Sprintf("`%v`", shownDefault(v))
	case tag.Get("required") == "true":
		return "**required**"
	case v.Kind() == reflect.Bool:
		return "`false`"
	}
	return ""
}

// kind returns a description of the values of a key.
func kind(t reflect.Type, tag reflect.StructTag) string {
	switch kind := t.Kind(); {
	case tag.Get("enum") != "":
		return "`" + strings.Join(words(tag), "` `") + "`"
	case kind == reflect.Pointer:
		return kindOf(t.Elem(), tag)
	case kind == reflect.Slice && config.IsScalar(t):
		return "text, or list of words"
	case kind == reflect.Slice && t.Elem().Kind() == reflect.Struct:
		return "list of mappings"
	case kind == reflect.Slice:
		return "list of " + kindOf(t.Elem(), "")
	case kind == reflect.Map && t.Elem().Kind() == reflect.Struct:
		return "mapping of mappings"
	}
	return kindOf(t, tag)
}

func kindOf(t reflect.Type, tag reflect.StructTag) string {
	bounds := ""
	switch low, high := tag.Get("min"), tag.Get("max"); {
	case low != "" && high != "":
		bounds = ", " + low + " to " + high
	case low != "":
		bounds = ", at least " + low
	}
	switch kind := t.Kind(); {
	case config.IsScalar(t) && kind == reflect.Struct && inlined(t) != nil && len(own(t)) > 0:
		var names []string
		for _, s := range own(t) {
			names = append(names, "`"+s.Name+"`")
		}
		return "secret reference, or " + strings.Join(names, ", ")
	case config.IsScalar(t) && kind == reflect.Struct && inlined(t) != nil:
		return "text or secret reference"
	case config.IsScalar(t) && kind == reflect.Struct && len(config.Settings(t)) > 0:
		return "secret reference"
	case config.IsScalar(t) && kind != reflect.Struct:
		return strings.ToLower(t.Name())
	case config.IsScalar(t):
		return "text"
	case t == durationType:
		return "duration" + bounds
	case kind == reflect.Struct, kind == reflect.Map:
		return "mapping"
	case kind == reflect.Bool:
		return "true or false"
	case kind == reflect.Float64:
		return "number" + bounds
	case t.Kind() == reflect.Int:
		return "whole number" + bounds
	}
	return "text"
}
