package smtp

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"golang.org/x/net/idna"

	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/verdict"
)

// The values of relay.tlsMode; "" is starttls.
const (
	TLSStartTLS      = "starttls"
	TLSSMTPS         = "smtps"
	TLSOpportunistic = "opportunistic"
	TLSPlaintext     = "plaintext"
)

// The values of relay.authMethod; "" is none.
const (
	AuthNone        = "none"
	AuthPlain       = "plain"
	AuthLogin       = "login"
	AuthCRAMMD5     = "cram-md5"
	AuthSCRAMSHA256 = "scram-sha-256"
	AuthXOAUTH2     = "xoauth2"
)

// Relay is everything that a connection to one SMTP server depends on: a change of
// any field requires a new connection.
type Relay struct {
	Host    string // a name or an IP address; its certificate has to be valid for it, or for ServerName
	Port    int
	TLSMode string // one of the TLS constants

	ServerName   string        // the name or IP address in the relay's certificate, and in SNI; "": Host
	Fingerprints []Fingerprint // accept a certificate with one of these and no other, whatever CAs and names say

	SkipVerify bool           // accept any certificate, unless there are fingerprints
	roots      *x509.CertPool // CAs to trust; nil: those of caPEM, else the system's
	CAPEM      []byte         // content of caFile
	CAFile     string

	ClientCert     []byte        // PEM, leaf and chain; nil: no client certificate
	ClientKey      secrets.Value // PEM
	ClientCertFile string

	// Shown, if set, is called with the relay's certificate in each handshake, also with one that is
	// then refused.
	Shown func(leaf *x509.Certificate)

	HELO string // "": the host's name when it is a full domain, else an address literal

	AuthMethod        string // one of the Auth constants
	Username          string
	Password          secrets.Value
	AllowInsecureAuth bool // send the password over plaintext or to an unverified relay
}

// Address is host:port for display.
func (r Relay) Address() string {
	return net.JoinHostPort(strings.Trim(r.Host, "[]"), strconv.Itoa(r.Port))
}

// name is the RelayName of the relay.
func (r Relay) name() string { return RelayName(r.Host, r.Port) }

// RelayName is host:port in canonical form: it is the same for every spelling of the host.
func RelayName(host string, port int) string {
	ascii, _ := legible.Domain(strings.Trim(host, "[]"))
	return net.JoinHostPort(ascii, strconv.Itoa(port))
}

// dialAddress is host:port for the resolver.
func (r Relay) dialAddress() string {
	return net.JoinHostPort(asciiHost(r.Host), strconv.Itoa(r.Port))
}

// serverName is the name that the relay's certificate must be valid for.
func (r Relay) serverName() string {
	return strings.TrimSuffix(asciiHost(cmp.Or(r.ServerName, r.Host)), ".")
}

// unverified reports whether anybody could be the relay.
func (r Relay) unverified() bool { return r.SkipVerify && len(r.Fingerprints) == 0 }

// tlsConfig returns the TLS configuration of one connection, nil in plaintext.
func (r Relay) tlsConfig() (*tls.Config, *verdict.Failure) {
	if r.TLSMode == TLSPlaintext {
		return nil, nil
	}
	config := &tls.Config{
		ServerName:         r.serverName(),
		MinVersion:         tls.VersionTLS12,
		RootCAs:            r.roots,
		InsecureSkipVerify: r.SkipVerify, //nolint:gosec // tls_skip_verify requests it; validation warns about it
	}
	if r.roots == nil && r.CAPEM != nil {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(r.CAPEM) {
			return nil, Unusable("ca_file", r.CAFile, "contains no PEM certificate", nil)
		}
	}
	if len(r.Fingerprints) > 0 {
		pinned(config, r.Fingerprints)
	}
	if r.ClientCert == nil {
		return config, nil
	}
	key := r.ClientKey.Reveal()
	defer clear(key)
	certificate, err := tls.X509KeyPair(r.ClientCert, key)
	if err != nil {
		return nil, Unusable("client_cert_file", r.ClientCertFile, "and client_key_file do not contain a certificate and its private key, both PEM and unencrypted", nil)
	}
	config.Certificates = []tls.Certificate{certificate}
	return config, nil
}

// Unusable is the verdict (TARGET_INVALID) on a file that a target names under key.
func Unusable(key, path, why string, cause error) *verdict.Failure {
	return verdict.Fail(verdict.TargetInvalid, verdict.PhaseConnect,
		fmt.Sprintf("%s %s %s: fix it, then replay", key, legible.Clean(path, 200), why)).Because(cause)
}

// asciiHost is a host without brackets and with A-labels. An invalid name stays
// unchanged, and the resolver reports it.
func asciiHost(host string) string {
	host = strings.Trim(host, "[]")
	if ascii, err := idna.Lookup.ToASCII(host); err == nil && legible.Internationalised(host) {
		return ascii
	}
	return host
}

// heloName is the name for EHLO: the configured one, else the host's own if it is
// a full domain name, else the address literal of the connection (RFC 5321 section
// 4.1.4). Containers and laptops have names that mean nothing to a relay, and some
// relays refuse them.
func heloName(configured string, local net.Addr) string {
	if configured != "" {
		return configured
	}
	if name, err := os.Hostname(); err == nil && fullDomain(name) {
		return name
	}
	address, ok := local.(*net.TCPAddr)
	switch {
	case !ok:
		return "localhost"
	case address.IP.To4() != nil:
		return "[" + address.IP.String() + "]"
	default:
		return "[IPv6:" + address.IP.String() + "]"
	}
}

// fullDomain reports whether name is a domain of at least two labels in letters,
// digits and hyphens (RFC 5321 section 4.1.2), and not an IP address.
func fullDomain(name string) bool {
	labels := strings.Split(name, ".")
	for _, label := range labels {
		if label == "" || len(label) > 63 || strings.HasPrefix(label, "-") || strings.HasSuffix(label, "-") {
			return false
		}
		for _, r := range label {
			if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-') {
				return false
			}
		}
	}
	return len(labels) > 1 && len(name) <= 253 && net.ParseIP(name) == nil
}

// safeInCommand reports whether an address can be written between the angle brackets
// of MAIL and RCPT: nothing in it can end the path or the line.
func safeInCommand(address string, utf8 bool) bool {
	quoted := false
	for i := 0; i < len(address); i++ {
		c := address[i]
		switch {
		case c < ' ' || c == 0x7f:
			return false
		case c >= 0x80 && !utf8:
			return false
		case quoted && c == '\\' && i+1 < len(address) && address[i+1] >= ' ' && address[i+1] < 0x7f:
			i++
		case c == '"':
			quoted = !quoted
		case !quoted && (c == ' ' || c == '<' || c == '>'):
			return false
		}
	}
	return !quoted
}
