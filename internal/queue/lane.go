package queue

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/verdict"
)

// reconcileEvery is the time between two comparisons of the lanes with the stream: a
// message in a lane without a consumer would wait unnoticed.
const reconcileEvery = 5 * time.Second

// fetchWait is how long a fetch waits for messages; it is also the longest time by which
// an idle lane delays a shutdown.
const fetchWait = 2 * time.Second

// lanes are all lanes that have a consumer, whether a target uses them or not: the
// deliveries for a removed target must be settled too. The lane of a mail host gets its
// consumer from any process, and is served by the one on that host: what waits there waits
// for it.
type lanes struct {
	r             *Runner
	every         time.Duration // between reconciles
	strandedEvery time.Duration // between searches for stranded messages
	floors        floors        // at the last search; owned by run
	trigger       chan struct{} // requests a reconcile now

	mu      sync.Mutex
	known   map[string]bool // consumers ensured by this process
	running map[string]*lane

	// owned by run
	strays   map[string]bool     // lanes without a consumer, at the last look
	moving   map[string]bool     // subjects in paused lanes whose targets have another lane, at the last look
	progress map[string]*handout // of the lanes' consumers, at the last look
	fanout   handout             // of the consumer fanout
}

func newLanes(r *Runner) *lanes {
	return &lanes{
		r: r, every: reconcileEvery, strandedEvery: strandedEvery, trigger: make(chan struct{}, 1),
		known: map[string]bool{}, running: map[string]*lane{}, progress: map[string]*handout{},
	}
}

// run starts a worker for every lane and returns when all have ended.
func (ls *lanes) run(ctx, work context.Context) {
	var wg sync.WaitGroup
	tick := time.NewTicker(ls.every)
	defer tick.Stop()
	for {
		names, err := ls.reconcile(ctx, work)
		if ctx.Err() == nil {
			ls.r.standstills.report(partTopology, "", err)
		}
		if err != nil && ctx.Err() == nil {
			ls.r.log.Warn().Err(err).Msg("the lanes could not be compared with the stream; trying again")
		}
		for _, name := range names {
			ls.mu.Lock()
			l, running := ls.running[name]
			if !running {
				l = newLane(ls.r, name)
				ls.running[name] = l
				wg.Go(func() { l.run(ctx, work) })
				ls.r.replicas.heartbeatNow()
			}
			ls.mu.Unlock()
		}
		select {
		case <-ctx.Done():
			wg.Wait()
			return
		case <-tick.C:
		case <-ls.trigger:
		}
	}
}

// reconcile ensures that the streams exist with their settings, that every lane of a
// target has its consumer with its settings, and that no message is stranded or stray. It
// returns all lanes that have a consumer and that this process serves. A lane that cannot get
// its consumer does not keep the others from theirs.
func (ls *lanes) reconcile(ctx, work context.Context) ([]string, error) {
	if ls.r.set.OnlyHost {
		return ls.reconcileHost(ctx)
	}
	err := ls.r.EnsureTopology(ctx)
	ls.r.setChecked(err)
	if err != nil {
		return nil, err
	}
	stream, err := ls.r.JetStream().Stream(ctx, broker.DeliveriesStream)
	if err != nil {
		return nil, err
	}
	if err := ls.checkFanout(ctx); err != nil {
		return nil, err
	}
	have, want := map[string]bool{}, map[string]bool{}
	now := floors{time.Now(), map[string]uint64{}}
	lister := stream.ListConsumers(ctx)
	for info := range lister.Info() {
		name, ok := strings.CutPrefix(info.Name, broker.LaneConsumerPrefix)
		if !ok {
			continue
		}
		now.byLane[name] = info.AckFloor.Stream
		if ls.r.serves(name) {
			ls.checkProgress(name, info)
		}
		if info.Paused || len(ls.r.ConsumerDifferences(info.Config, ls.r.laneConsumer(name))) > 0 {
			want[name] = true // changed by another client: restore it
		} else {
			have[name] = true
		}
	}
	if err := lister.Err(); err != nil && !errors.Is(err, jetstream.ErrEndOfData) {
		return nil, err
	}
	for _, name := range ls.r.courier.Lanes() {
		want[name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if have[name] {
			continue
		}
		ls.forget(name)
		have[name] = ls.ensure(ctx, name) == nil || now.has(name)
	}
	maps.DeleteFunc(have, func(name string, has bool) bool { return !has || !ls.r.serves(name) })
	return slices.Collect(maps.Keys(have)), ls.settleLeftovers(ctx, work, stream, now, want)
}

// settleLeftovers settles what no consumer hands out: stranded and stray messages, and those in
// paused lanes whose targets have another lane now.
func (ls *lanes) settleLeftovers(ctx, work context.Context, stream jetstream.Stream, now floors, want map[string]bool) error {
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(broker.DeliveryPrefix+">"))
	if err != nil {
		return err
	}
	strays := map[string]bool{}
	for subject := range info.State.Subjects {
		if lane, _, ok := strings.Cut(strings.TrimPrefix(subject, broker.DeliveryPrefix), "."); ok && !want[lane] && !now.has(lane) {
			strays[lane] = true
		}
	}
	err = errors.Join(ls.settleStranded(ctx, stream, info.State, now), ls.settleStrays(work, stream, strays), ls.moveOn(work, stream, info.State.Subjects))
	if ctx.Err() != nil {
		return nil
	}
	ls.r.standstills.report(partStranded, "", err)
	if err != nil {
		ls.r.log.Warn().Err(err).Msg("stranded, stray or moved deliveries could not be settled; trying again") // the lanes are served all the same
	}
	return nil
}

// checkProgress notices a lane from which this process fetches in vain.
func (ls *lanes) checkProgress(name string, info *jetstream.ConsumerInfo) {
	ls.mu.Lock()
	l := ls.running[name]
	ls.mu.Unlock()
	if ls.progress[name] == nil {
		ls.progress[name] = &handout{}
	}
	ls.r.standstills.report(partProgress, name, ls.progress[name].check(info, l != nil && l.asking()))
}

// checkFanout notices that no event is handed out, or that the same ones are being
// resolved all the time.
func (ls *lanes) checkFanout(ctx context.Context) error {
	c, err := ls.r.JetStream().Consumer(ctx, broker.EventsStream, broker.FanoutConsumer)
	if err != nil {
		return err
	}
	ls.r.standstills.report(partFanout, handingOut, ls.fanout.check(c.CachedInfo(), true))
	return nil
}

// ensure creates the lane's consumer unless this process has ensured it already. An error
// is a standstill if it lasts.
func (ls *lanes) ensure(ctx context.Context, name string) error {
	ls.mu.Lock()
	known := ls.known[name]
	ls.mu.Unlock()
	if known {
		return nil
	}
	err := ls.r.EnsureConsumer(ctx, broker.DeliveriesStream, ls.r.laneConsumer(name))
	if ctx.Err() == nil {
		ls.r.standstills.report(partConsumer, name, err)
	}
	if err != nil {
		return err
	}
	ls.mu.Lock()
	ls.known[name] = true
	ls.mu.Unlock()
	return nil
}

func (r *Runner) laneConsumer(name string) jetstream.ConsumerConfig {
	return r.CompleteConsumer(jetstream.ConsumerConfig{
		Durable: broker.LaneConsumerPrefix + name, Description: "deliveries of one relay",
		FilterSubject: broker.DeliverySubject(name, "*"), MaxAckPending: r.LaneAckPending(name),
	})
}

// open ensures that the lane has a consumer, and requests a worker if it has none.
func (ls *lanes) open(ctx context.Context, name string) error {
	if err := ls.ensure(ctx, name); err != nil {
		return err
	}
	ls.mu.Lock()
	_, running := ls.running[name]
	ls.mu.Unlock()
	if !running && ls.r.serves(name) {
		ls.check()
	}
	return nil
}

// serves reports whether this process makes the deliveries of a lane: those of a mail host
// only if it runs there.
func (r *Runner) serves(lane string) bool {
	return !verdict.OnHost(lane) && !r.set.OnlyHost || lane == r.set.HostLane
}

// check requests a reconcile now.
func (ls *lanes) check() {
	select {
	case ls.trigger <- struct{}{}:
	default: // requested already
	}
}

// forget makes the next ensure create the lane's consumer again.
func (ls *lanes) forget(name string) {
	ls.mu.Lock()
	delete(ls.known, name)
	ls.mu.Unlock()
}

// wakeAll makes all lanes check again whether they may fetch.
func (ls *lanes) wakeAll() {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for _, l := range ls.running {
		l.wake()
	}
}

// LaneStatus returns the state of each lane that this process serves, sorted by name.
func (r *Runner) LaneStatus() []broker.LaneStatus {
	r.lanes.mu.Lock()
	defer r.lanes.mu.Unlock()
	var all []broker.LaneStatus
	for _, name := range slices.Sorted(maps.Keys(r.lanes.running)) {
		l := r.lanes.running[name]
		s := broker.LaneStatus{Lane: name, Breaker: broker.BreakerClosed}
		if seen := l.status.Load(); seen != nil {
			s = *seen
		}
		if why := l.paused.Load(); why != nil {
			s.Paused = *why
		}
		s.Activity = l.activity.lately()
		s.InFlight, s.HeldBack = int(l.inWork.Load()), r.holds.of(name, time.Now())
		r.metrics.held.WithLabelValues(l.label).Set(float64(len(s.HeldBack)))
		all = append(all, s)
	}
	return all
}

// lane serves the queue of one relay, or of several relays that share it.
type lane struct {
	name      string
	label     string // of the lane in the metrics
	r         *Runner
	slots     chan struct{} // one token for each delivery in work or requested by a fetch
	woken     chan struct{} // something changed that may allow a fetch
	inWork    atomic.Int32
	uncounted atomic.Int32 // deliveries in work that the rate meter may still have to count
	overdue   atomic.Bool  // the last delivery to a failed relay expired
	paused    atomic.Pointer[string]
	status    atomic.Pointer[broker.LaneStatus] // as last observed
	activity  activity

	// owned by run
	consumer   jetstream.Consumer // nil until fetched from
	away       map[string]bool    // relays whose breaker was not closed when last observed
	failures   int                // of fetches, since one succeeded
	lastLogged time.Time          // when a failed fetch was last logged
}

func newLane(r *Runner, name string) *lane {
	return &lane{
		name: name, label: name, r: r, slots: make(chan struct{}, r.set.Concurrency), woken: make(chan struct{}, 1),
		away: map[string]bool{}, activity: activity{now: time.Now},
	}
}

// run takes free slots first and fetches that many messages, so that no message waits in
// this process while its acknowledgement wait runs. When ctx ends, it waits for the
// deliveries in work.
func (l *lane) run(ctx, work context.Context) {
	workers := newWorkers()
	defer workers.Wait()
	for ctx.Err() == nil {
		n := l.takeSlots(ctx)
		if n == 0 {
			return
		}
		admitted := l.admit(ctx, n)
		l.releaseSlots(n - admitted.n)
		l.setPaused(admitted.why)
		if admitted.n == 0 {
			l.r.progress.rest(fetchLane(l.name))
			l.pause(ctx, admitted)
			continue
		}
		unused, err := l.fetch(ctx, work, admitted.n, workers)
		l.releaseSlots(unused)
		if ctx.Err() == nil {
			l.r.noted(fetchLane(l.name), partFetch, l.name, err)
			l.settleFetch(ctx, err)
		}
		if admitted.probe {
			// The result of the probe decides how many may be fetched next.
			l.waitIdle(ctx)
		}
	}
}

// settleFetch counts failed fetches, and waits after each. It logs at most once a minute,
// because NATS may be unavailable for a day.
func (l *lane) settleFetch(ctx context.Context, err error) {
	if err == nil {
		l.failures = 0
		return
	}
	if time.Since(l.lastLogged) > time.Minute {
		l.lastLogged = time.Now()
		l.r.log.Warn().Err(err).Str("lane", l.name).Msg("deliveries could not be fetched from the lane; trying again")
	}
	l.r.afterFailedFetch(ctx, l.failures, err)
	l.failures++
}

// fetch fetches up to n messages and starts an attempt for each, which holds a slot until
// it ends. It returns how many slots were not used.
func (l *lane) fetch(ctx, work context.Context, n int, workers *workers) (unused int, err error) {
	batch, err := l.r.fetch(work, &l.consumer, broker.DeliveriesStream, broker.LaneConsumerPrefix+l.name, n)
	if err != nil {
		return n, err
	}
	for msg := range batch.Messages() {
		if delay, unwanted := l.unwanted(ctx); unwanted {
			if err := msg.NakWithDelay(delay); err != nil {
				l.r.log.Debug().Err(err).Str("lane", l.name).Msg("a NAK could not be sent; the server delivers the message again when its acknowledgement wait ends")
			}
			continue
		}
		n--
		l.inWork.Add(1)
		l.uncounted.Add(1)
		workers.Go(func() {
			defer l.wake()
			defer l.releaseSlots(1)
			defer l.inWork.Add(-1)
			l.r.attempt(work, l, msg)
		})
	}
	if err := forgetRefused(&l.consumer, batch.Error()); err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) {
		return n, err
	}
	return n, nil
}

// allowed returns how many messages a fetch may ask a consumer for, and how long it may
// wait: a server may limit the size of requests (jetstream.limits.max_request_batch), and
// an administrator both on our consumer. A request beyond the limits brings nothing.
func allowed(c jetstream.Consumer, n int) (int, time.Duration) {
	wait, limits := fetchWait, c.CachedInfo().Config
	if limits.MaxRequestBatch > 0 {
		n = min(n, limits.MaxRequestBatch)
	}
	if limits.MaxRequestExpires > 0 {
		wait = min(wait, limits.MaxRequestExpires)
	}
	return n, wait
}

// unwanted reports whether a fetched message must be NAKed, and with which delay: the
// process began to stop, or the lane was suspended, while the fetch was open.
func (l *lane) unwanted(ctx context.Context) (delay time.Duration, unwanted bool) {
	if ctx.Err() != nil {
		return atOnce, true // for another process or the next start
	}
	_, unwanted = l.r.replicas.suspension(l.name, time.Now())
	return time.Second, unwanted
}

// takeSlots waits for a free slot, takes all free slots and returns their number; 0 when
// ctx has ended.
func (l *lane) takeSlots(ctx context.Context) int {
	select {
	case <-ctx.Done():
		return 0
	case l.slots <- struct{}{}:
	}
	for n := 1; ; n++ {
		select {
		case l.slots <- struct{}{}:
		default:
			return n
		}
	}
}

func (l *lane) releaseSlots(n int) {
	for range n {
		<-l.slots
	}
}

// waitIdle waits until no delivery is in work.
func (l *lane) waitIdle(ctx context.Context) {
	n := 0
	defer func() { l.releaseSlots(n) }()
	for n < cap(l.slots) {
		select {
		case <-ctx.Done():
			return
		case l.slots <- struct{}{}:
			n++
		}
	}
}
