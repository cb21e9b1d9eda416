package main

import (
	"testing"

	"github.com/certpost/certpost/internal/desk"
)

// The list of groups says that there is something to read about a group, and with -o wide what.
func TestHandlingInTheListOfGroups(t *testing.T) {
	t.Parallel()
	note := func(text string) desk.Note { return desk.Note{By: "bob", Text: text} }
	for _, test := range []struct {
		handling   *desk.Handling
		want, wide string
	}{
		{nil, "", ""},
		{&desk.Handling{}, "", ""},
		{&desk.Handling{Assignee: "ann"}, "ann", "ann"},
		{&desk.Handling{Ticket: "https://t.example/1"}, "ticket", "https://t.example/1"},
		{&desk.Handling{Notes: []desk.Note{note("asked")}}, "1 note", "1 note, the last by bob: asked"},
		{&desk.Handling{Assignee: "ann", Ticket: "https://t.example/1", Notes: []desk.Note{note("asked"), note("waiting")}},
			"ann, ticket, 2 notes", "ann, https://t.example/1, 2 notes, the last by bob: waiting"},
	} {
		g := desk.Group{Handling: test.handling}
		if got, wide := handling(g, false), handling(g, true); got != test.want || wide != test.wide {
			t.Errorf("%+v: %q and %q, want %q and %q", test.handling, got, wide, test.want, test.wide)
		}
	}
}
