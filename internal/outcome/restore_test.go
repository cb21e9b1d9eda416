package outcome

import (
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/broker"
)

// ids are those of the outcomes that a receiver took.
func (r *receiver) ids() (all []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, req := range r.took {
		all = append(all, req.Header.Get("Webhook-Id"))
	}
	return all
}

// What receivers get after a restore, as docs/upgrading.md says.
//
// Fault: the store is lost, and a backup of it is restored, with outcomes. Result: webhooks do not get again what they took before the backup; they get what they had
// not taken, and what is delivered again, with the same ids as the first time.
func TestOutcomesAfterARestore(t *testing.T) {
	t.Parallel()
	x := open(t)
	before := answering(t, func(event string) (int, string) {
		if event == "refused" {
			return http.StatusBadRequest, ""
		}
		return http.StatusOK, ""
	})
	w, p := x.hook("hook", before), x.publisher("one", x.b)
	x.sent("taken", "ops")
	x.sent("refused", "ops")
	x.all(p)
	w.Round(t.Context())
	w.Round(t.Context())
	x.sent("unpublished", "ops")
	dir := t.TempDir()
	var streams []broker.BackedUp
	x.must(x.b.BackUp(t.Context(), dir, func(s broker.BackedUp) { streams = append(streams, s) }))
	x.sent("after", "ops")
	x.all(p)
	for before.count() < 3 {
		w.Round(t.Context())
	}
	end, err := x.b.OutcomesEnd(t.Context())
	x.must(err)
	x.b.Close()

	cfg := broker.Config{DataDir: t.TempDir(), Listen: "none", SyncInterval: "2m", Outcomes: broker.OutcomeLimits{MaxAge: time.Hour, MaxBytes: 64 << 20}, Restoring: true}
	n := &fixture{t: t}
	n.b = restored(n, cfg, dir, streams)
	n.ledger, err = n.b.OpenLedger(t.Context())
	n.must(err)
	if now, err := n.b.OutcomesEnd(t.Context()); err != nil || now.Sequence >= end.Sequence {
		t.Errorf("the stream ends at %d (%v), before the loss at %d", now.Sequence, err, end.Sequence)
	}
	later := newReceiver(t)
	w.Feed, w.To.URL = n.b.OutcomeFeed("hook"), constant(later.URL)
	n.all(n.publisher("one", n.b))
	n.sent("after", "ops") // published and delivered again
	n.all(n.publisher("one", n.b))
	for end := time.Now().Add(30 * time.Second); later.count() < 3 && time.Now().Before(end); {
		w.Round(t.Context())
	}
	got, had := later.ids(), before.ids()
	refused := "refused/ops/1.7/delivered"
	slices.Sort(got)
	slices.Sort(had)
	if want := []string{had[0], refused, had[2]}; !slices.Equal(got, want) || had[1][:6] != "taken/" || had[0][:6] != "after/" {
		t.Errorf("after the restore %q, want %q; before the loss %q", got, want, had)
	}
	if s, err := w.Feed.State(t.Context()); err != nil || s.Waiting != 0 {
		t.Errorf("%+v, %v", s, err)
	}
}

// restored is the store of a backup.
func restored(n *fixture, cfg broker.Config, dir string, streams []broker.BackedUp) *broker.Broker {
	b := n.openBroker(cfg)
	n.must(b.RestoreBackup(n.t.Context(), dir, streams, func(broker.BackedUp) {}))
	b.Close()
	cfg.Restoring = false
	b = n.openBroker(cfg)
	n.must(b.EnsureTopology(n.t.Context()))
	return b
}
