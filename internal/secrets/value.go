package secrets

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"unicode"
	"unicode/utf8"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/legible"
)

// redacted is the text that a Value prints as.
const redacted = "[redacted]"

// Value holds a secret in a closure: fmt prints every field that it can reach by
// reflection, exported or not, even if the type has its own methods, but it cannot
// look into a function. The zero Value holds no secret.
type Value struct {
	reveal   func() []byte
	variable string // the environment variable that the configuration took it from; "" if none
}

// New returns a Value with a copy of b. If b is empty, it returns the zero Value: an
// empty secret is always a mistake.
func New(b []byte) Value {
	if len(b) == 0 {
		return Value{}
	}
	kept := bytes.Clone(b)
	return Value{reveal: func() []byte { return bytes.Clone(kept) }}
}

// Reveal returns a copy of the secret, nil for the zero Value. The caller owns
// the copy and may clear() it after use.
func (v Value) Reveal() []byte {
	if v.reveal == nil {
		return nil
	}
	return v.reveal()
}

// IsZero reports whether there is no secret in v.
func (v Value) IsZero() bool { return v.reveal == nil }

// Equal compares hashes of both values in constant time, so that its time does not
// reveal how far they are equal.
func (v Value) Equal(other Value) bool {
	mine, theirs := v.Reveal(), other.Reveal()
	defer clear(mine)
	defer clear(theirs)
	a, b := sha256.Sum256(mine), sha256.Sum256(theirs)
	return subtle.ConstantTimeCompare(a[:], b[:]) == 1
}

// String never returns the secret.
func (v Value) String() string { return redacted }

// GoString never returns the secret.
func (v Value) GoString() string { return redacted }

// Format never writes the secret, for any verb.
func (v Value) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// MarshalText never returns the secret.
func (v Value) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// MarshalJSON never returns the secret.
func (v Value) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// MarshalYAML never returns the secret.
func (v Value) MarshalYAML() (any, error) { return redacted, nil }

// MarshalZerologObject never writes the secret.
func (v Value) MarshalZerologObject(e *zerolog.Event) { e.Bool("redacted", true) }

// UnmarshalYAML reads a scalar.
func (v *Value) UnmarshalYAML(unmarshal func(any) error) error {
	var text string
	if unmarshal(&text) != nil {
		// The parser's own error would quote what it could not read.
		return errors.New("a secret value is a string, not a list or a mapping")
	}
	*v = New(trimmed([]byte(text)))
	return nil
}

// FromVariable is that of Ref.
func (v *Value) FromVariable(name string) {
	if !v.IsZero() {
		v.variable = name
	}
}

// trimmed removes what editors and shells add to a secret: a byte order mark (UTF-8) at
// the beginning and one line break at the end. The rule is the same for all sources.
func trimmed(text []byte) []byte {
	text = bytes.TrimPrefix(text, []byte("\ufeff"))
	return bytes.TrimSuffix(bytes.TrimSuffix(text, []byte("\n")), []byte("\r"))
}

// blank is the name of a character that cannot be seen.
func blank(r rune) string {
	switch r {
	case ' ':
		return "a space"
	case '\t':
		return "a tab"
	case '\n', '\r':
		return "a line break"
	}
	return fmt.Sprintf("a blank (%U)", r)
}

// oddities names what is probably a mistake in a secret, without showing any of it:
// blanks at its ends, control and invisible characters, quotes around it.
func oddities(v Value) (found []string) {
	text := v.Reveal()
	defer clear(text)
	if !utf8.Valid(text) {
		return []string{"is not UTF-8"}
	}
	first, _ := utf8.DecodeRune(text)
	last, _ := utf8.DecodeLastRune(text)
	if unicode.IsSpace(first) {
		found = append(found, "begins with "+blank(first))
	}
	if unicode.IsSpace(last) {
		found = append(found, "ends with "+blank(last))
	}
	if len(text) > 1 && first == last && (first == '"' || first == '\'') {
		found = append(found, "is in quotes")
	}
	inside := bytes.TrimFunc(text, unicode.IsSpace)
	switch {
	case bytes.HasPrefix(inside, []byte("-----BEGIN ")): // PEM has lines
	case bytes.ContainsAny(inside, "\r\n"):
		found = append(found, "has a line break inside")
	case bytes.ContainsFunc(inside, unicode.IsControl):
		found = append(found, "has a control character")
	case bytes.ContainsFunc(inside, func(r rune) bool { return r != ' ' && (legible.Hidden(r) || unicode.IsSpace(r)) }):
		found = append(found, "has an invisible character")
	}
	return found
}
