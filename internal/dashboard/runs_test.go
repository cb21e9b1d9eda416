package dashboard

import (
	"encoding/csv"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/lab"
)

// A replay of all matching letters is confirmed, followed, and shown with the result of
// each letter.
func TestReplayAll(t *testing.T) {
	t.Parallel()
	o := openOffice(t, officeConfig{})
	o.dies("a.example.com", "b.example.com", "c.example.com")
	o.refuses("")
	v := o.visitor()
	confirm := v.opens("/dead-letters").follow("Replay…").is(200).says("Replay 3 dead letters?", "All open letters", "Up to number 3", "certpost dead-letters replay --all --as-of=3 --canary --hash=", "nats req certpost.dead.replay", `"filter":{"as_of":"3"}`)
	confirm.send("Replay 3 letters", "rate", "very fast").is(400).says("Invalid rate")
	run := confirm.send("Replay 3 letters", "reason", "the relay was fixed", "rate", "100/s").is(200).says("The replay has started", "the relay was fixed", "100/s", "1, then 10, then the rest")
	sound(t, "a replay", run.doc, false)
	o.until("all three have arrived", func() bool { return o.relay.Count() == 3 })
	o.until("the run is done", func() bool { return o.desk.Runs(desk.RunQuery{})[0].State == desk.RunDone })
	v.opens(run.url.Path).says("done", "3 of 3 letters", "delivered")
	v.opens("/replays").says("No unfinished replays", "done").follow(o.desk.Runs(desk.RunQuery{})[0].ID).is(200)
	v.opens("/dead-letters").says("No open dead letters")
	rows, err := csv.NewReader(strings.NewReader(v.do(http.MethodGet, run.url.Path+".csv", "").body)).ReadAll()
	if err != nil || len(rows) != 4 || rows[1][3] != "delivered" {
		t.Errorf("%v: %v", rows, err)
	}
}

// A replay that fails stops; a replay can be paused, resumed and cancelled. Nothing is
// lost.
func TestReplayIsSteered(t *testing.T) {
	t.Parallel()
	o := openOffice(t, officeConfig{})
	o.dies("a.example.com", "b.example.com", "c.example.com")
	v := o.visitor()
	run := v.opens("/dead-letters").follow("Replay…").send("Replay 3 letters", "reason", "too early").is(200)
	o.until("the canary has died", func() bool { return o.desk.Runs(desk.RunQuery{})[0].State == desk.RunStopped })
	v.opens(run.url.Path).says("stopped", "came back", "dead again", "letter 4")
	v.opens("/dead-letters").says("3 open letters")

	o.refuses("")
	slow := v.opens(run.url.Path).follow("Replay the remaining 2 letters…").is(200).send("Replay 2 letters", "canary", "", "rate", "1/h", "reason", "slowly").is(200)
	o.until("the first has arrived, and the other waits for an hour", func() bool { return o.desk.Runs(desk.RunQuery{})[0].Delivered == 1 })
	live := v.opens(slow.url.Path)
	live.send("Pause", "reason", "to look").is(200).says("Paused.", "to look")
	live.send("Pause").is(http.StatusConflict).says("Another action came first")
	v.opens(slow.url.Path).send("Resume").is(200).says("Resumed.")
	v.opens(slow.url.Path).send("Cancel the replay", "reason", "not fixed yet").is(200).says("Cancelled.", "not fixed yet")
	// The first letter is now letter 4. The other two were delivered or are on the list.
	o.until("nothing is lost", func() bool { return o.desk.Balance().Open-1+o.relay.Count() == 2 })
	if s := v.do(http.MethodPost, run.url.Path+"/resume", "token=forged"); s.status != http.StatusForbidden {
		t.Errorf("form with a forged token: status %d", s.status)
	}
	v.do(http.MethodGet, "/replays/none", "").is(http.StatusNotFound)
}

// Replaying a mail that may have been sent needs a second confirmation, on a page that
// shows the Message-ID to look for.
func TestMayHaveBeenSent(t *testing.T) {
	t.Parallel()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	address := free.Addr().String()
	must(t, free.Close())
	o := openOffice(t, officeConfig{listen: address})
	nc := lab.Admin(t, "nats://"+address, o.dataDir)
	lane := o.lane()
	certificate := selfSigned(t, "a.example.com")
	for _, event := range []string{"ev1", "ev2"} {
		m := nats.NewMsg("certpost.dead.DELIVERY_UNCERTAIN." + lane + ".ops." + event)
		m.Data = fmt.Appendf(nil, `{"id":%q,"certificate":%q,"targets":["ops"]}`, event, certificate)
		for _, header := range [][2]string{{"Event-Id", event}, {"Target", "ops"}, {"Lane", lane}, {"Generation", "1"}, {"Code", "DELIVERY_UNCERTAIN"}, {"Phase", "content"}, {"Reason", "no answer came"},
			{"Certainty", "may-have-been-sent"}, {"Replay-Subject", "certpost.delivery." + lane + ".ops"}} {
			m.Header.Set("Certpost-"+header[0], header[1])
		}
		_, err = nc.RequestMsg(m, 5*time.Second)
		must(t, err)
	}
	o.until("both are on the list", func() bool { return o.desk.Balance().Open == 2 })
	v := o.visitor()
	asked := v.opens("/dead-letters/1").says("may have been sent").send("Replay…", "reason", "first try").is(http.StatusConflict).says("Has it been sent?", "Nothing was done yet")
	sound(t, "second yes", asked.doc, false)
	if o.desk.Balance().Open != 2 {
		t.Fatal("the letter was replayed without the second confirmation")
	}
	asked.send("Replay anyway", "uncertain", "yes").is(200).says("Published again.", "first try")
	list := v.opens("/dead-letters")
	if !regexp.MustCompile(`mono"><bdi>&lt;[^<]+@example\.com&gt;</bdi>`).MatchString(list.body) {
		t.Error("the list does not have the Message-ID to look for")
	}
	confirm := list.follow("Replay…").is(200).says("1 of them may have been sent.")
	confirm.send("Replay 1 letter", "reason", "all").is(http.StatusConflict).says("Some of the mails may have been sent.")
	confirm.send("Replay 1 letter", "reason", "all", "uncertain", "yes").is(200).says("The replay has started", "including mails that may have been sent")
	o.until("both have arrived", func() bool { return o.relay.Count() == 2 })
}

// lane is the lane of the office's relay. It appears once the runner has started.
func (o *office) lane() string {
	o.t.Helper()
	var relays []desk.LaneRow
	o.until("the lane is known", func() bool {
		var err error
		relays, err = o.desk.Relays(o.t.Context())
		return err == nil && len(relays) == 1
	})
	return relays[0].Lane
}
