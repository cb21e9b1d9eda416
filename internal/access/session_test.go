package access

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestSignIn(t *testing.T) {
	t.Parallel()
	a := door(t, nil)
	b := newBrowser(t, a, home)
	if got := b.get("/dead-letters/7?code=x"); got.Code != http.StatusSeeOther || got.location() != "/sign-in?return=%2Fdead-letters%2F7%3Fcode%3Dx" {
		t.Fatalf("%d %s", got.Code, got.location())
	}
	got := b.get("/sign-in?return=%2Fdead-letters%2F7%3Fcode%3Dx")
	if got.Code != http.StatusOK || !strings.Contains(got.body, `name="return" value="/dead-letters/7?code=x"`) {
		t.Fatalf("%d %s", got.Code, got.body)
	}
	if got := b.signIn("operator"); got.Code != http.StatusSeeOther || got.location() != "/dead-letters/7" {
		t.Fatalf("%d %s", got.Code, got.location())
	}
	c := b.jar["__Host-certpost-session"]
	if c == nil || !c.Secure || !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Path != "/" || c.Domain != "" || len(c.Value) != 43 || c.MaxAge != 0 || !c.Expires.IsZero() {
		t.Errorf("cookie: %+v", c)
	}
	if b.cookie("__Host-certpost-visitor") != "" {
		t.Error("the visitor's cookie is still there")
	}
	if got := b.get("/"); got.Code != http.StatusOK || got.Header().Get("X-Name") != "operator" || got.Header().Get("X-Role") != "operator" || got.Header().Get("X-Address") != "198.51.100.7" {
		t.Errorf("%d %v", got.Code, got.Header())
	}
	if got := b.get("/sign-in?return=/dead-letters/3"); got.location() != "/dead-letters/3" {
		t.Errorf("signing in again: %d %s", got.Code, got.location())
	}
	for key := range a.sessions.byKey {
		if strings.Contains(c.Value, string(key[:])) {
			t.Error("the number itself is stored")
		}
	}
}

func TestSignInFails(t *testing.T) {
	t.Parallel()
	var events []Event
	a := door(t, func(c *Config) { c.Record = func(_ context.Context, e Event) { events = append(events, e) } })
	for _, test := range []struct {
		name, password, user, reason string
	}{
		{"operator", "wrong-" + passwordOf("operator"), "operator", "wrong password"},
		{"operator", passwordOf("admin"), "operator", "wrong password"},
		{"hunter2", passwordOf("operator"), "", "no account has that name"}, // perhaps a password in the wrong field
		{"Operator", passwordOf("operator"), "", "no account has that name"},
		{"", passwordOf("operator"), "", ""},
		{"operator", "", "", ""},
		{"operator", strings.Repeat("x", MaxPassword+1), "", ""},
		{strings.Repeat("x", 500), "x", "", ""},
	} {
		events = nil
		b := newBrowser(t, a, home)
		got := b.post("/sign-in", "/sign-in", url.Values{"name": {test.name}, "password": {test.password}})
		if got.Code != http.StatusUnauthorized || !strings.Contains(got.body, wrongPassword) || len(test.password) > 1 && strings.Contains(got.body, test.password) {
			t.Errorf("%q: %d %s", test.name, got.Code, got.body)
		}
		if b.cookie("__Host-certpost-session") != "" {
			t.Errorf("%q: there is a session", test.name)
		}
		switch {
		case test.reason == "" && len(events) == 0:
		case len(events) != 1 || events[0].Kind != SignInFailed || events[0].User.Name != test.user || events[0].Reason != test.reason || events[0].User.Address != "198.51.100.7" || events[0].Way != byPassword:
			t.Errorf("%q: %+v", test.name, events)
		case strings.Contains(fmt.Sprintf("%+v", events), "hunter2"):
			t.Error("what was typed as a name is in the history")
		}
	}
	// Another site cannot sign a user in with other credentials (login CSRF).
	b := newBrowser(t, a, home)
	form := url.Values{"name": {"operator"}, "password": {passwordOf("operator")}, TokenField: {b.get("/sign-in").token()}}
	if got := b.send(t.Context(), "POST", "/sign-in", form, map[string]string{"Sec-Fetch-Site": "cross-site"}); got.Code != http.StatusForbidden {
		t.Errorf("from another site: %d", got.Code)
	}
	form.Set(TokenField, newBrowser(t, a, home).get("/sign-in").token())
	if got := b.send(t.Context(), "POST", "/sign-in", form, nil); got.Code != http.StatusForbidden {
		t.Errorf("with another browser's token: %d", got.Code)
	}
}

// The longest name that an account may have signs in, in any script, and none longer is
// looked up.
func TestLongestName(t *testing.T) {
	t.Parallel()
	for _, letter := range []string{"x", "\u00fc", "\U00020000"} {
		longest := strings.Repeat(letter, MaxName)
		if !ValidName(longest) || ValidName(longest+letter) {
			t.Errorf("%d letters %q: %v, one more: %v", MaxName, letter, ValidName(longest), ValidName(longest+letter))
		}
		var events []Event
		a := door(t, func(c *Config) {
			c.Accounts[0].Name = longest
			c.Record = func(_ context.Context, e Event) { events = append(events, e) }
		})
		form := func(name string) url.Values {
			return url.Values{"name": {name}, "password": {passwordOf("viewer")}}
		}
		if got := newBrowser(t, a, home).post("/sign-in", "/sign-in", form(longest)); got.Code != http.StatusSeeOther || len(events) != 1 || events[0].User.Name != longest {
			t.Errorf("%q: %d, %+v", letter, got.Code, events)
		}
		events = nil
		if got := newBrowser(t, a, home).post("/sign-in", "/sign-in", form(longest+letter)); got.Code != http.StatusUnauthorized || len(events) != 0 {
			t.Errorf("one letter more: %d, %+v", got.Code, events)
		}
	}
	for _, name := range []string{"", " a", "a ", "a\nb", "a\u202eb"} {
		if ValidName(name) {
			t.Errorf("%q is valid", name)
		}
	}
}

// A number that an attacker planted before the sign-in is useless after it.
//
// Fault: session fixation. Result: new session at sign-in.
func TestFixation(t *testing.T) {
	t.Parallel()
	a := door(t, nil)
	attacker := as(t, a, "viewer")
	planted := attacker.cookie("__Host-certpost-session")
	victim := newBrowser(t, a, home)
	victim.jar["__Host-certpost-session"] = &http.Cookie{Name: "__Host-certpost-session", Value: planted}
	// The sign-in page redirects a session, but the victim's form may be sent nevertheless.
	token := victim.get("/").token()
	got := victim.send(t.Context(), "POST", "/sign-in", url.Values{"name": {"admin"}, "password": {passwordOf("admin")}, TokenField: {token}}, nil)
	if got.Code != http.StatusSeeOther {
		t.Fatalf("%d %s", got.Code, got.body)
	}
	if number := victim.cookie("__Host-certpost-session"); number == planted || victim.get("/").Header().Get("X-Role") != "admin" {
		t.Errorf("the planted number is in use: %v", number == planted)
	}
	if got := attacker.get("/"); got.Code != http.StatusSeeOther {
		t.Errorf("the planted number: %d as %s", got.Code, got.Header().Get("X-Role"))
	}
	for _, made := range []string{"", "x", strings.Repeat("A", 43)} {
		b := newBrowser(t, a, home)
		b.jar["__Host-certpost-session"] = &http.Cookie{Name: "__Host-certpost-session", Value: made}
		if got := b.get("/"); got.Code != http.StatusSeeOther {
			t.Errorf("an invented number: %d", got.Code)
		}
		if b.signIn("viewer"); b.cookie("__Host-certpost-session") == made {
			t.Error("an invented number is in use")
		}
	}
	// A cookie without the prefix is ignored: another host of the domain could set it.
	b := newBrowser(t, a, home)
	b.jar["certpost-session"] = &http.Cookie{Name: "certpost-session", Value: victim.cookie("__Host-certpost-session")}
	if got := b.get("/"); got.Code != http.StatusSeeOther {
		t.Errorf("a cookie without __Host-: %d", got.Code)
	}
}

func TestSignOut(t *testing.T) {
	t.Parallel()
	var events []Event
	a := door(t, func(c *Config) { c.Record = func(_ context.Context, e Event) { events = append(events, e) } })
	b := as(t, a, "viewer")
	number := b.cookie("__Host-certpost-session")
	if got := b.send(t.Context(), "POST", "/sign-out", url.Values{}, nil); got.Code != http.StatusForbidden {
		t.Errorf("without a token: %d", got.Code)
	}
	if got := b.post("/sign-out", "/", nil); got.Code != http.StatusSeeOther || got.location() != "/sign-in?signed-out" {
		t.Fatalf("%d %s", got.Code, got.location())
	}
	if b.cookie("__Host-certpost-session") != "" || !strings.Contains(b.get("/sign-in?signed-out").body, "You have signed out.") {
		t.Error("the cookie is still there, or the page does not say so")
	}
	b.jar["__Host-certpost-session"] = &http.Cookie{Name: "__Host-certpost-session", Value: number}
	if got := b.get("/"); got.Code != http.StatusSeeOther {
		t.Errorf("the old number: %d", got.Code)
	}
	if len(events) != 2 || events[0].Kind != SignedIn || events[1].Kind != SignedOut || events[1].User.Name != "viewer" || events[1].Way != byPassword {
		t.Errorf("%+v", events)
	}
}

// A request that requires a higher role is recorded.
func TestRefusalsAreRecorded(t *testing.T) {
	t.Parallel()
	var events []Event
	a := door(t, func(c *Config) { c.Record = func(_ context.Context, e Event) { events = append(events, e) } })
	as(t, a, "viewer").post("/dead-letters/7/replay", "/", nil)
	if len(events) != 2 || events[1].Kind != Refused || events[1].User.Name != "viewer" || events[1].Reason != "POST /dead-letters/7/replay" {
		t.Errorf("%+v", events)
	}
}

// Fault: stolen or endless sessions. Result: sessions end.
func TestSessionsEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := door(t, func(c *Config) { c.Idle, c.Max = time.Hour, 5*time.Hour })
		b := as(t, a, "viewer")
		signedIn := func(b *browser) bool { return b.get("/").Code == http.StatusOK }
		time.Sleep(59 * time.Minute)
		if !signedIn(b) {
			t.Fatal("ended before it was idle")
		}
		time.Sleep(59 * time.Minute)
		if !signedIn(b) {
			t.Fatal("use does not prolong it")
		}
		time.Sleep(61 * time.Minute)
		if signedIn(b) {
			t.Fatal("idle, and still there")
		}
		if len(a.sessions.byKey) != 0 {
			t.Error("the ended session is still stored")
		}
		b = as(t, a, "viewer")
		for range 7 {
			time.Sleep(40 * time.Minute)
			if !signedIn(b) {
				t.Fatal("ended although it was used")
			}
		}
		time.Sleep(30 * time.Minute)
		if signedIn(b) {
			t.Error("still there after the maximum age")
		}
	})
}

// A stream ends with its session, and does not keep the session alive.
func TestStreamsEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := door(t, nil)
		for name, end := range map[string]func(b *browser){
			"idle":        func(*browser) { time.Sleep(31 * time.Minute) }, // and half an hour before
			"signed out":  func(b *browser) { b.post("/sign-out", "/", nil) },
			"other roles": func(*browser) { a.Renew(nil, nil); a.Renew(accounts(), nil) },
		} {
			a.Renew(a.cfg.Accounts, nil)
			b := as(t, a, "viewer")
			var wg sync.WaitGroup
			ended := false
			wg.Go(func() {
				got := b.send(t.Context(), "GET", "/events", nil, map[string]string{"Accept": "text/event-stream", "Sec-Fetch-Mode": "cors"})
				ended = got.Code == http.StatusOK
			})
			time.Sleep(30 * time.Minute)
			if ended {
				t.Fatalf("%s: ended too soon", name)
			}
			if name == "idle" { // a page that connects again and again
				ctx, cancel := context.WithCancel(t.Context())
				cancel()
				b.send(ctx, "GET", "/events", nil, map[string]string{"Accept": "text/event-stream", "Sec-Fetch-Mode": "cors"})
				// And one that fetches parts of the page.
				b.send(t.Context(), "GET", "/", nil, map[string]string{"Accept": "*/*", "HX-Request": "true", "Sec-Fetch-Mode": "cors"})
			}
			end(b)
			synctest.Wait()
			if !ended {
				t.Errorf("%s: the stream did not end", name)
			}
			wg.Wait() // if the stream did not end, until its session is idle
			if got := b.send(t.Context(), "GET", "/events", nil, map[string]string{"Accept": "text/event-stream", "Sec-Fetch-Mode": "cors"}); got.Code != http.StatusUnauthorized {
				t.Errorf("%s: a new stream: %d", name, got.Code)
			}
		}
	})
}

// A browser without scripts asks again and again for a page that cannot be served. That is
// no use of the session, and takes nothing from a use meanwhile.
//
// Fault: a stream or bucket that a page needs is missing or cannot be read. Result: without
// keeping the session alive.
func TestPagesThatAreAwayUseNoSession(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := door(t, func(c *Config) { c.Idle = 30 * time.Minute })
		var b *browser
		meanwhile := func() {}
		a.Handle("GET /away", Viewer, func(w http.ResponseWriter, _ *http.Request, _ Visit) {
			meanwhile()
			w.Header().Set(NotServed, "5")
			w.WriteHeader(http.StatusServiceUnavailable)
		})
		b = as(t, a, "viewer")
		for range 29 {
			time.Sleep(time.Minute)
			if got := b.get("/away"); got.Code != http.StatusServiceUnavailable {
				t.Fatalf("a page that is away: %d", got.Code)
			}
		}
		meanwhile = func() {
			time.Sleep(time.Second)
			if b.get("/").Code != http.StatusOK {
				t.Error("signed out after less than half an hour")
			}
		}
		b.get("/away")
		meanwhile = func() {}
		time.Sleep(29 * time.Minute)
		if got := b.get("/away"); got.Code != http.StatusServiceUnavailable {
			t.Errorf("signed out although another page was used: %d", got.Code)
		}
		time.Sleep(2 * time.Minute)
		if b.get("/").Code == http.StatusOK {
			t.Error("a page that asks again by itself keeps the session alive")
		}
	})
}

func TestRenew(t *testing.T) {
	t.Parallel()
	a := door(t, nil)
	viewer, operator, admin := as(t, a, "viewer"), as(t, a, "operator"), as(t, a, "admin")
	now := a.people.Load().accounts
	changed := []Account{
		{"viewer", now[0].Hash, Operator},                // another role
		{"operator", cheapHash("another one"), Operator}, // another password
		now[2],
	}
	if ended := a.Renew(changed, nil); ended != 2 {
		t.Errorf("%d sessions ended", ended)
	}
	for b, want := range map[*browser]int{viewer: 303, operator: 303, admin: 200} {
		if got := b.get("/"); got.Code != want {
			t.Errorf("%d, want %d", got.Code, want)
		}
	}
	if got := as(t, a, "viewer").get("/"); got.Header().Get("X-Role") != "operator" {
		t.Errorf("the new role: %s", got.Header().Get("X-Role"))
	}
	if got := newBrowser(t, a, home).signIn("operator"); got.Code != http.StatusUnauthorized {
		t.Errorf("the old password: %d", got.Code)
	}
	if ended := a.Renew(changed, nil); ended != 0 {
		t.Errorf("nothing changed, and %d sessions ended", ended)
	}
	if a.Renew(nil, nil); admin.get("/").Code != http.StatusSeeOther {
		t.Error("an account is gone, and its session is not")
	}
}

// A sign-in during which the account is removed gives no session.
func TestRenewAmidASignIn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := door(t, nil)
		for range atOnce {
			a.keeper.turns <- struct{}{}
		}
		answers := make(chan answer, 2)
		for _, name := range []string{"operator", "admin"} {
			b := newBrowser(t, a, home)
			go func() { answers <- b.signIn(name) }()
		}
		synctest.Wait() // both wait for their turn
		a.Renew(a.people.Load().accounts[2:], nil)
		for range atOnce {
			<-a.keeper.turns
		}
		one, two := <-answers, <-answers
		if max(one.Code, two.Code) != http.StatusUnauthorized || min(one.Code, two.Code) != http.StatusSeeOther || len(a.sessions.byKey) != 1 {
			t.Errorf("%d and %d, %d sessions", one.Code, two.Code, len(a.sessions.byKey))
		}
		a.Renew(nil, nil)
	})
}

// Fault: stolen or endless sessions. Result: sessions and streams are limited in number.
func TestSessionsAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSessions(time.Hour, time.Hour)
		var numbers []string
		for range maxSessionsOfAUser + 5 {
			numbers = append(numbers, s.begin(session{user: User{Subject: "user:ada"}}))
			time.Sleep(time.Second)
		}
		if len(s.byKey) != maxSessionsOfAUser || s.find(numbers[4]) != nil || s.find(numbers[5]) == nil {
			t.Errorf("%d sessions of one user", len(s.byKey))
		}
		for i := range maxSessions - maxSessionsOfAUser { // with begin, each would search all of them
			_, end := context.WithCancel(t.Context())
			key := sha256.Sum256([]byte{byte(i), byte(i >> 8)})
			s.byKey[key] = &session{key: key, seen: time.Now(), began: time.Now(), end: end, timer: time.NewTimer(time.Hour)}
		}
		for i := range maxSessionsOfAUser {
			s.begin(session{user: User{Subject: fmt.Sprint(i)}})
		}
		if len(s.byKey) != maxSessions || s.find(numbers[24]) != nil {
			t.Errorf("%d sessions", len(s.byKey))
		}
		s.finishUnless(func(*session) bool { return false })
	})
}
