package delivery

import (
	"strings"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/verdict"
)

// TestStrayCertificates: a certificate that does not belong to the chain is left out, with
// a warning in mail and receipt; a target with strict_chain refuses it.
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
		raw, failure := o.Render(t.Context(), o.event, o.target.ID, nil)
		if failure != nil {
			t.Fatal(failure)
		}
		mail := strings.Join(strings.Fields(string(raw)), " ")
		if !strings.Contains(mail, "- WARNING") || !strings.Contains(mail, "does not belong to the chain, and was left out") {
			t.Errorf("no warning in\n%s", raw)
		}
	}
}
