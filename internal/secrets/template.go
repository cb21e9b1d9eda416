package secrets

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// Vars are what the templates in a Vault path stand for: host, target, domain
// and cn.
type Vars map[string]string

// variables are the names a path may use.
var variables = []string{"host", "target", "domain", "cn"}

// Needs lists the templates that the reference's path uses, each once.
func (r Ref) Needs() []string {
	var names []string
	if r.Vault == nil {
		return nil
	}
	_ = walkTemplate(r.Vault.Path, func(_, name string) error {
		if name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
		return nil
	})
	return names
}

// fill returns the reference with its path's templates replaced. What is filled
// in stays within one path segment: it cannot climb, descend or vanish.
func (r Ref) fill(vars Vars) (Ref, error) {
	if r.Vault == nil || !strings.ContainsAny(r.Vault.Path, "{}") {
		return r, nil
	}
	var path strings.Builder
	err := walkTemplate(r.Vault.Path, func(literal, name string) error {
		path.WriteString(literal)
		if name == "" {
			return nil
		}
		value, err := segment(vars[name])
		if err != nil {
			return r.refuse("the path's {%s} cannot be filled in: %v", name, err)
		}
		path.WriteString(value)
		return nil
	})
	if err != nil {
		return Ref{}, err
	}
	filled := *r.Vault
	filled.Path = path.String()
	// Two harmless values side by side could still make a "..".
	if err := validateSegments("vault.path", filled.Path); err != nil {
		return Ref{}, r.refuse("the path as filled in is refused: %v", err)
	}
	return Ref{Vault: &filled}, nil
}

// segment makes a value fit to stand in one path segment. A wildcard name is
// written as in file names: *.example.com becomes _wildcard.example.com.
func segment(value string) (string, error) {
	if value == "" {
		return "", fmt.Errorf("it has no value here")
	}
	if rest, ok := strings.CutPrefix(value, "*."); ok {
		value = "_wildcard." + rest
	}
	if strings.Contains(value, "..") || value == "." {
		return "", fmt.Errorf("its value climbs")
	}
	for _, c := range value {
		if !unicode.IsLetter(c) && !unicode.IsDigit(c) && !strings.ContainsRune("-_.@:+=,~ ", c) {
			return "", fmt.Errorf("its value holds %q", c)
		}
	}
	return value, nil
}

// validateTemplate checks a path that may hold templates.
func validateTemplate(field, path string) error {
	if err := validateSegments(field, path); err != nil {
		return err
	}
	return walkTemplate(path, func(_, name string) error {
		if name != "" && !slices.Contains(variables, name) {
			return fmt.Errorf("%s: {%s} is not known: use {%s}", field, printable(name), strings.Join(variables, "}, {"))
		}
		return nil
	})
}

// walkTemplate calls each for every literal piece and the template that follows
// it; the name is "" after the last piece.
func walkTemplate(path string, each func(literal, name string) error) error {
	for {
		literal, rest, open := strings.Cut(path, "{")
		if strings.Contains(literal, "}") {
			return fmt.Errorf("vault.path: a } without a {")
		}
		if !open {
			return each(literal, "")
		}
		name, after, closed := strings.Cut(rest, "}")
		if !closed || name == "" {
			return fmt.Errorf("vault.path: a { without a name and a }")
		}
		if err := each(literal, name); err != nil {
			return err
		}
		path = after
	}
}
