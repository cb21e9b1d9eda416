package outcome

import (
	"errors"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/webhook"
)

// now is when these tests begin; nothing in them waits.
var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func ignore(error) {}

func fed(sequence, tries uint64) broker.FedOutcome {
	return broker.FedOutcome{Sequence: sequence, Tries: tries}
}

var (
	refuses = &webhook.Failure{Err: errors.New("400")}
	isAway  = &webhook.Failure{Err: errors.New("no answer"), Away: true}
)

// Fault: the receiver of a webhook refuses every outcome. Result: they are slowed down to four tries in five seconds, however many wait, until one is
// taken, and retries leave room for outcomes that were not tried yet.
func TestReceiverThatRefusesAll(t *testing.T) {
	t.Parallel()
	var s standing
	at := now
	for n := range uint64(200) {
		s.failed(fed(n+1, 1), refuses, at, ignore)
		pause := s.wait(3, at)
		if most := longestSlow * 12 / 10; n+1 < inARow && pause != 0 || n+1 >= inARow && (pause <= 0 || pause > most) || n > 100 && pause < most/2 {
			t.Fatalf("a pause of %s after %d refusals", pause, n+1)
		}
		at = at.Add(pause)
	}
	for retrying, want := range map[uint64]time.Duration{1: longestPause, 400: 1000 * time.Second, broker.MaxOutcomesPending: longestRetry} {
		s.retrying = retrying
		again := s.failed(fed(1, 30), refuses, at, ignore)
		if again < want*8/10 || again > want*12/10 {
			t.Errorf("%d wait: the next try is after %s, want about %s", retrying, again, want)
		}
		// What is handed out first must not use up all tries.
		if retries, tries := float64(retrying)/want.Minutes(), atOnce/longestSlow.Minutes(); retries > 0.8*tries {
			t.Errorf("%d wait: %.0f retries of %.0f tries in a minute", retrying, retries, tries)
		}
	}
	s.took(9)
	s.failed(fed(1, 2), refuses, at.Add(time.Hour), ignore)
	if pause := s.wait(3, at.Add(time.Hour)); pause != 0 {
		t.Errorf("a pause of %s though an outcome was taken", pause)
	}
}

// Fault: the receiver of a webhook is away, for long. Result: one outcome at a time is tried, with pauses up to a minute, and another one each time; what was
// tried comes again soon after the receiver is back.
func TestReceiverThatIsAway(t *testing.T) {
	t.Parallel()
	var s standing
	at := now
	for n := range uint64(20) {
		again := s.failed(fed(n, 1), isAway, at, ignore)
		pause := s.wait(0, at)
		if again <= pause || again > 2*longestAbsence*12/10 || pause > longestAbsence*12/10 || n > 6 && pause < longestAbsence/2 {
			t.Fatalf("failure %d: all pause for %s, the outcome for %s", n+1, pause, again)
		}
		// Those that were posted at the same time make the pause no longer.
		s.failed(fed(100+n, 1), isAway, at, ignore)
		if s.away != int(n)+1 {
			t.Fatalf("%d failures after %d pauses", s.away, n+1)
		}
		at = s.until
		if s.wait(0, at) != 0 || s.wait(1, at) == 0 {
			t.Fatal("want one worker to try")
		}
	}
	s.failed(fed(4, 1), refuses, at, ignore)
	if s.wait(1, at) != 0 {
		t.Error("the others wait though the receiver answers")
	}
	s.failed(fed(5, 1), isAway, at, ignore)
	at = s.until
	s.took(3)
	if s.wait(1, at) != 0 {
		t.Error("the others wait though the receiver is back")
	}
}

// An answer from before a pause that the receiver asked for does not end it.
func TestRetryAfterIsKept(t *testing.T) {
	t.Parallel()
	var s standing
	s.failed(fed(1, 1), &webhook.Failure{Err: errors.New("429"), Away: true, RetryAfter: 10 * time.Minute}, now, ignore)
	s.took(2)
	s.failed(fed(3, 1), isAway, now, ignore)
	if pause := s.wait(0, now); pause != 10*time.Minute {
		t.Errorf("a pause of %s", pause)
	}
}

// What failed counts until it has arrived, and if the stream's limits remove it before that it is counted as lost.
func TestWhatFailedEndsByArrivalOrLimits(t *testing.T) {
	t.Parallel()
	var s standing
	var last error
	report := func(err error) { last = err }
	for n := range uint64(3) {
		s.failed(fed(n+1, 1), refuses, now, report)
	}
	state := broker.FeedState{First: 1, Waiting: 3, Pending: 3}
	if retrying, removed := s.look(state, now.Add(time.Second), report); retrying != 3 || removed != 0 || last == nil {
		t.Errorf("%d %d %v", retrying, removed, last)
	}
	s.took(2)
	state.First, state.Pending = 2, 1 // the limits have removed the first
	if retrying, removed := s.look(state, now.Add(time.Second), report); retrying != 1 || removed != 1 || last == nil {
		t.Errorf("%d %d %v", retrying, removed, last)
	}
	// The state is older than the failure of another one.
	s.failed(fed(4, 1), refuses, now.Add(3*time.Second), report)
	state.Pending = 0
	if retrying, _ := s.look(state, now.Add(2*time.Second), report); retrying != 1 || last == nil {
		t.Errorf("%d %v", retrying, last)
	}
	if retrying, removed := s.look(state, now.Add(4*time.Second), report); retrying != 0 || removed != 1 || last != nil {
		t.Errorf("%d %d %v: another process has posted it", retrying, removed, last)
	}
}
