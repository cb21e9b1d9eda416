package config

import (
	"fmt"
	"reflect"
	"strings"
	"time"
)

// The struct tags that describe a setting. The decoder reads yaml, Check the
// others, the JSON Schema all of them.
//
//	yaml:"name"          the key; "-" is no setting; ",inline" takes the keys of a struct as its own
//	required:"true"      must be given and not be empty
//	enum:"a,b"           the words that may stand here; an empty one is left to the owner of the struct
//	later:"c,d"          words that a later version will know
//	min:"1" max:"600s"   bounds of a number or a duration, both inclusive
//	override:"false"     no variable of the environment gives it, nor anything below it
//	pattern:"^[a-z]+$"   for the JSON Schema alone; the owner of the struct checks it in better words

// Setting is one key of a struct that describes a mapping.
type Setting struct {
	Name  string // the key in YAML
	Index []int  // for reflect.Value.FieldByIndex
	Field reflect.StructField
}

// Settings are the keys that a struct type describes, those of inlined structs
// included, in the order of the source.
func Settings(t reflect.Type) []Setting {
	var settings []Setting
	for i := range t.NumField() {
		field := t.Field(i)
		name, options, _ := strings.Cut(field.Tag.Get("yaml"), ",")
		if !field.IsExported() || name == "-" {
			continue
		}
		if options == "inline" {
			for _, s := range Settings(field.Type) {
				s.Index = append([]int{i}, s.Index...)
				settings = append(settings, s)
			}
			continue
		}
		if name == "" {
			name = strings.ToLower(field.Name)
		}
		settings = append(settings, Setting{Name: name, Index: []int{i}, Field: field})
	}
	return settings
}

var (
	durationType = reflect.TypeFor[time.Duration]()
	scalarType   = reflect.TypeFor[scalar]()
)

// scalar is a type that is written as a plain scalar and reads its text itself:
// it calls unmarshal with a *string. A struct may be both, a scalar or a mapping
// of which one key is given; the decoder reads the mapping without its help.
type scalar interface {
	UnmarshalYAML(unmarshal func(any) error) error
}

// IsScalar reports whether a type reads plain scalars by its own UnmarshalYAML.
func IsScalar(t reflect.Type) bool { return reflect.PointerTo(t).Implements(scalarType) }

// Written is a value as one would write it in a document: durations without the
// zeros that Go adds (1h, not 1h0m0s).
func Written(v fmt.Stringer) string {
	text := v.String()
	if _, ok := v.(time.Duration); ok {
		text = shorten(shorten(text, "m0s"), "h0m")
	}
	return text
}

// shorten takes the last unit off when it counts nothing.
func shorten(duration, ending string) string {
	if strings.HasSuffix(duration, ending) {
		return duration[:len(duration)-2]
	}
	return duration
}

// Join adds a key to a path: "targets[3]" and "port" give "targets[3].port". A
// key that could be mistaken for a path stands in brackets and quotes.
func Join(path, key string) string {
	if key == "" || strings.ContainsAny(key, ".[]\"' \t\r\n") {
		return path + "[" + quote(key) + "]"
	}
	if path == "" {
		return key
	}
	return path + "." + key
}
