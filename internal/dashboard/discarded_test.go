package dashboard

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/access"
)

// What was discarded has a list; it is put back by filter, and right after the act by its undo.
//
// Fault: many letters are discarded by mistake. Result: they have a list; and are restored by filter or as the undo of that act.
func TestDiscardedList(t *testing.T) {
	t.Parallel()
	o := openOffice(t, officeConfig{access: operatorAndViewer()})
	o.dies("a.example.com", "b.example.com", "c.example.com")
	v, viewer := o.signIn("ann"), o.signIn("vic")

	gone := v.opens("/dead-letters").follow("Discard…").is(200).send("Discard 3 letters", "reason", "a <test>").is(200).says("Discarded.", "Undo: restore 3 letters")
	sound(t, "after the discard", gone.doc, false)
	undo := gone.url.Query().Get("undo")
	if text := viewer.opens("/dead-letters?done=discarded&undo=" + undo).body; strings.Contains(text, "Undo") {
		t.Error("a viewer is offered the undo")
	}
	viewer.do(http.MethodPost, "/dead-letters/undo", "act="+undo).is(http.StatusForbidden)

	list := v.opens("/dead-letters?state=discarded").says("3 discarded letters", "that can be restored", "discarded by ann", "a <test>", "certpost dead-letters list --order=newest --state=discarded")
	confirm := list.send("Restore…", "number", "2").is(200).says("Restore 1 dead letter?", "certpost dead-letters restore 2")
	confirm.send("Restore 1 letter").is(200).says("Restored.", "1 open letter")
	v.opens("/dead-letters?state=discarded").says("2 discarded letters", "The overview counts 1 more letter as discarded")
	confirm = v.opens("/dead-letters?state=discarded&name=a.example.com").follow("Restore…").is(200).says("Restore 1 dead letter?", "name a.example.com", "--all")
	confirm.send("Restore 1 letter", "reason", "asked for").is(200).says("Restored.", "2 open letters")
	v.opens("/dead-letters?state=discarded&view=groups").says("1 discarded letter by cause", "Restore all…")
	gone.send("Undo: restore 3 letters").is(200).says("Restored.", "3 open letters") // those that still are
	gone.send("Undo: restore 3 letters").is(http.StatusNotFound)

	audit := v.opens("/audit?action=discarded").says("3 letters", "a <test>")
	if n := strings.Count(textOf(audit.doc), "a <test>"); n != 1 {
		t.Errorf("the act has %d lines", n)
	}
	audit.follow("3 letters").is(200).says("letter 1", "letter 2", "letter 3")
	if all := v.do(http.MethodGet, "/audit.json?action=discarded", "").is(200); strings.Count(all.body, `"stage":"outcome"`) != 4 {
		t.Errorf("the export has not each letter: %s", all.body)
	}
	v.opens("/audit?ended=discarded").says("letter 1", "letter 3")

	one := v.opens("/dead-letters/4").send("Discard", "reason", "not wanted").is(200)
	sound(t, "one discarded letter", one.doc, false)
	one.send("Undo").is(200).says("Restored.")
	for _, wrong := range []string{"/dead-letters/confirm?all=yes&action=discard&state=discarded", "/dead-letters/confirm?all=yes&action=restore&state=open"} {
		v.do(http.MethodGet, wrong, "").is(http.StatusBadRequest)
	}
	v.do(http.MethodPost, "/dead-letters/undo", url.Values{access.TokenField: {tokenOf(one)}, "act": {"../x"}}.Encode()).is(http.StatusBadRequest)
}

func tokenOf(s *sheet) string {
	for _, input := range all(s.doc, "input") {
		if attr(input, "name") == access.TokenField {
			return attr(input, "value")
		}
	}
	return ""
}

// Each number of the account leads to the list that it counts.
func TestNumbersLeadToTheirLists(t *testing.T) {
	t.Parallel()
	o := openOffice(t, officeConfig{})
	o.dies("a.example.com", "b.example.com", "c.example.com")
	v := o.visitor()
	v.opens("/dead-letters/1").send("Discard", "reason", "x").is(200)
	o.refuses("")
	v.opens("/dead-letters/2").send("Replay").is(200)
	o.until("the mail is there", func() bool { return o.relay.Count() == 1 })
	o.until("the delivery is indexed", func() bool { d := o.desk.Balance(); return d.Unexplained == 0 && d.Open == 1 })
	for _, a := range all(v.opens("/").doc, "a") {
		label := attr(a, "aria-label")
		status, of := strings.CutSuffix(label, ": show them")
		if !of {
			continue
		}
		want := map[string]string{"1 open": "1 open letter", "1 replayed": "letter 2", "1 discarded": "1 discarded letter", "0 expired": "No matching records"}[status]
		if want == "" {
			t.Errorf("unexpected number %q", label)
		}
		v.opens(attr(a, "href")).says(want)
	}
}
