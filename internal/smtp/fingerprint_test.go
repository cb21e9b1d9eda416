package smtp

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/verdict"
)

func TestParseFingerprints(t *testing.T) {
	t.Parallel()
	one, two := Fingerprint(sha256.Sum256([]byte("one"))), Fingerprint(sha256.Sum256([]byte("two")))
	digits := one.String()
	colons := strings.TrimSuffix(strings.ToUpper(digits[:2]+":"+digits[2:4]+":"+digits[4:]), ":")
	for name, test := range map[string]struct {
		text string
		want []Fingerprint // nil: refused
	}{
		"digits":                {digits, []Fingerprint{one}},
		"capitals":              {strings.ToUpper(digits), []Fingerprint{one}},
		"colons":                {colons, []Fingerprint{one}},
		"openssl's line":        {"SHA256 Fingerprint=" + colons, []Fingerprint{one}},
		"openssl 3's line":      {"sha256 Fingerprint=" + colons, []Fingerprint{one}},
		"a prefix":              {"SHA256:" + digits, []Fingerprint{one}},
		"curl's pin":            {"sha256//" + base64.StdEncoding.EncodeToString(one[:]), []Fingerprint{one}},
		"two":                   {digits + ", " + two.String(), []Fingerprint{one, two}},
		"two lines, one twice":  {digits + "\n" + two.String() + "\n" + digits + "\n", []Fingerprint{one, two}},
		"empty":                 {" ", nil},
		"SHA-1":                 {digits[:40], nil},
		"cut off":               {digits[:62], nil},
		"one good, one cut off": {digits + "," + digits[:62], nil},
		"no digits":             {strings.Repeat("zz", 32), nil},
		"a certificate":         {"-----BEGIN CERTIFICATE-----", nil},
		"base64 without a word": {base64.StdEncoding.EncodeToString(one[:]), nil},
	} {
		got, err := ParseFingerprints(test.text)
		if !slices.Equal(got, test.want) || (err == nil) != (test.want != nil) {
			t.Errorf("%s: %v, %v; want %v", name, got, err, test.want)
		}
		if err != nil && strings.TrimSpace(test.text) != "" && strings.Contains(err.Error(), test.text) {
			t.Errorf("%s: the error quotes the text: %v", name, err)
		}
	}
}

// openssl and Certpost compute the same two fingerprints.
func TestFingerprintsAreThoseOfOpenSSL(t *testing.T) {
	t.Parallel()
	openssl := lab.Need(t, "openssl")
	cert := leafOf(t, lab.NewTLSAuthority(t, "Test CA").Issue(t, nil))
	run := func(stdin []byte, args ...string) []byte {
		t.Helper()
		command := exec.Command(openssl, args...)
		command.Stdin = strings.NewReader(string(stdin))
		out, err := command.Output()
		if err != nil {
			t.Fatalf("openssl %v: %v", args, err)
		}
		return out
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
	got, err := ParseFingerprints(string(run(text, "x509", "-noout", "-fingerprint", "-sha256")))
	if err != nil || !slices.Equal(got, []Fingerprint{CertificateFingerprint(cert)}) {
		t.Errorf("certificate: %v, %v; want %v", got, err, CertificateFingerprint(cert))
	}
	key := run(run(text, "x509", "-noout", "-pubkey"), "pkey", "-pubin", "-outform", "der")
	sum := run(key, "dgst", "-sha256", "-r")
	if want := KeyFingerprint(cert).String(); !strings.HasPrefix(string(sum), want) {
		t.Errorf("key: %s, want %s", sum, want)
	}
}

func leafOf(t testing.TB, c *tls.Certificate) *x509.Certificate {
	t.Helper()
	leaf, err := x509.ParseCertificate(c.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return leaf
}

// A relay may prove who it is by another name than host, or by its fingerprint.
//
// Fault: certificate with only a common name, for another name, from an unknown CA. Result:
// dead (SMTP_TLS); accepted with tls_server_name for that name, or with tls_fingerprint and
// then no other.
func TestOtherProofsOfIdentity(t *testing.T) {
	t.Parallel()
	ca, stranger := lab.NewTLSAuthority(t, "Test CA"), lab.NewTLSAuthority(t, "Own CA")
	named := func(a *lab.TLSAuthority, names ...string) *tls.Certificate {
		return a.Issue(t, func(c *x509.Certificate) { c.IPAddresses, c.DNSNames = nil, names })
	}
	good := named(ca, "mail.example.com", "other.example.com")
	unknown := named(stranger, "mail.example.com")
	old := stranger.Issue(t, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
	common := ca.Issue(t, func(c *x509.Certificate) {
		c.IPAddresses, c.Subject = nil, pkix.Name{CommonName: "old.example.com"}
	})
	for name, test := range map[string]struct {
		shown  *tls.Certificate
		change func(*Relay)
		says   string // "": accepted
	}{
		"by its address":               {good, func(*Relay) {}, "for mail.example.com, other.example.com, not for 127.0.0.1, so nothing was sent; fix host or the relay's certificate, or set tls_server_name"},
		"server name":                  {good, func(r *Relay) { r.ServerName = "mail.example.com" }, ""},
		"another of its names":         {good, func(r *Relay) { r.ServerName = "Other.Example.com." }, ""},
		"another server name":          {good, func(r *Relay) { r.ServerName = "evil.example.com" }, "not for evil.example.com"},
		"server name and a strange CA": {unknown, func(r *Relay) { r.ServerName = "mail.example.com" }, "not a trusted CA"},
		"certificate": {unknown, func(r *Relay) {
			r.Fingerprints = []Fingerprint{{1}, CertificateFingerprint(leafOf(t, unknown))}
		}, ""},
		"key":     {unknown, func(r *Relay) { r.Fingerprints = []Fingerprint{KeyFingerprint(leafOf(t, unknown))} }, ""},
		"expired": {old, func(r *Relay) { r.Fingerprints = []Fingerprint{CertificateFingerprint(leafOf(t, old))} }, ""},
		"another certificate of a good CA": {named(ca, "127.0.0.1"), func(r *Relay) {
			r.Fingerprints = []Fingerprint{CertificateFingerprint(leafOf(t, unknown))}
		}, "tls_fingerprint does not name"},
		"of its CA": {unknown, func(r *Relay) {
			issuer, _ := pem.Decode(stranger.PEM())
			r.Fingerprints = []Fingerprint{sha256.Sum256(issuer.Bytes)}
		}, "SHA-256 " + CertificateFingerprint(leafOf(t, unknown)).String() + ", of its key " + KeyFingerprint(leafOf(t, unknown)).String()},
		"skip_verify does not help": {unknown, func(r *Relay) { r.SkipVerify, r.Fingerprints = true, []Fingerprint{{1}} }, "tls_fingerprint does not name"},
		"only a common name": {common, func(r *Relay) { r.ServerName = "old.example.com" },
			"whose only name is its common name (CN) old.example.com, which does not count: it has no subject alternative name for old.example.com, so nothing was sent; have it issued with the name as a subject alternative name"},
	} {
		for _, mode := range []string{TLSStartTLS, TLSSMTPS, TLSOpportunistic} {
			t.Run(name+"/"+mode, func(t *testing.T) {
				t.Parallel()
				server := lab.StartRelay(t, lab.RelayScript{Cert: test.shown, Implicit: mode == TLSSMTPS})
				r := clientOf(server)
				r.TLSMode, r.roots, r.AuthMethod, r.Username, r.Password = mode, ca.Pool(), AuthPlain, "certs", secrets.New([]byte("hunter2hunter2"))
				test.change(&r)
				var shown []*x509.Certificate
				r.Shown = func(leaf *x509.Certificate) { shown = append(shown, leaf) }
				receipt, f := attempt(lab.Patient(t), r, someone, someMail).Verdicts()
				if len(shown) == 0 || !shown[0].Equal(leafOf(t, test.shown)) {
					t.Errorf("shown %v", shown) // also a certificate that is refused
				}
				if test.says == "" {
					if f != nil || receipt.TLS == "" {
						t.Errorf("%+v, %v", receipt, f) // with a password: the relay is verified
					}
					return
				}
				if f == nil || f.Code != verdict.SMTPTLS || f.Phase != verdict.PhaseTLS || !strings.Contains(f.Reason, test.says) {
					t.Fatalf("%+v, want %q", f, test.says)
				}
				if f.Transcript.PeerCertificate == nil || f.Transcript.PeerCertificate.Fingerprint != hex.EncodeToString(sum(test.shown.Certificate[0])) {
					t.Errorf("the transcript has %+v", f.Transcript.PeerCertificate)
				}
				if heard := server.Heard(); slices.Contains(heard, "AUTH") || slices.Contains(heard, "MAIL") {
					t.Errorf("heard %v", heard)
				}
			})
		}
	}
}

func sum(b []byte) []byte {
	h := sha256.Sum256(b)
	return h[:]
}

// Connections are interchangeable only if the relay has proved the same.
//
// Fault: tls_server_name, tls_fingerprint or tls_skip_verify is changed while connections
// are kept. Result: those are not used again.
func TestIdentityIsInThePoolsKey(t *testing.T) {
	t.Parallel()
	p := NewPool()
	base := Relay{Host: "mail.example.com", Port: 587, TLSMode: TLSStartTLS}
	seen := map[poolKey]string{p.key(base): "nothing"}
	for name, change := range map[string]func(*Relay){
		"server name":     func(r *Relay) { r.ServerName = "other.example.com" },
		"fingerprint":     func(r *Relay) { r.Fingerprints = []Fingerprint{{1}} },
		"fingerprints":    func(r *Relay) { r.Fingerprints = []Fingerprint{{1}, {2}} },
		"tls_skip_verify": func(r *Relay) { r.SkipVerify = true },
		"insecure auth":   func(r *Relay) { r.AllowInsecureAuth = true },
	} {
		r := base
		change(&r)
		if other, ok := seen[p.key(r)]; ok {
			t.Errorf("%s has the key of %s", name, other)
		}
		seen[p.key(r)] = name
	}
	same := base
	same.ServerName = "MAIL.example.com."
	if p.key(same) != p.key(base) {
		t.Error("the host's own name as the server name makes another key")
	}
}
