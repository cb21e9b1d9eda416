package delivery

import (
	"fmt"
	"maps"
	"net"
	"net/mail"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/certpost/certpost/internal/config"
	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/payload"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/smtp"
	"github.com/certpost/certpost/internal/verdict"
)

const (
	maxAddresses  = 50               // in each of to, cc and bcc
	maxRecipients = 3 * maxAddresses // of one mail
	maxHeaderText = 100              // characters; leaves room for the CN on one line
	maxName       = 128              // characters of from_name
	maxGlob       = 512              // characters
	maxFallbacks  = 5
)

var targetID = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// relayOptionsOf completes targets by the rules and returns all problems of both.
// Paths start with "targets[i]" and "relays".
func (r Relays) relayOptionsOf(targets []Target) ([][]relayOption, []config.Problem) {
	found := r.Validate()
	name := func(i int) string { return fmt.Sprintf("targets[%d]", i) }
	options := newRuleBook(r).allRelayOptions(targets)
	ids := newIDTable(options)
	for i := range targets {
		own, ruled := validateRelayOptions(options[i], ids, i, name)
		for _, p := range own {
			p.Path = name(i) + "." + p.Path
			found = append(found, p)
		}
		found = append(found, ruled...)
	}
	return options, append(found, sharedFiles(options, name)...)
}

// validateRelayOptions returns the problems of the target at an index, with paths in the target,
// and separately those of the rules that apply to it. called names the target at another index.
func validateRelayOptions(options []relayOption, ids idTable, index int, called func(int) string) (own, ruled []config.Problem) {
	v := &validation{}
	if len(options) > 1+maxFallbacks {
		v.err("fallback", "has %d relays: at most %d are allowed", len(options)-1, maxFallbacks)
	}
	for i, o := range options {
		mine, others := o.validate()
		v.found, ruled = append(v.found, mine...), append(ruled, others...)
		for _, earlier := range options[:i] {
			if smtp.RelayName(earlier.Host, earlier.Port) == smtp.RelayName(o.Host, o.Port) {
				v.err(o.path+".host", "%s is already a relay of this target: want another relay", smtp.RelayName(o.Host, o.Port))
				break
			}
		}
	}
	ids.check(v, index, options[0].Target, called)
	return v.found, ruled
}

// validation collects the problems of one target; paths begin at its keys.
type validation struct{ found []config.Problem }

func (v *validation) err(path, format string, args ...any) {
	v.found = append(v.found, config.Problem{Path: path, Message: fmt.Sprintf(format, args...)})
}

func (v *validation) warn(path, format string, args ...any) {
	v.err(path, format, args...)
	v.found[len(v.found)-1].Severity = config.Warning
}

func (t *Target) validate(v *validation) {
	v.found = append(v.found, config.Check(t, "")...)
	if t.ID != "" && !targetID.MatchString(t.ID) {
		v.err("id", "want 1 to 64 characters of A-Z, a-z, 0-9, _ and -")
	}
	t.validateKeys(v)
	t.validateMatch(v)
	if t.onHost() {
		t.validateHost(v)
		return
	}
	t.validatePreset(v)
	t.validateAddresses(v)
	t.validatePayload(v)
	t.validateEncryption(v)
	t.validateSigning(v)
	t.validateTemplates(v)
	t.validateHeaders(v)
	t.validateForRelay(v)
}

// validateForRelay checks what depends on the relay.
func (t *Target) validateForRelay(v *validation) {
	t.validateRelay(v)
	t.validateAuth(v)
	t.validateKeyInTheClear(v)
}

func (t *Target) validateMatch(v *validation) {
	m := t.Match
	if m == nil {
		return
	}
	if m.isZero() {
		v.err("match", `want at least one condition, such as dns_names; issuers: ["*"] matches every certificate`)
	}
	m.validateLists(v)
	for i, pattern := range m.DNSNames {
		v.glob(fmt.Sprintf("match.dns_names[%d]", i), pattern)
	}
	for i, pattern := range m.Issuers {
		v.glob(fmt.Sprintf("match.issuers[%d]", i), pattern)
	}
	for key, pattern := range m.Labels {
		at := config.Join("match.labels", key)
		if key == "" {
			v.err(at, "the name of the label is required")
		}
		v.glob(at, pattern)
	}
}

func (v *validation) glob(key, pattern string) {
	switch {
	case pattern == "":
		v.err(key, "is empty and matches nothing: want a name, or a glob such as *.example.com")
	case utf8.RuneCountInString(pattern) > maxGlob:
		v.err(key, "is longer than %d characters", maxGlob)
	case !visible(pattern):
		v.err(key, "has control characters")
	}
}

func (t *Target) validateRelay(v *validation) {
	if t.Host != "" {
		if message := wrongHost(t.Host); message != "" {
			v.err("host", "%s", message)
		}
	}
	switch mode := t.tlsMode(); {
	case mode == smtp.TLSPlaintext:
		v.warn("tls_mode", "mails to %s are not encrypted: anyone on the network path can read and change them", t.relay())
	case mode == smtp.TLSSMTPS && (t.Port == 25 || t.Port == 587):
		v.warn("tls_mode", "most relays expect STARTTLS on port %d: want starttls, or port 465", t.Port)
	case mode == smtp.TLSStartTLS && t.Port == 465:
		v.warn("tls_mode", "most relays expect TLS from the first byte on port 465: want smtps, or port 587")
	}
	v.identity("", t.TLSServerName, t.TLSFingerprint)
	switch clear := t.tlsMode() == smtp.TLSPlaintext; {
	case clear && t.TLSFingerprint != "":
		v.warn("tls_fingerprint", "is not used with tls_mode plaintext")
	case clear && t.TLSServerName != "":
		v.warn("tls_server_name", "is not used with tls_mode plaintext")
	}
	switch {
	case t.TLSSkipVerify && t.TLSFingerprint != "":
		v.warn("tls_fingerprint", "verifies the relay, so tls_skip_verify is not used")
	case t.TLSSkipVerify:
		v.warn("tls_skip_verify", "anyone on the network path to %s can impersonate the relay: want ca_file with its CA, or tls_fingerprint", t.relay())
	}
	switch {
	case t.ClientCertFile == "" && t.ClientKeyFile != "":
		v.err("client_cert_file", "is required: client_key_file is set")
	case t.ClientCertFile != "" && t.ClientKeyFile == "":
		v.err("client_key_file", "is required: client_cert_file is set")
	case t.ClientCertFile != "" && t.tlsMode() == smtp.TLSPlaintext:
		v.warn("client_cert_file", "is not used with tls_mode plaintext")
	}
}

// identity checks how a relay proves who it is; at is before the keys.
func (v *validation) identity(at, serverName, fingerprint string) {
	if message := wrongHost(serverName); serverName != "" && message != "" {
		v.err(at+"tls_server_name", "%s", message)
	}
	if fingerprint == "" {
		return
	}
	if _, err := smtp.ParseFingerprints(fingerprint); err != nil {
		v.err(at+"tls_fingerprint", "%v", err)
	}
}

// tlsMode returns TLSMode, or its default.
func (t *Target) tlsMode() string {
	switch {
	case t.TLSMode != "":
		return t.TLSMode
	case t.Port == 465:
		return smtp.TLSSMTPS
	case t.Port == 25:
		return smtp.TLSPlaintext
	}
	return smtp.TLSStartTLS
}

// relay returns the name of the relay for messages.
func (t *Target) relay() string {
	if wrongHost(t.Host) != "" {
		return "the relay"
	}
	return t.Host
}

func (t *Target) validateAddresses(v *validation) {
	if t.FromAddress == "" {
		v.err("from_address", "is required")
	}
	if len(t.To) == 0 {
		v.err("to", "is required")
	}
	v.address("from_address", t.FromAddress)
	v.address("reply_to", t.ReplyTo)
	v.line("from_name", t.FromName, maxName)
	t.validateToDomains(v)
	for key, list := range map[string][]string{"to": t.To, "cc": t.CC, "bcc": t.BCC} {
		for i, address := range list {
			at := fmt.Sprintf("%s[%d]", key, i)
			if t.validatePlaces(v, at, address) {
				continue
			}
			if address == "" {
				v.err(at, "is empty: want an address such as ops@example.com")
			}
			v.address(at, address)
		}
		if n := len(list); n > maxAddresses {
			v.err(key, "has %d addresses: at most %d are allowed", n, maxAddresses)
		}
	}
}

// validateMatchLists checks the conditions that are lists of known words or addresses.
func (m *Match) validateLists(v *validation) {
	for i, pattern := range m.Emails {
		v.glob(fmt.Sprintf("match.emails[%d]", i), pattern)
	}
	for i, text := range m.IPAddresses {
		if _, err := parseIPs(text); err != nil {
			v.err(fmt.Sprintf("match.ip_addresses[%d]", i), "want an IP address or a network, such as 192.0.2.7 or 2001:db8::/32")
		}
	}
	for _, list := range []struct {
		key   string
		words []string
		known []string
	}{{"match.ext_key_usages", m.ExtKeyUsages, slices.Sorted(maps.Keys(extKeyUsages))}, {"match.key_types", m.KeyTypes, verdict.KeyTypes}} {
		for i, word := range list.words {
			if !slices.Contains(list.known, word) {
				v.err(fmt.Sprintf("%s[%d]", list.key, i), "want one of %s", strings.Join(list.known, ", "))
			}
		}
	}
}

func (t *Target) validatePayload(v *validation) {
	v.line("subject_prefix", t.SubjectPrefix, maxHeaderText)
	settings := t.settings(nil)
	for _, secret := range []struct {
		key string
		ref Passphrase
	}{{"pkcs12_passphrase", t.PKCS12Passphrase}, {"keystore_password", t.KeystorePassword}} {
		v.ref(secret.key, secret.ref.Ref)
		v.generated(secret.key, secret.ref)
		switch needed := settings.Passphrase() == secret.key; {
		case needed && secret.ref.IsZero():
			v.err(secret.key, "is required by payload %s", t.Payload)
		case !needed && !secret.ref.IsZero():
			v.warn(secret.key, "is not used with payload %s", t.Payload)
		case needed && !secret.ref.Value.IsZero():
			if problem := payload.CheckPassphrase(secret.key, secret.ref.Value.Reveal()); problem != "" {
				v.err(secret.key, "%s", problem)
			}
		}
	}
	v.ref("private_key_passphrase", t.PrivateKeyPassphrase)
	if !t.PrivateKeyPassphrase.IsZero() && !t.onHost() && !settings.NeedsKey() {
		v.warn("private_key_passphrase", "is not used with payload %s, which has no private key", t.Payload)
	}
	if problem := settings.FIPSProblem(); problem != "" {
		v.err("payload", "%s", problem)
	}
	named := t.Payload == payload.PKCS12 || t.Payload == payload.JKS
	switch places := strings.NewReplacer("{cn}", "", "{target}", "").Replace(t.Alias); {
	case t.Alias != "" && !named:
		v.warn("alias", "is not used with payload %s: only pkcs12 and jks name the key", t.Payload)
	case strings.ContainsAny(places, "{}"):
		v.err("alias", "has an unknown place: want {cn} or {target}")
	}
	v.line("alias", t.Alias, maxHeaderText)
	if t.PKCS12Iterations > payload.MinIterations && t.Payload != payload.PKCS12 && t.Payload != payload.TrustStore {
		v.warn("pkcs12_iterations", "is not used with payload %s", t.Payload)
	}
	if t.ZipPrivateKey && t.Payload != payload.ZIP {
		v.warn("zip_private_key", "is not used with payload %s", t.Payload)
	}
	if t.AllowUnsupportedCertificate && t.Payload != payload.PEM {
		v.warn("allow_unsupported_certificate", "is not used with payload %s: only pem can deliver what cannot be parsed", t.Payload)
	}
}

// validateKeyInTheClear rejects a key that is not encrypted over a connection that may be unencrypted,
// except to this machine or with allow_plaintext_key.
func (t *Target) validateKeyInTheClear(v *validation) {
	mode := t.tlsMode()
	clear := mode == smtp.TLSPlaintext || mode == smtp.TLSOpportunistic
	if t.keyInClear() && clear && !loopback(t.Host) && !t.AllowPlaintextKey {
		v.err("payload", "%s with tls_mode %s would expose private keys to anyone on the network path to %s: want starttls or smtps, or allow_plaintext_key: true",
			t.Payload, mode, t.relay())
	}
}

// line checks a text that becomes part of a header; most is in characters.
func (v *validation) line(key, text string, most int) {
	if !visible(text) {
		v.err(key, "has control characters")
	}
	if n := utf8.RuneCountInString(text); n > most {
		v.err(key, "has %d characters: at most %d are allowed", n, most)
	}
}

func (v *validation) address(key, address string) {
	if address == "" {
		return
	}
	if message := wrongAddress(address); message != "" {
		v.err(key, "%s", message)
	}
}

func (v *validation) ref(key string, ref secrets.Ref) {
	if ref.IsZero() {
		return
	}
	if err := ref.Validate(); err != nil {
		v.err(key, "%v", err)
	}
	if warning := ref.Warning(); warning != "" {
		v.warn(key, "%s", warning)
	}
}

// generated checks the place of passphrases that Certpost makes.
func (v *validation) generated(key string, p Passphrase) {
	if !p.Generates() {
		return
	}
	at := key + ".generate.vault"
	if !p.Ref.IsZero() {
		v.err(key, "has generate and another source: want one of them")
	}
	place := p.Place()
	v.ref(at, place)
	if place.Vault.Version != 0 {
		v.err(at+".version", "a version cannot be written: leave it out, and Vault makes a new one")
	}
	if !needsCertificate(place) {
		v.warn(at+".path", "is the same for every certificate, and Vault keeps the last 10 passphrases of a path by default: want {cn} in it, as in %s/{cn}", legible.Clean(place.Vault.Path, 100))
	}
}

// wrongAddress returns why a text is not an addr-spec (RFC 5322 section 3.4.1), or ""
// if it is one. Internationalised domains and local parts are accepted.
func wrongAddress(s string) string {
	const want = ": want an address such as ops@example.com"
	at := strings.LastIndexByte(s, '@')
	switch {
	case !visible(s):
		return "has control characters" + want
	case strings.ContainsAny(s, "<>"):
		return "has angle brackets: want only the address, such as ops@example.com, without a display name"
	case at < 1:
		return "is not an address" + want
	case at > 64:
		return "has more than 64 bytes before the @"
	case len(s) > 254:
		return "is longer than 254 bytes"
	}
	if parsed, err := mail.ParseAddress(s); err != nil || parsed.Name != "" {
		return "is not an address" + want
	}
	local, domain := s[:at], s[at+1:]
	if !strings.HasPrefix(local, `"`) && strings.ContainsAny(local, " ()") {
		return "is not an address" + want
	}
	if literal, ok := strings.CutPrefix(domain, "["); ok {
		if addr, err := netip.ParseAddr(strings.TrimSuffix(literal, "]")); err != nil || !addr.Is4() {
			return "has a domain in brackets that is not an IPv4 address"
		}
		return ""
	}
	if message := wrongHost(domain); message != "" || strings.HasSuffix(domain, ".") {
		return "has no valid domain after the @" + want
	}
	return ""
}

var hostLabel = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?$`)

// wrongHost returns why a text is neither a DNS name nor an IP address, or "" if it is
// one. Underscores are accepted: container networks have such names.
func wrongHost(s string) string {
	const want = "want a name such as smtp.example.com, or an IP address"
	if addr, err := netip.ParseAddr(s); err == nil && visible(addr.Zone()) {
		return ""
	}
	switch {
	case !visible(s):
		return "has control characters: " + want
	case strings.Contains(s, "://"):
		return "is a URL: " + want
	case strings.HasPrefix(s, "["):
		return "want the IPv6 address without brackets"
	}
	if name, _, err := net.SplitHostPort(s); err == nil && name != "" {
		return "has a port: want the port in the key port"
	}
	labels := strings.Split(nameOf(s).ascii, ".")
	for _, label := range labels {
		if !hostLabel.MatchString(label) {
			return "is not a host name: " + want
		}
	}
	if len(strings.Join(labels, ".")) > 253 {
		return "is longer than 253 characters: " + want
	}
	if strings.Trim(labels[len(labels)-1], "0123456789") == "" {
		return "is not an IP address, and a host name cannot end in a number: " + want
	}
	return ""
}

// loopback reports whether a host is this machine.
func loopback(host string) bool {
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.Unmap().IsLoopback()
	}
	host = nameOf(host).ascii
	return host == "localhost" || strings.HasSuffix(host, ".localhost")
}

// visible reports whether a text has neither control characters nor invisible ones
// that change how the rest is shown. Joiners and variation selectors are accepted:
// words in Persian and emoji contain them.
func visible(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool {
		return legible.Hidden(r) && r != '\u200c' && r != '\u200d' && !unicode.Is(unicode.Variation_Selector, r)
	})
}

// Validate returns the problems of the options; paths are their keys in the
// configuration's section delivery.
func (o Options) Validate() []config.Problem {
	v := &validation{}
	v.line("product_name", o.Product, maxHeaderText)
	for _, p := range o.Words.Problems() {
		p.Path = "templates." + p.Path
		v.found = append(v.found, p)
	}
	for key, name := range map[string]string{"message_id_domain": o.MessageIDDomain, "helo_name": o.HELO} {
		if message := wrongHost(name); name != "" && message != "" {
			v.err(key, "%s", message)
		}
	}
	return v.found
}
