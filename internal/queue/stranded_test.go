package queue

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/verdict"
)

// kill -9 between the write of a consumer's acknowledgement and the removal of the
// message leaves a store in which the consumer is ahead of the stream. The test makes
// such a store from two copies: the messages from before the acknowledgements, and
// everything else from after them.
//
// Fault: kill -9 between the acknowledgement and the removal of a message. Result: settled
// as the ledger says; or published again.
func TestStrandedDeliveriesAreSettled(t *testing.T) {
	t.Parallel()
	fake := newFakeCourier("ops", "db")
	later := func(int, verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
		return nil, fail(verdict.SMTPTransient, verdict.PhaseRcpt)
	}
	fake.plan("ops", later)
	fake.plan("db", later)
	b := &fixture{t: t, fake: fake, set: quick(), cfg: broker.Config{DataDir: t.TempDir(), Listen: "none", SyncInterval: "2m"}}
	b.open()
	b.run()
	const n = 10
	for i := range n {
		b.publish(event(fmt.Sprintf("e%d", i), "ops", "db"))
	}
	b.until("every delivery was tried", func() bool {
		for i := range n {
			if b.entry("ops", fmt.Sprintf("e%d", i)).Attempts == 0 || b.entry("db", fmt.Sprintf("e%d", i)).Attempts == 0 {
				return false
			}
		}
		return true
	})
	b.close()
	messages := filepath.Join(b.cfg.DataDir, "nats", "jetstream", "$G", "streams", broker.DeliveriesStream, "msgs")
	before := filepath.Join(t.TempDir(), "msgs")
	if err := os.CopyFS(before, os.DirFS(messages)); err != nil {
		t.Fatal(err)
	}

	// The deliveries for ops are made; those for db are acknowledged by another client.
	fake.plan("ops", nil)
	b.open()
	b.run()
	b.until("ops has its mails", func() bool {
		backlog, err := b.broker.Backlog(context.Background())
		return err == nil && backlog.Deliveries == n
	})
	b.stop()
	b.acknowledgeAll("relay", n)
	b.broker.Close()
	if err := os.RemoveAll(messages); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(before, messages); err != nil {
		t.Fatal(err)
	}

	fake.plan("db", nil)
	b.open()
	if backlog, err := b.broker.Backlog(context.Background()); err != nil || backlog.Deliveries != 2*n {
		t.Fatalf("the store does not hold what was acknowledged: %+v, %v", backlog, err)
	}
	b.fastReconcile = true
	b.run()
	defer b.close()
	b.settled()
	for i := range n {
		id := fmt.Sprintf("e%d", i)
		for _, target := range []string{"ops", "db"} {
			if e := b.entry(target, id); e.State != broker.StateSent {
				t.Errorf("ledger of %s/%s: %+v", target, id, e)
			}
			mails := slices.DeleteFunc(fake.mails(id), func(m mail) bool { return m.target != target })
			if len(mails) != 1 {
				t.Errorf("%s has %d mails of %s, want 1", target, len(mails), id)
			}
		}
	}
	if l := b.letters(); len(l) != 0 {
		t.Errorf("dead letters: %+v", l)
	}
}

// acknowledgeAll acknowledges n messages of a lane without Certpost.
func (b *fixture) acknowledgeAll(lane string, n int) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := b.broker.JetStream().Consumer(ctx, broker.DeliveriesStream, broker.LaneConsumerPrefix+lane)
	if err != nil {
		b.t.Fatal(err)
	}
	for n > 0 {
		batch, err := c.Fetch(n, jetstream.FetchMaxWait(time.Second))
		if err != nil {
			b.t.Fatal(err)
		}
		for msg := range batch.Messages() {
			if err := msg.DoubleAck(ctx); err != nil {
				b.t.Fatal(err)
			}
			n--
		}
		if ctx.Err() != nil {
			b.t.Fatalf("%d messages were not served", n)
		}
	}
}

// A delivery in work is not stranded, however many were settled after it.
//
// Fault: kill -9 between the acknowledgement and the removal of a message. Result: what is
// in work stays.
func TestWhatIsPendingIsNotStranded(t *testing.T) {
	t.Parallel()
	fake := newFakeCourier("ops", "slow")
	release := make(chan struct{})
	fake.plan("slow", func(int, verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
		<-release
		return nil, nil
	})
	b := start(t, fake, nil)
	b.publish(event("first", "slow"))
	b.until("it is in work", func() bool { return fake.tried("slow") == 1 })
	for i := range 50 {
		b.publish(event(fmt.Sprintf("e%d", i), "ops"))
	}
	left := func() uint64 {
		backlog, err := b.broker.Backlog(context.Background())
		if err != nil {
			t.Error(err)
		}
		return backlog.Events + backlog.Deliveries
	}
	b.until("the others are settled", func() bool { return left() == 1 })
	stream, err := b.broker.JetStream().Stream(t.Context(), broker.DeliveriesStream)
	if err != nil {
		t.Fatal(err)
	}
	consumer, err := stream.Consumer(t.Context(), broker.LaneConsumerPrefix+"relay")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.runner.settleBelow(t.Context(), stream, "relay", consumer.CachedInfo().AckFloor.Stream); err != nil {
		t.Fatal(err)
	}
	if n := left(); n != 1 {
		t.Errorf("%d deliveries are left, want the one in work", n)
	}
	close(release)
	b.settled()
	if n := len(fake.mails("first")); n != 1 || fake.tried("slow") != 1 {
		t.Errorf("%d mails in %d tries, want one in one", n, fake.tried("slow"))
	}
}

// A message that cannot be read has no entry in the ledger. Its copy has the same body
// and headers, except the Nats- headers about the original.
//
// Fault: kill -9 between the acknowledgement and the removal of a message. Result: or
// published again.
func TestCopiesOfStrandedDeliveries(t *testing.T) {
	t.Parallel()
	b := &fixture{t: t, fake: newFakeCourier("ops"), set: quick(), cfg: broker.Config{DataDir: t.TempDir(), Listen: "none", SyncInterval: "2m"}}
	b.open()
	defer b.broker.Close()
	if err := b.broker.EnsureTopology(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := NewRunner(b.broker, b.fake, b.set, newTestMetrics())
	var err error
	if r.ledger, err = b.broker.OpenLedger(t.Context()); err != nil {
		t.Fatal(err)
	}
	var batch []*nats.Msg
	for i := range 3 {
		m := nats.NewMsg(broker.DeliveryPrefix + "relay.ops")
		m.Data = []byte("no event")
		m.Header.Set(nats.MsgIdHdr, fmt.Sprintf("x%d/ops/1", i))
		m.Header.Set(broker.HeaderGeneration, "7")
		batch = append(batch, m)
	}
	if _, err := b.broker.PublishBatch(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	stream, err := b.broker.JetStream().Stream(t.Context(), broker.DeliveriesStream)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.settleBelow(t.Context(), stream, "relay", 2); err != nil {
		t.Fatal(err)
	}
	for seq, id := range map[uint64]string{3: "x2/ops/1", 4: "x0/ops/1/d1", 5: "x1/ops/1/d2"} {
		msg, err := stream.GetMsg(t.Context(), seq)
		if err != nil {
			t.Fatalf("message %d: %v", seq, err)
		}
		if msg.Header.Get(nats.MsgIdHdr) != id || msg.Header.Get(broker.HeaderGeneration) != "7" || string(msg.Data) != "no event" {
			t.Errorf("message %d: %v %q", seq, msg.Header, msg.Data)
		}
		if seq > 3 && (msg.Header.Get("Nats-Batch-Id") != "" || msg.Header.Get("Nats-Batch-Commit") != "") {
			t.Errorf("message %d claims to belong to a batch: %v", seq, msg.Header)
		}
	}
	// When another process finds it at the same time, or again after a crash: one copy.
	original := &jetstream.RawStreamMsg{Subject: batch[0].Subject, Sequence: 1, Header: batch[0].Header, Data: batch[0].Data}
	if err := r.PublishCopy(t.Context(), original, "relay", "ops"); err != nil {
		t.Fatal(err)
	}
	info, err := stream.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if info.State.Msgs != 3 || info.State.LastSeq != 5 {
		t.Errorf("stream: %+v, want three messages up to 5", info.State)
	}
}
