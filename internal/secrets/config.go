package secrets

import (
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"
)

// Config is the `vault:` section of the configuration. What is left out comes
// from Vault's own environment variables (VAULT_ADDR, VAULT_NAMESPACE,
// VAULT_CACERT, VAULT_CLIENT_TIMEOUT and so on). Without an address from either
// there is no Vault, and a vault reference is not found.
type Config struct {
	// Address is the URL of the server, https://vault.example.com:8200, or
	// unix:///path of an agent's socket. Default: VAULT_ADDR.
	Address string `yaml:"address"`
	// Namespace is that of a Vault Enterprise or HCP server. Default: VAULT_NAMESPACE.
	Namespace string `yaml:"namespace"`
	// Auth is how we log in. Default: the token of VAULT_TOKEN or ~/.vault-token.
	Auth Auth `yaml:"auth"`
	// TLS is for the connection to Vault.
	TLS TLS `yaml:"tls"`
	// Timeout bounds one request to Vault: 1s..60s, default 10s (or
	// VAULT_CLIENT_TIMEOUT).
	Timeout time.Duration `yaml:"timeout"`
	// CacheTTL is how long a value read from Vault is used again: 1s..1h, default
	// 60s. Private keys are never cached, and a relay that refuses a password has
	// it read afresh at once.
	CacheTTL time.Duration `yaml:"cache_ttl"`
}

// Auth says how to log in. Values are secret references: {env: NAME}, {file:
// PATH}, {credential: NAME}, {value: ...}; they are read again for every login,
// so that a rotated one is picked up without a restart.
type Auth struct {
	// Method: token (default) | approle | kubernetes | jwt | cert | userpass.
	Method string `yaml:"method"`
	// Mount of the auth method, without "auth/". Default: the method's name.
	Mount string `yaml:"mount"`

	// Token for method token. Default: VAULT_TOKEN, then ~/.vault-token. A token
	// that can be renewed is.
	Token Ref `yaml:"token"`

	// RoleID and SecretID for method approle; SecretID may be left out where the
	// role has bind_secret_id=false.
	RoleID   Ref `yaml:"role_id"`
	SecretID Ref `yaml:"secret_id"`
	// SecretIDWrapped says that secret_id is a response-wrapping token that holds
	// the secret id. It is unwrapped once; if somebody else did so before, the
	// login fails and says so.
	SecretIDWrapped bool `yaml:"secret_id_wrapped"`

	// Role for methods kubernetes and jwt, and the name of the certificate role
	// for method cert (default there: any role that fits).
	Role string `yaml:"role"`
	// JWT for method jwt.
	JWT Ref `yaml:"jwt"`
	// JWTFile for methods kubernetes and jwt, read at every login. Default for
	// kubernetes: /var/run/secrets/kubernetes.io/serviceaccount/token.
	JWTFile string `yaml:"jwt_file"`

	// Username and Password for method userpass.
	Username Ref `yaml:"username"`
	Password Ref `yaml:"password"`
}

// TLS is for the connection to Vault. The client certificate is also what
// auth.method cert logs in with.
type TLS struct {
	// CAFile is a PEM file with the CAs to trust instead of the system's. Default: VAULT_CACERT.
	CAFile string `yaml:"ca_file"`
	// CertFile and KeyFile are the client certificate. Default: VAULT_CLIENT_CERT, VAULT_CLIENT_KEY.
	CertFile string `yaml:"cert_file"`
	KeyFile  string `yaml:"key_file"`
	// ServerName is what the server's certificate has to be valid for, when it is
	// not the host of the address. Default: VAULT_TLS_SERVER_NAME.
	ServerName string `yaml:"server_name"`
}

// Problem is one thing wrong with a Config.
type Problem struct {
	Path    string // below `vault`, "auth.role_id"; "" is the section itself
	Message string
}

const (
	defaultTimeout  = 10 * time.Second
	defaultCacheTTL = time.Minute

	kubernetesTokenFile = "/var/run/secrets/kubernetes.io/serviceaccount/token"
)

// methods says which keys of Auth belong to which method, beside method and
// mount; those marked with ! are needed.
var methods = map[string][]string{
	"token":      {"token"},
	"approle":    {"!role_id", "secret_id", "secret_id_wrapped"},
	"kubernetes": {"!role", "jwt_file"},
	"jwt":        {"!role", "jwt", "jwt_file"},
	"cert":       {"role"},
	"userpass":   {"!username", "!password"},
}

// Validate lists everything wrong with the section; nil means it can be used.
func (c Config) Validate() []Problem {
	var found problems
	c.validateAddress(&found)
	c.Auth.validate(&found)
	if c.Address == "" && c.Auth.given() && os.Getenv("VAULT_ADDR") == "" && os.Getenv("VAULT_AGENT_ADDR") == "" {
		found.add("address", "is missing: there is a way to log in but no server (VAULT_ADDR is not set either)")
	}
	if (c.TLS.CertFile == "") != (c.TLS.KeyFile == "") {
		found.add("tls", "cert_file and key_file belong together: give both")
	}
	if c.Auth.Method == "cert" && c.TLS.CertFile == "" && os.Getenv("VAULT_CLIENT_CERT") == "" {
		found.add("tls.cert_file", "is missing: auth.method cert logs in with it")
	}
	found.within("timeout", c.Timeout, time.Second, time.Minute)
	found.within("cache_ttl", c.CacheTTL, time.Second, time.Hour)
	if strings.ContainsFunc(c.Namespace, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		found.add("namespace", "holds a space or a control character")
	}
	return found
}

func (c Config) validateAddress(found *problems) {
	if c.Address == "" || strings.HasPrefix(c.Address, "unix:///") {
		return
	}
	u, err := url.Parse(c.Address)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		found.add("address", "is not a URL like https://vault.example.com:8200 or unix:///run/vault.sock")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		found.add("address", "holds more than scheme, host, port and path")
	}
}

func (a Auth) validate(found *problems) {
	method := a.method()
	keys, known := methods[method]
	if !known {
		found.add("auth.method", "is not known: use token, approle, kubernetes, jwt, cert or userpass")
		return
	}
	if a.Mount != "" {
		if err := validateSegments("mount", a.Mount); err != nil {
			found.add("auth.mount", strings.TrimPrefix(err.Error(), "mount: "))
		}
	}
	for key, given := range a.keys() {
		switch {
		case given && !slices.Contains(keys, key) && !slices.Contains(keys, "!"+key):
			found.add("auth."+key, "does not belong to method "+method)
		case !given && slices.Contains(keys, "!"+key):
			found.add("auth."+key, "is missing: method "+method+" needs it")
		}
	}
	if a.SecretIDWrapped && a.SecretID.IsZero() {
		found.add("auth.secret_id", "is missing: secret_id_wrapped says that it holds a wrapping token")
	}
	if method == "jwt" && a.JWT.IsZero() == (a.JWTFile == "") {
		found.add("auth.jwt", "give either jwt or jwt_file")
	}
	for key, ref := range a.refs() {
		if ref.IsZero() {
			continue
		}
		if err := ref.Validate(); err != nil {
			found.add("auth."+key, err.Error())
		} else if ref.Vault != nil || ref.Transit != nil {
			found.add("auth."+key, "cannot come from Vault: it is what opens Vault")
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

func (a Auth) refs() map[string]Ref {
	return map[string]Ref{
		"token": a.Token, "role_id": a.RoleID, "secret_id": a.SecretID, "jwt": a.JWT, "username": a.Username, "password": a.Password,
	}
}

// keys says which keys, method and mount aside, are given.
func (a Auth) keys() map[string]bool {
	given := map[string]bool{"secret_id_wrapped": a.SecretIDWrapped, "role": a.Role != "", "jwt_file": a.JWTFile != ""}
	for key, ref := range a.refs() {
		given[key] = !ref.IsZero()
	}
	return given
}

// problems collects what Validate finds.
type problems []Problem

func (p *problems) add(path, message string) { *p = append(*p, Problem{path, message}) }

func (p *problems) within(path string, d, least, most time.Duration) {
	if d != 0 && (d < least || d > most) {
		p.add(path, fmt.Sprintf("is %v: between %v and %v, please", d, least, most))
	}
}
