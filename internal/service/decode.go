package service

import (
	"bytes"
	"cmp"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/certpost/certpost/internal/legible"
)

// decode reads a request strictly: one JSON value, each key known, spelt as documented, and
// given once. encoding/json alone matches keys in any case, lets the last of two equal keys win,
// and does not say which key was meant; a request with a mistyped filter must not select all.
// An empty request leaves into as it is.
func decode(request []byte, into any) error {
	if len(bytes.TrimSpace(request)) == 0 {
		return nil
	}
	var whole json.RawMessage
	d := json.NewDecoder(bytes.NewReader(request))
	if err := d.Decode(&whole); err != nil {
		return badRequest("the request cannot be read: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return badRequest("the request has more than one JSON value, or text after it")
	}
	if err := checkKeys(whole, reflect.TypeOf(into), ""); err != nil {
		return badRequest("the request cannot be read: %w", err)
	}
	if err := json.Unmarshal(whole, into); err != nil {
		return unreadable(err)
	}
	return nil
}

// takesMore is a request that has other keys than its fields, and checks these itself.
type takesMore interface{ takesMore() }

var (
	unmarshaler     = reflect.TypeFor[json.Unmarshaler]()
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
	moreTaker       = reflect.TypeFor[takesMore]()
)

// checkKeys checks the keys of a valid JSON value, of the type that it is for. at is its place in
// the request: "deliveries[0]". Values of a wrong type are left to encoding/json.
func checkKeys(value json.RawMessage, t reflect.Type, at string) error {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	more := reflect.PointerTo(t).Implements(moreTaker)
	if !more && (reflect.PointerTo(t).Implements(unmarshaler) || reflect.PointerTo(t).Implements(textUnmarshaler)) {
		return nil
	}
	switch first := value[0]; {
	case t.Kind() == reflect.Slice && first == '[':
		var items []json.RawMessage
		if err := json.Unmarshal(value, &items); err != nil {
			return err
		}
		for i, item := range items {
			if err := checkKeys(item, t.Elem(), at+"["+strconv.Itoa(i)+"]"); err != nil {
				return err
			}
		}
	case t.Kind() == reflect.Map && first == '{':
		return eachKey(value, at, func(_ string, value json.RawMessage, at string) error { return checkKeys(value, t.Elem(), at) })
	case t.Kind() == reflect.Struct && first == '{':
		fields, names := fieldsOf(t)
		return eachKey(value, at, func(key string, value json.RawMessage, at string) error {
			if field, known := fields[key]; known {
				return checkKeys(value, field, at)
			}
			if more && !slices.ContainsFunc(names, func(name string) bool { return strings.EqualFold(name, key) }) {
				return nil
			}
			return fmt.Errorf("unknown key %q%s", at, legible.Meant(key, names))
		})
	}
	return nil
}

// eachKey calls check for every key of a JSON object, in its order, with the place of its value.
// A key that is given twice is an error.
func eachKey(object json.RawMessage, in string, check func(key string, value json.RawMessage, at string) error) error {
	d := json.NewDecoder(bytes.NewReader(object))
	if _, err := d.Token(); err != nil { // {
		return err
	}
	given := map[string]bool{}
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return err
		}
		key, _ := token.(string) // the grammar has been checked
		at := legible.Clean(key, 60)
		if in != "" {
			at = in + "." + at
		}
		if given[key] {
			return fmt.Errorf("%s: is given twice", at)
		}
		given[key] = true
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return err
		}
		if err := check(key, value, at); err != nil {
			return err
		}
	}
	return nil
}

// fieldsOf returns the fields of a struct by their keys in JSON, with those of embedded structs,
// and the keys in their order.
func fieldsOf(t reflect.Type) (map[string]reflect.Type, []string) {
	fields, names := map[string]reflect.Type{}, []string(nil)
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" || name == "-" || !f.IsExported() {
			continue
		}
		fields[name] = f.Type
		names = append(names, name)
	}
	return fields, names
}

// unreadable returns the error for a value that is not of its key's type. It names the key, and
// not a type of this program.
func unreadable(err error) error {
	if wrong := (*json.UnmarshalTypeError)(nil); errors.As(err, &wrong) {
		return badRequest("the request cannot be read: %s: want %s, not %s", cmp.Or(wrong.Field, "the whole"), kindOf(wrong.Type), wrong.Value)
	}
	return badRequest("the request cannot be read: %w", err)
}

// kindOf returns the JSON type for a type.
func kindOf(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice:
		return "an array"
	case reflect.Map, reflect.Struct:
		return "an object"
	}
	return "a number"
}
