package queue

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/verdict"
)

// startReconciling starts a runner that compares all the time.
func startReconciling(t *testing.T, targets ...string) *fixture {
	t.Helper()
	b := &fixture{t: t, fake: newFakeCourier(targets...), set: quick(), fastReconcile: true, cfg: broker.Config{DataDir: t.TempDir(), Listen: "none", SyncInterval: "2m", Unprotected: true}}
	b.start()
	return b
}

// suspend suspends the lane "relay" and waits until nothing is fetched from it.
func (b *fixture) suspend() (resume func()) {
	b.t.Helper()
	ctx := b.t.Context()
	b.until("the lane", func() bool { return len(b.runner.LaneStatus()) > 0 })
	if err := b.broker.Suspend(ctx, broker.Suspension{Lane: "relay", Reason: "test"}, tester); err != nil {
		b.t.Fatal(err)
	}
	b.until("the suspension", func() bool { return b.runner.LaneStatus()[0].Paused == broker.PausedSuspended })
	return func() {
		if err := b.broker.Resume(ctx, "relay", tester, ""); err != nil {
			b.t.Fatal(err)
		}
	}
}

// waiting waits until the stream holds n deliveries and all events are acknowledged.
func (b *fixture) waiting(n uint64) {
	b.t.Helper()
	b.until(fmt.Sprintf("%d deliveries in the stream", n), func() bool {
		backlog, err := b.broker.Backlog(context.Background())
		return err == nil && backlog.Events == 0 && backlog.Deliveries == n
	})
}

// recovered returns the audit's records of recoveries and the counter of the metrics.
func (b *fixture) recovered(what string) (records []broker.AuditRecord, counted int) {
	b.t.Helper()
	for r, err := range b.broker.ReadAudit(context.Background(), 1) {
		if err != nil {
			b.t.Fatal(err)
		}
		if r.Action == broker.ActionRecovered {
			records = append(records, r)
		}
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(b.runner.metrics.recovered)
	families, err := registry.Gather()
	if err != nil {
		b.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if m.GetLabel()[0].GetValue() == what {
				counted = int(m.GetCounter().GetValue())
			}
		}
	}
	return records, counted
}

// An administrator removes a delivery that was never attempted, and one that waits for its
// next attempt: both are mailed, once, and the audit names them.
//
// Fault: deliveries removed from their stream by an administrator. Result: published again
// from the event, recorded as recovered, counted in the metrics; they keep their age.
func TestRemovedDeliveriesAreMailed(t *testing.T) {
	t.Parallel()
	b := &fixture{t: t, fake: newFakeCourier("ops", "greylisted", "other"), set: quick(), fastReconcile: true, cfg: broker.Config{DataDir: t.TempDir(), Listen: "none", SyncInterval: "2m"}}
	b.set.RetryInitial, b.set.RetryMax = time.Hour, time.Hour
	b.start()
	b.fake.plan("greylisted", func(try int, _ verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
		if try == 1 {
			return nil, fail(verdict.SMTPTransient, verdict.PhaseRcpt)
		}
		return nil, nil
	})
	b.publish(event("e1", "greylisted"))
	b.until("the first attempt", func() bool { return b.entry("greylisted", "e1").State == broker.StateWaiting })
	resume := b.suspend()
	b.publish(event("e2", "ops", "other"))
	b.waiting(3)
	stream, err := b.broker.JetStream().Stream(t.Context(), broker.DeliveriesStream)
	if err != nil {
		t.Fatal(err)
	}
	for _, sequence := range []uint64{1, 2} { // of e1, and of e2 for ops
		if err := stream.DeleteMsg(t.Context(), sequence); err != nil {
			t.Fatal(err)
		}
	}
	b.until("both recovered", func() bool { records, _ := b.recovered("delivery"); return len(records) == 2 })
	for copied, of := range map[uint64]uint64{4: 1, 5: 2} { // in any order
		m, err := stream.GetMsg(t.Context(), copied)
		if err != nil {
			t.Fatal(err)
		}
		if m.Header.Get(broker.HeaderEventID) != fmt.Sprintf("e%d", of) {
			of = 3 - of
		}
		first, err := b.broker.EventAt(t.Context(), of, fmt.Sprintf("e%d", of))
		if err != nil {
			t.Fatal(err)
		}
		if got := m.Header.Get(broker.HeaderPublished); got != first.Published.UTC().Format(time.RFC3339Nano) {
			t.Errorf("the delivery of e%d was first published %q, want %v", of, got, first.Published)
		}
	}
	resume()
	b.until("all mails", func() bool { return len(b.fake.mails("e1")) == 1 && len(b.fake.mails("e2")) == 2 })
	b.settled()
	if e := b.entry("ops", "e2"); e.EventSubject != broker.EventSubject {
		t.Errorf("the recovered delivery is of an event on %q, want %s", e.EventSubject, broker.EventSubject)
	}
	records, counted := b.recovered("delivery")
	if counted != 2 || len(records) != 2 {
		t.Fatalf("%d counted, records: %+v", counted, records)
	}
	slices.SortFunc(records, func(a, b broker.AuditRecord) int { return strings.Compare(a.Event, b.Event) })
	if r := records[0]; r.Event != "e1" || r.Target != "greylisted" || r.Delivery == 0 || r.Via != broker.ViaItself || !strings.Contains(r.Reason, "delivery 1 was neither settled nor in CERTPOST_DELIVERIES") {
		t.Errorf("record: %+v", r)
	}
	if r := records[1]; r.Event != "e2" || r.Target != "ops" {
		t.Errorf("record: %+v", r)
	}
	if n := len(b.letters()); n != 0 {
		t.Errorf("%d letters", n)
	}
}

// The whole stream is deleted while deliveries wait: all are published again. Those whose
// event is gone too get a dead letter.
//
// Fault: the stream of deliveries deleted while deliveries wait. Result: published again
// from their events, or a dead letter if the event is gone too.
func TestDeliveriesStreamDeletedWhileDeliveriesWait(t *testing.T) {
	t.Parallel()
	b := startReconciling(t, "ops")
	b.publish(event("before", "ops"))
	b.until("a mail", func() bool { return len(b.fake.mails("before")) == 1 })
	b.settled()
	resume := b.suspend()
	const n = 30
	for i := range n {
		b.publish(event(fmt.Sprintf("e%d", i), "ops"))
	}
	b.waiting(n)
	events, err := b.broker.JetStream().Stream(t.Context(), broker.EventsStream)
	if err != nil {
		t.Fatal(err)
	}
	if err := events.DeleteMsg(t.Context(), events.CachedInfo().State.LastSeq); err != nil { // of the last event
		t.Fatal(err)
	}
	if err := b.broker.JetStream().DeleteStream(t.Context(), broker.DeliveriesStream); err != nil {
		t.Fatal(err)
	}
	b.until("all recovered", func() bool { records, _ := b.recovered("delivery"); return len(records) == n })
	resume()
	b.until("the mails", func() bool { return len(b.fake.mails(fmt.Sprintf("e%d", n-2))) == 1 })
	b.settled()
	for i := range n - 1 {
		if mails := len(b.fake.mails(fmt.Sprintf("e%d", i))); mails != 1 {
			t.Errorf("e%d: %d mails", i, mails)
		}
	}
	if mails := len(b.fake.mails("before")); mails != 1 {
		t.Errorf("%d mails of an event that was settled", mails)
	}
	last := fmt.Sprintf("e%d", n-1)
	letters := b.letters()
	if len(letters) != 1 || letters[0].Event != last || letters[0].Code != verdict.DeliveryExpired || broker.WithheldBecause(letters[0].Body) == "" || !strings.Contains(letters[0].Reason, "publish the certificate again") {
		t.Errorf("letters: %+v", letters)
	}
	if e := b.entry("ops", last); e.State != broker.StateDead || e.DeadLetter != letters[0].Subject {
		t.Errorf("ledger: %+v", e)
	}
}

// Nothing is found lost that is not: deliveries that are settled, wait, or are copies of
// stranded ones; nor by a second process or the next start, which reads only
// what is not settled.
//
// Fault: deliveries that are settled, that wait, or that have a copy because they were
// stranded; compared by a second process, or again at the next start. Result: not taken for
// lost, no second mail.
func TestNothingElseIsFoundLost(t *testing.T) {
	t.Parallel()
	b := startReconciling(t, "ops", "dead", "later")
	b.fake.plan("dead", func(int, verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
		return nil, fail(verdict.SMTPPermanent, verdict.PhaseRcpt)
	})
	b.fake.plan("later", func(try int, _ verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
		if try < 20 {
			return nil, fail(verdict.SMTPTransient, verdict.PhaseRcpt)
		}
		return nil, nil
	})
	for i := range 50 {
		b.publish(event(fmt.Sprintf("e%d", i), "ops", "dead"))
	}
	b.publish(event("slow", "later"))
	b.settled()
	last, err := b.broker.ManifestEnd(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	firstWaiting := last + 1
	resume := b.suspend()
	for i := range 20 {
		b.publish(event(fmt.Sprintf("w%d", i), "ops"))
	}
	b.waiting(20)
	stream, err := b.broker.JetStream().Stream(t.Context(), broker.DeliveriesStream)
	if err != nil {
		t.Fatal(err)
	}
	for first, sequence := stream.CachedInfo().State.FirstSeq, uint64(0); sequence < 20; sequence++ { // as if stranded: a copy takes their place
		msg, err := stream.GetMsg(t.Context(), first+sequence)
		if err == nil {
			err = b.runner.PublishCopy(t.Context(), msg, "relay", "ops")
		}
		if err == nil {
			err = broker.RemoveDelivery(t.Context(), stream, msg.Sequence)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	second := b.replica()
	defer second.stop()
	b.until("the settled ones compared", func() bool {
		done, err := b.broker.ReadReconciled(t.Context())
		return err == nil && done.Manifest == firstWaiting
	})
	again := newReconciler(b.runner)
	again.after, again.next = 0, 1 // as if nothing had been compared
	for range 2 {
		if err := again.round(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(again.open) != 20 {
			t.Fatalf("%d open", len(again.open))
		}
	}
	resume()
	b.settled()
	b.until("all settled and compared", func() bool {
		done, err := b.broker.ReadReconciled(t.Context())
		last, lerr := b.broker.ManifestEnd(t.Context())
		return err == nil && lerr == nil && done.Manifest == last+1
	})
	if records, counted := b.recovered("delivery"); len(records) != 0 || counted != 0 {
		t.Errorf("found lost: %+v", records)
	}
	for i := range 20 {
		if n := len(b.fake.mails(fmt.Sprintf("w%d", i))); n != 1 {
			t.Errorf("w%d: %d mails", i, n)
		}
	}
}

// The ledger is deleted together with the deliveries: whether they were attempted is
// unknown, so they are mailed again and marked, as after every unknown outcome. What was
// settled before, and whose message is gone from an older stream, is not.
//
// Fault: the stream of deliveries and the ledger deleted together. Result: the outcome is
// unknown: sent again and marked.
func TestLedgerAndDeliveriesDeleted(t *testing.T) {
	t.Parallel()
	b := startReconciling(t, "ops")
	resume := b.suspend()
	b.publish(event("e1", "ops"))
	b.waiting(1)
	for _, name := range []string{broker.DeliveriesStream, "KV_" + broker.LedgerBucket} {
		if err := b.broker.JetStream().DeleteStream(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	b.until("recovered", func() bool { records, _ := b.recovered("delivery"); return len(records) == 1 })
	resume()
	b.until("the mail", func() bool { return len(b.fake.mails("e1")) == 1 })
	if m := b.fake.mails("e1")[0]; !m.duplicate {
		t.Errorf("the mail is not marked: %+v", m)
	}
	b.settled()
}

// The stream of dead letters is deleted: the letters are written again, whole and without
// a mail, but not those that had ended.
//
// Fault: the stream of dead letters deleted. Result: the letters are written again from
// ledger and events, except those whose end the audit has.
func TestLettersStreamDeleted(t *testing.T) {
	t.Parallel()
	b := startReconciling(t, "ops")
	b.fake.plan("ops", func(int, verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
		return nil, fail(verdict.SMTPPermanent, verdict.PhaseRcpt)
	})
	for _, id := range []string{"e1", "e2", "removed", "gone"} {
		b.publish(event(id, "ops"))
	}
	b.settled()
	before := map[string]broker.DeadLetter{}
	for _, l := range b.letters() {
		before[l.Event] = l
	}
	if len(before) != 4 {
		t.Fatalf("letters: %+v", before)
	}
	ctx := t.Context()
	removed := before["removed"]
	if err := b.broker.RemoveLetter(ctx, removed.Sequence); err != nil {
		t.Fatal(err)
	}
	if err := b.broker.Append(ctx, broker.AuditRecord{Action: broker.ActionRemoved, Actor: tester, Event: "removed", Target: "ops", LetterNumber: removed.Sequence}); err != nil {
		t.Fatal(err)
	}
	stream, err := b.broker.JetStream().Stream(ctx, broker.EventsStream)
	if err != nil {
		t.Fatal(err)
	}
	for sequence := range uint64(4) {
		if msg, err := stream.GetMsg(ctx, sequence+1); err == nil && strings.Contains(string(msg.Data), `"gone"`) {
			err = stream.DeleteMsg(ctx, sequence+1)
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	b.until("compared once", func() bool {
		done, err := b.broker.ReadReconciled(ctx)
		return err == nil && !done.Letters.IsZero()
	})
	if err := b.broker.JetStream().DeleteStream(ctx, broker.DeadLettersStream); err != nil {
		t.Fatal(err)
	}
	b.until("the letters are back", func() bool { records, _ := b.recovered("dead_letter"); return len(records) == 3 })
	if _, counted := b.recovered("dead_letter"); counted != 3 {
		t.Errorf("%d counted", counted)
	}
	for _, l := range b.letters() {
		was := before[l.Event]
		body := string(was.Body)
		if l.Event == "gone" {
			if broker.WithheldBecause(l.Body) == "" {
				t.Errorf("the body of a letter whose event is gone: %s", l.Body)
			}
			body = string(l.Body)
		}
		if l.Event == "removed" || l.Subject != was.Subject || l.Code != was.Code || l.Reason != was.Reason || l.ReplyCode != was.ReplyCode || l.Attempts != was.Attempts || l.Published.Sequence != was.Published.Sequence || string(l.Body) != body || l.ReplaySubject != was.ReplaySubject {
			t.Errorf("letter: %+v\nit was %+v", l, was)
		}
	}
	if n := len(b.fake.mails("e1")); n != 0 {
		t.Errorf("%d mails", n)
	}
}
