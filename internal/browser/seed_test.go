package browser

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/events"
)

// authority issues the certificates that are delivered.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{key: key}
	a.cert = a.sign(t, &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{Organization: []string{"Example Trust"}, CommonName: "Example CA R1"},
		NotBefore: time.Now().AddDate(-1, 0, 0), NotAfter: time.Now().AddDate(9, 0, 0), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, key)
	return a
}

func (a *authority) sign(t *testing.T, template *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	parent := a.cert
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// issue creates a certificate that is valid for a number of days from now.
func (a *authority) issue(t *testing.T, days int, names ...string) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		t.Fatal(err)
	}
	return a.sign(t, &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: names[0]}, DNSNames: names,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(0, 0, days).Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
	}, key)
}

// publish publishes an event with a certificate.
func (o *office) publish(id string, cert *x509.Certificate, targets ...string) {
	o.t.Helper()
	ev, err := events.FromPEM(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
	if err != nil {
		o.t.Fatal(err)
	}
	ev.ID, ev.Source, ev.Time, ev.Targets = id, "certbot://"+cert.Subject.CommonName, time.Now().UTC(), targets
	ctx, cancel := context.WithTimeout(o.t.Context(), patience)
	defer cancel()
	if _, _, err := o.broker.Publish(ctx, ev); err != nil {
		o.t.Fatal(err)
	}
}

// seed creates letters of four causes, and successful deliveries. It returns a
// certificate that was delivered.
func (o *office) seed() *x509.Certificate {
	o.t.Helper()
	services := []string{"www", "shop", "mail", "api", "login", "intranet", "static", "status", "wiki", "files", "chat", "vpn"}
	delivered := o.ca.issue(o.t, 89, "www.example.com", "example.com")
	o.publish("certbot-www-01", delivered, "ops-archive")
	for i, service := range services[1:] {
		o.publish(fmt.Sprintf("certbot-%s-01", service), o.ca.issue(o.t, 60+i, service+".example.com"), "ops-archive")
	}
	for i, service := range services[:8] { // 16 letters
		o.publish("renewal-"+service, o.ca.issue(o.t, 7+5*i, service+".example.com", "www."+service+".example.com"), "web-team", "pki-mailbox")
	}
	for i, service := range services[:8] {
		o.publish("partner-"+service, o.ca.issue(o.t, 20+i, service+".partner.example.net"), "partner-portal")
	}
	for i, service := range services[3:8] {
		o.publish("keystore-"+service, o.ca.issue(o.t, 30+i, service+".java.example.com"), "java-keystores")
	}
	o.publish("branch-gateway", o.ca.issue(o.t, 14, "gateway.branch.example.org"), "branch-office")
	o.settled(letters)
	// A page that is opened before all letters are read would change while it is used.
	o.until("the pages to have all letters", func() bool {
		resp, err := http.Get(o.http + "/dead-letters")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		signIn := resp.StatusCode == http.StatusUnauthorized || resp.Request.URL.Path == "/sign-in" // the list needs a sign-in, so it cannot be checked
		return err == nil && (signIn || strings.Contains(string(text), fmt.Sprintf("%d open letters", letters)))
	})
	return delivered
}

// settled waits until no event or delivery is in progress and the given number of letters
// is open.
func (o *office) settled(dead uint64) {
	o.t.Helper()
	o.until(fmt.Sprintf("%d dead letters and nothing else", dead), func() bool {
		ctx, cancel := context.WithTimeout(o.t.Context(), patience)
		defer cancel()
		b, err := o.broker.Backlog(ctx)
		return err == nil && b.Events == 0 && b.Deliveries == 0 && b.Dead == dead
	})
}
