package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/verdict"
)

// newTestBroker returns a broker with its streams, on an embedded server, without a queue.
func newTestBroker(t testing.TB) *Broker {
	t.Helper()
	b, err := Open(Config{DataDir: t.TempDir(), Listen: "none", SyncInterval: "2m", Unprotected: true}, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	if err := b.EnsureTopology(context.Background()); err != nil {
		t.Fatal(err)
	}
	return b
}

// letterOf returns the dead letter of an event for the target ops.
func letterOf(id string) *DeadLetter {
	return &DeadLetter{
		Outcome: verdict.Outcome{Code: verdict.SMTPAuth, Phase: verdict.PhaseAuth, Reason: "as the test wants it"},
		Event:   id, Token: id, Target: "ops", Lane: "relay", Generation: 1, ReplaySubject: DeliveryPrefix + "relay.ops", Body: testEvent(id, "ops").Encode(),
	}
}

// publishLetters publishes n open letters.
func publishLetters(t testing.TB, b *Broker, n int) {
	t.Helper()
	msgs := make([]*nats.Msg, 0, n)
	for i := range n {
		d := letterOf(fmt.Sprintf("e%06d", i))
		d.Subject = d.subjectOf()
		msgs = append(msgs, d.message(""))
	}
	for part := range slices.Chunk(msgs, 1000) {
		if _, err := b.publishEach(context.Background(), part, nil); err != nil {
			t.Fatal(err)
		}
	}
}

func letterNumbers(t *testing.T, b *Broker, from uint64) (numbers []uint64) {
	t.Helper()
	for d, err := range b.ReadLetters(context.Background(), from) {
		if err != nil {
			t.Fatal(err)
		}
		numbers = append(numbers, d.Sequence)
	}
	return numbers
}

func TestReadingInBatches(t *testing.T) {
	t.Parallel()
	b, ctx := newTestBroker(t), context.Background()
	if got := letterNumbers(t, b, 1); got != nil {
		t.Fatalf("an empty stream has %v", got)
	}
	const n = 2*readBatch + 10
	publishLetters(t, b, n)
	stream, err := b.js.Stream(ctx, DeadLettersStream)
	if err != nil {
		t.Fatal(err)
	}
	// The first, the last, and the first of the second batch are removed.
	removed := []uint64{1, readBatch + 2, n}
	for _, seq := range removed {
		if err := stream.DeleteMsg(ctx, seq); err != nil {
			t.Fatal(err)
		}
	}
	var want []uint64
	for seq := uint64(1); seq <= n; seq++ {
		if !slices.Contains(removed, seq) {
			want = append(want, seq)
		}
	}
	if got := letterNumbers(t, b, 0); !slices.Equal(got, want) {
		t.Errorf("read %d letters, want %d: %v", len(got), len(want), got)
	}
	if got := letterNumbers(t, b, n-3); !slices.Equal(got, []uint64{n - 3, n - 2, n - 1}) {
		t.Errorf("from %d on: %v", n-3, got)
	}
	if got := letterNumbers(t, b, n+100); got != nil {
		t.Errorf("after the end: %v", got)
	}

	open, err := b.OpenLetters(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for seq := uint64(0); seq <= n+1; seq++ {
		if open.Has(seq) != slices.Contains(want, seq) {
			t.Errorf("letter %d: has %v", seq, open.Has(seq))
		}
	}
	letters, audit, ledger, err := b.StreamStates(ctx)
	if err != nil || letters.First != 2 || letters.Last != n || letters.Messages != n-3 || letters.Created.IsZero() || letters.MaxAge != deadLetterAge || audit.Messages != 0 || ledger.Messages != 0 {
		t.Errorf("states %v %v %v, %v", letters, audit, ledger, err)
	}
	if _, err := b.DeadLetter(ctx, removed[1]); !errors.Is(err, ErrNoLetter) {
		t.Errorf("a removed letter: %v", err)
	}
	if d, err := b.DeadLetter(ctx, 7); err != nil || d.Event != "e000006" || !strings.Contains(string(d.Body), d.Event) || time.Since(d.Time) > time.Hour {
		t.Errorf("letter 7: %+v, %v", d, err)
	}
}

// The publisher of a letter chooses its headers; none of them may be taken for a header
// of the server.
func TestReadingIsNotMisled(t *testing.T) {
	t.Parallel()
	b, ctx := newTestBroker(t), context.Background()
	for i, forged := range []nats.Header{
		{"Status": {"204"}, "Nats-Num-Pending": {"0"}},
		{"Status": {"503"}},
		{"Nats-Sequence": {"77"}, "Nats-Subject": {"certpost.dead.X.y.z.forged"}, "Nats-Last-Sequence": {"9"}, "Nats-Time-Stamp": {"yesterday"}},
		{},
	} {
		m := nats.NewMsg(fmt.Sprintf("certpost.dead.SMTP_AUTH.relay.ops.e%d", i))
		m.Header = forged // and no body, like the server's own answers
		if _, err := b.js.PublishMsg(ctx, m); err != nil {
			t.Fatal(err)
		}
	}
	if got := letterNumbers(t, b, 1); !slices.Equal(got, []uint64{1, 2, 3, 4}) {
		t.Fatalf("read %v", got)
	}
	if d, err := b.DeadLetter(ctx, 3); err != nil || d.Sequence != 3 || d.Token != "e2" {
		t.Errorf("letter 3: %+v, %v", d, err)
	}
	if d, err := b.DeadLetter(ctx, 2); err != nil || d.Sequence != 2 {
		t.Errorf("letter 2: %+v, %v", d, err)
	}
}

// Gaps of all widths and messages of all sizes are read without losing a message.
func TestReadingOverGaps(t *testing.T) {
	t.Parallel()
	b, ctx := newTestBroker(t), context.Background()
	const n = 3000
	publishLetters(t, b, n)
	stream, err := b.js.Stream(ctx, DeadLettersStream)
	if err != nil {
		t.Fatal(err)
	}
	var want []uint64
	for seq := uint64(1); seq <= n; seq++ {
		if seq < 500 && seq%2 == 0 || seq > 800 && seq < 2700 && seq%400 != 0 {
			if err := stream.DeleteMsg(ctx, seq); err != nil {
				t.Fatal(err)
			}
			continue
		}
		want = append(want, seq)
	}
	if got := letterNumbers(t, b, 1); !slices.Equal(got, want) {
		t.Errorf("read %d letters, want %d: %v", len(got), len(want), got)
	}
	for _, width := range []int{1, 7, 16, 64} {
		if got := nextWidth(width, []*jetstream.RawStreamMsg{{Data: make([]byte, readBytes)}}); got != 1 {
			t.Errorf("after one large message of %d: %d at once", width, got)
		}
	}
	if got := nextWidth(16, nil); got != 8 {
		t.Errorf("after nothing: %d at once", got)
	}
}

func TestReadingSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	b, ctx := newTestBroker(t), context.Background()
	if err := b.js.DeleteStream(ctx, DeadLettersStream); err != nil {
		t.Fatal(err)
	}
	for _, err := range b.ReadLetters(ctx, 1) {
		if !errors.Is(err, jetstream.ErrStreamNotFound) || !strings.Contains(err.Error(), DeadLettersStream) {
			t.Errorf("without the stream: %v", err)
		}
	}
	over, cancel := context.WithCancel(ctx)
	cancel()
	for _, err := range b.ReadAudit(over, 1) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
	}
}

func TestReadingTheLedger(t *testing.T) {
	t.Parallel()
	b, ctx := newTestBroker(t), context.Background()
	l, err := b.OpenLedger(ctx)
	if err != nil {
		t.Fatal(err)
	}
	revision, err := l.Put(ctx, "ops.e1", Entry{Event: "e1", Target: "ops", State: StateWaiting}, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Put(ctx, "ops.e2", Entry{Event: "e2", Target: "ops", State: StateSent}, 0); err != nil {
		t.Fatal(err)
	}
	latest, err := l.Put(ctx, "ops.e1", Entry{Event: "e1", Target: "ops", State: StateDead}, revision)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.kv.PutString(ctx, "ops.e3", "by hand"); err != nil {
		t.Fatal(err)
	}
	if err := l.kv.Delete(ctx, "ops.e2"); err != nil {
		t.Fatal(err)
	}
	var got []string
	for c, err := range b.ReadEntries(ctx, 1) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%s %d %s %v %v", c.Key, c.Revision, c.Entry.State, c.Deleted, c.Unreadable))
	}
	if want := []string{"ops.e1 3 dead false false", "ops.e3 4  false true", "ops.e2 5  true false"}; !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	if c, err := b.EntryAt(ctx, latest); err != nil || c.Entry.State != StateDead || c.Key != "ops.e1" {
		t.Errorf("entry at %d: %+v, %v", latest, c, err)
	}
	some, err := b.EntriesAt(ctx, []uint64{latest + 1, revision, latest, 99})
	if err != nil || len(some) != 2 || some[0].Key != "ops.e3" || some[1].Key != "ops.e1" || some[1].Entry.State != StateDead {
		t.Errorf("entries at some revisions: %+v, %v", some, err)
	}
	if _, err := b.EntryAt(ctx, revision); !errors.Is(err, ErrNoEntry) {
		t.Errorf("a revision that is gone: %v", err)
	}
}
