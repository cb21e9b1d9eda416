package dashboard

import (
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/desk"
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
