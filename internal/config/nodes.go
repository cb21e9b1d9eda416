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

// entries are the keys of a mapping, those merged in by << included: what the
// mapping itself says goes before what is merged, the first merged before the
// next. A key given twice is a problem, and the first one counts.
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
			d.problemAt(e.key, Join(path, e.name), fmt.Sprintf("is given twice: the first stands in line %d", earlier.Position.Line))
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

// merged are the entries that << brings: of one mapping, or of a list of them.
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
		d.wrong(at, path, "<< wants a mapping or a list of mappings, got "+describe(n))
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

// pairs are the keys and values of a mapping.
func pairs(n ast.Node) []*ast.MappingValueNode {
	switch n := n.(type) {
	case *ast.MappingNode:
		return n.Values
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}
	}
	return nil
}

// follow goes through anchors and aliases to the value itself; nil when there
// is none, which is then reported.
func (d *decoder) follow(n ast.Node, path string) ast.Node {
	for {
		switch node := n.(type) {
		case *ast.AnchorNode:
			n = node.Value
		case *ast.AliasNode:
			value, known := d.aliases[node]
			if !known {
				// The name is not shown: it may be a password without its quotes.
				d.wrong(node.GetToken(), path, "no anchor of that name stands before this alias; text that begins with * stands in quotes")
				return nil
			}
			n = value
		case *ast.TagNode:
			d.wrong(node.GetToken(), path, "tags (!name) mean nothing here: leave it out")
			return nil
		default:
			return n
		}
	}
}

// anchors finds the value of each alias: the latest anchor of that name whose
// value ends before the alias. An alias inside its own anchor has none.
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

// describe names the kind of a value without showing it.
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
