package delivery

import (
	"strings"
	"time"

	"github.com/certpost/certpost/internal/encryption"
	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/payload"
	"github.com/certpost/certpost/internal/secrets"
)

// Target is one definition of who gets which certificates, and how. The
// comments are the manual: what a key means, its default, its bounds. They are
// also the descriptions in the JSON Schema.
type Target struct {
	// ID is the name of the target in subjects, logs and pages: 1 to 64 characters of
	// A-Z, a-z, 0-9, _ and -.
	ID string `yaml:"id" required:"true" pattern:"^[A-Za-z0-9_-]{1,64}$"`
	// FormerIDs are ids that the target had before, in the form of id. Events that name one of
	// them, and replays of dead letters that were for it, go to this target. What was delivered
	// under a former id is not delivered again. No target may have such an id now.
	FormerIDs []string `yaml:"former_ids"`
	// Type is the kind of delivery: smtp sends a mail; postfix, dovecot and file put the
	// certificate and its key into files on a mail host, and make the program there serve them.
	Type string `yaml:"type" enum:"smtp,postfix,dovecot,file"`
	// Disabled stops deliveries to the target and keeps its definition.
	Disabled bool `yaml:"disabled"`
	// Match selects the target for events that name no targets; every condition in it
	// must match. A target without match gets only events that name it.
	Match *Match `yaml:"match"`

	// Preset sets host, port and tls_mode for a provider, and the user name where it is the
	// same for all customers; keys of the target come first. A refused login then says what
	// the provider expects. ses needs host: it depends on the region.
	Preset string `yaml:"preset" enum:"gmail,outlook,office365,yahoo,sendgrid,mailgun,ses,postmark"`
	// Host is the relay's DNS name or IP address. The relay's certificate must be valid
	// for it, unless tls_server_name or tls_fingerprint is set. Required without preset. For
	// postfix, dovecot and file it is the name of the mail host: the process there has it in
	// mail_host.
	Host string `yaml:"host"`
	// Port is the relay's TCP port. The default of tls_mode depends on it.
	Port int `yaml:"port" min:"1" max:"65535"`
	// TLSMode is one of starttls (STARTTLS is required, no downgrade), smtps (TLS from
	// the first byte), opportunistic (STARTTLS if the relay offers it, else not
	// encrypted) and plaintext (not encrypted, with a warning). Default: smtps on port
	// 465, plaintext on port 25, starttls on all others.
	TLSMode string `yaml:"tls_mode" enum:"starttls,smtps,opportunistic,plaintext"`
	// TLSSkipVerify accepts every certificate of the relay, without verification; gives
	// a warning.
	TLSSkipVerify bool `yaml:"tls_skip_verify"`
	// TLSServerName is the name or IP address that the relay's certificate must be valid
	// for, if that is not host: for a relay that is reached by its address or by another
	// name. It is sent in SNI. Default: host.
	TLSServerName string `yaml:"tls_server_name"`
	// TLSFingerprint is the SHA-256 of the relay's certificate or of its public key, 64
	// hexadecimal digits with or without colons. A certificate with this fingerprint is
	// accepted, whatever its CA, name and dates, and no other. Several are separated by
	// commas, such as the present and the next one.
	TLSFingerprint string `yaml:"tls_fingerprint"`
	// CAFile is a PEM file with the CAs to trust. Default: the system's CAs.
	CAFile string `yaml:"ca_file"`
	// ClientCertFile is a PEM file with the client certificate for the relay and its
	// chain; it requires client_key_file.
	ClientCertFile string `yaml:"client_cert_file"`
	// ClientKeyFile is a PEM file with the private key of client_cert_file, not
	// encrypted.
	ClientKeyFile string `yaml:"client_key_file"`

	// AuthMethod is the SMTP AUTH method: none, plain, login, cram-md5, scram-sha-256 or
	// xoauth2. Default: xoauth2 if oauth2 is set, plain if username is set, else none.
	AuthMethod string `yaml:"auth_method" enum:"none,plain,login,cram-md5,scram-sha-256,xoauth2"`
	// Username is the user name for AUTH: text, or a mapping that is a secret reference.
	Username Text `yaml:"username"`
	// Password is the password for AUTH, as a secret reference; for xoauth2 an access
	// token. Example: {file: /run/secrets/smtp-password}.
	Password secrets.Ref `yaml:"password"`
	// OAuth2 fetches the access token for xoauth2. Set it instead of password.
	OAuth2 OAuth2 `yaml:"oauth2"`
	// AllowInsecureAuth allows a login that sends the password or token (plain, login,
	// xoauth2) unencrypted, or to a relay that is not verified (tls_skip_verify).
	AllowInsecureAuth bool `yaml:"allow_insecure_auth"`
	// AllowPlaintextKey allows private keys (payload pem_and_key) over a connection that
	// may be unencrypted (plaintext, opportunistic) to a relay on another machine.
	AllowPlaintextKey bool `yaml:"allow_plaintext_key"`
	// RetryAuth retries a delivery when the relay refuses the login (SMTP_AUTH), instead
	// of making it a dead letter.
	RetryAuth bool `yaml:"retry_auth"`
	// RetryTLS retries a delivery when TLS fails (SMTP_TLS), instead of making it a dead
	// letter.
	RetryTLS bool `yaml:"retry_tls"`

	// Timeout is the time limit for sending one mail by one relay, from the dial to the
	// final reply.
	Timeout time.Duration `yaml:"timeout" min:"1s" max:"600s"`
	// Fallback are at most five relays to try, in this order, when those before them do
	// not answer. A mail that a relay was asked to take does not go to another relay.
	Fallback []Fallback `yaml:"fallback"`

	// FromAddress is the envelope sender and the address in the From header (RFC 5322
	// addr-spec). Required for smtp. Example: certs@example.com.
	FromAddress string `yaml:"from_address"`
	// FromName is the display name in the From header; at most 128 characters.
	FromName string `yaml:"from_name"`
	// To are the recipients in the To header: 1 to 50 addresses, required for smtp. {email}
	// stands for the e-mail addresses in the certificate, {labels.NAME} for a label of the
	// event; both need to_domains.
	To []string `yaml:"to"`
	// CC are the recipients in the Cc header; at most 50.
	CC []string `yaml:"cc"`
	// BCC are the recipients that appear in no header; at most 50.
	BCC []string `yaml:"bcc"`
	// ToDomains are globs on the domains that recipients with {email} or {labels.NAME} may be
	// in, in to, cc and bcc; * matches any characters except a dot, ** any characters. Other
	// addresses become a dead letter (SMTP_VALIDATION), and so do those with @, %, !, :, \ or
	// quotes before the @, which relays read as a route to another domain. Example:
	// [example.com].
	ToDomains []string `yaml:"to_domains"`
	// AllOrNothing sends the mail to no recipient if the relay refuses one of them.
	// Otherwise the accepted recipients get it, and the refused ones are retried or
	// become a dead letter.
	AllOrNothing bool `yaml:"all_or_nothing"`
	// ReplyTo is the address in the Reply-To header.
	ReplyTo string `yaml:"reply_to"`

	// Payload is the attachment, or for type file what is at cert_path (pem: by its keys): pem (leaf and chain), pem_and_key (also the private
	// key), pkcs12 or jks (leaf, chain and private key in one encrypted file), der (leaf
	// and chain, binary, in a zip), pkcs7 (leaf and chain, .p7b), pkcs12_truststore (the
	// chain as trusted certificates) or zip (the PEM files apart).
	Payload string `yaml:"payload" enum:"pem,pem_and_key,pkcs12,jks,der,pkcs7,pkcs12_truststore,zip"`
	// PKCS12Passphrase is the passphrase of the pkcs12 payload, as a secret reference; ASCII,
	// not empty. With generate Certpost makes one for each certificate.
	PKCS12Passphrase Passphrase `yaml:"pkcs12_passphrase"`
	// KeystorePassword is the password of the jks and pkcs12_truststore payloads, as a secret
	// reference; ASCII, at least 6 characters. With generate Certpost makes one for each
	// certificate.
	KeystorePassword Passphrase `yaml:"keystore_password"`
	// PrivateKeyPassphrase is the passphrase of private keys that are stored as encrypted
	// PKCS#8, as a secret reference. Example: {vault: {mount: secret, path: "certs/{cn}", key:
	// passphrase}}.
	PrivateKeyPassphrase secrets.Ref `yaml:"private_key_passphrase"`
	// PKCS12Encoding is the encryption of the pkcs12 and pkcs12_truststore payloads:
	// modern2023 (AES-256); legacydes for Windows Server 2016, macOS 14, Android 13 and
	// older; modern2026 (RFC 9579), which few programs read yet.
	PKCS12Encoding string `yaml:"pkcs12_encoding" enum:"modern2023,legacydes,modern2026"`
	// PKCS12Iterations is how often the passphrase is stretched. 100,000 cost 44 ms of
	// processor time for each mail.
	PKCS12Iterations int `yaml:"pkcs12_iterations" min:"2048" max:"100000"`
	// Alias names the key's entry in a pkcs12 (friendly name) or jks file; {cn} stands for
	// the certificate's name, {target} for the target's id. Java shows it in lower case.
	Alias string `yaml:"alias"`
	// ZipPrivateKey adds the private key, not encrypted, to the zip payload.
	ZipPrivateKey bool `yaml:"zip_private_key"`

	// Encryption encrypts to the recipients, so that no passphrase travels: none, smime (the
	// whole mail, S/MIME), openpgp (the whole mail, PGP/MIME) or age (each attachment, as
	// NAME.age). It cannot be combined with bcc.
	Encryption string `yaml:"encryption" enum:"none,smime,openpgp,age"`
	// RecipientKeys are the public keys to encrypt to, as secret references by address: an
	// S/MIME certificate in PEM, an OpenPGP key, armored, or age and SSH public keys, one in
	// a line. Each address of to and cc needs one. Example: {ops@example.com: {file:
	// /etc/certpost/recipients/ops.pem}}.
	RecipientKeys map[string]secrets.Ref `yaml:"recipient_keys"`
	// RecipientKeysDir is a directory with the keys of addresses that recipient_keys does
	// not have. The file is named after the address in lower case: ADDRESS.pem for smime,
	// ADDRESS.asc for openpgp, ADDRESS.pub for age. A changed file is used at once.
	RecipientKeysDir string `yaml:"recipient_keys_dir"`
	// SMIMEOAEP encrypts S/MIME mails to RSA keys with OAEP. OpenSSL and Thunderbird read it,
	// Outlook of today and older programs may not.
	SMIMEOAEP bool `yaml:"smime_oaep"`

	// Sign signs the mails as their sender.
	Sign Sign `yaml:"sign"`
	// DKIM signs the mails for a domain.
	DKIM DKIM `yaml:"dkim"`

	// MaxAttachmentBytes limits one attachment, decoded. A delivery with a larger one becomes
	// a dead letter (SMTP_PAYLOAD), and no relay is dialled.
	MaxAttachmentBytes int `yaml:"max_attachment_bytes" min:"1" max:"1073741824"`
	// MaxMessageBytes limits the whole mail as it is sent, likewise.
	MaxMessageBytes int `yaml:"max_message_bytes" min:"1" max:"1073741824"`

	// Superseded says what happens to a certificate when the target was already sent one that
	// becomes valid later, for the same kind of key and at least the same names: deliver,
	// skip (nothing is sent, and there is no dead letter) or dead_letter (SMTP_VALIDATION). What
	// was sent before the policy was set is not known. A replay with force is sent in any case.
	Superseded string `yaml:"superseded" enum:"deliver,skip,dead_letter"`
	// InvalidDates says what happens to certificates that have expired or are not valid yet:
	// refuse makes a dead letter (SMTP_PAYLOAD), warn delivers them with a warning. Default:
	// events.invalid_dates.
	InvalidDates string `yaml:"invalid_dates" enum:"refuse,warn"`
	// StrictChain refuses an event with a certificate that does not belong to the chain of
	// its leaf. Otherwise the certificate is left out, with a warning in mail and log.
	StrictChain bool `yaml:"strict_chain"`
	// AllowUnsupportedCertificate delivers, as payload pem, a certificate that Certpost
	// cannot parse as a whole (a brainpool curve, a negative serial number), byte by byte and
	// with a warning. Certpost then verifies neither its key nor its signature.
	AllowUnsupportedCertificate bool `yaml:"allow_unsupported_certificate"`

	// Headers are more headers of the mail, such as {X-Team: web}: Comments, Importance,
	// Keywords, List-Archive, List-Help, List-Id, List-Owner, List-Unsubscribe, Organization,
	// Priority, Sensitivity, and others that begin with X-. At most 20, of 200 characters each.
	// Their text is sent as it is, also with an encrypted mail.
	Headers map[string]string `yaml:"headers"`
	// SubjectPrefix is text before the subject, such as [PROD]; at most 100 characters.
	SubjectPrefix string `yaml:"subject_prefix"`
	// Templates are files with templates for subject and bodies, instead of the words of the
	// default mail. They are read again when they change.
	Templates Templates `yaml:"templates"`

	HostKeys `yaml:",inline"`

	given   map[string]bool // keys that were read; nil for targets made in Go
	lane    string          // set by Relays.Define
	words   *Words          // of Templates; set by Relays.Define
	matcher matcher
	// mailboxes are the addresses of the definition, parsed; set by Relays.Define.
	mailboxes map[string]mailbox
}

// SetDefaults sets empty fields to their defaults. The configuration's decoder
// calls it on each new target before it reads the keys; code that makes targets
// calls it before Relays.Define, which sets TLSMode and AuthMethod: they depend on other
// keys.
func (t *Target) SetDefaults() {
	setDefault(&t.Type, typeSMTP)
	setDefault(&t.Port, defaultPort)
	setDefault(&t.Timeout, defaultTimeout)
	setDefault(&t.Payload, payload.PEM)
	setDefault(&t.PKCS12Encoding, payload.Modern2023)
	setDefault(&t.PKCS12Iterations, payload.MinIterations)
	setDefault(&t.Encryption, encryption.None)
	setDefault(&t.Superseded, SupersededDeliver)
	setDefault(&t.MaxAttachmentBytes, defaultMaxAttachment)
	setDefault(&t.MaxMessageBytes, defaultMaxMessage)
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

	defaultMaxAttachment = 25 << 20
	defaultMaxMessage    = 50 << 20
)

// OAuth2 is a grant of client credentials (RFC 6749 section 4.4). Tokens are used
// until shortly before they expire.
type OAuth2 struct {
	// TokenURL is the URL of the token endpoint. For Exchange Online:
	// https://login.microsoftonline.com/TENANT/oauth2/v2.0/token.
	TokenURL string `yaml:"token_url"`
	// ClientID is the client id of the application.
	ClientID string `yaml:"client_id"`
	// ClientSecret is the client secret of the application, as a secret reference.
	ClientSecret secrets.Ref `yaml:"client_secret"`
	// Scopes are the scopes to request. For Exchange Online:
	// https://outlook.office365.com/.default.
	Scopes []string `yaml:"scopes"`
}

// IsZero reports whether nothing is set.
func (o OAuth2) IsZero() bool {
	return o.TokenURL == "" && o.ClientID == "" && o.ClientSecret.IsZero() && o.Scopes == nil
}

// Match selects events. Every key that is set must match; in a list one entry is
// enough.
type Match struct {
	// DNSNames are globs on the certificate's DNS names, or on its CN if it has no DNS
	// names; * matches any characters except a dot, ** any characters. One glob must
	// match. Example: ["*.example.com"].
	DNSNames []string `yaml:"dns_names"`
	// Issuers are globs on the issuer's distinguished name (RFC 2253) and on its CN; *
	// matches any characters. One glob must match. Example: ["*R11*"].
	Issuers []string `yaml:"issuers"`
	// Labels are globs on labels of the event, by name; * matches any characters. All of
	// them must match. Example: {env: prod}.
	Labels map[string]string `yaml:"labels"`
	// Emails are globs on the certificate's e-mail addresses; * matches any characters. One
	// glob must match. Example: ["*@example.com"].
	Emails []string `yaml:"emails"`
	// IPAddresses are IP addresses and networks; one of the certificate's IP addresses must
	// be in one of them. Example: [192.0.2.0/24].
	IPAddresses []string `yaml:"ip_addresses"`
	// ExtKeyUsages are uses; the certificate must be for one of them: any, client_auth,
	// code_signing, email_protection, ocsp_signing, server_auth, time_stamping.
	ExtKeyUsages []string `yaml:"ext_key_usages"`
	// KeyTypes are kinds of keys: rsa, ecdsa, ed25519. The certificate's must be one of them.
	KeyTypes []string `yaml:"key_types"`
}

// Lane is the queue of the target's relay or mail host: [A-Za-z0-9_-]{1,64}. It is empty
// until Relays.Define has set it.
func (t *Target) Lane() string { return t.lane }

// SendTimeout returns Timeout, or its default.
func (t *Target) SendTimeout() time.Duration {
	if t.Timeout == 0 {
		return defaultTimeout
	}
	return t.Timeout
}

// settings returns the target's settings for the files of its payload, with the places of
// the alias filled from vars.
func (t *Target) settings(vars secrets.Vars) payload.Settings {
	alias := t.Alias
	if strings.Contains(alias, "{") {
		alias = strings.NewReplacer("{cn}", vars["cn"], "{target}", t.ID).Replace(alias)
	}
	return payload.Settings{Kind: t.Payload, PKCS12Encoding: t.PKCS12Encoding, Iterations: t.PKCS12Iterations, WithKey: t.ZipPrivateKey,
		Alias: legible.Clean(alias, maxAlias)}
}

// maxAlias limits the name of a key's entry, in bytes: the certificate's name is in it.
const maxAlias = 120

// passphrase returns the secret that the payload's file is protected with; zero for none.
func (t *Target) passphrase() Passphrase {
	switch t.settings(nil).Passphrase() {
	case "pkcs12_passphrase":
		return t.PKCS12Passphrase
	case "keystore_password":
		return t.KeystorePassword
	}
	return Passphrase{}
}

// keyPassphrase returns the secret that private keys are decrypted with; zero if the payload
// has none.
func (t *Target) keyPassphrase() secrets.Ref {
	if !t.onHost() && !t.settings(nil).NeedsKey() {
		return secrets.Ref{}
	}
	return t.PrivateKeyPassphrase
}
