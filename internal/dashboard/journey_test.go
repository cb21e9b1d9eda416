package dashboard

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"github.com/certpost/certpost/internal/access"
	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/desk"
)

// From the overview to the replay that is delivered, using only links and forms.
func TestReplayOne(t *testing.T) {
	t.Parallel()
	o := openOffice(t, officeConfig{})
	o.dies("a.example.com")
	v := o.visitor()
	v.opens("/").says("it adds up", "The relay permanently refused a recipient: example.com", "1 letter")
	letter := v.opens("/dead-letters").follow("1").is(200).says("Dead letter 1", "Nothing was sent.", "550 5.1.1", "a.example.com", "Correct the address in the target", "certpost dead-letters replay 1")
	if primary := primaries(letter); primary != "Preflight" {
		t.Errorf("before the cause is fixed the primary button is %q", primary)
	}
	if primary := primaries(v.opens("/dead-letters?view=groups")); primary != "Review" {
		t.Errorf("of a group the primary button is %q", primary)
	}
	if page := textOf(letter.doc); strings.Index(page, "What happened") > strings.Index(page, "Actions") || strings.Index(page, "Actions") > strings.Index(page, "History") {
		t.Error("what to do does not follow what happened")
	}
	letter.send("Preflight").is(200).says("What a replay would find now")
	o.refuses("")
	if primary := primaries(letter.send("Preflight", "recipients", "yes").is(200)); primary != "Replay" {
		t.Errorf("once the cause is fixed the primary button is %q", primary)
	}
	gone := letter.send("Replay", "reason", "the address was fixed").is(200).says("Published again.", "the address was fixed", "This letter is no longer on the list")
	sound(t, "a letter that was replayed", gone.doc, false)
	o.until("the mail is there", func() bool { return o.relay.Count() == 1 })
	v.opens("/dead-letters").says("No open dead letters")
	o.until("the account holds", func() bool { b := o.desk.Balance(); return b.Unexplained == 0 && b.Ended[desk.Replayed] == 1 })
}

// primaries are the texts of the primary buttons of a page.
func primaries(s *sheet) string {
	var texts []string
	for _, kind := range []string{"button", "a"} {
		for _, n := range all(s.doc, kind) {
			if slices.Contains(strings.Fields(attr(n, "class")), "primary") {
				texts = append(texts, textOf(n))
			}
		}
	}
	return strings.Join(texts, ", ")
}

func TestDiscardAndRestore(t *testing.T) {
	t.Parallel()
	o := openOffice(t, officeConfig{})
	o.dies("a.example.com")
	v := o.visitor()
	letter := v.opens("/dead-letters/1")
	letter.send("Discard", "reason", "   ").is(http.StatusUnprocessableEntity).says("A reason is required")
	v.opens("/dead-letters").says("1 open letter")
	gone := letter.send("Discard", "reason", "nobody wants it").is(200).says("Discarded.", "nobody wants it", "Can be restored until")
	if !strings.Contains(gone.body, "in 1,094 days") && !strings.Contains(gone.body, "in 1,095 days") { // a day ends now and then
		t.Errorf("the page does not say how long it can be restored:\n%s", gone.body)
	}
	back := gone.send("Restore", "reason", "still needed").is(200).says("Restored")
	if back.url.Path != "/dead-letters/2" {
		t.Errorf("restoring leads to %s", back.url)
	}
	v.opens("/dead-letters/1").says("It was restored as letter 2")
	v.opens("/dead-letters").says("1 open letter")
}

func TestHoldAndRelease(t *testing.T) {
	t.Parallel()
	o := openOffice(t, officeConfig{})
	o.dies("a.example.com")
	v := o.visitor()
	letter := v.opens("/dead-letters/1")
	held := letter.send("Hold", "reason", "asking the relay's people").is(200).says("Held by", "asking the relay's people", "Cannot be replayed")
	letter.send("Discard", "reason", "too late").is(http.StatusConflict).says("The letter is held")
	letter.send("Replay").is(http.StatusConflict).says("The letter is held")
	v.opens("/dead-letters").says("held by")
	held.send("Release").is(200).says("Released.")
	held.send("Release").is(http.StatusConflict).says("Action not possible")
	letter.send("Discard", "reason", "in time").is(200).says("Discarded.")
}

// The second operator is told who acted first, when, and what they did.
//
// Fault: two operators act on one dead letter. Result: the second is told what the first
// did.
func TestSecondOperatorIsTold(t *testing.T) {
	t.Parallel()
	o := openOffice(t, officeConfig{access: access.Config{Accounts: []access.Account{person("ann", access.Operator), person("bob", access.Operator)}}})
	o.dies("a.example.com", "b.example.com", "c.example.com")
	letter := map[string]*sheet{}
	for _, name := range []string{"ann", "bob"} {
		letter[name] = o.signIn(name).opens("/dead-letters/1")
	}
	letter["ann"].send("Discard", "reason", "seen by ann").is(200)
	for _, button := range []string{"Replay", "Discard", "Hold"} {
		letter["bob"].send(button, "reason", "seen by bob").is(http.StatusConflict).says("Another action came first", "discarded", "ann", "seen by ann", "Dead letter 1")
	}
	if s := letter["bob"].v.do(http.MethodGet, "/dead-letters/1.json", ""); s.status != 200 {
		t.Errorf("%d: %s", s.status, s.body)
	}
}

// Actions on selected letters, and on all that match, first show a page with exactly
// these letters.
func TestMany(t *testing.T) {
	t.Parallel()
	o := openOffice(t, officeConfig{})
	o.dies("a.example.com", "b.example.com", "c.example.com", "d.example.com")
	v := o.visitor()
	list := v.opens("/dead-letters")
	confirm := list.send("Discard…", "number", "1", "number", "3").is(200).says("Discard 2 dead letters?", "The letters that you selected.", "certpost dead-letters discard 1 3 --reason=WHY")
	sound(t, "confirmation", confirm.doc, false)
	confirm.send("Discard 2 letters", "reason", "").is(http.StatusUnprocessableEntity).says("A reason is required")
	confirm.send("Discard 2 letters", "reason", "not wanted").is(200).says("Discarded.", "2 open letters")
	v.opens("/dead-letters?name=b.example.com").follow("Hold…").is(200).says("Hold 1 dead letter?", "name b.example.com").send("Hold 1 letter", "reason", "later").is(200).says("Held.")
	v.opens("/dead-letters").follow("Discard…").is(200).says("Discard 1 dead letter?", "Held 1")
}

// Without a selection, an action leads back to the unchanged list and a notice to select
// letters first. Links from that page do not carry the notice on.
func TestNoneChosen(t *testing.T) {
	t.Parallel()
	o := openOffice(t, officeConfig{})
	o.dies("a.example.com", "b.example.com", "c.example.com")
	v := o.visitor()
	list := v.opens("/dead-letters?code=SMTP_PERMANENT&size=2").send("Discard…").is(200).says("Select letters first.", "want to discard", "code SMTP_PERMANENT", "2 of 3 letters")
	sound(t, "none chosen", list.doc, false)
	if at := list.url; at.Path != lettersPath || at.Query().Get("size") != "2" || at.Query().Get("code") != "SMTP_PERMANENT" {
		t.Errorf("the action leads to %s", at)
	}
	order := []string{}
	for _, n := range all(list.doc) {
		if id, name := attr(n, "id"), attr(n, "name"); id == "choose" && attr(n, "tabindex") == "-1" || name == "number" {
			order = append(order, id+name)
		}
	}
	if len(order) != 3 || order[0] != "choose" {
		t.Errorf("order of the notice and the boxes: %v", order)
	}
	if text := textOf(list.follow("Next page").is(200).doc); strings.Contains(text, "Select letters first") {
		t.Error("the next page shows the notice too")
	}
	confirm := list.send("Discard…", "number", "2").is(200).says("Discard 1 dead letter?")
	if back := confirm.follow("Back").is(200); back.url.Query().Get("size") != "2" || strings.Contains(textOf(back.doc), "Select letters first") {
		t.Errorf("Back leads to %s", back.url)
	}

	group := v.opens("/dead-letters?view=groups").follow("Review").is(200)
	if at := group.send("Hold…").is(200).says("Select letters first.").url; at.Path != group.url.Path {
		t.Errorf("from a cause the action leads to %s", at)
	}
	for _, elsewhere := range []string{"//evil.test/dead-letters", "/sign-out", "/dead-letters/1", "https://evil.test/", "/dead-letters\\x"} {
		if at := v.do(http.MethodGet, "/dead-letters/confirm?action=hold&list="+url.QueryEscape(elsewhere), "").is(200).url; at.Path != lettersPath || "http://"+at.Host != o.url {
			t.Errorf("%s leads to %s", elsewhere, at)
		}
	}
	v.do(http.MethodGet, "/dead-letters/confirm?action=hold", "", "Accept", "application/json").is(http.StatusBadRequest)
	// Ignoring a mistyped filter would match more letters.
	v.do(http.MethodGet, "/dead-letters/confirm?action=discard&all=yes&trget=ops", "").is(http.StatusBadRequest).says(`unknown key "trget": did you mean target?`, "Nothing was done")
}

// Between the confirm page and its form more letters match: nothing is done, both counts
// are shown, and the page asks for confirmation again.
func TestConfirmedSetIsAnotherByNow(t *testing.T) {
	t.Parallel()
	o := openOffice(t, officeConfig{})
	o.dies("a.example.com", "b.example.com")
	by := broker.Actor{Name: "bob", Via: broker.ViaShell}
	held := o.desk.FreezeFor(desk.ForHold, desk.Query{}, []uint64{1}, false)
	_, err := o.desk.Hold(context.Background(), by, held, "later")
	must(t, err)
	v := o.visitor()
	confirm := v.opens("/dead-letters").follow("Discard…").is(200).says("Discard 1 dead letter?")
	_, err = o.desk.Release(context.Background(), by, o.desk.FreezeFor(desk.ForRelease, desk.Query{}, []uint64{1}, false), "")
	must(t, err)
	again := confirm.send("Discard 1 letter", "reason", "because").is(http.StatusConflict).says("The selection has changed", "You confirmed 1 letter", "The same conditions now match 2 letters")
	o.dies("c.example.com") // never shown, so not discarded
	again.send("Discard 2 letters", "reason", "because").is(200).says("1 open letter")
}

// When NATS is down, the error page says what still works.
//
// Fault: a stream or bucket that a page needs is missing or cannot be read. Result: the
// page says so and renews itself.
func TestNATSAway(t *testing.T) {
	t.Parallel()
	o := openOffice(t, officeConfig{})
	o.dies("a.example.com")
	v := o.visitor()
	v.client.Timeout = time.Minute
	hold := v.opens("/dead-letters/1")
	o.broker.Close()
	away := v.do(http.MethodGet, "/dead-letters/1", "").is(http.StatusServiceUnavailable).says("Temporarily unavailable", "renews itself", "What still works")
	if after := away.header.Get("Retry-After"); after != "5" || len(renewals(away.doc)) != 2 {
		t.Errorf("Retry-After %q, %q; want 5 seconds there, for browsers without scripts, and for the script", after, renewals(away.doc))
	}
	// An action is not repeated by itself, and its address is no page.
	hold = hold.send("Hold").is(http.StatusServiceUnavailable).says("Temporarily unavailable", "Go back, check whether the action was carried out")
	if after := hold.header.Get("Retry-After"); after != "" || len(renewals(hold.doc)) != 0 {
		t.Errorf("an action: Retry-After %q, %q", after, renewals(hold.doc))
	}
	o.until("the list says that it may be incomplete", func() bool {
		return strings.Contains(textOf(v.opens("/dead-letters").doc), "This page may be incomplete: NATS is unavailable")
	})
	// The script renews what may be incomplete; without it, only a page without rows to select
	// does that.
	for path, want := range map[string][]string{"/dead-letters": {"main"}, "/dead-letters?code=SMTP_TLS": {"noscript", "main"}, "/dead-letters?view=groups": {"main"}} {
		s := v.opens(path)
		if got := renewals(s.doc); !slices.Equal(got, want) || (s.header.Get("Retry-After") != "") != (len(want) == 2) {
			t.Errorf("%s is renewed by %q, Retry-After %q; want %q", path, got, s.header.Get("Retry-After"), want)
		}
	}
	v.opens("/dead-letters").says("1 open letter", "a.example.com")
	v.opens("/dead-letters?code=SMTP_TLS").says("Not known yet")
}

// renewals are the elements by which a page asks for itself again after five seconds.
func renewals(doc *html.Node) (found []string) {
	for _, n := range all(doc, "noscript", "main") {
		if n.Data == "main" && attr(n, "data-renew") == "5" || n.Data == "noscript" && n.FirstChild != nil && n.FirstChild.Data == `<meta http-equiv="refresh" content="5">` {
			found = append(found, n.Data)
		}
	}
	return found
}

// Hostile texts take the whole route: from certificates and forms through the streams to
// every page.
func TestHostileEventOnEveryPage(t *testing.T) {
	t.Parallel()
	o := openOffice(t, officeConfig{})
	const evil = `zzmark<evil data-evil="1" onmouseover='alert(1)'></evil><script>alert(1)</script>` + "\u202egpj\x1b[31m{{.}}"
	o.dies(evil, "a.example.com", evil+"2")
	v := o.visitor()
	v.opens("/dead-letters/1").send("Hold", "reason", evil).is(200)
	v.opens("/dead-letters/2").send("Discard", "reason", evil).is(200)
	v.opens("/dead-letters").follow("Replay…").is(200).send("Replay 1 letter", "reason", evil).is(200)
	o.until("the run has ended", func() bool { return !o.desk.Runs(desk.RunQuery{})[0].Ended.IsZero() })
	paths := []string{"/", "/dead-letters", "/dead-letters?view=groups", "/dead-letters/1", "/dead-letters/2", "/dead-letters/3", "/replays", "/replays/" + o.desk.Runs(desk.RunQuery{})[0].ID, "/deliveries", "/audit",
		"/dead-letters?q=" + url.QueryEscape(evil), "/dead-letters/confirm?all=yes&action=discard&name=" + url.QueryEscape(evil)}
	for _, path := range paths {
		s := v.opens(path)
		harmless(t, path, s.doc)
	}
	for _, path := range []string{"/dead-letters/" + url.PathEscape(evil), "/replays/" + url.PathEscape(evil), "/dead-letters/confirm?action=" + url.QueryEscape(evil), "/dead-letters?certainty=" + url.QueryEscape(evil)} {
		s := v.do(http.MethodGet, path, "")
		if s.status != http.StatusBadRequest && s.status != http.StatusNotFound {
			t.Errorf("%s: status %d", path, s.status)
		}
		harmless(t, path, s.doc)
	}
	for _, path := range []string{"/dead-letters.csv", "/audit.csv", "/deliveries.csv", "/replays.csv"} {
		if s := v.do(http.MethodGet, path, ""); s.status != 200 || !strings.HasPrefix(s.header.Get("Content-Type"), "text/csv") || s.header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: status %d, Content-Type %s", path, s.status, s.header.Get("Content-Type"))
		}
	}
}
