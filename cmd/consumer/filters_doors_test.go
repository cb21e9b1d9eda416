package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/csv"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/devrelay"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/service"
)

// filtered is a list with a filter, and how many it finds.
type filtered struct {
	list   string            // its page
	filter map[string]string // by key
	want   int
}

// commandsOf and requestsOf are the same lists at the other doors; the request's answer has
// the things of the list under the key.
var (
	commandsOf = map[string]string{"/dead-letters": "dead-letters list", "/deliveries": "deliveries list", "/replays": "replays list", "/audit": "audit list"}
	requestsOf = map[string][2]string{"/dead-letters": {"dead.list", "letters"}, "/deliveries": {"deliveries.list", "entries"}, "/replays": {"replays.list", "runs"}, "/audit": {"history.list", "records"}}
)

// sinceThen stands for the time from a moment until now, as a duration: each door gets its
// own, because now goes on.
const sinceThen = "since then"

// publishUntil publishes an event with a certificate that expires after so many days.
func (o *fixture) publishUntil(id string, days int, targets ...string) {
	o.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		o.t.Fatal(err)
	}
	leaf, err := certify(&x509.Certificate{Subject: pkix.Name{CommonName: id + ".example.com"}, DNSNames: []string{id + ".example.com"}, NotAfter: time.Now().AddDate(0, 0, days),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true}, o.ca.intermediate, &key.PublicKey, o.ca.key)
	if err != nil {
		o.t.Fatal(err)
	}
	chain := ""
	for _, c := range []*x509.Certificate{leaf, o.ca.intermediate} {
		chain += string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	if _, _, err := o.service.broker.Publish(o.t.Context(), &events.Event{ID: id, Certificate: events.Certificate{PEM: chain}, Targets: targets}); err != nil {
		o.t.Fatal(err)
	}
	o.settled()
}

// The same filter finds the same at every door, and the page shows the command that finds
// it.
func TestConditionsAtEveryDoor(t *testing.T) {
	t.Parallel()
	o := newFixture(t, "", refuseNobody, devrelay.Rule{Stage: devrelay.StageRcpt, Recipient: "prod@*", Code: 550, Enhanced: "5.1.1", Text: "not yet", Times: 1})
	d := o.doors()
	o.publishUntil("e0", 90, "prod")
	o.certpost("dead-letters", "replay", "--all", "--yes", "--wait", "--reason", "mended").done(t)
	o.publishUntil("e1", 10, "nobody", "ops")
	nextSecond := func() time.Time { // the list of deliveries has whole seconds
		before := time.Now()
		o.until("the next second", func() bool { return time.Now().Truncate(time.Second).After(before) })
		return time.Now()
	}
	then := nextSecond()
	// What follows comes later than a door takes to answer: later than all of them took.
	o.until("the page has the letter", func() bool { return strings.Count(d.listed("/dead-letters", nil), "<tr data-row>") == 1 })
	d.finds(filtered{"/dead-letters", map[string]string{}, 1}, then)
	between := time.Now().UTC()
	nextSecond()
	o.publishUntil("e2", 20, "nobody")
	o.publishUntil("e3", 400, "nobody", "prod")
	o.until("the pages have read everything", func() bool { // commands and service wait for that
		return strings.Count(d.listed("/dead-letters", nil), "<tr data-row>") == 3 && strings.Count(d.listed("/deliveries", nil), "<tr data-row>") == 6
	})
	day := func(days int) string { return time.Now().UTC().AddDate(0, 0, days).Format("2006-01-02") }
	for _, f := range []filtered{
		{"/dead-letters", map[string]string{}, 3},
		{"/dead-letters", map[string]string{"since": sinceThen}, 2},
		{"/dead-letters", map[string]string{"since": "24h"}, 3},
		{"/dead-letters", map[string]string{"since": "1ms"}, 0},
		{"/dead-letters", map[string]string{"from": between.Format(time.RFC3339Nano)}, 2},
		{"/dead-letters", map[string]string{"to": between.Format(time.RFC3339Nano)}, 1},
		{"/dead-letters", map[string]string{"from": between.Format(time.RFC3339Nano), "to": between.Format(time.RFC3339Nano)}, 0},
		{"/dead-letters", map[string]string{"expires_before": day(5)}, 0},
		{"/dead-letters", map[string]string{"expires_before": day(15)}, 1},
		{"/dead-letters", map[string]string{"expires_before": day(30) + "T10:00"}, 2},
		{"/dead-letters", map[string]string{"expires_before": day(500) + "T10:00:00+02:00"}, 3},
		{"/dead-letters", map[string]string{"expires_before": day(30), "since": sinceThen}, 1},
		{"/dead-letters", map[string]string{"name": "E1.example.com"}, 1},
		{"/deliveries", map[string]string{}, 6},
		{"/deliveries", map[string]string{"recipient": "prod@demo.example"}, 2},
		{"/deliveries", map[string]string{"recipient": "OPS@demo.example"}, 1},
		{"/deliveries", map[string]string{"recipient": "nobody@demo.example"}, 3},
		{"/deliveries", map[string]string{"recipient": "absent@demo.example"}, 0},
		{"/deliveries", map[string]string{"recipient": "prod@demo.example", "since": sinceThen}, 1},
		{"/deliveries", map[string]string{"recipient": "prod@demo.example", "to": between.Format(time.RFC3339Nano)}, 1},
		{"/deliveries", map[string]string{"since": sinceThen}, 3},
		{"/deliveries", map[string]string{"state": "Dead"}, 3},
	} {
		d.finds(f, then)
	}

	if err := o.relay.SetRules([]devrelay.Rule{}); err != nil {
		t.Fatal(err)
	}
	run := asked[service.OrderAnswer](d.nats, "dead.replay", `{"filter": {"expires_before": "`+day(500)+`"}, "reason": "mended", "rate": "1/h", "by": "night job"}`).Run
	o.until("the first letter of the run", func() bool {
		return asked[desk.RunPage](d.nats, "replays.show", `{"id": "`+run.ID+`"}`).Delivered == 1
	})
	asked[desk.Run](d.nats, "replays.pause", `{"id": "`+run.ID+`", "by": "night job"}`)
	for _, f := range []filtered{
		{"/replays", map[string]string{}, 2},
		{"/replays", map[string]string{"state": "done"}, 1},
		{"/replays", map[string]string{"state": "paused"}, 1},
		{"/replays", map[string]string{"state": "stopped"}, 0},
		{"/replays", map[string]string{"by": "night job"}, 1},
		{"/replays", map[string]string{"by": actor()}, 1},
		{"/replays", map[string]string{"by": "nobody"}, 0},
		{"/replays", map[string]string{"since": sinceThen}, 1},
		{"/replays", map[string]string{"since": "24h", "state": "DONE"}, 1},
		{"/replays", map[string]string{"from": between.Format(time.RFC3339Nano)}, 1},
		{"/replays", map[string]string{"to": between.Format(time.RFC3339Nano)}, 1},
		{"/audit", map[string]string{"action": "started"}, 2},
		{"/audit", map[string]string{"action": "started", "since": sinceThen}, 1},
		{"/audit", map[string]string{"action": "started", "by": "night job"}, 1},
		{"/audit", map[string]string{"run": run.ID, "action": "paused"}, 1},
	} {
		d.finds(f, then)
	}
}

// finds asks every door for a list.
func (d *doors) finds(f filtered, then time.Time) {
	d.t.Helper()
	filter := func() map[string]string {
		now := map[string]string{}
		for key, value := range f.filter {
			if value == sinceThen {
				value = time.Since(then).String()
			}
			now[key] = value
		}
		return now
	}
	found := map[string]int{"page": strings.Count(d.listed(f.list, filter()), "<tr data-row>")}
	if f.list == "/audit" {
		delete(found, "page") // its rows are those of the other pages' histories too
	}
	found["page, JSON"] = len(read[[]json.RawMessage](d.t, d.listed(f.list+".json", filter())))
	rows, err := csv.NewReader(strings.NewReader(d.listed(f.list+".csv", filter()))).ReadAll()
	if err != nil {
		d.t.Fatal(err)
	}
	found["page, CSV"] = len(rows) - 1

	words := append(strings.Fields(commandsOf[f.list]), "-o", "json")
	for key, value := range filter() {
		words = append(words, "--"+strings.ReplaceAll(key, "_", "-")+"="+value)
	}
	found["certpost"] = len(read[[]json.RawMessage](d.t, d.certpost(words...).done(d.t)))

	request := requestsOf[f.list]
	for name, wrap := range map[string]any{"nats": map[string]any{"filter": filter(), "size": 200}, "nats, beside": filter()} {
		body, err := json.Marshal(wrap)
		if err != nil {
			d.t.Fatal(err)
		}
		answer := asked[map[string]json.RawMessage](d.nats, request[0], string(body))
		found[name] = len(read[[]json.RawMessage](d.t, string(answer[request[1]])))
	}

	lines := shownCommands(d.listed(f.list, filter()))
	at := slices.IndexFunc(lines, func(line string) bool { return strings.HasPrefix(line, "certpost "+commandsOf[f.list]) })
	if at < 0 {
		d.t.Fatalf("%s shows no command: %v", f.list, lines)
	}
	for key := range f.filter {
		if !strings.Contains(lines[at], "--"+strings.ReplaceAll(key, "_", "-")+"=") {
			d.t.Errorf("%s %v shows the command %s, without %s", f.list, f.filter, lines[at], key)
		}
	}
	shown := understood(d.t, lines[at])
	for i, word := range shown {
		if strings.HasPrefix(word, "--since=") { // the page's is as old as the page
			shown[i] = "--since=" + filter()["since"]
		}
	}
	found["the shown command"] = len(read[[]json.RawMessage](d.t, d.certpost(append(shown, "-o", "json")...).done(d.t)))
	for door, n := range found {
		if n != f.want {
			d.t.Errorf("%s %v: %s has %d, want %d", f.list, f.filter, door, n, f.want)
		}
	}
}

// listed is a list of the pages, as it is answered.
func (d *doors) listed(page string, filter map[string]string) string {
	d.t.Helper()
	query := url.Values{}
	for key, value := range filter {
		query.Set(key, value)
	}
	status, body := d.send("GET", page+"?"+query.Encode(), "")
	if status != http.StatusOK {
		d.t.Fatalf("%s %v: %d %s", page, filter, status, body)
	}
	return body
}
