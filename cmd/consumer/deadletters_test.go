package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"software.sslmate.com/src/go-pkcs12"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/devrelay"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/service"
	"github.com/certpost/certpost/internal/verdict"
)

var refuseNobody = devrelay.Rule{Stage: devrelay.StageRcpt, Recipient: "nobody@*", Code: 550, Enhanced: "5.1.1", Text: "no such user"}

func opensPKCS12(file []byte, passphrase string) error {
	_, _, _, err := pkcs12.DecodeChain(file, passphrase)
	return err
}

// ordered returns the answer to an order, which the command prints as JSON.
func ordered(t *testing.T, s said) service.OrderAnswer {
	t.Helper()
	return read[service.OrderAnswer](t, s.done(t))
}

func TestDeadLetters(t *testing.T) {
	t.Parallel()
	o := newFixture(t, "", refuseNobody, devrelay.Rule{Stage: devrelay.StageRcpt, Recipient: "prod@*", Code: 550, Enhanced: "5.1.1", Text: "not yet", Times: 1})
	if out := o.certpost("dead-letters", "list").done(t); out != "no open dead letters\n" {
		t.Errorf("before any: %q", out)
	}
	if out := o.certpost("dead-letters", "list", "-o", "json").done(t); out != "[]\n" {
		t.Errorf("before any: %q", out)
	}
	if out := o.certpost("dead-letters", "replay", "--all", "--reason", "x").done(t); out != "no open dead letters\n" {
		t.Errorf("replay before any: %q", out)
	}

	o.publish("first", "nobody")
	o.settled()
	o.publish("second", "nobody", "absent")
	o.settled()
	o.publish("third", "prod")
	o.settled()
	o.publishRaw("certificate.issued.;touch${IFS}here", "no event")
	o.settled()

	lines := strings.Split(strings.TrimSpace(o.certpost("dead-letters", "list").done(t)), "\n")
	if len(lines) != 6 || !regexp.MustCompile(`^NUMBER +TIME +CODE +TARGET +NAME +EXPIRES +EVENT +SENT\? +REASON$`).MatchString(lines[0]) ||
		!regexp.MustCompile(`^1 +\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ +SMTP_PERMANENT +nobody +www\.example\.com +\d{4}-\d\d-\d\d +first +not-sent +localhost:\d+ answered 550 5\.1\.1 to RCPT.*$`).MatchString(lines[1]) {
		t.Errorf("table:\n%s", strings.Join(lines, "\n"))
	}
	numbers := map[string]uint64{} // by event and target
	for args, want := range map[string][]string{
		"":                      {"first nobody", "second nobody", "second absent", "third prod", "event-4 "},
		"--code SMTP_PERMANENT": {"first nobody", "second nobody", "third prod"},
		"--code target_unknown": {"second absent"},
		"--target nobody":       {"first nobody", "second nobody"},
		"--event second":        {"second nobody", "second absent"},
		"--event second --target nobody --code SMTP_PERMANENT": {"second nobody"},
		"--target ops":     nil,
		"--code SMTP_AUTH": nil,
	} {
		var got []string
		for _, d := range read[[]broker.DeadLetter](t, o.certpost(append([]string{"dead-letters", "list", "-o", "json"}, strings.Fields(args)...)...).done(t)) {
			got = append(got, d.Event+" "+d.Target)
			numbers[d.Event+" "+d.Target] = d.Sequence
		}
		if !sameInAnyOrder(got, want) {
			t.Errorf("dead-letters list %s: %q, want %q", args, got, want)
		}
	}
	number := func(letter string) string { return fmt.Sprint(numbers[letter]) }

	t.Run("show", func(t *testing.T) {
		out := o.certpost("dead-letters", "show", number("first nobody")).done(t)
		for _, line := range []string{`Event +first`, `Target +nobody`, `Lane +localhost-\d+`, `Code +SMTP_PERMANENT \(io_permanent\)`, `Phase +rcpt`,
			`Reply +550 5\.1\.1 no such user`, `Sent\? +not-sent`, `Not sent to +nobody@demo\.example`, `Attempts +1`, `  certpost dead-letters replay 1`,
			`  nats stream get CERTPOST_DEAD_LETTERS 1 --json \|`, `    nats pub -J --force-stdin certpost\.delivery\.localhost-\d+\.nobody`} {
			if !regexp.MustCompile(`(?m)^` + line + `$`).MatchString(out) {
				t.Errorf("no line %s in\n%s", line, out)
			}
		}
		letter := read[struct {
			Event string       `json:"event"`
			Code  verdict.Code `json:"code"`
			Body  string       `json:"body"`
		}](t, o.certpost("dead-letters", "show", number("first nobody"), "-o", "json").done(t))
		body := o.certpost("dead-letters", "show", number("first nobody"), "--body").done(t)
		ev, err := events.Decode(nil, []byte(body))
		if err != nil || ev.ID != "first" || letter.Event != "first" || letter.Code != verdict.SMTPPermanent || letter.Body+"\n" != body {
			t.Errorf("the body is not the event: %v, %+v", err, letter)
		}
		// The printed command contains a subject that any publisher can choose.
		if out := o.certpost("dead-letters", "show", number("event-4 ")).done(t); !strings.Contains(out, "--force-stdin 'certificate.issued.;touch${IFS}here'\n") {
			t.Errorf("the subject is not quoted:\n%s", out)
		}
		o.certpost("dead-letters", "show", "999").failed(t, exitFailed, "certpost: there is no dead letter with the number 999, and no record of one\n")
	})

	t.Run("replay", func(t *testing.T) {
		// The relay refuses the address only once.
		out := o.certpost("dead-letters", "replay", number("third prod")).done(t)
		if !regexp.MustCompile(`^\[1/1\] third prod: published again to certpost\.delivery\.localhost-\d+\.prod\n$`).MatchString(out) {
			t.Errorf("replay says %q", out)
		}
		o.mailTo("prod@demo.example", 1)
		o.settled()
		if out := o.certpost("dead-letters", "list", "--event", "third", "-o", "json").done(t); out != "[]\n" {
			t.Errorf("the letter is still on the list: %s", out)
		}
		if out := o.certpost("deliveries", "show", "third").done(t); !regexp.MustCompile(`(?m)^State +sent$`).MatchString(out) {
			t.Errorf("the ledger does not know:\n%s", out)
		}
		// The second action gets the record of the first.
		gone := number("third prod")
		want := regexp.MustCompile(`^certpost: dead letter \d+ was (replayed|delivered) by \S+(, unproved)? at 20\S+ \S+ UTC\n$`)
		if said := o.certpost("dead-letters", "replay", gone); said.code != exitFailed || !want.MatchString(said.stderr) {
			t.Errorf("a second replay: %+v", said)
		}
		if said := o.certpost("dead-letters", "replay", number("first nobody"), gone); said.code != exitFailed || !want.MatchString(said.stderr) || said.stdout != "" {
			t.Errorf("one of two is gone: %+v", said)
		}
		if now := o.letters(); len(now) != 4 {
			t.Errorf("one wrong number and something was done all the same: %+v", now)
		}
		// A run needs a confirmation. Its letters are refused again.
		all := []string{"dead-letters", "replay", "--all", "--code", "SMTP_PERMANENT", "--reason", "trying"}
		o.certpost(all...).failed(t, exitUsage, "certpost: 2 dead letters would be replayed: add --yes to confirm, or --dry-run to see which\n")
		dry := ordered(t, o.certpost(append(all, "--dry-run", "-o", "json")...))
		if !dry.DryRun || dry.Run != nil || dry.Frozen.Count != 2 || len(dry.Frozen.Numbers) != 2 || len(dry.Frozen.Hash) != 64 {
			t.Errorf("the dry run says %+v", dry)
		}
		if said := o.certpost(append(all, "--yes", "--hash", strings.Repeat("0", 64))...); said.code != exitFailed || !strings.Contains(said.stderr, "the selection has changed") {
			t.Errorf("other letters: %+v", said)
		}
		said := o.certpost(append(all, "--yes", "--hash", dry.Frozen.Hash, "--wait", "-o", "json")...)
		run := read[desk.RunPage](t, said.stdout)
		if said.code != exitFailed || run.State != desk.RunDone && run.State != desk.RunStopped || run.Published != 2 || run.By.Name != actor() || run.By.Via != broker.ViaShell {
			t.Errorf("the run: %+v, %+v", said, run)
		}
		o.settled()
		again := read[[]broker.DeadLetter](t, o.certpost("dead-letters", "list", "--target", "nobody", "-o", "json").done(t))
		if len(again) != 2 || again[0].Generation != 2 || again[1].Generation != 2 || again[0].Sequence <= numbers["event-4 "] {
			t.Errorf("after the replay: %+v", again)
		}
		if runs := read[[]desk.Run](t, o.certpost("replays", "list", "-o", "json").done(t)); len(runs) != 1 || runs[0].ID != run.ID {
			t.Errorf("replays list: %+v", runs)
		}
		if out := o.certpost("replays", "show", run.ID).done(t); !regexp.MustCompile(`(?m)^Published +2$`).MatchString(out) || !strings.Contains(out, "first") {
			t.Errorf("replays show:\n%s", out)
		}
	})

	t.Run("discard", func(t *testing.T) {
		letters := o.letters()
		for _, d := range letters {
			numbers[d.Event+" "+d.Target] = d.Sequence
		}
		said := o.certpost("dead-letters", "discard", number("first nobody"), "--reason", "the customer has left", "-o", "json")
		if done := ordered(t, said); len(done.Letters) != 1 || done.Letters[0] != (service.LetterResult{Number: numbers["first nobody"], Event: "first", Target: "nobody", Done: "discarded"}) {
			t.Errorf("discard says %+v", said)
		}
		out, act := o.certpost("dead-letters", "discard", "--all", "--yes", "--reason", "cleaning up").undoable(t)
		if out != "3 dead letters discarded\n" {
			t.Errorf("discard says %q", out)
		}
		if left := o.letters(); len(left) != 0 {
			t.Errorf("left: %+v", left)
		}
		if e := read[[]broker.Entry](t, o.certpost("deliveries", "show", "first", "-o", "json").done(t)); len(e) != 1 || e[0].State != broker.StateDiscarded {
			t.Errorf("the ledger says %+v", e)
		}
		records := o.audited(broker.ActionDiscarded)
		if len(records) != 5 || records[4].Many == nil || records[4].Many.Letters != 3 || records[4].Act != act || records[0].Reason != "the customer has left" || records[0].Event != "first" || records[0].Name != actor() || !strings.Contains(string(records[0].Body), `"id":"first"`) {
			t.Errorf("audit: %+v", records)
		}
		if replayed := o.audited(broker.ActionReplayed); len(replayed) != 3 {
			t.Errorf("audit of the replays: %+v", replayed)
		}
		lines := o.certpost("audit", "list", "--action", "discarded").done(t)
		if strings.Count(lines, "cleaning up") != 1 || !strings.Contains(lines, "3 letters (--act="+records[4].Act+")") || strings.Count(lines, "the customer has left") != 2 {
			t.Errorf("audit list:\n%s", lines)
		}
		if gone := o.certpost("dead-letters", "list", "--state", "discarded", "--act", records[4].Act).done(t); strings.Count(gone, "cleaning up") != 3 {
			t.Errorf("discarded letters:\n%s", gone)
		}
		if wrong := o.certpost("dead-letters", "discard", "--all", "--state=discarded", "--yes", "--reason=x"); wrong.code == 0 || !strings.Contains(wrong.stderr, "restore them first") {
			t.Errorf("discard of discarded letters: %+v", wrong)
		}
		if out := o.certpost("dead-letters", "restore", "--all", "--yes", "--act", records[4].Act, "--reason", "by mistake").done(t); out != "3 dead letters restored\n" {
			t.Errorf("restore says %q", out)
		}
		if back := o.letters(); len(back) != 3 {
			t.Errorf("restored: %+v", back)
		}
	})
}

// A mail whose outcome is unknown is replayed only with --may-have-been-sent.
func TestReplayOfUncertain(t *testing.T) {
	t.Parallel()
	mails := make(chan string, 10)
	var hangUp atomic.Bool
	hangUp.Store(true)
	relay := slowRelay(t, func(mail string) string {
		mails <- mail
		if hangUp.Load() {
			return ""
		}
		return "250 2.0.0 OK: queued as SLOW1"
	})
	o := newFixture(t, "delivery: {on_unknown_outcome: dead_letter}\n")
	o.write("targets.yaml", "targets:\n  - {id: slow, host: 127.0.0.1, port: "+port(relay)+", tls_mode: plaintext, auth_method: none, from_address: a@demo.example, to: [b@demo.example]}\n")
	o.until("the new definition", func() bool { _, ok := o.service.cfg.Book.Current().Get("slow"); return ok })
	o.publish("unsure", "slow")
	o.settled()
	letters := o.letters()
	if len(letters) != 1 || letters[0].Code != verdict.DeliveryUncertain || letters[0].Certainty != verdict.MaybeSent {
		t.Fatalf("letters: %+v", letters)
	}
	<-mails

	one := fmt.Sprint(letters[0].Sequence)
	if said := o.certpost("dead-letters", "replay", one); said.code != exitFailed || !strings.Contains(said.stderr, "may have been sent") || !regexp.MustCompile(`look for its Message-ID <\S+@demo\.example> at the relay first`).MatchString(said.stderr) {
		t.Errorf("replay says %+v", said)
	}
	if said := o.certpost("dead-letters", "replay", "--all", "--yes", "--reason", "x"); said.code != exitFailed || !strings.Contains(said.stderr, "1 of 1 letters: the mail may have been sent") {
		t.Errorf("replay --all says %+v", said)
	}
	if len(o.letters()) != 1 {
		t.Error("it was replayed")
	}
	hangUp.Store(false)
	if done := ordered(t, o.certpost("dead-letters", "replay", one, "--may-have-been-sent", "-o", "json")); done.Done != 1 {
		t.Errorf("replay --may-have-been-sent says %+v", done)
	}
	if second := <-mails; !strings.Contains(second, "X-Certpost-Possible-Duplicate: yes\r\n") {
		t.Error("the second mail does not say that it may be one")
	}
	o.settled()
	if len(o.letters()) != 0 {
		t.Errorf("letters: %+v", o.letters())
	}

	// A delivery that was sent is not sent again, unless forced.
	o.publish("unsure", "slow")
	o.settled()
	select {
	case <-mails:
		t.Error("a third mail")
	default:
	}
}

// The README shows the lines that dead-letters show prints.
func TestReplayIsDocumented(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join(lab.Root(), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(page), "\n"+replayWithNATS+"\n") {
		t.Errorf("README.md does not have the lines\n%s", replayWithNATS)
	}
}

// publishRaw publishes any body to the stream of events.
func (o *fixture) publishRaw(subject, body string) {
	o.t.Helper()
	js := o.jetStream()
	if _, err := js.Publish(context.Background(), subject, []byte(body)); err != nil {
		o.t.Fatal(err)
	}
}

func (o *fixture) jetStream() jetstream.JetStream {
	o.t.Helper()
	nc := lab.Admin(o.t, o.service.broker.URL(), o.path("data"))
	js, err := jetstream.New(nc)
	if err != nil {
		o.t.Fatal(err)
	}
	return js
}

// audited returns the records of one action, oldest first.
func (o *fixture) audited(action broker.Action) []broker.AuditRecord {
	o.t.Helper()
	stream, err := o.jetStream().Stream(context.Background(), broker.AuditStream)
	if err != nil {
		o.t.Fatal(err)
	}
	var all []broker.AuditRecord
	for seq := uint64(1); seq <= stream.CachedInfo().State.LastSeq; seq++ {
		m, err := stream.GetMsg(context.Background(), seq)
		if err != nil {
			o.t.Fatal(err)
		}
		all = append(all, read[broker.AuditRecord](o.t, string(m.Data)))
	}
	return slices.DeleteFunc(all, func(r broker.AuditRecord) bool { return r.Action != action || r.Stage == broker.StageIntent })
}
