//go:build unix

package queue

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/devrelay"
	"github.com/certpost/certpost/internal/verdict"
)

func TestCrashAtEveryPoint(t *testing.T) {
	for _, c := range []struct {
		point, target string
		mails         int // the maximum number of mails of the event
		marked        bool
	}{
		// Before the claim nothing can have been sent.
		{pointFetched, "good", 1, false},
		{pointPublished, "good", 1, false},
		{pointDue, "good", 1, false},
		{pointClaiming, "good", 1, false},
		// Between claim and record the outcome is unknown.
		{pointClaimed, "good", 1, true},
		{"relay: before the final dot", "good", 1, true},
		{"relay: after the final dot", "good", 2, true},
		{pointAccepted, "good", 2, true},
		// Afterwards the outcome is in the ledger.
		{pointRecorded, "good", 1, false},
		{pointSettled, "good", 1, false},
		{pointDeadLettering, "refused", 0, false},
		{pointDeadLettered, "refused", 0, false},
		{pointDead, "refused", 0, false},
		{pointWaiting, "busy", 1, false},
	} {
		t.Run(strings.ReplaceAll(c.point, " ", "_")+"/"+c.target, func(t *testing.T) {
			t.Parallel()
			relay, err := devrelay.Start(devrelay.Config{Rules: []devrelay.Rule{
				{Stage: devrelay.StageRcpt, Recipient: "refused@*", Code: 550, Enhanced: "5.1.1", Text: "no"},
				{Stage: devrelay.StageRcpt, Recipient: "busy@*", Code: 450, Enhanced: "4.2.0", Text: "later", Times: 2},
			}})
			if err != nil {
				t.Fatal(err)
			}
			defer relay.Close()
			var process atomic.Pointer[os.Process]
			wire := newKillingProxy(t, relay.Plain(), c.point, func() { process.Load().Kill() })
			plan := crashPlan{Dir: t.TempDir(), Relay: wire, Point: c.point, Events: 1, Target: c.target}
			if report, err := runChild(t, plan, process.Store); err != nil || report != nil {
				t.Fatalf("the first process was not killed at its point: %+v, %v", report, err)
			}
			plan.Point, plan.Events = "", 0
			report, err := runChild(t, plan, process.Store)
			if err != nil || report == nil {
				t.Fatalf("the second process was killed: %v", err)
			}

			mails := relay.Mails()
			dead := c.mails == 0
			if len(mails) > c.mails || !dead && len(mails) == 0 {
				t.Errorf("%d mails, want at least one and at most %d", len(mails), c.mails)
			}
			ids := map[string]bool{}
			for i, m := range mails {
				msg, err := m.Message()
				if err != nil {
					t.Fatal(err)
				}
				ids[msg.Header.Get("Message-Id")] = true
				if last := i == len(mails)-1; last && (msg.Header.Get("X-Certpost-Possible-Duplicate") == "yes") != c.marked {
					t.Errorf("the mail sent after the crash says X-Certpost-Possible-Duplicate: %q, want it: %v", msg.Header.Get("X-Certpost-Possible-Duplicate"), c.marked)
				}
			}
			if len(ids) > 1 {
				t.Errorf("the mails have different Message-IDs: %v", ids)
			}
			if len(report.Entries) != 1 || (report.Entries[0].State == broker.StateDead) != dead || !dead && report.Entries[0].State != broker.StateSent {
				t.Errorf("ledger: %+v", report.Entries)
			}
			if want := map[bool]int{true: 1, false: 0}[dead]; len(report.Letters) != want {
				t.Errorf("dead letters: %v, want %d", report.Letters, want)
			}
			if dead && !strings.HasPrefix(report.Letters[0], "certpost.dead."+string(verdict.SMTPPermanent)+".") {
				t.Errorf("dead letter: %s", report.Letters[0])
			}
		})
	}
}

// newKillingProxy starts a proxy in front of the relay that kills the child at the final
// dot, once: before the relay gets the dot, or when the relay has replied to it.
func newKillingProxy(t *testing.T, relay, point string, kill func()) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	var killed atomic.Bool
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer client.Close()
				server, err := net.Dial("tcp", relay)
				if err != nil {
					return
				}
				defer server.Close()
				var dotted atomic.Bool
				go func() {
					replies := bufio.NewReader(server)
					for {
						line, err := replies.ReadString('\n')
						if err != nil {
							client.Close()
							return
						}
						if dotted.Load() && point == "relay: after the final dot" && killed.CompareAndSwap(false, true) {
							kill()
							return
						}
						if _, err := io.WriteString(client, line); err != nil {
							return
						}
					}
				}()
				lines := bufio.NewReader(client)
				for {
					line, err := lines.ReadString('\n')
					if line == ".\r\n" {
						if point == "relay: before the final dot" && killed.CompareAndSwap(false, true) {
							kill()
							return
						}
						dotted.Store(true)
					}
					if _, werr := io.WriteString(server, line); err != nil || werr != nil {
						return
					}
				}
			}()
		}
	}()
	return l.Addr().String()
}

// Killed repeatedly under load: no event is lost, and there are no more duplicate mails
// than unknown outcomes.
func TestKilledAgainAndAgain(t *testing.T) {
	t.Parallel()
	relay, err := devrelay.Start(devrelay.Config{MaxMails: 10_000})
	if err != nil {
		t.Fatal(err)
	}
	defer relay.Close()
	const n = 300
	plan := crashPlan{Dir: t.TempDir(), Relay: relay.Plain(), Events: n, Target: "good"}
	var report *crashReport
	for life := 0; report == nil; life++ {
		var lived *time.Timer
		report, err = runChild(t, plan, func(p *os.Process) {
			if life < 5 {
				lived = time.AfterFunc(time.Duration(800+150*life)*time.Millisecond, func() { p.Kill() })
			}
		})
		if lived != nil {
			lived.Stop()
		}
		if err != nil {
			t.Fatal(err)
		}
		if life == 0 && report == nil {
			published, err := os.ReadDir(plan.Dir)
			if err != nil || len(published) == 0 {
				t.Fatalf("the first process wrote nothing: %v", err)
			}
		}
		// Publishing the same events again is harmless: their ids are the same.
	}
	got := map[string]int{}
	for _, m := range relay.Mails() {
		msg, err := m.Message()
		if err != nil {
			t.Fatal(err)
		}
		got[msg.Header.Get("X-Certpost-Event-Id")]++
	}
	possible, sent := 0, 0
	for _, e := range report.Entries {
		possible += e.PossibleDuplicates
		if e.State == broker.StateSent {
			sent++
		}
	}
	if len(got) != n || sent != n || len(report.Letters) != 0 {
		t.Errorf("%d of %d events arrived, %d are recorded as sent, dead letters: %v", len(got), n, sent, report.Letters)
	}
	if doubled := relay.Count() - n; doubled > possible {
		t.Errorf("%d mails too many, but only %d outcomes were unknown", doubled, possible)
	}
	t.Logf("%d mails for %d events, %d outcomes unknown", relay.Count(), n, possible)
}

// A disk without room is found before anything is said to be ready: the program does not
// start, and says why.
func TestNoRoomAtTheStart(t *testing.T) {
	t.Parallel()
	plan := crashPlan{Dir: t.TempDir(), Relay: "127.0.0.1:9", Events: 1, Target: "good", FileLimit: 100 << 10}
	report, err := runChild(t, plan, func(*os.Process) {})
	if report != nil || err == nil || !strings.Contains(err.Error(), broker.ErrStoreFailed.Error()) || !strings.Contains(err.Error(), "8 MiB could not be written") {
		t.Fatalf("ended with %+v, %v", report, err)
	}
	if _, err := os.Stat(filepath.Join(plan.Dir, "room")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the files that were tried are still there: %v", err)
	}
}

// When the disk is full or fails, the embedded server never writes to it again. The
// program ends with the reason, and says it instead of being ready, and the next process
// finds every acknowledged event.
func TestStoreThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	relay, err := devrelay.Start(devrelay.Config{MaxMails: 10_000})
	if err != nil {
		t.Fatal(err)
	}
	defer relay.Close()
	plan := crashPlan{Dir: t.TempDir(), Relay: relay.Plain(), Events: 10_000, Target: "good", FileLimit: 300 << 10}
	nobody := func(*os.Process) {}
	report, err := runChild(t, plan, nobody)
	if report != nil || err == nil || !strings.Contains(err.Error(), broker.ErrStoreFailed.Error()) || !strings.Contains(err.Error(), "make room on the disk") {
		t.Fatalf("the first process ended with %+v, %v", report, err)
	}
	text, err := os.ReadFile(filepath.Join(plan.Dir, "acknowledged"))
	if err != nil {
		t.Fatal(err)
	}
	acknowledged, err := strconv.Atoi(string(text))
	if err != nil || acknowledged < 10 {
		t.Fatalf("%q events were acknowledged before the store failed", text)
	}
	plan.Events, plan.FileLimit = 0, 0
	if report, err = runChild(t, plan, nobody); err != nil || report == nil {
		t.Fatalf("the second process: %v", err)
	}
	got, possible := map[string]int{}, 0
	for _, m := range relay.Mails() {
		msg, err := m.Message()
		if err != nil {
			t.Fatal(err)
		}
		got[msg.Header.Get("X-Certpost-Event-Id")]++
	}
	for _, e := range report.Entries {
		possible += e.PossibleDuplicates
	}
	for i := range acknowledged {
		if got[fmt.Sprintf("e%d", i)] == 0 {
			t.Errorf("event e%d was acknowledged and is lost", i)
		}
	}
	if doubled := relay.Count() - len(got); doubled > possible || len(report.Letters) > 0 {
		t.Errorf("%d mails too many with %d outcomes unknown; letters: %v", doubled, possible, report.Letters)
	}
	t.Logf("%d events acknowledged before the store failed, %d mails", acknowledged, relay.Count())
}
