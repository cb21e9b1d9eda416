// Package secrets resolves references to secrets and keeps their values from
// being printed by accident. It says what happened (not found, denied,
// unavailable) and never what to do about it.
package secrets

// Ref names a secret. Exactly one field is set; the zero Ref names none.
type Ref struct {
	// Vault is a field of a secret in Vault.
	Vault *VaultRef `yaml:"vault"`
	// Env is the name of an environment variable.
	Env string `yaml:"env"`
	// File is the path of a file; one trailing newline is not part of the value.
	File string `yaml:"file"`
	// Value is the secret itself, in the configuration (warned about).
	Value Value `yaml:"value"`
}

// VaultRef is a field of a secret in a KV engine, version 1 or 2.
type VaultRef struct {
	Mount string `yaml:"mount"`
	// Path below the mount; {host}, {target}, {domain} and {cn} are filled in.
	Path string `yaml:"path"`
	Key  string `yaml:"key"`
	// Version pins a KV v2 version; 0 is the newest.
	Version int `yaml:"version"`
}

// Value holds a secret behind a closure: fmt prints every field it can reach by
// reflection, exported or not, whatever methods the type has, but it cannot
// look into a function.
type Value struct{ reveal func() []byte }
