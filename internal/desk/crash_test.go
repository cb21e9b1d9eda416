//go:build unix

package desk

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/verdict"
)

// The program is killed with SIGKILL in the middle of a replay of 1,000 letters, several
// times. The relay is the test's own process, which survives and so knows what was sent.

const crashVariable = "CERTPOST_TEST_DESK_CRASH"

// fakeRelay is the relay: it counts the mails that it accepted, by event.
type fakeRelay struct {
	mu      sync.Mutex
	mails   map[string]int // those not marked as possible duplicates
	marked  map[string]int
	address string
}

func newFakeRelay(t *testing.T) *fakeRelay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	m := &fakeRelay{mails: map[string]int{}, marked: map[string]int{}, address: l.Addr().String()}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go m.take(conn)
		}
	}()
	return m
}

func (m *fakeRelay) take(conn net.Conn) {
	defer conn.Close()
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return
	}
	id, duplicate, _ := strings.Cut(strings.TrimSpace(line), " ")
	m.mu.Lock()
	if duplicate == "true" {
		m.marked[id]++
	} else {
		m.mails[id]++
	}
	m.mu.Unlock()
	fmt.Fprintln(conn, "taken")
}

// runChild runs a child process and kills it after the time kill, measured from the start
// of its replay (0: never); nil when it was killed.
func runChild(t *testing.T, plan crashPlan, kill time.Duration) *crashReport {
	t.Helper()
	text, err := json.Marshal(plan)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), crashVariable+"="+string(text))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	patience := time.AfterFunc(4*time.Minute, func() { _ = cmd.Process.Kill() })
	defer patience.Stop()
	lines := bufio.NewReader(out)
	if line, err := lines.ReadString('\n'); err != nil || line != "replaying\n" {
		_ = cmd.Wait()
		t.Fatalf("the child said %q, %v: %s", line, err, &stderr)
	}
	if kill > 0 {
		defer time.AfterFunc(kill, func() { _ = cmd.Process.Kill() }).Stop()
	}
	said, _ := io.ReadAll(lines)
	if err := cmd.Wait(); err != nil {
		if s, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && s.Signal() == syscall.SIGKILL && kill > 0 {
			return nil
		}
		t.Fatalf("%v: %s", err, &stderr)
	}
	var report crashReport
	if err := json.Unmarshal(said, &report); err != nil {
		t.Fatalf("%v: %q %s", err, said, &stderr)
	}
	return &report
}

// Killed during a replay of 1,000 letters: each is delivered, and twice only where it
// cannot be known whether it was; none is lost, and none is counted twice.
//
// Fault: kill -9 during a replay of many dead letters, or another action on one. Result:
// the replay continues; each is sent once, none is lost.
func TestKilledAmidAReplay(t *testing.T) {
	t.Parallel()
	relay := newFakeRelay(t)
	const n, kills = 1000, 5
	plan := crashPlan{Dir: t.TempDir(), Relay: relay.address, Letters: n}
	var report *crashReport
	killed := 0
	for life := 0; report == nil; life++ {
		kill := time.Duration(0)
		if life < kills {
			kill = time.Duration(100+rand.IntN(500)) * time.Millisecond
		}
		if report = runChild(t, plan, kill); report == nil {
			killed++
		}
		plan.Letters = 0
	}
	t.Logf("killed %d times", killed)
	if killed == 0 {
		t.Error("no process was killed")
	}
	if b := report.Balance; b.Total != n || b.Open != 0 || b.Ended[Replayed] != n || b.Unexplained != 0 {
		t.Errorf("balance %+v", b)
	}
	if r := report.Run; r.Published != n || r.Delivered != n || r.Gone+r.Failed+r.DeadAgain != 0 {
		t.Errorf("run %+v", r)
	}
	if report.Results["delivered"] != n {
		t.Errorf("results %v", report.Results)
	}
	relay.mu.Lock()
	defer relay.mu.Unlock()
	unmarked := 0
	for i := range n {
		id := fmt.Sprintf("e%d", i)
		if relay.mails[id] > 1 {
			t.Errorf("event %s was sent %d times", id, relay.mails[id])
		}
		if relay.mails[id]+relay.marked[id] == 0 {
			t.Errorf("event %s was lost", id)
		}
		unmarked += relay.mails[id]
	}
	t.Logf("%d mails, %d more marked as possible duplicates", unmarked, len(relay.marked))
	if len(relay.marked) > killed*quick().Concurrency {
		t.Errorf("%d mails are marked as possible duplicates after %d kills", len(relay.marked), killed)
	}
}

// A process that takes a run over from a killed one keeps to the rate, and takes into
// account what the killed one may have published without recording it.
func TestRateHoldsAcrossKills(t *testing.T) {
	t.Parallel()
	relay := newFakeRelay(t)
	const n, kills = 10, 5
	rate := verdict.Rate{Count: 1, Per: time.Second}
	plan := crashPlan{Dir: t.TempDir(), Relay: relay.address, Letters: n, Rate: rate}
	var report *crashReport
	killed := 0
	for life := 0; report == nil; life++ {
		kill := time.Duration(0)
		if life < kills {
			kill = time.Duration(100+rand.IntN(1400)) * time.Millisecond
		}
		if report = runChild(t, plan, kill); report == nil {
			killed++
		}
		plan.Letters = 0
	}
	t.Logf("killed %d times, %d tries for %d letters", killed, len(report.Tries), n)
	if r := report.Run; killed == 0 || len(report.Tries) < n || r.Delivered != n {
		t.Errorf("killed %d times, %d tries: %+v", killed, len(report.Tries), r)
	}
	keepsTo(t, rate, report.Tries)
}

// A process killed while it starts a run leaves a set of letters. The set becomes a
// cancelled run that says what happened; its letters stay free.
func TestKilledWhileStarting(t *testing.T) {
	t.Parallel()
	relay := newFakeRelay(t)
	var x *fixture
	var bucket *broker.DeskBucket
	var sets []broker.DeskEntry
	ctx := t.Context()
	for range 30 { // the run may be created before the signal arrives
		plan := crashPlan{Dir: t.TempDir(), Relay: relay.address, Letters: 20, Starting: true}
		if runChild(t, plan, time.Minute) != nil {
			t.Fatal("it was not killed")
		}
		x = startIn(t, plan.Dir)
		var err error
		if bucket, err = x.b.Desk(ctx); err != nil {
			t.Fatal(err)
		}
		if sets, err = bucket.Heads(ctx, setPrefix); err != nil || len(sets) != 1 {
			t.Fatalf("%d sets, %v", len(sets), err)
		}
		if runs, err := bucket.Heads(ctx, runPrefix); err != nil {
			t.Fatal(err)
		} else if len(runs) == 0 {
			break
		}
		sets = nil
	}
	if sets == nil {
		t.Fatal("it was never killed in time")
	}
	patient, stop := x.desk(nil)
	patient.sweep(ctx)
	if runs := patient.Runs(RunQuery{}); len(runs) != 0 {
		t.Fatalf("a start that may still be in progress was cancelled: %+v", runs)
	}
	if f := patient.Freeze(Query{}, nil, false); f.Count != 20 || f.InRuns != 0 {
		t.Errorf("%+v", f)
	}
	stop()
	d, _ := x.desk(func(d *Desk) { d.pace.orphan = time.Millisecond })
	x.until("it is a run", func() bool { return len(d.Runs(RunQuery{})) == 1 })
	r := d.Runs(RunQuery{})[0]
	if setPrefix+r.ID != sets[0].Key || r.State != RunCancelled || r.Spec.Frozen.Count != 20 || !strings.Contains(r.Why, "its start was interrupted") || r.Ended.IsZero() {
		t.Errorf("%+v", r)
	}
	// A process that was still starting it is refused.
	if _, err := bucket.Create(ctx, runPrefix+r.ID, []byte("{}")); !errors.Is(err, broker.ErrDeskChanged) {
		t.Errorf("%v", err)
	}
	if results, _, err := d.Results(ctx, r.ID, 0, 0); err != nil || len(results) != 20 || results[0].Result != "waiting" {
		t.Errorf("%d results, %v", len(results), err)
	}
	// A new run replays the same letters, and no second run comes from the set.
	other, _ := x.desk(func(d *Desk) { d.pace.orphan = time.Millisecond })
	other.sweep(ctx)
	again := x.run(d, RunSpec{Frozen: d.Freeze(Query{}, nil, false)})
	if again = x.reaches(d, again.ID, RunDone); again.Delivered != 20 || len(d.Runs(RunQuery{})) != 2 {
		t.Errorf("%+v of %d", again, len(d.Runs(RunQuery{})))
	}
}
