//go:build unix

package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/backoff"
	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/delivery"
	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/smtp"
)

// Every crash test runs the broker and the real courier in a child process, which kills
// itself with SIGKILL at a named point, or is killed at a point on the relay's side. Then
// it is started again, until nothing is pending. The content of the relay and of the
// streams is then compared with what that point allows.

// crashPlan is the child's instructions.
type crashPlan struct {
	Dir, Relay string
	Point      string // where the child is killed; "": nowhere
	Events     int    // number of events to publish before the runner starts
	Target     string
	PEM        string // of all events, the same in every life; set by runChild
	// Action is what the child does to dead letters; it is killed the Nth time that it
	// reaches the point.
	Action    string
	Nth       int
	FileLimit uint64 // maximum bytes of a file; beyond it writing fails, and publishing ends
}

// crashReport is the output of a child that was not killed.
type crashReport struct {
	Entries []broker.Entry
	Letters []string
}

// crashEnabled says whether the child is killed at the point of its plan.
var crashEnabled atomic.Bool

const crashVariable = "CERTPOST_TEST_CRASH_PLAN"

// runCrashChild runs the child's part when this process is a child; TestMain calls it.
func runCrashChild() (isChild bool, err error) {
	text := os.Getenv(crashVariable)
	if text == "" {
		return false, nil
	}
	var plan crashPlan
	if err := json.Unmarshal([]byte(text), &plan); err != nil {
		return true, err
	}
	return true, crashChild(plan)
}

func crashChild(plan crashPlan) error {
	if plan.FileLimit > 0 {
		signal.Ignore(syscall.SIGXFSZ) // writing fails instead
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: plan.FileLimit, Max: plan.FileLimit}); err != nil {
			return err
		}
	}
	var times atomic.Int32
	reached := func(point string) {
		if point == plan.Point && crashEnabled.Load() && int(times.Add(1)) >= plan.Nth {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // the signal may take a moment
		}
	}
	crashEnabled.Store(true)
	// Writes need no flush to disk: SIGKILL ends the process, not the machine.
	b, err := broker.Open(broker.Config{DataDir: plan.Dir, Listen: "none", SyncInterval: "2m", AckWait: 2 * time.Second, ClaimLife: 3 * time.Second, Reached: reached}, zerolog.New(os.Stderr).Level(zerolog.ErrorLevel))
	if err != nil {
		return err
	}
	host, port, err := net.SplitHostPort(plan.Relay)
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return err
	}
	var targets []delivery.Target
	for _, id := range []string{"good", "refused", "busy"} {
		t := delivery.Target{ID: id, Host: host, Port: n, TLSMode: smtp.TLSPlaintext, FromAddress: "certs@example.com", To: []string{id + "@example.com"}}
		t.SetDefaults()
		t.TLSMode, t.Port = smtp.TLSPlaintext, n
		if plan.FileLimit > 0 {
			t.Timeout = 3 * time.Second // also shortens the lease: writes of outcomes are retried until its end
		}
		targets = append(targets, t)
	}
	definitions, problems := delivery.Relays{}.Define(targets)
	if definitions == nil {
		return fmt.Errorf("targets: %v", problems)
	}
	store, err := secrets.Open(secrets.Config{}, zerolog.Nop())
	if err != nil {
		return err
	}
	defer store.Close()
	courier := delivery.NewCourier(delivery.NewBook(definitions, delivery.Source{}), store, delivery.Options{})
	set := quick()
	set.Reached = reached
	r := NewRunner(b, courier, set, newTestMetrics())
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 1)
	if err := b.EnsureTopology(ctx); err != nil {
		return err
	}
	if plan.FileLimit > 0 {
		go func() { done <- r.Run(ctx) }()
	}
	for i := range plan.Events {
		short, stop := context.WithTimeout(ctx, 10*time.Second)
		ev := event(fmt.Sprintf("e%d", i), plan.Target)
		ev.Certificate.PEM = plan.PEM
		_, _, err := b.Publish(short, ev)
		stop()
		if err != nil && plan.FileLimit > 0 {
			if err := os.WriteFile(filepath.Join(plan.Dir, "acknowledged"), []byte(strconv.Itoa(i)), 0o600); err != nil {
				return err
			}
			err := <-done
			if ready := r.Ready(ctx); !errors.Is(ready, broker.ErrStoreFailed) {
				return fmt.Errorf("not ready because of: %v", ready)
			}
			return err
		}
		if err != nil {
			return err
		}
	}
	go func() { done <- r.Run(ctx) }()
	if err := crashActs(ctx, b, plan); err != nil {
		cancel()
		return err
	}
	for {
		backlog, err := b.Backlog(ctx)
		if err == nil && backlog.Events == 0 && backlog.Deliveries == 0 {
			break
		}
		backoff.Sleep(ctx, 10*time.Millisecond)
	}
	cancel()
	if err := <-done; err != nil {
		return err
	}
	var report crashReport
	if report.Entries, err = b.Deliveries(context.Background(), "", ""); err != nil {
		return err
	}
	for d, err := range b.DeadLetters(context.Background(), "") {
		if err != nil {
			return err
		}
		report.Letters = append(report.Letters, d.Subject)
	}
	b.Close()
	return json.NewEncoder(os.Stdout).Encode(report)
}

// runChild starts a child and waits for it. A nil report without an error means that the
// child was killed. child gets its process.
func runChild(t *testing.T, plan crashPlan, child func(*os.Process)) (*crashReport, error) {
	t.Helper()
	plan.PEM = lab.SelfSigned("www.example.com") // lab makes it once in a process
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
	child(cmd.Process)
	timer := time.AfterFunc(2*time.Minute, func() { cmd.Process.Kill() })
	defer timer.Stop()
	said, _ := io.ReadAll(out)
	if err := cmd.Wait(); err != nil {
		if s, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || s.Signal() != syscall.SIGKILL {
			return nil, fmt.Errorf("%w: %s", err, &stderr)
		}
		return nil, nil
	}
	var report crashReport
	if err := json.Unmarshal(said, &report); err != nil {
		return nil, fmt.Errorf("%w: %q %s", err, said, &stderr)
	}
	return &report, nil
}
