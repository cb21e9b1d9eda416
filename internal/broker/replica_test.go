package broker

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// replica answers direct gets instead of the server, like a replica that lags or whose
// answers are lost.
type replica struct {
	t      *testing.T
	b      *Broker
	answer func(request int, seq uint64, reply string)
	asked  atomic.Int32
}

// replaceDirectGet makes a replica answer the stream's direct gets.
func replaceDirectGet(t *testing.T, b *Broker, stream string) *replica {
	t.Helper()
	ctx := context.Background()
	s, err := b.js.Stream(ctx, stream)
	if err != nil {
		t.Fatal(err)
	}
	cfg := s.CachedInfo().Config
	cfg.AllowDirect = false
	if _, err := b.js.UpdateStream(ctx, cfg); err != nil {
		t.Fatal(err)
	}
	r := &replica{t: t, b: b}
	sub, err := b.nc.Subscribe("$JS.API.DIRECT.GET."+stream, func(m *nats.Msg) {
		var request getRequest
		if err := json.Unmarshal(m.Data, &request); err != nil {
			t.Error(err)
		}
		r.answer(int(r.asked.Add(1)), request.Seq, m.Reply)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sub.Unsubscribe() })
	return r
}

func (r *replica) send(reply string, header nats.Header, data []byte) {
	if err := r.b.nc.PublishMsg(&nats.Msg{Subject: reply, Header: header, Data: data}); err != nil {
		r.t.Error(err)
	}
}

// message sends one message; before is the sequence of the previous one.
func (r *replica) message(reply string, seq, before uint64) {
	raw, err := r.b.leaderGet(context.Background(), DeadLettersStream, getRequest{Seq: seq})
	if err != nil {
		r.t.Error(err)
		return
	}
	h := nats.Header{}
	for name, values := range raw.Header {
		h[name] = values
	}
	h[headerSequence], h[headerSubject] = []string{strconv.FormatUint(seq, 10)}, []string{raw.Subject}
	h[headerTimeStamp], h[headerLastSequence] = []string{raw.Time.Format(time.RFC3339Nano)}, []string{strconv.FormatUint(before, 10)}
	r.send(reply, h, raw.Data)
}

func (r *replica) end(reply string, before uint64, pending string) {
	r.send(reply, nats.Header{headerStatus: {statusEnd}, headerPending: {pending}, headerLastSequence: {strconv.FormatUint(before, 10)}}, nil)
}

func TestReadingFromAReplicaThatLags(t *testing.T) {
	t.Parallel()
	b := newTestBroker(t)
	publishLetters(t, b, 10)
	r := replaceDirectGet(t, b, DeadLettersStream)
	r.answer = func(request int, seq uint64, reply string) {
		switch request {
		case 1: // has three messages
			r.message(reply, 1, 0)
			r.message(reply, 2, 1)
			r.message(reply, 3, 2)
			r.end(reply, 3, "0")
		case 2: // has none after the fourth, which the leader gave
			r.send(reply, nats.Header{headerStatus: {statusNotFound}}, nil)
		case 3: // one in the middle is lost
			r.message(reply, seq, 0)
			r.message(reply, seq+2, seq+1)
			r.end(reply, seq+2, "1")
		case 4: // the last one is lost
			r.message(reply, seq, 0)
			r.end(reply, seq+1, "1")
		case 5: // does not serve the stream
			r.send(reply, nats.Header{headerStatus: {statusNoResponders}}, nil)
		case 6: // does not answer
		default:
			r.message(reply, seq, 0)
			if seq == 10 {
				r.end(reply, seq, "0")
				return
			}
			r.end(reply, seq, "9")
		}
	}
	var got []uint64 // with a filter, which is read in batches
	for d, err := range b.DeadLetters(context.Background(), DeadLetterPrefix+">") {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, d.Sequence)
	}
	if !slices.Equal(got, []uint64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}) {
		t.Errorf("read %v", got)
	}
	// A single letter that the replica does not have is read from the leader.
	r.answer = func(_ int, _ uint64, reply string) { r.send(reply, nats.Header{headerStatus: {statusNotFound}}, nil) }
	if d, err := b.DeadLetter(context.Background(), 9); err != nil || d.Sequence != 9 {
		t.Errorf("letter 9: %+v, %v", d, err)
	}
	if _, err := b.DeadLetter(context.Background(), 99); !errors.Is(err, ErrNoLetter) {
		t.Errorf("letter 99: %v", err)
	}
	// A stream that never answers is an error in the end.
	r.answer = func(_ int, _ uint64, reply string) {
		r.send(reply, nats.Header{headerStatus: {"408"}, "Description": {"Bad Request"}}, nil)
	}
	n := 0
	for _, err := range b.ReadLetters(context.Background(), 1) {
		if n++; err == nil || errors.Is(err, jetstream.ErrStreamNotFound) {
			t.Errorf("%v", err)
		}
	}
	if n != 1 {
		t.Errorf("%d errors", n)
	}
}

// With one request per message, answers may come in any order, twice, from replicas that
// have more or fewer messages, or not at all.
func TestReadingOneByOneFromReplicas(t *testing.T) {
	t.Parallel()
	b := newTestBroker(t)
	publishLetters(t, b, 60)
	r := replaceDirectGet(t, b, DeadLettersStream)
	var held []func() // answers that come after later ones
	r.answer = func(request int, seq uint64, reply string) {
		switch {
		case request <= minPipeline: // in reverse order, each twice
			held = append(held, func() { r.message(reply, seq, 0) })
			if request == minPipeline {
				for _, send := range slices.Backward(held) {
					send()
					send()
				}
			}
		case request == minPipeline+4: // lost
		case request == minPipeline+40, seq > 60: // has no message so late
			r.send(reply, nats.Header{headerStatus: {statusNotFound}}, nil)
		case request == minPipeline+60:
			r.message(reply, seq-1, 0) // an answer to another request
		default:
			r.message(reply, seq, 0)
		}
	}
	var want []uint64
	for seq := range uint64(60) {
		want = append(want, seq+1)
	}
	if got := letterNumbers(t, b, 1); !slices.Equal(got, want) {
		t.Errorf("read %v", got)
	}
}
