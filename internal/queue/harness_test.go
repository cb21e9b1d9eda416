package queue

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/verdict"
)

// TestMain runs more tests in parallel than there are cores: they wait for servers, not
// for the processor.
func TestMain(m *testing.M) {
	if isChild, err := runCrashChild(); isChild {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	flag.Parse()
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// fakeCourier is a courier without a relay: it keeps the mails that it accepts in a
// mailbox. A script per target decides the result of an attempt, failures after the
// mail was accepted included.
type fakeCourier struct {
	mu      sync.Mutex
	targets map[string]string // id -> lane
	script  map[string]func(try int, a verdict.Attempt) (*verdict.Receipt, *verdict.Failure)
	tries   map[string]int
	mailbox []mail
	relays  map[string][][]verdict.RelayStatus // by lane
	gives   time.Duration                      // the time for claim and content; 0: one second
}

type mail struct {
	event, target string
	recipients    []string
	kept          []string // recipients that had the mail before
	duplicate     bool
}

func newFakeCourier(targets ...string) *fakeCourier {
	p := &fakeCourier{targets: map[string]string{}, tries: map[string]int{}, relays: map[string][][]verdict.RelayStatus{},
		script: map[string]func(int, verdict.Attempt) (*verdict.Receipt, *verdict.Failure){}}
	for _, t := range targets {
		id, lane, ok := strings.Cut(t, "@")
		if !ok {
			lane = "relay"
		}
		p.targets[id] = lane
	}
	return p
}

func (p *fakeCourier) Lanes() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var lanes []string
	for _, l := range p.targets {
		if !slices.Contains(lanes, l) {
			lanes = append(lanes, l)
		}
	}
	return lanes
}

func (p *fakeCourier) LaneOf(target string) (lane string, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	lane, ok = p.targets[target]
	return lane, ok
}

func (p *fakeCourier) Relays(lane string) [][]verdict.RelayStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.relays[lane]
}

func (p *fakeCourier) PauseRelay(verdict.RelayPause) {}
func (p *fakeCourier) ResumeRelay(string)            {}

// setRelays sets the relays of a lane.
func (p *fakeCourier) setRelays(lane string, relayLists ...[]verdict.RelayStatus) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.relays[lane] = relayLists
}

func (p *fakeCourier) Resolve(_ context.Context, ev *events.Event) ([]verdict.Route, *verdict.Failure) {
	p.mu.Lock()
	defer p.mu.Unlock()
	ids := ev.Targets
	if ids == nil && ev.Labels["match"] == "all" {
		for id := range p.targets {
			ids = append(ids, id)
		}
	}
	var routes []verdict.Route
	for _, id := range ids {
		if lane, ok := p.targets[id]; ok {
			routes = append(routes, verdict.Route{Target: id, Lane: lane})
			continue
		}
		routes = append(routes, verdict.Route{Target: id, Failure: &verdict.Failure{
			Outcome: verdict.Outcome{Code: verdict.TargetUnknown, Phase: verdict.PhaseResolve, Reason: "no such target"},
		}})
	}
	return routes, nil
}

func (p *fakeCourier) Deliver(ctx context.Context, ev *events.Event, a verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
	p.mu.Lock()
	p.tries[a.Target]++
	try, script := p.tries[a.Target], p.script[a.Target]
	p.mu.Unlock()
	take := func() { p.take(ev, a) }
	if script != nil {
		if receipt, failure := script(try, a); receipt != nil || failure != nil {
			if receipt == untilCancelled {
				<-ctx.Done()
				return nil, failure
			}
			if receipt == lostReply {
				if err := a.Claim(time.Now().Add(cmp.Or(p.gives, time.Second))); err != nil {
					return nil, claimLost(err)
				}
				take()
				return nil, failure
			}
			if receipt != nil { // accepted for some recipients
				if err := a.Claim(time.Now().Add(cmp.Or(p.gives, time.Second))); err != nil {
					return nil, claimLost(err)
				}
				a.Recipients = receipt.Recipients
				take()
			}
			return receipt, failure
		}
	}
	if err := a.Claim(time.Now().Add(cmp.Or(p.gives, time.Second))); err != nil {
		return nil, claimLost(err)
	}
	if ctx.Err() != nil {
		return nil, &verdict.Failure{Outcome: verdict.Outcome{Code: verdict.SMTPTransient, Phase: verdict.PhaseContent, Reason: "cancelled"}}
	}
	take()
	return &verdict.Receipt{Relay: "relay:25", ReplyCode: 250, Reply: "2.0.0 Ok", Recipients: []string{"a@example.com"}}, nil
}

func claimLost(err error) *verdict.Failure {
	return &verdict.Failure{Outcome: verdict.Outcome{Code: verdict.SMTPTransient, Phase: verdict.PhaseClaim, Reason: "not claimed"}, Cause: err}
}

// lostReply tells the courier to accept the mail and then return the failure.
var lostReply = &verdict.Receipt{}

// untilCancelled tells the courier to return the failure when the attempt is cancelled.
var untilCancelled = &verdict.Receipt{}

func (p *fakeCourier) take(ev *events.Event, a verdict.Attempt) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mailbox = append(p.mailbox, mail{ev.ID, a.Target, a.Recipients, a.Accepted, a.PossibleDuplicate})
}

func (p *fakeCourier) mails(event string) []mail {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []mail
	for _, m := range p.mailbox {
		if m.event == event {
			out = append(out, m)
		}
	}
	return out
}

func (p *fakeCourier) tried(target string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.tries[target]
}

func (p *fakeCourier) plan(target string, script func(int, verdict.Attempt) (*verdict.Receipt, *verdict.Failure)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.script[target] = script
}

func fail(code verdict.Code, phase verdict.Phase) *verdict.Failure {
	return &verdict.Failure{Outcome: verdict.Outcome{Code: code, Phase: phase, Reason: "scripted by the test", ReplyCode: 550, EnhancedCode: "5.7.1"}}
}

// fixture is a broker on an embedded server, and a running runner.
type fixture struct {
	t      *testing.T
	cfg    broker.Config
	broker *broker.Broker
	fake   *fakeCourier
	// courier is the runner's courier: fake, unless a test sets the real one.
	courier       Courier
	set           Settings
	runner        *Runner
	relayDelay    time.Duration // that of the runner, unless 0
	slowReconcile bool          // reconcile only when triggered
	fastReconcile bool          // reconcile all the time, and search for stranded messages each time
	stop          func()        // stops the runner and waits until it has ended
}

func quick() Settings {
	return Settings{Concurrency: 4, RetryInitial: 20 * time.Millisecond, RetryMax: 100 * time.Millisecond,
		RetryMultiplier: 2, GiveUpAfter: time.Hour, Grace: 5 * time.Second}
}

func start(t *testing.T, fake *fakeCourier, change func(*Settings)) *fixture {
	t.Helper()
	b := &fixture{t: t, fake: fake, set: quick(), cfg: broker.Config{DataDir: t.TempDir(), Listen: "none", SyncInterval: "2m"}}
	if change != nil {
		change(&b.set)
	}
	b.start()
	return b
}

func (b *fixture) start() {
	b.open()
	b.run()
	b.t.Cleanup(func() { b.close() })
}

func (b *fixture) open() {
	b.t.Helper()
	var err error
	if b.broker, err = broker.Open(b.cfg, zerolog.New(zerolog.NewTestWriter(b.t)).Level(zerolog.WarnLevel)); err != nil {
		b.t.Fatal(err)
	}
}

func (b *fixture) run() {
	if b.courier == nil {
		b.courier = b.fake
	}
	b.runner = NewRunner(b.broker, b.courier, b.set, newTestMetrics())
	b.runner.relayDelay = cmp.Or(b.relayDelay, b.runner.relayDelay)
	if b.slowReconcile {
		b.runner.lanes.every = time.Hour
	}
	if b.fastReconcile {
		b.runner.lanes.every, b.runner.lanes.strandedEvery = 100*time.Millisecond, 90*time.Millisecond
		b.runner.reconciler.every, b.runner.reconciler.after = 100*time.Millisecond, 0
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.runner.Run(ctx) }()
	b.stop = func() {
		cancel()
		if err := <-done; err != nil {
			b.t.Errorf("run: %v", err)
		}
	}
	b.until("ready", func() bool { return b.runner.Ready(context.Background()) == nil })
}

// replica starts a second runner on the same streams.
func (b *fixture) replica() *fixture {
	second := &fixture{t: b.t, cfg: b.cfg, broker: b.broker, fake: b.fake, set: b.set, relayDelay: b.relayDelay}
	second.run()
	return second
}

func (b *fixture) close() {
	b.stop()
	b.broker.Close()
}

// until waits until ok returns true.
func (b *fixture) until(what string, ok func() bool) {
	b.t.Helper()
	lab.Within(b.t, 5*time.Minute, what, ok)
}

func (b *fixture) publish(ev *events.Event) {
	b.t.Helper()
	// No message id: JetStream's duplicate window must not be what prevents duplicates.
	m := nats.NewMsg(broker.EventSubject)
	m.Data = ev.Encode()
	if _, err := b.broker.JetStream().PublishMsg(context.Background(), m); err != nil {
		b.t.Fatal(err)
	}
}

// letters returns the dead letters. It asks again where a busy server does not answer in time.
func (b *fixture) letters() (all []broker.DeadLetter) {
	b.t.Helper()
	b.until("the dead letters can be read", func() bool {
		all = nil
		for d, err := range b.broker.DeadLetters(context.Background(), "") {
			if broker.Unanswered(err) {
				return false
			}
			if err != nil {
				b.t.Fatal(err)
			}
			all = append(all, d)
		}
		return true
	})
	return all
}

// settled waits until no event and no delivery is pending.
func (b *fixture) settled() {
	b.t.Helper()
	b.until("nothing pending", func() bool {
		backlog, err := b.broker.Backlog(context.Background())
		return err == nil && backlog.Events == 0 && backlog.Deliveries == 0
	})
}

func (b *fixture) entry(target, event string) broker.Entry {
	b.t.Helper()
	list, err := b.broker.Deliveries(context.Background(), target, event)
	if err != nil || len(list) > 1 {
		b.t.Fatalf("ledger of %s/%s: %v, %d entries", target, event, err, len(list))
	}
	if len(list) == 0 {
		return broker.Entry{}
	}
	return list[0]
}

func event(id string, targets ...string) *events.Event {
	return &events.Event{ID: id, Source: "test://ca", Certificate: events.Certificate{PEM: lab.SelfSigned("www.example.com")}, Targets: targets}
}

// tester is the operator who acts on dead letters in tests.
var tester = broker.Actor{Name: "tester", Via: broker.ViaShell}

func newTestMetrics() *Metrics { return NewMetrics(prometheus.NewRegistry()) }

// historyOf returns the audit records of a letter as "stage action", oldest first.
func historyOf(t *testing.T, b *broker.Broker, number uint64) (history []string) {
	t.Helper()
	for r, err := range b.ReadAudit(context.Background(), 1) {
		if err != nil {
			t.Fatal(err)
		}
		if r.LetterNumber == number {
			history = append(history, strings.TrimSpace(string(r.Stage)+" "+string(r.Action)))
		}
	}
	return history
}
