//go:build unix

package queue

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/devrelay"
	"github.com/certpost/certpost/internal/verdict"
	"github.com/rs/zerolog"
)

// crashLetters is the number of dead letters that are acted on, one after the other.
const crashLetters = 12

// crashActs runs in the child: the first process makes dead letters, and each process
// does the planned action to all of them, until there is none left.
func crashActs(ctx context.Context, b *broker.Broker, plan crashPlan) error {
	if plan.Action == "" {
		return nil
	}
	if plan.Point != "" {
		for i := range crashLetters {
			id := fmt.Sprintf("e%d", i)
			d := &broker.DeadLetter{
				Outcome: verdict.Outcome{Code: verdict.SMTPPermanent, Phase: verdict.PhaseRcpt, Reason: "no"},
				Event:   id, Token: id, Target: "good", Lane: "relay", Generation: 1, ReplaySubject: broker.DeliveryPrefix + "relay.good", Body: event(id, "good").Encode(),
			}
			if err := b.PublishDeadLetter(ctx, d, "crash"); err != nil {
				return err
			}
		}
	}
	if plan.Action == "restore" {
		if err := discardAll(ctx, b); err != nil {
			return err
		}
		return again(func() error { return restoreAll(ctx, b) })
	}
	act := map[string]func(broker.DeadLetter) error{
		"replay":  func(d broker.DeadLetter) error { return b.Replay(ctx, d, tester, broker.Replay{}) },
		"discard": func(d broker.DeadLetter) error { return b.Discard(ctx, d, tester, "not needed") },
	}[plan.Action]
	return again(func() error {
		for d, err := range b.ReadLetters(ctx, 1) {
			if err == nil {
				err = act(d)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// again repeats the action until no other claim is in force: the killed process had one.
func again(do func() error) error {
	for {
		err := do()
		if taken := (*broker.Taken)(nil); !errors.As(err, &taken) {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// discardAll discards the letters that are to be restored, except those that were
// restored before.
func discardAll(ctx context.Context, b *broker.Broker) error {
	for d, err := range b.ReadLetters(ctx, 1) {
		if err == nil && d.RestoredFrom == 0 {
			crashEnabled.Store(false) // the process is to be killed later
			err = b.Discard(ctx, d, tester, "not needed")
			crashEnabled.Store(true)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func restoreAll(ctx context.Context, b *broker.Broker) error {
	for number := uint64(1); number <= crashLetters; number++ {
		record, err := b.Discarded(ctx, number)
		if err != nil {
			return err
		}
		_, err = b.Restore(ctx, record, tester, "needed")
		if taken := (*broker.Taken)(nil); errors.As(err, &taken) && taken.Record.NewLetter != 0 {
			continue // restored by an earlier process
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Fault: or another action on one. Result: none is lost.
func TestCrashWhileActingOnDeadLetters(t *testing.T) {
	for action, points := range map[string][]string{
		"replay":  {broker.PointIntended, broker.PointRepublished, broker.PointConcluded},
		"discard": {broker.PointIntended, broker.PointConcluded, broker.PointGivenUp},
		"restore": {broker.PointIntended, broker.PointRepublished, broker.PointConcluded},
	} {
		for _, point := range points {
			t.Run(action+" "+point, func(t *testing.T) {
				t.Parallel()
				relay, err := devrelay.Start(devrelay.Config{})
				if err != nil {
					t.Fatal(err)
				}
				defer relay.Close()
				plan := crashPlan{Dir: t.TempDir(), Relay: relay.Plain(), Point: point, Target: "good", Action: action, Nth: 5}
				if report, err := runChild(t, plan, func(*os.Process) {}); err != nil || report != nil {
					t.Fatalf("the first process was not killed at its point: %+v, %v", report, err)
				}
				plan.Point = ""
				report, err := runChild(t, plan, func(*os.Process) {})
				if err != nil || report == nil {
					t.Fatalf("the second process was killed: %v", err)
				}
				// The kill may also hit an earlier replay between claim and reply: its second mail
				// is marked as a possible duplicate.
				mails := map[string]int{}
				for _, m := range relay.Mails() {
					msg, err := m.Message()
					if err != nil {
						t.Fatal(err)
					}
					id := msg.Header.Get("X-Certpost-Event-Id")
					if mails[id] == 0 || msg.Header.Get("X-Certpost-Possible-Duplicate") == "" {
						mails[id]++
					}
				}
				b, err := broker.Open(broker.Config{DataDir: plan.Dir, Listen: "none", SyncInterval: "2m"}, zerolog.Nop())
				if err != nil {
					t.Fatal(err)
				}
				defer b.Close()
				if r, err := b.VerifyAudit(context.Background()); err != nil || r.Break != nil {
					t.Errorf("the audit is broken: %+v, %v", r.Break, err)
				}
				for i := range crashLetters {
					if id := fmt.Sprintf("e%d", i); (mails[id] == 1) != (action == "replay") || mails[id] > 1 {
						t.Errorf("%d mails of event %s", mails[id], id)
					}
					outcomes := ended(t, b, uint64(i+1))
					want := []string{"outcome replayed"}
					switch action {
					case "discard":
						want = []string{"outcome discarded"}
					case "restore":
						want = []string{"outcome discarded", "outcome restored"}
					}
					// The delivery may be recorded before the replay is, and its mail has a record of
					// its own.
					if sent := slices.Index(outcomes, "outcome sent"); action == "replay" && len(outcomes) > 0 {
						if sent < 0 || slices.Contains(outcomes[sent+1:], "outcome sent") {
							t.Errorf("letter %d: %q, want one record that it was sent", i+1, outcomes)
						}
						outcomes = slices.DeleteFunc(outcomes, func(s string) bool { return s == "outcome sent" })
						if len(outcomes) > 0 {
							outcomes[0] = want[0]
						}
						outcomes = slices.Compact(outcomes)
					}
					if !slices.Equal(outcomes, want) {
						t.Errorf("letter %d: %q", i+1, historyOf(t, b, uint64(i+1)))
					}
				}
				var restored []uint64
				for d, err := range b.ReadLetters(context.Background(), 1) {
					if err != nil {
						t.Fatal(err)
					}
					restored = append(restored, d.RestoredFrom)
				}
				slices.Sort(restored)
				if all := slices.Compact(slices.Clone(restored)); action == "restore" && (len(all) != crashLetters || len(restored) != crashLetters) || action != "restore" && len(restored) > 0 {
					t.Errorf("open letters, by their earlier numbers: %v", restored)
				}
			})
		}
	}
}

// ended returns the outcomes in the history of a letter, without intents and failures.
func ended(t *testing.T, b *broker.Broker, number uint64) []string {
	t.Helper()
	return slices.DeleteFunc(historyOf(t, b, number), func(s string) bool {
		return s == "outcome failed" || len(s) > 6 && s[:6] == "intent"
	})
}
