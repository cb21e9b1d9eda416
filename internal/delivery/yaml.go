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

// Passphrase protects the file of a payload: a secret reference, or the place in Vault where
// Certpost stores one that it makes for each certificate. Exactly one of the two is set.
type Passphrase struct {
	secrets.Ref `yaml:",inline"`
	// Generate makes a passphrase for each certificate and stores it in Vault, before the mail
	// is sent. The mail says where it is, and never contains it. Example: {vault: {mount: secret,
	// path: "p12/ops/{cn}", key: passphrase}}.
	Generate GeneratedPassphrase `yaml:"generate"`
}

// GeneratedPassphrase says where made passphrases are stored.
type GeneratedPassphrase struct {
	// Vault is a field of a secret in a KV engine of version 2, without version; key is passphrase
	// if it is left out. With {cn} or {domain} in the path each name has a secret of its own, and
	// each certificate a version of it. Certpost's token needs read, create and update there.
	Vault *secrets.VaultRef `yaml:"vault"`
}

// Generates reports whether Certpost makes the passphrase.
func (p Passphrase) Generates() bool { return p.Generate.Vault != nil }

// IsZero reports whether there is neither a reference nor a place to store one.
func (p Passphrase) IsZero() bool { return p.Ref.IsZero() && !p.Generates() }

// Place returns the reference, or the one to the made passphrase.
func (p Passphrase) Place() secrets.Ref {
	if !p.Generates() {
		return p.Ref
	}
	field := *p.Generate.Vault
	setDefault(&field.Key, "passphrase")
	return secrets.Ref{Vault: &field}
}

// String returns the name of the secret, never its value.
func (p Passphrase) String() string {
	if p.Generates() {
		return "generate:" + p.Place().String()
	}
	return p.Ref.String()
}
