package config

import (
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/certpost/certpost/internal/legible"
)

// environment returns "NAME=value" entries as a map.
func environment(environ []string) map[string]string {
	variables := make(map[string]string, len(environ))
	for _, e := range environ {
		if name, value, ok := strings.Cut(e, "="); ok {
			variables[name] = value
		}
	}
	return variables
}

var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// expand replaces ${NAME} and ${NAME:-default}, and $$ by a dollar sign. The complaint,
// if any, names the variable and never its value.
func (d *decoder) expand(text string) (result string, expanded bool, complaint string) {
	if d.variables == nil || !strings.Contains(text, "$") {
		return text, false, ""
	}
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(text, "$")
		b.WriteString(before)
		switch {
		case !found:
			return b.String(), expanded, ""
		case strings.HasPrefix(rest, "$"):
			b.WriteByte('$')
			text = rest[1:]
		case !strings.HasPrefix(rest, "{"):
			b.WriteByte('$')
			text = rest
		default:
			reference, after, closed := strings.Cut(rest[1:], "}")
			name, fallback, hasFallback := strings.Cut(reference, ":-")
			if !closed || !variableName.MatchString(name) {
				return "", false, "want ${NAME} or ${NAME:-default}; a dollar sign itself is written $$"
			}
			value, set := d.variables[name]
			if hasFallback && value == "" {
				value, set = fallback, true
			}
			if !set {
				return "", false, fmt.Sprintf("the environment variable %s is not set: set it, or write ${%s:-default}", name, name)
			}
			b.WriteString(value)
			expanded, text = true, after
		}
	}
}

// fromVariable is a scalar that needs to know the environment variable that all of its
// text comes from: a secret that is not written in the document.
type fromVariable interface{ FromVariable(name string) }

// note tells a scalar which variable its text comes from.
func note(v reflect.Value, variable string) {
	if own, ok := v.Addr().Interface().(fromVariable); ok && variable != "" {
		own.FromVariable(variable)
	}
}

// variable returns the name of the variable whose value is the whole of a text, "" if a
// part of the text, or its default, is written in the document.
func (d *decoder) variable(text string) string {
	inner, opens := strings.CutPrefix(text, "${")
	inner, closes := strings.CutSuffix(inner, "}")
	name, _, _ := strings.Cut(inner, ":-")
	if !opens || !closes || strings.Contains(inner, "}") || d.variables[name] == "" {
		return ""
	}
	return name
}

type overrides struct {
	prefix   string
	environ  []string
	reserved []string
}

// serviceLink matches variables, without the prefix, that Kubernetes sets in every pod
// for a service with the name of the prefix: CERTPOST_SERVICE_HOST,
// CERTPOST_PORT_8080_TCP_ADDR.
var serviceLink = regexp.MustCompile(`^(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)$`)

// flagged is a setting from a flag of the command line.
type flagged struct{ flag, path, value string }

// override sets the settings that environment variables and flags override.
func (d *decoder) override(root reflect.Value) {
	known := make(map[string]overridable)
	collect(known, root.Type(), "", nil)
	names := make([]string, 0, len(known))
	for name := range known {
		names = append(names, d.overrides.prefix+name)
	}
	slices.Sort(names)
	variables := environment(d.overrides.environ)
	for _, variable := range slices.Sorted(maps.Keys(variables)) {
		value := variables[variable]
		name, ours := strings.CutPrefix(variable, d.overrides.prefix)
		if !ours || slices.Contains(d.overrides.reserved, variable) {
			continue
		}
		if setting, ok := known[name]; ok {
			if !slices.ContainsFunc(d.flags, func(f flagged) bool { return f.path == setting.path }) {
				d.set(setting, root, variable, value)
			}
		} else if !serviceLink.MatchString(name) {
			d.problems = append(d.problems, Problem{Variable: variable, Message: unknownVariable(variable, names)})
		}
	}
	for _, f := range d.flags {
		setting, ok := known[variableOf(f.path)]
		if !ok {
			panic("config: " + f.flag + " overrides " + f.path + ", which is no setting")
		}
		d.set(setting, root, f.flag, f.value)
	}
}

// variableOf returns the name of the variable that overrides a setting, without the prefix.
func variableOf(path string) string { return strings.ToUpper(strings.ReplaceAll(path, ".", "_")) }

func unknownVariable(variable string, names []string) string {
	if near := legible.Nearest(variable, names...); near != "" {
		return "is not a setting: did you mean " + near + "?"
	}
	return "is not a setting: see docs/configuration.md for all settings"
}

// overridable is a setting that a variable can override: a scalar or a list of text.
type overridable struct {
	path  string
	steps []Setting // from the root
}

// collect adds the settings below a type to known, by the names of their variables
// without the prefix.
func collect(known map[string]overridable, t reflect.Type, path string, steps []Setting) {
	for _, s := range Settings(t) {
		if s.Field.Tag.Get("override") == "false" {
			continue
		}
		at := Join(path, s.Name)
		here := append(slices.Clone(steps), s)
		fieldType := s.Field.Type
		if fieldType.Kind() == reflect.Pointer {
			fieldType = fieldType.Elem()
		}
		if IsScalar(fieldType) || !isContainer(fieldType) || fieldType == reflect.TypeFor[[]string]() {
			known[variableOf(at)] = overridable{at, here}
		}
		if fieldType.Kind() == reflect.Struct {
			collect(known, fieldType, at, here)
		}
	}
}

func (d *decoder) set(o overridable, v reflect.Value, variable, value string) {
	for _, s := range o.steps {
		if IsScalar(v.Type()) {
			keepOnly(v, s.Index)
		}
		if v = v.FieldByIndex(s.Index); v.Kind() == reflect.Pointer {
			v = made(v)
		}
	}
	d.doc.variables[o.path] = variable
	if v.Kind() == reflect.Slice {
		v.Set(reflect.ValueOf(split(value)))
		return
	}
	if complaint := set(v, value); complaint != "" {
		d.doc.failed[o.path] = true
		d.problems = append(d.problems, Problem{Variable: variable, Path: o.path, Message: complaint})
		return
	}
	note(v, variable)
}

// keepOnly clears all fields of a struct except one. In a struct that is also a scalar
// exactly one key is set, so a variable for one key replaces the whole value of the
// document.
func keepOnly(v reflect.Value, field []int) {
	kept := reflect.New(v.FieldByIndex(field).Type()).Elem()
	kept.Set(v.FieldByIndex(field))
	v.SetZero()
	v.FieldByIndex(field).Set(kept)
}

// split splits a list of text at its commas, without empty entries.
func split(value string) []string {
	list := []string{}
	for item := range strings.SplitSeq(value, ",") {
		if item = strings.TrimSpace(item); item != "" {
			list = append(list, item)
		}
	}
	return list
}
