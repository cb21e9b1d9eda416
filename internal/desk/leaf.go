package desk

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
	"time"
	"unique"

	"github.com/certpost/certpost/internal/oddities"
	"github.com/certpost/certpost/internal/pemtext"
	"github.com/certpost/certpost/internal/verdict"
)

// leaf is what the index keeps of a certificate. Letters of one event to many targets
// share it.
type leaf struct {
	cn, serial          string
	keyType             string // one of verdict.KeyTypes
	names, others       string // DNS names, other names; joined by blanks, which no name contains
	issuer              unique.Handle[string]
	fingerprint         [sha256.Size]byte
	notBefore, notAfter int64 // Unix seconds
}

// maxNames and maxText (bytes of one text) bound what is kept of an oversized
// certificate.
const (
	maxNames = 100
	maxText  = 300
)

// leafOf returns the certificate of the event in a letter's body; false if it has none:
// the event refers to it, or cannot be read.
func leafOf(body []byte) (unique.Handle[leaf], bool) {
	cert := pickLeaf([]byte(certificateIn(body)))
	if cert == nil {
		return unique.Handle[leaf]{}, false
	}
	l := leaf{
		cn: cut(cert.Subject.CommonName), issuer: unique.Make(cut(cert.Issuer.String())), serial: serialText(cert), keyType: verdict.KeyType(cert),
		fingerprint: sha256.Sum256(cert.Raw), notBefore: cert.NotBefore.Unix(), notAfter: cert.NotAfter.Unix(),
	}
	all := verdict.AlternativeNames(cert)
	dns := min(len(cert.DNSNames), maxNames)
	l.names, l.others = joined(all[:dns]), joined(all[len(cert.DNSNames):][:min(len(all)-len(cert.DNSNames), maxNames-dns)])
	return intern(l), true
}

func joined(names []string) string {
	var kept []string
	for _, n := range names {
		if n = cut(n); n != "" && !strings.Contains(n, " ") {
			kept = append(kept, n)
		}
	}
	return strings.Join(kept, " ")
}

// certificateIn returns the PEM text in an event, "" if there is none. It reads only that
// field, which is twice as fast as decoding the event with all its rules: a process reads
// a hundred thousand events when it starts.
func certificateIn(body []byte) string {
	type holder struct {
		Certificate json.RawMessage `json:"certificate"`
	}
	var event struct {
		holder
		Data holder `json:"data"` // of a CloudEvent
	}
	if json.Unmarshal(body, &event) != nil {
		return ""
	}
	var text string
	for _, h := range []holder{event.holder, event.Data} {
		if json.Unmarshal(h.Certificate, &text) == nil && text != "" {
			break // otherwise it is absent, or a reference
		}
	}
	return text
}

// pickLeaf returns the certificate that the text is about. The delivery validates it; here it
// is only identified.
func pickLeaf(text []byte) *x509.Certificate {
	blocks, _, _ := pemtext.Certificates(text)
	ders := make([][]byte, len(blocks))
	for i, block := range blocks {
		ders[i] = block.DER
	}
	return oddities.Leaf(ders)
}

// serialText returns the serial number in hexadecimal, two digits to a byte, as in the
// ledger.
func serialText(cert *x509.Certificate) string {
	n := cert.SerialNumber.Bytes()
	if len(n) == 0 {
		n = []byte{0}
	}
	return hex.EncodeToString(n[:min(len(n), 40)])
}

func cut(s string) string { return strings.ToValidUTF8(s[:min(len(s), maxText)], "") }

func (l leaf) certificate() *verdict.Certificate {
	return &verdict.Certificate{
		CommonName: l.cn, DNSNames: strings.Fields(l.names), OtherNames: strings.Fields(l.others), Issuer: l.issuer.Value(), Serial: l.serial,
		Fingerprint: hex.EncodeToString(l.fingerprint[:]), KeyType: l.keyType,
		NotBefore: time.Unix(l.notBefore, 0).UTC(), NotAfter: time.Unix(l.notAfter, 0).UTC(),
	}
}

// named reports whether the certificate has the name, which is in lower case; with *. in front, one
// that ends so: the lists of deliveries do the same.
func (l leaf) named(name string) bool {
	is := func(n string) bool { return n == name }
	if suffix, below := strings.CutPrefix(name, "*."); below && suffix != "" {
		is = func(n string) bool { return strings.HasSuffix(n, "."+suffix) }
	}
	return is(strings.ToLower(l.cn)) || slices.ContainsFunc(strings.Fields(strings.ToLower(l.names+" "+l.others)), is)
}

// allNames returns the names that a newer certificate must cover to supersede this one,
// in lower case.
func (l leaf) allNames() []string {
	if names := strings.Fields(strings.ToLower(l.names + " " + l.others)); len(names) > 0 {
		return names
	}
	return []string{strings.ToLower(l.cn)}
}

func (l leaf) primaryName() string {
	return verdict.PrimaryName(l.cn, strings.Fields(l.names+" "+l.others))
}

// hexDigits returns the digits of a serial number or a fingerprint as typed or pasted:
// without colons, hyphens and blanks, in lower case.
func hexDigits(s string) string {
	return strings.Map(func(r rune) rune {
		if r == ':' || r == ' ' || r == '-' {
			return -1
		}
		return r
	}, strings.ToLower(strings.TrimSpace(s)))
}

func intern(l leaf) unique.Handle[leaf] { return unique.Make(l) }
