package main

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/lab"
)

// Who sent a request is what the server proves; a name in the request is only a name. The
// operators are in an account of their own and import the requests with share: true.
//
// Fault: a request over NATS claims a name, or forges the server's header about its sender. Result:
// every door shows the name as unproved, with the NATS user or account if the server has proved it.
func TestNamesInRequestsAreProvedOrNot(t *testing.T) {
	t.Parallel()
	for _, trusted := range []bool{true, false} {
		t.Run(fmt.Sprintf("trust_request_info: %v", trusted), func(t *testing.T) {
			t.Parallel()
			o := bareFixture(t)
			key, err := nkeys.CreateUser()
			if err != nil {
				t.Fatal(err)
			}
			carol, err := key.PublicKey()
			if err != nil {
				t.Fatal(err)
			}
			url := lab.NATS(t, lab.FreeAddress(t), `accounts {
				CERTPOST { jetstream: enabled, users: [{user: certpost, password: x}], exports: [{service: "certpost.dead.*"}, {service: "certpost.history.list"}] }
				OPS { users: [{nkey: `+carol+`}, {user: erin, password: x}], imports: [{service: {account: CERTPOST, subject: "certpost.dead.*"}, share: true}] }
				QUIET { users: [{user: dave, password: x}], imports: [{service: {account: CERTPOST, subject: "certpost.dead.*"}}] }
			}`).ClientURL()
			o.write("x", "x")
			o.server = fmt.Sprintf("{url: %q, user: certpost, password: {file: %s/x}, trust_request_info: %v}", url, o.dir, trusted)
			o.furnish("", refuseNobody)
			o.write("client.yaml", "nats: "+o.server+"\n")
			o.publish("e1", "nobody")
			o.settled()
			o.until("the letter is in the index", func() bool { return strings.Contains(o.certpost("dead-letters", "list").stdout, "SMTP_PERMANENT") })

			acts := []string{"hold", "release", "hold", "release", "hold"}
			ask := func(user, request string, forged bool) {
				t.Helper()
				login := nats.UserInfo(user, "x")
				if user == "carol" {
					login = nats.Nkey(carol, key.Sign)
				}
				nc, err := nats.Connect(url, login)
				if err != nil {
					t.Fatal(err)
				}
				defer nc.Close()
				m := nats.NewMsg("certpost.dead." + acts[0])
				acts = acts[1:]
				m.Data = []byte(request)
				if forged {
					m.Header.Set("Nats-Request-Info", `{"acc": "OPS", "user": "`+carol+`", "issuer_key": "OPS"}`)
				}
				answer, err := nc.RequestMsgWithContext(lab.Patient(t), m)
				if err != nil || answer.Header.Get("Nats-Service-Error") != "" {
					t.Fatalf("%s: %v %v", request, err, answer)
				}
			}
			ask("carol", `{"numbers": [1], "by": "ada", "reason": "claims a name"}`, false)
			ask("carol", `{"numbers": [1], "by": "`+carol+`", "reason": "says who it is"}`, false)
			ask("carol", `{"numbers": [1], "reason": "says nothing"}`, false)
			ask("dave", `{"numbers": [1], "by": "ada", "reason": "forges"}`, true) // the server replaces its header
			want := map[string]broker.Actor{
				"claims a name":      {Name: "ada", Proved: broker.Unproved, NATSUser: "OPS/" + carol},
				"says who it is":     {Name: "OPS/" + carol, Proved: broker.Proved, NATSUser: "OPS/" + carol},
				"says nothing":       {Name: "OPS/" + carol, Proved: broker.Proved, NATSUser: "OPS/" + carol},
				"forges":             {Name: "ada", Proved: broker.Unproved, NATSUser: "QUIET"},
				"claims the account": {Name: "OPS", Proved: broker.Unproved, NATSUser: "OPS"},
			}
			shown := "ada, unproved, by NATS user OPS/" + carol
			if trusted {
				ask("erin", `{"numbers": [1], "by": "OPS", "reason": "claims the account"}`, false)
			} else {
				ask("certpost", `{"numbers": [1], "by": "ada", "reason": "forges within the account"}`, true)
				want = map[string]broker.Actor{
					"claims a name":             {Name: "ada", Proved: broker.Unproved},
					"says who it is":            {Name: carol, Proved: broker.Unproved},
					"says nothing":              {Name: "unnamed NATS client", Proved: broker.Unproved},
					"forges":                    {Name: "ada", Proved: broker.Unproved},
					"forges within the account": {Name: "ada", Proved: broker.Unproved},
				}
				shown = "ada, unproved"
				if refused := o.certpost("dead-letters", "replay", "1", "--reason", "x"); !strings.Contains(refused.stderr, "dead letter 1 is held by ada, unproved since ") {
					t.Errorf("the refusal: %+v", refused)
				}
				d := &doors{fixture: o, browser: http.DefaultClient}
				if _, seen := d.visit("GET /dead-letters/1"); !strings.Contains(seen, "Held by ada, unproved since ") {
					t.Errorf("the letter's page: %s", seen)
				}
			}
			var text string
			o.until("the history has all", func() bool {
				text = o.certpost("audit", "list", "-o", "json").done(t)
				return strings.Count(text, `"reason"`) >= len(want)
			})
			for _, r := range read[[]desk.Record](t, text) {
				by, known := want[r.Reason]
				by.Via = broker.ViaService
				if known && r.Actor != by {
					t.Errorf("%s: %+v, want %+v", r.Reason, r.Actor, by)
				}
				delete(want, r.Reason)
			}
			if len(want) > 0 {
				t.Errorf("not in the audit: %v\n%s", want, text)
			}
			if !strings.Contains(text, `"proved": false`) {
				t.Errorf("the audit in JSON does not say what is unproved: %s", text)
			}
			if table := o.certpost("audit", "list").done(t); !strings.Contains(table, shown) {
				t.Errorf("the table does not say %q:\n%s", shown, table)
			}
			if csv := o.certpost("audit", "list", "-o", "csv").done(t); !strings.Contains(csv, ",proved,nats_user") || !strings.Contains(csv, ",false,") {
				t.Errorf("the columns do not say it:\n%s", csv)
			}
			d := &doors{fixture: o, browser: http.DefaultClient}
			for _, page := range []string{"/audit", "/dead-letters/1"} {
				if _, seen := d.visit("GET " + page); !strings.Contains(seen, shown) {
					t.Errorf("%s does not say %q:\n%s", page, shown, seen)
				}
			}
			detail := read[desk.Detail](t, o.certpost("dead-letters", "show", "1", "-o", "json").done(t))
			if len(detail.History) == 0 || detail.History[0].Proved != broker.Unproved {
				t.Errorf("the letter's history: %+v", detail.History)
			}
		})
	}
}
