//go:build unix

package main

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/dane"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/verdict"
)

const daneOwner = "_25._tcp.mx1.example.com."

// daneHost is a mail host whose names are looked up at a server of the test.
type daneHost struct {
	*hostFixture
	dns *lab.DNSServer
}

// newDANEHost has the targets mx, which holds certificates back, and loose, which warns.
func newDANEHost(t *testing.T) *daneHost {
	t.Helper()
	o := &daneHost{hostFixture: newBareHost(t), dns: lab.DNS(t, lab.DNSBehaviour{Validates: true})}
	o.more = func() string {
		line := func(id, how string) string {
			return fmt.Sprintf("  - {id: %s, type: postfix, host: mx1, cert_path: %[2]s/%[1]s.pem, key_path: %[2]s/%[1]s.pem, validate_command: [], reload_command: [], post_deploy_verify: {enabled: false}%[3]s}\n", id, o.files, how)
		}
		return line("mx", "") + line("loose", ", dane: warn")
	}
	o.furnish(fmt.Sprintf("mail_host: mx1\ndns: {servers: [%q]}\n", o.dns.Address))
	return o
}

// certificate makes one for mx1.example.com and returns its record for zone files.
func (o *daneHost) certificate(t *testing.T) (certFile, keyFile, chain, record string) {
	t.Helper()
	certFile, keyFile, chain = o.issue("mx1.example.com")
	block, _ := pem.Decode([]byte(chain))
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return certFile, keyFile, chain, dane.For(leaf).String()
}

func (o *daneHost) publish(t *testing.T, id, keyFile, chain string, targets ...string) {
	t.Helper()
	ev := &events.Event{ID: id, Certificate: events.Certificate{PEM: chain}, PrivateKey: &events.Reference{File: keyFile}, Targets: targets}
	if _, _, err := o.service.broker.Publish(t.Context(), ev); err != nil {
		t.Fatal(err)
	}
}

// A certificate whose record is not in DNS waits, and log, page, command and /healthz say the exact
// record. When it has been there for two TTLs, the certificate is deployed without an action.
//
// Fault: a key is to change before DNS has its TLSA record. Result: the deployment waits, and says what
// to publish.
func TestKeyWaitsForItsRecord(t *testing.T) {
	t.Parallel()
	o := newDANEHost(t)
	_, key, chain, first := o.certificate(t)
	o.publish(t, "e1", key, chain, "mx", "loose")
	o.entry("e1", "mx", broker.StateSent) // no records yet: nothing to wait for
	o.entry("e1", "loose", broker.StateSent)

	o.dns.Set(t, daneOwner, "1 TLSA "+first)
	certFile, key, chain, second := o.certificate(t)
	before := o.content("mx.pem")
	plan := o.certpost("deliveries", "plan", "--target", "mx", "--cert", certFile, "--key-ref", "file:"+key).done(t)
	if want := "the deployment would wait: no TLSA record of mx1.example.com fits the new certificate: publish " + daneOwner + " IN TLSA " + second; !strings.Contains(plan, want) {
		t.Errorf("deliveries plan lacks %q:\n%s", want, plan)
	}
	o.publish(t, "e2", key, chain, "mx", "loose")
	e := o.entry("e2", "mx", broker.StateWaiting)
	want := daneOwner + " IN TLSA " + second
	if f := e.Failure; f == nil || f.Code != verdict.DeployHeld || f.Phase != verdict.PhaseDANE || !strings.Contains(f.Reason, want) || e.Attempts != 0 || !e.HeldBack() || e.Hold.Publish[0] != want || e.Hold.Expires.IsZero() {
		t.Fatalf("the ledger says %+v, %+v", e.Failure, e.Hold)
	}
	if o.content("mx.pem") != before {
		t.Fatal("the file was replaced")
	}
	if e := o.entry("e2", "loose", broker.StateSent); len(e.Receipt.Warnings) != 1 || !strings.Contains(e.Receipt.Warnings[0], want) {
		t.Errorf("dane: warn warns %q", e.Receipt.Warnings)
	}
	shown := o.certpost("deliveries", "show", "e2", "mx").done(t)
	status := ""
	o.until("certpost status says it", func() bool {
		status = o.certpost("status").done(t)
		return strings.Contains(status, "deliveries held back")
	})
	_, page := get(o.service, "/deliveries/mx/"+events.Token("e2"))
	_, relays := get(o.service, "/relays")
	_, healthz := get(o.service, "/healthz")
	_, metrics := get(o.service, "/metrics")
	for name, text := range map[string]string{"deliveries show": shown, "certpost status": status, "the page": page, "the page of the lanes": relays, "/healthz": healthz, "the log": o.log.String()} {
		if !strings.Contains(text, want) {
			t.Errorf("%s lacks the record:\n%s", name, text)
		}
	}
	if !strings.Contains(healthz, `"held_back"`) || !strings.Contains(metrics, `certpost_deliveries_held{lane="host-mx1"} 1`) {
		t.Errorf("/healthz or the metric lacks it: %s", healthz)
	}
	if code, body := get(o.service, "/readyz"); code != http.StatusOK {
		t.Errorf("a deployment that waits makes the process unready: %s", body)
	}

	// The next look is up to a minute away, so this one is a delivery of its own.
	o.dns.Set(t, daneOwner, "1 TLSA "+first, "1 TLSA "+second)
	o.publish(t, "e3", key, chain, "mx")
	o.until("e3 waits until no cache lacks the record", func() bool { return strings.Contains(o.log.String(), "is deployed two TTLs (2s) later") })
	if e := o.entry("e3", "mx", broker.StateSent); e.Receipt.State != "deployed" || e.Hold != nil || !strings.HasSuffix(o.content("mx.pem"), chain) {
		t.Errorf("the receipt is %+v", e.Receipt)
	}

	// Back to the first certificate: its record is there, until it is removed.
	o.dns.Set(t, daneOwner, "1 TLSA "+second)
	o.refuses("set dane: warn in the target", "deliveries", "rollback", "e3", "mx", "--reason", "a try")
	o.dns.Set(t, daneOwner, "1 TLSA "+first, "1 TLSA "+second)
	o.certpost("deliveries", "rollback", "e3", "mx", "--reason", "a try").done(t)
	if o.content("mx.pem") != before {
		t.Error("the former certificate is not back")
	}
}

// Without DNS nothing is deployed, and that is said; what is there already is unchanged without
// asking.
//
// Fault: DNS does not answer before a key changes. Result: the deployment waits, and says which server
// failed.
func TestKeyWaitsForDNS(t *testing.T) {
	t.Parallel()
	o := newDANEHost(t)
	_, key, chain, _ := o.certificate(t)
	o.publish(t, "e1", key, chain, "mx")
	o.entry("e1", "mx", broker.StateSent)
	o.dns.Behave(lab.DNSBehaviour{RCode: 2})
	o.publish(t, "e2", key, chain, "mx")
	o.entry("e2", "mx", broker.StateSent)
	_, key, chain, _ = o.certificate(t)
	o.publish(t, "e3", key, chain, "mx")
	if e := o.entry("e3", "mx", broker.StateWaiting); !e.HeldBack() || !strings.Contains(e.Failure.Reason, o.dns.Address+": server failure") || len(e.Hold.Publish) != 0 {
		t.Errorf("the ledger says %+v", e.Failure)
	}
	_, healthz := get(o.service, "/healthz")
	if !strings.Contains(healthz, "the records of mx1.example.com are not known") {
		t.Errorf("/healthz: %s", healthz)
	}
}
