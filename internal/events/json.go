package events

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits that are checked while the JSON is parsed.
const (
	maxNesting = 32     // levels of objects and lists
	maxValues  = 10_000 // values in one body; the largest sensible event has some 1,200
)

type kind string

// The kinds of JSON values, as reasons name them.
const (
	anObject kind = "an object"
	aList    kind = "a list"
	aString  kind = "a string"
	aNumber  kind = "a number"
	aBoolean kind = "true or false"
	aNull    kind = "null"
)

// value is one JSON value, with members in their order and numbers as written.
type value struct {
	kind    kind
	text    string   // of a string or a number
	members []member // of an object
	items   []value  // of a list
}

type member struct {
	name string
	value
}

// get returns the member with that name. An object that was read without error has
// no duplicate names.
func (v value) get(name string) (value, bool) {
	for _, m := range v.members {
		if m.name == name {
			return m.value, true
		}
	}
	return value{}, false
}

// path is the position of a value, for reasons: $.targets[3], or a header's name.
type path struct {
	parent *path
	name   string
	index  int // of a list's item; -1 for a member
}

func at(root string) *path              { return &path{name: root, index: -1} }
func (p *path) field(name string) *path { return &path{p, name, -1} }
func (p *path) item(i int) *path        { return &path{p, "", i} }

func (p *path) String() string {
	switch {
	case p.parent == nil:
		return p.name
	case p.index >= 0:
		return fmt.Sprintf("%s[%d]", p.parent, p.index)
	case isPlainName(p.name):
		return p.parent.String() + "." + p.name
	default:
		return p.parent.String() + "[" + quoteName(p.name) + "]"
	}
}

func isPlainName(s string) bool {
	return IsToken(s) && len(s) <= 40 && s[0] != '-' && !(s[0] >= '0' && s[0] <= '9')
}

// quoteName makes a field name readable and safe for a log or a header: at most 40
// printable ASCII characters, others replaced by "?".
func quoteName(name string) string {
	var b strings.Builder
	b.WriteByte('"')
	n := 0
	for _, r := range name {
		if n++; n > 40 {
			b.WriteString("...")
			break
		}
		if r > unicode.MaxASCII || !unicode.IsPrint(r) || r == '"' || r == '\\' {
			r = '?'
		}
		b.WriteRune(r)
	}
	b.WriteByte('"')
	return b.String()
}

// refuse makes an Invalid whose reason begins with the position.
func refuse(where *path, format string, args ...any) *Invalid {
	return &Invalid{Reason: where.String() + ": " + fmt.Sprintf(format, args...)}
}

// readJSON reads one JSON text (RFC 8259) strictly: UTF-8, no duplicate names, no
// lone surrogates, nothing after it, within the limits. On an error it also returns
// what was read before it.
func readJSON(root *path, text []byte) (value, *Invalid) {
	bad := checkText(root, text)
	r := reader{text: text, dec: json.NewDecoder(bytes.NewReader(text)), left: maxValues}
	r.dec.UseNumber()
	v, invalid := r.value(root, 0)
	if bad != nil {
		invalid = bad
	}
	return v, invalid
}

// checkText checks what the token stream does not: the encoding, and the grammar as
// a whole. Error texts of encoding/json quote the input, so only the offset is taken
// from them.
func checkText(root *path, text []byte) *Invalid {
	switch {
	case len(bytes.TrimSpace(text)) == 0:
		return refuse(root, "empty, expected a JSON object")
	case bytes.HasPrefix(text, []byte("\xef\xbb\xbf")):
		return refuse(root, "begins with a byte order mark; publish plain UTF-8")
	case bytes.IndexByte(text, 0) >= 0:
		return refuse(root, "not UTF-8 text (it has NUL bytes); publish the event as JSON in UTF-8")
	case !utf8.Valid(text):
		return refuse(root, "not valid UTF-8 at %s; publish the event as JSON in UTF-8", position(text, firstInvalid(text)))
	}
	if json.Valid(text) {
		return nil
	}
	var raw json.RawMessage
	dec := json.NewDecoder(bytes.NewReader(text))
	if err := dec.Decode(&raw); err != nil {
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return refuse(root, "not valid JSON: it ends at %s before the value is complete", position(text, len(text)))
		}
		offset := int(dec.InputOffset())
		if syntax, ok := err.(*json.SyntaxError); ok {
			offset = int(syntax.Offset) - 1 // the offset counts the offending byte
		}
		return refuse(root, "not valid JSON at %s", position(text, offset))
	}
	rest := bytes.TrimLeft(text[dec.InputOffset():], " \t\r\n")
	return refuse(root, "more text after the JSON value at %s; publish one event per message", position(text, len(text)-len(rest)))
}

func firstInvalid(text []byte) int {
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRune(text[i:])
		if r == utf8.RuneError && size == 1 {
			return i
		}
		i += size
	}
	return len(text)
}

// position is the line and column (in bytes, from 1) of an offset.
func position(text []byte, offset int) string {
	before := text[:max(0, min(offset, len(text)))]
	line := bytes.Count(before, []byte("\n")) + 1
	return fmt.Sprintf("line %d, column %d", line, len(before)-(bytes.LastIndexByte(before, '\n')+1)+1)
}

// reader makes values from a token stream.
type reader struct {
	text []byte
	dec  *json.Decoder
	left int // values that may still be read
}

// value reads the next value; depth counts the objects and lists around it.
func (r *reader) value(where *path, depth int) (value, *Invalid) {
	if r.left--; r.left < 0 {
		return value{}, refuse(at("$"), "more than %d values; an event is one certificate for at most %d targets", maxValues, maxTargets)
	}
	token, invalid := r.token(where)
	if invalid != nil {
		return value{}, invalid
	}
	switch t := token.(type) {
	case json.Delim:
		if depth++; depth > maxNesting {
			return value{}, refuse(at("$"), "nested deeper than %d levels", maxNesting)
		}
		if t == '{' {
			return r.object(where, depth)
		}
		return r.list(where, depth)
	case string:
		return value{kind: aString, text: t}, nil
	case json.Number:
		return value{kind: aNumber, text: t.String()}, nil
	case bool:
		return value{kind: aBoolean}, nil
	default:
		return value{kind: aNull}, nil
	}
}

func (r *reader) object(where *path, depth int) (value, *Invalid) {
	v := value{kind: anObject}
	seen := map[string]bool{}
	for r.dec.More() {
		token, invalid := r.token(where)
		if invalid != nil {
			return v, invalid
		}
		name, _ := token.(string) // the decoder accepts only strings as names
		in := where.field(name)
		m, invalid := r.value(in, depth)
		v.members = append(v.members, member{name, m})
		if invalid != nil {
			return v, invalid
		}
		if seen[name] {
			return v, refuse(in, "given twice; keep one of them")
		}
		seen[name] = true
	}
	_, invalid := r.token(where)
	return v, invalid
}

func (r *reader) list(where *path, depth int) (value, *Invalid) {
	v := value{kind: aList}
	for r.dec.More() {
		item, invalid := r.value(where.item(len(v.items)), depth)
		v.items = append(v.items, item)
		if invalid != nil {
			return v, invalid
		}
	}
	_, invalid := r.token(where)
	return v, invalid
}

func (r *reader) token(where *path) (json.Token, *Invalid) {
	start := r.dec.InputOffset()
	token, err := r.dec.Token()
	if err != nil {
		return nil, refuse(where, "not valid JSON")
	}
	if _, ok := token.(string); ok && loneSurrogate(r.text[start:r.dec.InputOffset()]) {
		return nil, refuse(where, `one half of a surrogate pair (\ud800 to \udfff) is not a character`)
	}
	return token, nil
}

// loneSurrogate reports whether a JSON string, as written, has an escape for one
// half of a surrogate pair without the other. encoding/json would decode it to
// U+FFFD, which makes two different texts equal.
func loneSurrogate(raw []byte) bool {
	for i := 0; i < len(raw); i++ {
		if raw[i] != '\\' {
			continue
		}
		i++ // the escaped character
		high, ok := escapedUnit(raw, i)
		if !ok || high < 0xd800 || high > 0xdfff {
			continue
		}
		low, ok := escapedUnit(raw, i+6)
		if high >= 0xdc00 || !ok || raw[i+5] != '\\' || low < 0xdc00 || low > 0xdfff {
			return true
		}
		i += 6 + 4
	}
	return false
}

// escapedUnit reads u and four hexadecimal digits at i.
func escapedUnit(raw []byte, i int) (rune, bool) {
	if i+5 > len(raw) || raw[i] != 'u' {
		return 0, false
	}
	var r rune
	for _, c := range raw[i+1 : i+5] {
		digit := strings.IndexByte("0123456789abcdef", c|0x20)
		if digit < 0 {
			return 0, false
		}
		r = r<<4 | rune(digit)
	}
	return r, true
}
