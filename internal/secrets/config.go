package secrets

import (
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/legible"
)

// Config is the `vault:` section of the configuration. The defaults of its keys are
// Vault's own environment variables (VAULT_ADDR, VAULT_NAMESPACE, VAULT_CACERT,
// VAULT_CLIENT_TIMEOUT and so on). Without an address from either, Vault is not
// configured, and reading a vault reference fails with ErrNotFound.
type Config struct {
	// Address is the URL of the Vault server, such as https://vault.example.com:8200,
	// or unix:///path of an agent's socket. Default: VAULT_ADDR.
	Address string `yaml:"address"`
	// Namespace is the namespace in Vault Enterprise or HCP. Default: VAULT_NAMESPACE.
	Namespace string `yaml:"namespace"`
	// Auth says how Certpost logs in to Vault. Default: the token in VAULT_TOKEN or
	// ~/.vault-token.
	Auth Auth `yaml:"auth"`
	// TLS are the TLS settings of the connection to Vault.
	TLS TLS `yaml:"tls"`
	// Timeout is the time limit of one request to Vault, 1s to 60s. Default:
	// VAULT_CLIENT_TIMEOUT, else 10s.
	Timeout time.Duration `yaml:"timeout"`
	// CacheTTL is how long a value from Vault is cached, 1s to 1h. Private keys are
	// never cached, and after a relay refuses a password, the password is read again at
	// once. Default: 60s.
	CacheTTL time.Duration `yaml:"cache_ttl"`
}

// Auth says how to log in to Vault. Credentials are secret references: {env: NAME},
// {file: PATH}, {credential: NAME}, {value: ...}. They are read again at every login,
// so a rotated credential needs no restart.
type Auth struct {
	// Method is the auth method: token, approle, kubernetes, jwt, cert or userpass.
	// Default: token.
	Method string `yaml:"method"`
	// Mount is the mount of the auth method, without "auth/". Default: the name of the
	// method.
	Mount string `yaml:"mount"`

	// Token is the token for method token. A renewable token is renewed. Default:
	// VAULT_TOKEN, then ~/.vault-token.
	Token Ref `yaml:"token"`

	// RoleID is the role id for method approle, as a secret reference; required there.
	RoleID Ref `yaml:"role_id"`
	// SecretID is the secret id for method approle, as a secret reference. Leave it out
	// if the role has bind_secret_id=false.
	SecretID Ref `yaml:"secret_id"`
	// SecretIDWrapped says that secret_id is a response-wrapping token for the secret
	// id. Certpost unwraps it once. If another client has unwrapped it before, the login
	// fails with an error that says so.
	SecretIDWrapped bool `yaml:"secret_id_wrapped"`

	// Role is the role for methods kubernetes and jwt (required), or the name of the
	// certificate role for method cert (default there: any role that matches).
	Role string `yaml:"role"`
	// JWT is the token for method jwt, as a secret reference. Set either jwt or
	// jwt_file.
	JWT Ref `yaml:"jwt"`
	// JWTFile is a file with the token for methods kubernetes and jwt, read at every
	// login. Default for kubernetes: /var/run/secrets/kubernetes.io/serviceaccount/token.
	JWTFile string `yaml:"jwt_file"`

	// Username is the user name for method userpass, as a secret reference.
	Username Ref `yaml:"username"`
	// Password is the password for method userpass, as a secret reference.
	Password Ref `yaml:"password"`
}

// TLS are the TLS settings of the connection to Vault. Auth method cert logs in with
// the client certificate.
type TLS struct {
	// CAFile is a PEM file with the CAs to trust. Default: VAULT_CACERT, else the
	// system's CAs.
	CAFile string `yaml:"ca_file"`
	// CertFile is a PEM file with the client certificate; it requires key_file. Default:
	// VAULT_CLIENT_CERT.
	CertFile string `yaml:"cert_file"`
	// KeyFile is a PEM file with the private key of cert_file. Default: VAULT_CLIENT_KEY.
	KeyFile string `yaml:"key_file"`
	// ServerName is the name for which the server's certificate must be valid. Default:
	// VAULT_TLS_SERVER_NAME, else the host of address.
	ServerName string `yaml:"server_name"`
}

// Problem is one thing wrong with a Config.
type Problem struct {
	Path    string // below `vault`, such as "auth.role_id"; "" is the section itself
	Message string
}

const (
	defaultTimeout  = 10 * time.Second
	defaultCacheTTL = time.Minute

	kubernetesTokenFile = "/var/run/secrets/kubernetes.io/serviceaccount/token"
)

// methods are the keys of Auth that each method allows, in addition to method and
// mount; those marked with ! are required.
var methods = map[string][]string{
	"token":      {"token"},
	"approle":    {"!role_id", "secret_id", "secret_id_wrapped"},
	"kubernetes": {"!role", "jwt_file"},
	"jwt":        {"!role", "jwt", "jwt_file"},
	"cert":       {"role"},
	"userpass":   {"!username", "!password"},
}

// Validate returns all problems of the section; nil means that it is valid.
func (c Config) Validate() []Problem {
	var found problems
	c.validateAddress(&found)
	c.Auth.validate(&found)
	if c.Address == "" && c.Auth.given() && os.Getenv("VAULT_ADDR") == "" && os.Getenv("VAULT_AGENT_ADDR") == "" {
		found.add("address", "is required: auth is set, but no server (VAULT_ADDR is not set either)")
	}
	if (c.TLS.CertFile == "") != (c.TLS.KeyFile == "") {
		found.add("tls", "cert_file and key_file belong together: set both")
	}
	if c.Auth.Method == "cert" && c.TLS.CertFile == "" && os.Getenv("VAULT_CLIENT_CERT") == "" {
		found.add("tls.cert_file", "is required: auth.method cert logs in with it")
	}
	found.within("timeout", c.Timeout, time.Second, time.Minute)
	found.within("cache_ttl", c.CacheTTL, time.Second, time.Hour)
	if strings.ContainsFunc(c.Namespace, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		found.add("namespace", "contains a space or a control character")
	}
	return found
}

func (c Config) validateAddress(found *problems) {
	if c.Address == "" {
		for _, name := range []string{"VAULT_AGENT_ADDR", "VAULT_ADDR"} { // as the client prefers them
			if address := os.Getenv(name); address != "" {
				validateURL(address, func(message string) { found.add("address", "is not set, and the environment's "+name+" "+message) })
				return
			}
		}
		return
	}
	validateURL(c.Address, func(message string) { found.add("address", message) })
}

func validateURL(address string, add func(message string)) {
	if strings.HasPrefix(address, "unix:///") {
		return
	}
	u, err := url.Parse(address)
	page := ""
	if err == nil {
		page = webPage(u)
	}
	switch {
	case page != "":
		add(page)
	case strings.Trim(address, " \t\r\n") != address:
		add("begins or ends with a space or a line break: remove it")
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		add("is not a URL like https://vault.example.com:8200 or unix:///run/vault.sock")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		add("contains more than scheme, host, port and path: remove user, query and fragment")
	case legible.WrongPort(u) != "":
		add(legible.WrongPort(u))
	}
}

// webPage says what is wrong with an address that was copied from a browser, or from a
// request of Vault's API.
func webPage(u *url.URL) string {
	segments := strings.Split(strings.Trim(u.Path, "/"), "/")
	for i, segment := range segments {
		switch {
		case segment == "v1":
			return "ends with the path /v1, which Certpost adds by itself: remove it and what follows"
		case segment == "ui" && (i == len(segments)-1 || segments[i+1] == "vault"):
			return "is the address of Vault's web page: remove /ui and what follows"
		}
	}
	return ""
}

func (a Auth) validate(found *problems) {
	method := a.method()
	keys, known := methods[method]
	if !known {
		found.add("auth.method", "is unknown: use token, approle, kubernetes, jwt, cert or userpass")
		return
	}
	if a.Mount != "" {
		if rest, ok := strings.CutPrefix(strings.TrimPrefix(a.Mount, "v1/"), "auth/"); ok {
			found.add("auth.mount", "begins with auth/, which Certpost adds by itself: write "+clean(strings.TrimSuffix(strings.Trim(rest, "/"), "/login")))
		} else if err := validateSegments("mount", a.Mount); err != nil {
			found.add("auth.mount", strings.TrimPrefix(err.Error(), "mount: "))
		}
	}
	for key, given := range a.keys() {
		switch {
		case given && !slices.Contains(keys, key) && !slices.Contains(keys, "!"+key):
			found.add("auth."+key, "is not used by auth.method "+method+": remove it")
		case !given && slices.Contains(keys, "!"+key):
			found.add("auth."+key, "is required by auth.method "+method)
		}
	}
	if a.SecretIDWrapped && a.SecretID.IsZero() {
		found.add("auth.secret_id", "is required: secret_id_wrapped says that it is a wrapping token")
	}
	if method == "jwt" && a.JWT.IsZero() == (a.JWTFile == "") {
		found.add("auth.jwt", "set either jwt or jwt_file")
	}
	for key, ref := range a.Refs() {
		if ref.IsZero() {
			continue
		}
		if err := ref.Validate(); err != nil {
			found.add("auth."+key, err.Error())
		} else if ref.Vault != nil || ref.Transit != nil {
			found.add("auth."+key, "cannot come from Vault: it is needed to log in to Vault")
		}
	}
	slices.SortFunc(*found, func(x, y Problem) int { return strings.Compare(x.Path, y.Path) })
}

func (a Auth) method() string {
	if a.Method == "" {
		return "token"
	}
	return a.Method
}

func (a Auth) mount() string {
	if a.Mount == "" {
		return a.method()
	}
	return a.Mount
}

func (a Auth) given() bool {
	if a.Method != "" {
		return true
	}
	for _, given := range a.keys() {
		if given {
			return true
		}
	}
	return false
}

// Refs returns the secrets for the login by their keys, also those that are not set.
func (a Auth) Refs() map[string]Ref {
	return map[string]Ref{
		"token": a.Token, "role_id": a.RoleID, "secret_id": a.SecretID, "jwt": a.JWT, "username": a.Username, "password": a.Password,
	}
}

// keys reports for each key, except method and mount, whether it is set.
func (a Auth) keys() map[string]bool {
	given := map[string]bool{"secret_id_wrapped": a.SecretIDWrapped, "role": a.Role != "", "jwt_file": a.JWTFile != ""}
	for key, ref := range a.Refs() {
		given[key] = !ref.IsZero()
	}
	return given
}

// problems collects what Validate finds.
type problems []Problem

func (p *problems) add(path, message string) { *p = append(*p, Problem{path, message}) }

func (p *problems) within(path string, d, least, most time.Duration) {
	if d != 0 && (d < least || d > most) {
		p.add(path, fmt.Sprintf("is %v: want %v to %v", d, least, most))
	}
}
