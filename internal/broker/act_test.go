package broker

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/certpost/certpost/internal/verdict"
)

// history returns the audit's records of a letter as "stage action", oldest first.
func history(t *testing.T, b *Broker, number uint64) (recorded []string) {
	t.Helper()
	for r, err := range b.ReadAudit(context.Background(), 1) {
		if err != nil {
			t.Fatal(err)
		}
		if r.LetterNumber == number {
			recorded = append(recorded, strings.TrimSpace(string(r.Stage)+" "+string(r.Action)))
		}
	}
	return recorded
}

// brokerWithLetter returns a broker with one open letter, number 1.
func brokerWithLetter(t *testing.T) (*Broker, DeadLetter) {
	t.Helper()
	b := newTestBroker(t)
	publishLetters(t, b, 1)
	d, err := b.DeadLetter(context.Background(), 1)
	if err != nil {
		t.Fatal(err)
	}
	return b, d
}

func countDeliveries(t *testing.T, b *Broker) uint64 {
	t.Helper()
	s, err := b.js.Stream(context.Background(), DeliveriesStream)
	if err != nil {
		t.Fatal(err)
	}
	return s.CachedInfo().State.Msgs
}

// Fault: two operators act on one dead letter. Result: the second is told what the first
// did.
func TestTwoOperatorsActOnOneLetter(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	actions := map[string]func(*Broker, DeadLetter, Actor) error{
		"replay":  func(b *Broker, d DeadLetter, by Actor) error { return b.Replay(ctx, d, by, Replay{}) },
		"discard": func(b *Broker, d DeadLetter, by Actor) error { return b.Discard(ctx, d, by, "not needed") },
	}
	for first, act := range actions {
		for second, other := range actions {
			t.Run(first+" and "+second, func(t *testing.T) {
				t.Parallel()
				b, d := brokerWithLetter(t)
				errs := make([]error, 8)
				var wg sync.WaitGroup
				for i := range errs {
					wg.Go(func() {
						if i%2 == 0 {
							errs[i] = act(b, d, Actor{Name: "alice", Via: ViaPage})
						} else {
							errs[i] = other(b, d, Actor{Name: "bob", Via: ViaShell})
						}
					})
				}
				wg.Wait()
				done := 0
				for _, err := range errs {
					var taken *Taken
					switch {
					case err == nil:
						done++
					case !errors.As(err, &taken) || taken.Record.LetterNumber != 1 || taken.Record.Name == "" || !strings.Contains(err.Error(), taken.Record.Name):
						t.Errorf("the second operator's error: %v", err)
					}
				}
				if recorded := history(t, b, 1); done != 1 || len(recorded) != 2 || !strings.HasPrefix(recorded[0], "intent ") || recorded[1] != strings.Replace(recorded[0], "intent", "outcome", 1) {
					t.Errorf("%d acted, history %q", done, recorded)
				}
				if _, err := b.DeadLetter(ctx, 1); !errors.Is(err, ErrNoLetter) {
					t.Errorf("the letter: %v", err)
				}
				if n := countDeliveries(t, b); n > 1 {
					t.Errorf("%d deliveries", n)
				}
			})
		}
	}
}

func TestReplaySaysWhatItDid(t *testing.T) {
	t.Parallel()
	b, d := brokerWithLetter(t)
	ctx := context.Background()
	d.Certainty = verdict.MaybeSent
	if err := b.Replay(ctx, d, operator, Replay{}); !errors.Is(err, ErrUncertain) {
		t.Errorf("without confirmation: %v", err)
	}
	if recorded := history(t, b, 1); recorded != nil {
		t.Errorf("a refused replay left %q", recorded)
	}
	if err := b.Replay(ctx, d, Actor{Name: "alice", Role: "operator", Via: ViaPage, Address: "192.0.2.7"}, Replay{Uncertain: true, Force: true, Reason: "fixed", Run: "r1", Recipients: []string{"a@example.com", "b@example.com"}}); err != nil {
		t.Fatal(err)
	}
	var last AuditRecord
	for r, err := range b.ReadAudit(ctx, 1) {
		if err != nil {
			t.Fatal(err)
		}
		last = r
	}
	if last.Action != ActionReplayed || last.Name != "alice" || last.Role != "operator" || last.Via != ViaPage || last.Address != "192.0.2.7" || last.Run != "r1" || last.Reason != "fixed" ||
		last.Delivery != 1 || last.Letter == nil || last.Letter.Code != verdict.SMTPAuth || !slices.Equal(last.NewRecipients, []string{"a@example.com", "b@example.com"}) {
		t.Errorf("recorded: %+v", last)
	}
	raw, err := b.messageAt(ctx, DeliveriesStream, 1)
	if err != nil {
		t.Fatal(err)
	}
	if h := raw.Header; h.Get("Certpost-Force") != "true" || h.Get("Certpost-Recipients") != "a@example.com, b@example.com" || h.Get("Certpost-Generation") != "2" || string(raw.Data) != string(d.Body) {
		t.Errorf("published: %v", h)
	}
	requireIntact(t, b, 2)
}

func TestAClaimIsOverWhenItsOwnerIsGone(t *testing.T) {
	t.Parallel()
	b, d := brokerWithLetter(t)
	ctx := context.Background()
	intent := AuditRecord{Action: ActionReplayed, Actor: Actor{Name: "gone"}, Event: d.Event, Target: d.Target, LetterNumber: 1, Run: "r1"}
	if err := b.Begin(ctx, intent); err != nil {
		t.Fatal(err)
	}
	var taken *Taken
	if err := b.Replay(ctx, d, operator, Replay{}); !errors.As(err, &taken) || taken.Record.Name != "gone" || taken.Record.Stage != StageIntent {
		t.Errorf("while the claim is active: %v", err)
	}
	if written, err := b.Observe(ctx, AuditRecord{Action: ActionRemoved, Event: d.Event, Target: d.Target, LetterNumber: 1}); err != nil || written {
		t.Errorf("observed a letter that is there: %v, %v", written, err)
	}
	s, err := b.auditStateOf(ctx, intent)
	if err != nil {
		t.Fatal(err)
	}
	if alive, err := b.claimActive(ctx, s); err != nil || !alive {
		t.Errorf("audit state: %+v, %v", s, err)
	}
	b.cfg.ClaimLife = 0
	if alive, err := b.claimActive(ctx, s); err != nil || alive {
		t.Errorf("the claim does not end: %v", err)
	}
	b.cfg.ClaimLife = claimLife
	// An action of the same run takes the claim over at once.
	if err := b.Replay(ctx, d, operator, Replay{Run: "r1"}); err != nil {
		t.Errorf("the same run: %v", err)
	}
	if recorded := history(t, b, 1); !slices.Equal(recorded, []string{"intent replayed", "intent replayed", "outcome replayed"}) {
		t.Errorf("history %q", recorded)
	}
}

func TestAFailedReplayFreesTheLetter(t *testing.T) {
	t.Parallel()
	b, d := brokerWithLetter(t)
	ctx := context.Background()
	d.ReplaySubject = DeliveryPrefix + "nobody" // no stream has subjects of three tokens
	if err := b.Replay(ctx, d, operator, Replay{}); err == nil {
		t.Fatal("replayed to a subject without a stream")
	}
	d.ReplaySubject = DeliveryPrefix + "relay.ops"
	if err := b.Replay(ctx, d, operator, Replay{}); err != nil {
		t.Errorf("the next replay: %v", err)
	}
	if recorded := history(t, b, 1); !slices.Equal(recorded, []string{"intent replayed", "outcome failed", "intent replayed", "outcome replayed"}) {
		t.Errorf("history %q", recorded)
	}
}

func TestRestoreGivesWayToANewerLetter(t *testing.T) {
	t.Parallel()
	b, d := brokerWithLetter(t)
	ctx := context.Background()
	if err := b.Discard(ctx, d, operator, "not needed"); err != nil {
		t.Fatal(err)
	}
	publishLetters(t, b, 1) // the same delivery failed again
	record, err := b.Discarded(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Restore(ctx, record, operator, "needed"); err == nil || !strings.Contains(err.Error(), "number 2") {
		t.Errorf("beside a newer letter: %v", err)
	}
	if _, err := b.Restore(ctx, AuditRecord{Action: ActionReplayed, LetterNumber: 1}, operator, "x"); !errors.Is(err, ErrNotDiscarded) {
		t.Errorf("from another record: %v", err)
	}
}

// An event that fills a message leaves no room for the letter in the same record.
func TestDiscardOfAHugeEvent(t *testing.T) {
	t.Parallel()
	b, ctx := newTestBroker(t), context.Background()
	d := letterOf("huge")
	d.Subject, d.Body = d.subjectOf(), []byte(strings.Repeat("x", int(b.nc.MaxPayload())-8<<10))
	if _, err := b.js.PublishMsg(ctx, d.message("")); err != nil {
		t.Fatal(err)
	}
	d.Sequence = 1
	if err := b.Discard(ctx, *d, operator, "junk"); err != nil {
		t.Fatal(err)
	}
	record, err := b.Discarded(ctx, 1)
	if err != nil || !record.TooLarge {
		t.Fatalf("%+v, %v", record.TooLarge, err)
	}
	if _, err := b.Restore(ctx, record, operator, "no junk"); err == nil || !strings.Contains(err.Error(), "publish the event again") {
		t.Errorf("restored: %v", err)
	}
}

func TestObservedEndsAreRecordedOnce(t *testing.T) {
	t.Parallel()
	b, d := brokerWithLetter(t)
	ctx := context.Background()
	if err := b.RemoveLetter(ctx, 1); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	n := 0
	for range 5 {
		wg.Go(func() {
			written, err := b.Observe(ctx, AuditRecord{Action: ActionRemoved, Actor: Actor{Name: "eve", Via: ViaNATS}, Event: d.Event, Target: d.Target, LetterNumber: 1, Letter: &d})
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			if written {
				n++
			}
		})
	}
	wg.Wait()
	if recorded := history(t, b, 1); n != 1 || !slices.Equal(recorded, []string{"outcome removed"}) {
		t.Errorf("%d wrote %q", n, recorded)
	}
	var taken *Taken
	if err := b.Replay(ctx, d, operator, Replay{}); !errors.As(err, &taken) || taken.Record.Action != ActionRemoved {
		t.Errorf("a replay afterwards: %v", err)
	}
}
