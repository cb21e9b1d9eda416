package events

import (
	"regexp"
	"strings"
	"unicode"

	"github.com/certpost/certpost/internal/legible"
)

// eventType matches the accepted types: the bare one, and it or its version 1 after a
// prefix (com.example.certificate.issued.v1).
var eventType = regexp.MustCompile(`^([^\x00-\x20\x7f]+\.)?certificate\.issued(\.v1)?$`)

// attributeName is the form that CloudEvents 1.0, section "Naming conventions", allows.
var attributeName = regexp.MustCompile(`^[a-z0-9]+$`)

// readAttributes reads the context attributes of CloudEvents 1.0 from the members of an
// envelope or from headers, and returns an Event with id, source and time. Extensions
// are checked for their form and otherwise ignored. where returns the position of an
// attribute, for reasons.
func readAttributes(where func(string) *path, attributes []member) (Event, *Invalid) {
	var e Event
	given := map[string]bool{}
	var extensions []string
	for _, m := range attributes {
		if m.kind == aNull { // in the JSON format: not set
			continue
		}
		in := where(m.name)
		given[m.name] = true
		var invalid *Invalid
		switch m.name {
		case "specversion":
			if m.kind != aString || m.text != "1.0" {
				invalid = refuse(in, `expected "1.0"`)
			}
		case "id":
			e.ID, invalid = readID(in, m.value)
		case "source":
			e.Source, invalid = readSource(in, m.value)
		case "time":
			e.Time, invalid = readTime(in, m.value)
		case "type":
			if m.kind != aString || !eventType.MatchString(m.text) {
				invalid = refuse(in, "expected %s, or a name that ends in .%s or .%s.v1", Type, Type, Type)
			}
		case "datacontenttype":
			if m.kind != aString || !isJSON(mediaType(m.text)) {
				invalid = refuse(in, "expected application/json")
			}
		default: // also subject and dataschema: nothing depends on them
			extensions = append(extensions, m.name)
			invalid = checkExtension(in, m)
		}
		if invalid != nil {
			return e, invalid
		}
	}
	for _, name := range required {
		if given[name] {
			continue
		}
		if near := legible.Nearest(name, extensions...); near != "" {
			return e, refuse(where(name), "required; is %s misspelt?", quoteName(near))
		}
		return e, refuse(where(name), "required by CloudEvents 1.0")
	}
	return e, nil
}

var required = []string{"specversion", "id", "source", "type"}

func checkExtension(in *path, m member) *Invalid {
	switch {
	case !attributeName.MatchString(m.name):
		if near := legible.Nearest(m.name, "specversion", "id", "source", "type", "time", "subject", "datacontenttype", "dataschema"); near != "" {
			return refuse(in, "unknown attribute; did you mean %q?", near)
		}
		return refuse(in, "unknown attribute; extensions are named with a-z and 0-9, and the event's own fields belong in data")
	case m.kind == anObject || m.kind == aList:
		return refuse(in, "%s, expected a string, a number, true or false; the event's own fields belong in data", m.kind)
	case strings.ContainsFunc(m.text, unicode.IsControl):
		return refuse(in, "has a control character")
	}
	return nil
}

// isJSON is CloudEvents' rule: */json or */*+json.
func isJSON(media string) bool {
	return strings.HasSuffix(media, "/json") || strings.HasSuffix(media, "+json")
}
