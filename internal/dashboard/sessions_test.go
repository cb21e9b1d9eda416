package dashboard

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/certpost/certpost/internal/access"
)

// ada, an administrator, and vic, a viewer, are signed in with two browsers each. Each
// sees what they may end, and ends it; who is signed out is told so and is out.
func TestSessionsPage(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var ended []access.Event
	o := openOffice(t, officeConfig{access: access.Config{
		Accounts: []access.Account{{Name: "ada", Hash: access.NewHash("a password"), Role: access.Admin}, {Name: "vic", Hash: access.NewHash("a password"), Role: access.Viewer}},
		Record: func(_ context.Context, e access.Event) {
			mu.Lock()
			defer mu.Unlock()
			if e.Kind == access.SignedOut {
				ended = append(ended, e)
			}
		},
	}})
	signIn := func(name string) *visitor {
		v := o.visitor()
		v.opens("/sign-in").send("Sign in", "name", name, "password", "a password").is(200)
		return v
	}
	ada, ada2, vic, vic2 := signIn("ada"), signIn("ada"), signIn("vic"), signIn("vic")
	isOut := func(v *visitor) bool {
		t.Helper()
		return strings.HasPrefix(v.do(http.MethodGet, "/", "").is(200).url.Path, "/sign-in")
	}

	// The pages: own sessions, or all of them.
	if rows := sessionRows(vic.opens("/settings").follow("Where you are signed in").is(200)); len(rows) != 2 {
		t.Errorf("a viewer sees %d sessions: %q", len(rows), rows)
	} else if strings.Contains(strings.Join(rows, " "), "ada") {
		t.Errorf("a viewer sees sessions of others: %q", rows)
	}
	page := ada.opens("/settings").follow("Who is signed in").is(200).says("4 sessions", "this browser")
	if rows := sessionRows(page); len(rows) != 4 || !strings.Contains(rows[0], "ada") || !strings.Contains(rows[1], "ada") || !strings.Contains(rows[2], "vic") || !strings.Contains(rows[3], "a Go program") {
		t.Errorf("an administrator sees %q", rows)
	}
	if rows := sessionRows(ada.opens("/sessions?q=VIC")); len(rows) != 2 {
		t.Errorf("the search for vic finds %q", rows)
	}
	ada.opens("/sessions?q=nobody-has-this").says("No matching sessions")

	// The export holds the same, and nothing that a cookie could hold.
	var rows []sessionRow
	export := ada.do(http.MethodGet, "/sessions.json", "").is(200)
	if err := json.Unmarshal([]byte(export.body), &rows); err != nil || len(rows) != 4 || rows[0].By != "ada" || rows[0].Address != "127.0.0.1" || rows[0].Since == "" || rows[0].Ends <= rows[0].Since {
		t.Errorf("%v: %s", err, export.body)
	}
	text := export.body + page.body + ada.do(http.MethodGet, "/sessions.csv", "").is(200).body
	for _, v := range []*visitor{ada, ada2, vic, vic2} {
		for _, c := range v.client.Jar.Cookies(page.url) {
			if len(c.Value) > 20 && strings.Contains(text, c.Value) {
				t.Errorf("the list shows the cookie %s", c.Name)
			}
		}
	}
	idOf := func(v *visitor) string {
		var own []sessionRow
		must(t, json.Unmarshal([]byte(v.do(http.MethodGet, "/sessions.json", "").is(200).body), &own))
		i := slices.IndexFunc(own, func(s sessionRow) bool { return s.Current })
		return own[i].ID
	}

	// A viewer cannot end a session of ada, and is not told whether there is one.
	forge := vic.opens("/sessions")
	for _, id := range []string{idOf(ada2), "none"} {
		for _, form := range all(forge.doc, "form") {
			for i := range form.Attr {
				if a := &form.Attr[i]; a.Key == "action" && strings.HasSuffix(a.Val, "/end") {
					a.Val = "/sessions/" + id + "/end"
				}
			}
		}
		sendTo(forge, "/sessions/"+id+"/end").is(200).says("had already ended")
	}
	if isOut(ada2) {
		t.Error("a viewer ended an administrator's session")
	}

	// An administrator signs vic out; the other session of vic goes on.
	sendTo(ada.opens("/sessions"), "/sessions/"+idOf(vic2)+"/end").is(200).says("Signed out there", "3 sessions")
	if !isOut(vic2) || isOut(vic) {
		t.Error("the session that was ended goes on, or the wrong one was ended")
	}
	// ada ends her own other sessions.
	ada.opens("/sessions").says("signed in with 1 other browser").send("Sign out everywhere else").is(200).says("Only this browser", "2 sessions")
	if !isOut(ada2) || isOut(ada) || isOut(vic) {
		t.Error("not exactly the other session of ada has ended")
	}
	mu.Lock()
	defer mu.Unlock()
	if len(ended) != 2 || ended[0].User.Name != "ada" || !strings.HasPrefix(ended[0].Reason, "session of vic, signed in ") || !strings.HasSuffix(ended[0].Reason, " from 127.0.0.1, a Go program") || !strings.HasPrefix(ended[1].Reason, "session of ada,") {
		t.Errorf("recorded: %+v", ended)
	}
}

// sessionRows are the texts of the rows of the list.
func sessionRows(s *sheet) (rows []string) {
	for _, row := range all(s.doc, "tr") {
		if has(row, "data-row") {
			rows = append(rows, textOf(row))
		}
	}
	return rows
}

// sendTo submits the form with this address.
func sendTo(s *sheet, action string) *sheet {
	s.v.t.Helper()
	for _, form := range all(s.doc, "form") {
		if attr(form, "action") == action {
			token := ""
			for _, input := range all(form, "input") {
				if attr(input, "name") == access.TokenField {
					token = attr(input, "value")
				}
			}
			return s.v.do(http.MethodPost, action, access.TokenField+"="+token)
		}
	}
	s.v.t.Fatalf("%s has no form for %s", s.url, action)
	return nil
}

// Without sign-in there are no sessions, and no page about them.
func TestNoSessionsWithoutSignIn(t *testing.T) {
	t.Parallel()
	guard, err := access.New(access.Config{Listen: "127.0.0.1:0"})
	must(t, err)
	New(nil, guard, Options{Look: newTestLook(t)})
	for _, route := range guard.Routes() {
		if strings.Contains(route.Pattern, sessionsPath) {
			t.Errorf("%s is registered", route.Pattern)
		}
	}
}
