//go:build unix

package queue

import (
	"context"
	"encoding/json"
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
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/smtp"
)

// Every test here runs the broker and the real courier in a process of its own,
// which kills itself with SIGKILL when it reaches a named point, the relay's side
// included. Then it is started again, until nothing is pending; what the relay and
// the streams hold by then is compared with what may happen at that point.

// crashPlan is what the child is told.
type crashPlan struct {
	Dir, Relay string
	Point      string // where to die; "" nowhere
	Events     int    // to publish before the work starts
	Target     string
	// What is done to dead letters, and at which time that it comes by the point dies.
	Action    string
	Nth       int
	FileLimit uint64 // bytes; beyond them no file can be written, and publishing ends
}

// crashReport is what a child says that reached its end.
type crashReport struct {
	Entries []broker.Entry
	Letters []string
}

// mortal says that a child dies at the point of its plan.
var crashEnabled atomic.Bool

const crashVariable = "CERTPOST_TEST_CRASH_PLAN"

// crashAsAsked is the child's side; TestMain calls it. asked: this process is a child.
func runCrashChild() (asked bool, err error) {
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
	// Not always flushed: SIGKILL ends a process, not the machine.
	b, err := broker.Open(broker.Config{DataDir: plan.Dir, Listen: "none", SyncInterval: "2m", AckWait: 2 * time.Second, ClaimLife: time.Second, Reached: reached}, zerolog.New(os.Stderr).Level(zerolog.ErrorLevel))
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
			t.Timeout = 3 * time.Second // and with it the lease, by whose end what cannot be written is given up
		}
		targets = append(targets, t)
	}
	definitions, problems := delivery.NewDefinitions(targets)
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
		_, _, err := b.Publish(short, event(fmt.Sprintf("e%d", i), plan.Target))
		stop()
		if err != nil && plan.FileLimit > 0 {
			if err := os.WriteFile(filepath.Join(plan.Dir, "acknowledged"), []byte(strconv.Itoa(i)), 0o600); err != nil {
				return err
			}
			return <-done
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

// runChild starts a child; without a report it was killed. kill, when not nil,
// gets the child's process.
func runChild(t *testing.T, plan crashPlan, child func(*os.Process)) (*crashReport, error) {
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
