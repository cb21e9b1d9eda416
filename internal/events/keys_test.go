package events

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"golang.org/x/crypto/ssh"
	"software.sslmate.com/src/go-pkcs12"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// keys returns a new key of every kind and format, by name. None is ever stored.
func keys(tb testing.TB) map[string][]byte {
	tb.Helper()
	rsaKey := must(rsa.GenerateKey(rand.Reader, 2048))
	p256 := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	p521 := must(ecdsa.GenerateKey(elliptic.P521(), rand.Reader))
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	all := map[string][]byte{}
	both := func(name, blockType string, der []byte) {
		all[name+" in DER"] = der
		all[name+" in PEM"] = pem.EncodeToMemory(&pem.Block{Type: blockType, Bytes: der})
	}
	for name, key := range map[string]crypto.PrivateKey{"RSA": rsaKey, "P-256": p256, "P-521": p521, "Ed25519": ed} {
		both(name+" as PKCS#8", "PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(key)))
	}
	both("RSA as PKCS#1", "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rsaKey))
	both("P-256 as SEC 1", "EC PRIVATE KEY", must(x509.MarshalECPrivateKey(p256)))
	both("P-521 as SEC 1", "EC PRIVATE KEY", must(x509.MarshalECPrivateKey(p521)))
	both("DSA", "DSA PRIVATE KEY", must(asn1.Marshal(struct{ V, P, Q, G, Y, X *big.Int }{
		big.NewInt(0), rsaKey.N, rsaKey.Primes[0], rsaKey.N, rsaKey.N, rsaKey.Primes[1],
	})))

	// What openssl pkcs8 -topk8 writes: PBES2 around a ciphertext.
	sealed := make([]byte, 160)
	rand.Read(sealed)
	type algorithm struct {
		ID     asn1.ObjectIdentifier
		Params []int
	}
	both("encrypted PKCS#8", "ENCRYPTED PRIVATE KEY", must(asn1.Marshal(struct {
		Algorithm algorithm
		Data      []byte
	}{algorithm{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 13}, []int{1}}, sealed})))

	cert := selfSigned(tb, p256, 7)
	for name, encoder := range map[string]*pkcs12.Encoder{"modern": pkcs12.Modern2023, "legacy": pkcs12.LegacyDES} {
		all["PKCS#12, "+name] = must(encoder.Encode(p256, cert, nil, "changeit"))
	}
	all["Java key store"] = append([]byte{0xfe, 0xed, 0xfe, 0xed, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 1}, sealed...)

	openSSH := must(ssh.MarshalPrivateKey(ed, ""))
	all["OpenSSH in PEM"] = pem.EncodeToMemory(openSSH)
	all["OpenSSH in binary"] = openSSH.Bytes
	all["PuTTY"] = []byte("PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\nPublic-Lines: 1\nAAAA\nPrivate-Lines: 1\nAAAAIGh1c2g=\n")
	all["openssl's text"] = []byte("Private-Key: (256 bit)\npriv:\n    00:11:22\n")

	jwk := func(members string) []byte { return []byte(`{"kty":"EC","crv":"P-256",` + members + `}`) }
	scalar := base64.RawURLEncoding.EncodeToString(must(p256.Bytes()))
	all["JWK"] = jwk(`"x":"AA", "d" : "` + scalar + `"`)
	all["JWK in single quotes"] = []byte(`{'kty': 'EC', 'crv': 'P-256', 'd': '` + scalar + `'}`)
	all["JWK in YAML"] = []byte("kty: EC\ncrv: P-256\nd: " + scalar + "\n")
	all[".NET RSAKeyValue"] = []byte("<RSAKeyValue><Modulus>3q2+7w==</Modulus><Exponent>AQAB</Exponent><P>3q0=</P><DP>3q0=</DP><InverseQ>3q0=</InverseQ><D>3q2+7w==</D></RSAKeyValue>")
	all[".NET RSAKeyValue, D alone"] = []byte("<RSAKeyValue><Modulus>3q2+7w==</Modulus><Exponent>AQAB</Exponent><D>3q2+7w==</D></RSAKeyValue>")
	all[".NET RSAParameters in JSON"] = []byte(`{"D":"3q2+7w==","Exponent":"AQAB","Modulus":"3q2+7w=="}`)
	all["Go's rsa.PrivateKey in JSON"] = must(json.Marshal(rsaKey))
	all["JWK, symmetric"] = []byte(`{"k":"` + scalar + `","kty":"oct"}`)
	return all
}

func selfSigned(tb testing.TB, key crypto.Signer, serial int64) *x509.Certificate {
	tb.Helper()
	from := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "www.example.com"}, DNSNames: []string{"www.example.com"},
		NotBefore: from, NotAfter: from.AddDate(0, 3, 0), KeyUsage: x509.KeyUsageCRLSign | x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true,
	}
	return must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))))
}

func jsonString(s []byte) string { return string(must(json.Marshal(string(s)))) }

func utf16Of(s string, order func(uint16) []byte) []byte {
	var out []byte
	for _, unit := range utf16.Encode([]rune(s)) {
		out = append(out, order(unit)...)
	}
	return out
}

func littleEndian(u uint16) []byte { return []byte{byte(u), byte(u >> 8)} }
func bigEndian(u uint16) []byte    { return []byte{byte(u >> 8), byte(u)} }

// everyEscape writes a JSON string with an escape for every byte.
func everyEscape(s []byte) string {
	var b strings.Builder
	for _, c := range s {
		fmt.Fprintf(&b, `\u%04X`, c)
	}
	return `"` + b.String() + `"`
}

func wrapped(s string, width int, eol string) string {
	var b strings.Builder
	for len(s) > width {
		b.WriteString(s[:width] + eol)
		s = s[width:]
	}
	return b.String() + s
}

// hidings are the places and encodings of a key in a message that are found; textual
// ones apply only to keys in text form.
var hidings = map[string]struct {
	textual bool
	hide    func(key []byte) (header, []byte)
}{
	"the certificate": {true, inBody(func(k []byte) string {
		return `{"id":"e1","certificate":` + jsonString(append([]byte(chainPEM), k...)) + `}`
	})},
	"private_key": {true, inBody(func(k []byte) string { return `{"id":"e1","certificate":$PEM,"private_key":` + jsonString(k) + `}` })},
	"an object in its place": {true, inBody(func(k []byte) string {
		return `{"id":"e1","certificate":$PEM,"private_key":{"pem":` + jsonString(k) + `}}`
	})},
	"a reference's field": {true, inBody(func(k []byte) string {
		return `{"id":"e1","certificate":$PEM,"private_key":{"vault":{"mount":"m","path":"p","key":` + jsonString(k) + `}}}`
	})},
	"a label":           {true, inBody(func(k []byte) string { return `{"id":"e1","certificate":$PEM,"labels":{"note":` + jsonString(k) + `}}` })},
	"a label's name":    {true, inBody(func(k []byte) string { return `{"id":"e1","certificate":$PEM,"labels":{` + jsonString(k) + `:"x"}}` })},
	"a target":          {true, inBody(func(k []byte) string { return `{"id":"e1","certificate":$PEM,"targets":[` + jsonString(k) + `]}` })},
	"the id":            {true, inBody(func(k []byte) string { return `{"id":` + jsonString(k) + `,"certificate":$PEM}` })},
	"an unknown field":  {true, inBody(func(k []byte) string { return `{"id":"e1","certificate":$PEM,"extra":[{"a":` + jsonString(k) + `}]}` })},
	"an extension":      {true, inBody(func(k []byte) string { return structured(`"note":`+jsonString(k)+`,`, `{"certificate":$PEM}`) })},
	"a JSON text":       {true, inBody(func(k []byte) string { return structured("", jsonString([]byte(`{"key":`+jsonString(k)+`}`))) })},
	"a JSON text twice": {true, inBody(func(k []byte) string { return jsonString([]byte(jsonString([]byte(jsonString(k))))) })},
	"escapes for every character": {false, inBody(func(k []byte) string {
		return `{"id":"e1","certificate":$PEM,"labels":{"note":` + everyEscape(k) + `}}`
	})},
	"binary taken for text": {false, inBody(func(k []byte) string {
		var latin1 []rune
		for _, c := range k {
			latin1 = append(latin1, rune(c))
		}
		return `{"id":"e1","certificate":$PEM,"labels":{"note":` + jsonString([]byte(string(latin1))) + `}}`
	})},
	"base64": {false, inBody(func(k []byte) string {
		return `{"id":"e1","certificate":$PEM,"labels":{"note":"` + base64.StdEncoding.EncodeToString(k) + `"}}`
	})},
	"base64url behind a word": {false, inBody(func(k []byte) string {
		return `{"id":"e1","certificate":$PEM,"labels":{"note":"key ` + base64.RawURLEncoding.EncodeToString(k) + `"}}`
	})},
	"base64 in lines": {false, inBody(func(k []byte) string {
		return `{"id":"e1","certificate":$PEM,"note":"` + wrapped(base64.StdEncoding.EncodeToString(k), 64, `\r\n`) + `"}`
	})},
	"base64 with escaped slashes": {false, inBody(func(k []byte) string {
		return `{"id":"e1","note":"` + strings.ReplaceAll(base64.StdEncoding.EncodeToString(k), "/", `\/`) + `"}`
	})},
	"base64 of base64": {false, inBody(func(k []byte) string {
		return `{"id":"e1","note":"` + base64.StdEncoding.EncodeToString([]byte(base64.StdEncoding.EncodeToString(k))) + `"}`
	})},
	"base64 of UTF-16": {true, inBody(func(k []byte) string {
		return `{"id":"e1","note":"` + base64.StdEncoding.EncodeToString(utf16Of(string(k), littleEndian)) + `"}`
	})},
	"hexadecimal": {false, inBody(func(k []byte) string {
		return `{"id":"e1","certificate":$PEM,"labels":{"note":"` + hex.EncodeToString(k) + `"}}`
	})},
	"hexadecimal with colons":  {false, inBody(func(k []byte) string { return note(jsonString(listed(k, "%02x", ":"))) })},
	"hexadecimal in lines":     {false, inBody(func(k []byte) string { return note(`"` + wrapped(string(listed(k, "%02X", ":")), 45, `:\n    `) + `"`) })},
	"hexadecimal with hyphens": {false, inBody(func(k []byte) string { return note(jsonString(listed(k, "%02X", "-"))) })},
	"a C array":                {false, inBody(func(k []byte) string { return note(jsonString(listed(k, "0x%x", ", "))) })},
	"Python's bytes":           {false, inBody(func(k []byte) string { return note(jsonString([]byte("b'" + string(listed(k, `\x%02x`, "")) + "'"))) })},
	"a Buffer":                 {false, inBody(func(k []byte) string { return note(`{"type":"Buffer","data":[` + string(listed(k, "%d", ",")) + `]}`) })},
	"a list of numbers":        {false, inBody(func(k []byte) string { return note("[" + string(listed(k, "%d", ",\n ")) + "]") })},
	"Go's fmt":                 {false, inBody(func(k []byte) string { return note(jsonString([]byte(fmt.Sprint(k)))) })},
	"Java's bytes": {false, inBody(func(k []byte) string {
		signed := make([]int8, len(k))
		for i, c := range k {
			signed[i] = int8(c)
		}
		return note(string(must(json.Marshal(signed))))
	})},
	"an Uint8Array": {false, inBody(func(k []byte) string {
		return note("{" + list(len(k), func(i int) string { return fmt.Sprintf(`"%d": %d`, i, k[i]) }) + "}")
	})},
	"labels, cut in pieces":                   {true, inBody(func(k []byte) string { return labelled("part%d", false, string(k)) })},
	"labels, as pieces of base64":             {false, inBody(func(k []byte) string { return labelled("part%d", false, base64.StdEncoding.EncodeToString(k)) })},
	"labels, as pieces in the order of names": {false, inBody(func(k []byte) string { return labelled("k%03d", true, base64.StdEncoding.EncodeToString(k)) })},
	"labels, as pieces that are numbered":     {false, inBody(func(k []byte) string { return labelled("k-%d", true, base64.StdEncoding.EncodeToString(k)) })},
	"targets, cut in pieces": {false, inBody(func(k []byte) string {
		return `{"id":"e1","certificate":$PEM,"targets":` + string(must(json.Marshal(pieces(base64.StdEncoding.EncodeToString(k))))) + `}`
	})},
	"attributes' headers, as pieces": {false, func(k []byte) (header, []byte) {
		h := binaryHeader()
		for i, piece := range pieces(base64.StdEncoding.EncodeToString(k)) {
			h[fmt.Sprintf("ce-part%d", i)] = []string{piece}
		}
		return h, body(`{"certificate":$PEM}`)
	}},
	"data_base64": {false, inBody(func(k []byte) string {
		return `{"specversion":"1.0","type":"certificate.issued","source":"/ca","id":"e1","data_base64":"` + base64.StdEncoding.EncodeToString(k) + `"}`
	})},
	"base64 in data_base64 in base64": {false, inBody(func(k []byte) string {
		inner := base64.StdEncoding.EncodeToString([]byte(base64.StdEncoding.EncodeToString(k)))
		return `{"specversion":"1.0","type":"certificate.issued","source":"/ca","id":"e1","data_base64":"` + base64Of(`{"certificate":$PEM,"labels":{"note":"`+inner+`"}}`) + `"}`
	})},
	"the body alone": {false, inBody(func(k []byte) string { return string(k) })},
	"JSON cut off":   {true, inBody(func(k []byte) string { return `{"id":"e1","certificate":` + strings.TrimSuffix(jsonString(k), `"`) })},
	"JSON that is none": {true, inBody(func(k []byte) string {
		return "---\nid: e1\nkey: |\n  " + strings.ReplaceAll(string(k), "\n", "\n  ")
	})},
	"UTF-16, little endian": {true, func(k []byte) (header, []byte) {
		return nil, append([]byte("\xff\xfe"), utf16Of(`{"note":`+jsonString(k)+`}`, littleEndian)...)
	}},
	"UTF-16, big endian": {true, func(k []byte) (header, []byte) { return nil, utf16Of(`{"note":`+jsonString(k)+`}`, bigEndian) }},
	"duplicate fields":   {true, inBody(func(k []byte) string { return `{"id":"e1","a":` + jsonString(k) + `,"a":1}` })},
	"an attribute's header": {false, func(k []byte) (header, []byte) {
		return binaryHeader("ce-note", url.PathEscape(string(k))), body(`{"certificate":$PEM}`)
	}},
	"any header": {false, func(k []byte) (header, []byte) {
		return header{"X-Note": {"ok", base64.StdEncoding.EncodeToString(k)}}, body(`{"id":"e1","certificate":$PEM}`)
	}},
	"binary data": {false, func(k []byte) (header, []byte) { return binaryHeader(), k }},
}

// note is an event with a JSON value in a label.
func note(value string) string {
	return `{"id":"e1","certificate":$PEM,"labels":{"note":` + value + `}}`
}

// listed writes each byte by a format of fmt.
func listed(k []byte, format, separator string) []byte {
	var out []string
	for _, c := range k {
		out = append(out, fmt.Sprintf(format, c))
	}
	return []byte(strings.Join(out, separator))
}

// pieces cuts a text into pieces in which nothing is found.
func pieces(s string) []string {
	var all []string
	for len(s) > 13 {
		all = append(all, s[:13])
		s = s[13:]
	}
	return append(all, s)
}

// labelled is an event with a text cut into labels, which are in the reverse of their
// order if wanted.
func labelled(name string, reverse bool, text string) string {
	var members []string
	for i, piece := range pieces(text) {
		members = append(members, fmt.Sprintf(`"`+name+`":%s`, i, jsonString([]byte(piece))))
	}
	if reverse {
		slices.Reverse(members)
	}
	return `{"id":"e1","certificate":$PEM,"labels":{` + strings.Join(members, ",") + `}}`
}

func inBody(hide func([]byte) string) func([]byte) (header, []byte) {
	return func(k []byte) (header, []byte) { return nil, body(hide(k)) }
}

// Fault: a private key in the event. Result: refused.
// Fault: a private key in disguise: numbers, colons, other quotes, pieces over labels; text
// or unknown fields under private_key in place of a reference. Result: refused as a key;
// the reason quotes none of it.
func TestKeysAreFound(t *testing.T) {
	t.Parallel()
	for kind, key := range keys(t) {
		isText := !bytes.ContainsFunc(key, func(r rune) bool { return r > 0x7e || r < '\n' })
		for place, hiding := range hidings {
			if hiding.textual && !isText {
				continue
			}
			header, body := hiding.hide(key)
			_, err := Decode(header, body)
			var invalid *Invalid
			if !errors.As(err, &invalid) || !invalid.HoldsKey {
				t.Errorf("%s in %s: %v", kind, place, err)
				continue
			}
			if !strings.Contains(invalid.Reason, "Vault") || !strings.Contains(invalid.Reason, "replace this key") {
				t.Errorf("%s in %s: no advice in %q", kind, place, invalid.Reason)
			}
			for i := 0; i+12 <= len(key); i += 12 {
				if strings.Contains(invalid.Reason+invalid.ID, string(key[i:i+12])) && !strings.HasPrefix(kind, "JWK") {
					t.Errorf("%s in %s: a part of the key is quoted: %q", kind, place, invalid.Reason)
					break
				}
			}
		}
	}
}

func TestKeyPlace(t *testing.T) {
	t.Parallel()
	key := jsonString(keys(t)["P-256 as SEC 1 in PEM"])
	for _, tt := range []struct{ body, place string }{
		{`{"id":"e1","certificate":` + key + `}`, "at $.certificate"},
		{`{"id":"e1","certificate":$PEM,"private_key":{"pem":` + key + `}}`, "at $.private_key.pem"},
		{`{"id":"e1","certificate":$PEM,"labels":{"a":"","b c":` + key + `}}`, `at $.labels["b c"]`},
		{`{"id":"e1","certificate":$PEM,"labels":{` + key + `:""}}`, "at $.labels"},
		{`{"id":"e1","certificate":$PEM,"targets":["a",` + key + `]}`, "at $.targets[1]"},
		{`{"id":"e1","certificate":$PEM,"extra":{"jwk":{"kty":"EC","d":"hush"}}}`, "at $.extra.jwk"},
		{`{"id":"e1","certificate":$PEM,"extra":{"privateKey":"hush"}}`, "at $.extra.privateKey"},
		{`{"id":"e1","certificate":` + key + `,`, "at $.certificate"},
		{`id: e1, certificate: ` + key, "in the body"},
	} {
		_, err := Decode(nil, body(tt.body))
		want := "the event carries a private key, or what looks like one, " + tt.place + ": " + keyAdvice
		if err == nil || err.Error() != want {
			t.Errorf("got %v\nwant %s", err, want)
		}
	}
}

// TestPublicThingsAreNoKeys checks for false alarms.
func TestPublicThingsAreNoKeys(t *testing.T) {
	t.Parallel()
	rsaKey := must(rsa.GenerateKey(rand.Reader, 2048))
	p256 := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public := map[string][]byte{"PKCS#1": x509.MarshalPKCS1PublicKey(&rsaKey.PublicKey)}
	for name, key := range map[string]crypto.Signer{"RSA": rsaKey, "P-256": p256, "Ed25519": ed} {
		ca := selfSigned(t, key, 1)
		public[name+" certificate"] = ca.Raw
		public[name+" public key"] = must(x509.MarshalPKIXPublicKey(key.Public()))
		public[name+" request"] = must(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: ca.Subject}, key))
		public[name+" revocation list"] = must(x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
			Number: big.NewInt(1), ThisUpdate: ca.NotBefore, NextUpdate: ca.NotAfter,
		}, ca, key))
		public[name+" certificate of version 1"] = firstVersion(t, ca, key)
	}
	for name, der := range public {
		text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
		for form, body := range map[string]string{
			"DER":    string(der),
			"PEM":    string(text),
			"JSON":   `{"id":"e1","certificate":` + jsonString(text) + `,"private_key":{"vault":{"mount":"secret","path":"a","key":"private_key"}}}`,
			"base64": base64.StdEncoding.EncodeToString(der),
			"hex":    hex.EncodeToString(der),
		} {
			if HoldsPrivateKey([]byte(body)) {
				t.Errorf("%s in %s is reported as a private key", name, form)
			}
		}
	}
	for _, text := range []string{
		"", "{", `{"labels":{"note":"PRIVATE KEY: see Vault"}}`, `{"private_key":{"file":"/etc/x/PRIVATE KEY"}}`, `{"private_key":""}`,
		`{"jwk":{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}}`, strings.Repeat("0123456789abcdef", 1000), strings.Repeat("MII", 1000), "0\x05\x02\x01\x00\x05\x00", strings.Repeat(`\`, 1000), strings.Repeat("%25", 10), `\u00`, `%`, `%2`,
	} {
		if HoldsPrivateKey([]byte(text)) {
			t.Errorf("%.60q is reported as a private key", text)
		}
	}
}

// TestKeysInCertificatesAreFound checks that a block in PEM is searched although it is a
// whole certificate, and that nothing else passes for one.
func TestKeysInCertificatesAreFound(t *testing.T) {
	t.Parallel()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	der := must(x509.MarshalPKCS8PrivateKey(key))
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	ca := selfSigned(t, key, 1)
	for name, hidden := range map[string][]byte{
		"DER": der, "PEM": text, "base64": []byte(base64.StdEncoding.EncodeToString(der)), "nothing": []byte("nothing"),
	} {
		with := *ca
		with.ExtraExtensions = []pkix.Extension{{Id: []int{1, 3, 6, 1, 4, 1, 99999, 1}, Value: hidden}}
		cert := must(x509.CreateCertificate(rand.Reader, &with, ca, key.Public(), key))
		for form, found := range map[string]bool{
			string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})):                                 name != "nothing",
			string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: slices.Concat(cert, der)})):             true,
			beginCertificate + "\n" + base64.StdEncoding.EncodeToString(der) + "\n" + endCertificate:                 true,
			beginCertificate + "\n" + base64.StdEncoding.EncodeToString(cert) + "\n" + string(text):                  true,
			string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw})) + string(text):                true,
			string(text) + string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw})):                true,
			string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw})) + " ":                         false,
			strings.ReplaceAll(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw})), "\n", ""): false,
		} {
			for eol, body := range map[string]string{"LF": form, "CRLF": strings.ReplaceAll(form, "\n", "\r\n")} {
				for _, body := range []string{body, jsonString([]byte(body)), jsonString([]byte(jsonString([]byte(body))))} {
					if HoldsPrivateKey([]byte(body)) != found {
						t.Errorf("%s, %s: found %v, want %v in %.80q", name, eol, !found, found, body)
					}
				}
			}
		}
	}
}

// firstVersion makes a certificate of X.509 version 1 with the serial number 1,
// whose content begins like PKCS#8.
func firstVersion(t *testing.T, ca *x509.Certificate, key crypto.Signer) []byte {
	t.Helper()
	var outer struct {
		TBS       asn1.RawValue
		Algorithm asn1.RawValue
		Signature asn1.BitString
	}
	if _, err := asn1.Unmarshal(ca.Raw, &outer); err != nil {
		t.Fatal(err)
	}
	rest := must(asn1.Marshal(1))
	for fields, i := outer.TBS.Bytes, 0; i < 7; i++ { // version, serial, algorithm, issuer, validity, subject, key
		var field asn1.RawValue
		fields = must(asn1.Unmarshal(fields, &field))
		if i >= 2 {
			rest = append(rest, field.FullBytes...)
		}
	}
	outer.TBS = asn1.RawValue{Class: asn1.ClassUniversal, Tag: asn1.TagSequence, IsCompound: true, Bytes: rest}
	der := must(asn1.Marshal(outer))
	if c, err := x509.ParseCertificate(der); err != nil || c.Version != 1 {
		t.Fatalf("not a certificate of version 1: %v", err)
	}
	return der
}

// Fault: a private key in the event. Result: its body is not copied anywhere.
func TestOversizedBodyCountsAsHolding(t *testing.T) {
	t.Parallel()
	if !HoldsPrivateKey(make([]byte, MaxSize+1)) || HoldsPrivateKey(make([]byte, MaxSize)) {
		t.Error("a body over MaxSize is not searched and must count as holding a key; one of MaxSize is searched")
	}
}
