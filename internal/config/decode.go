package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

// maxNodes bounds how many values a document has once its aliases are followed:
// a few lines of aliases to aliases are millions of values.
const maxNodes = 200_000

// extension begins the keys of the top level that are no settings: a place for
// anchors.
const extension = "x-"

// decoder reads one document.
type decoder struct {
	doc       *Document
	problems  []Problem
	variables map[string]string // for ${VAR}; nil: no expansion
	overrides *overrides        // nil: none
	only      []string          // the only keys of the top level that are read; nil: all

	aliases map[*ast.AliasNode]ast.Node
	nodes   int
}

// defaulter is a struct that has defaults. Structs that the decoder makes, those
// in lists and behind pointers, get theirs before their keys are read.
type defaulter interface{ SetDefaults() }

// listener is a struct that wants to know which of its keys are given: a value
// that is the default may be there because somebody wrote it.
type listener interface{ Given(key string) }

func (d *decoder) report(p Problem) {
	p.File = d.doc.name
	d.problems = append(d.problems, p)
}

func (d *decoder) problemAt(t *token.Token, path, message string) {
	d.report(Problem{Line: t.Position.Line, Column: t.Position.Column, Path: path, Message: message})
}

// wrong reports a value that could not be read; nobody complains about it again.
func (d *decoder) wrong(t *token.Token, path, message string) {
	d.doc.failed[path] = true
	d.problemAt(t, path, message)
}

// decode reads a value of the document into a value of Go. A value that is not
// there (key: and nothing behind it) leaves what is in v.
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

// afford counts values, and reports once when there are too many.
func (d *decoder) afford(values int, n ast.Node) bool {
	before := d.nodes
	d.nodes += values
	if before <= maxNodes && d.nodes > maxNodes {
		d.wrong(first(n), "", fmt.Sprintf("is too much: with its aliases followed the document has more than %d values", maxNodes))
	}
	return d.nodes <= maxNodes
}

// made is what a pointer points to; a new one when it points to nothing.
func made(v reflect.Value) reflect.Value {
	if v.IsNil() {
		v.Set(reflect.New(v.Type().Elem()))
		setDefaults(v.Elem())
	}
	return v.Elem()
}

func setDefaults(v reflect.Value) { SetDefaults(v.Addr()) }

// SetDefaults gives the struct to which v points its defaults, if it has any.
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
			d.unknown(e, settings, path)
			d.doc.failed[path] = d.doc.failed[path] || IsScalar(v.Type())
		}
	}
	if IsScalar(v.Type()) && d.doc.failedBelow(path) {
		// It is one of several things, and that one could not be read.
		d.doc.failed[path] = true
	}
}

// leftOut reports a key with nothing behind it, anchors and aliases followed.
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

// unknown reports a key that is no setting. A key without a value is named only
// when it is nearly a setting: {hunter2} is a secret in the wrong brackets.
func (d *decoder) unknown(e entry, settings []Setting, path string) {
	names := make([]string, len(settings))
	for i, s := range settings {
		names[i] = s.Name
	}
	near := nearest(e.name, names)
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

// oneOf is "a, b or c", or a shorter word where there are too many to read.
func oneOf(names []string) string {
	const most = 10
	if len(names) > most {
		return "one of those in docs/configuration.md"
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

// item reads a value of a list or mapping, where nothing is no value.
func (d *decoder) item(n ast.Node, v reflect.Value, path string) bool {
	setDefaults(v)
	if value := d.follow(n, path); value != nil && value.Type() == ast.NullType {
		d.wrong(first(n), path, wrongKind(v.Type(), value))
		return false
	}
	d.decode(n, v, path)
	return true
}
