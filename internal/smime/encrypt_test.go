package smime

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/lab"
)

const mail = "Content-Type: text/plain; charset=UTF-8\r\n\r\nThe key is attached.\r\n"

func recipient(t *testing.T, kind string, edit ...func(*x509.Certificate)) *lab.Issued {
	t.Helper()
	ca := lab.Issue(t, nil, lab.NewKey(t, "p256"), "Mail CA of "+kind, lab.AsCA)
	forMail := func(c *x509.Certificate) {
		c.EmailAddresses = []string{kind + "@example.com"}
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection}
		c.KeyUsage = x509.KeyUsageKeyEncipherment | x509.KeyUsageKeyAgreement
	}
	return lab.Issue(t, ca, lab.NewKey(t, kind), kind, append([]func(*x509.Certificate){forMail}, edit...)...)
}

// decrypt opens the mail with OpenSSL as the recipient does, with cms or smime.
func decrypt(t *testing.T, command string, der []byte, to *lab.Issued) string {
	t.Helper()
	lab.Need(t, "openssl")
	text, err := openWith(command)(t, der, to)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestEncryptedMailsAreOpened(t *testing.T) {
	t.Parallel()
	all := map[string]*lab.Issued{}
	for _, kind := range []string{"rsa", "rsa4096", "p256", "p384", "p521"} {
		all[kind] = recipient(t, kind)
	}
	for name, c := range map[string]struct {
		to       []string
		options  Options
		commands []string
	}{
		"RSA":             {[]string{"rsa"}, Options{}, []string{"cms", "smime"}},
		"RSA 4096":        {[]string{"rsa4096"}, Options{}, []string{"cms", "smime"}},
		"two RSA":         {[]string{"rsa", "rsa4096"}, Options{}, []string{"cms", "smime"}},
		"OAEP":            {[]string{"rsa", "rsa4096"}, Options{OAEP: true}, []string{"cms"}},
		"P-256":           {[]string{"p256"}, Options{}, []string{"cms"}},
		"P-384":           {[]string{"p384"}, Options{}, []string{"cms"}},
		"P-521":           {[]string{"p521"}, Options{}, []string{"cms"}},
		"RSA and EC":      {[]string{"rsa", "p256", "p384", "p521"}, Options{}, []string{"cms"}},
		"RSA-OAEP and EC": {[]string{"rsa", "p256"}, Options{OAEP: true}, []string{"cms"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var to []*x509.Certificate
			for _, kind := range c.to {
				if err := Usable(all[kind].Certificate, c.options, lab.TestNow); err != nil {
					t.Errorf("%s: %v", kind, err)
				}
				to = append(to, all[kind].Certificate)
			}
			der, err := Encrypt(to, []byte(mail), c.options)
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(der, []byte("attached")) {
				t.Error("the content is not encrypted")
			}
			for _, kind := range c.to {
				for _, command := range c.commands {
					if got := decrypt(t, command, der, all[kind]); got != mail {
						t.Errorf("openssl %s as %s reads %q", command, kind, got)
					}
				}
			}
		})
	}
}

// Every length of content is padded, a whole block too.
func TestContentOfEveryLength(t *testing.T) {
	t.Parallel()
	to := recipient(t, "p256")
	for _, n := range []int{0, 1, 15, 16, 17, 4096} {
		content := strings.Repeat("a", n)
		der, err := Encrypt([]*x509.Certificate{to.Certificate}, []byte(content), Options{})
		if err != nil {
			t.Fatal(err)
		}
		if got := decrypt(t, "cms", der, to); got != content {
			t.Errorf("%d bytes are read as %d", n, len(got))
		}
	}
}

func TestUsable(t *testing.T) {
	t.Parallel()
	now := lab.TestNow
	signOnly := func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature }
	for name, c := range map[string]struct {
		cert *lab.Issued
		want string
	}{
		"expired":       {recipient(t, "rsa", func(c *x509.Certificate) { c.NotBefore, c.NotAfter = now.Add(-48*time.Hour), now.Add(-24*time.Hour) }), "expired on "},
		"not yet valid": {recipient(t, "rsa", func(c *x509.Certificate) { c.NotBefore, c.NotAfter = now.Add(24*time.Hour), now.Add(48*time.Hour) }), "is not valid before "},
		"RSA to sign":   {recipient(t, "rsa", signOnly), "key usage does not include keyEncipherment"},
		"EC to sign":    {recipient(t, "p256", signOnly), "key usage does not include keyAgreement"},
		"Ed25519":       {recipient(t, "ed25519"), "can only sign"},
		"for servers":   {recipient(t, "rsa", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), "not for e-mail"},
		"any usage":     {recipient(t, "rsa", func(c *x509.Certificate) { c.ExtKeyUsage, c.KeyUsage = nil, 0 }), ""},
	} {
		err := Usable(c.cert.Certificate, Options{}, now)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// The vector of RFC 3394 section 4.6: 256 bits of key data with a 256-bit key.
func TestWrap(t *testing.T) {
	t.Parallel()
	bytesOf := func(text string) []byte {
		out, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	got, err := wrap(bytesOf("000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F"), bytesOf("00112233445566778899AABBCCDDEEFF000102030405060708090A0B0C0D0E0F"))
	want := bytesOf("28C9F404C4B810F4CBCCB35CFB87F8263F5786E2D80ED326CBC7F0E71A99F43BFB988B9B7A02DD21")
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%X, %v, want %X", got, err, want)
	}
}

func BenchmarkEncrypt(b *testing.B) {
	for _, kind := range []string{"rsa", "p256"} {
		b.Run(kind, func(b *testing.B) {
			to := lab.Issue(b, nil, lab.NewKey(b, kind), kind)
			content := bytes.Repeat([]byte("0123456789abcdef"), 9000/16)
			for b.Loop() {
				if _, err := Encrypt([]*x509.Certificate{to.Certificate}, content, Options{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
