package delivery

import "github.com/certpost/certpost/internal/secrets"

// Text is a value that may be public: in YAML a plain string, taken as it is,
// or a mapping, which is a secret reference. At most one of the two is set.
type Text struct {
	// Plain is the text itself.
	Plain string `yaml:"-"`
	// Ref is where the text is kept; the zero Ref when it is plain.
	Ref secrets.Ref `yaml:",inline"`
}

// UnmarshalYAML decodes a plain string. A mapping is decoded into Ref without it.
func (t *Text) UnmarshalYAML(unmarshal func(any) error) error {
	*t = Text{}
	return unmarshal(&t.Plain)
}

// IsZero reports whether there is no text at all.
func (t Text) IsZero() bool { return t.Plain == "" && t.Ref.IsZero() }
