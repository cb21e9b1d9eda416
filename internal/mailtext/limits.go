package mailtext

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"text/template/parse"
)

// Limits of one template. They are far above what mails need.
const (
	maxSource   = 64 << 10  // bytes of the file
	maxSubject  = 250       // characters
	maxText     = 256 << 10 // bytes of the result
	maxHTML     = 512 << 10
	maxValue    = 16 << 10 // bytes of a value that a function returns
	maxSteps    = 200_000  // of one run: nodes in loops and in called templates
	maxVerbs    = 32       // of one printf
	maxWidth    = 200      // of one printf's verb
	maxErrorLen = 300
)

// maxOutput is the limit of what a template writes, before a subject is cut.
var maxOutput = map[Kind]int{Subject: 64 << 10, Text: maxText, HTML: maxHTML}

// output collects what a template writes, up to a limit.
type output struct {
	strings.Builder
	left int
}

var errTooLong = errors.New("the result is too long")

func (o *output) Write(p []byte) (int, error) {
	if o.left -= len(p); o.left < 0 {
		return 0, errTooLong
	}
	return o.Builder.Write(p)
}

// steps is what is left of the steps of one run.
type steps struct{ left int }

// take is called by a node that instrument puts into loops and called templates.
func (s *steps) take(n, line int) (string, error) {
	if s.left -= n; s.left < 0 {
		return "", fmt.Errorf("takes more than %d steps in the loop or template of line %d", maxSteps, line)
	}
	return "", nil
}

// stepName is a function that no template can call: it is not on the list of functions.
const stepName = "certpost_step"

// instrument puts a node that takes steps at the start of each loop's body and of each
// template that another one calls. It counts the nodes of the body, so that a long body
// costs more. The node declares a variable, so it writes nothing.
func instrument(tree *parse.Tree) {
	eachNode(tree.Root, func(n parse.Node) {
		if loop, ok := n.(*parse.RangeNode); ok {
			loop.List.Nodes = append([]parse.Node{stepNode(tree, loop.List, loop)}, loop.List.Nodes...)
		}
	})
	if tree.Name != root {
		tree.Root.Nodes = append([]parse.Node{stepNode(tree, tree.Root, tree.Root)}, tree.Root.Nodes...)
	}
}

func stepNode(tree *parse.Tree, body *parse.ListNode, at parse.Node) parse.Node {
	n := 0
	eachNode(body, func(parse.Node) { n++ })
	line, _ := lineOf(tree, at)
	text := fmt.Sprintf("{{$%s := %s %d %d}}", stepName, stepName, n, line)
	small := parse.New(root)
	small.Mode = parse.SkipFuncCheck
	made, err := small.Parse(text, "", "", map[string]*parse.Tree{})
	if err != nil {
		panic("mailtext: " + err.Error()) // our own text
	}
	return made.Root.Nodes[0]
}

// eachNode calls visit for a node and all below it, parents first.
func eachNode(n parse.Node, visit func(parse.Node)) {
	list := func(l *parse.ListNode) {
		if l != nil {
			eachNode(l, visit)
		}
	}
	branch := func(b *parse.BranchNode) {
		eachNode(b.Pipe, visit)
		list(b.List)
		list(b.ElseList)
	}
	visit(n)
	switch n := n.(type) {
	case *parse.ListNode:
		for _, child := range n.Nodes {
			eachNode(child, visit)
		}
	case *parse.ActionNode:
		eachNode(n.Pipe, visit)
	case *parse.IfNode:
		branch(&n.BranchNode)
	case *parse.WithNode:
		branch(&n.BranchNode)
	case *parse.RangeNode:
		branch(&n.BranchNode)
	case *parse.TemplateNode:
		if n.Pipe != nil {
			eachNode(n.Pipe, visit)
		}
	case *parse.PipeNode:
		for _, cmd := range n.Cmds {
			for _, arg := range cmd.Args {
				eachNode(arg, visit)
			}
		}
	case *parse.ChainNode:
		eachNode(n.Node, visit)
	}
}

// lineOf returns where a node is, from 1.
func lineOf(tree *parse.Tree, n parse.Node) (line, column int) {
	place, _ := tree.ErrorContext(n) // "root:line:column", the column from 0
	parts := strings.Split(place, ":")
	if len(parts) < 3 {
		return 1, 1
	}
	line, _ = strconv.Atoi(parts[len(parts)-2])
	column, _ = strconv.Atoi(parts[len(parts)-1])
	return max(line, 1), column + 1
}
