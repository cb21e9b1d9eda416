package main

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/devrelay"
	"github.com/certpost/certpost/internal/lab"
)

const permissionsPage = root + "/docs/nats-permissions.md"

// printedAccount is what the page shows: the output of the command.
func printedAccount(t *testing.T) string {
	t.Helper()
	return command(t, nil, "nats-account", "--source=web1", "--source=web2", "--mail-host=mx1").done(t)
}

// The account on the page is what the command prints.
func TestNATSAccountOnThePage(t *testing.T) {
	t.Parallel()
	const begin, end = "<!-- account: go generate ./cmd/consumer -->\n```text\n", "```\n<!-- end of the account -->\n"
	partUpToDate(t, permissionsPage, begin, end, printedAccount(t))
}

// roles are users of a NATS server whose account is that of the page. Each has the password of its
// name.
type roles struct {
	*fixture
	url   string
	keyed bool // commands have the program's audit.key
}

func password(role string) string { return "canary-of-" + role }

// section is the section nats of a role's configuration.
func (r *roles) section(role string) string {
	r.write("nats-"+role, password(role))
	api := ""
	if role == "auditor" {
		api = ", api_prefix: JS.certpost.API"
	}
	return fmt.Sprintf("{url: %q, user: %s, password: {file: %s}, inbox_prefix: _INBOX_%s%s}", r.url, role, r.path("nats-"+role), role, api)
}

// as runs a command as one of the roles.
func (r *roles) as(role string, args ...string) said {
	r.t.Helper()
	key := ""
	if r.keyed {
		key = "audit: {key: {file: " + r.path("audit.key") + "}}\n"
	}
	r.write(role+".yaml", "data_dir: "+r.dir+"/nodata\nnats: "+r.section(role)+"\ntargets_file: "+r.dir+"/targets.yaml\n"+key)
	return command(r.t, nil, append([]string{"-c", r.path(role + ".yaml")}, args...)...)
}

// withRoles starts a NATS server with the accounts on the page, and the program as its user certpost.
func withRoles(t *testing.T, rules ...devrelay.Rule) *roles {
	t.Helper()
	r := openRoles(t)
	r.write("audit.key", broker.NewAuditKey())
	r.furnish("audit: {key: {file: "+r.path("audit.key")+"}}", rules...)
	return r
}

// openRoles is withRoles before the program is started.
func openRoles(t *testing.T) *roles {
	t.Helper()
	r := &roles{fixture: bareFixture(t)}
	r.url = lab.NATS(t, lab.FreeAddress(t), accountsOnThePage(t)).ClientURL()
	r.server = r.section("certpost")
	return r
}

// accountsOnThePage is the configuration on the page; each user has the password of its name.
func accountsOnThePage(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile(permissionsPage)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "```text\naccounts {")
	block, _, ok := strings.Cut("accounts {"+rest, "```")
	if !ok {
		t.Fatal("the page has no account")
	}
	variable := regexp.MustCompile(`user: (\S+), password: \$NATS_[A-Z0-9_]+_PASSWORD`)
	return variable.ReplaceAllStringFunc(block, func(login string) string {
		user := variable.FindStringSubmatch(login)[1]
		return fmt.Sprintf("user: %s, password: %q", user, password(user))
	})
}

// Every role of the page does its work on a server that has its account from the page, and nothing
// of what others do.
//
// Fault: a user of one role tries what belongs to another: to forge, delete, read past its role, or
// read answers to others. Result: denied by the account that `nats-account` prints; each role does
// its own work.
//
// Fault: or less. Result: `check --live` names each act or subject, and changes nothing.
func TestNATSRoles(t *testing.T) {
	t.Parallel()
	r := withRoles(t, refuseNobody)
	cert, key, _ := r.issue("www.example.com")

	// A publisher gets the acknowledgement of what it publishes; Certpost delivers it.
	r.as("publisher-web1", "publish", "--cert="+cert, "--key-ref=file:"+key, "--as=web1", "--target=keys", "--target=nobody").done(t)
	r.mailTo("keys@demo.example", 1)
	r.settled()
	if letters := r.letters(); len(letters) != 1 || letters[0].EventSubject != "certificate.issued.web1" {
		t.Fatalf("letters: %+v", letters)
	}
	r.until("the program's index has the letter", func() bool {
		return strings.Contains(r.as("dashboard", "dead-letters", "list").stdout, "SMTP_PERMANENT")
	})

	// Operator: everything that can be done with a letter.
	r.as("operator", "dead-letters", "show", "1").done(t)
	r.as("operator", "dead-letters", "hold", "1", "--reason=wait").done(t)
	r.as("operator", "dead-letters", "release", "1", "--reason=done").done(t)
	r.as("operator", "dead-letters", "discard", "1", "--reason=mistake").done(t)
	r.as("operator", "dead-letters", "restore", "1").done(t)
	r.as("operator", "dead-letters", "replay", "2").done(t)
	r.until("the replay is refused by the relay again", func() bool {
		letters := r.letters()
		return len(letters) == 1 && letters[0].Sequence == 3
	})
	r.as("operator", "dead-letters", "replay", "--all", "--reason=again", "--yes").done(t)
	r.until("the run's letter is back", func() bool {
		letters := r.letters()
		return len(letters) == 1 && letters[0].Sequence == 4
	})

	// Auditor and dashboard read.
	if said := r.as("auditor", "audit", "verify").done(t); !strings.Contains(said, "No HMAC was checked") {
		t.Errorf("the auditor's verification says %q", said)
	}
	r.keyed = true
	if said := r.as("auditor", "audit", "verify").done(t); !strings.Contains(said, "signed, all from") || !strings.Contains(said, "covered by checkpoints") {
		t.Errorf("the auditor's verification with the key says %q", said)
	}
	r.as("auditor", "deliveries", "who", "--name=www.example.com", "--key").done(t)
	r.as("auditor", "audit", "list", "--action=discarded").done(t)
	for _, role := range []string{"auditor", "dashboard"} {
		r.as(role, "dead-letters", "groups").done(t)
		r.as(role, "deliveries", "list").done(t)
		r.as(role, "replays", "list").done(t)
	}
	if said := r.as("certpost", "status").done(t); !strings.Contains(said, "Dead letters") {
		t.Errorf("status: %s", said)
	}
	if said := r.as("certpost", "relays", "list").done(t); !strings.Contains(said, "localhost") {
		t.Errorf("relays: %s", said)
	}
	if log := r.log.String(); strings.Contains(log, "NATS denies") || strings.Contains(strings.ToLower(log), "permissions violation") {
		t.Errorf("the program lacks a permission: %s", log)
	}

	// What a role may not do.
	harm := []string{"$JS.API.STREAM.DELETE.CERTPOST_EVENTS", "$JS.API.STREAM.PURGE.CERTPOST_AUDIT", "$JS.API.STREAM.MSG.DELETE.CERTPOST_AUDIT",
		"$JS.API.STREAM.CREATE.OTHER", "$JS.API.CONSUMER.CREATE.OTHER.c", "$JS.API.STREAM.SNAPSHOT.CERTPOST_EVENTS", "$KV.OTHER.k", "$SYS.REQ.SERVER.PING", "other"}
	forge := []string{"certpost.audit.delivered.x", "certpost.delivery.relay.ops", "certpost.dead.SMTP_AUTH.relay.ops.e1", "certpost.manifest", "$KV.CERTPOST_LEDGER.ops.e1",
		"$KV.CERTPOST_RELAYS.suspended.l", "$JS.API.CONSUMER.CREATE.CERTPOST_EVENTS.spy", "$JS.API.STREAM.MSG.GET.CERTPOST_EVENTS", "$JS.API.DIRECT.GET.CERTPOST_DEAD_LETTERS",
		"$JS.ACK.CERTPOST_DELIVERIES.lane-x.1.1.1.1.1", "certificate.issued.other"}
	change := []string{"certpost.dead.replay", "certpost.dead.edit", "certpost.dead.discard", "certpost.dead.restore", "certpost.dead.hold", "certpost.dead.release", "certpost.dead.handling",
		"certpost.dead.preflight", "certpost.replays.cancel", "certpost.replays.pause", "certpost.replays.resume"}
	read := []string{"certpost.dead.list", "certpost.dead.show", "certpost.deliveries.list", "certpost.history.list", "$JS.API.DIRECT.GET.CERTPOST_AUDIT"}
	join := func(lists ...[]string) (all []string) {
		for _, l := range lists {
			all = append(all, l...)
		}
		return all
	}
	spy := []string{"certificate.issued.>", "certpost.delivery.>", "certpost.dead.>", "certpost.audit.>", "$KV.>", ">", "_INBOX.>", "_INBOX_certpost.>", "certpost.dead.list"}
	for role, forbidden := range map[string]struct{ publish, subscribe []string }{
		"certpost":       {harm, []string{"certificate.issued.>", "certpost.delivery.>", "certpost.audit.>", ">", "_INBOX.>", "_INBOX_operator.>"}},
		"publisher-web1": {join(harm, forge, change, read, []string{"certificate.issued", "certificate.issued.web2", "certificate.issued.web1.sub"}), spy},
		"publisher-web2": {[]string{"certificate.issued.web1"}, []string{"_INBOX_publisher-web1.>"}},
		"operator":       {join(harm, forge, []string{"certificate.issued", "$JS.API.DIRECT.GET.CERTPOST_AUDIT"}), spy},
		"auditor":        {join(harm, forge, change, []string{"certificate.issued"}), spy},
		"dashboard":      {join(harm, forge, change, []string{"certificate.issued", "$JS.API.DIRECT.GET.CERTPOST_AUDIT"}), spy},
	} {
		r.forbidden(role, forbidden.publish, forbidden.subscribe)
	}
	r.liveCheck()
}

// An answer goes to the subject that the request names, and permissions say nothing about that: the server
// sends it. So an answer must not leave the account of who asked.
//
// Fault: a user who may only publish events, or only read, names a subject of a stream for the answer. Result: the answer
// stays in the user's own account; nothing is stored.
func TestAnswersStayInTheAccount(t *testing.T) {
	t.Parallel()
	spied := regexp.MustCompile(`(?m)^  (CERTPOST\S*) \{((?s:.*?)users: \[\n)`).ReplaceAllString(accountsOnThePage(t), `  $1 {$2      {user: "spy in $1", password: "x"}`+"\n")
	r := &roles{fixture: bareFixture(t)}
	r.url = lab.NATS(t, lab.FreeAddress(t), spied).ClientURL()
	r.server = r.section("certpost")
	r.furnish("", refuseNobody)
	cert, _, _ := r.issue("www.example.com")
	r.as("publisher-web1", "publish", "--cert="+cert, "--as=web1", "--target=nobody").done(t)
	r.settled()
	connect := func(user, secret string) *nats.Conn {
		nc, err := nats.Connect(r.url, nats.UserInfo(user, secret))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		return nc
	}
	// What arrives in an account on the subjects of the tricks.
	tricks := []string{"certpost.audit.trick.x.y", "$KV.CERTPOST_LEDGER.ops.trick", "certpost.delivery.relay.trick", "certpost.dead.SMTP_AUTH.trick.x.y", "certificate.issued.trick",
		"$JS.API.STREAM.PURGE.TRICK", "_INBOX_certpost.trick"}
	listen := func(account string, nc *nats.Conn) chan string {
		heard := make(chan string, 1000)
		for _, trick := range tricks {
			if _, err := nc.Subscribe(trick, func(m *nats.Msg) { heard <- account + " " + m.Subject }); err != nil {
				t.Fatal(err)
			}
		}
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
		return heard
	}
	spy := connect("spy in CERTPOST", "x")
	leaked := listen("CERTPOST", spy)
	raw, err := r.service.broker.JetStream().Stream(t.Context(), broker.EventsStream)
	if err != nil {
		t.Fatal(err)
	}
	event, err := raw.GetMsg(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	before := raw.CachedInfo().State.LastSeq
	for role, requests := range map[string][]string{
		"publisher-web1": {"certificate.issued.web1", "$SYS.REQ.USER.INFO"},
		"operator":       {"certpost.dead.list", "certpost.dead.discard", "$SYS.REQ.USER.INFO"},
		"auditor":        {"certpost.history.list", "JS.certpost.API.STREAM.INFO.CERTPOST_AUDIT", "JS.certpost.API.DIRECT.GET.CERTPOST_AUDIT", "JS.certpost.API.STREAM.MSG.GET.CERTPOST_AUDIT", "$SYS.REQ.USER.INFO"},
		"dashboard":      {"certpost.deliveries.who", "certpost.dead.list", "$SYS.REQ.USER.INFO"},
	} {
		account := "CERTPOST-" + role
		kept := listen(account, connect("spy in "+account, "x"))
		nc := connect(role, password(role))
		for _, request := range requests {
			for _, trick := range tricks {
				m := &nats.Msg{Subject: request, Reply: trick, Data: []byte("{}")}
				if strings.HasPrefix(request, "certificate.") {
					m.Data, m.Header = event.Data, nats.Header{nats.MsgIdHdr: event.Header[nats.MsgIdHdr]} // a duplicate
				}
				if strings.Contains(request, "API.") {
					m.Data = []byte(`{"seq":1}`)
				}
				if err := nc.PublishMsg(m); err != nil {
					t.Fatal(err)
				}
				select {
				case <-kept:
				case got := <-leaked:
					t.Errorf("the answer to %s of %s leaves the account: %s", request, role, got)
				case <-time.After(20 * time.Second):
					t.Errorf("no answer to %s of %s on %s", request, role, trick)
				}
			}
		}
	}
	// The spy hears what does arrive.
	if err := spy.Publish(tricks[0], nil); err != nil {
		t.Fatal(err)
	}
	if got := <-leaked; got != "CERTPOST "+tricks[0] {
		t.Errorf("in the program's account: %s", got)
	}
	info, err := raw.Info(t.Context())
	if err != nil || info.State.LastSeq != before {
		t.Errorf("events: %+v, %v", info, err)
	}
}

// forbidden tries what a role may not do. The server says no to each before it answers the ping of
// Flush.
func (r *roles) forbidden(role string, publish, subscribe []string) {
	r.t.Helper()
	nc, err := nats.Connect(r.url, nats.UserInfo(role, password(role)), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err != nil {
		r.t.Fatal(err)
	}
	defer nc.Close()
	denied := func(how, subject string) {
		r.t.Helper()
		if err := nc.Flush(); err != nil {
			r.t.Fatal(err)
		}
		if err := nc.LastError(); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("Permissions Violation for %s to %q", how, subject)) {
			r.t.Errorf("%s is allowed: %s to %s (%v)", role, how, subject, err)
		}
	}
	for _, subject := range publish {
		if err := nc.Publish(subject, []byte("{}")); err != nil {
			r.t.Fatal(err)
		}
		denied("Publish", subject)
	}
	for _, subject := range subscribe {
		if _, err := nc.SubscribeSync(subject); err != nil {
			r.t.Fatal(err)
		}
		denied("Subscription", subject)
	}
}

// liveCheck compares what check --live says of users with too few and too many rights.
func (r *roles) liveCheck() {
	r.t.Helper()
	for role, want := range map[string][]string{
		"certpost":       {"user certpost has the permissions of its role and no others"},
		"publisher-web1": {"user publisher-web1 may not publish $JS.API.STREAM.CREATE.CERTPOST_EVENTS; certpost nats-account prints what it needs", "may not subscribe to certpost.dead.list", "may not publish answers"},
	} {
		said := r.as(role, "check", "--live", "--target=ops")
		for _, w := range want {
			if !strings.Contains(said.stdout, w) {
				r.t.Errorf("check --live as %s says\n%s%swant %s", role, said.stdout, said.stderr, w)
			}
		}
		if strings.Contains(said.stdout+said.stderr, "canary-of-") {
			r.t.Error("check shows a password")
		}
	}
}

// A user without permissions, and one with the subjects of a whole account, are told what is too much.
//
// Fault: a user that may do more than its role. Result: `check --live` names each act or subject.
func TestCheckSaysWhichRightsAreTooMany(t *testing.T) {
	t.Parallel()
	r := &roles{fixture: bareFixture(t)}
	r.url = lab.NATS(t, lab.FreeAddress(t), `accounts { A { jetstream: enabled, users: [
		{user: all, password: "canary-of-all"}
		{user: most, password: "canary-of-most", permissions: {publish: {allow: [">"], deny: ["$JS.API.STREAM.PURGE.*"]}, subscribe: {allow: [">"]}}}
		{user: mute, password: "canary-of-mute", permissions: {publish: {deny: ["$SYS.>"]}}}
	] } }`).ClientURL()
	r.write("targets.yaml", "targets: []\n")
	for role, want := range map[string]struct{ says, not string }{
		"all": {"warning  nats: permissions: user all has no permissions, so it may do everything in its account; certpost nats-account prints what is enough", ""},
		"most": {"warning  nats: permissions: user most may delete streams (publish $JS.API.STREAM.DELETE.*); certpost nats-account prints what is enough\n",
			"empty streams"},
		"mute": {"warning  nats: permissions: " + broker.ErrRightsUnknown.Error(), ""},
	} {
		said := r.as(role, "check", "--live")
		if !strings.Contains(said.stdout, want.says) || want.not != "" && strings.Contains(said.stdout, want.not) {
			t.Errorf("check as %s says\n%s%swant %s, and not %s", role, said.stdout, said.stderr, want.says, want.not)
		}
	}
}

func TestNATSAccountCommand(t *testing.T) {
	t.Parallel()
	o := bareFixture(t)
	o.write("c.yaml", "nats: {url: \"nats://127.0.0.1:1\", inbox_prefix: _MINE, domain: hub}\nevents: {sources: {web.1: {targets: [a]}, web-1: {targets: [a]}, \"w*\": {targets: [a]}}}\n")
	text := command(t, nil, "-c", o.path("c.yaml"), "nats-account", "--auth=nkey", "--account=MAIL").done(t)
	for _, want := range []string{"  MAIL {\n", "{nkey: $NATS_CERTPOST_NKEY, permissions: {", `"_MINE.>"`, `"$JS.hub.API.STREAM.CREATE.CERTPOST_EVENTS"`, `"$JS.hub.API.$KV.CERTPOST_LEDGER.>"`,
		"# publisher-web-1: publishes events on certificate.issued.web-1,", "# publisher-web-1-2: publishes events on certificate.issued.web.1,", "{nkey: $NATS_PUBLISHER_WEB_1_2_NKEY,"} {
		if !strings.Contains(text, want) {
			t.Errorf("the account has no %s:\n%s", want, text)
		}
	}
	for _, not := range []string{`"$JS.API.`, "password", "issued.w*", "seed"} {
		if strings.Contains(text, not) {
			t.Errorf("the account has %s", not)
		}
	}
	if said := command(t, nil, "nats-account", "--source=a..b"); said.code != exitUsage || !strings.Contains(said.stderr, "--source a..b: begins or ends with a dot") {
		t.Errorf("exit %d, %s", said.code, said.stderr)
	}
}
