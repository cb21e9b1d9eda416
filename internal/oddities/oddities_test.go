package oddities

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/lab"
)

// openssl makes a key with the arguments and a certificate for it, and returns both in DER.
func openssl(t *testing.T, newKey []string, more ...string) (key, cert []byte) {
	t.Helper()
	program, dir := lab.Need(t, "openssl"), t.TempDir()
	keyFile, certFile := filepath.Join(dir, "key.pem"), filepath.Join(dir, "cert.pem")
	lab.Output(t, program, append(newKey, "-out", keyFile)...)
	lab.Output(t, program, append([]string{"req", "-x509", "-new", "-key", keyFile, "-out", certFile, "-days", "30", "-subj", "/CN=odd.example.com", "-addext", "subjectAltName=DNS:odd.example.com,IP:192.0.2.1"}, more...)...)
	for file, into := range map[string]*[]byte{keyFile: &key, certFile: &cert} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
			*into = block.Bytes
		}
	}
	return key, cert
}

func curve(name string, more ...string) []string {
	return append([]string{"genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:" + name}, more...)
}

var explicit = []string{"-pkeyopt", "ec_param_enc:explicit"}

// TestCertificatesThatGoRefuses: what openssl makes and crypto/x509 does not take.
//
// Fault: certificates that Go's parser refuses: brainpool, explicit curves, negative serial
// numbers. Result: the text says what is odd.
func TestCertificatesThatGoRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		key  []string
		more []string
		want string
	}{
		"brainpool":           {curve("brainpoolP256r1"), nil, "its key is an EC key on the curve brainpoolP256r1, which Certpost does not support"},
		"secp256k1":           {curve("secp256k1"), nil, "its key is an EC key on the curve secp256k1, which Certpost does not support"},
		"explicit parameters": {curve("P-256", explicit...), nil, "its key is an EC key on a curve given by explicit parameters instead of its name, which Certpost does not support"},
		"a negative serial":   {curve("P-256"), []string{"-set_serial", "-5"}, "its serial number is negative"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, raw := openssl(t, c.key, c.more...)
			isOdd(t, raw, c.want)
		})
	}
}

func isOdd(t *testing.T, raw []byte, want string) {
	t.Helper()
	if _, err := x509.ParseCertificate(raw); err == nil {
		t.Fatal("crypto/x509 takes it")
	}
	cert, odd, err := Certificate(raw)
	if err != nil || odd != want {
		t.Fatalf("odd %q, %v, want %q", odd, err, want)
	}
	if cert.Subject.CommonName != "odd.example.com" || len(cert.DNSNames) != 1 || cert.PublicKey != nil || !bytes.Equal(cert.Raw, raw) ||
		time.Until(cert.NotAfter) < time.Hour || !bytes.Equal(cert.RawSubject, cert.RawIssuer) {
		t.Errorf("read %+v", cert)
	}
}

// TestNamesThatGoRefuses: certificates whose names are changed after they were signed; the
// signature does not matter here.
//
// Fault: UniversalString, odd alternative names. Result: the text says what is odd.
func TestNamesThatGoRefuses(t *testing.T) {
	t.Parallel()
	raw := func(value string) asn1.RawValue { return asn1.RawValue{FullBytes: []byte(value)} }
	names := func(more string) pkix.Extension {
		value, err := asn1.Marshal(struct{ DNS, More asn1.RawValue }{raw("\x82\x0fodd.example.com"), raw(more)})
		if err != nil {
			t.Fatal(err)
		}
		return pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: value}
	}
	for name, c := range map[string]struct {
		names string
		want  string
	}{
		"an IP address of 8 octets": {"\x87\x08\xc0\x00\x02\x00\xff\xff\xff\x00", "one of its subject alternative names is an IP address of 8 octets; one has 4 or 16"},
		"a URI that is none":        {"\x86\x0ehttp://[::1]:x", "one of its subject alternative names is a URI that cannot be parsed"},
		"a DNS name in UTF-8":       {"\x82\x03\xc3\xb6x", "one of its subject alternative names is a DNS name with characters beyond ASCII"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cert := signedWith(t, &x509.Certificate{Subject: pkix.Name{CommonName: "odd.example.com"}, ExtraExtensions: []pkix.Extension{names(c.names)}})
			got, odd, err := Certificate(cert)
			if err != nil || odd != c.want || got.DNSNames[0] != "odd.example.com" {
				t.Errorf("odd %q, %v, want %q", odd, err, c.want)
			}
		})
	}
	universal := append([]byte{28, 60}, func() (wide []byte) {
		for _, r := range "odd.example.com" {
			wide = append(wide, 0, 0, 0, byte(r))
		}
		return wide
	}()...)
	type attribute struct {
		ID    asn1.ObjectIdentifier
		Value asn1.RawValue
	}
	inner, err := asn1.Marshal(attribute{asn1.ObjectIdentifier{2, 5, 4, 3}, asn1.RawValue{FullBytes: universal}})
	if err != nil {
		t.Fatal(err)
	}
	set := append([]byte{0x31, byte(len(inner))}, inner...)
	subject := append([]byte{0x30, byte(len(set))}, set...)
	cert := signedWith(t, &x509.Certificate{RawSubject: subject, DNSNames: []string{"odd.example.com"}})
	isOdd(t, cert, "its issuer has a UniversalString, which RFC 5280 allows only for old certificates")
}

// signedWith returns a certificate that may be one that crypto/x509 cannot parse.
func signedWith(t *testing.T, template *x509.Certificate) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber, template.NotBefore, template.NotAfter = big.NewInt(7), time.Now().Add(-time.Hour), time.Now().Add(30*24*time.Hour)
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestCertificatesThatGoTakes(t *testing.T) {
	t.Parallel()
	p := lab.NewPKI(t, "p256")
	for _, cert := range []*lab.Issued{p.Leaf, p.Intermediate, p.Root} {
		got, odd, err := Certificate(cert.Raw)
		if err != nil || odd != "" || !got.Equal(cert.Certificate) {
			t.Errorf("%s: %q, %v", cert.Subject, odd, err)
		}
		// Read leniently, it is the same.
		c, ok := read(cert.Raw)
		if !ok || c.odd != "" || c.Subject.CommonName != cert.Subject.CommonName || c.IsCA != cert.IsCA || c.SerialNumber.Cmp(cert.SerialNumber) != 0 ||
			!c.NotAfter.Equal(cert.NotAfter) || c.Version != cert.Version || strings.Join(c.DNSNames, " ") != strings.Join(cert.DNSNames, " ") ||
			!bytes.Equal(c.RawIssuer, cert.RawIssuer) || !bytes.Equal(c.RawTBSCertificate, cert.RawTBSCertificate) {
			t.Errorf("%s: read as %+v", cert.Subject, c)
		}
	}
	whole := p.Leaf.Raw
	for name, damaged := range map[string][]byte{"nothing": nil, "text": []byte("hello"), "cut off": whole[:len(whole)-1], "with more": append(bytes.Clone(whole), 0)} {
		if cert, _, err := Certificate(damaged); !errors.Is(err, ErrNotCertificate) || cert != nil {
			t.Errorf("%s: %v, %v", name, cert, err)
		}
	}
}

// FuzzCertificate: no panic, and what is returned is complete enough to be shown.
func FuzzCertificate(f *testing.F) {
	p := lab.NewPKI(f, "p256")
	f.Add(p.Leaf.Raw)
	f.Add(p.Root.Raw)
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, ok := read(raw)
		if ok && (c.SerialNumber == nil || !bytes.Equal(c.Raw, raw) || c.RawSubject == nil) {
			t.Fatalf("%+v", c)
		}
		Key(raw)
	})
}

// Fault: keys with explicit curve parameters, RSA keys without primes or CRT values.
// Result: the text says which.
func TestKeysThatGoRefuses(t *testing.T) {
	t.Parallel()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	zero := new(big.Int)
	pkcs1 := func(p, q, dp, dq, inverse *big.Int) []byte {
		raw, err := asn1.Marshal(struct {
			Version                        int
			N, E, D, P, Q, DP, DQ, Inverse *big.Int
		}{0, key.N, big.NewInt(int64(key.E)), key.D, p, q, dp, dq, inverse})
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	const factorless = "an RSA key without its primes"
	explicitKey, _ := openssl(t, curve("P-256", explicit...))
	traditional, _ := openssl(t, []string{"ecparam", "-name", "prime256v1", "-param_enc", "explicit", "-genkey", "-noout"})
	brainpool, _ := openssl(t, curve("brainpoolP384r1"))
	for name, c := range map[string]struct {
		key  []byte
		want string
	}{
		"explicit parameters in PKCS#8": {explicitKey, "an EC key on a curve given by explicit parameters"},
		"explicit parameters in SEC 1":  {traditional, "an EC key on a curve given by explicit parameters"},
		"brainpool":                     {brainpool, "an EC key on the curve brainpoolP384r1"},
		"RSA without primes":            {pkcs1(zero, zero, zero, zero, zero), factorless},
		"RSA without CRT values":        {pkcs1(key.Primes[0], key.Primes[1], zero, zero, zero), "an RSA key without its CRT values"},
		"RSA":                           {x509.MarshalPKCS1PrivateKey(key), ""},
		"nothing":                       {nil, ""},
	} {
		if got := Key(c.key); !strings.HasPrefix(got, c.want) || (got == "") != (c.want == "") {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// TestLeafAmongStrays: the certificate that an event is about, whatever else its text has.
//
// Fault: a stray root or intermediate. Result: lists and letters name the leaf.
func TestLeafAmongStrays(t *testing.T) {
	t.Parallel()
	authority := func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }
	root := lab.Issue(t, nil, lab.SeededKey(11), "Root", authority)
	sub := lab.Issue(t, root, lab.SeededKey(12), "Issuing CA", authority)
	other := lab.Issue(t, root, lab.SeededKey(15), "Other CA", authority)
	leaf := lab.Issue(t, sub, lab.SeededKey(13), "leaf.example.com")
	stray := lab.Issue(t, nil, lab.SeededKey(14), "Stray Root", authority)
	for name, c := range map[string]struct {
		text []*lab.Issued
		want string
	}{
		"leaf behind a stray": {[]*lab.Issued{stray, sub, leaf}, "leaf.example.com"},
		"stray+int":           {[]*lab.Issued{stray, sub}, "Issuing CA"},
		"stray, root and int": {[]*lab.Issued{stray, root, sub}, "Issuing CA"},
		"int+stray":           {[]*lab.Issued{sub, stray}, "Issuing CA"},
		"two bottoms":         {[]*lab.Issued{root, sub, other}, "Root"},
		"a root":              {[]*lab.Issued{root}, "Root"},
		"nothing":             {nil, ""},
	} {
		var ders [][]byte
		for _, issued := range c.text {
			ders = append(ders, issued.Raw)
		}
		got := ""
		if cert := Leaf(append(ders, []byte("no certificate"))); cert != nil {
			got = cert.Subject.CommonName
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
