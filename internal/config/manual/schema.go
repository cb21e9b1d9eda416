package manual

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/config"
	"github.com/certpost/certpost/internal/duration"
)

// Schema returns the JSON Schema (draft 2020-12) of a document. root is a pointer to the
// struct of the document, with its defaults.
func Schema(root any, title string, comments Comments) ([]byte, error) {
	w := schemaWriter{comments: comments, defs: object{}}
	value := reflect.ValueOf(root).Elem()
	schema := object{
		{"$schema", "https://json-schema.org/draft/2020-12/schema"},
		{"title", title},
	}
	schema = append(schema, w.structure(value)...)
	schema.set("patternProperties", object{{"^x-", object{{"description", "For anchors; its content is not read as settings."}}}})
	w.defs.set("variable", object{
		{"description", "A value with an environment variable: ${NAME} or ${NAME:-default}."},
		{"type", "string"}, {"pattern", `\$\{`},
	})
	schema = append(schema, member{"$defs", w.defs})
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(schema); err != nil {
		return nil, fmt.Errorf("schema: %w", err)
	}
	return out.Bytes(), nil
}

// object is a JSON object whose members keep the order of the source.
type object []member

type member struct {
	name  string
	value any
}

func (o *object) set(name string, value any) { *o = append(*o, member{name, value}) }

// MarshalJSON writes the members in their order.
func (o object) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	for i, m := range o {
		if i > 0 {
			b.WriteByte(',')
		}
		name, err := marshal(m.name)
		if err != nil {
			return nil, err
		}
		value, err := marshal(m.value)
		if err != nil {
			return nil, err
		}
		b.Write(name)
		b.WriteByte(':')
		b.Write(value)
	}
	return []byte("{" + b.String() + "}"), nil
}

func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(v)
	return bytes.TrimSpace(b.Bytes()), err
}

type schemaWriter struct {
	comments Comments
	defs     object
	defined  []reflect.Type
}

// structure returns the schema of a mapping.
func (w *schemaWriter) structure(v reflect.Value) object {
	var properties object
	var required []string
	for _, s := range config.Settings(v.Type()) {
		field := v.FieldByIndex(s.Index)
		properties.set(s.Name, w.setting(v.Type(), s, field))
		if s.Field.Tag.Get("required") == "true" && field.IsZero() {
			required = append(required, s.Name)
		}
	}
	schema := object{{"type", []string{"object", "null"}}, {"additionalProperties", false}, {"properties", properties}}
	if len(required) > 0 {
		schema.set("required", required)
	}
	return schema
}

// setting returns the schema of one key, with its description and default.
func (w *schemaWriter) setting(owner reflect.Type, s config.Setting, v reflect.Value) object {
	var schema object
	if text := w.comments.Of(owner, s); text != "" {
		schema.set("description", text)
	}
	if !v.IsZero() && isPlain(v.Type()) {
		schema.set("default", shownDefault(v))
	}
	if v.Kind() == reflect.Struct && !v.IsZero() && !config.IsScalar(v.Type()) {
		return append(schema, w.structure(v)...) // inline, because its defaults apply only at this place
	}
	return append(schema, w.of(v.Type(), s.Field.Tag)...)
}

var durationType = reflect.TypeFor[time.Duration]()

// isPlain reports whether values of a type are scalars.
func isPlain(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Struct, reflect.Map, reflect.Slice, reflect.Pointer:
		return false
	}
	return true
}

func shownDefault(v reflect.Value) any {
	if text, ok := v.Interface().(fmt.Stringer); ok {
		return config.Written(text)
	}
	return v.Interface()
}

func (w *schemaWriter) of(t reflect.Type, tag reflect.StructTag) object {
	variable := object{{"$ref", "#/$defs/variable"}}
	switch kind := t.Kind(); {
	case kind == reflect.Pointer:
		return w.of(t.Elem(), tag)
	case config.IsScalar(t) && kind == reflect.Struct && len(config.Settings(t)) > 0:
		return object{{"anyOf", []object{{{"type", "string"}}, w.reference(t)}}}
	case config.IsScalar(t) && kind == reflect.Slice:
		return object{{"anyOf", []object{{{"type", "string"}}, {{"type", []string{"array", "null"}}, {"items", w.of(t.Elem(), "")}}}}}
	case config.IsScalar(t):
		return text(tag.Get("pattern"))
	case kind == reflect.Struct:
		return w.reference(t)
	case kind == reflect.Map:
		return object{{"type", []string{"object", "null"}}, {"additionalProperties", w.of(t.Elem(), "")}}
	case kind == reflect.Slice:
		return object{{"type", []string{"array", "null"}}, {"items", w.of(t.Elem(), "")}}
	case t == durationType:
		return text(duration.Pattern)
	case kind == reflect.String && tag.Get("enum") != "":
		return object{{"anyOf", []object{{{"enum", words(tag)}}, variable}}}
	case kind == reflect.String:
		return text(tag.Get("pattern"))
	case kind == reflect.Bool:
		return object{{"anyOf", []object{{{"type", "boolean"}}, variable}}}
	}
	return object{{"anyOf", []object{number(t, tag), variable}}}
}

// text returns the schema of a string that matches a pattern or contains a variable.
func text(pattern string) object {
	if pattern == "" {
		return object{{"type", "string"}}
	}
	return object{{"type", "string"}, {"pattern", pattern + `|\$\{`}}
}

func words(tag reflect.StructTag) []string { return strings.Split(tag.Get("enum"), ",") }

func number(t reflect.Type, tag reflect.StructTag) object {
	schema := object{{"type", "integer"}}
	if t.Kind() == reflect.Float64 {
		schema = object{{"type", "number"}}
	}
	if tag.Get("enum") != "" {
		var values []json.Number
		for _, word := range words(tag) {
			values = append(values, json.Number(word))
		}
		return object{{"enum", values}}
	}
	for _, bound := range []struct{ tag, keyword string }{{"min", "minimum"}, {"max", "maximum"}} {
		if value, err := strconv.ParseFloat(tag.Get(bound.tag), 64); err == nil {
			schema.set(bound.keyword, value)
		}
	}
	return schema
}

// reference returns a reference to the definition of a struct, which it adds once.
func (w *schemaWriter) reference(t reflect.Type) object {
	known := false
	for _, d := range w.defined {
		known = known || d == t
	}
	if !known {
		w.defined = append(w.defined, t)
		v := reflect.New(t)
		config.SetDefaults(v)
		w.defs.set(t.String(), w.structure(v.Elem()))
	}
	return object{{"$ref", "#/$defs/" + t.String()}}
}
