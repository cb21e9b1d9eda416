package config

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"

	"github.com/certpost/certpost/internal/duration"
)

// isContainer reports whether a type is written as a mapping or a list.
func isContainer(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Struct, reflect.Map, reflect.Slice:
		return true
	}
	return false
}

// decodeScalar reads a scalar. Text that was expanded from ${VAR} may become a value of
// any type; other text in quotes is always text.
func (d *decoder) decodeScalar(n ast.Node, v reflect.Value, path string) {
	raw, ok := d.literal(n, path)
	if !ok {
		return
	}
	text, expanded, complaint := d.expand(raw)
	d.doc.foreign[path] = expanded
	if complaint != "" {
		d.wrong(n.GetToken(), path, complaint)
		return
	}
	isText := n.Type() == ast.StringType || n.Type() == ast.LiteralType
	switch wantsText := IsScalar(v.Type()) || v.Kind() == reflect.String; {
	case wantsText && !isText:
		d.wrong(n.GetToken(), path, wrongKind(v.Type(), n)+": put it in quotes")
		return
	case !wantsText && !expanded && quoted(n) && v.Type() != durationType:
		d.wrong(n.GetToken(), path, fmt.Sprintf("%s, got the text %s: remove the quotes", want(v.Type()), quote(raw)))
		return
	}
	if complaint := set(v, text); complaint != "" {
		d.wrong(n.GetToken(), path, complaint)
		if !IsScalar(v.Type()) {
			// The text of the document: the value of a variable is not shown.
			d.problems[len(d.problems)-1].Got = shown(raw)
		}
		return
	}
	note(v, d.variable(raw))
}

// shown returns a value for a message, in quotes if it needs them.
func shown(raw string) string {
	if q := quote(raw); strings.ContainsAny(q[1:len(q)-1], " \\,:") || raw == "" {
		return q
	}
	return strings.Trim(quote(raw), `"`)
}

// literal returns the text of a scalar as it is written in the document.
func (d *decoder) literal(n ast.Node, path string) (string, bool) {
	t := n.GetToken()
	switch n := n.(type) {
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.StringNode:
		// The scanner drops tabs in unquoted text, which would change the value.
		if t.Type == token.StringType && strings.Contains(strings.TrimSpace(t.Origin), "\t") {
			d.wrong(t, path, "a tab in text without quotes: put it in quotes")
			return "", false
		}
		return n.Value, true
	}
	return t.Value, true
}

func quoted(n ast.Node) bool {
	t := n.GetToken().Type
	return t == token.SingleQuoteType || t == token.DoubleQuoteType || n.Type() == ast.LiteralType
}

// set sets a scalar from text. If that fails, it returns what was wanted; otherwise "".
func set(v reflect.Value, text string) string {
	if own, ok := v.Addr().Interface().(scalar); ok {
		if err := own.UnmarshalYAML(func(into any) error {
			*into.(*string) = text
			return nil
		}); err != nil {
			return err.Error()
		}
		return ""
	}
	ok := false
	switch kind := v.Kind(); {
	case v.Type() == durationType:
		d, err := duration.Parse(text)
		if ok = err == nil; ok {
			v.SetInt(int64(d))
		}
	case kind == reflect.String:
		v.SetString(text)
		return ""
	case kind == reflect.Bool:
		if ok = text == "true" || text == "false"; ok {
			v.SetBool(text == "true")
		}
	case v.CanInt():
		n, err := strconv.ParseInt(text, 10, v.Type().Bits())
		// Only one spelling per number: 010 is eight in other YAML parsers.
		if ok = err == nil && strconv.FormatInt(n, 10) == text; ok {
			v.SetInt(n)
		}
	case v.CanFloat():
		f, err := strconv.ParseFloat(text, 64)
		if ok = err == nil && strings.Trim(text, "+-.0123456789eE") == ""; ok {
			v.SetFloat(f)
		}
	default:
		panic("config: a setting of type " + v.Type().String() + " cannot be read")
	}
	if !ok {
		return want(v.Type())
	}
	return ""
}

// want returns a description of the values of a type, beginning with "want".
func want(t reflect.Type) string {
	switch kind := t.Kind(); {
	case t == durationType:
		return "want a duration such as 30s, 5m, 72h or 3d"
	case IsScalar(t) && kind != reflect.Struct:
		return "want text"
	case kind == reflect.Pointer:
		return want(t.Elem())
	case kind == reflect.Struct:
		var names []string
		for _, s := range Settings(t) {
			names = append(names, s.Name)
		}
		switch {
		case len(names) == 0:
			return "want text"
		case IsScalar(t):
			return "want text, or a mapping with " + oneOf(names)
		}
		return "want a mapping with " + oneOf(names)
	case kind == reflect.Map:
		return "want a mapping such as {name: " + example(t.Elem()) + "}"
	case kind == reflect.Slice && isContainer(t.Elem()):
		return "want a list of mappings, each with a dash before it"
	case kind == reflect.Slice:
		return "want a list such as [" + example(t.Elem()) + "]"
	case kind == reflect.Bool:
		return "want true or false"
	case kind == reflect.Float32, kind == reflect.Float64:
		return "want a number"
	case kind == reflect.String:
		return "want text"
	}
	return "want a whole number"
}

func example(t reflect.Type) string {
	if t.Kind() == reflect.String {
		return "text"
	}
	return "..."
}

// wrongKind returns what was wanted and the kind of value that was found. It never
// shows the value: text in place of a mapping may be a secret.
func wrongKind(t reflect.Type, n ast.Node) string {
	return want(t) + ", got " + describe(n)
}
