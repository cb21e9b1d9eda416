package delivery

import (
	"time"

	"github.com/certpost/certpost/internal/payload"
	"github.com/certpost/certpost/internal/secrets"
)

// Target is one definition of who gets which certificates, and how. The
// comments are the manual: what a key means, its default, its bounds. They are
// also the descriptions in the JSON Schema.
type Target struct {
	// ID names the target in subjects, logs and pages: 1 to 64 of A-Z, a-z, 0-9, _ and -.
	ID string `yaml:"id" required:"true" pattern:"^[A-Za-z0-9_-]{1,64}$"`
	// Type is how the certificate travels.
	Type string `yaml:"type" enum:"smtp"`
	// Disabled keeps the definition but delivers nothing to it.
	Disabled bool `yaml:"disabled"`
	// Match selects events that name no targets; all that is given must fit. A
	// target without match gets only events that name it.
	Match *Match `yaml:"match"`

	// Host is the relay's DNS name or IP address; its certificate has to be valid for it.
	Host string `yaml:"host" required:"true"`
	// Port of the relay. It decides the default of tls_mode.
	Port int `yaml:"port" min:"1" max:"65535"`
	// TLSMode: starttls (required, no downgrade; the default on every port but 465
	// and 25), smtps (default on 465), opportunistic (STARTTLS when offered, else
	// in the clear), plaintext (default on 25, warned about loudly).
	TLSMode string `yaml:"tls_mode" enum:"starttls,smtps,opportunistic,plaintext"`
	// TLSSkipVerify accepts any certificate of the relay (warned about).
	TLSSkipVerify bool `yaml:"tls_skip_verify"`
	// CAFile is a PEM file with the CAs to trust instead of the system's.
	CAFile string `yaml:"ca_file"`
	// ClientCertFile is a PEM file with the certificate that we show the relay, and
	// its chain.
	ClientCertFile string `yaml:"client_cert_file"`
	// ClientKeyFile is a PEM file with the key of client_cert_file, not encrypted.
	ClientKeyFile string `yaml:"client_key_file"`

	// AuthMethod is none, plain, login, cram-md5, scram-sha-256 or xoauth2. Left out it
	// is xoauth2 with oauth2, plain with a username, else none.
	AuthMethod string `yaml:"auth_method" enum:"none,plain,login,cram-md5,scram-sha-256,xoauth2"`
	// Username for AUTH; a plain string is taken as it is, a mapping is a secret
	// reference.
	Username Text `yaml:"username"`
	// Password for AUTH, as a secret reference; for xoauth2 an access token.
	Password secrets.Ref `yaml:"password"`
	// OAuth2 fetches the access token for xoauth2, in place of password.
	OAuth2 OAuth2 `yaml:"oauth2"`
	// AllowInsecureAuth lets the password go over a connection that is not
	// encrypted, or to a relay that is not verified (tls_skip_verify).
	AllowInsecureAuth bool `yaml:"allow_insecure_auth"`
	// AllowPlaintextKey lets private keys (pem_and_key) go over a connection that
	// may be in the clear to a relay that is not on this machine.
	AllowPlaintextKey bool `yaml:"allow_plaintext_key"`
	// RetryAuth makes a refused login (SMTP_AUTH) a failure that is tried again.
	RetryAuth bool `yaml:"retry_auth"`
	// RetryTLS makes a failed TLS handshake (SMTP_TLS) a failure that is tried again.
	RetryTLS bool `yaml:"retry_tls"`

	// Timeout bounds one whole send, dial to final reply.
	Timeout time.Duration `yaml:"timeout" min:"1s" max:"600s"`
	// Fallback are relays to try, in this order, while those before them do not
	// answer; at most five. What a relay has begun to take is not given to another.
	Fallback []Fallback `yaml:"fallback"`

	// FromAddress is the envelope sender and the From header (RFC 5322 addr-spec).
	FromAddress string `yaml:"from_address" required:"true"`
	// FromName is the display name in From.
	FromName string `yaml:"from_name"`
	// To are the recipients in the To header; at least one. To, CC and BCC
	// together are at most 50.
	To []string `yaml:"to" required:"true"`
	// CC are the recipients in the Cc header.
	CC []string `yaml:"cc"`
	// BCC are the recipients that stand in no header.
	BCC []string `yaml:"bcc"`
	// AllOrNothing sends nothing to anybody when the relay refuses one of the
	// recipients. Otherwise each has a fate of its own.
	AllOrNothing bool `yaml:"all_or_nothing"`
	// ReplyTo is the address in the Reply-To header.
	ReplyTo string `yaml:"reply_to"`

	// Payload is what is attached: pem (leaf and chain), pem_and_key (the private
	// key too) or pkcs12 (all in one file with a passphrase).
	Payload string `yaml:"payload" enum:"pem,pem_and_key,pkcs12"`
	// PKCS12Passphrase protects the pkcs12 payload, as a secret reference; ASCII,
	// not empty.
	PKCS12Passphrase secrets.Ref `yaml:"pkcs12_passphrase"`
	// PKCS12Encoding is modern2023 (AES-256), or legacydes for Windows Server 2016,
	// macOS 14, Android 13 and older.
	PKCS12Encoding string `yaml:"pkcs12_encoding" enum:"modern2023,legacydes"`

	// SubjectPrefix stands in front of the subject; at most 100 characters.
	SubjectPrefix string `yaml:"subject_prefix"`

	given   map[string]bool // keys that were read; nil for targets made in Go
	lane    string          // set by NewDefinitions
	matcher matcher
}

// SetDefaults fills what is not set with its default. The configuration's
// decoder calls it on each new target before it reads the keys; targets written
// in Go call it before NewDefinitions. TLSMode and AuthMethod depend on other
// keys: NewDefinitions sets them.
func (t *Target) SetDefaults() {
	setDefault(&t.Type, "smtp")
	setDefault(&t.Port, defaultPort)
	setDefault(&t.Timeout, defaultTimeout)
	setDefault(&t.Payload, payload.PEM)
	setDefault(&t.PKCS12Encoding, payload.Modern2023)
}

func setDefault[T comparable](field *T, value T) {
	var unset T
	if *field == unset {
		*field = value
	}
}

const (
	defaultPort    = 587
	defaultTimeout = 30 * time.Second
)

// OAuth2 is a grant of client credentials (RFC 6749 section 4.4). Tokens are used
// until shortly before they expire.
type OAuth2 struct {
	// TokenURL is where tokens are asked for, for Exchange Online
	// https://login.microsoftonline.com/TENANT/oauth2/v2.0/token.
	TokenURL string `yaml:"token_url"`
	// ClientID is the application's id.
	ClientID string `yaml:"client_id"`
	// ClientSecret is the application's secret, as a secret reference.
	ClientSecret secrets.Ref `yaml:"client_secret"`
	// Scopes to ask for, for Exchange Online https://outlook.office365.com/.default.
	Scopes []string `yaml:"scopes"`
}

// IsZero reports whether nothing is given.
func (o OAuth2) IsZero() bool {
	return o.TokenURL == "" && o.ClientID == "" && o.ClientSecret.IsZero() && o.Scopes == nil
}

// Match selects events. Everything given must fit; in a list one entry is enough.
type Match struct {
	// DNSNames are globs on the certificate's DNS names (the CN when there are
	// none); * matches any characters but no dot, ** any at all.
	DNSNames []string `yaml:"dns_names"`
	// Issuers are globs on the issuer's distinguished name (RFC 2253) or its CN; *
	// matches any characters.
	Issuers []string `yaml:"issuers"`
	// Labels must be present in the event with a value that fits the glob; *
	// matches any characters.
	Labels map[string]string `yaml:"labels"`
}

// Lane is the queue of the target's relay: [A-Za-z0-9_-]{1,64}. It is empty
// until NewDefinitions has set it.
func (t *Target) Lane() string { return t.lane }

// SendTimeout is Timeout with its default.
func (t *Target) SendTimeout() time.Duration {
	if t.Timeout == 0 {
		return defaultTimeout
	}
	return t.Timeout
}

// settings are what the target says about the files of its payload.
func (t *Target) settings() payload.Settings {
	return payload.Settings{PKCS12Encoding: t.PKCS12Encoding}
}
