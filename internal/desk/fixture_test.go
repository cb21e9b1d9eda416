package desk

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/backoff"
	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/queue"
	"github.com/certpost/certpost/internal/verdict"
)

// fakeCourier is a courier whose relay is this process. It counts the mails it delivers;
// for a target set to fail it returns that failure.
type fakeCourier struct {
	mu        sync.Mutex
	failures  map[string]*verdict.Failure // by target
	delivered map[string]int              // target and event -> mails
	lanes     []string
	slow      time.Duration
	amid      chan struct{} // if not nil, a mail is sending until it is closed
}

func newFakeCourier() *fakeCourier {
	return &fakeCourier{failures: map[string]*verdict.Failure{}, delivered: map[string]int{}, lanes: []string{"relay"}}
}

func refusal() *verdict.Failure {
	return &verdict.Failure{Outcome: verdict.Outcome{Code: verdict.SMTPAuth, Phase: verdict.PhaseAuth, Reason: "the relay does not accept the password", ReplyCode: 535, EnhancedCode: "5.7.8", Certainty: verdict.NotSent}}
}

func (p *fakeCourier) Lanes() []string { return p.lanes }
func (p *fakeCourier) LaneOf(string) (string, bool) {
	if len(p.lanes) == 0 {
		return "", false
	}
	return p.lanes[0], true
}
func (p *fakeCourier) Relays(string) [][]verdict.RelayStatus { return nil }
func (p *fakeCourier) PauseRelay(verdict.RelayPause)         {}
func (p *fakeCourier) ResumeRelay(string)                    {}
func (p *fakeCourier) fail(target string, f *verdict.Failure) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failures[target] = f
}
func (p *fakeCourier) succeed(target string) { p.fail(target, nil) }

func (p *fakeCourier) Resolve(_ context.Context, ev *events.Event) ([]verdict.Route, *verdict.Failure) {
	var routes []verdict.Route
	for _, t := range ev.Targets {
		routes = append(routes, verdict.Route{Target: t, Lane: "relay"})
	}
	return routes, nil
}

func (p *fakeCourier) Deliver(ctx context.Context, ev *events.Event, a verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
	p.mu.Lock()
	f, slow, amid := p.failures[a.Target], p.slow, p.amid
	p.mu.Unlock()
	if f != nil {
		again := *f
		return nil, &again
	}
	backoff.Sleep(ctx, slow)
	if err := a.Claim(time.Now().Add(5 * time.Second)); err != nil {
		return nil, &verdict.Failure{Outcome: verdict.Outcome{Code: verdict.SMTPTransient, Phase: verdict.PhaseClaim, Reason: "not claimed"}, Cause: err}
	}
	if amid != nil {
		<-amid
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delivered[a.Target+"/"+ev.ID]++
	return &verdict.Receipt{Relay: "relay:25", ReplyCode: 250, Reply: "2.0.0 Ok", MessageID: "<" + ev.ID + "@example.com>", Recipients: []string{"a@example.com"}}, nil
}

func (p *fakeCourier) mails(target, event string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.delivered[target+"/"+event]
}

// fixture is a broker on an embedded server with a working runner, and desks.
type fixture struct {
	t       *testing.T
	courier *fakeCourier
	b       *broker.Broker
	runner  *queue.Runner
	js      jetstream.JetStream // another NATS client, as with the NATS CLI
}

func quick() queue.Settings {
	return queue.Settings{Concurrency: 8, RetryInitial: 20 * time.Millisecond, RetryMax: 100 * time.Millisecond,
		RetryMultiplier: 2, GiveUpAfter: time.Hour, Grace: 5 * time.Second}
}

func start(t *testing.T) *fixture {
	t.Helper()
	return startIn(t, t.TempDir())
}

// startIn starts with the data of an earlier process.
func startIn(t *testing.T, dir string) *fixture {
	t.Helper()
	return startWith(t, dir, func(*queue.Settings) {})
}

// startWith starts with changed settings of the queue.
func startWith(t *testing.T, dir string, change func(*queue.Settings)) *fixture {
	t.Helper()
	x := &fixture{t: t, courier: newFakeCourier()}
	var err error
	x.b, err = broker.Open(broker.Config{DataDir: dir, Listen: "127.0.0.1:0", SyncInterval: "2m"}, zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.ErrorLevel))
	if err != nil {
		t.Fatal(err)
	}
	nc := lab.Admin(t, x.b.URL(), dir, nats.Name("operator's shell"))
	if x.js, err = jetstream.New(nc); err != nil {
		t.Fatal(err)
	}
	set := quick()
	change(&set)
	r := queue.NewRunner(x.b, x.courier, set, queue.NewMetrics(prometheus.NewRegistry()))
	x.runner = r
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		nc.Close()
		x.b.Close()
	})
	x.until("the runner is ready", func() bool { return r.Ready(ctx) == nil })
	return x
}

// desk returns a running desk, which stops when the test ends or stop is called.
func (x *fixture) desk(change func(*Desk)) (d *Desk, stop func()) {
	x.t.Helper()
	d = New(x.b, fakeDeliverer{}, zerolog.New(zerolog.NewTestWriter(x.t)).Level(zerolog.WarnLevel))
	d.CancelWith(x.runner)
	d.pace.look, d.pace.grace = 50*time.Millisecond, 300*time.Millisecond
	if change != nil {
		change(d)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			x.t.Error(err)
		}
	})
	x.t.Cleanup(stop)
	ready, end := context.WithTimeout(ctx, time.Minute)
	defer end()
	if err := d.Ready(ready); err != nil {
		x.t.Fatal(err)
	}
	return d, stop
}

type fakeDeliverer struct{}

func (fakeDeliverer) Targets() []verdict.TargetView {
	return []verdict.TargetView{{ID: "ops", Lane: "relay"}}
}
func (f fakeDeliverer) Target(id string) (verdict.TargetView, bool) { return named(f.Targets(), id) }
func (fakeDeliverer) Relays() []verdict.RelayView {
	return []verdict.RelayView{{Relay: "relay:25", Lane: "relay"}}
}
func (fakeDeliverer) Check(context.Context, string) []verdict.Finding {
	return []verdict.Finding{{What: "target", Status: verdict.OK}}
}
func (fakeDeliverer) Examine(_ context.Context, trial verdict.Trial) []verdict.Finding {
	return []verdict.Finding{{What: trial.Target, Status: verdict.OK, Message: fmt.Sprint(len(trial.Event) > 0)}}
}

// named returns the view of the target that has an id, or had it before.
func named(all []verdict.TargetView, id string) (verdict.TargetView, bool) {
	for _, t := range all {
		if t.ID == id || slices.Contains(t.FormerIDs, id) {
			return t, true
		}
	}
	return verdict.TargetView{}, false
}

func (x *fixture) until(what string, ok func() bool) {
	x.t.Helper()
	lab.Within(x.t, 5*time.Minute, what, ok)
}

func (x *fixture) publish(ev *events.Event) {
	x.t.Helper()
	if _, err := x.js.Publish(context.Background(), broker.EventSubject, ev.Encode()); err != nil {
		x.t.Fatal(err)
	}
}

// letters makes n dead letters: events for a target that fails.
func (x *fixture) letters(d *Desk, target string, from, n int) {
	x.t.Helper()
	open := d.Balance().Open
	x.courier.fail(target, refusal())
	for i := range n {
		x.publish(event(fmt.Sprintf("e%d", from+i), target))
		if n <= 5 { // in order, if they are few
			x.until("the dead letter", func() bool { return d.Balance().Open == open+i+1 })
		}
	}
	x.until("the dead letters", func() bool { return d.Balance().Open == open+n })
}

var me = broker.Actor{Name: "anna", Role: "operator", Via: broker.ViaPage}

func event(id string, targets ...string) *events.Event {
	return &events.Event{ID: id, Source: "test://ca", Certificate: events.Certificate{PEM: certificate("www.example.com", time.Now().Add(-time.Hour))}, Targets: targets}
}

var certificates sync.Map

// certificate returns a self-signed one, the same for the same name and hour.
func certificate(name string, from time.Time) string {
	from = from.Truncate(time.Hour)
	key := name + from.String()
	if c, ok := certificates.Load(key); ok {
		return c.(string)
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	tpl := &x509.Certificate{SerialNumber: big.NewInt(from.Unix()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name, "alt." + name},
		NotBefore: from, NotAfter: from.Add(90 * 24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, private.Public(), private)
	if err != nil {
		panic(err)
	}
	text, _ := certificates.LoadOrStore(key, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	return text.(string)
}
