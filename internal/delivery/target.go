package delivery

import (
	"time"

	"github.com/certpost/certpost/internal/secrets"
)

// Target is one definition of who gets which certificates, and how. The
// comments are the manual: what a key means, its default, its bounds.
type Target struct {
	// ID names the target in subjects, logs and pages: [A-Za-z0-9_-]{1,64}.
	ID string `yaml:"id"`
	// Type is how the certificate travels; smtp is the default.
	Type string `yaml:"type"`
	// Disabled keeps the definition but delivers nothing to it.
	Disabled bool `yaml:"disabled"`
	// Match selects events that name no targets; all that is given must fit. A
	// target without match gets only events that name it.
	Match *Match `yaml:"match"`

	// Host is the relay's name; its certificate has to be valid for it.
	Host string `yaml:"host"`
	// Port is 587 by default; it decides the default of TLSMode.
	Port int `yaml:"port"`
	// TLSMode: starttls (required, no downgrade; default on every port but 465
	// and 25), smtps (default on 465), opportunistic, plaintext (default on 25,
	// warned about loudly).
	TLSMode string `yaml:"tls_mode"`
	// TLSSkipVerify accepts any certificate of the relay (warned about).
	TLSSkipVerify bool `yaml:"tls_skip_verify"`
	// CAFile is a PEM file with the CAs to trust instead of the system's.
	CAFile string `yaml:"ca_file"`

	// AuthMethod: none | plain | login; plain when a user name is given, else none.
	AuthMethod string `yaml:"auth_method"`
	// Username for AUTH; a plain string is taken as it is, a mapping is a secret
	// reference.
	Username secrets.Ref `yaml:"username"`
	// Password for AUTH.
	Password secrets.Ref `yaml:"password"`
	// AllowInsecureAuth lets a password go to a relay that cannot be verified
	// (tls_skip_verify) or over plaintext.
	AllowInsecureAuth bool `yaml:"allow_insecure_auth"`
	// RetryAuth and RetryTLS turn SMTP_AUTH and SMTP_TLS into retried codes.
	RetryAuth bool `yaml:"retry_auth"`
	RetryTLS  bool `yaml:"retry_tls"`

	// Timeout bounds one whole send, dial to final reply: 1s..600s, default 30s.
	Timeout Duration `yaml:"timeout"`

	// FromAddress is the envelope sender and the From header (RFC 5322).
	FromAddress string `yaml:"from_address"`
	// FromName is the display name in From.
	FromName string `yaml:"from_name"`
	// To, CC and BCC: 1..50 addresses in all, at least one in To.
	To  []string `yaml:"to"`
	CC  []string `yaml:"cc"`
	BCC []string `yaml:"bcc"`
	// ReplyTo is the Reply-To header's address.
	ReplyTo string `yaml:"reply_to"`

	// Payload: pem (default) | pem_and_key | pkcs12.
	Payload string `yaml:"payload"`
	// PKCS12Passphrase protects the pkcs12 payload: ASCII, not empty.
	PKCS12Passphrase secrets.Ref `yaml:"pkcs12_passphrase"`
	// PKCS12Encoding: modern2023 (default) | legacydes (old Windows, macOS, Android).
	PKCS12Encoding string `yaml:"pkcs12_encoding"`

	// SubjectPrefix stands in front of the subject.
	SubjectPrefix string `yaml:"subject_prefix"`

	lane string // set by the loader
}

// Match selects events. Everything given must fit; in a list one entry is enough.
type Match struct {
	// DNSNames are globs on the certificate's DNS names (CN included when there
	// are no SANs); * matches any characters but no dot, ** any at all.
	DNSNames []string `yaml:"dns_names"`
	// Issuers are globs on the issuer's distinguished name (RFC 2253) or its CN.
	Issuers []string `yaml:"issuers"`
	// Labels must be present with a value that fits the glob.
	Labels map[string]string `yaml:"labels"`
}

// Lane is the queue of the target's relay: [A-Za-z0-9_-]{1,64}.
func (t *Target) Lane() string { return t.lane }

// SendTimeout is Timeout with its default.
func (t *Target) SendTimeout() time.Duration { return time.Duration(t.Timeout) }
