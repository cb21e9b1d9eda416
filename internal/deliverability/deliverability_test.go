package deliverability

import (
	"crypto"

	"strings"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/verdict"
)

// The relay has a public address, and a name that has it.
const relayZone = `relay.example.net. 60 A 93.184.216.34
34.216.184.93.in-addr.arpa. 60 PTR relay.example.net.
`

// zone sets records, one to a line.
func zone(t *testing.T, server *lab.DNSServer, text string) {
	t.Helper()
	all := map[string][]string{}
	for line := range strings.Lines(text) {
		name, record, _ := strings.Cut(strings.TrimSpace(line), " ")
		all[name] = append(all[name], record)
	}
	for name, records := range all {
		server.Set(t, name, records...)
	}
}

func record(t *testing.T, key crypto.Signer) string {
	t.Helper()
	text, err := dkimRecord(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestJudge asks a real name server about senders, and wants each finding with what there is to publish.
func TestJudge(t *testing.T) {
	t.Parallel()
	rsaKey, edKey := lab.NewKey(t, "rsa"), lab.NewKey(t, "ed25519")
	signed := func(key crypto.Signer) *Signature {
		return &Signature{Domain: "example.com", Selector: "s1", Public: key.Public()}
	}
	const mx = "example.com. 60 MX 10 mx.example.com.\n"
	for name, c := range map[string]struct {
		zone   string
		sender Sender
		want   []string // "status what: part of the message"
	}{
		"all is well": {mx + "example.com. 60 TXT v=spf1 a:relay.example.net -all\n_dmarc.example.com. 60 TXT v=DMARC1; p=reject\ns1._domainkey.example.com. 60 TXT " + record(t, rsaKey) + "\n",
			Sender{DKIM: signed(rsaKey)},
			[]string{"ok mx: go to mx.example.com", "ok spf: allows 93.184.216.34", "ok dkim: has the key", "ok dmarc: policy reject at _dmarc.example.com.: mails pass by their DKIM signature", "ok ptr: is relay.example.net in both directions"}},
		"Ed25519 key, folded": {mx + "example.com. 60 TXT v=spf1 -all\n_dmarc.example.com. 60 TXT v=DMARC1; p=quarantine\ns1._domainkey.example.com. 60 TXT " + strings.ReplaceAll(record(t, edKey), ";", " ; ") + "\n",
			Sender{DKIM: signed(edKey)}, []string{"ok dkim: has the key", "warning spf: does not allow 93.184.216.34, an address of relay relay.example.net (fail)", "ok dmarc: mails pass by their DKIM"}},
		"nothing is published": {mx, Sender{DKIM: signed(rsaKey)},
			[]string{`warning spf: publish: example.com. TXT "v=spf1 ip4:93.184.216.34 -all"`, `error dkim: publish: s1._domainkey.example.com. TXT "` + record(t, rsaKey), `warning dmarc: publish: _dmarc.example.com. TXT "v=DMARC1; p=none"`}},
		"another key":        {mx + "s1._domainkey.example.com. 60 TXT " + record(t, lab.NewKey(t, "rsa")) + "\n", Sender{DKIM: signed(rsaKey)}, []string{"error dkim: has another key"}},
		"a revoked key":      {mx + "s1._domainkey.example.com. 60 TXT v=DKIM1; p=\n", Sender{DKIM: signed(rsaKey)}, []string{"error dkim: was revoked"}},
		"no base64":          {mx + "s1._domainkey.example.com. 60 TXT v=DKIM1; p=???\n", Sender{DKIM: signed(rsaKey)}, []string{"error dkim: is not base64"}},
		"two keys":           {mx + "s1._domainkey.example.com. 60 TXT v=DKIM1; p=\ns1._domainkey.example.com. 60 TXT " + record(t, rsaKey) + "\n", Sender{DKIM: signed(rsaKey)}, []string{"error dkim: has 2 TXT records"}},
		"two SPF records":    {mx + "example.com. 60 TXT v=spf1 a -all\nexample.com. 60 TXT v=spf1 mx -all\n", Sender{}, []string{"error spf: has 2 SPF records"}},
		"SPF with a mistake": {mx + "example.com. 60 TXT v=spf1 ip5:1.2.3.4 -all\n", Sender{}, []string{"error spf: cannot read the SPF record"}},
		"SPF by include": {mx + "example.com. 60 TXT v=spf1 include:_spf.example.net ~all\n_spf.example.net. 60 TXT v=spf1 ip4:93.184.216.0/24 -all\n_dmarc.example.com. 60 TXT v=DMARC1; p=reject\n", Sender{},
			[]string{"ok spf: allows 93.184.216.34", "ok dmarc: mails pass by SPF"}},
		"a relay in this network": {mx + "example.com. 60 TXT v=spf1 ip4:203.0.113.0/24 -all\n_dmarc.example.com. 60 TXT v=DMARC1; p=reject\nrelay.internal. 60 A 10.1.2.3\n", Sender{Relays: []string{"relay.internal", "127.0.0.1", "localhost"}},
			[]string{"ok spf: which is not known here", "warning dmarc: receivers refuse mails unless"}},
		"policy none":          {mx + "_dmarc.example.com. 60 TXT v=DMARC1; p=none\n", Sender{}, []string{"ok dmarc: policy none"}},
		"DMARC with a mistake": {mx + "_dmarc.example.com. 60 TXT v=DMARC1; p=perhaps\n", Sender{}, []string{"error dmarc: cannot read"}},
		"policy of the domain above": {"mail.example.co.uk. 60 MX 10 mx.example.com.\n_dmarc.example.co.uk. 60 TXT v=DMARC1; p=none; sp=reject\n", Sender{Domain: "mail.example.co.uk"},
			[]string{"warning dmarc: policy reject at _dmarc.example.co.uk."}},
		"signature of the domain above, strict": {"mail.example.com. 60 MX 10 mx.example.com.\nexample.com. 60 MX 10 mx.example.com.\ns1._domainkey.example.com. 60 TXT " + record(t, rsaKey) + "\n_dmarc.example.com. 60 TXT v=DMARC1; p=reject; adkim=s\n",
			Sender{Domain: "mail.example.com", DKIM: signed(rsaKey)}, []string{"ok dkim: has the key", "warning dmarc: policy reject"}},
		"signature of the domain above": {"mail.example.com. 60 MX 10 mx.example.com.\ns1._domainkey.example.com. 60 TXT " + record(t, rsaKey) + "\n_dmarc.example.com. 60 TXT v=DMARC1; p=reject\n",
			Sender{Domain: "mail.example.com", DKIM: signed(rsaKey)}, []string{"ok dmarc: mails pass by their DKIM"}},
		"no such domain": {"", Sender{Domain: "nowhere.example"}, []string{"warning mx: has neither MX nor address records"}},
		"MX is an address": {"example.com. 60 MX 10 192.0.2.7.\nexample.com. 60 TXT v=spf1 ip4:93.184.216.34 -all\n_dmarc.example.com. 60 TXT v=DMARC1; p=none\n", Sender{},
			[]string{"warning mx: the MX record names 192.0.2.7, which is no host name", "ok spf: allows 93.184.216.34", "ok dmarc: policy none"}},
		"MX is no name": {"example.com. 60 MX 10 mail,server.example.com.\nexample.com. 60 TXT v=spf1 ip4:93.184.216.34 -all\n_dmarc.example.com. 60 TXT v=DMARC1; p=none\n", Sender{},
			[]string{"warning mx: which is no host name: receivers refuse mails from it", "ok spf: allows 93.184.216.34", "ok dmarc: policy none"}},
		"one MX is no name": {mx + "example.com. 60 MX 20 mail,server.example.com.\nexample.com. 60 TXT v=spf1 ip4:93.184.216.34 -all\n", Sender{},
			[]string{"warning mx: replies and bounces go to mx.example.com only", "ok spf: allows 93.184.216.34"}},
		"takes no mail, and the rest": {"example.com. 60 MX 0 .\nexample.com. 60 TXT v=spf1 ip4:93.184.216.34 -all\n_dmarc.example.com. 60 TXT v=DMARC1; p=none\n", Sender{},
			[]string{"warning mx: takes no mail (null MX, RFC 7505)", "ok spf: allows 93.184.216.34", "ok dmarc: policy none"}},
		"takes no mail":        {"example.com. 60 MX 0 .\n", Sender{}, []string{"warning mx: takes no mail"}},
		"address alone":        {"example.com. 60 A 93.184.216.34\n", Sender{}, []string{"warning mx: has no MX record"}},
		"name in another case": {"xn--mller-kva.example. 60 MX 10 mx.example.com.\n", Sender{Domain: "Müller.example"}, []string{"ok mx: xn--mller-kva.example"}},
		"no name of the relay": {mx + "other.example.net. 60 A 93.184.216.35\n", Sender{Relays: []string{"other.example.net"}}, []string{"warning ptr: 93.184.216.35, an address of relay other.example.net, has no name"}},
		"one-sided name":       {mx + "35.216.184.93.in-addr.arpa. 60 PTR relay.example.net.\n", Sender{Relays: []string{"93.184.216.35"}}, []string{"warning ptr: is named relay.example.net, which has not that address"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := lab.DNS(t, lab.DNSBehaviour{})
			zone(t, server, relayZone+c.zone)
			if c.sender.Domain == "" {
				c.sender.Domain = "example.com"
			}
			if c.sender.Relays == nil {
				c.sender.Relays = []string{"relay.example.net"}
			}
			j := NewJudge([]string{server.Address}, 0)
			found := j.Judge(t.Context(), c.sender)
			for _, want := range c.want {
				head, text, _ := strings.Cut(want, ": ")
				if !has(found, head, text) {
					t.Errorf("without %q: %+v", want, found)
				}
			}
			asked := len(server.Asked())
			if again := j.Judge(t.Context(), c.sender); len(again) != len(found) || len(server.Asked()) != asked {
				t.Errorf("the second judgement asked again: %q", server.Asked()[asked:])
			}
		})
	}
}

func has(found []verdict.Finding, head, text string) bool {
	for _, f := range found {
		if string(f.Status)+" "+f.What == head && strings.Contains(f.Message, text) {
			return true
		}
	}
	return false
}

// TestNameServersAreAway: one warning, no error, and no wait for each of many questions.
func TestNameServersAreAway(t *testing.T) {
	t.Parallel()
	server := lab.DNS(t, lab.DNSBehaviour{Silent: true})
	j := NewJudge([]string{server.Address}, 50*time.Millisecond)
	for range 3 {
		found := j.Judge(t.Context(), Sender{Domain: "example.com", Relays: []string{"192.0.2.1"}})
		if len(found) != 1 || found[0].Status != verdict.Warning || !strings.Contains(found[0].Message, "no answer in time") {
			t.Errorf("%+v", found)
		}
	}
	if n := len(server.Asked()); n > 8 {
		t.Errorf("asked %d times", n)
	}
	refusing := lab.DNS(t, lab.DNSBehaviour{RCode: 5})
	answering := lab.DNS(t, lab.DNSBehaviour{})
	zone(t, answering, "example.com. 60 MX 10 mx.example.com.\n")
	if found := NewJudge([]string{refusing.Address, answering.Address}, 0).Judge(t.Context(), Sender{Domain: "example.com"}); !has(found, "ok mx", "mx.example.com") {
		t.Errorf("the second server was not asked: %+v", found)
	}
}

// A name server that cannot answer one question is asked the others.
func TestNameServerMisbehaves(t *testing.T) {
	t.Parallel()
	server := lab.DNS(t, lab.DNSBehaviour{RCode: 2}) // SERVFAIL
	found := NewJudge([]string{server.Address}, 0).Judge(t.Context(), Sender{Domain: "example.com"})
	for _, what := range []string{"mx", "spf", "dmarc"} {
		if !has(found, "warning "+what, "DNS gives no answer: server misbehaving") {
			t.Errorf("nothing of %s: %+v", what, found)
		}
	}
}

func TestKeysOfOtherTypes(t *testing.T) {
	t.Parallel()
	if _, err := dkimRecord(lab.NewKey(t, "p256").Public()); err == nil {
		t.Error("DKIM has no ECDSA keys")
	}
}
