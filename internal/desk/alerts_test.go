package desk

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/alert"
	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/verdict"
)

// What the groups of dead letters need from people. Held ones need nobody, superseded ones do not expire.
func TestLettersNeed(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	week := AlertLimits{LetterAge: time.Hour, Expiry: 7 * 24 * time.Hour}
	g := Group{Fingerprint: "f", Code: verdict.SMTPPermanent, Phase: verdict.PhaseRcpt, EnhancedCode: "5.1.1", Lane: "smtp-587", Count: 3, Cause: "The relay permanently refused the mail.",
		Reason: "550 no such user canary@example.com", First: now.Add(-time.Minute), SoonestExpiry: now.Add(30 * 24 * time.Hour)}
	for name, c := range map[string]struct {
		change func(*Group)
		limits AlertLimits
		want   string
	}{
		"new":     {func(*Group) {}, week, "dead_letters/f"},
		"held":    {func(g *Group) { g.Held = 3; g.First = now.Add(-2 * time.Hour); g.SoonestExpiry = now }, week, ""},
		"old":     {func(g *Group) { g.First = now.Add(-time.Hour) }, week, "dead_letters/f letter_age"},
		"young":   {func(g *Group) { g.First = now.Add(-time.Hour + time.Second) }, week, "dead_letters/f"},
		"expires": {func(g *Group) { g.SoonestExpiry = now.Add(7*24*time.Hour - time.Second) }, week, "dead_letters/f expiry/f"},
		"later":   {func(g *Group) { g.SoonestExpiry = now.Add(7 * 24 * time.Hour) }, week, "dead_letters/f"},
		"expired": {func(g *Group) { g.SoonestExpiry = now.Add(-time.Hour) }, week, "dead_letters/f expiry/f"},
		"none":    {func(g *Group) { g.SoonestExpiry = time.Time{} }, week, "dead_letters/f"},
		"off":     {func(g *Group) { g.First = now.Add(-time.Hour); g.SoonestExpiry = now }, AlertLimits{}, "dead_letters/f"},
	} {
		one := g
		c.change(&one)
		var keys []string
		for _, found := range lettersNeed([]Group{one}, c.limits, now) {
			keys = append(keys, found.Key())
			if text := found.Summary + found.Advice; strings.Contains(text, "canary") || !strings.Contains(text, "dead") {
				t.Errorf("%s: %s", name, text)
			}
		}
		if got := strings.Join(keys, " "); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	found := lettersNeed([]Group{g}, week, now)
	if want := "3 dead letters SMTP_PERMANENT 5.1.1 in phase rcpt, lane smtp-587."; found[0].Summary != want {
		t.Errorf("%q, want %q", found[0].Summary, want)
	}
}

// Deliveries that wait for long are an alert of their lane, whatever they wait for, until they are
// settled, unless the lane is suspended.
//
// Fault: a relay or Vault is away for hours. Result: with the section alerts a message says which lane waits.
func TestLanesThatWaitAreAlerts(t *testing.T) {
	t.Parallel()
	x := start(t)
	d, _ := x.desk(nil)
	x.courier.fail("ops", &verdict.Failure{Outcome: verdict.Outcome{Code: verdict.SecretUnavailable, Phase: verdict.PhaseSecrets, Reason: "Vault is away"}})
	found := func(limit time.Duration, now time.Time) (text string) {
		t.Helper()
		x.until("the ledger is read", func() bool {
			all, err := d.AlertConditions(t.Context(), AlertLimits{Waiting: limit}, now)
			text = ""
			for _, c := range all {
				text += c.Key() + " " + string(c.Severity) + ": " + c.Summary + "\n"
			}
			return err == nil
		})
		return text
	}
	now := time.Now()
	if text := found(time.Hour, now.Add(10*time.Hour)); text != "" {
		t.Errorf("nothing waits: %s", text)
	}
	x.publish(event("e1", "ops"))
	x.publish(event("e2", "ops"))
	x.until("both wait", func() bool {
		return strings.HasPrefix(found(time.Hour, now.Add(2*time.Hour)), "waiting/relay ticket: 2 deliveries wait in lane relay, the oldest since 20")
	})
	if text := found(time.Hour, now.Add(59*time.Minute)); text != "" {
		t.Errorf("before the hour is over: %s", text)
	}
	if text := found(0, now.Add(2*time.Hour)); text != "" {
		t.Errorf("switched off: %s", text)
	}
	if err := x.b.Suspend(t.Context(), broker.Suspension{Lane: "relay", Reason: "the relay is being replaced"}, me); err != nil {
		t.Fatal(err)
	}
	if text := found(time.Hour, now.Add(2*time.Hour)); text != "" {
		t.Errorf("suspended: %s", text)
	}
	if err := x.b.Resume(t.Context(), "relay", me, ""); err != nil {
		t.Fatal(err)
	}
	x.courier.succeed("ops")
	x.until("both are sent", func() bool { return x.courier.mails("ops", "e1")+x.courier.mails("ops", "e2") == 2 })
	x.until("none waits", func() bool { return found(time.Hour, now.Add(2*time.Hour)) == "" })
}

// mailbox receives the messages of all engines.
type mailbox struct {
	mu  sync.Mutex
	got []alert.Message
}

func (m *mailbox) messages() []alert.Message {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]alert.Message(nil), m.got...)
}

// Several processes on one NATS tell each thing once. What an operator silences is not told; both
// are in the audit.
//
// Fault: several processes see the same alert at the same moment. Result: one of them sends the
// message.
func TestAlertsOfSeveralProcesses(t *testing.T) {
	t.Parallel()
	x := start(t)
	d, _ := x.desk(nil)
	x.letters(d, "ops", 1, 2)
	d.CatchUp(t.Context())
	limits := AlertLimits{LetterAge: time.Nanosecond, Expiry: 1000 * time.Hour}
	var found []alert.Condition
	var err error
	x.until("the ledger is read", func() bool {
		found, err = d.AlertConditions(t.Context(), limits, time.Now())
		return err == nil
	})
	if len(found) != 2 || found[0].Kind != alert.DeadLetters || found[1].Kind != alert.LetterAge || !strings.HasPrefix(found[0].Summary, "2 dead letters SMTP_AUTH 5.7.8 in phase auth, lane relay") {
		t.Fatalf("%v, %+v", err, found)
	}
	var box mailbox
	var engines []*alert.Engine
	for i := range 4 {
		engines = append(engines, alert.New(alert.Settings{
			Timing: alert.Timing{Repeat: time.Hour}, Process: fmt.Sprint(i), Log: zerolog.Nop(),
			Senders: []alert.Sender{{Name: "mail", Send: func(_ context.Context, m alert.Message) error {
				box.mu.Lock()
				defer box.mu.Unlock()
				box.got = append(box.got, m)
				return nil
			}}},
			Facts: func(ctx context.Context) alert.Facts {
				shared, err := d.AlertConditions(ctx, limits, time.Now())
				return alert.Facts{Shared: shared, Err: err}
			},
		}, d))
	}
	rounds := func() {
		var wg sync.WaitGroup
		for _, e := range engines {
			wg.Go(func() {
				for range 5 {
					e.Round(t.Context())
					e.Wait()
				}
			})
		}
		wg.Wait()
	}
	silence, err := d.Silence(t.Context(), me, alert.Everything, time.Hour, "moving house")
	if err != nil || silence.By != "anna" {
		t.Fatalf("%+v, %v", silence, err)
	}
	rounds()
	if got := box.messages(); len(got) != 0 {
		t.Fatalf("told though silenced: %+v", got)
	}
	all, err := d.Alerts(t.Context())
	if err != nil || len(all.Alerts) != 2 || all.Alerts[0].State != alert.Silenced || all.Alerts[0].Reason != "moving house" || len(all.Silences) != 1 {
		t.Errorf("%+v, %v", all, err)
	}
	if err := d.Unsilence(t.Context(), me, alert.Everything, "done"); err != nil {
		t.Fatal(err)
	}
	rounds()
	if got := box.messages(); len(got) != 1 || len(got[0].Firing) != 2 {
		t.Errorf("%d messages: %+v", len(got), got)
	}
	if all, err = d.Alerts(t.Context()); err != nil || all.Alerts[0].State != alert.Firing || all.Alerts[0].Told["mail"].IsZero() || len(all.Silences) != 0 {
		t.Errorf("%+v, %v", all, err)
	}
	records, _ := d.History(HistoryQuery{}, 0, 2)
	if len(records) != 2 || records[1].Action != broker.ActionSilenced || records[1].Alert != "all" || records[1].Reason != "moving house" || records[1].Until.IsZero() ||
		records[0].Action != broker.ActionUnsilenced || records[0].Alert != "all" || records[0].Name != "anna" {
		t.Errorf("%+v", records)
	}
}

// What cannot be silenced is refused, and nothing is recorded.
func TestRefusedSilences(t *testing.T) {
	t.Parallel()
	x := start(t)
	d, _ := x.desk(nil)
	for _, c := range []struct {
		of     string
		last   time.Duration
		reason string
		want   error
		status int
	}{
		{"dead_letters/absent", time.Hour, "x", ErrNotFound, 404},
		{"", time.Hour, "x", ErrNotFound, 404},
		{"all", time.Hour, " ", ErrNoReason, 422},
		{"all", 0, "x", nil, 400},
		{"all", -time.Hour, "x", nil, 400},
		{"all", alert.MaxSilence + time.Second, "x", nil, 400},
		{"all", time.Hour, strings.Repeat("x", MaxReason+1), ErrReasonTooLong, 422},
	} {
		if _, err := d.Silence(t.Context(), me, c.of, c.last, c.reason); err == nil || c.want != nil && !errors.Is(err, c.want) || StatusOf(err) != c.status {
			t.Errorf("%+v: %v, %d", c, err, StatusOf(err))
		}
	}
	if err := d.Unsilence(t.Context(), me, "all", ""); !errors.Is(err, ErrNotSilenced) || StatusOf(err) != 409 {
		t.Error(err)
	}
	if records, _ := d.History(HistoryQuery{}, 0, 10); len(records) != 0 {
		t.Errorf("%+v", records)
	}
	if all, err := d.Alerts(t.Context()); err != nil || len(all.Alerts)+len(all.Silences) != 0 {
		t.Errorf("%+v, %v", all, err)
	}
}
