// Package manual writes the reference and the JSON Schema of a configuration from the
// structs that describe it: from their tags, their defaults, and the comments in their
// source. It is used by tests that keep the written files up to date.
package manual

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"unicode"

	"github.com/certpost/certpost/internal/config"
)

// Comments are the doc comments of struct types and their fields, by
// "package.Type" and "package.Type.Field".
type Comments map[string]string

// ReadComments reads the comments of the packages in dirs, without their tests.
func ReadComments(dirs ...string) (Comments, error) {
	comments := make(Comments)
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if !strings.HasSuffix(e.Name(), ".go") || strings.HasSuffix(e.Name(), "_test.go") {
				continue
			}
			positions := token.NewFileSet()
			file, err := parser.ParseFile(positions, filepath.Join(dir, e.Name()), nil, parser.ParseComments|parser.SkipObjectResolution)
			if err != nil {
				return nil, fmt.Errorf("comments of %s: %w", dir, err)
			}
			comments.collect(file, positions)
		}
	}
	return comments, nil
}

func (c Comments) collect(file *ast.File, positions *token.FileSet) {
	for _, decl := range file.Decls {
		general, ok := decl.(*ast.GenDecl)
		if !ok {
			continue
		}
		for _, spec := range general.Specs {
			typeSpec, ok := spec.(*ast.TypeSpec)
			if !ok {
				continue
			}
			name := file.Name.Name + "." + typeSpec.Name.Name
			c[name] = general.Doc.Text() + typeSpec.Doc.Text()
			if structType, ok := typeSpec.Type.(*ast.StructType); ok {
				c.fields(name, structType, positions)
			}
		}
	}
}

// fields collects the comments above or after fields. A field without a comment,
// directly below another field, shares the comment of that field.
func (c Comments) fields(name string, structType *ast.StructType, positions *token.FileSet) {
	last, lastLine := "", 0
	for _, field := range structType.Fields.List {
		text := field.Doc.Text() + field.Comment.Text()
		if text == "" && positions.Position(field.Pos()).Line == lastLine+1 {
			text = last
		}
		for _, ident := range field.Names {
			c[name+"."+ident.Name] = text
		}
		last, lastLine = text, positions.Position(field.End()).Line
	}
}

// Of returns the description of a setting: the comment of its field as one paragraph,
// with the names of Go fields replaced by their YAML keys.
func (c Comments) Of(owner reflect.Type, s config.Setting) string {
	owner = holder(owner, s)
	text := strings.Join(strings.Fields(c[owner.String()+"."+s.Field.Name]), " ")
	for i := range owner.NumField() {
		field := owner.Field(i)
		key, _, _ := strings.Cut(field.Tag.Get("yaml"), ",")
		// A name of one word may be an ordinary English word, so it is not replaced.
		if strings.Contains(key, "_") {
			text = replaceWord(text, field.Name, key)
		}
	}
	return text
}

// holder returns the struct that has the setting as a field: the owner, or a struct
// inlined into it.
func holder(owner reflect.Type, s config.Setting) reflect.Type {
	for _, i := range s.Index[:len(s.Index)-1] {
		owner = owner.Field(i).Type
	}
	return owner
}

func replaceWord(text, word, by string) string {
	var b strings.Builder
	for {
		before, after, found := strings.Cut(text, word)
		b.WriteString(before)
		if !found {
			return b.String()
		}
		written := b.String()
		inside := written != "" && wordChar(rune(written[len(written)-1])) || after != "" && wordChar(rune(after[0]))
		if inside {
			b.WriteString(word)
		} else {
			b.WriteString(by)
		}
		text = after
	}
}

func wordChar(r rune) bool { return r == '_' || r == '-' || unicode.IsLetter(r) || unicode.IsDigit(r) }
