package browser

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/security"

	"github.com/certpost/certpost/internal/lab"
)

// testProvider signs in at a real OpenID Connect provider, over TLS, so that the cookies
// are as on a network: with the prefix __Host-, and not sent from other sites, which the
// provider is.
func testProvider(t *testing.T, c *chromium) {
	address := freeAddress(t)
	home := "https://" + address
	const secret = "the client's secret"
	dex := lab.Dex(t, lab.DexClient{ID: "certpost", Secret: secret, Redirects: []string{home + "/sign-in/callback"}},
		lab.DexUser{ID: "1", Email: "ada@example.com", Name: "ada", Password: "ada-password", Groups: []string{"staff", "certificates"}},
		lab.DexUser{ID: "2", Email: "grace@example.com", Name: "grace", Password: "grace-password", Groups: []string{"staff"}},
		lab.DexUser{ID: "3", Email: "eve@example.com", Name: "eve", Password: "eve-password", Groups: []string{"visitors"}},
	)
	files := t.TempDir()
	serverCertificate(t, files)
	keep(t, files, "client-secret", []byte(secret))
	o := newOffice(t, fmt.Sprintf(`http:
  listen: %s
  url: %s
  tls: {cert_file: %[3]s/server.pem, key_file: %[3]s/server-key.pem}
  sign_in:
    oidc:
      issuer: %[4]s
      name: Example SSO
      client_id: certpost
      client_secret: {file: %[3]s/client-secret}
      scopes: [profile, email, groups]
      roles: {viewer: [staff], operator: [certificates]}
`, address, home, filepath.ToSlash(files), dex.Issuer))
	if o.http != home {
		t.Fatalf("the program is at %s, want %s", o.http, home)
	}
	const page = "/targets/ops-archive"

	// An operator, by group, arrives at the requested page.
	ada := c.visitor(t, o.http)
	ada.open(page)
	ada.at("/sign-in")
	ada.accessible("with a provider")
	ada.atProvider("ada")
	ada.at(page)
	ada.sees("ada, operator")
	ada.sees("archive@example.com")
	ada.click("Check now")
	ada.sees("Checked just now")
	ada.open(page)
	session := ada.session()

	// After signing out, the page is not available any more: not by the Back button, and
	// not with a copied cookie.
	ada.clickIn("header", "Sign out")
	ada.sees("You have signed out.")
	ada.sees("Sign out at the provider too")
	mustAsk[bool](ada, "(history.back(), true)")
	ada.at("/sign-in?return=" + strings.ReplaceAll(page, "/", "%2F"))
	ada.sees("Sign in with Example SSO")
	ada.seesNot("archive@example.com")
	call(ada, network.SetCookie, network.SetCookieParams{
		URL: home, Name: session.Name, Value: session.Value, Path: "/", Secure: &session.Secure, HTTPOnly: &session.HTTPOnly, SameSite: session.SameSite,
	})
	ada.open(page)
	ada.at("/sign-in")

	grace := c.visitor(t, o.http)
	grace.open(page)
	grace.atProvider("grace")
	grace.at(page)
	grace.sees("grace, viewer")
	grace.seesNot("Check now")

	// A user without a role is shown the names of the claims that the provider sent, not
	// their values.
	eve := c.visitor(t, o.http)
	eve.open(page)
	eve.atProvider("eve")
	eve.sees("You have no role here")
	eve.expect("status 403")
	eve.sees("groups")
	eve.seesNot("visitors")
	eve.accessible("without a role")
	eve.open(page)
	eve.at("/sign-in")
}

// visitor is a tab of a browser that trusts the office's certificate.
func (c *chromium) visitor(t *testing.T, base string) *tab {
	t.Helper()
	tb := c.tab(t, base)
	tb.allowed = []string{
		// On the redirect from the provider, SameSite=Strict cookies are not sent.
		"issue: CookieIssue: [ExcludeSameSiteStrict] []",
	}
	call(tb, security.SetIgnoreCertificateErrors, security.SetIgnoreCertificateErrorsParams{Ignore: true})
	return tb
}

// atProvider goes to the provider and fills in its form.
func (tb *tab) atProvider(name string) {
	tb.t.Helper()
	tb.click("Sign in with Example SSO")
	tb.fill("Email Address", name+"@example.com")
	tb.fill("Password", name+"-password")
	tb.click("Login")
}

// session is the session cookie.
func (tb *tab) session() *network.Cookie {
	tb.t.Helper()
	for _, cookie := range call(tb, network.GetCookies, network.GetCookiesParams{URLs: []string{tb.base}}).Cookies {
		if cookie.Name == "__Host-certpost-session" {
			if !cookie.Secure || !cookie.HTTPOnly || cookie.SameSite != network.CookieSameSiteStrict || cookie.Path != "/" {
				tb.t.Errorf("the session's cookie is %+v", cookie)
			}
			return cookie
		}
	}
	tb.t.Fatal("there is no session cookie")
	return nil
}

// freeAddress returns an address for a program that is started later. Its port is below
// Linux's range of ephemeral ports, so that no client takes it.
func freeAddress(t *testing.T) string {
	t.Helper()
	for range 100 {
		address := fmt.Sprintf("127.0.0.1:%d", 10_000+mathrand.IntN(20_000))
		if l, err := net.Listen("tcp", address); err == nil {
			l.Close()
			return address
		}
	}
	t.Fatal("no port is free")
	return ""
}

// serverCertificate writes server.pem and server-key.pem for this machine.
func serverCertificate(t *testing.T, dir string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := newAuthority(t).sign(t, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "dashboard"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(0, 0, 30), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, key)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	keep(t, dir, "server.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
	keep(t, dir, "server-key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func keep(t *testing.T, dir, name string, content []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
		t.Fatal(err)
	}
}
