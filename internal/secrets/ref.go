package secrets

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/certpost/certpost/internal/legible"
)

// Ref is a reference to a secret. Exactly one field is set; the zero Ref refers to no
// secret.
type Ref struct {
	// Vault refers to a field of a secret in Vault.
	Vault *VaultRef `yaml:"vault"`
	// Transit is a ciphertext that Vault's transit engine decrypts.
	Transit *TransitRef `yaml:"transit"`
	// Env is the name of an environment variable. Example: SMTP_PASSWORD.
	Env string `yaml:"env"`
	// File is the path of a file, read at every use.
	// Example: /run/secrets/smtp-password.
	File string `yaml:"file"`
	// Credential is the name of a systemd credential (LoadCredential=, read from
	// $CREDENTIALS_DIRECTORY).
	Credential string `yaml:"credential"`
	// Value is the secret itself, in the configuration; gives a warning.
	Value Value `yaml:"value"`
}

// VaultRef refers to a field of a secret in a KV engine, version 1 or 2. On any other
// engine the path is read unchanged, so that dynamic secrets work as well.
type VaultRef struct {
	// Mount is the mount of the secrets engine, without "data". Example: secret.
	Mount string `yaml:"mount"`
	// Path is the path of the secret below the mount. {host}, {target}, {domain} and
	// {cn} in it are replaced. Example: smtp-auth/{host}.
	Path string `yaml:"path"`
	// Key is the field of the secret. Default: password, else key, else the only field.
	// Example: password.
	Key string `yaml:"key"`
	// Version is the KV v2 version to read. Default: 0, the newest.
	Version int `yaml:"version"`
}

// TransitRef is a secret that Vault's transit engine has encrypted. Vault decrypts it
// at every use.
type TransitRef struct {
	// Mount is the mount of the transit engine. Example: transit.
	Mount string `yaml:"mount"`
	// Key is the name of the encryption key in Vault.
	Key string `yaml:"key"`
	// Ciphertext is the output of the transit engine ("vault:v1:...").
	Ciphertext string `yaml:"ciphertext"`
}

// Hint returns what to write instead of a key that is not one of a reference, "" if that
// is unknown.
func (Ref) Hint(key string) string {
	switch key {
	case "vault_mount", "vault_path", "vault_key", "key_data", "mount", "path", "key", "field", "secret_path":
		return inVault
	}
	return ""
}

const inVault = "want {vault: {mount: secret, path: smtp-auth/relay, key: password}}"

// Hint is that of Ref, for the keys of a vault reference.
func (VaultRef) Hint(key string) string {
	switch key {
	case "vault_mount", "engine":
		return "want mount"
	case "vault_path", "secret_path", "secret":
		return "want path"
	case "vault_key", "key_data", "key_name", "field", "data":
		return "want key"
	case "vault_version":
		return "want version"
	}
	return ""
}

// UnmarshalYAML reads a mapping as a reference, and a plain string as the secret
// itself, which is usual for user names.
func (r *Ref) UnmarshalYAML(unmarshal func(any) error) error {
	var value Value
	if value.UnmarshalYAML(unmarshal) == nil {
		*r = Ref{Value: value}
		return nil
	}
	type mapping Ref
	if unmarshal((*mapping)(r)) != nil {
		// The parser's own error would quote what it could not read.
		return errors.New("want text, or a mapping with one of vault, transit, env, file, credential, value")
	}
	return nil
}

// IsZero reports whether the reference names nothing.
func (r Ref) IsZero() bool {
	return r.Vault == nil && r.Transit == nil && r.Env == "" && r.File == "" && r.Credential == "" && r.Value.IsZero()
}

// String returns the name of the secret, never its value: vault:secret/p12/ops#passphrase,
// vault:secret/x#k@3, transit:transit/certs, env:NAME, file:/path, credential:NAME,
// value:[redacted]. It is always short and on one line, so it may appear in logs,
// headers and pages.
func (r Ref) String() string {
	switch {
	case r.Vault != nil:
		return "vault:" + r.Vault.location() + r.Vault.field() + r.Vault.pin()
	case r.Transit != nil:
		return "transit:" + clean(r.Transit.Mount) + "/" + clean(r.Transit.Key)
	case r.Env != "":
		return "env:" + clean(r.Env)
	case r.File != "":
		return "file:" + clean(r.File)
	case r.Credential != "":
		return "credential:" + clean(r.Credential)
	case r.Value.variable != "":
		return "env:" + clean(r.Value.variable)
	case !r.Value.IsZero():
		return "value:" + redacted
	}
	return "none"
}

// FromVariable records that the value of the secret comes from an environment variable
// and is not written in the configuration: password: ${SMTP_PASSWORD}.
func (r *Ref) FromVariable(name string) { r.Value.FromVariable(name) }

// WithField returns the reference with the field that was read, if it names none.
func (r Ref) WithField(s Secret) Ref {
	if r.Vault == nil || r.Vault.Key != "" {
		return r
	}
	named := *r.Vault
	named.Key = s.Field
	return Ref{Vault: &named}
}

// location returns mount and path; "//" separates a mount of several segments.
func (v *VaultRef) location() string {
	if strings.Contains(v.Mount, "/") {
		return clean(v.Mount) + "//" + clean(v.Path)
	}
	return clean(v.Mount) + "/" + clean(v.Path)
}

// field is the field after a #; "" if the reference names none.
func (v *VaultRef) field() string {
	if v.Key == "" {
		return ""
	}
	return "#" + clean(v.Key)
}

func (v *VaultRef) pin() string {
	if v.Version == 0 {
		return ""
	}
	return "@" + strconv.Itoa(v.Version)
}

// Warning returns a warning about a valid reference, "" when there is none.
func (r Ref) Warning() string {
	if v := r.Vault; v != nil {
		rest, mounted := strings.CutPrefix(v.Path, v.Mount+"/")
		rest, api := strings.CutPrefix(rest, "data/")
		switch {
		case mounted:
			return fmt.Sprintf("vault.path begins with the mount: write %s, unless a directory below the mount has its name", clean(rest))
		case api:
			return fmt.Sprintf("vault.path begins with data/, which belongs to the API of KV version 2 and which Certpost adds by itself: write %s, unless this is KV version 1", clean(rest))
		}
	}
	if r.Value.IsZero() || r.Value.variable != "" {
		return ""
	}
	return "the secret itself is in the configuration: move it to vault, env, file or credential"
}

// Validate returns an error that names the invalid field. The zero Ref is an error too:
// call IsZero first where a secret is optional.
func (r Ref) Validate() error {
	switch given := r.sources(); len(given) {
	case 0:
		return errors.New("names no secret: set one of vault, transit, env, file, credential, value")
	case 1:
	default:
		return fmt.Errorf("names more than one source (%s): set exactly one", strings.Join(given, ", "))
	}
	switch {
	case r.Vault != nil:
		return r.Vault.validate()
	case r.Transit != nil:
		return r.Transit.validate()
	case r.Env != "":
		return validateEnvName(r.Env)
	case r.File != "":
		return validateFile(r.File)
	case r.Credential != "":
		return validateCredential(r.Credential)
	}
	return nil
}

func (r Ref) sources() (given []string) {
	for _, s := range []struct {
		name string
		set  bool
	}{
		{"vault", r.Vault != nil}, {"transit", r.Transit != nil}, {"env", r.Env != ""}, {"file", r.File != ""},
		{"credential", r.Credential != ""}, {"value", !r.Value.IsZero()},
	} {
		if s.set {
			given = append(given, s.name)
		}
	}
	return given
}

// validateFile refuses what only a shell or a browser understands.
func validateFile(path string) error {
	switch {
	case strings.HasPrefix(path, "file:"):
		return errors.New("file: is a URL: write the path alone")
	case strings.HasPrefix(path, "~"), strings.HasPrefix(path, "$HOME"):
		return errors.New("file: begins with ~ or $HOME, which only a shell replaces: write the whole path")
	case strings.TrimSpace(path) != path:
		return errors.New("file: begins or ends with a space: remove it")
	case len(path) > 1 && strings.ContainsAny(path[:1], `"'`) && path[len(path)-1] == path[0]:
		return errors.New("file: has quotes around it that belong to the path: remove them")
	}
	return validateText("file", path)
}

// validateMount refuses a mount that was copied with the rest of an API path or a URL.
func validateMount(field, mount string) error {
	switch {
	case strings.Contains(mount, "://"):
		return fmt.Errorf("%s: is a URL: write the mount alone, such as secret", field)
	case strings.HasPrefix(strings.TrimPrefix(mount, "/"), "v1/"):
		return fmt.Errorf("%s: begins with v1/, which belongs to the API and not to the mount: remove it", field)
	case strings.TrimSpace(mount) != mount:
		return fmt.Errorf("%s: begins or ends with a space: remove it", field)
	case strings.Trim(mount, "/") != mount && strings.Trim(mount, "/") != "":
		return fmt.Errorf("%s: has a slash at its beginning or end: write %s", field, clean(strings.Trim(mount, "/")))
	}
	return validateSegments(field, mount)
}

func (v *VaultRef) validate() error {
	if err := validateMount("vault.mount", v.Mount); err != nil {
		return err
	}
	if strings.ContainsAny(v.Mount, "{}") {
		return errors.New("vault.mount: templates are allowed only in the path")
	}
	if err := validateTemplate("vault.path", v.Path); err != nil {
		return err
	}
	if v.Key != "" {
		if err := validateText("vault.key", v.Key); err != nil {
			return err
		}
	}
	if v.Version < 0 {
		return errors.New("vault.version: is negative; leave it out for the newest")
	}
	return nil
}

func (t *TransitRef) validate() error {
	if err := validateMount("transit.mount", t.Mount); err != nil {
		return err
	}
	if err := validateSegments("transit.key", t.Key); err != nil {
		return err
	}
	if strings.Contains(t.Key, "/") {
		return errors.New("transit.key: want a name, not a path")
	}
	if !strings.HasPrefix(t.Ciphertext, "vault:v") {
		return errors.New(`transit.ciphertext: does not begin with "vault:v", as every ciphertext of Vault's transit engine does`)
	}
	return validateText("transit.ciphertext", t.Ciphertext)
}

func validateEnvName(name string) error {
	for i, c := range name {
		letter := c == '_' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return errors.New("env: want the name of an environment variable: letters, digits and _, not beginning with a digit")
		}
	}
	return nil
}

func validateCredential(name string) error {
	if err := validateText("credential", name); err != nil {
		return err
	}
	if strings.ContainsAny(name, `/\`) || name == "." || name == ".." {
		return errors.New("credential: want the name of a systemd credential, not a path")
	}
	return nil
}

// validateText refuses text that is empty, not UTF-8, or contains control characters
// or characters that change how a line is read.
func validateText(field, s string) error {
	if s == "" {
		return fmt.Errorf("%s: is empty", field)
	}
	if !utf8.ValidString(s) {
		return fmt.Errorf("%s: is not UTF-8", field)
	}
	for _, c := range s {
		if !unicode.IsGraphic(c) {
			return fmt.Errorf("%s: contains the control character %U", field, c)
		}
	}
	return nil
}

// validateSegments refuses everything that could make a path lead to another place
// than it says: empty segments, dots, percent signs that a proxy might decode, and the
// characters that end a path in a URL.
func validateSegments(field, s string) error {
	if err := validateText(field, s); err != nil {
		return err
	}
	for segment := range strings.SplitSeq(s, "/") {
		switch segment {
		case "":
			return fmt.Errorf("%s: has an empty segment (a slash at the beginning, at the end, or two in a row)", field)
		case ".", "..":
			return fmt.Errorf("%s: has a segment %q", field, segment)
		}
	}
	if i := strings.IndexAny(s, `%\?#`); i >= 0 {
		return fmt.Errorf("%s: contains %q, which is not allowed in a Vault path", field, s[i])
	}
	return nil
}

// ParseRef reads a reference from the command line: vault:MOUNT/PATH#KEY with an
// optional @VERSION at the end (two slashes end a mount of several segments:
// vault:team/kv//certs/x#private_key), env:NAME, file:PATH, credential:NAME.
func ParseRef(s string) (Ref, error) {
	ref, err := parseRef(s)
	if err != nil {
		return Ref{}, err
	}
	if err := ref.Validate(); err != nil {
		return Ref{}, err
	}
	return ref, nil
}

func parseRef(s string) (Ref, error) {
	kind, rest, _ := strings.Cut(s, ":")
	switch kind {
	case "vault":
		return parseVaultRef(rest)
	case "env":
		return Ref{Env: rest}, nil
	case "file":
		return Ref{File: rest}, nil
	case "credential":
		return Ref{Credential: rest}, nil
	case "value":
		return Ref{}, errors.New("a secret itself is not allowed on a command line, because every process can read it")
	}
	return Ref{}, errors.New("a secret reference looks like vault:secret/certs/x#private_key, env:NAME, file:/path or credential:NAME")
}

func parseVaultRef(s string) (Ref, error) {
	location, key, found := strings.Cut(s, "#")
	if !found {
		return Ref{}, errors.New("a vault reference needs the field after a #: vault:secret/certs/x#private_key")
	}
	if key == "" {
		return Ref{}, errors.New("vault.key: is empty: want the field after the #, as in vault:secret/certs/x#private_key")
	}
	mount, path, found := strings.Cut(location, "//")
	if !found {
		mount, path, found = strings.Cut(location, "/")
	}
	if !found {
		return Ref{}, errors.New("a vault reference needs mount and path: vault:secret/certs/x#private_key")
	}
	ref := &VaultRef{Mount: mount, Path: path, Key: key}
	if at := strings.LastIndexByte(key, '@'); at >= 0 {
		if n, err := strconv.Atoi(key[at+1:]); err == nil && n > 0 {
			ref.Key, ref.Version = key[:at], n
		}
	}
	return Ref{Vault: ref}, nil
}

// maxShown is the length, in bytes, of a name or path from outside in a message.
const maxShown = 200

// clean makes a name or path fit for one line of a log.
func clean(s string) string { return legible.Clean(s, maxShown) }
