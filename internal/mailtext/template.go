package mailtext

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	htmltemplate "html/template"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	texttemplate "text/template"
	"text/template/parse"
	"unicode/utf8"

	"github.com/certpost/certpost/internal/legible"
)

// Kind is the part of the mail that a template makes.
type Kind string

// The kinds of templates.
const (
	Subject Kind = "subject" // one line of text
	Text    Kind = "text"    // the plain text
	HTML    Kind = "html"    // a whole HTML document; values are escaped by html/template
)

// root is the name of the template that the file itself is.
const root = "mail"

// Template is a template that was checked. It is safe for concurrent use; executions of one
// template run one after another.
type Template struct {
	kind   Kind
	file   string
	digest string

	mu    sync.Mutex
	steps *steps // guarded by mu
	run   func(io.Writer, *Model) error
}

// Problem is what is wrong with a template.
type Problem struct {
	Line, Column int // 1 is the first; 0 if the whole file is meant
	Message      string
}

// Error is the message with the line.
func (p *Problem) Error() string {
	if p.Line == 0 {
		return p.Message
	}
	return fmt.Sprintf("line %d: %s", p.Line, p.Message)
}

// Parse parses and checks a template: fields and functions must exist, and it must work with
// each shape of mail. file is for messages only. The template is nil if there are problems.
func Parse(kind Kind, file, source string) (*Template, []*Problem) {
	sum := sha256.Sum256([]byte(source))
	source, problem := readable(source)
	if problem != nil {
		return nil, []*Problem{problem}
	}
	trees := map[string]*parse.Tree{}
	tree := parse.New(root)
	tree.Mode = parse.SkipFuncCheck // check has better words
	_, err := tree.Parse(source, "", "", trees)
	if problem := foreign(source, err == nil); problem != nil {
		return nil, []*Problem{problem}
	}
	if err != nil {
		return nil, []*Problem{located(err, source)}
	}
	if trees[root] == nil || parse.IsEmptyTree(trees[root].Root) {
		return nil, []*Problem{{Message: "is empty"}}
	}
	if problems := check(trees); len(problems) > 0 {
		return nil, problems
	}
	for _, tree := range trees {
		instrument(tree)
	}
	t := &Template{kind: kind, file: file, digest: hex.EncodeToString(sum[:8]), steps: &steps{}}
	if err := t.build(trees); err != nil {
		return nil, []*Problem{located(err, source)}
	}
	for _, s := range samples() {
		if problem := t.try(s, source); problem != nil {
			return nil, []*Problem{problem}
		}
	}
	return t, nil
}

// readable returns the source without byte order mark and carriage returns.
func readable(source string) (string, *Problem) {
	if len(source) > maxSource {
		return "", &Problem{Message: fmt.Sprintf("has %d bytes: at most %d are allowed", len(source), maxSource)}
	}
	source = strings.ReplaceAll(strings.TrimPrefix(source, "\ufeff"), "\r\n", "\n")
	line := 1
	for i, r := range source {
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(source[i:], string(utf8.RuneError)):
			return "", &Problem{Line: line, Column: 1, Message: "is not UTF-8"}
		case r != '\n' && r != '\t' && (r < ' ' || r == 0x7f):
			return "", &Problem{Line: line, Column: 1, Message: fmt.Sprintf("has the control character %U", r)}
		case r == '\n':
			line++
		}
	}
	return source, nil
}

// build makes what executes the trees.
func (t *Template) build(trees map[string]*parse.Tree) error {
	names := make([]string, 0, len(trees))
	for name := range trees {
		names = append(names, name)
	}
	slices.Sort(names)
	if t.kind != HTML {
		all := texttemplate.New(root).Option("missingkey=zero").Funcs(functions(t.steps))
		for _, name := range names {
			if _, err := all.AddParseTree(name, trees[name]); err != nil {
				return err
			}
		}
		t.run = func(w io.Writer, m *Model) error { return all.ExecuteTemplate(w, root, m) }
		return nil
	}
	all := htmltemplate.New(root).Option("missingkey=zero").Funcs(functions(t.steps))
	for _, name := range names {
		if _, err := all.AddParseTree(name, trees[name]); err != nil {
			return err
		}
	}
	t.run = func(w io.Writer, m *Model) error { return all.ExecuteTemplate(w, root, m) }
	return nil
}

// File is the file that the template was read from.
func (t *Template) File() string { return t.file }

// Digest identifies the content of the template.
func (t *Template) Digest() string { return t.digest }

// Execute makes the text. A subject is one line of at most 250 characters; other texts have
// line feeds between lines. The error has file and line, and no text of the model.
func (t *Template) Execute(m *Model) (string, error) {
	text, problem := t.execute(m)
	if problem != nil {
		return "", fmt.Errorf("%s, %w", legible.Clean(t.file, 300), problem)
	}
	if t.kind == Subject {
		text = oneLine(text)
	}
	return visible(text), nil
}

func (t *Template) execute(m *Model) (string, *Problem) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.steps.left = maxSteps
	out := output{left: maxOutput[t.kind]}
	if err := t.run(&out, m); err != nil {
		if errors.Is(err, errTooLong) {
			return "", &Problem{Message: fmt.Sprintf("the result is too long: at most %d bytes are allowed, and %d for one value", maxOutput[t.kind], maxValue)}
		}
		return "", located(err, "")
	}
	return out.String(), nil
}

// try executes the template with a sample.
func (t *Template) try(s sample, source string) *Problem {
	text, problem := t.execute(s.model)
	switch trimmed := strings.TrimSpace(text); {
	case problem != nil:
		problem.Message += " (with " + s.about + ")"
		return problem
	case trimmed == "":
		return &Problem{Message: "makes an empty " + string(t.kind) + " (with " + s.about + ")"}
	case t.kind == Subject && strings.Contains(trimmed, "\n"):
		return &Problem{Message: "makes a subject of more than one line (with " + s.about + "): {{- and -}} remove line breaks beside them"}
	case t.kind == HTML && !strings.Contains(trimmed, "<"):
		return &Problem{Message: "makes a text without any HTML element: want the whole document, such as <!doctype html><html>...</html>"}
	}
	return nil
}

// Shows reports whether the result depends on what change changes in an ordinary model.
func (t *Template) Shows(change func(*Model)) bool {
	m := Sample()
	before, _ := t.execute(m)
	change(m)
	after, _ := t.execute(m)
	return before != after
}

// place is how the errors of the template packages begin.
var place = regexp.MustCompile(`^(?:html/template|template): ?` + root + `:(\d+)(?::(\d+))?: (?s:(.*))$`)

// executing is what they say before the cause.
var executing = regexp.MustCompile(`^executing "[^"]*" at (<(?s:.*?)>): `)

// located finds the place in an error of text/template or html/template, and makes its words
// plain.
func located(err error, source string) *Problem {
	p := &Problem{Message: err.Error()}
	if m := place.FindStringSubmatch(p.Message); m != nil {
		p.Line, _ = strconv.Atoi(m[1])
		if n, err := strconv.Atoi(m[2]); err == nil {
			p.Column = n + 1
		}
		p.Message = m[3]
	}
	p.Message = executing.ReplaceAllString(p.Message, "$1: ")
	if at := strings.LastIndex(p.Message, "error calling "+stepName+": "); at >= 0 {
		p.Line, p.Column, p.Message = 0, 0, p.Message[at+len("error calling "+stepName+": "):]
	}
	if p.Message == "unexpected EOF" {
		p.Line = cmp.Or(p.Line, 1+strings.Count(source, "\n"))
	}
	p.Message = legible.Clean(plainly(p.Message), maxErrorLen)
	return p
}
