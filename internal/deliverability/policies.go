package deliverability

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"blitiri.com.ar/go/spf"
	"github.com/emersion/go-msgauth/dmarc"

	"github.com/certpost/certpost/internal/verdict"
)

// Signature is what receivers will look up for a DKIM signature.
type Signature struct {
	Domain, Selector string
	Public           crypto.PublicKey // *rsa.PublicKey or ed25519.PublicKey
}

// unknownAddress stands for that of a relay that is not known (RFC 5737): it shows whether a record can be read.
var unknownAddress = netip.MustParseAddr("192.0.2.1")

func (o *opinion) spf() {
	texts, err := o.j.dns.LookupTXT(o.ctx, o.domain+".")
	if err != nil && !absent(err) {
		o.unanswered("spf", err)
		return
	}
	records := 0
	for _, text := range texts {
		if version, _, _ := strings.Cut(text, " "); strings.EqualFold(version, "v=spf1") {
			records++
		}
	}
	if records == 0 {
		o.say("spf", verdict.Warning, "%s has no SPF record: receivers cannot tell who may send for it; publish: %s. TXT \"v=spf1 %s -all\"", o.domain, o.domain, o.mechanism())
		return
	}
	if records > 1 { // RFC 7208, section 4.5
		o.say("spf", verdict.Error, "%s has %d SPF records, and receivers take that for an error: publish one, with the mechanisms of all", o.domain, records)
		return
	}
	ips := o.addresses
	if len(ips) == 0 {
		ips = []address{{"", unknownAddress}}
	}
	o.allows = len(o.addresses) > 0
	for _, a := range ips {
		result, err := spf.CheckHostWithSender(a.ip.AsSlice(), o.domain, "postmaster@"+o.domain, spf.WithResolver(o.j.dns), spf.WithContext(o.ctx))
		switch {
		case result == spf.PermError:
			o.allows = false
			o.say("spf", verdict.Error, "receivers cannot read the SPF record of %s: %v; publish a right one", o.domain, err)
			return
		case result == spf.TempError:
			o.allows = false
			o.unanswered("spf", errors.Join(err, o.ctx.Err()))
		case a.relay == "":
			o.say("spf", verdict.OK, "%s has an SPF record; it must allow the address that the relay sends from, which is not known here", o.domain)
		case result == spf.Pass:
			o.say("spf", verdict.OK, "%s allows %s, an address of relay %s", o.domain, a.ip, a.relay)
		default:
			o.allows = false
			o.say("spf", verdict.Warning, "the SPF record of %s does not allow %s, an address of relay %s (%s): unless the relay sends from another address, add to the record: %s", o.domain, a.ip, a.relay, result, o.mechanism())
		}
	}
}

// mechanism is what an SPF record needs for the relays.
func (o *opinion) mechanism() string {
	if len(o.addresses) == 0 {
		return "ip4:<address that the relay sends from>"
	}
	var all []string
	for _, a := range o.addresses {
		kind := "ip4:"
		if a.ip.Is6() {
			kind = "ip6:"
		}
		all = append(all, kind+a.ip.String())
	}
	return strings.Join(all, " ")
}

func (o *opinion) dkim() {
	s := o.sender.DKIM
	if s == nil {
		return
	}
	domain, err := ascii(s.Domain)
	if err != nil {
		return // the configuration's own check
	}
	name := s.Selector + "._domainkey." + domain + "."
	want, err := dkimRecord(s.Public)
	if err != nil {
		o.say("dkim", verdict.Error, "the key of dkim.private_key cannot be published: %v", err)
		return
	}
	texts, err := o.j.dns.LookupTXT(o.ctx, name)
	switch {
	case err != nil && !absent(err):
		o.unanswered("dkim", err)
	case len(texts) == 0:
		o.say("dkim", verdict.Error, "receivers do not find the key of the signature; publish: %s TXT \"%s\"", name, want)
	case len(texts) > 1: // RFC 6376, section 3.6.2.2
		o.say("dkim", verdict.Error, "%s has %d TXT records, and receivers take any of them: keep the one of this key", name, len(texts))
	default:
		if problem := compareKey(texts[0], s.Public); problem != "" {
			o.say("dkim", verdict.Error, "%s %s, so signatures fail; publish: %s TXT \"%s\"", name, problem, name, want)
			return
		}
		o.signs = true
		o.say("dkim", verdict.OK, "%s has the key that mails are signed with", name)
	}
}

// dkimRecord is the record of a key (RFC 6376, section 3.6.1, and RFC 8463, section 4.2).
func dkimRecord(key crypto.PublicKey) (string, error) {
	switch key := key.(type) {
	case *rsa.PublicKey:
		der, err := x509.MarshalPKIXPublicKey(key)
		return "v=DKIM1; k=rsa; p=" + base64.StdEncoding.EncodeToString(der), err
	case ed25519.PublicKey:
		return "v=DKIM1; k=ed25519; p=" + base64.StdEncoding.EncodeToString(key), nil
	}
	return "", fmt.Errorf("DKIM has no keys of type %T", key)
}

// compareKey returns what is wrong with a record for a key.
func compareKey(record string, key crypto.PublicKey) string {
	tags := map[string]string{"k": "rsa"}
	for part := range strings.SplitSeq(record, ";") {
		name, value, _ := strings.Cut(part, "=")
		tags[strings.TrimSpace(name)] = strings.Join(strings.Fields(value), "")
	}
	if version, given := tags["v"]; given && version != "DKIM1" {
		return "is no DKIM record of version DKIM1"
	}
	encoded, given := tags["p"]
	if !given {
		return "has no key (p=)"
	}
	if encoded == "" {
		return "says that the key was revoked (p= is empty)"
	}
	data, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return "has a key that is not base64"
	}
	same := false
	switch key := key.(type) {
	case *rsa.PublicKey:
		published, err := x509.ParsePKIXPublicKey(data)
		if err != nil {
			published, err = x509.ParsePKCS1PublicKey(data)
		}
		same = err == nil && tags["k"] == "rsa" && key.Equal(published)
	case ed25519.PublicKey:
		same = tags["k"] == "ed25519" && string(data) == string(key)
	}
	if !same {
		return "has another key than the one that mails are signed with"
	}
	return ""
}

func (o *opinion) dmarc() {
	org := organizational(o.domain)
	record, at, err := o.dmarcRecord(o.domain)
	if errors.Is(err, dmarc.ErrNoPolicy) && org != o.domain {
		record, at, err = o.dmarcRecord(org)
	}
	switch {
	case errors.Is(err, dmarc.ErrNoPolicy):
		o.say("dmarc", verdict.Warning, "%s has no DMARC record, which large receivers want; publish: _dmarc.%s. TXT \"v=DMARC1; p=none\"", o.domain, org)
		return
	case err != nil && (dmarc.IsTempFail(err) || errors.As(err, new(*net.DNSError))):
		o.unanswered("dmarc", err)
		return
	case err != nil:
		o.say("dmarc", verdict.Error, "receivers cannot read the DMARC record at %s: %v; publish a right one", at, err)
		return
	}
	policy := record.Policy
	if at != "_dmarc."+o.domain+"." && record.SubdomainPolicy != "" {
		policy = record.SubdomainPolicy
	}
	signed, err := "", error(nil)
	if o.sender.DKIM != nil {
		signed, err = ascii(o.sender.DKIM.Domain)
	}
	aligned := err == nil && (signed == o.domain || record.DKIMAlignment != dmarc.AlignmentStrict && signed != "" && organizational(signed) == org)
	switch {
	case o.signs && aligned:
		o.say("dmarc", verdict.OK, "policy %s at %s: mails pass by their DKIM signature", policy, at)
	case o.allows:
		o.say("dmarc", verdict.OK, "policy %s at %s: mails pass by SPF, until they are forwarded", policy, at)
	case policy == dmarc.PolicyNone:
		o.say("dmarc", verdict.OK, "policy none at %s: it refuses nothing; mails pass if SPF allows the relay's address, or the relay signs for %s", at, o.domain)
	default:
		what := "quarantine"
		if policy == dmarc.PolicyReject {
			what = "refuse"
		}
		o.say("dmarc", verdict.Warning, "policy %s at %s: receivers %s mails unless SPF of %s allows the address that the relay sends from, or a DKIM signature is for %s; set dkim, or let the relay sign", policy, at, what, o.domain, o.domain)
	}
}

func (o *opinion) dmarcRecord(domain string) (*dmarc.Record, string, error) {
	var unread error // the library's error has its text only, with a name server that was not asked
	record, err := dmarc.LookupWithOptions(domain, &dmarc.LookupOptions{LookupTXT: func(name string) ([]string, error) {
		var texts []string
		texts, unread = o.j.dns.LookupTXT(o.ctx, strings.TrimSuffix(name, ".")+".")
		return texts, unread
	}})
	if err != nil && dmarc.IsTempFail(err) && unread != nil {
		err = unread
	}
	return record, "_dmarc." + domain + ".", err
}
