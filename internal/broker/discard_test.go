package broker

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"
)

// A discard whose claim has expired gives way to a newer intent, even before that has an
// outcome: nothing was done yet, so the newer caller decides.
//
// Fault: an operator's process is delayed for longer than its claim lasts. Result: it does
// nothing further, and says so.
func TestALateDiscardGivesWayToANewerIntent(t *testing.T) {
	t.Parallel()
	b, d := brokerWithLetter(t)
	b.cfg.ClaimLife = time.Second
	delayAfterClaim(t, b, d, func() {
		if err := b.Begin(context.Background(), AuditRecord{Action: ActionReplayed, Actor: Actor{Name: "bob"}, Event: d.Event, Target: d.Target, LetterNumber: 1}); err != nil {
			t.Error(err)
		}
	})
	var taken *Taken
	if err := b.Discard(t.Context(), d, Actor{Name: "alice"}, "x"); !errors.As(err, &taken) || taken.Record.Name != "bob" || taken.Record.Stage != StageIntent {
		t.Errorf("the discard: %v", err)
	}
	if recorded := history(t, b, 1); !slices.Equal(recorded, []string{"intent discarded", "intent replayed"}) {
		t.Errorf("history %q", recorded)
	}
	if _, err := b.DeadLetter(t.Context(), 1); err != nil {
		t.Errorf("the letter that bob is replaying: %v", err)
	}
}

// Discarding a letter ends its delivery in the ledger only if the delivery has no newer
// letter, and is dead: another attempt may be under way.
func TestADiscardIsAboutItsOwnLetter(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		state State
		newer bool
		want  State
	}{
		"this letter":           {StateDead, false, StateDiscarded},
		"a newer letter":        {StateDead, true, StateDead},
		"an attempt is running": {StateSending, false, StateSending},
		"delivered meanwhile":   {StateSent, false, StateSent},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, d := brokerWithLetter(t)
			l, err := b.OpenLedger(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			before := Entry{Event: d.Event, Target: d.Target, State: test.state, DeadLetter: d.Subject}
			if test.newer {
				before.DeadLetter = DeadLetterPrefix + "SMTP_TLS.relay." + d.Target + "." + d.Token
			}
			key := LedgerKey(d.Target, d.Token)
			if _, err := l.Put(t.Context(), key, before, 0); err != nil {
				t.Fatal(err)
			}
			if err := b.Discard(t.Context(), d, operator, "not needed"); err != nil {
				t.Fatal(err)
			}
			e, _, err := l.Get(t.Context(), key)
			if err != nil || e.State != test.want || test.want != StateDiscarded && e.DeadLetter != before.DeadLetter || test.want == StateDiscarded && e.DeadLetter != "" {
				t.Errorf("ledger: %+v, %v; want %s", e, err, test.want)
			}
		})
	}
}
