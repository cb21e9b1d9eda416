package delivery

import (
	"regexp"
	"strings"
)

var dkimSelector = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$`)

func (t *Target) validateSigning(v *validation) {
	if s := t.Sign.SMIME; !t.Sign.IsZero() {
		if s.Certificate.IsZero() {
			v.err("sign.smime.certificate", "is required: private_key is set")
		}
		if s.PrivateKey.IsZero() {
			v.err("sign.smime.private_key", "is required: certificate is set")
		}
		v.ref("sign.smime.certificate", s.Certificate)
		v.ref("sign.smime.private_key", s.PrivateKey)
	}
	d := t.DKIM
	if d.IsZero() {
		return
	}
	if d.PrivateKey.IsZero() {
		v.err("dkim.private_key", "is required")
	}
	v.ref("dkim.private_key", d.PrivateKey)
	switch {
	case d.Domain == "":
		v.err("dkim.domain", "is required")
	case wrongHost(d.Domain) != "":
		v.err("dkim.domain", "%s", wrongHost(d.Domain))
	default:
		from := t.FromAddress[strings.LastIndexByte(t.FromAddress, '@')+1:]
		if signs, of := nameOf(d.Domain).ascii, nameOf(from).ascii; from != "" && of != signs && !strings.HasSuffix(of, "."+signs) {
			v.warn("dkim.domain", "is not the domain of from_address, nor one above it: receivers that check DMARC do not count the signature")
		}
	}
	switch {
	case d.Selector == "":
		v.err("dkim.selector", "is required")
	case len(d.Selector) > 63 || !dkimSelector.MatchString(d.Selector):
		v.err("dkim.selector", "is not a name in DNS: want letters, digits, - and dots, at most 63 characters")
	}
}
