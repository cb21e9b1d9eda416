package config

import (
	"fmt"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

// entry is one key of a mapping.
type entry struct {
	name  string
	key   *token.Token
	value ast.Node
}

// entries returns the keys of a mapping, including those merged in by <<. The mapping's
// own keys take precedence over merged ones, and an earlier merged mapping over a later
// one. A duplicate key is a problem, and the first one counts.
func (d *decoder) entries(n ast.Node, path string) []entry {
	if !d.afford(len(pairs(n)), n) {
		return nil
	}
	var own, merged []entry
	seen := make(map[string]*token.Token)
	for _, pair := range pairs(n) {
		if pair.Key.IsMergeKey() {
			merged = append(merged, d.merged(pair.Value, path)...)
			continue
		}
		e, ok := d.entry(pair, path)
		if !ok {
			continue
		}
		if earlier, twice := seen[e.name]; twice {
			d.problemAt(e.key, Join(path, e.name), fmt.Sprintf("is set twice: first in line %d", earlier.Position.Line))
			continue
		}
		seen[e.name] = e.key
		own = append(own, e)
	}
	for _, e := range merged {
		if seen[e.name] == nil {
			seen[e.name] = e.key
			own = append(own, e)
		}
	}
	return own
}

// merged returns the entries that << merges in, from a mapping or a list of mappings.
func (d *decoder) merged(n ast.Node, path string) []entry {
	at := first(n)
	n = d.follow(n, path)
	if n == nil {
		return nil
	}
	if list, ok := n.(*ast.SequenceNode); ok {
		var all []entry
		for _, value := range list.Values {
			all = append(all, d.merged(value, path)...)
		}
		return all
	}
	if !isMapping(n) {
		d.wrong(at, path, "want a mapping or a list of mappings after <<, got "+describe(n))
		return nil
	}
	return d.entries(n, path)
}

func (d *decoder) entry(pair *ast.MappingValueNode, path string) (entry, bool) {
	var key ast.Node = pair.Key
	if question, ok := key.(*ast.MappingKeyNode); ok {
		key = question.Value
	}
	at := first(key)
	key = d.follow(key, path)
	if key == nil {
		return entry{}, false
	}
	if !isScalarNode(key) {
		d.wrong(at, path, "want a plain word as the key, got "+describe(key))
		return entry{}, false
	}
	name, ok := d.literal(key, path)
	return entry{name, at, pair.Value}, ok
}

// pairs returns the keys and values of a mapping.
func pairs(n ast.Node) []*ast.MappingValueNode {
	switch n := n.(type) {
	case *ast.MappingNode:
		return n.Values
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}
	}
	return nil
}

// follow follows anchors and aliases to the value itself. If there is none, it reports
// that and returns nil.
func (d *decoder) follow(n ast.Node, path string) ast.Node {
	for {
		switch node := n.(type) {
		case *ast.AnchorNode:
			n = node.Value
		case *ast.AliasNode:
			value, known := d.aliases[node]
			if !known {
				// The name is not shown: it may be a password without quotes.
				d.wrong(node.GetToken(), path, "no anchor of that name before this alias; put text that begins with * in quotes")
				return nil
			}
			n = value
		case *ast.TagNode:
			d.wrong(node.GetToken(), path, "tags (!name) are not supported: remove it")
			return nil
		default:
			return n
		}
	}
}

// anchors finds the value of each alias: that of the latest anchor of its name whose
// value ends before the alias. An alias inside its own anchor has no value.
type anchors struct {
	values  map[string]ast.Node
	aliases map[*ast.AliasNode]ast.Node
}

func resolve(root ast.Node) map[*ast.AliasNode]ast.Node {
	a := anchors{make(map[string]ast.Node), make(map[*ast.AliasNode]ast.Node)}
	a.walk(root)
	return a.aliases
}

func (a *anchors) walk(n ast.Node) {
	switch n := n.(type) {
	case *ast.AnchorNode:
		a.walk(n.Value)
		a.values[n.Name.GetToken().Value] = n.Value
	case *ast.AliasNode:
		if value, known := a.values[n.Value.GetToken().Value]; known {
			a.aliases[n] = value
		}
	case *ast.TagNode:
		a.walk(n.Value)
	case *ast.MappingKeyNode:
		a.walk(n.Value)
	case *ast.SequenceNode:
		for _, value := range n.Values {
			a.walk(value)
		}
	default:
		for _, pair := range pairs(n) {
			a.walk(pair.Key)
			a.walk(pair.Value)
		}
	}
}

func isMapping(n ast.Node) bool {
	return n.Type() == ast.MappingType || n.Type() == ast.MappingValueType
}

func isScalarNode(n ast.Node) bool {
	switch n.Type() {
	case ast.StringType, ast.LiteralType, ast.IntegerType, ast.FloatType, ast.BoolType, ast.InfinityType, ast.NanType:
		return true
	}
	return false
}

// describe returns the kind of a value, without the value itself.
func describe(n ast.Node) string {
	switch {
	case n.Type() == ast.NullType:
		return "nothing"
	case n.Type() == ast.SequenceType:
		return "a list"
	case isMapping(n):
		return "a mapping"
	case n.Type() == ast.BoolType:
		return "true or false"
	case n.Type() == ast.StringType, n.Type() == ast.LiteralType:
		return "text"
	}
	return "a number"
}
