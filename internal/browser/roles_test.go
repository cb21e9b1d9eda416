package browser

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/certpost/certpost/internal/access"
	"github.com/certpost/certpost/internal/broker"
)

// accounts is a configuration with one user for each role, named like the role, and with
// edit_and_replay.
func accounts() string {
	config := `http:
  listen: "127.0.0.1:0"
  edit_and_replay: {enabled: true, targets: [ops-archive], recipients: [standby@example.com, "*@backup.example.org"]}
  sign_in:
    users:
`
	for _, role := range []string{"viewer", "operator", "admin"} {
		config += fmt.Sprintf("      - {name: %s, role: %s, password_hash: %q}\n", role, role, access.NewHash(role+"-password"))
	}
	return config
}

// signIn signs in as the user of a role.
func (h *hands) signIn(role string) {
	h.t.Helper()
	h.open("/sign-in")
	h.enter("form", "Name", role)
	h.enter("form", "Password", role+"-password")
	h.use("form", "Sign in")
	h.at("/")
	h.sees(role + ", " + role)
}

// testRoles does every action as an admin. Then it checks that an operator and a viewer
// neither see the actions of higher roles nor reach their addresses.
func testRoles(t *testing.T, c *chromium) {
	o := newOffice(t, accounts())
	o.seed()
	open, uncertain := o.lettersTo("pki-mailbox"), o.numbers().uncertain
	run := testAdmin(t, c, o, open)
	letter, edit := fmt.Sprintf("/dead-letters/%d", open[4]), fmt.Sprintf("/dead-letters/edit/%d", open[4])

	operator := ways[0].hands(t, c, o.http)
	operator.signIn("operator")
	operator.open(letter)
	if !mustAsk[bool](operator.tab, `!!document.querySelector("#replay form") && !find("Edit and replay")`) {
		t.Error("an operator's page has no replay form, or has a link to edit")
	}
	operator.isRefused(edit, "admin")
	operator.looks("refused")

	viewer := ways[0].hands(t, c, o.http)
	viewer.signIn("viewer")
	operator.open("/settings")
	operator.click("Where you are signed in")
	operator.sees("this browser")
	testSessions(t, c, o)
	viewer.open("/")
	cause := mustAsk[string](viewer.tab, `document.querySelector("article.cause h3 a").getAttribute("href")`)
	for _, page := range []string{
		"/", "/dead-letters", "/dead-letters?view=groups", cause, letter, fmt.Sprintf("/dead-letters/%d", uncertain),
		"/replays", run, "/deliveries", "/deliveries/ops-archive/certbot-www-01", "/targets", "/targets/ops-archive", "/relays", "/relays/" + o.lanes[0], "/audit",
	} {
		viewer.open(page)
		viewer.at(page)
		if got := mustAsk[[]string](viewer.tab, `[...document.querySelectorAll("main form[method=post]:not([action='/settings']), main input[type=checkbox], main a[href*='/confirm'], main a[href*='/edit/']")].map(e => e.outerHTML.slice(0, 200))`); len(got) > 0 {
			t.Errorf("%s: a viewer can act by %q", page, got)
		}
	}
	viewer.isRefused("/dead-letters/confirm?action=replay&all=yes", "operator")
	viewer.isRefused(edit, "admin")
}

// testSessions signs an operator out from an administrator's list, by keyboard and
// without scripts.
func testSessions(t *testing.T, c *chromium, o *office) {
	for _, way := range ways[1:3] {
		lost := way.hands(t, c, o.http)
		lost.signIn("operator")
		admin := way.hands(t, c, o.http)
		admin.signIn("admin")
		admin.open("/sessions?q=operator&size=1") // the last one used is the first
		admin.looks("sessions")
		admin.use("tr form", "Sign out")
		admin.sees("Signed out there.")
		lost.open("/")
		lost.sees("Password")
		lost.evaluate("0") // all earlier events have been handled after this
		lost.take()        // the live parts of the page may have been answered with 401 before
	}
}

// isRefused opens an address that requires a higher role.
func (h *hands) isRefused(address, needs string) {
	h.t.Helper()
	h.open(address)
	h.sees("Permission denied")
	h.sees("requires the role " + needs)
	h.expect("status 403")
}

// testAdmin acts on the first of the open letters. It returns the address of a paused
// replay.
func testAdmin(t *testing.T, c *chromium, o *office, open []uint64) (run string) {
	h := ways[0].hands(t, c, o.http)
	h.signIn("admin")
	h.editAndReplay(o, o.lettersTo("web-team")[0])

	h.onLetter(open[0], "hold", "Hold", "Asked the web team")
	h.sees("Held.")
	h.onLetter(open[0], "release", "Release", "")
	h.sees("Released.")
	h.onLetter(open[1], "discard", "Discard", "The service is gone")
	h.sees("Discarded.")
	h.onLetter(open[1], "restore", "Restore", "It is not")
	h.sees("Restored.")
	h.onLetter(open[2], "preflight", "Preflight", "")
	h.sees("What a replay would find now")

	h.open("/targets/ops-archive")
	h.click("Check now")
	h.sees("Checked just now")
	h.toLane(o.lanes[0])
	h.enter("main form", "Reason", "The relay is being moved")
	h.use("main form", "Suspend")
	h.sees("Suspended.")
	h.toLane(o.lanes[0])
	h.use("main form", "Resume")
	h.sees("Resumed.")

	o.fixRelay()
	h.open("/dead-letters/confirm?action=replay&all=yes&target=partner-portal")
	h.enter("main form", "Reason", "The postmaster has allowed our sender")
	h.enter("main form", "Rate limit", "1/h")
	h.use("main form", "Replay 8 letters")
	h.sees("The replay has started")
	run = h.path()
	h.use("#steering summary", "Pause")
	h.use("#steering form", "Pause")
	h.sees("Paused.")

	// The audit has all of it, with the user's name and role.
	var done []broker.Action
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for r, err := range o.broker.ReadAudit(ctx, 1) {
		if err != nil {
			t.Fatal(err)
		}
		if r.Name == "admin" && r.Role == "admin" && r.Via == broker.ViaPage {
			done = append(done, r.Action)
		}
	}
	for _, want := range []broker.Action{
		broker.ActionReplayed, broker.ActionHeld, broker.ActionReleased, broker.ActionDiscarded, broker.ActionRestored, broker.ActionSuspended, broker.ActionResumed,
		broker.ActionStarted, broker.ActionPaused,
	} {
		if !slices.Contains(done, want) {
			t.Errorf("the audit has no record %q by the admin: %q", want, done)
		}
	}
	return run
}

// editAndReplay replays a letter to another recipient and checks the mail.
func (h *hands) editAndReplay(o *office, number uint64) {
	h.t.Helper()
	before := len(o.relay.Mails())
	page := fmt.Sprintf("/dead-letters/%d", number)
	h.open(page)
	h.use("main", "Edit and replay…")
	h.arrives(fmt.Sprintf("/dead-letters/edit/%d", number))
	h.sees("Also allowed, besides the target's own recipients: standby@example.com, *@backup.example.org.")
	if got := mustAsk[[]string](h.tab, `[...document.querySelector("select[name=target]").options].map(o => o.value)`); !slices.Equal(got, []string{"web-team", "ops-archive"}) {
		h.t.Errorf("the form offers the targets %q, want the letter's own and the allowed ones", got)
	}
	h.looks("edit")

	// A recipient that is not allowed is refused, with the error at its field.
	h.fill("Recipients", "standby@example.com, thief@evil.example")
	h.fill("Reason", "The web team has no mailbox any more")
	h.use("main form", "Review changes")
	h.sees("thief@evil.example is neither a recipient of the target nor in http.edit_and_replay.recipients")
	h.expect("status 403")
	h.holds("the error to be beside its field, which has the focus", `(field => field === document.activeElement && field.ariaInvalid === "true"
		&& field.getAttribute("aria-describedby") === document.querySelector("[role=alert]").id && field.value === "standby@example.com, thief@evil.example")(document.querySelector("input[name=recipients]"))`)
	h.accessible("after a recipient was refused")

	h.fill("Recipients", "standby@example.com")
	h.use("main form", "Review changes")
	h.sees("Differences from a plain replay")
	h.seesOf("main table", "web@retired.example.com", "standby@example.com", "changed")
	h.looks("edit-difference")
	if got := len(o.relay.Mails()); got != before {
		h.t.Errorf("reviewing the changes sent %d mails", got-before)
	}
	h.use("main form", "Replay as edited")
	h.at(page)
	h.sees("Published again as edited.")
	h.sees("The web team has no mailbox any more")
	o.settled(letters - 1)
	mails := o.relay.Mails()
	if len(mails) != before+1 || !slices.Equal(mails[len(mails)-1].Recipients, []string{"standby@example.com"}) {
		h.t.Fatalf("%d mails were sent, want one, to standby@example.com only: %+v", len(mails)-before, mails)
	}
}
