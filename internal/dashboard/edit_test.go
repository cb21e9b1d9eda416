package dashboard

import (
	"net/http"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/delivery"
	"github.com/certpost/certpost/internal/desk"
)

// Without the setting there is no page and no link; with it, only what it allows.
func TestEditIsOffUnlessSwitchedOn(t *testing.T) {
	t.Parallel()
	o := openOffice(t, officeConfig{})
	o.dies("a.example.com")
	v := o.visitor()
	if page := v.opens("/dead-letters/1"); strings.Contains(page.body, "Edit and replay") {
		t.Error("there is a link to what is switched off")
	}
	v.do(http.MethodGet, "/dead-letters/edit/1", "").is(http.StatusForbidden).says("Editing is disabled")
}

func TestEditAndReplay(t *testing.T) {
	t.Parallel()
	others := delivery.Recipients{"*@example.org", "*@m\u00fcnchen.example"}
	o := openOffice(t, officeConfig{edit: desk.EditRules{Enabled: true, Targets: []string{"java"}, Recipients: others, Allows: others.Allows}})
	o.dies("a.example.com")
	o.refuses("")
	v := o.visitor()
	form := v.opens("/dead-letters/1").follow("Edit and replay…").is(200).says("The event itself is not changed")
	sound(t, "edit", form.doc, false)
	form.send("Review changes", "target", "java", "recipients", "java@example.com", "reason", "").is(422).says("A reason is required")
	form.send("Review changes", "target", "elsewhere", "reason", "x").is(403).says("Target \"elsewhere\" is not in http.edit_and_replay.targets")
	form.send("Review changes", "target", "java", "recipients", "thief@evil.test", "reason", "x").is(403).says("Recipient thief@evil.test is neither a recipient of the target nor in http.edit_and_replay.recipients")
	// The courier's rule: the spelling of a domain does not matter, but a local part is
	// case-sensitive.
	form.send("Review changes", "target", "java", "recipients", "any@XN--MNCHEN-3YA.example", "reason", "x").is(200).says("As edited")
	form.send("Review changes", "target", "java", "recipients", "JAVA@example.com", "reason", "x").is(403).says("JAVA@example.com is neither a recipient of the target")
	looked := form.send("Review changes", "target", "java", "recipients", "java@example.com", "reason", "ops are away").is(200).says("changed", "java@example.com", "ops@example.com")
	if o.relay.Count() != 0 {
		t.Fatal("reviewing the changes has sent the mail")
	}
	// Editing again keeps what was entered.
	again := looked.send("Edit again").is(200).says("The event itself is not changed")
	if !strings.Contains(again.body, `<option value="java" selected>`) {
		t.Error("the selected target is no longer selected")
	}
	if looked = again.send("Review changes", "target", "java").is(200).says("As edited", "java@example.com"); o.relay.Count() != 0 {
		t.Fatal("editing again has sent the mail")
	}
	looked.send("Replay as edited").is(200).says("Published again as edited.", "ops are away")
	o.until("the mail is there", func() bool { return o.relay.Count() == 1 })
	if to := o.relay.Mails()[0].Recipients; len(to) != 1 || to[0] != "java@example.com" {
		t.Errorf("the mail went to %q", to)
	}
}
