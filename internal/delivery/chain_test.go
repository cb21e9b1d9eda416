package delivery

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/payload"
	"github.com/certpost/certpost/internal/verdict"
)

// TestStrayCertificates: a certificate that does not belong to the chain is left out, with
// a warning in mail and receipt; a target with strict_chain refuses it.
//
// Fault: a stray root or intermediate. Result: left out, with a warning in mail and
// receipt; dead (SMTP_PAYLOAD) if the target has strict_chain.
func TestStrayCertificates(t *testing.T) {
	t.Parallel()
	p := lab.NewPKI(t, "p256")
	leaf := lab.Issue(t, p.Intermediate, p.Leaf.Key, "*.example.com", lab.DNSNames("*.example.com"), validFor(time.Now(), 60))
	stranger := lab.Issue(t, nil, p.Leaf.Key, "Another Root", lab.AsCA)
	const warning = `the event has a certificate that does not belong to the chain, and was left out: "Another Root" issued neither "*.example.com" nor any of its issuers`

	for _, strict := range []bool{false, true} {
		server := lab.StartRelay(t, lab.RelayScript{})
		o := newFixture(t, server.Address(), RelayLimits{}, func(target *Target) { target.StrictChain = strict })
		o.event.Certificate.PEM = string(lab.PEM(stranger, leaf, p.Intermediate))
		receipt, failure := o.deliver(lab.Patient(t))
		if strict {
			if failure == nil || failure.Code != verdict.SMTPPayload || !strings.Contains(failure.Reason, `the chain is broken: "Another Root"`) || len(server.Heard()) > 0 {
				t.Errorf("strict: %+v", failure)
			}
			continue
		}
		if failure != nil || len(receipt.Warnings) != 1 || receipt.Warnings[0] != warning {
			t.Fatalf("got %+v, %v", receipt, failure)
		}
		shown, failure := o.Preview(o.event, o.target.ID, nil)
		if failure != nil {
			t.Fatal(failure)
		}
		raw := shown.Raw
		mail := strings.Join(strings.Fields(string(raw)), " ")
		if !strings.Contains(mail, "- WARNING") || !strings.Contains(mail, "does not belong to the chain, and was left out") {
			t.Errorf("no warning in\n%s", raw)
		}
	}
}

// TestUnsupportedCertificates: what Certpost cannot parse is refused, with the reason and the
// name of that certificate; a target may have it delivered byte by byte, as pem alone.
//
// Fault: certificates that Go's parser refuses: brainpool. Result: dead (SMTP_PAYLOAD); the
// text says what is odd, and names the certificate; as pem with a warning if the target has
// allow_unsupported_certificate.
func TestUnsupportedCertificates(t *testing.T) {
	t.Parallel()
	openssl, dir := lab.Need(t, "openssl"), t.TempDir()
	key, file := filepath.Join(dir, "key.pem"), filepath.Join(dir, "cert.pem")
	lab.Output(t, openssl, "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:brainpoolP256r1", "-out", key)
	lab.Output(t, openssl, "req", "-x509", "-new", "-key", key, "-out", file, "-days", "30", "-subj", "/CN=odd.example.com", "-addext", "basicConstraints=CA:FALSE")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	p := lab.NewPKI(t, "p256")
	const reason = `"odd.example.com" on line 1 cannot be verified: its key is an EC key on the curve brainpoolP256r1, which Certpost does not support`

	for name, c := range map[string]struct {
		target func(*Target)
		want   string
	}{
		"by default":          {func(*Target) {}, "the certificate " + reason + "; to deliver it as it is, set allow_unsupported_certificate for the target, then replay"},
		"with its key":        {func(target *Target) { target.Payload, target.AllowUnsupportedCertificate = payload.PEMAndKey, true }, "the certificate " + reason + "; only payload pem can deliver it"},
		"allowed by a target": {func(target *Target) { target.AllowUnsupportedCertificate = true }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := lab.StartRelay(t, lab.RelayScript{})
			o := newFixture(t, server.Address(), RelayLimits{}, c.target)
			o.event.Certificate.PEM = string(text) + string(lab.PEM(p.Intermediate)) // an unrelated CA behind it
			if leaf, err := o.event.Leaf(); err != nil || leaf.Subject.CommonName != "odd.example.com" {
				t.Errorf("the event's certificate is %v, %v", leaf, err)
			}
			receipt, failure := o.deliver(lab.Patient(t))
			if c.want != "" {
				if failure == nil || failure.Code != verdict.SMTPPayload || !strings.Contains(failure.Reason, c.want) || len(server.Heard()) > 0 {
					t.Errorf("got %+v\nwant %s", failure, c.want)
				}
				return
			}
			if failure != nil || !slices.Contains(receipt.Warnings, reason) || receipt.Certificate.CommonName != "odd.example.com" {
				t.Fatalf("got %+v, %v", receipt, failure)
			}
			shown, failure := o.Preview(o.event, o.target.ID, nil)
			if failure != nil {
				t.Fatal(failure)
			}
			attached := base64.StdEncoding.EncodeToString(text)
			if all := strings.Join(strings.Fields(string(shown.Raw)), ""); !strings.Contains(all, attached[:len(attached)-4]) {
				t.Error("the certificate is not attached byte by byte")
			}
		})
	}
}
