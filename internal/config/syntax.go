package config

import (
	"errors"
	"strings"

	yaml "github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// maxDepth limits the nesting of lists and mappings; the parser needs more than linear
// time for deep nesting.
const maxDepth = 64

// parse returns the root of the document, nil if it is empty or cannot be read.
func (d *decoder) parse(data []byte) ast.Node {
	data = withoutBOM(data)
	if p := unreadable(data); p != nil {
		d.doc.failed[""] = true
		d.report(*p)
		return nil
	}
	tokens := lexer.Tokenize(string(data))
	if deep := tooDeep(tokens); deep != nil {
		d.wrong(deep, "", "is nested deeper than 64 levels")
		return nil
	}
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		d.syntax(err, string(data))
		return nil
	}
	return d.single(file)
}

func tooDeep(tokens token.Tokens) *token.Token {
	flow, entries, line := 0, 0, 0
	for _, t := range tokens {
		if t.Position.Line != line {
			entries, line = 0, t.Position.Line
		}
		switch t.Type {
		case token.SequenceStartType, token.MappingStartType:
			flow++
		case token.SequenceEndType, token.MappingEndType:
			flow--
		case token.SequenceEntryType, token.MappingKeyType, token.AnchorType, token.TagType:
			entries++
		}
		if flow > maxDepth || entries > maxDepth || t.Position.IndentLevel > maxDepth {
			return t
		}
	}
	return nil
}

// single returns the root of the only document of a file.
func (d *decoder) single(file *ast.File) ast.Node {
	var root ast.Node
	for _, doc := range file.Docs {
		switch body := doc.Body.(type) {
		case nil, *ast.DirectiveNode, *ast.NullNode, *ast.CommentGroupNode:
		default:
			if root != nil {
				d.wrong(first(body), "", "a second document begins here: want one document per file")
				return root
			}
			root = body
		}
	}
	return root
}

// syntax reports a syntax error. The parser's messages may quote the document,
// including secrets, so they only select one of Certpost's messages.
func (d *decoder) syntax(err error, text string) {
	var syntax *yaml.SyntaxError
	if !errors.As(err, &syntax) || syntax.Token == nil {
		d.doc.failed[""] = true
		d.report(Problem{Message: "is not valid YAML"})
		return
	}
	message := "is not valid YAML here"
	for _, known := range syntaxMessages {
		if strings.Contains(syntax.Message, known.theirs) {
			message = known.ours
			break
		}
	}
	if strings.ContainsAny(message, "]}") && strings.Contains(line(text, syntax.Token.Position.Line), "${") {
		message += "; put ${...} in quotes inside { } and [ ]"
	}
	d.wrong(syntax.Token, "", message)
}

var syntaxMessages = []struct{ theirs, ours string }{
	{"'\t'", "a tab in the indentation: YAML wants spaces"},
	{"tab character", "a tab in the indentation: YAML wants spaces"},
	{"flow map", "a { is not closed by }"},
	{"',' or '}'", "want a comma or } here"},
	{"sequence end token", "a [ is not closed by ]"},
	{"',' or ']'", "want a comma or ] here"},
	{"but found ','", "one comma too many"},
	{"could not find '['", "a ] without its ["},
	{"could not find '{'", "a } without its {"},
	{"end character of", "a quote is not closed"},
	{"escape", `an unknown escape in double quotes: use single quotes, or \\ for a backslash`},
	{"reserved character", "begins with a character that YAML reserves: put the value in quotes"},
	{"block sequence entries", "a list entry must begin on a new line"},
	{"mapping value is not allowed", `a second ": " on one line, or a line that is indented too deep: put a value with ": " in quotes`},
	{"value is not allowed", "the indentation does not match the lines above"},
	{"non-map value", "want key: value here"},
	{"unexpected key", "want key: value here"},
	{"unexpected scalar", "want key: value here"},
	{"could not find value for mapping key", "want key: value here"},
	{"invalid key for this map", "want a plain word as the key"},
	{"alias", "want the name of an anchor after *"},
	{"anchor", "an anchor (&name) without a value"},
	{"tag", "tags (!name) are not supported: remove it"},
	{"document separator", "nothing is allowed after --- on its line"},
	{"directive", "YAML directives (%...) are not supported: remove it"},
}

func line(text string, number int) string {
	lines := strings.Split(text, "\n")
	if number < 1 || number > len(lines) {
		return ""
	}
	return lines[number-1]
}

// first returns the token at which a value begins. For a block mapping that is its
// first key; the parser's own token is the colon after it.
func first(n ast.Node) *token.Token {
	switch n := n.(type) {
	case *ast.MappingNode:
		if !n.IsFlowStyle && len(n.Values) > 0 {
			return first(n.Values[0].Key)
		}
	case *ast.MappingValueNode:
		return first(n.Key)
	}
	return n.GetToken()
}
