package broker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/certpost/certpost/internal/backoff"
	"github.com/certpost/certpost/internal/events"
)

// zeroHash is the previous hash in the first record of the audit.
var zeroHash = strings.Repeat("0", 64)

// appendTimeout bounds all attempts to append a group of records.
const appendTimeout = 30 * time.Second

// chain appends records to the audit, each with the hash of the one before it. An append
// succeeds only if the stream's last record is the one whose hash the new record holds, so
// several processes take turns. Within one process, records that arrive during an append
// wait and are appended together.
//
// It has no goroutine to stop: one runs while records wait.
type chain struct {
	mu      sync.Mutex
	waiting []*link
	running bool

	head *Anchor // the last known record; used by appendWaiting only
}

// link is one record to be appended to the chain.
type link struct {
	subject string
	id      string // Nats-Msg-Id; "": a second write is not detected
	record  AuditRecord
	// check is called when the chain's head is known and says whether to write the record.
	// A record added by another process after that makes the append fail. nil: write it.
	check func(context.Context) (write bool, err error)
	// key signs the record instead of the key in force; nil: that one.
	key *auditKey

	done    chan struct{}
	written bool
	err     error
}

// Append writes records to the audit, in order, and returns when all are stored. A record
// that ends a letter is written once: if an end is already recorded, it is skipped.
func (b *Broker) Append(ctx context.Context, records ...AuditRecord) error {
	links := make([]*link, len(records))
	for i, r := range records {
		ends := r.LetterNumber != 0 && r.Action.Ends() && r.Stage != StageIntent
		if ends {
			r.Stage = StageOutcome
		}
		if links[i] = b.link(r, ""); ends {
			links[i].check = b.notEnded(r)
		}
	}
	return b.appendAll(ctx, links)
}

// Observe records the end of a letter that was not removed through Certpost, unless an end
// is already recorded or another action on the letter is in progress. written says whether
// the record was written.
func (b *Broker) Observe(ctx context.Context, r AuditRecord) (written bool, err error) {
	if gone, err := b.gone(ctx, r.LetterNumber); err != nil || !gone {
		return false, err // the caller read from a replica that lags
	}
	r.Stage = StageOutcome
	l := b.link(r, "")
	l.check = b.notEndedOrClaimed(r)
	err = b.appendAll(ctx, []*link{l})
	return l.written, err
}

// audit appends one record. id makes a second write within the stream's duplicate window (2
// minutes) harmless.
func (b *Broker) audit(ctx context.Context, r AuditRecord, id string) error {
	return b.appendAll(ctx, []*link{b.link(r, id)})
}

func (b *Broker) link(r AuditRecord, id string) *link {
	r.Time = time.Now().UTC()
	r.Sequence, r.Stored, r.Hash = 0, time.Time{}, ""
	kind := string(r.Action)
	if r.Stage == StageIntent {
		kind = string(StageIntent)
	}
	if id != "" {
		id = kind + "/" + id
	}
	return &link{subject: auditPrefix + kind + "." + auditSubjectSuffix(r), id: id, record: r, done: make(chan struct{})}
}

// auditSubjectSuffix returns the last two tokens of the subjects of all records about one
// delivery, lane, run or letter: <target>.<token>.
func auditSubjectSuffix(r AuditRecord) string {
	target, token := r.Target, NoToken
	if !events.IsToken(target) {
		target = NoToken
	}
	switch {
	case r.Event != "":
		token = events.Token(r.Event)
	case events.IsToken(r.Lane):
		token = r.Lane
	case events.IsToken(r.Run):
		token = r.Run
	case events.IsToken(r.Group):
		token = r.Group
	case r.Many != nil && events.IsToken(r.Act):
		token = r.Act
	case r.LetterNumber != 0: // only the number is known
		token = "letter-" + strconv.FormatUint(r.LetterNumber, 10)
	}
	return target + "." + token
}

func (b *Broker) appendAll(ctx context.Context, links []*link) error {
	c := &b.chain
	c.mu.Lock()
	c.waiting = append(c.waiting, links...)
	if !c.running {
		c.running = true
		go b.appendWaiting()
	}
	c.mu.Unlock()
	for _, l := range links {
		select {
		case <-l.done:
		case <-ctx.Done():
			if c.removeWaiting(l) {
				l.err = ctx.Err()
				continue
			}
			<-l.done // it is being written: its outcome follows soon
		}
	}
	for _, l := range links {
		if l.err != nil {
			return fmt.Errorf("audit %s: %w", l.subject, l.err)
		}
	}
	return nil
}

// removeWaiting removes a link that waits; false if it is already being appended.
func (c *chain) removeWaiting(l *link) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.Index(c.waiting, l)
	if i >= 0 {
		c.waiting = slices.Delete(c.waiting, i, i+1)
	}
	return i >= 0
}

// changesKey reports whether the records after this one are signed with another key.
func (l *link) changesKey() bool { return l.key != nil || l.record.Action == ActionRekeyed }

func (b *Broker) appendWaiting() {
	for {
		group := b.chain.nextGroup()
		if group == nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), appendTimeout)
		err := b.appendGroup(ctx, group)
		cancel()
		for _, l := range group {
			if l.err == nil && !l.written && err != nil {
				l.err = err
			}
			close(l.done)
		}
	}
}

// nextGroup takes the next links to append, at most maxBatch. Once it has taken a link with
// a check, later links of the same letter wait for the next group.
func (c *chain) nextGroup() []*link {
	c.mu.Lock()
	defer c.mu.Unlock()
	var group, rest []*link
	letters := map[uint64]bool{}
	for _, l := range c.waiting {
		n := l.record.LetterNumber
		if len(group) == maxBatch || letters[n] || len(group) > 0 && (l.key != nil || group[len(group)-1].changesKey()) {
			rest = append(rest, l)
			continue
		}
		letters[n] = n != 0 && l.check != nil
		group = append(group, l)
	}
	c.waiting = rest
	c.running = group != nil
	return group
}

// appendGroup appends records after the chain's head. It retries if another process
// appended first or the server does not answer; what was stored all the same is recognized.
func (b *Broker) appendGroup(ctx context.Context, group []*link) error {
	for try := 0; ; try++ {
		rest, err := b.appendOnce(ctx, group)
		if len(rest) == 0 && err == nil {
			return nil
		}
		group, b.chain.head = rest, nil
		switch pause := time.Duration(min(try, 20)) * time.Millisecond; {
		case ctx.Err() != nil:
			return err
		case WrongSequence(err):
			backoff.Sleep(ctx, backoff.Jitter(pause))
		case Unanswered(err):
			backoff.Sleep(ctx, backoff.Jitter(10*pause))
		default:
			return err
		}
	}
}

// appendOnce makes one attempt and returns the links that are still to be written.
func (b *Broker) appendOnce(ctx context.Context, group []*link) (rest []*link, err error) {
	if b.chain.head == nil {
		ctx, cancel := context.WithTimeout(ctx, b.RequestTimeout())
		defer cancel()
		head, err := b.readHead(ctx)
		if err != nil {
			return group, err
		}
		b.chain.head = &head
	}
	rest = b.runChecks(ctx, group)
	if len(rest) == 0 {
		return nil, nil
	}
	key := rest[0].key
	if key == nil {
		if key, err = b.signer(ctx); err != nil {
			return rest, err
		}
	}
	n, err := b.extend(ctx, *b.chain.head, rest, key)
	return rest[n:], Explain(err, AuditStream)
}

// runChecks returns the links of a group that are to be written. All checks run at once,
// because the server may be far away.
func (b *Broker) runChecks(ctx context.Context, group []*link) (rest []*link) {
	write := make([]bool, len(group))
	var wg sync.WaitGroup
	for i, l := range group {
		if l.check == nil {
			write[i] = true
			continue
		}
		wg.Go(func() {
			l.err = b.Persist(ctx, func(ctx context.Context) (err error) {
				write[i], err = l.check(ctx)
				return err
			})
		})
	}
	wg.Wait()
	for i, l := range group {
		if write[i] && l.err == nil {
			rest = append(rest, l)
		}
	}
	return rest
}

// extend appends links after the head, signed with a key unless it is nil, many in one batch,
// few one by one. It returns how many it wrote.
func (b *Broker) extend(ctx context.Context, head Anchor, links []*link, key *auditKey) (n int, err error) {
	if len(links) >= batchFrom {
		msgs, next, err := buildMessages(head, links, key)
		if err != nil {
			return 0, err
		}
		batch, cancel := context.WithTimeout(ctx, b.RequestTimeout())
		_, err = b.PublishBatch(batch, msgs)
		cancel()
		if err == nil || b.isStored(ctx, head.Sequence+1, msgs[0], err) {
			for _, l := range links {
				l.written = true
			}
			if links[len(links)-1].changesKey() {
				b.forgetKey()
			}
			b.chain.head = &next
			return len(links), nil
		}
		if !errors.Is(err, errBatchRefused) {
			return 0, err
		}
	}
	for i, l := range links {
		msgs, next, err := buildMessages(head, links[i:i+1], key)
		if err != nil {
			return i, err
		}
		one, cancel := context.WithTimeout(ctx, b.RequestTimeout())
		ack, err := b.js.PublishMsg(one, msgs[0])
		cancel()
		if err != nil && !b.isStored(ctx, head.Sequence+1, msgs[0], err) {
			return i, err
		}
		l.written = true
		if l.changesKey() {
			b.forgetKey()
		}
		if err != nil || !ack.Duplicate {
			head = next
			b.chain.head = &next
		}
	}
	return len(links), nil
}

// buildMessages returns the messages that follow a head, and the new head.
func buildMessages(head Anchor, links []*link, key *auditKey) ([]*nats.Msg, Anchor, error) {
	msgs := make([]*nats.Msg, len(links))
	for i, l := range links {
		l.record.Previous = head.Hash
		m := nats.NewMsg(l.subject)
		var err error
		if m.Data, err = json.Marshal(l.record); err != nil {
			return nil, head, err
		}
		if l.id != "" {
			m.Header.Set(nats.MsgIdHdr, l.id)
		}
		if key != nil {
			m.Header.Set(headerProof, key.proof(labelRecord, head.Sequence+1, l.subject, m.Data))
		}
		if i == 0 { // a batch allows it in its first message only; the others follow it
			m.Header.Set(jetstream.ExpectedLastSeqHeader, strconv.FormatUint(head.Sequence, 10))
		}
		msgs[i] = m
		head = Anchor{head.Sequence + 1, hashOf(m.Data)}
	}
	return msgs, head, nil
}

// isStored reports whether a record was stored although the server returned an error or did
// not answer. No two records are alike: each holds the hash of the one before it.
func (b *Broker) isStored(ctx context.Context, sequence uint64, m *nats.Msg, err error) bool {
	if errors.Is(err, errBatchRefused) {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, b.RequestTimeout())
	defer cancel()
	raw, err := b.leaderGet(ctx, AuditStream, getRequest{Seq: sequence})
	return err == nil && raw.Subject == m.Subject && bytes.Equal(raw.Data, m.Data)
}

// readHead reads the last record from the stream's leader. If that record was removed, the
// next record follows the last one that is left: the gap stays.
func (b *Broker) readHead(ctx context.Context) (Anchor, error) {
	s, err := b.js.Stream(ctx, AuditStream)
	if err != nil {
		return Anchor{}, fmt.Errorf("stream %s: %w", AuditStream, err)
	}
	state := s.CachedInfo().State
	head := Anchor{state.LastSeq, zeroHash}
	if state.Msgs == 0 {
		return head, nil
	}
	raw, err := b.leaderGet(ctx, AuditStream, getRequest{Seq: state.LastSeq})
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		raw, err = b.leaderGet(ctx, AuditStream, getRequest{Last: auditPrefix + ">"})
	}
	if err != nil {
		return Anchor{}, fmt.Errorf("the last record of %s: %w", AuditStream, err)
	}
	head.Hash = hashOf(raw.Data)
	b.noteHead(raw)
	return head, nil
}
