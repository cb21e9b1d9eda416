package delivery

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/config"
	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/smtp"
	"github.com/certpost/certpost/internal/verdict"
)

// Relays are settings of relays for all targets that use them, so that hundreds of
// targets need not repeat them. For each key the target's own value comes first, then
// that of the first rule that matches the relay, then that of default.
type Relays struct {
	// Default applies to all relays, for keys that neither the target nor a rule sets.
	Default RelayDefault `yaml:"default"`
	// Rules apply to the relays that they match. If several match a relay, only the
	// first one applies.
	Rules []RelayRule `yaml:"rules"`
}

// RelayDefault are the settings of all relays.
type RelayDefault struct {
	RelayKeys   `yaml:",inline"`
	RelayLimits `yaml:",inline"`
}

// RelayRule are the settings of the relays that it matches.
type RelayRule struct {
	// Host is a glob on the relay's name or address: * matches any characters except a
	// dot, ** any characters. Required without domain; default: all relays. Example:
	// *.mail.example.net.
	Host string `yaml:"host"`
	// Domain is a glob on the domain of the recipients, with the same wildcards: the rule
	// matches targets whose recipients (to, cc and bcc) are all in such domains. {domain}
	// in a Vault path of this rule is the domain of the recipients, not that of the
	// certificate. A rule with domain has no limits.
	Domain string `yaml:"domain"`
	// OnlyPort limits the rule to relays with this port. Default: all ports.
	OnlyPort *int `yaml:"only_port" min:"1" max:"65535"`

	RelayKeys   `yaml:",inline"`
	RelayLimits `yaml:",inline"`
}

// RelayKeys say how to connect to a relay. They have the same meaning as in a target.
type RelayKeys struct {
	// Port is the relay's TCP port, if the target does not set one.
	Port *int `yaml:"port" min:"1" max:"65535"`
	// TLSMode is the TLS mode, as in a target.
	TLSMode string `yaml:"tls_mode" enum:"starttls,smtps,opportunistic,plaintext"`
	// TLSSkipVerify accepts every certificate of the relay, as in a target.
	TLSSkipVerify *bool `yaml:"tls_skip_verify"`
	// TLSServerName is the name in the relay's certificate, as in a target.
	TLSServerName string `yaml:"tls_server_name"`
	// TLSFingerprint is the SHA-256 of the relay's certificate or public key, as in a
	// target.
	TLSFingerprint string `yaml:"tls_fingerprint"`
	// CAFile is a PEM file with the CAs to trust, as in a target.
	CAFile string `yaml:"ca_file"`
	// ClientCertFile is a PEM file with the client certificate, as in a target.
	ClientCertFile string `yaml:"client_cert_file"`
	// ClientKeyFile is a PEM file with the private key of client_cert_file.
	ClientKeyFile string `yaml:"client_key_file"`
	// AuthMethod is the SMTP AUTH method, as in a target.
	AuthMethod string `yaml:"auth_method" enum:"none,plain,login,cram-md5,scram-sha-256,xoauth2"`
	// Username is the user name for AUTH, as in a target.
	Username Text `yaml:"username"`
	// Password is the password for AUTH, as in a target. {host} and {target} in a Vault
	// path are replaced by those of the delivery.
	Password secrets.Ref `yaml:"password"`
	// OAuth2 fetches the access token for xoauth2, as in a target.
	OAuth2 OAuth2 `yaml:"oauth2"`
	// AllowInsecureAuth allows a login without encryption or verification, as in a target.
	AllowInsecureAuth *bool `yaml:"allow_insecure_auth"`
	// Timeout is the time limit for sending one mail, as in a target.
	Timeout *time.Duration `yaml:"timeout" min:"1s" max:"600s"`
}

// Hint returns what to write instead of a key that is not one of a relay or target, "" if
// that is unknown: secrets are references, never keys of their own.
func (RelayKeys) Hint(key string) string {
	switch key {
	case "vault_mount", "vault_path", "vault_key", "password_path", "password_vault_path":
		return "want password: {vault: {mount: secret, path: smtp-auth/relay, key: password}}"
	case "password_file":
		return "want password: {file: /run/secrets/smtp-password}"
	case "password_env":
		return "want password: {env: SMTP_PASSWORD}"
	case "key_data", "key_file", "private_key":
		return "a definition has no private key: the event's private_key says where the key is stored"
	}
	return ""
}

// Hint is that of RelayKeys.
func (Target) Hint(key string) string { return RelayKeys{}.Hint(key) }

// RelayLimits are the limits of a relay, by host and port. The number of connections
// and the rate apply to all replicas together.
type RelayLimits struct {
	// MaxConnections is the maximum number of connections to the relay at a time, from
	// all replicas together. Default: 20 from each process.
	MaxConnections int `yaml:"max_connections" min:"0" max:"10000"`
	// MaxMessagesPerConnection is the number of mails after which a connection is
	// closed; 1 opens a connection for every mail. Default: 100.
	MaxMessagesPerConnection int `yaml:"max_messages_per_connection" min:"0" max:"100000"`
	// MaxConnectionIdle is how long an unused connection is kept for the next mail.
	// Default: 30s.
	MaxConnectionIdle time.Duration `yaml:"max_connection_idle" min:"0s" max:"1h"`
	// MaxConnectionAge is the age from which a connection is not used again. Default: 5m.
	MaxConnectionAge time.Duration `yaml:"max_connection_age" min:"0s" max:"24h"`
	// MaxMessageRate is the maximum number of mails to the relay in any period of that
	// length, from all replicas together: 14/s, 100/min, 1000/h, 500/day. Default: no
	// limit.
	MaxMessageRate verdict.Rate `yaml:"max_message_rate" pattern:"^ *[0-9]+ */ *(s|min|h|day) *$"`
	// LimitPause is how long the relay is not used after it replied that it is at a limit
	// of its own, such as mails per day (550 5.4.5) or a rate (4.7.x). Its deliveries wait, or
	// go to a fallback, and no attempt is counted. 0s is the default, 1h.
	LimitPause time.Duration `yaml:"limit_pause" min:"0s" max:"24h"`
}

// Fallback is a relay that is tried when those before it do not answer.
type Fallback struct {
	// Host is the relay's DNS name or IP address.
	Host string `yaml:"host" required:"true"`

	RelayKeys `yaml:",inline"`
}

// Given is called by the configuration's decoder for each key of the target. A key
// that is set to its default value still takes precedence over the rules.
func (t *Target) Given(key string) {
	if t.given == nil {
		t.given = make(map[string]bool)
	}
	t.given[key] = true
}

// relayKey is a field of RelayKeys and the field of Target with the same name. In
// RelayKeys it is a pointer if the zero value can be set on purpose.
type relayKey struct {
	name     string // in YAML
	key, own reflect.Value
}

func relayKeys(keys *RelayKeys, t *Target) []relayKey {
	k, of := reflect.ValueOf(keys).Elem(), reflect.ValueOf(t).Elem()
	var all []relayKey
	for _, s := range config.Settings(k.Type()) {
		all = append(all, relayKey{s.Name, k.FieldByIndex(s.Index), of.FieldByName(s.Field.Name)})
	}
	return all
}

// ownKeys returns the relay keys that the target itself sets: those that were read,
// and those whose value is not the default.
func (t *Target) ownKeys() RelayKeys {
	var keys, defaults RelayKeys
	var untouched Target
	untouched.SetDefaults()
	without := relayKeys(&defaults, &untouched)
	for i, k := range relayKeys(&keys, t) {
		if !t.given[k.name] && (k.own.IsZero() || reflect.DeepEqual(k.own.Interface(), without[i].own.Interface())) {
			continue
		}
		if k.key.Kind() == reflect.Pointer {
			k.key.Set(reflect.New(k.own.Type()))
			k.key.Elem().Set(k.own)
		} else {
			k.key.Set(k.own)
		}
	}
	return keys
}

// apply sets the target's fields to those keys that have a value.
func (t *Target) apply(keys RelayKeys) {
	for _, k := range relayKeys(&keys, t) {
		if !k.key.IsZero() {
			k.own.Set(reflect.Indirect(k.key))
		}
	}
}

// complete sets the keys that have no value to those of others, and records the path
// of each in from. With auth_method none it sets no credentials, with a password no
// oauth2, and with oauth2 no password.
func (k *RelayKeys) complete(others RelayKeys, path string, from map[string]string) {
	unwanted := make(map[string]bool)
	if k.AuthMethod == smtp.AuthNone {
		unwanted["username"], unwanted["password"], unwanted["oauth2"] = true, true, true
	}
	if !k.Password.IsZero() {
		unwanted["oauth2"] = true
	}
	if !k.OAuth2.IsZero() {
		unwanted["password"] = true
	}
	values := relayKeys(&others, &Target{})
	for i, own := range relayKeys(k, &Target{}) {
		if own.key.IsZero() && !values[i].key.IsZero() && !unwanted[own.name] {
			own.key.Set(values[i].key)
			from[own.name] = path + "." + own.name
		}
	}
}

// ruleBook is a compiled Relays: globs split, names in lower case.
type ruleBook struct {
	Relays
	hosts   []dnsGlob // of the rules
	domains []dnsGlob // of the rules; used only if the rule has a domain
	names   map[string]name
	shelf   templateShelf
}

func newRuleBook(r Relays) *ruleBook {
	b := &ruleBook{Relays: r, names: make(map[string]name)}
	for _, rule := range r.Rules {
		b.hosts = append(b.hosts, newDNSGlob(cmp.Or(rule.Host, "**")))
		b.domains = append(b.domains, newDNSGlob(rule.Domain))
	}
	return b
}

// nameOf is the function nameOf with a memory: many targets have the same relay.
func (b *ruleBook) nameOf(s string) name {
	n, known := b.names[s]
	if !known {
		n = nameOf(s)
		b.names[s] = n
	}
	return n
}

// allRelayOptions returns the relays of each target. It does not change targets.
func (b *ruleBook) allRelayOptions(targets []Target) [][]relayOption {
	all := make([][]relayOption, len(targets))
	for i, t := range targets {
		all[i] = b.relayOptions(&t)
	}
	return all
}

// rule returns the index of the first rule that matches a relay and the domains of
// recipients, or -1. If port is nil, the port is that of the rule, of default, or
// defaultPort. Without domains, no rule with a domain matches.
func (b *ruleBook) rule(host string, port *int, domains []string) int {
	for i, r := range b.Rules {
		if b.hosts[i].match(b.nameOf(host)) && b.matchesDomains(i, domains) &&
			(r.OnlyPort == nil || *r.OnlyPort == firstPort(port, r.Port, b.Default.Port)) {
			return i
		}
	}
	return -1
}

// matchesDomains reports whether a rule has no domain, or one that matches all domains.
func (b *ruleBook) matchesDomains(rule int, domains []string) bool {
	if b.Rules[rule].Domain == "" {
		return true
	}
	for _, domain := range domains {
		if !b.domains[rule].match(b.nameOf(domain)) {
			return false
		}
	}
	return len(domains) > 0
}

// domains returns the domains of the target's recipients, in lower case and A-labels,
// sorted, each once.
func (t *Target) domains() []string {
	all := slices.Clone(t.ToDomains) // of recipients that each event fills
	for b := range mailboxes(slices.DeleteFunc(slices.Concat(t.To, t.CC, t.BCC), hasPlace)) {
		all = append(all, b.domain())
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// forDomain returns the keys with {domain} in the paths of their secrets replaced.
func (k RelayKeys) forDomain(domain string) RelayKeys {
	for _, ref := range []*secrets.Ref{&k.Username.Ref, &k.Password, &k.OAuth2.ClientSecret} {
		if filled, err := ref.With("domain", domain); err == nil { // else validate reports it
			*ref = filled
		}
	}
	return k
}

func firstPort(ports ...*int) int {
	for _, port := range ports {
		if port != nil {
			return *port
		}
	}
	return defaultPort
}

// completed sets the target's relay keys from its own, then from the first rule that
// matches, then from default. from has the path of each key that is not its own;
// byDomain says that the rule has a domain.
func (b *ruleBook) completed(t *Target, own RelayKeys) (from map[string]string, byDomain bool) {
	from = make(map[string]string)
	domains := t.domains()
	if i := b.rule(t.Host, own.Port, domains); i >= 0 {
		keys := b.Rules[i].RelayKeys
		byDomain = b.Rules[i].Domain != ""
		if byDomain && len(domains) == 1 {
			keys = keys.forDomain(domains[0])
		}
		own.complete(keys, rulePath(i), from)
	}
	own.complete(b.Default.RelayKeys, "relays.default", from)
	t.apply(own)
	return from, byDomain
}

func rulePath(i int) string { return fmt.Sprintf("relays.rules[%d]", i) }

// limits returns the limits of a relay, the same for all targets that use it.
func (b *ruleBook) limits(host string, port int) RelayLimits {
	limits := b.Default.RelayLimits
	if i := b.rule(host, &port, nil); i >= 0 {
		own := b.Rules[i].RelayLimits
		setDefault(&own.MaxConnections, limits.MaxConnections)
		setDefault(&own.MaxMessagesPerConnection, limits.MaxMessagesPerConnection)
		setDefault(&own.MaxConnectionIdle, limits.MaxConnectionIdle)
		setDefault(&own.MaxConnectionAge, limits.MaxConnectionAge)
		setDefault(&own.MaxMessageRate, limits.MaxMessageRate)
		setDefault(&own.LimitPause, limits.LimitPause)
		return own
	}
	return limits
}

// relayOption is one relay of a target: the target, with the keys of that relay.
type relayOption struct {
	*Target
	path string            // of its keys below the target: "", or "fallback[0]"
	from map[string]string // key -> path of the rule or default that gave it

	byDomain bool // the rule was chosen by the domain of the recipients
}

// relayOptions returns a target's relays in the order in which they are tried: its own,
// then its fallbacks. It completes the target itself by the rules. A target on a mail host is
// its only option.
func (b *ruleBook) relayOptions(t *Target) []relayOption {
	if t.onHost() { // no rule for relays is about it
		t.completeHost()
		return []relayOption{{Target: t}}
	}
	t.applyPreset()
	t.words = b.shelf.words(t.Templates)
	own := t.ownKeys()
	from, byDomain := b.completed(t, own)
	all := []relayOption{{Target: t, from: from, byDomain: byDomain}}
	for i, f := range t.Fallback {
		variant := *t
		variant.Host = f.Host
		var untouched Target
		untouched.SetDefaults()
		clean := relayKeys(&RelayKeys{}, &untouched)
		for j, k := range relayKeys(&RelayKeys{}, &variant) {
			k.own.Set(clean[j].own)
		}
		if f.Timeout == nil {
			f.Timeout = own.Timeout // the target's own applies to all of its relays
		}
		from, byDomain := b.completed(&variant, f.RelayKeys)
		all = append(all, relayOption{&variant, fmt.Sprintf("fallback[%d]", i), from, byDomain})
	}
	return all
}

// fallbackKeys are the keys that a fallback can have; all others are the target's.
var fallbackKeys = func() map[string]bool {
	keys := make(map[string]bool)
	for _, s := range config.Settings(reflect.TypeFor[Fallback]()) {
		keys[s.Name] = true
	}
	return keys
}()

// validate returns the problems of the target with this relay. Those of values from a
// rule have the rule's path and are returned separately, because they belong to no
// target.
func (o relayOption) validate() (own, ruled []config.Problem) {
	v := &validation{}
	if o.path == "" {
		o.Target.validate(v)
	} else {
		o.Target.validateForRelay(v)
	}
	if o.byDomain {
		o.validateDomain(v)
	}
	for _, p := range v.found {
		key, rest := p.Path, ""
		if i := strings.IndexAny(p.Path, ".["); i >= 0 {
			key, rest = p.Path[:i], p.Path[i:]
		}
		if given, ok := o.from[key]; ok {
			p.Path = given + rest
			ruled = append(ruled, p)
			continue
		}
		if o.path != "" && fallbackKeys[key] {
			p.Path = o.path + "." + p.Path
		}
		own = append(own, p)
	}
	return own, ruled
}

// validateDomain reports secrets of a rule with a domain in whose path {domain} could not
// be replaced: it would be read as that of the certificate.
func (o relayOption) validateDomain(v *validation) {
	for key, ref := range map[string]secrets.Ref{"username": o.Username.Ref, "password": o.Password, "oauth2.client_secret": o.OAuth2.ClientSecret} {
		section, _, _ := strings.Cut(key, ".")
		if !strings.HasPrefix(o.from[section], "relays.rules[") || !slices.Contains(ref.Needs(), "domain") {
			continue
		}
		domains := o.domains()
		want := "an address whose domain can be part of a path"
		if len(domains) > 1 {
			want = "recipients in one domain, or a path without {domain}"
		}
		v.err(key, "{domain} is the domain of the recipients, but those of target %s are in %s: want %s",
			o.ID, legible.Clean(strings.Join(domains, ", "), 200), want)
	}
}

// Validate returns the problems of the section relays; paths start with "relays".
func (r Relays) Validate() []config.Problem {
	v := &validation{config.Check(r, "relays")}
	v.relayKeys("relays.default", r.Default.RelayKeys)
	for i, rule := range r.Rules {
		at := rulePath(i)
		if rule.Host == "" && rule.Domain == "" {
			v.err(at+".host", "is required, unless domain is set")
		}
		if rule.Domain != "" {
			v.glob(at+".domain", rule.Domain)
			v.noLimits(at, rule.RelayLimits)
		}
		if strings.Contains(rule.Domain, "@") {
			v.err(at+".domain", "is an address: want only the domain after the @")
		}
		if rule.Host != "" {
			v.glob(at+".host", rule.Host)
			if rule.OnlyPort == nil && strings.Contains(rule.Host, ":") && strings.Count(rule.Host, ":") == 1 {
				v.err(at+".host", "has a port: want the port in the key only_port")
			}
		}
		v.relayKeys(at, rule.RelayKeys)
	}
	return v.found
}

// noLimits reports the limits of a rule with a domain: limits are those of a relay,
// whoever the recipients are.
func (v *validation) noLimits(at string, limits RelayLimits) {
	of := reflect.ValueOf(limits)
	for _, s := range config.Settings(of.Type()) {
		if !of.FieldByIndex(s.Index).IsZero() {
			v.err(at+"."+s.Name, "applies to the relay, not to a domain: set it in a rule without domain")
		}
	}
}

// relayKeys checks the keys of a rule as far as possible without a target.
func (v *validation) relayKeys(at string, k RelayKeys) {
	v.ref(at+".username", k.Username.Ref)
	v.ref(at+".password", k.Password)
	v.ref(at+".oauth2.client_secret", k.OAuth2.ClientSecret)
	if !visible(k.Username.Plain) {
		v.err(at+".username", "has control characters")
	}
	v.identity(at+".", k.TLSServerName, k.TLSFingerprint)
}
