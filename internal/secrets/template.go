package secrets

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// Vars are the values of the templates in a Vault path: host, target, domain and cn.
type Vars map[string]string

// variables are the template names that a path may use.
var variables = []string{"host", "target", "domain", "cn"}

// Needs returns the template names in the reference's path, each once.
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

// fill returns the reference with the templates of its path replaced. Each value stays
// within one path segment: it cannot lead to a parent or child path, or be empty.
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
			return r.refuse("{%s} in the path cannot be replaced: %v", name, err)
		}
		path.WriteString(value)
		return nil
	})
	if err != nil {
		return Ref{}, err
	}
	filled := *r.Vault
	filled.Path = path.String()
	// Two valid values next to each other could still make a "..".
	if err := validateSegments("vault.path", filled.Path); err != nil {
		return Ref{}, r.refuse("invalid path after the templates were replaced: %v", err)
	}
	return Ref{Vault: &filled}, nil
}

// Filled returns the reference with the templates of its path replaced, for display.
func (r Ref) Filled(vars Vars) (Ref, error) { return r.fill(vars) }

// With returns the reference with one template of its path replaced, and leaves the
// others. It is for values that are known before the secret is read.
func (r Ref) With(name, value string) (Ref, error) {
	if !slices.Contains(r.Needs(), name) {
		return r, nil
	}
	inPath, err := segment(value)
	if err != nil {
		return Ref{}, r.refuse("{%s} in the path cannot be replaced: %v", name, err)
	}
	filled := *r.Vault
	filled.Path = strings.ReplaceAll(filled.Path, "{"+name+"}", inPath)
	return Ref{Vault: &filled}, nil
}

// segment checks a value and makes it fit for one path segment. A wildcard name is
// written as in file names: *.example.com becomes _wildcard.example.com.
func segment(value string) (string, error) {
	if value == "" {
		return "", fmt.Errorf("it has no value here") // such as {cn} without a certificate
	}
	if rest, ok := strings.CutPrefix(value, "*."); ok {
		value = "_wildcard." + rest
	}
	if strings.Contains(value, "..") || value == "." {
		return "", fmt.Errorf("its value leads to a parent path")
	}
	for _, c := range value {
		if !unicode.IsLetter(c) && !unicode.IsDigit(c) && !strings.ContainsRune("-_.@:+=,~ ", c) {
			return "", fmt.Errorf("its value contains %q", c)
		}
	}
	return value, nil
}

// validateTemplate checks a path that may contain templates.
func validateTemplate(field, path string) error {
	if err := validateSegments(field, path); err != nil {
		return err
	}
	return walkTemplate(path, func(_, name string) error {
		if name != "" && !slices.Contains(variables, name) {
			return fmt.Errorf("%s: {%s} is unknown: use {%s}", field, clean(name), strings.Join(variables, "}, {"))
		}
		return nil
	})
}

// walkTemplate calls each with every literal piece and the name of the template that
// follows it; the name is "" after the last piece.
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
