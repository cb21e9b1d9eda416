package pemtext

import (
	"bytes"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/certpost/certpost/internal/lab"
)

// wide writes text as UTF-16 with a byte order mark.
func wide(text []byte, order binary.AppendByteOrder) []byte {
	out := order.AppendUint16(nil, 0xfeff)
	for _, unit := range utf16.Encode([]rune(string(text))) {
		out = order.AppendUint16(out, unit)
	}
	return out
}

// A text whose meaning is plain gives the same two certificates in every disguise.
//
// Fault: PEM with byte order marks, UTF-16, any line ends, escaped or lost line breaks,
// indented, glued together. Result: encoded again.
func TestCertificatesInEveryForm(t *testing.T) {
	t.Parallel()
	p := lab.NewPKI(t, "p256")
	leaf, ca := lab.PEM(p.Leaf), lab.PEM(p.Intermediate)
	full := slices.Concat(leaf, ca)
	replaced := func(old, with string) []byte { return bytes.ReplaceAll(full, []byte(old), []byte(with)) }
	for name, text := range map[string][]byte{
		"as it is":                      full,
		"old label":                     replaced(" CERTIFICATE-", " X509 CERTIFICATE-"),
		"glued END and BEGIN":           slices.Concat(bytes.TrimSpace(leaf), ca),
		"indented":                      append([]byte("    "), replaced("\n", "\n    ")...),
		"indented with no-break spaces": append([]byte("\u00a0"), replaced("\n", "\n\u00a0")...),
		"byte order mark in the middle": slices.Concat([]byte("\ufeff"), leaf, []byte("\ufeff"), ca),
		"mark between END and BEGIN":    slices.Concat(bytes.TrimSpace(leaf), []byte("\ufeff"), ca),
		"CR":                            replaced("\n", "\r"),
		"CRLF":                          replaced("\n", "\r\n"),
		"escaped line ends":             replaced("\n", `\n`),
		"escaped CRLF":                  replaced("\n", `\r\n`),
		"spaces for line ends":          replaced("\n", " "),
		"on one line":                   replaced("\n", ""),
		"UTF-16, little endian":         wide(full, binary.LittleEndian),
		"UTF-16, big endian":            wide(full, binary.BigEndian),
		"UTF-16 with CRLF":              wide(replaced("\n", "\r\n"), binary.LittleEndian),
		"words around, beyond ASCII":    slices.Concat([]byte("subject: CN=Bücher 🔑\n"), leaf, []byte("---- no mark\n"), ca, []byte("end")),
		"blank lines inside":            replaced("\n", "\n\n"),
	} {
		certs, skipped, err := Certificates(text)
		if err != nil || len(skipped) != 0 {
			t.Errorf("%s: %q, %v", name, skipped, err)
			continue
		}
		var ders [][]byte
		for _, c := range certs {
			ders = append(ders, c.DER)
		}
		if !bytes.Equal(Encode(ders...), full) {
			t.Errorf("%s: %d certificates, not the two of the text", name, len(certs))
		}
	}
}

// What cannot be used is named with its line; nothing is skipped that might be the leaf.
//
// Fault: a TRUSTED CERTIFICATE, PKCS#7 (also under the label CERTIFICATE), a damaged block,
// before or among certificates. Result: never skipped, because the next certificate would
// be taken for the leaf.
func TestCertificatesRefuses(t *testing.T) {
	t.Parallel()
	p := lab.NewPKI(t, "p256")
	leaf, ca := lab.PEM(p.Leaf), lab.PEM(p.Intermediate)
	block := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	pkcs7 := []byte("\x30\x82\x01\x00\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02\xa0\x82")
	key := lab.KeyPEM(t, p.Leaf.Key)
	for _, c := range []struct {
		name string
		text []byte
		want string
	}{
		{"nothing", nil, "it is empty"},
		{"UTF-16 of nothing", []byte("\xff\xfe"), "it is empty"},
		{"half a character", []byte("\xff\xfe-\x00-"), "it is UTF-16 text that is cut off"},
		{"trusted leaf before its issuer", slices.Concat(block("TRUSTED CERTIFICATE", p.Leaf.Raw), ca), "line 1 begins a TRUSTED CERTIFICATE, a format that only OpenSSL uses; convert it with `openssl x509`"},
		{"PKCS#7 under the wrong label", slices.Concat(block("CERTIFICATE", pkcs7), ca), "line 1 begins PKCS#7 under the label CERTIFICATE; convert it with `openssl pkcs7 -print_certs`"},
		{"PKCS#7", slices.Concat(ca, block("PKCS7", pkcs7)), "line 11 begins PKCS#7; convert it with `openssl pkcs7 -print_certs`"},
		{"request", block("NEW CERTIFICATE REQUEST", []byte("x")), "line 1 begins a certificate request; publish the issued certificate instead"},
		{"attribute certificate", slices.Concat(block("ATTRIBUTE CERTIFICATE", []byte("x")), ca), "line 1 begins a block labelled ATTRIBUTE CERTIFICATE, which is not an X.509 certificate"},
		{"commented out", append([]byte("# "), leaf...), "line 1 has text before -----BEGIN; a block must begin on its own line"},
		{"leaf with two dashes of a word processor", slices.Concat(bytes.ReplaceAll(leaf, []byte("-----"), []byte("\u2014\u2014-")), ca), "the BEGIN line on line 1 is damaged"},
		{"leaf with four dashes", slices.Concat(bytes.ReplaceAll(leaf, []byte("-----"), []byte("----")), ca), "the BEGIN line on line 1 is damaged"},
		{"leaf in lower case", slices.Concat([]byte("-----begin certificate-----\n"), leaf[28:], ca), "the BEGIN line on line 1 is damaged"},
		{"leaf without its BEGIN, on one line", slices.Concat(bytes.ReplaceAll(leaf[28:], []byte("\n"), nil), []byte("\n"), ca), "its beginning is cut off: line 1 ends a block that has no BEGIN line"},
		{"label in lower case", bytes.ReplaceAll(leaf, []byte("CERTIFICATE"), []byte("certificate")), "the BEGIN line on line 1 is damaged"},
		{"cut off", leaf[:200], "it is cut off: the CERTIFICATE block that begins on line 1 has no END line"},
		{"no certificate", block("PUBLIC KEY", []byte("x")), "it has no CERTIFICATE block"},
		{"base64 alone", bytes.Join(bytes.Split(leaf, []byte("\n"))[1:5], nil), "it is base64 without the -----BEGIN and -----END lines of PEM"},
		{"a key", slices.Concat(leaf, key), ErrPrivateKey.Error()},
		{"a key in UTF-16", wide(slices.Concat(leaf, key), binary.LittleEndian), ErrPrivateKey.Error()},
		{"a key that is cut off", slices.Concat(leaf, key[:60]), ErrPrivateKey.Error()},
		{"too large", bytes.Repeat([]byte(" "), MaxCertificates+1), "it has 262145 bytes, the limit is 262144"},
	} {
		if _, _, err := Certificates(c.text); err == nil || err.Error() != c.want {
			t.Errorf("%s:\n got %v\nwant %s", c.name, err, c.want)
		}
	}
}

// With an error come the blocks before it: they identify an event whose text is damaged. The
// certificate after the damage does not, it is that of an issuer.
func TestCertificatesBeforeTheDamage(t *testing.T) {
	t.Parallel()
	p := lab.NewPKI(t, "p256")
	leaf, ca := lab.PEM(p.Leaf), lab.PEM(p.Intermediate)
	if certs, _, err := Certificates(slices.Concat(leaf, ca[:100])); err == nil || len(certs) != 1 || !bytes.Equal(certs[0].DER, p.Leaf.Raw) {
		t.Errorf("a damaged issuer: %d certificates, %v", len(certs), err)
	}
	damaged := bytes.Replace(leaf, []byte("MII"), []byte("M*I"), 1)
	if certs, _, err := Certificates(slices.Concat(damaged, ca)); err == nil || len(certs) != 0 {
		t.Errorf("a damaged leaf: %d certificates, %v", len(certs), err)
	}
}

// What OpenSSL writes with -trustout and as PKCS#7 is recognised.
//
// Fault: a TRUSTED CERTIFICATE, PKCS#7 (also under the label CERTIFICATE). Result: never
// skipped.
func TestOpenSSLsOtherForms(t *testing.T) {
	t.Parallel()
	openssl := lab.Need(t, "openssl")
	p := lab.NewPKI(t, "p256")
	dir := t.TempDir()
	file := filepath.Join(dir, "leaf.pem")
	lab.Write(t, file, lab.PEM(p.Leaf))
	trusted := lab.Output(t, openssl, "x509", "-in", file, "-trustout", "-addtrust", "serverAuth")
	if _, _, err := Certificates(append([]byte(trusted), lab.PEM(p.Intermediate)...)); err == nil || !strings.Contains(err.Error(), "TRUSTED CERTIFICATE") {
		t.Errorf("trusted: %v", err)
	}
	p7b := lab.Output(t, openssl, "crl2pkcs7", "-nocrl", "-certfile", file)
	if _, _, err := Certificates([]byte(strings.ReplaceAll(p7b, "PKCS7", "CERTIFICATE"))); err == nil || !strings.Contains(err.Error(), "PKCS#7 under the label CERTIFICATE") {
		t.Errorf("PKCS#7: %v", err)
	}
}

func TestReadKeys(t *testing.T) {
	t.Parallel()
	p := lab.NewPKI(t, "p256")
	key := lab.KeyPEM(t, p.Leaf.Key)
	want, _ := pem.Decode(key)
	for name, text := range map[string][]byte{"plain": key, "UTF-16": wide(key, binary.LittleEndian), "on one line": bytes.ReplaceAll(key, []byte("\n"), nil)} {
		blocks, err := Read(text)
		if err != nil || len(blocks) != 1 || blocks[0].Kind != "PRIVATE KEY" || blocks[0].Encrypted || !bytes.Equal(blocks[0].DER, want.Bytes) {
			t.Errorf("%s: %v", name, err)
		}
	}
	legacy := "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n"
	if blocks, err := Read([]byte(legacy)); err != nil || len(blocks) != 1 || !blocks[0].Encrypted {
		t.Errorf("an encrypted key: %+v, %v", blocks, err)
	}
	if _, _, err := Certificates([]byte(legacy)); !errors.Is(err, ErrPrivateKey) {
		t.Errorf("an encrypted key among certificates: %v", err)
	}
}

// Every block that encoding/pem finds in a canonical text is found here, with the same content.
func FuzzRead(f *testing.F) {
	f.Add([]byte("-----BEGIN A-----\nAAAA\n-----END A-----\n"))
	f.Add([]byte("-----END A----------BEGIN A-----\n-----END A-----"))
	f.Add([]byte("\xff\xfe-\x00"))
	f.Fuzz(func(t *testing.T, text []byte) {
		blocks, err := Read(text)
		if err == nil && len(blocks) == 0 {
			t.Fatal("neither blocks nor an error")
		}
		for _, b := range blocks {
			if b.Kind == "" || b.Line < 1 {
				t.Fatalf("block %+v", b)
			}
			again, err := Read(pem.EncodeToMemory(&pem.Block{Type: b.Kind, Bytes: b.DER}))
			if err != nil || len(again) != 1 || again[0].Kind != b.Kind || !bytes.Equal(again[0].DER, b.DER) {
				t.Fatalf("read again: %+v, %v", again, err)
			}
		}
	})
}

func BenchmarkCertificates(b *testing.B) {
	ca := lab.Issue(b, nil, lab.SeededKey(1), "CA", lab.AsCA)
	text := lab.PEM(ca, lab.Issue(b, ca, lab.SeededKey(2), "leaf"))
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		if _, _, err := Certificates(text); err != nil {
			b.Fatal(err)
		}
	}
}
