package dashboard

import (
	"net/http"
	"net/url"
	"strconv"

	"github.com/certpost/certpost/internal/desk"
)

// handle changes who works on a group, its ticket, or adds a note. Assignee and ticket are changed
// only if the form was sent with other values than it was shown with.
func (p *pages) handle(r *request) (view, error) {
	fingerprint := r.PathValue("fingerprint")
	change := desk.HandlingChange{Note: r.PostFormValue("note")}
	if seen, err := strconv.ParseUint(r.PostFormValue("revision"), 10, 64); err == nil {
		change.Revision = &seen
	}
	for _, f := range []struct {
		name string
		to   **string
	}{{"assignee", &change.Assignee}, {"ticket", &change.Ticket}} {
		if value := r.PostFormValue(f.name); value != r.PostFormValue("was_"+f.name) {
			*f.to = &value
		}
	}
	_, err := p.desk.Handle(r.Context(), r.actor(), fingerprint, change)
	if err == nil {
		return view{to: lettersPath + "/groups/" + url.PathEscape(fingerprint) + "?done=handled#handling"}, nil
	}
	status := desk.StatusOf(err)
	if status != http.StatusUnprocessableEntity && status != http.StatusConflict {
		return view{}, err
	}
	v, gone := p.groupWith(r, func(g *groupPage) {
		g.Fault, g.Note = says(err), change.Note
		if status == http.StatusUnprocessableEntity {
			g.Assignee, g.Ticket = r.PostFormValue("assignee"), r.PostFormValue("ticket")
		}
	})
	v.status = status
	return v, gone
}

// handlingCommands are the shell commands that do the same.
func handlingCommands(fingerprint string) []command {
	return []command{
		{"certpost", shellLine("certpost", "dead-letters", "assign", fingerprint, "NAME")},
		{"certpost", shellLine("certpost", "dead-letters", "ticket", fingerprint, "https://tickets.example.com/1")},
		{"certpost", shellLine("certpost", "dead-letters", "note", fingerprint, "TEXT")},
	}
}
