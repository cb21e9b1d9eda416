package dashboard

import (
	"net/http"
	"strings"
	"testing"
)

func TestEditAllows(t *testing.T) {
	t.Parallel()
	e := &Edit{Recipients: []string{"one@example.com", "*@example.org"}}
	for address, want := range map[string]bool{
		"one@example.com": true, "ONE@EXAMPLE.com": true, "two@example.com": false, "any@example.org": true, "any@sub.example.org": false, "@example.org": false,
		"x@evil.test@example.org": true, "example.org": false, "": false, "any@example.org.evil.test": false,
	} {
		if got := e.allows(address); got != want {
			t.Errorf("%q is allowed: %v", address, got)
		}
	}
}

// Without the setting there is no page and no link; with it, only what it allows.
func TestEditIsOffUnlessSwitchedOn(t *testing.T) {
	t.Parallel()
	o := openOffice(t, officeConfig{})
	o.dies("a.example.com")
	v := o.visitor()
	if page := v.opens("/dead-letters/1"); strings.Contains(page.body, "Edit and replay") {
		t.Error("there is a link to what is switched off")
	}
	v.do(http.MethodGet, "/dead-letters/edit/1", "").is(http.StatusNotFound)
}

func TestEditAndReplay(t *testing.T) {
	t.Parallel()
	o := openOffice(t, officeConfig{edit: &Edit{Targets: []string{"java"}, Recipients: []string{"*@example.org"}}})
	o.dies("a.example.com")
	o.refuses("")
	v := o.visitor()
	form := v.opens("/dead-letters/1").follow("Edit and replay…").is(200).says("The event itself stays as it is")
	sound(t, "edit", form.doc, false)
	form.send("Look at the change", "target", "java", "recipients", "java@example.com", "reason", "").is(422).says("Say why")
	form.send("Look at the change", "target", "elsewhere", "reason", "x").is(422).says("This target is not among those")
	form.send("Look at the change", "target", "java", "recipients", "thief@evil.test", "reason", "x").is(422).says("thief@evil.test is neither")
	looked := form.send("Look at the change", "target", "java", "recipients", "java@example.com", "reason", "ops are away").is(200).says("changed", "java@example.com", "ops@example.com")
	if o.relay.Count() != 0 {
		t.Fatal("looking has sent it")
	}
	looked.send("Replay as edited").is(200).says("Published again as edited.", "ops are away")
	o.until("the mail is there", func() bool { return o.relay.Count() == 1 })
	if to := o.relay.Mails()[0].Recipients; len(to) != 1 || to[0] != "java@example.com" {
		t.Errorf("it went to %q", to)
	}
}
