package alert

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
)

// memory is a store that several engines share, and that can be away.
type memory struct {
	mu    sync.Mutex
	value []byte
	away  bool
}

func (s *memory) ChangeAlerts(_ context.Context, change func(*Board) bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away {
		return errors.New("NATS does not answer")
	}
	b := &Board{}
	if s.value != nil {
		if err := json.Unmarshal(s.value, b); err != nil {
			return err
		}
	}
	if change(b) {
		var err error
		s.value, err = json.Marshal(b)
		return err
	}
	return nil
}

// world is a clock, a store, what is to be seen, and what was received.
type world struct {
	t     *testing.T
	now   time.Time
	store *memory
	facts Facts
	got   []Message
	fail  error // of Send, after the message was taken
}

func newWorld(t *testing.T) *world {
	return &world{t: t, now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), store: &memory{}}
}

// process is one process; own is what it sees besides the facts of the world.
func (w *world) process(name string, own ...Condition) *Engine {
	return New(Settings{
		Timing: Timing{GroupWait: 30 * time.Second, Interval: 5 * time.Minute, Repeat: 24 * time.Hour}, Process: name, Host: name, NotReady: 5 * time.Minute,
		Senders: []Sender{{Name: "mail", Send: func(_ context.Context, m Message) error {
			w.got = append(w.got, m)
			return w.fail
		}}},
		Facts: func(context.Context) Facts {
			f := w.facts
			f.Own = append(f.Own, own...)
			return f
		},
		Log: zerolog.Nop(), Now: func() time.Time { return w.now },
	}, w.store)
}

// pass lets time pass in steps, in each of which every engine looks once.
func (w *world) pass(d time.Duration, all ...*Engine) {
	step := 10 * time.Second
	if d > 2*time.Hour {
		step = 50 * time.Second
	}
	for end := w.now.Add(d); w.now.Before(end); w.now = w.now.Add(step) {
		for _, e := range all {
			e.Round(w.t.Context())
			e.Wait()
		}
	}
}

// told checks the messages since the last call: firing and resolved keys of each.
func (w *world) told(want ...string) {
	w.t.Helper()
	var texts []string
	for _, m := range w.got {
		var firing, resolved []string
		for _, l := range m.Firing {
			firing = append(firing, l.Key)
		}
		for _, l := range m.Resolved {
			resolved = append(resolved, l.Key)
		}
		texts = append(texts, strings.Join(firing, " ")+"|"+strings.Join(resolved, " "))
	}
	if got, want := strings.Join(texts, "\n"), strings.Join(want, "\n"); got != want {
		w.t.Fatalf("told:\n%s\nwant:\n%s", got, want)
	}
	w.got = nil
}

func letters(name string) Condition {
	return Condition{Kind: DeadLetters, Name: name, Severity: Ticket, Summary: "3 dead letters " + name + ".", Advice: "Look."}
}

func audit() Condition {
	return Condition{Kind: Audit, Severity: Page, Summary: "The audit is broken."}
}

// What becomes due within group_wait is one message, there is at most one message in the interval, what lasts is told again after
// repeat, and its end is told once, when nobody has seen it for a minute.
func TestGroupedRepeatedAndResolved(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.process("a"), w.process("b")
	w.pass(time.Minute, a, b)
	w.told()
	w.facts.Shared = []Condition{letters("x")}
	w.pass(20*time.Second, a, b)
	w.facts.Shared = append(w.facts.Shared, audit())
	w.told() // still waits for others
	w.pass(20*time.Second, a, b)
	w.told("audit dead_letters/x|")
	w.facts.Shared = append(w.facts.Shared, letters("y"))
	w.pass(4*time.Minute, a, b)
	w.told() // within the interval
	w.pass(2*time.Minute, a, b)
	w.told("audit dead_letters/x dead_letters/y|")
	w.facts.Shared = w.facts.Shared[:1]
	w.pass(10*time.Minute, a, b)
	w.told() // x still lasts
	w.pass(24*time.Hour, a, b)
	w.told("dead_letters/x|audit dead_letters/y")
	w.facts.Shared = nil
	w.pass(10*time.Minute, a, b)
	w.told("|dead_letters/x")
	w.pass(48*time.Hour, a)
	w.told()
}

// A condition that comes back before its end was told is no news.
func TestFlappingIsToldOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	e := w.process("a")
	for range 20 {
		w.facts.Shared = []Condition{letters("x")}
		w.pass(80*time.Second, e)
		w.facts.Shared = nil
		w.pass(40*time.Second, e)
	}
	w.told("dead_letters/x|")
}

// A condition that has to last is none before.
func TestLasting(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	short := audit()
	short.For = 5 * time.Minute
	e := w.process("a")
	w.facts.Shared = []Condition{short}
	w.pass(4*time.Minute, e)
	w.facts.Shared = nil
	w.pass(time.Minute, e)
	w.facts.Shared = []Condition{short}
	w.pass(5*time.Minute, e)
	w.told()
	w.pass(2*time.Minute, e)
	w.told("audit|")
}

// A process that has only just started, or that cannot see everything, does not say what is over.
//
// Fault: a process has just started, or cannot read everything. Result: it says of nothing that it is over.
func TestOverOnlyAfterAFullLook(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.facts.Shared = []Condition{letters("x")}
	w.pass(2*time.Minute, w.process("a"))
	w.told("dead_letters/x|")
	w.now = w.now.Add(time.Hour) // nobody runs
	w.facts = Facts{Err: errors.New("the dead letters are still being read")}
	next := w.process("b")
	w.pass(20*time.Minute, next)
	w.told()
	w.facts = Facts{Shared: []Condition{letters("x")}}
	w.pass(20*time.Minute, next)
	w.told()
	w.facts = Facts{}
	w.pass(20*time.Minute, next)
	w.told("|dead_letters/x")
}

// A message that fails is sent again with growing pauses and the same id, also if the other side has taken it.
//
// Fault: the relay or the receiver of the webhook fails after it has taken a message. Result: the same message
// is sent again with growing pauses, with the same id.
func TestFailedMessageIsSentAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	e := w.process("a")
	failures := 0
	e.Failed = func(string) { failures++ }
	w.fail = errors.New("451 4.3.0 try again")
	w.facts.Shared = []Condition{letters("x")}
	w.pass(10*time.Minute, e)
	if n := len(w.got); n < 3 || n > 8 || failures != n || w.got[0].ID != w.got[n-1].ID {
		t.Fatalf("%d tries and %d failures in ten minutes: %+v", n, failures, w.got)
	}
	if err := e.Health(); err == nil || !strings.Contains(err.Error(), "the mail fails (") || !strings.Contains(err.Error(), "451 4.3.0 try again") {
		t.Errorf("health: %v", err)
	}
	w.got, w.fail = nil, nil
	w.pass(time.Hour, e)
	w.told("dead_letters/x|")
	if err := e.Health(); err != nil {
		t.Error(err)
	}
}

// A message that is a day old is not sent any more: what it says may be over. A new one is made.
func TestOldMessageIsMadeAnew(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	e := w.process("a")
	w.fail = errors.New("refused")
	w.facts.Shared = []Condition{letters("x")}
	w.pass(23*time.Hour, e)
	first := w.got[0].ID
	w.facts.Shared = []Condition{audit()}
	w.pass(2*time.Hour, e)
	if last := w.got[len(w.got)-1]; last.ID == first || len(last.Firing) != 1 || last.Firing[0].Key != "audit" {
		t.Errorf("%+v", last)
	}
}

// A process that dies while sending leaves the message to the others, with the same id; while it has
// the lease, they do not send it.
//
// Fault: a process is killed while it sends a message about alerts. Result: another process sends
// it again when the lease is over, with the same id.
func TestKilledWhileSending(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.facts.Shared = []Condition{letters("x")}
	dead, b := w.process("dead"), w.process("b")
	w.pass(10*time.Second, dead)
	w.now = w.now.Add(30 * time.Second)
	dead.look(t.Context())
	m := dead.claim(t.Context(), "mail", w.now) // and is killed after the relay took it
	if m == nil {
		t.Fatal("nothing to send")
	}
	w.pass(110*time.Second, b)
	w.told()
	w.pass(time.Minute, b)
	if len(w.got) != 1 || w.got[0].ID != m.ID {
		t.Fatalf("%+v, want the message %s again", w.got, m.ID)
	}
	w.got = nil
	w.pass(time.Hour, b)
	w.told()
}

// At the first start there are no streams yet: that is no news. An outage is, at once, and so is a store
// that does not come.
func TestFirstStartIsSilent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var log bytes.Buffer
	process := func() *Engine {
		log.Reset()
		e := w.process("a")
		e.Log = zerolog.New(&log)
		w.store.away = true
		return e
	}
	lines := func() int { return strings.Count(log.String(), "cannot be read or written") }
	e := process()
	w.pass(20*time.Second, e)
	w.store.away = false
	w.pass(time.Minute, e)
	if lines() != 0 {
		t.Errorf("at the first start: %s", log.String())
	}
	w.store.away = true
	w.pass(10*time.Second, e)
	if lines() != 1 {
		t.Errorf("in an outage: %s", log.String())
	}
	e = process()
	w.pass(time.Hour, e)
	if lines() != 1 {
		t.Errorf("without a store: %d lines", lines())
	}
}

// A message that was sent, which could not be stored, is not sent again by the process that knows it.
//
// Fault: a message was sent, and NATS is gone before that is stored. Result: the process that sent it does
// not send it again.
func TestSentButNotStored(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	e := w.process("a")
	w.facts.Shared = []Condition{letters("x")}
	e.Senders[0].Send = func(_ context.Context, m Message) error {
		w.got = append(w.got, m)
		w.store.away = len(w.got) == 1
		return nil
	}
	w.pass(40*time.Second, e)
	w.store.away = false
	w.pass(time.Hour, e)
	w.told("dead_letters/x|")
}

// While NATS does not answer, each process tells of itself only; afterwards that is told to be over.
//
// Fault: NATS does not answer for longer than alerts.not_ready. Result: each process tells
// that of itself, and when it is over.
func TestAloneWithoutNATS(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.process("a"), w.process("b")
	w.facts.Shared = []Condition{letters("x")}
	w.pass(2*time.Minute, a, b)
	w.told("dead_letters/x|")
	w.store.away = true
	w.facts = Facts{Err: errors.New("NATS is unavailable")}
	w.pass(4*time.Minute, a, b)
	w.told()
	w.pass(3*time.Minute, a, b)
	w.told("not_ready/a|", "not_ready/b|")
	if _, alone := a.Board(); !alone {
		t.Error("the process does not know that it is alone")
	}
	w.pass(time.Hour, a, b)
	w.told()
	w.store.away = false
	w.facts = Facts{Shared: []Condition{letters("x")}}
	w.pass(30*time.Minute, a, b)
	w.told()
	w.facts = Facts{}
	w.pass(30*time.Minute, a, b)
	w.told("|not_ready/a not_ready/b dead_letters/x")
}

// What is silenced is not told; when the silence ends and it lasts, it is.
func TestSilence(t *testing.T) {
	t.Parallel()
	for _, of := range []string{"dead_letters/x", "dead_letters", Everything} {
		w := newWorld(t)
		e := w.process("a")
		w.facts.Shared = []Condition{letters("x")}
		if err := w.store.ChangeAlerts(t.Context(), func(b *Board) bool {
			return b.Silence(Silence{Of: of, Until: w.now.Add(2 * time.Hour)}, w.now)
		}); err != nil {
			t.Fatal(err)
		}
		w.pass(119*time.Minute, e)
		w.told()
		if of != Everything {
			w.facts.Shared = append(w.facts.Shared, audit())
			w.pass(time.Minute, e)
			w.told("audit|")
		}
		w.pass(time.Hour, e)
		if len(w.got) != 1 || w.got[0].Firing[len(w.got[0].Firing)-1].Key != "dead_letters/x" {
			t.Fatalf("%s: %+v", of, w.got)
		}
	}
}

// The end of an alert that was told is told, also if it was silenced meanwhile.
func TestEndOfASilencedAlert(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	e := w.process("a")
	w.facts.Shared = []Condition{letters("x")}
	w.pass(2*time.Minute, e)
	w.told("dead_letters/x|")
	_ = w.store.ChangeAlerts(t.Context(), func(b *Board) bool {
		return b.Silence(Silence{Of: Everything, Until: w.now.Add(200 * time.Hour)}, w.now)
	})
	w.pass(30*time.Hour, e)
	w.told()
	w.facts.Shared = nil
	w.pass(10*time.Minute, e)
	w.told("|dead_letters/x")
}

// The board has room for 50 alerts, the most urgent first; the number of the others is told.
//
// Fault: 500 causes of dead letters at once. Result: the most urgent 50 are told, and the number of the others.
func TestBoardIsBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	e := w.process("a")
	for i := range 500 {
		w.facts.Shared = append(w.facts.Shared, letters(fmt.Sprint(i)))
	}
	w.facts.Shared = append(w.facts.Shared, audit())
	w.pass(2*time.Minute, e)
	if len(w.got) != 1 || len(w.got[0].Firing) != maxAlerts || w.got[0].Firing[0].Key != "audit" || w.got[0].Omitted != 501-maxAlerts {
		t.Fatalf("%d messages, %d alerts, %d omitted", len(w.got), len(w.got[0].Firing), w.got[0].Omitted)
	}
	if n := len(w.store.value); n > 256<<10 {
		t.Errorf("the board has %d bytes", n)
	}
	b := &Board{}
	for i := range maxSilences {
		if !b.Silence(Silence{Of: fmt.Sprint(i), Until: w.now.Add(time.Hour)}, w.now) {
			t.Fatalf("no room for %d silences", i)
		}
	}
	if b.Silence(Silence{Of: "more", Until: w.now.Add(time.Hour)}, w.now) || !b.Silence(Silence{Of: "more", Until: w.now.Add(3 * time.Hour)}, w.now.Add(2*time.Hour)) {
		t.Error("the silences are not bounded, or ended ones keep their room")
	}
}

// A channel that fails does not keep the others from being told, or make them be told twice.
func TestChannelsAreApart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	e := w.process("a")
	tries := 0
	e.Senders = append(e.Senders, Sender{Name: "webhook", Send: func(context.Context, Message) error { tries++; return errors.New("503") }})
	e.busy["webhook"] = &sync.Mutex{}
	w.facts.Shared = []Condition{letters("x")}
	w.pass(time.Hour, e)
	w.told("dead_letters/x|")
	if tries < 3 {
		t.Errorf("%d tries", tries)
	}
}
