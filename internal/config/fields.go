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
//	yaml:"name"          the key; "-" is not a setting; ",inline" adds the keys of a struct
//	required:"true"      must be set and not be empty
//	enum:"a,b"           the allowed words; the owner of the struct decides about an empty value
//	later:"c,d"          words that a later version will support
//	min:"1" max:"600s"   bounds of a number or a duration, both inclusive
//	override:"false"     environment variables cannot override it, or anything below it
//	pattern:"^[a-z]+$"   only for the JSON Schema; the owner of the struct checks it, with a better message

// Setting is one key of a struct that describes a mapping.
type Setting struct {
	Name  string // the key in YAML
	Index []int  // for reflect.Value.FieldByIndex
	Field reflect.StructField
}

// Settings returns the keys that a struct type describes, including those of inlined
// structs, in the order of the source.
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

// scalar is a type that is written as a plain scalar and parses its text itself: it
// calls unmarshal with a *string. A struct of this type may be written as a scalar or as
// a mapping with one key; the decoder reads the mapping without UnmarshalYAML.
type scalar interface {
	UnmarshalYAML(unmarshal func(any) error) error
}

// IsScalar reports whether a type reads plain scalars by its own UnmarshalYAML.
func IsScalar(t reflect.Type) bool { return reflect.PointerTo(t).Implements(scalarType) }

// Written returns a value as it is written in a document: durations without the zero
// units that Go adds (1h, not 1h0m0s).
func Written(v fmt.Stringer) string {
	text := v.String()
	if _, ok := v.(time.Duration); ok {
		text = shorten(shorten(text, "m0s"), "h0m")
	}
	return text
}

// shorten removes the last unit if the duration ends in ending, so if the unit is zero.
func shorten(duration, ending string) string {
	if strings.HasSuffix(duration, ending) {
		return duration[:len(duration)-2]
	}
	return duration
}

// Join adds a key to a path: "targets[3]" and "port" give "targets[3].port". A key that
// could be mistaken for a path is put in brackets and quotes.
func Join(path, key string) string {
	if key == "" || strings.ContainsAny(key, ".[]\"' \t\r\n") {
		return path + "[" + quote(key) + "]"
	}
	if path == "" {
		return key
	}
	return path + "." + key
}
