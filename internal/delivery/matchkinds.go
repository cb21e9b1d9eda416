package delivery

import (
	"crypto/x509"
	"net/netip"
	"slices"
	"strings"

	"github.com/certpost/certpost/internal/verdict"
)

// kindMatcher is the part of a compiled Match that says what kind of certificate is wanted,
// whatever its name: for whom, for what, with which key.
type kindMatcher struct {
	emails   []glob // in lower case
	networks []netip.Prefix
	usages   []x509.ExtKeyUsage
	keyTypes []string
}

// extKeyUsages are the uses that match.ext_key_usages may name (RFC 5280 section 4.2.1.12).
var extKeyUsages = map[string]x509.ExtKeyUsage{
	"any": x509.ExtKeyUsageAny, "server_auth": x509.ExtKeyUsageServerAuth, "client_auth": x509.ExtKeyUsageClientAuth,
	"code_signing": x509.ExtKeyUsageCodeSigning, "email_protection": x509.ExtKeyUsageEmailProtection,
	"time_stamping": x509.ExtKeyUsageTimeStamping, "ocsp_signing": x509.ExtKeyUsageOCSPSigning,
}

func (m *Match) isZero() bool {
	return len(m.DNSNames)+len(m.Issuers)+len(m.Labels)+len(m.Emails)+len(m.IPAddresses)+len(m.ExtKeyUsages)+len(m.KeyTypes) == 0
}

func newKindMatcher(m *Match) kindMatcher {
	k := kindMatcher{keyTypes: m.KeyTypes}
	for _, pattern := range m.Emails {
		k.emails = append(k.emails, newGlob(strings.ToLower(pattern), 0))
	}
	for _, text := range m.IPAddresses {
		if prefix, err := parseIPs(text); err == nil { // validated when it was loaded
			k.networks = append(k.networks, prefix)
		}
	}
	for _, word := range m.ExtKeyUsages {
		k.usages = append(k.usages, extKeyUsages[word])
	}
	return k
}

// parseIPs reads an address or a network.
func parseIPs(text string) (netip.Prefix, error) {
	if !strings.Contains(text, "/") {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			return netip.Prefix{}, err
		}
		return netip.PrefixFrom(addr.Unmap(), addr.Unmap().BitLen()), nil
	}
	prefix, err := netip.ParsePrefix(text)
	return prefix.Masked(), err
}

func (k *kindMatcher) fits(leaf *x509.Certificate) bool {
	return k.fitsEmails(leaf) && k.fitsAddresses(leaf) && k.fitsUsages(leaf) && k.fitsKey(leaf)
}

func (k *kindMatcher) fitsEmails(leaf *x509.Certificate) bool {
	return k.emails == nil || slices.ContainsFunc(leaf.EmailAddresses, func(address string) bool {
		return len(address) <= maxMatched && slices.ContainsFunc(k.emails, func(g glob) bool { return g.match(strings.ToLower(address)) })
	})
}

func (k *kindMatcher) fitsAddresses(leaf *x509.Certificate) bool {
	if k.networks == nil {
		return true
	}
	for _, ip := range leaf.IPAddresses {
		addr, ok := netip.AddrFromSlice(ip)
		if ok && slices.ContainsFunc(k.networks, func(p netip.Prefix) bool { return p.Contains(addr.Unmap()) }) {
			return true
		}
	}
	return false
}

func (k *kindMatcher) fitsUsages(leaf *x509.Certificate) bool {
	return k.usages == nil || slices.ContainsFunc(leaf.ExtKeyUsage, func(u x509.ExtKeyUsage) bool { return slices.Contains(k.usages, u) })
}

func (k *kindMatcher) fitsKey(leaf *x509.Certificate) bool {
	return k.keyTypes == nil || slices.Contains(k.keyTypes, verdict.KeyType(leaf))
}
