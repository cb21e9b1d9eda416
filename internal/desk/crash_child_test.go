//go:build unix

package desk

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/backoff"
	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/queue"
	"github.com/certpost/certpost/internal/verdict"
)

// crashPlan is what the child process is to do.
type crashPlan struct {
	Dir, Relay string
	Letters    int // to make, and to start the run for; 0: continue with what the streams have
	Rate       verdict.Rate
	Starting   bool // be killed while the run is being started
	Acting     bool // discard letter 1 and replay letter 2, and be killed before either leaves the stream
}

// crashReport is the result of a child that lived until the end of the run.
type crashReport struct {
	Run     Run
	Balance Balance
	Results map[string]int
	Tries   []time.Time
}

func TestMain(m *testing.M) {
	if text := os.Getenv(crashVariable); text != "" {
		var plan crashPlan
		err := json.Unmarshal([]byte(text), &plan)
		if err == nil {
			err = crashChild(plan)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// socketCourier is a courier whose relay is at the other end of a socket: one line for
// each mail, answered when it is accepted. Until it is set to succeed it refuses all.
type socketCourier struct {
	fakeCourier
	relay string
}

func (w *socketCourier) Deliver(_ context.Context, ev *events.Event, a verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
	w.mu.Lock()
	broken := w.failures[a.Target]
	w.mu.Unlock()
	if broken != nil {
		again := *broken
		return nil, &again
	}
	lost := func(err error) *verdict.Failure {
		return &verdict.Failure{Outcome: verdict.Outcome{Code: verdict.SMTPTransient, Phase: verdict.PhaseContent, Reason: "the connection to the relay was lost", Certainty: verdict.MaybeSent}, Cause: err}
	}
	conn, err := net.Dial("tcp", w.relay)
	if err != nil {
		return nil, lost(err)
	}
	defer conn.Close()
	if err := a.Claim(time.Now().Add(5 * time.Second)); err != nil {
		return nil, verdict.Fail(verdict.SMTPTransient, verdict.PhaseClaim, "not claimed").Because(err)
	}
	fmt.Fprintf(conn, "%s %v\n", ev.ID, a.PossibleDuplicate)
	if _, err := bufio.NewReader(conn).ReadString('\n'); err != nil {
		return nil, lost(err)
	}
	return &verdict.Receipt{Relay: w.relay, ReplyCode: 250, Recipients: []string{"a@example.com"}}, nil
}

func crashChild(plan crashPlan) error {
	// No flush for each write: SIGKILL ends the process, not the machine.
	cfg := broker.Config{DataDir: plan.Dir, Listen: "127.0.0.1:0", SyncInterval: "2m"}
	if plan.Acting {
		cfg.Reached = dieAfterTwo()
	}
	b, err := broker.Open(cfg, zerolog.New(os.Stderr).Level(zerolog.ErrorLevel))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	w := &socketCourier{fakeCourier: *newFakeCourier(), relay: plan.Relay}
	if plan.Letters > 0 {
		w.fail("ops", refusal())
	}
	r := queue.NewRunner(b, w, quick(), queue.NewMetrics(prometheus.NewRegistry()))
	go func() { _ = r.Run(ctx) }()
	for r.Ready(ctx) != nil {
		backoff.Sleep(ctx, 10*time.Millisecond)
	}
	d := New(b, fakeDeliverer{}, zerolog.New(os.Stderr).Level(zerolog.ErrorLevel))
	d.pace.look, d.pace.lease = 100*time.Millisecond, time.Second
	if !plan.Rate.IsZero() {
		d.pace.lease = 100 * time.Millisecond // the next process takes over before the rate allows a letter
	}
	go func() { _ = d.Run(ctx) }()
	if err := d.Ready(ctx); err != nil {
		return err
	}
	if plan.Letters > 0 {
		for i := range plan.Letters {
			if _, _, err := b.Publish(ctx, event(fmt.Sprintf("e%d", i), "ops")); err != nil {
				return err
			}
		}
		// A delivery whose letter is stored and whose end is not recorded is attempted again by the next process.
		settled := func() bool {
			backlog, err := b.Backlog(ctx)
			return err == nil && backlog.Deliveries == 0
		}
		for d.Balance().Open < plan.Letters || !settled() {
			backoff.Sleep(ctx, 20*time.Millisecond)
		}
		w.succeed("ops")
		if plan.Starting {
			fmt.Println("replaying")
			if err := dieWhenStarted(b.URL(), lab.Seed(plan.Dir, "admin")); err != nil {
				return err
			}
		}
		if plan.Acting {
			fmt.Println("replaying")
			go func() { _, _ = d.Discard(ctx, me, d.Freeze(Query{}, []uint64{1}, true), "not needed") }()
			err := d.Replay(ctx, me, 2, false, false, "fixed")
			<-ctx.Done()
			return fmt.Errorf("not killed: %w", err)
		}
		if _, err := d.StartRun(ctx, me, RunSpec{Frozen: d.Freeze(Query{}, nil, false), Reason: "fixed", Canary: plan.Rate.IsZero(), Rate: plan.Rate}); err != nil {
			return err
		}
	}
	fmt.Println("replaying")
	for len(d.Runs(RunQuery{})) == 0 || d.Runs(RunQuery{})[0].State != RunDone || d.Balance().Open > 0 {
		if ctx.Err() != nil {
			return fmt.Errorf("the run did not end: %+v, %+v", d.Runs(RunQuery{}), d.Balance())
		}
		backoff.Sleep(ctx, 20*time.Millisecond)
	}
	report := crashReport{Run: d.Runs(RunQuery{})[0], Results: map[string]int{}}
	for after := uint64(0); ; {
		page, next, err := d.Results(ctx, report.Run.ID, after, maxPage)
		if err != nil {
			return err
		}
		for _, result := range page {
			report.Results[result.Result]++
		}
		if after = next; after == 0 {
			break
		}
	}
	for r, err := range b.ReadAudit(ctx, 1) {
		if err != nil {
			return err
		}
		if r.Run == report.Run.ID && r.Stage == broker.StageIntent {
			report.Tries = append(report.Tries, r.Time)
		}
	}
	// The balance is from a new desk, which knows only what the streams contain.
	fresh := New(b, fakeDeliverer{}, zerolog.Nop())
	go func() { _ = fresh.Follow(ctx) }()
	if err := fresh.Ready(ctx); err != nil {
		return err
	}
	report.Balance = fresh.Balance()
	return json.NewEncoder(os.Stdout).Encode(report)
}

// dieAfterTwo stops each action between the record of its outcome and the removal of its letter, and
// kills this process at the second.
func dieAfterTwo() func(point string) {
	var concluded atomic.Int32
	return func(point string) {
		if point != broker.PointConcluded {
			return
		}
		if concluded.Add(1) == 2 {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
		select {}
	}
}

// dieWhenStarted kills this process as soon as the audit records that a run starts: its
// set is stored by then, and the run is not.
func dieWhenStarted(url, seed string) error {
	login, err := nats.NkeyOptionFromSeed(seed)
	if err != nil {
		return err
	}
	nc, err := nats.Connect(url, login)
	if err != nil {
		return err
	}
	if _, err := nc.Subscribe("certpost.audit.started.>", func(*nats.Msg) { _ = syscall.Kill(os.Getpid(), syscall.SIGKILL) }); err != nil {
		return err
	}
	return nc.Flush()
}
