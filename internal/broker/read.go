package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/certpost/certpost/internal/backoff"
	"github.com/certpost/certpost/internal/events"
)

// Streams are read by direct get, never through a consumer, so reading changes nothing:
// in batches, or with one request per message (pipeline.go). One batch is held in
// memory.
const (
	readBatch   = 256             // messages
	readBytes   = 1 << 20         // after which a batch ends; one more message may follow
	readTimeout = 5 * time.Second // without an answer, before the request is repeated
	readTries   = 3               // in a row that bring no message, before the read fails
)

// The headers and the status in the answers to a direct get (nats-server,
// server/stream.go, getDirectRequest). The server appends its headers to the
// message's own, so the last of each name is the server's.
const (
	headerSequence     = "Nats-Sequence"
	headerLastSequence = "Nats-Last-Sequence"
	headerPending      = "Nats-Num-Pending"
	headerSubject      = "Nats-Subject"
	headerTimeStamp    = "Nats-Time-Stamp"
	headerStatus       = "Status"

	statusEnd           = "204" // end of a batch
	statusNotFound      = "404"
	statusNoResponders  = "503" // no server answers for the stream
	codeMessageNotFound = 10037 // JSNoMessageFoundErr
)

type getRequest struct {
	Seq      uint64 `json:"seq,omitempty"`
	Next     string `json:"next_by_subj,omitempty"`
	Last     string `json:"last_by_subj,omitempty"`
	Batch    int    `json:"batch,omitempty"`
	MaxBytes int    `json:"max_bytes,omitempty"`
}

// read yields the messages of a stream from a sequence on whose subject matches the filter
// ("" for all), until there are no more. If an answer is lost, the request is repeated.
//
// Any replica may answer a direct get, even one that lags: it may still return messages
// that were just removed. But the end is accepted only if the stream's leader confirms it,
// so every message acknowledged before the read is seen.
func (b *Broker) read(ctx context.Context, stream, filter string, from uint64) iter.Seq2[*jetstream.RawStreamMsg, error] {
	return func(yield func(*jetstream.RawStreamMsg, error) bool) {
		next, tries, width := max(from, 1), 0, minPipeline
		for {
			page, ended, err := b.nextPage(ctx, stream, filter, next, &width)
			if len(page) == 0 && err != nil {
				if tries++; ctx.Err() != nil || errors.Is(err, errDenied) || tries == readTries {
					yield(nil, b.readError(ctx, stream, err))
					return
				}
				backoff.Sleep(ctx, time.Duration(tries)*100*time.Millisecond)
				continue
			}
			tries = 0
			if ended {
				m, err := b.leaderGet(ctx, stream, getRequest{Seq: lastSequence(page, next-1) + 1, Next: anySubject(filter)})
				if err == nil {
					page, ended = append(page, m), false
				} else if !errors.Is(err, jetstream.ErrMsgNotFound) {
					yield(nil, b.readError(ctx, stream, err))
					return
				}
			}
			for _, m := range page {
				if !yield(m, nil) {
					return
				}
			}
			if ended {
				return
			}
			next = lastSequence(page, next-1) + 1
		}
	}
}

func lastSequence(page []*jetstream.RawStreamMsg, fallback uint64) uint64 {
	if len(page) == 0 {
		return fallback
	}
	return page[len(page)-1].Sequence
}

func anySubject(filter string) string {
	if filter == "" {
		return ">"
	}
	return filter
}

// readError returns why a read failed: the context, the connection, the stream, or err.
func (b *Broker) readError(ctx context.Context, stream string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("read stream %s: %w", stream, ctx.Err())
	}
	if errors.Is(err, errDenied) {
		return fmt.Errorf("read stream %s: %w", stream, err)
	}
	if away := b.Disconnected(); away != nil {
		return fmt.Errorf("read stream %s: %w", stream, away)
	}
	if _, serr := b.js.Stream(ctx, stream); serr != nil {
		return fmt.Errorf("stream %s: %w", stream, serr)
	}
	return fmt.Errorf("read stream %s: %w", stream, err)
}

// page requests one batch. ended says that the answering replica knows of no messages after
// it. With an error, page holds the messages received before it, without gaps.
func (b *Broker) page(ctx context.Context, stream string, request getRequest) (page []*jetstream.RawStreamMsg, ended bool, err error) {
	subject := b.apiPrefix() + "DIRECT.GET." + stream
	ctx, done := b.denied.watch(ctx, subject)
	defer done()
	body, err := json.Marshal(request)
	if err != nil {
		return nil, false, err
	}
	// A channel, because the client's request functions mistake a stored message that
	// has a Status header of its own for a status answer.
	answers := make(chan *nats.Msg, max(request.Batch, 1)+2)
	inbox := b.nc.NewInbox()
	sub, err := b.nc.ChanSubscribe(inbox, answers)
	if err != nil {
		return nil, false, err
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := b.nc.PublishRequest(subject, inbox, body); err != nil {
		return nil, false, err
	}
	overdue := time.NewTimer(readTimeout)
	defer overdue.Stop()
	before := uint64(0) // the sequence of the previous answer
	for {
		select {
		case <-ctx.Done():
			return page, false, because(ctx, ctx.Err())
		case <-overdue.C:
			return page, false, nats.ErrTimeout
		case answer := <-answers:
			overdue.Reset(readTimeout)
			if serverHeader(answer, headerSequence) == "" {
				return parseBatchEnd(page, answer, before)
			}
			m, err := rawMessage(answer)
			if err != nil {
				return page, false, err
			}
			if request.Batch == 0 {
				return []*jetstream.RawStreamMsg{m}, true, nil
			}
			if serverHeader(answer, headerLastSequence) != strconv.FormatUint(before, 10) {
				return page, false, errors.New("an answer was lost")
			}
			page, before = append(page, m), m.Sequence
		}
	}
}

// parseBatchEnd reads the answer that ends a batch.
func parseBatchEnd(page []*jetstream.RawStreamMsg, answer *nats.Msg, before uint64) ([]*jetstream.RawStreamMsg, bool, error) {
	switch status := answer.Header.Get(headerStatus); status {
	case statusEnd:
		if serverHeader(answer, headerLastSequence) != strconv.FormatUint(before, 10) {
			return page, false, errors.New("an answer was lost")
		}
		return page, serverHeader(answer, headerPending) == "0", nil
	case statusNotFound:
		return page, true, nil
	case statusNoResponders:
		return page, false, nats.ErrNoResponders
	default:
		return page, false, fmt.Errorf("unexpected answer %q %s from the server", status, answer.Header.Get("Description"))
	}
}

func serverHeader(m *nats.Msg, name string) string {
	values := m.Header[name]
	if len(values) == 0 {
		return ""
	}
	return values[len(values)-1]
}

func rawMessage(answer *nats.Msg) (*jetstream.RawStreamMsg, error) {
	seq, err := strconv.ParseUint(serverHeader(answer, headerSequence), 10, 64)
	if err != nil {
		return nil, fmt.Errorf("sequence of an answer: %w", err)
	}
	at, err := time.Parse(time.RFC3339Nano, serverHeader(answer, headerTimeStamp))
	if err != nil {
		return nil, fmt.Errorf("time of message %d: %w", seq, err)
	}
	return &jetstream.RawStreamMsg{Subject: serverHeader(answer, headerSubject), Sequence: seq, Header: answer.Header, Data: answer.Data, Time: at}, nil
}

// leaderGet reads one message from the stream's leader, which has all acknowledged
// messages; jetstream.ErrMsgNotFound if there is none. It asks again while there is no
// leader, for apiTimeout at most.
func (b *Broker) leaderGet(ctx context.Context, stream string, request getRequest) (*jetstream.RawStreamMsg, error) {
	body, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	var reply *nats.Msg
	subject := b.apiPrefix() + "STREAM.MSG.GET." + stream
	err = b.watched(ctx, subject, func(ctx context.Context) error {
		return b.Persist(ctx, func(ctx context.Context) (err error) {
			reply, err = b.nc.RequestWithContext(ctx, subject, body)
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	var answer struct {
		Error   *jetstream.APIError `json:"error"`
		Message struct {
			Subject  string    `json:"subject"`
			Sequence uint64    `json:"seq"`
			Header   []byte    `json:"hdrs"`
			Data     []byte    `json:"data"`
			Time     time.Time `json:"time"`
		} `json:"message"`
	}
	if err := json.Unmarshal(reply.Data, &answer); err != nil {
		return nil, errors.New("cannot decode the server's answer")
	}
	if answer.Error != nil && answer.Error.ErrorCode == codeMessageNotFound {
		return nil, jetstream.ErrMsgNotFound
	}
	if answer.Error != nil {
		return nil, answer.Error
	}
	m := &jetstream.RawStreamMsg{Subject: answer.Message.Subject, Sequence: answer.Message.Sequence, Data: answer.Message.Data, Time: answer.Message.Time}
	if len(answer.Message.Header) > 0 {
		if m.Header, err = nats.DecodeHeadersMsg(answer.Message.Header); err != nil {
			return nil, fmt.Errorf("headers of message %d: %w", m.Sequence, err)
		}
	}
	return m, nil
}

// EventOfDelivery returns the sequence in CERTPOST_EVENTS of the event from which the
// delivery with a sequence in CERTPOST_DELIVERIES was made; 0 if it does not say, and
// jetstream.ErrMsgNotFound if the delivery was settled.
func (b *Broker) EventOfDelivery(ctx context.Context, sequence uint64) (uint64, error) {
	raw, err := b.leaderGet(ctx, DeliveriesStream, getRequest{Seq: sequence})
	if err != nil {
		return 0, err
	}
	event, _ := strconv.ParseUint(raw.Header.Get(HeaderEventSequence), 10, 64)
	return event, nil
}

// HoldsDelivery reports whether CERTPOST_DELIVERIES has, at a sequence, a message of this delivery
// that is not settled.
func (b *Broker) HoldsDelivery(ctx context.Context, sequence uint64, target, event string) (bool, error) {
	raw, err := b.leaderGet(ctx, DeliveriesStream, getRequest{Seq: sequence})
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read delivery %d: %w", sequence, err)
	}
	ev, err := events.Decode(raw.Header, raw.Data)
	return err == nil && ev.ID == event && DeliveryTarget(raw.Subject) == target, nil
}

// OldestDelivery returns since when the first delivery waits that is not settled, in a lane or, with
// "*", in all of them; zero if there is none.
func (b *Broker) OldestDelivery(ctx context.Context, lane string) (time.Time, error) {
	raw, err := b.leaderGet(ctx, DeliveriesStream, getRequest{Seq: 1, Next: DeliverySubject(lane, "*")})
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("read the oldest delivery: %w", err)
	}
	return FirstPublished(raw.Header, raw.Time), nil
}

// messageAt reads one message by its sequence: from any replica, or from the leader if that
// replica does not have it.
func (b *Broker) messageAt(ctx context.Context, stream string, sequence uint64) (*jetstream.RawStreamMsg, error) {
	if sequence == 0 { // no message has it, and NATS refuses the request instead of saying so
		return nil, jetstream.ErrMsgNotFound
	}
	page, _, err := b.page(ctx, stream, getRequest{Seq: sequence})
	if err == nil && len(page) == 1 {
		return page[0], nil
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return b.leaderGet(ctx, stream, getRequest{Seq: sequence})
}

// ReadLetters yields the open dead letters from a number on, in order, with their bodies.
// Letters removed during the read may still be yielded.
func (b *Broker) ReadLetters(ctx context.Context, from uint64) iter.Seq2[DeadLetter, error] {
	return b.readLetters(ctx, "", from)
}

func (b *Broker) readLetters(ctx context.Context, filter string, from uint64) iter.Seq2[DeadLetter, error] {
	return func(yield func(DeadLetter, error) bool) {
		for raw, err := range b.read(ctx, DeadLettersStream, filter, from) {
			if err != nil {
				yield(DeadLetter{}, err)
				return
			}
			if !yield(parseDeadLetter(raw), nil) {
				return
			}
		}
	}
}

// LedgerChange is the newest value of one key of the ledger.
type LedgerChange struct {
	Key      string // <target>.<event token>
	Revision uint64 // its sequence in the bucket's stream
	Time     time.Time
	Entry    Entry
	// Deleted: the entry was removed. Unreadable: it was not written by Certpost.
	Deleted, Unreadable bool
	// Sealed: this process verifies entries, and its HMAC is right. After is the revision that
	// it replaced.
	Sealed bool
	After  uint64
	// Proof says in words what the HMAC of an entry read by EntriesAt shows; "" if this process
	// has no key.
	Proof Signature
}

// Signature is what the HMAC of an entry shows.
type Signature string

// The values.
const (
	ProofSigned   Signature = "signed"   // a Certpost with the key wrote it as it is
	ProofUnsigned Signature = "unsigned" // without HMAC: from before there was a key, or not written by Certpost
	ProofBroken   Signature = "broken"   // changed, or not written by a Certpost with the key
)

// prove sets the proof of an entry that was read.
func (b *Broker) prove(raw *jetstream.RawStreamMsg, c *LedgerChange) {
	b.seals.mu.Lock()
	keys := b.seals.keys
	b.seals.mu.Unlock()
	if keys == nil {
		return
	}
	switch keys.checkEntry(c.Key, raw.Data).result {
	case authentic:
		c.Proof = ProofSigned
	case unsigned:
		c.Proof = ProofUnsigned
	default:
		c.Proof = ProofBroken
	}
}

// ReadEntries yields the ledger's entries from a revision on, in the order in which they
// were written. A key comes once, unless it changes during the read.
func (b *Broker) ReadEntries(ctx context.Context, from uint64) iter.Seq2[LedgerChange, error] {
	return func(yield func(LedgerChange, error) bool) {
		for raw, err := range b.read(ctx, "KV_"+LedgerBucket, "", from) {
			if err != nil {
				yield(LedgerChange{}, err)
				return
			}
			c := ledgerChange(raw)
			if a := b.auditor.Load(); a != nil {
				a.examine(raw, &c)
			}
			if !yield(c, nil) {
				return
			}
		}
	}
}

func ledgerChange(raw *jetstream.RawStreamMsg) LedgerChange {
	c := LedgerChange{Key: raw.Subject[min(len("$KV."+LedgerBucket+"."), len(raw.Subject)):], Revision: raw.Sequence, Time: raw.Time}
	if raw.Header.Get("KV-Operation") != "" { // DEL or PURGE
		c.Deleted = true
		return c
	}
	var err error
	c.Entry, err = readEntry(raw.Data)
	c.Unreadable = err != nil
	return c
}

// EntryAt returns the ledger's entry with a revision; the error is ErrNoEntry if the entry
// has changed since.
func (b *Broker) EntryAt(ctx context.Context, revision uint64) (LedgerChange, error) {
	raw, err := b.messageAt(ctx, "KV_"+LedgerBucket, revision)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return LedgerChange{}, fmt.Errorf("revision %d: %w", revision, ErrNoEntry)
	}
	if err != nil {
		return LedgerChange{}, b.readError(ctx, "KV_"+LedgerBucket, err)
	}
	c := ledgerChange(raw)
	b.prove(raw, &c)
	return c, nil
}

// StreamState is the range of a stream's sequences. They are dense: Last is the number of
// messages the stream ever had; those between First and Last that are not among Messages
// were removed.
type StreamState struct {
	First, Last, Messages uint64
	Created               time.Time     // of the stream; another time means that it was recreated
	Base                  uint64        // the sequences up to it were those of an earlier stream
	MaxAge                time.Duration // of its messages; 0: unlimited
}

// StreamStates returns the states of the streams of dead letters, audit and ledger, from
// their leaders.
func (b *Broker) StreamStates(ctx context.Context) (letters, audit, ledger StreamState, err error) {
	for name, s := range map[string]*StreamState{DeadLettersStream: &letters, AuditStream: &audit, "KV_" + LedgerBucket: &ledger} {
		info, serr := b.js.Stream(ctx, name)
		if serr != nil {
			return letters, audit, ledger, fmt.Errorf("stream %s: %w", name, serr)
		}
		*s = stateOf(info.CachedInfo())
	}
	return letters, audit, ledger, nil
}

func stateOf(info *jetstream.StreamInfo) StreamState {
	s := info.State
	return StreamState{First: s.FirstSeq, Last: s.LastSeq, Messages: s.Msgs, Created: info.Created, MaxAge: info.Config.MaxAge, Base: max(info.Config.FirstSeq, 1) - 1}
}

// OpenLetters asks the leader which letters are open. The answer lists those that are not,
// some bytes for each letter removed after the oldest open one, so it is meant for when the
// counts of StreamStates are unexpected.
func (b *Broker) OpenLetters(ctx context.Context) (*Sequences, error) {
	return b.held(ctx, DeadLettersStream)
}
