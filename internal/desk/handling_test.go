package desk

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/broker"
)

// What operators write about a group is seen by all processes, survives them, and is audited.
//
// Fault: two operators change who works on a group. Result: the second is told; and nothing is overwritten.
func TestHandling(t *testing.T) {
	t.Parallel()
	x := start(t)
	d, stop := x.desk(nil)
	other, _ := x.desk(nil)
	ctx := t.Context()
	x.letters(d, "ops", 0, 1)
	x.until("the other has the letter", func() bool { return len(other.Groups(Query{})) == 1 })
	group := d.Groups(Query{})[0].Fingerprint
	ann, ticket := "ann", "https://tickets.example.com/browse/OPS-1?a=b"
	first, err := d.Handle(ctx, me, group, HandlingChange{Assignee: &ann, Ticket: &ticket, Note: "asked\tthe relay's\nadmin"})
	if err != nil || first.Assignee != "ann" || first.Ticket != ticket || len(first.Notes) != 1 || first.Notes[0].By != "anna" || strings.ContainsAny(first.Notes[0].Text, "\t\n") {
		t.Fatalf("%+v, %v", first, err)
	}
	of := func(d *Desk) Handling {
		if g := d.Groups(Query{}); len(g) == 1 && g[0].Handling != nil {
			return *g[0].Handling
		}
		return Handling{}
	}
	x.until("the other desk sees it", func() bool { return of(other).Assignee == "ann" })

	// Two operators at a time: the second is told, and its note is no conflict.
	bob := "bob"
	if _, err := other.Handle(ctx, me, group, HandlingChange{Assignee: &bob, Revision: &first.Revision}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Handle(ctx, me, group, HandlingChange{Assignee: &ann, Revision: &first.Revision}); !errors.Is(err, ErrHandlingChanged) || StatusOf(err) != http.StatusConflict {
		t.Errorf("an old form: %v", err)
	}
	none := ""
	last, err := d.Handle(ctx, me, group, HandlingChange{Ticket: &none, Note: "second"})
	if err != nil || last.Assignee != "bob" || last.Ticket != "" || len(last.Notes) != 2 {
		t.Errorf("%+v, %v", last, err)
	}
	long := strings.Repeat("x", MaxTicket)
	for _, wrong := range []string{"javascript:alert(1)", "data:text/html,x", "tickets.example.com/1", "https://", "https://ann:secret@tickets.example.com/", "https://tickets.example.com/" + long, "https://tickets.example.com/\u202e",
		"https://tickets.example.com:99999/1", "https://tickets.example.com:0/1", "https://tickets.example.com:/1", "https://:443/1", "https://tickets.exam\u200dple.com/", "https://a,b.example.com/"} {
		if _, err := d.Handle(ctx, me, group, HandlingChange{Ticket: &wrong}); !errors.Is(err, ErrUnfit) || StatusOf(err) != http.StatusUnprocessableEntity || strings.Contains(err.Error(), "secret") {
			t.Errorf("ticket %.60q: %v", wrong, err)
		}
	}
	tooLong := strings.Repeat("ä", MaxAssignee+1)
	for _, wrong := range []HandlingChange{{}, {Note: " \n"}, {Assignee: &tooLong}, {Note: strings.Repeat("x", MaxReason+1)}} {
		if _, err := d.Handle(ctx, me, group, wrong); !errors.Is(err, ErrUnfit) {
			t.Errorf("%.80v: %v", wrong, err)
		}
	}
	if _, err := d.Handle(ctx, me, "000000000000", HandlingChange{Note: "x"}); !errors.Is(err, ErrNotFound) {
		t.Errorf("a group that there is not: %v", err)
	}
	for range MaxNotes {
		if _, err := d.Handle(ctx, me, group, HandlingChange{Note: "again"}); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	third, _ := x.desk(nil)
	x.until("a new process has it", func() bool { h := of(third); return h.Assignee == "bob" && len(h.Notes) == MaxNotes })
	notes, _ := third.History(HistoryQuery{Group: group, Action: broker.ActionNoted}, 0, 500)
	given, _ := third.History(HistoryQuery{Group: group, Action: broker.ActionAssigned}, 0, 500)
	tickets, _ := third.History(HistoryQuery{Group: group, Action: broker.ActionTicketed}, 0, 500)
	if len(notes) != MaxNotes+2 || len(given) != 2 || given[0].Reason != "bob" || given[0].Name != "anna" || len(tickets) != 2 {
		t.Errorf("audit: %d notes, %+v, %+v", len(notes), given, tickets)
	}
}

// The host of a ticket is shown in ASCII, so that letters of another script imitate no name.
func TestTicketAddresses(t *testing.T) {
	t.Parallel()
	for given, want := range map[string]string{
		"https://\u0440\u0430ypal.example/1":  "https://xn--ypal-43d9g.example/1", // Cyrillic
		"https://%D1%80%D0%B0ypal.example/1":  "https://xn--ypal-43d9g.example/1",
		"https://Bücher.example:8443/a?b=ü#c": "https://xn--bcher-kva.example:8443/a?b=ü#c",
		"https://JIRA_1.example.com":          "https://jira_1.example.com",
		"http://[2001:db8::1]:8080/1":         "http://[2001:db8::1]:8080/1",
		"http://192.0.2.1/1":                  "http://192.0.2.1/1",
		"https://tickets.example.com:65535/1": "https://tickets.example.com:65535/1",
	} {
		ticket, err := checkTicket(given)
		got := Handling{Ticket: ticket}
		if err != nil || ticket != want || !strings.HasPrefix(strings.SplitN(want, "//", 2)[1], got.TicketHost()) || got.TicketHost() == "" {
			t.Errorf("ticket %s: %q at %q, %v, want %s", given, got.Ticket, got.TicketHost(), err, want)
		}
	}
	old := readHandling(broker.DeskEntry{Value: []byte(`{"ticket":"https://\u0440\u0430ypal.example/1"}`), Revision: 7})
	if old.Ticket != "https://xn--ypal-43d9g.example/1" || old.Revision != 7 {
		t.Errorf("a ticket of an earlier version: %+v", old)
	}
}
