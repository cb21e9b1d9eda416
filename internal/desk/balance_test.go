package desk

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certpost/certpost/internal/backoff"
	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/verdict"
)

// model has the expected outcome of every letter.
type model struct {
	*fixture
	d        *Desk
	beside   *Desk // runs all the time
	stop     func()
	r        *rand.Rand
	status   map[uint64]Status
	event    map[uint64]string
	last     uint64
	restored int
	redone   map[uint64]bool // discarded letters that were restored
}

func (m *model) with(f Status) []uint64 {
	var numbers []uint64
	for n, status := range m.status {
		if status == f {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers
}

// pick returns a letter with an outcome, 0 if there is none.
func (m *model) pick(f Status) uint64 {
	numbers := m.with(f)
	if len(numbers) == 0 {
		return 0
	}
	return numbers[m.r.IntN(len(numbers))]
}

func (m *model) came(event string) {
	m.last++
	m.status[m.last], m.event[m.last] = Open, event
}

func (m *model) agrees(d *Desk) bool {
	b := d.Balance()
	sums := map[Status]int{Discarded: 0, Replayed: 0, Expired: 0, Replaced: 0, Removed: 0}
	open := 0
	for _, f := range m.status {
		if f == Open {
			open++
		} else {
			sums[f]++
		}
	}
	var listed []uint64
	for l := range d.Each(Query{Order: Oldest}) {
		listed = append(listed, l.Sequence)
	}
	return b.Total == m.last && b.Open == open && b.Restored == m.restored && maps.Equal(b.Ended, sums) && slices.Equal(listed, m.with(Open))
}

// step does one action on letters, through the desk or directly in NATS, and waits for the
// result.
func (m *model) step(i int) {
	m.t.Helper()
	ctx := m.t.Context()
	n := m.pick(Open)
	switch what := m.r.IntN(9); {
	case n == 0 || what < 2:
		id := fmt.Sprintf("s%d", i)
		m.courier.fail("ops", refusal())
		m.publish(event(id, "ops"))
		m.came(id)
	case what == 2: // with the desk
		m.courier.succeed("ops")
		if err := m.d.Replay(ctx, me, n, false, false, ""); err != nil {
			m.t.Fatal(err)
		}
		m.status[n] = Replayed
		m.until("the mail", func() bool { return m.courier.mails("ops", m.event[n]) > 0 })
	case what == 3: // with the NATS CLI
		m.courier.succeed("ops")
		m.again(n)
		m.status[n] = Replayed
	case what == 4: // with the NATS CLI; it fails again
		m.courier.fail("ops", &verdict.Failure{Outcome: verdict.Outcome{Code: verdict.SMTPPermanent, Phase: verdict.PhaseRcpt, Reason: "no"}})
		m.again(n)
		m.status[n] = Replaced
		m.came(m.event[n])
	case what == 5:
		if done, err := m.d.Discard(ctx, me, m.d.Freeze(Query{}, []uint64{n}, true), "test"); done != 1 || err != nil {
			m.t.Fatal(done, err)
		}
		m.status[n] = Discarded
	case what == 6:
		old := m.pick(Discarded)
		if old == 0 || m.redone[old] {
			return
		}
		number, err := m.d.Restore(ctx, me, old, "")
		if err != nil {
			m.t.Fatal(err)
		}
		m.came(m.event[old])
		if m.restored++; number != m.last {
			m.t.Fatalf("restored as %d, want %d", number, m.last)
		}
		m.redone[old] = true
	case what == 7:
		if err := m.stream().DeleteMsg(ctx, n); err != nil {
			m.t.Fatal(err)
		}
		m.status[n] = Removed
	case what == 8: // the process restarts
		m.stop()
		m.d, m.stop = m.desk(nil)
	}
	m.settles(fmt.Sprintf("step %d", i))
}

// settles waits until both desks agree with the model, and no delivery is in work. A desk that has
// not read a letter when it is removed outside Certpost records only its number; and a delivery
// whose letter is stored, but not the ledger's entry, is a dead one more if a NATS client publishes
// it again at this moment.
func (m *model) settles(what string) {
	m.t.Helper()
	settled := func() bool {
		backlog, err := m.b.Backlog(m.t.Context())
		return err == nil && backlog.Events == 0 && backlog.Deliveries == 0
	}
	for end := time.Now().Add(time.Minute); !m.agrees(m.d) || !m.agrees(m.beside) || !settled(); backoff.Sleep(m.t.Context(), 5*time.Millisecond) {
		if time.Now().After(end) {
			m.t.Fatalf("%s: the desk says %+v, want %v; the stream %+v", what, m.d.Balance(), m.status, m.stream().CachedInfo().State)
		}
	}
}

// again publishes a letter's event as the NATS CLI does.
func (m *model) again(n uint64) {
	m.t.Helper()
	letter, err := m.b.DeadLetter(m.t.Context(), n)
	if err != nil {
		m.t.Fatal(err)
	}
	if _, err := m.js.Publish(m.t.Context(), letter.ReplaySubject, letter.Body); err != nil {
		m.t.Fatal(err)
	}
}

func (x *fixture) stream() jetstream.Stream {
	x.t.Helper()
	s, err := x.js.Stream(x.t.Context(), broker.DeadLettersStream)
	if err != nil {
		x.t.Fatal(err)
	}
	return s
}

// After any sequence of actions, through the desk or directly in NATS, every number has one
// outcome. The desk that acted, one that ran beside it, and one that reads the streams
// afterwards agree.
func TestBalanceOfRandomHistories(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			x := start(t)
			m := &model{fixture: x, r: rand.New(rand.NewPCG(seed, 1)), status: map[uint64]Status{}, event: map[uint64]string{}, redone: map[uint64]bool{}}
			m.d, m.stop = x.desk(nil)
			m.beside, _ = x.desk(nil)
			for i := range 60 {
				m.step(i)
			}
			if seed == 0 {
				m.purge()
			} else {
				m.expire(m.d, m.beside)
			}
			fresh, _ := x.desk(nil)
			if !m.agrees(fresh) {
				t.Errorf("a new desk says %+v, want %d of %v", fresh.Balance(), m.last, m.status)
			}
			// What an ended letter was about is read from the audit and the ledger, after the list.
			x.until("a new desk knows all letters", func() bool {
				for n := range m.status {
					if d, err := fresh.Letter(t.Context(), n); err != nil || d.DeadLetter.Event == "" {
						return false
					}
				}
				return true
			})
			for n, status := range m.status {
				if d, err := fresh.Letter(t.Context(), n); err != nil || d.Status != status || d.DeadLetter.Event != m.event[n] {
					t.Errorf("letter %d: %s of %s, %v; want %s of %s", n, d.Status, d.DeadLetter.Event, err, status, m.event[n])
				}
			}
			if u := fresh.Balance().Unexplained + m.d.Balance().Unexplained; u != 0 {
				t.Errorf("%d unexplained", u)
			}
		})
	}
}

// purge empties the stream as the NATS CLI does.
func (m *model) purge() {
	m.t.Helper()
	if err := m.stream().Purge(m.t.Context()); err != nil {
		m.t.Fatal(err)
	}
	for _, n := range m.with(Open) {
		m.status[n] = Removed
	}
	m.settles("the purge")
}

// expire makes the stream keep letters for two seconds. The server has set its timer for
// the maximum age that was configured before and does not check sooner, so the test
// purges what it would expire.
func (m *model) expire(desks ...*Desk) {
	m.t.Helper()
	s := m.stream()
	m.until("they are old enough", func() bool { return time.Since(s.CachedInfo().State.LastTime) > 2*time.Second })
	// Not before that: Certpost restores its own configuration.
	config := s.CachedInfo().Config
	config.MaxAge, config.Duplicates = 2*time.Second, time.Second
	if _, err := m.js.UpdateStream(context.Background(), config); err != nil {
		m.t.Fatal(err)
	}
	for _, d := range desks { // a desk that does not know the maximum age counts them as removed
		m.until("the desks know how long letters are kept", func() bool {
			d.mu.RLock()
			defer d.mu.RUnlock()
			return d.maxAge == config.MaxAge
		})
	}
	if err := s.Purge(m.t.Context()); err != nil {
		m.t.Fatal(err)
	}
	for _, n := range m.with(Open) {
		m.status[n] = Expired
	}
	m.settles("all are expired")
}

// A letter that is gone without a record is a difference, shown once it has lasted.
func TestMismatchIsShown(t *testing.T) {
	t.Parallel()
	d := dry()
	d.pace.mismatch = 0
	d.letters.outcomes.extendTo(3)
	d.letters.outcomes.setStored(1)
	d.letters.outcomes.setStored(2)
	d.letters.outcomes.setStored(3)
	d.letters.outcomes.setGone(2)
	if b := d.Balance(); b.Unexplained != 0 {
		t.Errorf("at once: %+v", b)
	}
	d.mismatch = time.Now().Add(-time.Second)
	if b := d.Balance(); b.Unexplained != 1 || b.Open != 2 || b.Total != 3 {
		t.Errorf("%+v", b)
	}
	d.letters.outcomes.setOutcome(2, outcomeRemoved)
	d.letters.outcomes.setOutcome(2, outcomeDiscarded) // the first one stays
	if b := d.Balance(); b.Unexplained != 0 || b.Ended[Removed] != 1 || b.Ended[Discarded] != 0 {
		t.Errorf("%+v", b)
	}
}
