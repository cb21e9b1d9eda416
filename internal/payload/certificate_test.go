package payload

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/pemtext"
	"github.com/certpost/certpost/internal/verdict"
)

// chainNames are the CNs of a bundle, leaf first.
func chainNames(b *Bundle) string {
	names := []string{b.Leaf.Subject.CommonName}
	for _, c := range b.Chain {
		names = append(names, c.Subject.CommonName)
	}
	return strings.Join(names, " < ")
}

// refusal checks that err is a permanent SMTP_PAYLOAD failure, not sent, and returns
// its reason.
func refusal(t *testing.T, err error) string {
	t.Helper()
	var f *verdict.Failure
	if !errors.As(err, &f) {
		t.Fatalf("got %v, want a failure", err)
	}
	if f.Code != verdict.SMTPPayload || f.Phase != verdict.PhasePayload || f.Certainty != verdict.NotSent || f.Retry() {
		t.Errorf("got %+v, want a final SMTP_PAYLOAD in phase payload, not sent", f)
	}
	if strings.ContainsAny(f.Reason, "\r\n\x00") {
		t.Errorf("the reason has control characters: %q", f.Reason)
	}
	return f.Reason
}

// Fault: PEM with byte order marks, UTF-16, any line ends, escaped or lost line breaks,
// indented, glued together, in any order. Result: encoded again.
func TestParseBundleTakesWhatPeopleHave(t *testing.T) {
	t.Parallel()
	p := lab.NewPKI(t, "p256")
	leaf, intermediate, root := lab.PEM(p.Leaf), lab.PEM(p.Intermediate), lab.PEM(p.Root)
	full := slices.Concat(leaf, intermediate, root)
	const want = "*.example.com < Test CA 1 < Test Root"

	for _, c := range []struct {
		name  string
		text  []byte
		want  string
		notes int
	}{
		{"in order", full, want, 0},
		{"without the root", slices.Concat(leaf, intermediate), "*.example.com < Test CA 1", 0},
		{"leaf alone", leaf, "*.example.com", 0},
		{"leaf last", slices.Concat(intermediate, root, leaf), want, 0},
		{"upside down", slices.Concat(root, intermediate, leaf), want, 0},
		{"leaf in the middle", slices.Concat(root, leaf, intermediate), want, 0},
		{"byte order mark", slices.Concat([]byte("\ufeff"), full), want, 0},
		{"byte order marks between files", slices.Concat([]byte("\ufeff"), leaf, []byte("\ufeff"), intermediate), "*.example.com < Test CA 1", 0},
		{"CRLF", bytes.ReplaceAll(full, []byte("\n"), []byte("\r\n")), want, 0},
		{"CR alone", bytes.ReplaceAll(full, []byte("\n"), []byte("\r")), want, 0},
		{"indented", append([]byte("  "), bytes.ReplaceAll(full, []byte("\n"), []byte("\n  "))...), want, 0},
		{"trailing spaces", bytes.ReplaceAll(full, []byte("\n"), []byte(" \t\n")), want, 0},
		{"no last line break", bytes.TrimSpace(full), want, 0},
		{"glued together", slices.Concat(bytes.TrimSpace(leaf), bytes.TrimSpace(intermediate), bytes.TrimSpace(root)), want, 0},
		{"what openssl writes around", slices.Concat([]byte("subject=CN = *.example.com\nissuer=CN = Test CA 1\n"), leaf, []byte("---\nServer certificate\n"), intermediate, []byte("\n\n---\nAcceptable client CAs\n")), "*.example.com < Test CA 1", 0},
		{"base64 on one line", oneLine(p.Leaf), "*.example.com", 0},
		{"UTF-16", inUTF16(full), want, 0},
		{"escaped line breaks", bytes.ReplaceAll(full, []byte("\n"), []byte(`\n`)), want, 0},
		{"escaped CRLF", bytes.ReplaceAll(full, []byte("\n"), []byte(`\r\n`)), want, 0},
		{"spaces for line breaks", bytes.ReplaceAll(full, []byte("\n"), []byte(" ")), want, 0},
		{"lost line breaks", bytes.ReplaceAll(full, []byte("\n"), nil), want, 0},
		{"old label", bytes.ReplaceAll(full, []byte(" CERTIFICATE-"), []byte(" X509 CERTIFICATE-")), want, 0},
		{"the same twice", slices.Concat(full, leaf, intermediate), want, 2},
		{"DH parameters", slices.Concat(full, []byte("-----BEGIN DH PARAMETERS-----\nMAYCAQcCAQI=\n-----END DH PARAMETERS-----\n")), want, 1},
		{"a CA's certificate alone", root, "Test Root", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b, err := ParseBundle(c.text)
			if err != nil {
				t.Fatal(err)
			}
			if got := chainNames(b); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
			if len(b.Notes) != c.notes {
				t.Errorf("got notes %q, want %d", b.Notes, c.notes)
			}
			again, err := ParseBundle(b.PEM())
			if err != nil || chainNames(again) != c.want {
				t.Errorf("the PEM output cannot be parsed again: %v", err)
			}
			var canonical []byte
			for _, cert := range slices.Concat([]*x509.Certificate{b.Leaf}, b.Chain) {
				canonical = append(canonical, lab.PEM(&lab.Issued{Certificate: cert})...)
			}
			if !bytes.Equal(b.PEM(), canonical) {
				t.Errorf("the output contains more than the certificates:\n%s", b.PEM())
			}
		})
	}
}

func oneLine(c *lab.Issued) []byte {
	text := bytes.TrimSpace(lab.PEM(c))
	lines := bytes.Split(text, []byte("\n"))
	return slices.Concat(lines[0], []byte("\n"), bytes.Join(lines[1:len(lines)-1], nil), []byte("\n"), lines[len(lines)-1])
}

// Fault: PEM truncated, DER instead, damaged content, a key in the certificate's place,
// several leaves. Result: dead (SMTP_PAYLOAD); the text says what was found.
// Fault: a CA's own chain. Result: else dead (SMTP_PAYLOAD).
func TestParseBundleRefuses(t *testing.T) {
	t.Parallel()
	p := lab.NewPKI(t, "p256")
	leaf, intermediate, root := lab.PEM(p.Leaf), lab.PEM(p.Intermediate), lab.PEM(p.Root)
	other := lab.Issue(t, p.Intermediate, lab.NewKey(t, "p256"), "mail.example.com", lab.DNSNames("mail.example.com"))
	stranger := lab.Issue(t, nil, lab.NewKey(t, "p256"), "Another Root", lab.AsCA)
	self, renewed := lab.Issue(t, nil, lab.NewKey(t, "p256"), "alone.example.com"), lab.Issue(t, nil, lab.NewKey(t, "p256"), "alone.example.com")
	key := lab.KeyPEM(t, p.Leaf.Key)

	for _, c := range []struct {
		name string
		text []byte
		want string
	}{
		{"nothing", nil, "it is empty"},
		{"white space", []byte(" \n\t"), "it is empty"},
		{"DER", p.Leaf.Raw, "binary (DER"},
		{"other text", []byte("no certificate here"), "no PEM block"},
		{"base64 alone", bytes.Join(bytes.Split(leaf, []byte("\n"))[1:5], []byte("\n")), "without the -----BEGIN"},
		{"cut off at the end", leaf[:len(leaf)/2], "cut off: the CERTIFICATE block that begins on line 1"},
		{"cut off at the front", leaf[40:], "its beginning is cut off"},
		{"cut off in the middle", slices.Concat(leaf[:len(leaf)/2], []byte("\n"), intermediate), "has no END line before the next block"},
		{"a line lost its end", bytes.Replace(leaf, []byte("-----END CERTIFICATE-----"), []byte("-----END CERT-----"), 1), "has a different END line"},
		{"text in front of BEGIN", append([]byte("cert: "), leaf...), "text before -----BEGIN"},
		{"not base64", bytes.Replace(leaf, []byte("MII"), []byte("M*I"), 1), "not base64"},
		{"not a certificate", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("hello")}), "not an X.509 certificate"},
		{"no certificate block", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte("x")}), "no CERTIFICATE block"},
		{"request", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: []byte("x")}), "certificate request"},
		{"PKCS#7", pem.EncodeToMemory(&pem.Block{Type: "PKCS7", Bytes: []byte("x")}), "PKCS#7"},
		{"OpenSSL's trusted certificate", pem.EncodeToMemory(&pem.Block{Type: "TRUSTED CERTIFICATE", Bytes: p.Leaf.Raw}), "TRUSTED CERTIFICATE"},
		{"with its key", slices.Concat(leaf, key), "contains a private key"},
		{"with its key, cut off", slices.Concat(leaf, key[:len(key)-60]), "contains a private key"},
		{"with a PGP key", slices.Concat(leaf, []byte("-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nAAAA\n=AAAA\n-----END PGP PRIVATE KEY BLOCK-----\n")), "contains a private key"},
		{"two leaves", slices.Concat(leaf, lab.PEM(other), intermediate), fmt.Sprintf(`2 leaf certificates ("*.example.com" with serial %s, "mail.example.com" with serial %s)`, verdict.SerialNumber(p.Leaf.Certificate), verdict.SerialNumber(other.Certificate))},
		{"two leaves, one without its issuer", slices.Concat(leaf, intermediate, lab.PEM(self)), `2 leaf certificates ("*.example.com" with serial `},
		{"two self-signed certificates of one name", lab.PEM(self, renewed), `2 leaf certificates ("alone.example.com" with serial `},
		{"two roots", slices.Concat(root, lab.PEM(stranger)), "and no leaf"},
		{"two chains without leaf", slices.Concat(intermediate, root, lab.PEM(lab.Issue(t, stranger, lab.NewKey(t, "p256"), "Another CA", lab.AsCA))), "and no leaf"},
		{"over 256 KiB", bytes.Repeat([]byte("x"), 1<<20), "it has 1048576 bytes"},
		{"10,000 certificates", bytes.Repeat(leaf, 10_000), "the limit is 262144"},
		{"65 blocks", bytes.Repeat([]byte("-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"), 65), "more than 64 blocks"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := ParseBundle(c.text)
			reason := refusal(t, err)
			if !strings.Contains(reason, c.want) {
				t.Errorf("got %q, want %q in it", reason, c.want)
			}
			for _, line := range bytes.Split(key, []byte("\n"))[1:3] {
				if len(line) > 0 && strings.Contains(reason, string(line)) {
					t.Error("the reason quotes the key")
				}
			}
		})
	}
}

func inUTF16(text []byte) []byte {
	out := []byte("\xff\xfe")
	for _, c := range text {
		out = append(out, c, 0)
	}
	return out
}

// Input that exceeds a limit is refused before it is examined further.
//
// Fault: much too large. Result: refused before it is parsed.
func TestParseBundleCaps(t *testing.T) {
	t.Parallel()
	ca := lab.Issue(t, nil, lab.NewKey(t, "p256"), "CA", lab.AsCA)
	key := lab.NewKey(t, "p256")

	large := lab.Issue(t, ca, key, "large", func(c *x509.Certificate) { c.DNSNames = lab.ManyNames(1200) })
	if n := len(lab.PEM(large)); n <= maxLeaf || n > maxLeaf+20_000 {
		t.Fatalf("the certificate has %d bytes", n)
	}
	_, err := ParseBundle(lab.PEM(large))
	if reason := refusal(t, err); !strings.Contains(reason, "too large") {
		t.Errorf("a certificate of %d bytes: %s", len(lab.PEM(large)), reason)
	}

	var text []byte
	issuer := ca
	for i := range maxCertificates {
		text = append(text, lab.PEM(issuer)...)
		issuer = lab.Issue(t, issuer, key, fmt.Sprint("CA ", i), lab.AsCA)
	}
	if _, err := ParseBundle(slices.Concat(text, lab.PEM(lab.Issue(t, issuer, key, "leaf")))); !strings.Contains(refusal(t, err), "more than 32 certificates") {
		t.Errorf("33 certificates: %v", err)
	}

	text, issuer = nil, ca
	for i := range 4 {
		issuer = lab.Issue(t, issuer, key, fmt.Sprint("Wordy CA ", i), lab.AsCA, func(c *x509.Certificate) { c.DNSNames = lab.ManyNames(800) })
		text = append(text, lab.PEM(issuer)...)
	}
	text = append(text, lab.PEM(lab.Issue(t, issuer, key, "leaf"))...)
	if _, err := ParseBundle(text); !strings.Contains(refusal(t, err), "chain has") {
		t.Errorf("a chain of %d bytes: %v", len(text), err)
	}
}

// The limits in docs/events.md are those of the code.
func TestDocumentedLimits(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join(lab.Root(), "docs", "events.md"))
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Join(strings.Fields(string(page)), " ")
	grouped := func(n int) string { return fmt.Sprintf("%d,%03d", n/1000, n%1000) }
	for _, want := range []string{
		fmt.Sprintf("at most %d KiB", pemtext.MaxCertificates>>10), "each certificate at most " + grouped(maxLeaf) + " bytes",
		"the chain at most " + grouped(maxChain) + " bytes", fmt.Sprintf("at most %d certificates", maxCertificates),
	} {
		if !strings.Contains(text, want) {
			t.Errorf("docs/events.md does not say: %s", want)
		}
	}
}

func TestParseBundleCrossSigned(t *testing.T) {
	t.Parallel()
	oldRoot := lab.Issue(t, nil, lab.NewKey(t, "p256"), "Old Root", lab.AsCA)
	newRoot := lab.Issue(t, nil, lab.NewKey(t, "p256"), "New Root", lab.AsCA)
	crossed := lab.Issue(t, oldRoot, newRoot.Key, "New Root", lab.AsCA, func(c *x509.Certificate) { c.SerialNumber = big.NewInt(77) })
	ca := lab.Issue(t, newRoot, lab.NewKey(t, "p256"), "CA", lab.AsCA)
	leaf := lab.Issue(t, ca, lab.NewKey(t, "p256"), "leaf", lab.DNSNames("leaf.example.com"))

	certs := []*lab.Issued{newRoot, oldRoot, leaf, crossed, ca}
	for i := range certs { // in any order
		b, err := ParseBundle(lab.PEM(slices.Concat(certs[i:], certs[:i])...))
		if err != nil {
			t.Fatal(err)
		}
		if got, want := chainNames(b), "leaf < CA < New Root < Old Root < New Root"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if !b.Chain[1].Equal(crossed.Certificate) {
			t.Error("the path to the old root is not contiguous")
		}
	}
}

// CAs that have signed each other form a loop.
//
// Fault: CAs that have signed each other. Result: the chain ends with them, or the text
// says where it is broken.
func TestParseBundleLoop(t *testing.T) {
	t.Parallel()
	keyA, keyB := lab.NewKey(t, "p256"), lab.NewKey(t, "p256")
	rootA, rootB := lab.Issue(t, nil, keyA, "A", lab.AsCA), lab.Issue(t, nil, keyB, "B", lab.AsCA)
	a, b := lab.Issue(t, rootB, keyA, "A", lab.AsCA), lab.Issue(t, rootA, keyB, "B", lab.AsCA)
	leaf := lab.Issue(t, a, lab.NewKey(t, "p256"), "leaf")

	got, err := ParseBundle(lab.PEM(b, leaf, a))
	if err != nil {
		t.Fatal(err)
	}
	if want := "leaf < A < B"; chainNames(got) != want {
		t.Errorf("got %s, want %s", chainNames(got), want)
	}
	if _, err := ParseBundle(lab.PEM(a, b)); !strings.Contains(refusal(t, err), "and no leaf") {
		t.Errorf("a loop without leaf: %v", err)
	}
	alone := lab.Issue(t, nil, lab.NewKey(t, "p256"), "alone")
	if got, err := ParseBundle(lab.PEM(alone, a, b)); err != nil || chainNames(got) != "alone" || got.Strays != `"A", "B" issued neither "alone" nor any of its issuers` {
		t.Errorf("a loop apart from the leaf: %+v, %v", got, err)
	}
}

// Fault: expired, not yet valid. Result: refused, or sent with a warning, as configured.
func TestCheckDates(t *testing.T) {
	t.Parallel()
	between := func(from, to time.Duration) *Bundle {
		c := lab.Issue(t, nil, lab.SeededKey(1), "web1", func(c *x509.Certificate) { c.NotBefore, c.NotAfter = lab.TestNow.Add(from), lab.TestNow.Add(to) })
		return &Bundle{Leaf: c.Certificate}
	}
	const day = 24 * time.Hour
	for _, c := range []struct {
		name     string
		from, to time.Duration
		want     string
	}{
		{"valid", -day, day, ""},
		{"last second", -day, 0, ""},
		{"expired", -2 * day, -time.Second, "expired on 2026-03-04 11:59 UTC"},
		{"not yet valid", 6 * time.Minute, day, "not valid before 2026-03-04 12:06 UTC"},
		{"the CA's clock is ahead", 4 * time.Minute, day, ""},
		{"ends before it begins", day, -day, "never valid"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := between(c.from, c.to)
			for _, policy := range []string{"", "refuse"} {
				warnings, err := CheckDates(b, lab.TestNow, policy)
				switch {
				case len(warnings) != 0:
					t.Errorf("policy %q warns: %q", policy, warnings)
				case c.want == "" && err != nil:
					t.Errorf("policy %q: %v", policy, err)
				case c.want != "" && !strings.Contains(refusal(t, err), c.want):
					t.Errorf("policy %q: got %v, want %q", policy, err, c.want)
				}
			}
			warnings, err := CheckDates(b, lab.TestNow, "warn")
			if err != nil || (len(warnings) == 1) != (c.want != "") || c.want != "" && !strings.Contains(warnings[0], c.want) {
				t.Errorf("policy warn: got %q, %v", warnings, err)
			}
		})
	}
}

func TestNameAndSummary(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		edit func(*x509.Certificate)
		want string
	}{
		{"CN", func(c *x509.Certificate) { c.Subject.CommonName, c.DNSNames = "web1", []string{"web2"} }, "web1"},
		{"first DNS name", lab.DNSNames("web2.example.com", "web3.example.com"), "web2.example.com"},
		{"IP address", func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv6loopback} }, "::1"},
		{"mail address", func(c *x509.Certificate) { c.EmailAddresses = []string{"a@example.com"} }, "a@example.com"},
		{"serial", func(*x509.Certificate) {}, "serial 4a7be5"},
		{"serial 0", func(c *x509.Certificate) { c.SerialNumber = big.NewInt(0) }, "serial 00"},
		{"CN of spaces", func(c *x509.Certificate) { c.Subject.CommonName = " \r\n" }, "serial 4a7be5"},
		{"CN with a header in it", func(c *x509.Certificate) { c.Subject.CommonName = "a\r\nBcc: x@evil.example" }, "a Bcc: x@evil.example"},
		{"CN of 70 kB", func(c *x509.Certificate) { c.Subject.CommonName = strings.Repeat("x", 70_000) }, strings.Repeat("x", 97) + "…"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := &Bundle{Leaf: lab.Issue(t, nil, lab.SeededKey(1), "", c.edit).Certificate}
			if got := b.Name(); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			s := verdict.CertificateOf(b.Leaf)
			if len(s.CommonName) > 200 || strings.ContainsAny(s.CommonName+s.Issuer, "\r\n\x00") || s.Serial == "" || len(s.Fingerprint) != 64 {
				t.Errorf("got %+v", s)
			}
		})
	}
	many := lab.Issue(t, nil, lab.SeededKey(1), "many", lab.DNSNames(lab.ManyNames(300)...))
	if got := len(verdict.CertificateOf(many.Certificate).DNSNames); got != 100 {
		t.Errorf("the summary holds %d of 300 names", got)
	}
}

// OpenSSL must find the same chain, fingerprint and serial number in the output.
func TestOpenSSLVerifiesChain(t *testing.T) {
	t.Parallel()
	openssl := lab.Need(t, "openssl")
	p := lab.NewPKI(t, "p256")
	b, err := ParseBundle(lab.PEM(p.Intermediate, p.Leaf))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	root, full := filepath.Join(dir, "root.pem"), filepath.Join(dir, "full.pem")
	lab.Write(t, root, lab.PEM(p.Root))
	lab.Write(t, full, b.PEM())

	at := fmt.Sprint(lab.TestNow.Unix())
	if out := lab.Output(t, openssl, "verify", "-attime", at, "-CAfile", root, "-untrusted", full, full); !strings.Contains(out, "OK") {
		t.Errorf("openssl verify: %s", out)
	}
	out := lab.Output(t, openssl, "x509", "-in", full, "-noout", "-fingerprint", "-sha256", "-serial", "-subject")
	sum := sha256.Sum256(p.Leaf.Raw)
	s := verdict.CertificateOf(b.Leaf)
	if s.Fingerprint != hex.EncodeToString(sum[:]) {
		t.Errorf("fingerprint %s", s.Fingerprint)
	}
	var fingerprint []string
	for _, octet := range sum {
		fingerprint = append(fingerprint, fmt.Sprintf("%02X", octet))
	}
	for _, want := range []string{strings.Join(fingerprint, ":"), "serial=" + strings.ToUpper(s.Serial), "*.example.com"} {
		if !strings.Contains(out, want) {
			t.Errorf("openssl x509 does not say %s:\n%s", want, out)
		}
	}
}

// A parser's error may quote its input; the reason must not.
//
// Fault: damaged content. Result: and quotes nothing.
func TestReasonsQuoteNothing(t *testing.T) {
	t.Parallel()
	c := lab.Issue(t, nil, lab.SeededKey(1), "x", lab.DNSNames("canary-name.example"))
	broken := bytes.Replace(c.Raw, []byte("canary-name.example"), []byte("canary-name\xff\xffxample"), 1)
	b, err := ParseBundle(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: broken}))
	if err != nil || b.Unsupported == "" || strings.Contains(b.Unsupported, "canary") {
		t.Errorf("a name that is not ASCII: %v, %+v", err, b)
	}
	_, err = ParseBundle(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: append([]byte("canary"), c.Raw...)}))
	if reason := refusal(t, err); strings.Contains(reason, "canary") {
		t.Errorf("the reason quotes: %s", reason)
	}
}

func FuzzParseBundle(f *testing.F) {
	ca := lab.Issue(f, nil, lab.SeededKey(1), "CA", lab.AsCA)
	leaf := lab.Issue(f, ca, lab.SeededKey(2), "leaf", lab.DNSNames("a.example.com"))
	f.Add(lab.PEM(ca, leaf))
	f.Add(append([]byte("\ufeff"), bytes.ReplaceAll(lab.PEM(leaf), []byte("\n"), []byte("\r\n"))...))
	f.Add([]byte("-----BEGIN CERTIFICATE----------BEGIN CERTIFICATE-----"))
	f.Add([]byte("-----END CERTIFICATE----------BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----"))
	f.Fuzz(func(t *testing.T, text []byte) {
		b, err := ParseBundle(text)
		if err != nil {
			refusal(t, err)
			return
		}
		again, err := ParseBundle(b.PEM())
		if err != nil || !again.Leaf.Equal(b.Leaf) || len(again.Chain) != len(b.Chain) {
			t.Fatalf("the PEM output parses differently from the input: %v", err)
		}
	})
}
