// Package config reads strict YAML into structs. It reports all problems at once, each
// with its line and column, and ignores nothing silently.
//
// The struct is the schema (see Setting for its tags) and contains the defaults before
// anything is read. Load or Parse decodes; Check compares with the tags; the owner of
// the struct validates the rest and reports problems by path; Document.Locate turns
// paths into places.
//
// Two extensions of YAML are optional: ${VAR} in values, and environment variables
// that override single settings.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"reflect"
	"unicode/utf8"

	"github.com/certpost/certpost/internal/inputfile"
)

// maxSize is the size limit of a document in bytes, that of a Kubernetes ConfigMap.
const maxSize = 1 << 20

// Option changes how a document is read.
type Option func(*decoder)

// Variables expands ${NAME} and ${NAME:-default} in values with the variables of
// environ ("NAME=value"); $$ is a dollar sign. Without this option a dollar sign has no
// special meaning.
func Variables(environ []string) Option {
	return func(d *decoder) { d.variables = environment(environ) }
}

// Overrides lets variables of environ override single settings. The name of a variable
// is prefix and the path in upper case, joined by underscores (CERTPOST_ and nats.url
// make CERTPOST_NATS_URL). Commas separate the entries of a list. A variable with that
// prefix that is neither a setting nor reserved is a problem.
func Overrides(prefix string, environ []string, reserved ...string) Option {
	return func(d *decoder) { d.overrides = &overrides{prefix, environ, reserved} }
}

// Flag lets a flag of the command line, --nats-url for nats.url, override a setting, and the
// variable that Overrides has for it; without Overrides it has no effect. Problems of its value name
// the flag.
func Flag(flag, path, value string) Option {
	return func(d *decoder) { d.flags = append(d.flags, flagged{flag, path, value}) }
}

// Only reads the given keys of the top level and ignores the others, which another
// reader of the same document decodes and checks.
func Only(keys ...string) Option {
	return func(d *decoder) { d.only = keys }
}

// Load reads a file into the struct that into points to. The document is never nil, so
// that it can locate the problems of later checks.
func Load(path string, into any, options ...Option) (*Document, []Problem) {
	data, err := Read(path)
	if err != nil {
		return newDocument(path), []Problem{{File: path, Message: err.Error()}}
	}
	return Parse(path, data, into, options...)
}

// Read returns the content of a file, at most one byte more than the size limit of a
// document. Its errors do not repeat the path.
func Read(path string) ([]byte, error) {
	f, err := inputfile.Open(path)
	if err != nil {
		return nil, Unreadable(err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return nil, Unreadable(err)
	}
	return data, nil
}

// Unreadable turns an error of the file system into a text for use after the path:
// "x.yaml: does not exist".
func Unreadable(err error) error {
	switch pathError := (*fs.PathError)(nil); {
	case errors.Is(err, fs.ErrNotExist):
		return errors.New("does not exist")
	case errors.Is(err, fs.ErrPermission):
		return errors.New("may not be read by this user")
	case errors.As(err, &pathError):
		err = pathError.Err
	}
	return fmt.Errorf("cannot be read: %w", err)
}

// Parse reads a document into the struct that into points to; name is the file name in
// problems. Fields that are not in the document keep their values.
func Parse(name string, data []byte, into any, options ...Option) (*Document, []Problem) {
	d := &decoder{doc: newDocument(name)}
	for _, option := range options {
		option(d)
	}
	target := reflect.ValueOf(into).Elem()
	if root := d.parse(data); root != nil {
		d.aliases = resolve(root)
		d.decode(root, target, "")
	}
	if d.overrides != nil {
		d.override(target)
	}
	return d.doc, Sort(d.problems)
}

// Keys returns the keys of a document's top level, none if the document cannot be read.
func Keys(data []byte) []string {
	d := &decoder{doc: newDocument("")}
	root := d.parse(data)
	if root == nil {
		return nil
	}
	d.aliases = resolve(root)
	var keys []string
	if n := d.follow(root, ""); n != nil {
		for _, e := range d.entries(n, "") {
			keys = append(keys, e.name)
		}
	}
	return keys
}

// unreadable returns the first reason why data cannot be YAML text, or nil.
func unreadable(data []byte) *Problem {
	if len(data) > maxSize {
		return &Problem{Message: fmt.Sprintf("is larger than %d bytes", maxSize)}
	}
	line, column := 1, 1
	for rest := data; len(rest) > 0; {
		r, size := utf8.DecodeRune(rest)
		switch {
		case r == utf8.RuneError && size == 1:
			return &Problem{Line: line, Column: column, Message: "is not UTF-8"}
		case r < ' ' && r != '\t' && r != '\n' && r != '\r' || r == 0x7f:
			return &Problem{Line: line, Column: column, Message: fmt.Sprintf("has the control character %U", r)}
		}
		if column++; r == '\n' {
			line, column = line+1, 1
		}
		rest = rest[size:]
	}
	return nil
}

func withoutBOM(data []byte) []byte { return bytes.TrimPrefix(data, []byte("\ufeff")) }
