package dashboard

import (
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/certpost/certpost/internal/access"
	"github.com/certpost/certpost/internal/desk"
)

const sessionsPath = "/sessions"

// sessionRoutes are the pages about who is signed in. They exist only with sign-in. Who
// sees and ends which sessions is decided by access: each user their own, an administrator all.
func (p *pages) sessionRoutes() []route {
	return []route{
		{"GET /sessions", access.Viewer, p.sessions},
		{"POST /sessions/end-others", access.Viewer, p.endOtherSessions},
		{"POST /sessions/{id}/end", access.Viewer, p.endSession},
	}
}

// sessionsView is the page of all sessions that the user may end.
type sessionsView struct {
	Text   string // what is searched for
	List   []access.Session
	Total  int
	Others int // sessions of the user besides the current one
	Pager  pager
}

func (p *pages) sessions(r *request) (view, error) {
	found := p.guard.Sessions(r.visit)
	v := sessionsView{Text: strings.TrimSpace(r.FormValue("q"))}
	for _, s := range found {
		if s.Own && !s.Current {
			v.Others++
		}
	}
	found = slices.DeleteFunc(found, func(s access.Session) bool { return v.Text != "" && !sessionFits(s, v.Text) })
	v.Total = len(found)
	from, size := int(min(r.after(), uint64(len(found)))), pageSize(r)
	v.List = found[from:min(from+size, len(found))]
	if from+size < len(found) {
		v.Pager.Next = r.with("after", strconv.Itoa(from+size))
	}
	if from > 0 {
		v.Pager.First = r.with("after", "")
	}
	return view{template: "sessions", title: "Signed in", data: v, table: sessionTable(found)}, nil
}

// sessionFits reports whether a session matches a search text: by its user, role, an
// address or the browser.
func sessionFits(s access.Session, text string) bool {
	text = strings.ToLower(text)
	return slices.ContainsFunc([]string{s.User.Recorded(), s.User.Role.String(), s.User.Address, s.LastAddress, s.Browser}, func(field string) bool {
		return strings.Contains(strings.ToLower(field), text)
	})
}

func (p *pages) endSession(r *request) (view, error) {
	_, err := p.guard.EndSession(r.Context(), r.visit, r.PathValue("id"))
	if errors.Is(err, access.ErrNoSession) {
		return view{to: sessionsPath + "?done=session-gone"}, nil
	}
	return view{to: sessionsPath + "?done=session-ended"}, err
}

func (p *pages) endOtherSessions(r *request) (view, error) {
	p.guard.EndOtherSessions(r.Context(), r.visit)
	return view{to: sessionsPath + "?done=others-ended"}, nil
}

// sessionRow is a session in JSON.
type sessionRow struct {
	ID          string `json:"id"`
	By          string `json:"by"`
	Role        string `json:"role"`
	Way         string `json:"way"`
	Since       string `json:"since"`
	Address     string `json:"address"`
	Seen        string `json:"seen"`
	LastAddress string `json:"last_address"`
	Browser     string `json:"browser,omitempty"`
	Ends        string `json:"ends"`
	Current     bool   `json:"current"`
}

func sessionTable(all []access.Session) *table {
	var rows []sessionRow
	for _, s := range all {
		rows = append(rows, sessionRow{s.ID, s.User.Recorded(), s.User.Role.String(), s.Way, stamp(s.Since), s.User.Address, stamp(s.Seen), s.LastAddress, s.Browser, stamp(s.Ends), s.Current})
	}
	return exported(desk.Table[sessionRow]{
		Name:    "sessions",
		Columns: []string{"id", "by", "role", "way", "since", "address", "seen", "last_address", "browser", "ends", "current"},
		Cells: func(s sessionRow) []string {
			return []string{s.ID, s.By, s.Role, s.Way, s.Since, s.Address, s.Seen, s.LastAddress, s.Browser, s.Ends, strconv.FormatBool(s.Current)}
		},
	}, slices.Values(rows))
}
