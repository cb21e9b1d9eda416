package mailtext

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"text/template/parse"

	"github.com/certpost/certpost/internal/legible"
)

// check finds fields and functions that do not exist, also in branches that no sample takes,
// and templates that call themselves.
func check(trees map[string]*parse.Tree) []*Problem {
	c := &checker{trees: trees, done: map[call]bool{}}
	c.template(root, reflect.TypeFor[*Model]())
	for _, name := range sortedNames(trees) { // those that nothing calls, with any dot
		if !slices.ContainsFunc(c.seen, func(of call) bool { return of.name == name }) {
			c.template(name, nil)
		}
	}
	return c.found
}

func sortedNames(trees map[string]*parse.Tree) (names []string) {
	for name := range trees {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// call is a template with the type of its dot.
type call struct {
	name string
	dot  reflect.Type
}

// checker walks through templates with the types of what they name; a type is nil if it is
// not known.
type checker struct {
	trees map[string]*parse.Tree
	tree  *parse.Tree // the one that is being walked
	stack []string
	done  map[call]bool
	seen  []call
	vars  []variable
	piped bool // the command that is being checked gets the value of another one
	found []*Problem
}

type variable struct {
	name string
	of   reflect.Type
}

func (c *checker) problem(n parse.Node, format string, args ...any) {
	line, column := lineOf(c.tree, n)
	p := &Problem{Line: line, Column: column, Message: fmt.Sprintf(format, args...)}
	if !slices.ContainsFunc(c.found, func(f *Problem) bool { return *f == *p }) {
		c.found = append(c.found, p)
	}
}

func (c *checker) template(name string, dot reflect.Type) {
	if of := (call{name, dot}); !c.done[of] {
		c.done[of] = true
		c.seen = append(c.seen, of)
		tree, vars := c.tree, c.vars
		c.tree, c.vars = c.trees[name], []variable{{"$", dot}}
		c.stack = append(c.stack, name)
		c.list(c.tree.Root, dot)
		c.stack = c.stack[:len(c.stack)-1]
		c.tree, c.vars = tree, vars
	}
}

func (c *checker) list(l *parse.ListNode, dot reflect.Type) {
	if l == nil {
		return
	}
	for _, n := range l.Nodes {
		c.node(n, dot)
	}
}

func (c *checker) node(n parse.Node, dot reflect.Type) {
	switch n := n.(type) {
	case *parse.ActionNode:
		c.pipe(n.Pipe, dot)
	case *parse.IfNode:
		c.branch(&n.BranchNode, dot)
	case *parse.WithNode:
		c.branch(&n.BranchNode, dot)
	case *parse.RangeNode:
		c.branch(&n.BranchNode, dot)
	case *parse.TemplateNode:
		var of reflect.Type
		if n.Pipe != nil {
			of = c.pipe(n.Pipe, dot)
		}
		switch {
		case c.trees[n.Name] == nil:
			want := ": each file stands alone, so define it in this one"
			if near := legible.Nearest(n.Name, sortedNames(c.trees)...); near != "" {
				want = perhaps("", n.Name, sortedNames(c.trees))
			}
			c.problem(n, "template %q is not defined%s", legible.Clean(n.Name, 60), want)
		case slices.Contains(c.stack, n.Name):
			c.problem(n, "template %q calls itself", legible.Clean(n.Name, 60))
		default:
			c.template(n.Name, of)
		}
	}
}

// branch checks an if, with or range: variables of its pipe live until its end.
func (c *checker) branch(b *parse.BranchNode, dot reflect.Type) {
	outer := len(c.vars)
	of := c.pipe(b.Pipe, dot)
	inner := dot
	switch b.NodeType {
	case parse.NodeWith:
		inner = of
	case parse.NodeRange:
		inner = c.loop(b.Pipe, of)
	}
	body := len(c.vars)
	c.list(b.List, inner)
	c.vars = c.vars[:body]
	c.list(b.ElseList, dot)
	c.vars = c.vars[:outer]
}

// loop returns the type of a loop's elements, and gives its variables their types.
func (c *checker) loop(p *parse.PipeNode, of reflect.Type) (element reflect.Type) {
	var key reflect.Type
	if of != nil {
		switch of.Kind() {
		case reflect.Slice:
			key, element = reflect.TypeFor[int](), of.Elem()
		case reflect.Map:
			key, element = of.Key(), of.Elem()
		case reflect.Int:
			element = of
		default:
			c.problem(p, "%s is not a list", legible.Clean(p.String(), 60))
		}
	}
	if last := len(c.vars); len(p.Decl) > 0 {
		c.vars[last-1].of = element
		if len(p.Decl) > 1 {
			c.vars[last-2].of = key
		}
	}
	return element
}

// pipe returns the type of a pipeline's value.
func (c *checker) pipe(p *parse.PipeNode, dot reflect.Type) (of reflect.Type) {
	for i, cmd := range p.Cmds {
		of = c.command(cmd, dot, i > 0)
	}
	for _, v := range p.Decl {
		if p.IsAssign {
			c.assign(v.Ident[0], of)
			continue
		}
		c.vars = append(c.vars, variable{v.Ident[0], of})
	}
	return of
}

func (c *checker) command(cmd *parse.CommandNode, dot reflect.Type, piped bool) reflect.Type {
	var types []reflect.Type
	for _, arg := range cmd.Args {
		types = append(types, c.argument(arg, dot))
	}
	first := cmd.Args[0]
	if id, ok := first.(*parse.IdentifierNode); ok {
		c.piped = piped
		return c.function(id, types[1:])
	}
	if len(cmd.Args) > 1 || piped {
		if first.Type() == parse.NodeField || first.Type() == parse.NodeVariable || first.Type() == parse.NodeDot {
			c.problem(cmd, "%s is not a function: it takes no arguments", legible.Clean(first.String(), 60))
		}
	}
	return types[0]
}

// function returns the type of a function's result.
func (c *checker) function(id *parse.IdentifierNode, args []reflect.Type) reflect.Type {
	if !slices.Contains(functionNames, id.Ident) {
		c.problem(id, "%s", unknownFunction(id.Ident))
		return nil
	}
	switch id.Ident {
	case "date":
		if text := reflect.TypeFor[string](); len(args) < 2 && !c.piped || len(args) > 0 && args[0] != nil && args[0] != text {
			c.problem(id, `date wants a layout and a time, such as date "02.01.2006" .NotAfter`)
		}
		return reflect.TypeFor[string]()
	case "join", "lower", "upper", "print", "printf":
		return reflect.TypeFor[string]()
	case "not", "eq", "ne", "lt", "le", "gt", "ge":
		return reflect.TypeFor[bool]()
	case "len":
		return reflect.TypeFor[int]()
	case "slice":
		if len(args) > 0 {
			return args[0]
		}
	case "index":
		if len(args) == 2 && args[0] != nil && (args[0].Kind() == reflect.Slice || args[0].Kind() == reflect.Map) {
			return args[0].Elem()
		}
	}
	return nil
}

func (c *checker) argument(n parse.Node, dot reflect.Type) reflect.Type {
	switch n := n.(type) {
	case *parse.DotNode:
		return dot
	case *parse.FieldNode:
		return c.fields(n, dot, n.Ident)
	case *parse.VariableNode:
		return c.variable(n, n.Ident)
	case *parse.ChainNode:
		return c.fields(n, c.argument(n.Node, dot), n.Field)
	case *parse.PipeNode:
		return c.pipe(n, dot)
	case *parse.StringNode:
		return reflect.TypeFor[string]()
	case *parse.BoolNode:
		return reflect.TypeFor[bool]()
	case *parse.IdentifierNode:
		if !slices.Contains(functionNames, n.Ident) {
			c.function(n, nil)
		}
	}
	return nil
}

func (c *checker) variable(n parse.Node, ident []string) reflect.Type {
	for _, v := range slices.Backward(c.vars) {
		if v.name == ident[0] {
			return c.fields(n, v.of, ident[1:])
		}
	}
	return nil // the parser has refused it
}

// assign forgets the type of a variable that gets a value of another one: which it has at a
// place depends on the branches before it.
func (c *checker) assign(name string, of reflect.Type) {
	for i, v := range slices.Backward(c.vars) {
		if v.name == name {
			if v.of != of {
				c.vars[i].of = nil
			}
			return
		}
	}
}

// fields returns the type of a chain of fields of a value.
func (c *checker) fields(n parse.Node, of reflect.Type, names []string) reflect.Type {
	for _, name := range names {
		if of == nil {
			return nil
		}
		if of.Kind() == reflect.Pointer {
			of = of.Elem()
		}
		if of.Kind() == reflect.Map {
			of = of.Elem()
			continue
		}
		known := fieldNames(of)
		if !slices.Contains(known, name) {
			c.unknown(n, of, name, known)
			return nil
		}
		field, _ := of.FieldByName(name)
		of = field.Type
	}
	return of
}

func (c *checker) unknown(n parse.Node, of reflect.Type, name string, known []string) {
	name = legible.Clean(name, 60)
	switch {
	case of == reflect.TypeFor[Model]():
		c.problem(n, "there is no field .%s%s", name, perhaps(".", name, known))
	case slices.Contains(modelFields, name):
		c.problem(n, "there is no field .%s here, where the dot is another value: want $.%s", name, name)
	case of == reflect.TypeFor[Moment]():
		c.problem(n, "there is no field .%s: a moment has no fields: it is written with {{.}}, or date", name)
	case len(known) == 0:
		c.problem(n, "there is no field .%s: a %s has no fields", name, typeName(of))
	default:
		c.problem(n, "there is no field .%s: a %s has .%s", name, typeName(of), strings.Join(known, ", ."))
	}
}

// typeName is the name of a type in docs/templates.md.
func typeName(of reflect.Type) string {
	switch of.Kind() {
	case reflect.Slice:
		return "list of " + typeName(of.Elem())
	case reflect.Map:
		return "map of " + typeName(of.Elem())
	case reflect.String:
		return "text"
	case reflect.Int:
		return "number"
	case reflect.Bool:
		return "yes or no"
	case reflect.Struct:
		return strings.ToLower(of.Name())
	}
	return of.String()
}

func fieldNames(of reflect.Type) (names []string) {
	if of.Kind() != reflect.Struct {
		return nil
	}
	for i := range of.NumField() {
		if f := of.Field(i); f.IsExported() {
			names = append(names, f.Name)
		}
	}
	return names
}

// modelFields are the names of the fields of a Model.
var modelFields = fieldNames(reflect.TypeFor[Model]())

// perhaps names what was probably meant, else all that there is; dot is put before each.
func perhaps(dot, name string, known []string) string {
	if near := legible.Nearest(name, known...); near != "" {
		return ": did you mean " + dot + near + "?"
	}
	return ": want one of " + dot + strings.Join(known, ", "+dot)
}
