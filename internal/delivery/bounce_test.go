package delivery

import (
	"bytes"
	"net/smtp"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/devrelay"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/payload"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/verdict"
)

// withKey makes the fixture deliver a certificate with its private key.
func (o *fixture) withKey() (key []byte) {
	o.t.Helper()
	dir := o.t.TempDir()
	p := lab.NewPKI(o.t, "p256")
	key = lab.KeyPEM(o.t, p.Leaf.Key)
	path := filepath.Join(dir, "key.pem")
	if err := os.WriteFile(path, key, 0o600); err != nil {
		o.t.Fatal(err)
	}
	o.sources = newSourceBook(Sources{}, secrets.Policy{FileRoots: []string{dir}})
	o.event.Certificate.PEM = string(lab.PEM(p.Leaf, p.Intermediate))
	o.event.PrivateKey = &events.Reference{File: path}
	return key
}

// A relay that accepts a mail and cannot pass it on returns it to from_address, whose
// readers are others than the recipients. Postfix returns the whole mail unless DSN says
// otherwise: the first mail shows that.
//
// Fault: accepts a mail with a private key and bounces it later. Result: the bounce returns
// only headers and names the delivery.
func TestBouncesDoNotReturnTheKey(t *testing.T) {
	t.Parallel()
	const sender = "certs@lab.test"
	next := lab.StartRelay(t, lab.RelayScript{Offers: []string{"8BITMIME"}, Acts: map[string]lab.RelayAct{lab.AtDot: {Reply: "550 5.7.1 no such mails here"}}})
	server := lab.Postfix(t, lab.MailOptions{
		Users: map[string]string{sender: "correct-horse-battery"},
		Main: map[string]string{
			"smtpd_tls_security_level": "none", // so that net/smtp does not ask for it
			"smtpd_relay_restrictions": "permit_mynetworks, reject",
			"default_transport":        "smtp:[127.0.0.1]:" + portOf(next.Address()),
		},
	})
	o := newFixture(t, server.SMTP, RelayLimits{}, func(target *Target) {
		target.Payload, target.AllowPlaintextKey = payload.PEMAndKey, true
		target.FromAddress, target.To = sender, []string{"ops@elsewhere.test"}
	})
	key := o.withKey()
	receipt := o.mustDeliver()
	if !receipt.DSN || len(receipt.Warnings) > 0 {
		t.Errorf("receipt %+v", receipt)
	}
	const hint = "the canary's key"
	raw := "From: " + sender + "\r\nSubject: a mail without DSN\r\n\r\n" + hint + "\r\n"
	if err := smtp.SendMail(server.SMTP, nil, sender, []string{"ops@elsewhere.test"}, []byte(raw)); err != nil {
		t.Fatal(err)
	}

	var ours, plain []byte
	server.Fetch(t, sender, func(bounces [][]byte) bool {
		for _, bounce := range bounces {
			if bytes.Contains(bounce, []byte(receipt.MessageID)) {
				ours = bounce
			} else if bytes.Contains(bounce, []byte(hint)) {
				plain = bounce
			}
		}
		return ours != nil && plain != nil
	})
	for _, want := range []string{"Original-Envelope-Id: " + o.target.ID + ".e1", "text/rfc822-headers", "X-Certpost-Event-Id: e1", "5.7.1"} {
		if !bytes.Contains(ours, []byte(want)) {
			t.Errorf("the bounce does not contain %q:\n%s", want, ours)
		}
	}
	// The key's first line, as PEM and as the base64 of an attachment.
	line := strings.Split(string(key), "\n")[1]
	for _, secret := range []string{"PRIVATE KEY", line, "LS0tLS1CRUdJTiBQUklWQVRF", "application/x-pem-file"} {
		if bytes.Contains(ours, []byte(secret)) {
			t.Errorf("the bounce contains %.30q", secret)
		}
	}
}

func portOf(address string) string { return address[strings.LastIndexByte(address, ':')+1:] }

// A mail with a key to a relay without DSN is sent, and its receipt and the check say what
// that means.
//
// Fault: accepts a mail with a private key and bounces it later. Result: if not; receipt;
// preflight and check --live warn.
func TestKeyToARelayWithoutDSN(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		kind   string
		offers []string
		warns  string // "" is no warning
	}{
		"key":                     {payload.PEMAndKey, []string{"8BITMIME"}, "return the whole mail with the private key"},
		"encrypted key":           {payload.PKCS12, []string{"8BITMIME"}, "return the whole mail with the encrypted private key"},
		"no key":                  {payload.PEM, []string{"8BITMIME"}, ""},
		"key, DSN":                {payload.PEMAndKey, []string{"DSN"}, ""},
		"key, DSN in small print": {payload.PEMAndKey, []string{"dsn"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := lab.StartRelay(t, lab.RelayScript{Offers: test.offers})
			phrase := filepath.Join(t.TempDir(), "phrase")
			if err := os.WriteFile(phrase, []byte("open-sesame"), 0o600); err != nil {
				t.Fatal(err)
			}
			o := newFixture(t, server.Address(), RelayLimits{}, func(target *Target) {
				target.Payload, target.AllowPlaintextKey, target.PKCS12Passphrase = test.kind, true, Passphrase{Ref: secrets.Ref{File: phrase}}
			})
			o.withKey()
			receipt := o.mustDeliver()
			if all := strings.Join(receipt.Warnings, ""); !strings.Contains(all, test.warns) || (all == "") != (test.warns == "") || all != "" && !strings.Contains(all, server.Address()) {
				t.Errorf("the receipt warns %q, want %q", all, test.warns)
			}
			for what, found := range map[string][]verdict.Finding{
				"check":     o.Inspector().Check(t.Context(), o.target.ID),
				"preflight": o.Inspector().Examine(t.Context(), verdict.Trial{Target: o.target.ID, Event: o.event.Encode()}),
			} {
				if finds(found, "warning bounces", test.warns) != (test.warns != "") {
					t.Errorf("%s finds %q", what, spoken(found))
				}
			}
		})
	}
}

func TestEnvelopeID(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("t", 64)
	for _, test := range []struct{ event, target, want string }{
		{"e1", "ops", "ops.e1"},
		{"https://ca.example.com/orders/1", "ops", "ops." + events.Token("https://ca.example.com/orders/1")},
		{strings.Repeat("e", 35), long, long + "." + strings.Repeat("e", 35)},
		{strings.Repeat("e", 36), long, long + "." + events.Token("\x00"+strings.Repeat("e", 36))},
	} {
		if got := envelopeID(test.event, test.target); got != test.want || len(got) > 100 {
			t.Errorf("envelopeID(%q, %q) = %q, want %q", test.event, test.target, got, test.want)
		}
	}
}

// The demo's relay offers DSN, so that the demo shows what a relay gets.
func TestDevrelayGetsTheEnvelopeID(t *testing.T) {
	t.Parallel()
	server, err := devrelay.Start(devrelay.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	o := newFixture(t, server.Plain(), RelayLimits{}, nil)
	o.mustDeliver()
	mails := server.Mails()
	if len(mails) != 1 {
		t.Fatalf("the relay holds %d mails", len(mails))
	}
	if m := mails[0]; m.EnvelopeID != o.target.ID+".e1" || m.Return != "HDRS" {
		t.Errorf("the relay got ENVID %q and RET %q", m.EnvelopeID, m.Return)
	}
}
