package dashboard

import (
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/devrelay"
)

// A mail that one of two recipients has is "sent to 1 of 2" at page and ledger, by name; once the
// other has it, too, none is missing.
func TestPartlySent(t *testing.T) {
	t.Parallel()
	o := openOffice(t, officeConfig{targets: officeTarget("pair", "has@example.com", "lacks@example.com")})
	o.refuses("lacks@example.com")
	o.publish("half", "a.example.com", "pair")
	o.until("the letter is there", func() bool { return o.desk.Balance().Open == 1 })
	v := o.visitor()
	v.opens("/dead-letters").says("sent to some")
	letter := v.opens("/dead-letters/1").says("sent to 1 of 2", "The mail was sent to 1 of 2.", "Delivered to has@example.com", "Not delivered to lacks@example.com")
	v.opens("/deliveries/pair/half").says("sent to 1 of 2", "lacks@example.com refused permanently 550 5.1.1", "has@example.com accepted")
	d, err := o.desk.Letter(t.Context(), 1)
	if err != nil || d.Reach != "sent to 1 of 2" || len(d.Has) != 1 || d.Has[0] != "has@example.com" || len(d.Recipients) != 1 || d.Recipients[0] != "lacks@example.com" {
		t.Errorf("the letter says %q, has %q, lacks %q, %v", d.Reach, d.Has, d.Recipients, err)
	}
	o.refuses("")
	letter.send("Replay", "reason", "the mailbox is there now").is(200)
	o.until("the other recipient has the mail", func() bool {
		b := o.desk.Balance()
		return o.relay.Count() == 2 && b.Open == 0 && b.Ended[desk.Replayed] == 1
	})
	after := v.opens("/dead-letters/1").says("It was delivered since.", "delivered since", "Delivered to has@example.com , lacks@example.com")
	for _, text := range []string{"Not delivered to", "sent to 1 of 2", "sent to some"} {
		if strings.Contains(textOf(after.doc), text) {
			t.Errorf("after the replay the page says %q", text)
		}
	}
}

// A mail of unknown outcome: its recipients may have it, at every page and by name, also where the
// question is who got the key.
func TestMaybeSent(t *testing.T) {
	t.Parallel()
	o := openOffice(t, officeConfig{asks: true})
	must(t, o.relay.SetRules([]devrelay.Rule{{Stage: devrelay.StageData, Recipient: "ops@example.com", Disconnect: true}}))
	o.publish("lost", "lost.example.com", "ops")
	o.until("the letter is there", func() bool { return o.desk.Balance().Open == 1 })
	v := o.visitor()
	letter := v.opens("/dead-letters/1").says("The mail may have been sent", "May have it ops@example.com")
	if strings.Contains(textOf(letter.doc), "Not delivered to") {
		t.Error("the letter says that the mail was not delivered, which is not known")
	}
	v.opens("/deliveries/ops/lost").says("ops@example.com may have been sent", "it is unknown who has the mail")
	v.opens("/deliveries?recipient=OPS@example.com").says("1 delivery matches", "ops@example.com", "may have been sent")
	const who = "/deliveries/who?name=lost.example.com&key=yes"
	v.opens(who).says("ops@example.com may have been sent", "not recorded")
	if csv := v.do("GET", "/deliveries/who.csv?name=lost.example.com", "").is(200).body; !strings.Contains(csv, "ops@example.com") || !strings.Contains(csv, "may-have-been-sent") {
		t.Errorf("the CSV has %q", csv)
	}
	letter.send("Discard", "reason", "it is at the relay").is(200)
	o.until("it is listed also after the discard", func() bool {
		return o.desk.Balance().Ended[desk.Discarded] == 1 && strings.Contains(textOf(v.opens(who).doc), "ops@example.com may have been sent")
	})
}

// The page of a letter for a target that is not defined says so, and does not link to a page that
// there is not.
func TestLetterOfAnUnknownTarget(t *testing.T) {
	t.Parallel()
	o := openOffice(t, officeConfig{})
	o.publish("typo", "a.example.com", "a/b")
	o.until("the letter is there", func() bool { return o.desk.Balance().Open == 1 })
	page := o.visitor().opens("/dead-letters/1").says("Target a/b , not defined")
	for _, a := range all(page.doc, "a") {
		if to := attr(a, "href"); strings.HasPrefix(to, "/targets/") {
			t.Errorf("it links to %s", to)
		}
	}
}
