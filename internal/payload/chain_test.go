package payload

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/pemtext"
)

// TestChainsWithStrays: what does not belong to the chain is left out with a warning, and
// refused by a strict target. A chain of CA certificates has one clear bottom.
//
// Fault: a stray root or intermediate, a missing link. Result: left out; dead
// (SMTP_PAYLOAD) if the target has strict_chain.
// Fault: a CA's own chain. Result: accepted, if one certificate is at the bottom.
func TestChainsWithStrays(t *testing.T) {
	t.Parallel()
	p := lab.NewPKI(t, "p256")
	stranger := lab.Issue(t, nil, lab.NewKey(t, "p256"), "Another Root", lab.AsCA)
	// Name and key identifier of the real issuer, but another key.
	impostor := lab.Issue(t, nil, lab.NewKey(t, "p256"), "Test CA 1", lab.AsCA, func(c *x509.Certificate) { c.SubjectKeyId = p.Intermediate.SubjectKeyId })
	sub := lab.Issue(t, p.Intermediate, lab.NewKey(t, "p256"), "Sub CA", lab.AsCA)

	const left, alone = "the event has a certificate that does not belong to the chain, and was left out: ", "the chain is broken: "
	for _, c := range []struct {
		name, want, warning string
		certs               []*lab.Issued
	}{
		{"all of one chain", "*.example.com < Test CA 1 < Test Root", "", []*lab.Issued{p.Leaf, p.Intermediate, p.Root}},
		{"one stray root", "*.example.com < Test CA 1", left + `"Another Root" issued neither "*.example.com" nor any of its issuers`, []*lab.Issued{stranger, p.Leaf, p.Intermediate}},
		{"a stray intermediate", "*.example.com < Test CA 1 < Test Root", left + `"Sub CA" issued neither "*.example.com" nor any of its issuers`, []*lab.Issued{p.Leaf, p.Intermediate, sub, p.Root}},
		{"a missing link", "*.example.com", alone + `"Test Root" issued neither "*.example.com" nor any of its issuers, and was left out; no issuer of the certificate is attached`, []*lab.Issued{p.Leaf, p.Root}},
		{"an issuer in name only", "*.example.com", alone + `"Test CA 1" issued neither "*.example.com" nor any of its issuers, and was left out; no issuer of the certificate is attached`, []*lab.Issued{p.Leaf, impostor}},
		{"both issuers of that name", "*.example.com < Test CA 1 < Test Root", left + `"Test CA 1" issued neither "*.example.com" nor any of its issuers`, []*lab.Issued{impostor, p.Leaf, p.Root, p.Intermediate}},
		{"a sub CA's chain with its root", "Sub CA < Test CA 1 < Test Root", "", []*lab.Issued{p.Root, p.Intermediate, sub}},
		{"a CA's chain with a stray root", "Test CA 1 < Test Root", left + `"Another Root" issued neither "Test CA 1" nor any of its issuers`, []*lab.Issued{p.Root, p.Intermediate, stranger}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b, err := ParseBundle(lab.PEM(c.certs...))
			if err != nil {
				t.Fatal(err)
			}
			if got := chainNames(b); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
			if inName := slices.Contains(c.certs, impostor); b.Verified == inName {
				t.Errorf("verified %v, with an issuer in name only %v", b.Verified, inName)
			}
			if b.Verified {
				if again, err := ParseVerified(lab.PEM(c.certs...)); err != nil || !reflect.DeepEqual(again, b) {
					t.Errorf("parsed again without signatures: %s, %v", chainNames(again), err)
				}
			}
			warnings, err := CheckChain(b, false)
			if err != nil || strings.Join(warnings, "|") != c.warning {
				t.Errorf("warnings %q, %v\nwant %q", warnings, err, c.warning)
			}
			warnings, err = CheckChain(b, true)
			if len(warnings) > 0 || (err != nil) != (c.warning != "") || err != nil && !strings.Contains(refusal(t, err), "the chain is broken: "+b.Strays) {
				t.Errorf("strict: %q, %v", warnings, err)
			}
		})
	}
}

// TestSignaturesOfKeptLinksAlone: the certificates that are not part of the chain cost no
// signature check.
//
// Fault: many of one name. Result: signatures only of links that are kept.
func TestSignaturesOfKeptLinksAlone(t *testing.T) {
	t.Parallel()
	p := lab.NewPKI(t, "p256")
	certs := []*x509.Certificate{p.Leaf.Certificate, p.Root.Certificate, p.Intermediate.Certificate}
	for range 20 {
		certs = append(certs, lab.Issue(t, p.Root, lab.SeededKey(1), "Another CA", lab.AsCA).Certificate)
	}
	c := climber{bundle: &Bundle{Leaf: certs[0]}, certs: certs, issued: signed, seen: map[*x509.Certificate]bool{certs[0]: true}}
	if err := c.climb(certs[0]); err != nil || c.checked != 2 || len(c.bundle.Chain) != 2 {
		t.Errorf("%d signatures checked for a chain of %d: %v", c.checked, len(c.bundle.Chain), err)
	}
}

// bomb returns a certificate with a key and a signature of many bits, which costs
// seconds to check where it is the issuer of another. Nobody has the key.
func bomb(t *testing.T, issuer, subject string, bits, exponent int) *lab.Issued {
	t.Helper()
	random := make([]byte, bits/8)
	rand.Read(random)
	random[0], random[len(random)-1] = random[0]|0x80, random[len(random)-1]|1
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: subject}, SubjectKeyId: []byte{1}, AuthorityKeyId: []byte{1}, BasicConstraintsValid: true, IsCA: subject != "leaf",
		NotBefore: lab.TestNow.Add(-time.Hour), NotAfter: lab.TestNow.Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, &x509.Certificate{Subject: pkix.Name{CommonName: issuer}}, &rsa.PublicKey{N: new(big.Int).SetBytes(random), E: exponent}, key)
	if err != nil {
		t.Fatal(err)
	}
	var outer struct {
		TBS, Algorithm asn1.RawValue
		Signature      asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &outer); err != nil {
		t.Fatal(err)
	}
	random[0] &= 0x7f // below the modulus
	outer.Signature = asn1.BitString{Bytes: random, BitLength: bits}
	if der, err = asn1.Marshal(outer); err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &lab.Issued{Certificate: cert}
}

// TestSignaturesThatCostTooMuch: they are refused before they are checked.
//
// Fault: certificates made to cost time: RSA keys of 16384 bits, huge exponents. Result:
// refused before a signature is checked.
func TestSignaturesThatCostTooMuch(t *testing.T) {
	t.Parallel()
	const huge = 1<<31 - 1
	leaf, issuer := bomb(t, "CA", "leaf", 16_384, huge), bomb(t, "CA", "CA", 16_384, huge)
	text := lab.PEM(slices.Concat([]*lab.Issued{leaf}, slices.Repeat([]*lab.Issued{issuer}, 21))...)
	if len(text) < 100_000 {
		t.Fatalf("the text has only %d bytes", len(text))
	}
	_, err := ParseBundle(text)
	if reason := refusal(t, err); !strings.Contains(reason, `"CA" has an RSA key of 16384 bits with the exponent 2147483647`) {
		t.Error(reason)
	}
	_, err = ParseBundle(lab.PEM(bomb(t, "CA", "leaf", 2048, 65_537), bomb(t, "CA", "CA", 2048, 65_539)))
	if reason := refusal(t, err); !strings.Contains(reason, `"CA" has an RSA key of 2048 bits with the exponent 65539`) {
		t.Error(reason)
	}
	// A key of 8,192 bits is checked, and the signature is found to be another's.
	b, err := ParseBundle(lab.PEM(bomb(t, "CA", "leaf", 8192, 65_537), bomb(t, "CA", "CA", 8192, 65_537)))
	if err != nil || b.Strays == "" {
		t.Errorf("8,192 bits: %+v, %v", b, err)
	}
}

// TestManyCertificatesOfOneName: the number of signature checks is limited.
//
// Fault: many of one name. Result: at most 64.
func TestManyCertificatesOfOneName(t *testing.T) {
	t.Parallel()
	same := func(c *x509.Certificate) { c.SubjectKeyId = []byte{1} }
	issuer := lab.Issue(t, nil, lab.NewKey(t, "p256"), "CA", lab.AsCA, same)
	certs := []*lab.Issued{issuer}
	for range 28 {
		issuer = lab.Issue(t, issuer, lab.NewKey(t, "p256"), "CA", lab.AsCA, same)
		certs = append(certs, issuer)
	}
	_, err := ParseBundle(lab.PEM(append(certs, lab.Issue(t, issuer, lab.NewKey(t, "p256"), "leaf"))...))
	if reason := refusal(t, err); !strings.Contains(reason, "too many certificates of the chain have the same name") {
		t.Error(reason)
	}
}

// Fault: one for many targets. Result: a text is parsed once.
func TestCache(t *testing.T) {
	t.Parallel()
	p := lab.NewPKI(t, "p256")
	var c Cache
	text := lab.PEM(p.Leaf, p.Intermediate)
	first, err := c.Parse(text, false)
	again, errAgain := c.Parse(slices.Clone(text), false)
	if err != nil || errAgain != nil || first != again || chainNames(first) != "*.example.com < Test CA 1" {
		t.Fatalf("%v, %v: parsed twice: %v", err, errAgain, first != again)
	}
	for range 2 { // failures, too
		if _, err := c.Parse([]byte("x"), false); !strings.Contains(refusal(t, err), "no PEM block") {
			t.Error(err)
		}
	}
	if _, err := c.Parse(make([]byte, pemtext.MaxCertificates+1), false); !strings.Contains(refusal(t, err), "the limit is 262144") {
		t.Error(err)
	}
	for i := range maxCached + 10 {
		c.Parse(slices.Concat(text, slices.Repeat([]byte("\n"), i+1)), false)
	}
	if len(c.entries) != maxCached || len(c.oldest) != maxCached {
		t.Errorf("it holds %d entries", len(c.entries))
	}
	if now, err := c.Parse(text, false); err != nil || now == first {
		t.Error("the oldest entry was not dropped")
	}
	c = Cache{}
	for i := range 100 {
		c.Parse(slices.Repeat([]byte("x"), 200_000+i), false)
	}
	if c.bytes > maxCachedBytes || len(c.entries) != maxCachedBytes/200_099+1 && len(c.entries) != maxCachedBytes/200_099 {
		t.Errorf("it holds %d bytes in %d entries", c.bytes, len(c.entries))
	}
}
