package delivery

import (
	"crypto/x509"
	"encoding/pem"
	"path/filepath"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/smtp"
	"github.com/certpost/certpost/internal/verdict"
)

// A relay may require a client certificate.
func TestClientCertificates(t *testing.T) {
	t.Parallel()
	ca, ours, other := lab.NewTLSAuthority(t, "Test CA"), lab.NewTLSAuthority(t, "Client CA"), lab.NewTLSAuthority(t, "Other CA")
	server := lab.StartRelay(t, lab.RelayScript{Cert: ca.Issue(t, nil), Clients: ours.Pool()})
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "client.pem"), filepath.Join(dir, "client-key.pem")
	install := func(a *lab.TLSAuthority) {
		client := a.Issue(t, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })
		lab.Write(t, certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: client.Certificate[0]}))
		der, err := x509.MarshalPKCS8PrivateKey(client.PrivateKey)
		if err != nil {
			t.Fatal(err)
		}
		lab.Write(t, keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	}
	install(ours)
	o := newFixture(t, server.Address(), RelayLimits{}, func(target *Target) {
		target.TLSMode, target.CAFile, target.ClientCertFile, target.ClientKeyFile = smtp.TLSStartTLS, ca.File(t), certFile, keyFile
	})
	for n := range 2 {
		if receipt := o.mustDeliver(); (receipt.Timings.Dial == 0) != (n > 0) {
			t.Errorf("mail %d: %+v", n, receipt.Timings)
		}
	}
	install(ours) // renewed
	if receipt := o.mustDeliver(); receipt.Timings.Dial == 0 {
		t.Error("a connection made with the old certificate was used")
	}
	install(other)
	if _, f := o.deliver(lab.Patient(t)); f == nil || f.Code != verdict.SMTPTLS {
		t.Errorf("a client certificate of an unknown CA: %v", f)
	}
	key, _ := readTargetFile("client_key_file", keyFile)
	install(ours)
	for _, mistake := range []struct {
		name string
		do   func()
		says string
	}{
		{"the key of another", func() { lab.Write(t, keyFile, key) }, "client_cert_file"},
		{"no key", func() { lab.Write(t, keyFile, []byte("hello")) }, "client_cert_file"},
		{"gone", func() { o.redefine(func(target *Target) { target.ClientKeyFile += ".gone" }) }, "client_key_file"},
	} {
		name := mistake.name
		mistake.do()
		dials, _ := server.Dials()
		_, f := o.deliver(lab.Patient(t))
		if f == nil || f.Code != verdict.TargetInvalid || !strings.Contains(f.Reason, mistake.says) {
			t.Errorf("%s: %v", name, f)
		}
		if now, _ := server.Dials(); now != dials {
			t.Errorf("%s: the relay was dialled", name)
		}
	}
	o.redefine(func(target *Target) { target.ClientCertFile, target.ClientKeyFile = "", "" })
	if _, f := o.deliver(lab.Patient(t)); f == nil || f.Code != verdict.SMTPTLS || !strings.Contains(f.Reason, "client_cert_file") {
		t.Errorf("without a certificate: %v", f)
	}
}
