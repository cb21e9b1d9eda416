package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/certpost/certpost/internal/legible"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

// maxNodes limits the number of values of a document with its aliases expanded: a few
// lines of aliases to aliases can expand to millions of values.
const maxNodes = 200_000

// extension is the prefix of keys of the top level that are not settings, for anchors.
const extension = "x-"

// decoder reads one document.
type decoder struct {
	doc       *Document
	problems  []Problem
	variables map[string]string // for ${VAR}; nil means no expansion
	overrides *overrides        // nil means none
	flags     []flagged
	only      []string // the only keys of the top level that are read; nil means all

	aliases map[*ast.AliasNode]ast.Node
	nodes   int
}

// defaulter is a struct with defaults. The decoder calls SetDefaults on each struct that
// it makes, in lists and for pointers, before it reads the keys.
type defaulter interface{ SetDefaults() }

// listener is a struct that needs to know which of its keys are set, because a key
// may be set explicitly to its default.
type listener interface{ Given(key string) }

func (d *decoder) report(p Problem) {
	p.File = d.doc.name
	d.problems = append(d.problems, p)
}

func (d *decoder) problemAt(t *token.Token, path, message string) {
	d.report(Problem{Line: t.Position.Line, Column: t.Position.Column, Path: path, Message: message})
}

// wrong reports a value that could not be read; later problems of that value are
// dropped.
func (d *decoder) wrong(t *token.Token, path, message string) {
	d.doc.failed[path] = true
	d.problemAt(t, path, message)
}

// decode reads a value of the document into v. A key without a value leaves v
// unchanged.
func (d *decoder) decode(n ast.Node, v reflect.Value, path string) {
	if !d.afford(1, n) {
		return
	}
	at := first(n)
	n = d.follow(n, path)
	if n == nil {
		return
	}
	d.doc.places[path] = place{at.Position.Line, at.Position.Column}
	if _, null := n.(*ast.NullNode); null {
		return
	}
	switch kind := v.Kind(); {
	case isScalarNode(n) && (IsScalar(v.Type()) || kind != reflect.Pointer && !isContainer(v.Type())):
		d.decodeScalar(n, v, path)
	case kind == reflect.Pointer:
		d.decode(n, made(v), path)
	case kind == reflect.Struct && isMapping(n) && len(Settings(v.Type())) > 0:
		d.decodeStruct(n, v, path)
	case kind == reflect.Map && isMapping(n):
		d.decodeMap(n, v, path)
	case kind == reflect.Slice && n.Type() == ast.SequenceType:
		d.decodeList(n.(*ast.SequenceNode), v, path)
	default:
		d.wrong(at, path, wrongKind(v.Type(), n))
	}
}

// afford counts values, reports once when there are too many, and returns false then.
func (d *decoder) afford(values int, n ast.Node) bool {
	before := d.nodes
	d.nodes += values
	if before <= maxNodes && d.nodes > maxNodes {
		d.wrong(first(n), "", fmt.Sprintf("is too large: with its aliases expanded the document has more than %d values", maxNodes))
	}
	return d.nodes <= maxNodes
}

// made returns the value that a pointer points to, and makes it if the pointer is nil.
func made(v reflect.Value) reflect.Value {
	if v.IsNil() {
		v.Set(reflect.New(v.Type().Elem()))
		setDefaults(v.Elem())
	}
	return v.Elem()
}

func setDefaults(v reflect.Value) { SetDefaults(v.Addr()) }

// SetDefaults sets the defaults of the struct that v points to, if it has any.
func SetDefaults(v reflect.Value) {
	if withDefaults, ok := v.Interface().(defaulter); ok {
		withDefaults.SetDefaults()
	}
}

func (d *decoder) decodeStruct(n ast.Node, v reflect.Value, path string) {
	settings := Settings(v.Type())
	for _, e := range d.entries(n, path) {
		if path == "" && (strings.HasPrefix(e.name, extension) || d.only != nil && !slices.Contains(d.only, e.name)) {
			continue
		}
		if s := named(settings, e.name); s != nil {
			if l, ok := v.Addr().Interface().(listener); ok && !d.leftOut(e.value) {
				l.Given(e.name)
			}
			d.decode(e.value, v.FieldByIndex(s.Index), Join(path, e.name))
		} else {
			d.unknown(e, settings, v, path)
			d.doc.failed[path] = d.doc.failed[path] || IsScalar(v.Type())
		}
	}
	if IsScalar(v.Type()) && d.doc.failedBelow(path) {
		// Exactly one key of such a mapping is set, and that one could not be read.
		d.doc.failed[path] = true
	}
}

// leftOut reports whether a key has no value, after anchors and aliases are followed.
func (d *decoder) leftOut(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.AnchorNode:
		return d.leftOut(n.Value)
	case *ast.AliasNode:
		value, known := d.aliases[n]
		return !known || d.leftOut(value)
	case *ast.NullNode:
		return true
	}
	return false
}

func named(settings []Setting, name string) *Setting {
	for i := range settings {
		if settings[i].Name == name {
			return &settings[i]
		}
	}
	return nil
}

// hinter is a struct that knows other names for its keys.
type hinter interface {
	// Hint returns what to write instead of an unknown key, "" if it does not know.
	Hint(key string) string
}

// unknown reports an unknown key. A key without a value is quoted only if it is similar
// to a setting: {hunter2} may be a secret that was put into braces by mistake.
func (d *decoder) unknown(e entry, settings []Setting, v reflect.Value, path string) {
	if h, ok := v.Interface().(hinter); ok {
		if hint := h.Hint(e.name); hint != "" {
			d.doc.failed[Join(path, e.name)] = true
			d.problemAt(e.key, path, fmt.Sprintf("unknown key %s: %s", quote(e.name), hint))
			return
		}
	}
	names := make([]string, len(settings))
	for i, s := range settings {
		names[i] = s.Name
	}
	near := legible.Nearest(e.name, names...)
	if near != "" {
		d.doc.failed[Join(path, near)] = true
		d.problemAt(e.key, path, fmt.Sprintf("unknown key %s: did you mean %s?", quote(e.name), near))
		return
	}
	what := "unknown key " + quote(e.name)
	if _, bare := e.value.(*ast.NullNode); bare {
		what = "unknown key without a value"
	}
	d.problemAt(e.key, path, what+": want "+oneOf(names))
}

// oneOf joins names as "a, b or c", or refers to the manual if there are more than ten.
func oneOf(names []string) string {
	const most = 10
	if len(names) > most {
		return "one of the keys in docs/configuration.md"
	}
	return either(names)
}

func (d *decoder) decodeMap(n ast.Node, v reflect.Value, path string) {
	m := reflect.MakeMap(v.Type())
	for _, e := range d.entries(n, path) {
		value, at := reflect.New(v.Type().Elem()).Elem(), Join(path, e.name)
		if d.item(e.value, value, at) {
			m.SetMapIndex(reflect.ValueOf(e.name), value)
		}
	}
	v.Set(m)
}

func (d *decoder) decodeList(n *ast.SequenceNode, v reflect.Value, path string) {
	list := reflect.MakeSlice(v.Type(), len(n.Values), len(n.Values))
	for i, value := range n.Values {
		d.item(value, list.Index(i), fmt.Sprintf("%s[%d]", path, i))
	}
	v.Set(list)
}

// item reads an entry of a list or mapping, which must have a value.
func (d *decoder) item(n ast.Node, v reflect.Value, path string) bool {
	setDefaults(v)
	if value := d.follow(n, path); value != nil && value.Type() == ast.NullType {
		d.wrong(first(n), path, wrongKind(v.Type(), value))
		return false
	}
	d.decode(n, v, path)
	return true
}
