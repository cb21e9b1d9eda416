package desk

import (
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/queue"
	"github.com/prometheus/client_golang/prometheus"
)

// natsServer starts a server of its own, which can stop and start again with its data.
func natsServer(t *testing.T, dir string, port int) *server.Server {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: port, JetStream: true, StoreDir: dir, NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(20 * time.Second) {
		t.Fatal("the server did not start")
	}
	return s
}

// While NATS is unavailable the desk shows the last known state and reports that; then it
// continues.
func TestNATSIsAway(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := natsServer(t, dir, server.RANDOM_PORT)
	port := first.Addr().(*net.TCPAddr).Port
	courier := newFakeCourier()
	b, err := broker.Open(broker.Config{URL: fmt.Sprintf("nats://127.0.0.1:%d", port)}, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	x := &fixture{t: t, courier: courier, b: b}
	r := queue.NewRunner(b, courier, quick(), queue.NewMetrics(prometheus.NewRegistry()))
	done := make(chan error, 1)
	ctx := t.Context()
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() { <-done })
	x.until("the runner is ready", func() bool { return r.Ready(ctx) == nil })
	d, _ := x.desk(nil)
	courier.fail("ops", refusal())
	for i := range 3 {
		if _, _, err := b.Publish(ctx, event(fmt.Sprintf("e%d", i), "ops")); err != nil {
			t.Fatal(err)
		}
	}
	x.until("the letters", func() bool { return d.Balance().Open == 3 })

	event := d.Letters(Query{Order: Oldest}, Page{}).Letters[0].Event
	first.Shutdown()
	first.WaitForShutdown()
	x.until("it is noticed", func() bool {
		d.mu.RLock()
		defer d.mu.RUnlock()
		return d.followErr != nil
	})
	if l := d.Letters(Query{}, Page{}); l.Total != 3 {
		t.Errorf("%+v", l)
	}
	if err := d.Replay(ctx, me, 1, false, false, ""); err == nil {
		t.Error("replayed without NATS")
	}

	second := natsServer(t, dir, port)
	t.Cleanup(second.Shutdown)
	courier.succeed("ops")
	x.until("a replay succeeds", func() bool { return d.Replay(ctx, me, 1, false, false, "") == nil })
	x.until("it is delivered and counted", func() bool {
		b := d.Balance()
		return courier.mails("ops", event) == 1 && b.Open == 2 && b.Ended[Replayed] == 1 && b.Unexplained == 0
	})
	f := d.Freeze(Query{}, nil, false)
	run := x.run(d, RunSpec{Frozen: f})
	if run = x.reaches(d, run.ID, RunDone); run.Delivered != 2 {
		t.Errorf("%+v", run)
	}
}

// Beyond its bound the index keeps the newest letters in detail, counts the others, and
// reads them again when there is room.
func TestLettersAreBounded(t *testing.T) {
	t.Parallel()
	x := start(t)
	d, _ := x.desk(func(d *Desk) { d.letters.limit = 8 })
	x.letters(d, "ops", 0, 20)
	l := d.Letters(Query{}, Page{})
	if l.Total != 8 || l.Beyond != 12 || l.Letters[0].Sequence != 20 || l.Letters[7].Sequence != 13 {
		t.Fatalf("%d letters, %d beyond", l.Total, l.Beyond)
	}
	if n, err := d.Discard(t.Context(), me, d.FreezeFor(ForDiscard, Query{}, nil, true), "not needed"); n != 8 || err != nil {
		t.Fatal(n, err)
	}
	x.until("older ones are shown", func() bool {
		l := d.Letters(Query{}, Page{})
		return l.Total >= 6 && l.Total+l.Beyond == 12 && l.Letters[0].Sequence == 12
	})
	if b := d.Balance(); b.Open != 12 || b.Ended[Discarded] != 8 || b.Unexplained != 0 {
		t.Errorf("%+v", b)
	}
}
