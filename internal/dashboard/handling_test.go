package dashboard

import (
	"net/http"
	"strings"
	"testing"
)

// An operator says who works on a group, and all see it, escaped; a form that is out of date changes
// nothing.
//
// Fault: two operators change who works on a group. Result: the second is told; and nothing is overwritten.
func TestHandlingOfAGroup(t *testing.T) {
	t.Parallel()
	o := openOffice(t, officeConfig{})
	o.dies("a.example.com")
	v := o.visitor()
	group := v.opens("/dead-letters?view=groups").follow("Review").is(200).says("Who works on it")
	stale := group
	saved := group.send("Save", "assignee", "<b>ann</b>", "ticket", "https://tickets.example.com/1", "note", "asked & waiting").is(200).says("Saved.", "<b>ann</b> works on it.", "asked & waiting", "certpost dead-letters assign")
	sound(t, "a group that is handled", saved.doc, false)
	if !strings.Contains(saved.body, `href="https://tickets.example.com/1"`) || strings.Contains(saved.body, "<b>ann") {
		t.Errorf("the ticket is no link, or the name is not escaped:\n%s", saved.body)
	}
	v.opens("/").says("works on it.", "asked & waiting")
	if again := stale.send("Save", "assignee", "bob").is(http.StatusConflict).says("Another operator has changed"); strings.Contains(again.body, `value="bob"`) {
		t.Error("the page shows what was not saved as saved")
	}
	saved.send("Save", "ticket", "javascript:alert(1)").is(http.StatusUnprocessableEntity).says("must be an address that begins with https://")
	saved.send("Save").is(http.StatusUnprocessableEntity).says("Nothing to change")
	saved.send("Save", "assignee", "").is(200).says("Saved.")
	v.opens("/audit?action=assigned").says("<b>ann</b>").follow("group " + saved.url.Path[strings.LastIndexByte(saved.url.Path, '/')+1:]).is(200)
}
