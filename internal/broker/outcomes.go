package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/certpost/certpost/internal/events"
)

// OutcomeLimits are how long CERTPOST_OUTCOMES keeps outcomes, and how many bytes; what is older is dropped.
type OutcomeLimits struct {
	MaxAge   time.Duration
	MaxBytes int64
}

// outcomePosition is the subject of messages that only say how far the sources were read.
const outcomePosition = "certpost.outcomes.position"

// headerPosition holds the OutcomePosition after a message of CERTPOST_OUTCOMES.
const headerPosition = "Certpost-Position"

// OutcomePosition says how far outcomes were published: the last number that was read of dead letters, audit and
// ledger. Each message of CERTPOST_OUTCOMES has the position after it, and is appended by compare-and-set, so that
// neither a crash nor a second process publishes an outcome twice or leaves one out.
type OutcomePosition struct {
	Letters uint64 `json:"letters"`
	Audit   uint64 `json:"audit"`
	Ledger  uint64 `json:"ledger"`
	// Floor is where Ledger was floorAge ago or earlier. An outcome of a revision above it may have been
	// replaced before it was read; the entry that replaced it has it among its past outcomes.
	Floor  uint64    `json:"floor"`
	Mark   uint64    `json:"mark"` // the next Floor: where Ledger was at the time Marked
	Marked time.Time `json:"marked"`
	// AuditMade and LedgerMade are when the streams were created. Others begin again.
	AuditMade  time.Time `json:"audit_made"`
	LedgerMade time.Time `json:"ledger_made"`
	// Missing are letters that were gone before they were read; the audit has most of them.
	Missing []uint64 `json:"missing,omitempty"`
	By      string   `json:"by,omitempty"` // the process that published last
}

// floorAge is longer than an entry changes without a pause in which it is read, and shorter than the time for
// which streams know message ids.
const floorAge = time.Minute

// maxMissing bounds Missing; the oldest are dropped.
const maxMissing = 200

// OutcomeEnd is the end of CERTPOST_OUTCOMES.
type OutcomeEnd struct {
	Sequence uint64
	Position OutcomePosition
	At       time.Time // of the last message
}

// OutcomeSources are how far dead letters, audit and ledger reach.
type OutcomeSources struct{ Letters, Audit, Ledger StreamState }

// OutcomeSources asks the leaders. Letters are asked last, so that they include every letter that a record of
// the audit is about.
func (b *Broker) OutcomeSources(ctx context.Context) (s OutcomeSources, err error) {
	for _, of := range []struct {
		stream string
		state  *StreamState
	}{{AuditStream, &s.Audit}, {"KV_" + LedgerBucket, &s.Ledger}, {DeadLettersStream, &s.Letters}} {
		info, err := b.js.Stream(ctx, of.stream)
		if err != nil {
			return s, fmt.Errorf("stream %s: %w", of.stream, err)
		}
		*of.state = stateOf(info.CachedInfo())
	}
	return s, nil
}

// Due reports whether there is something after a position.
func (s OutcomeSources) Due(p OutcomePosition) bool {
	return s.Letters.Last > p.Letters || s.Audit.Last > p.Audit || s.Ledger.Last > p.Ledger
}

// Fit returns the position with what the streams allow: one that was created again is read from its beginning, and
// one that was restored from a backup from its end.
func (s OutcomeSources) Fit(p OutcomePosition) OutcomePosition {
	for _, part := range []struct {
		state StreamState
		made  *time.Time
		read  *uint64
	}{{s.Audit, &p.AuditMade, &p.Audit}, {s.Ledger, &p.LedgerMade, &p.Ledger}} {
		if !part.made.Equal(part.state.Created) {
			*part.made, *part.read = part.state.Created, 0
		}
		*part.read = min(*part.read, part.state.Last)
	}
	p.Letters, p.Floor, p.Mark = min(p.Letters, s.Letters.Last), min(p.Floor, p.Ledger), min(p.Mark, p.Ledger)
	return p
}

// BeginOutcomes creates CERTPOST_OUTCOMES, if it is missing, and stores the first position, if there is none: outcomes
// are those from now on. Without limits it does nothing.
func (b *Broker) BeginOutcomes(ctx context.Context) error {
	if b.cfg.Outcomes.MaxAge == 0 {
		return nil
	}
	for _, want := range b.streams() {
		if want.Name == OutcomesStream {
			if err := b.ensureStream(ctx, want); err != nil {
				return err
			}
		}
	}
	end, err := b.OutcomesEnd(ctx)
	if err == nil || !errors.Is(err, ErrNoPosition) {
		return err
	}
	s, err := b.OutcomeSources(ctx)
	if err != nil {
		return err
	}
	at := OutcomePosition{Letters: s.Letters.Last, Audit: s.Audit.Last, Ledger: s.Ledger.Last, Floor: s.Ledger.Last, Mark: s.Ledger.Last,
		Marked: time.Now().UTC(), AuditMade: s.Audit.Created, LedgerMade: s.Ledger.Created}
	if known := b.outcomesAt.Load(); known != nil { // the stream was deleted while this process runs
		at = s.Fit(*known)
	}
	_, err = b.AppendOutcomes(ctx, end, []OutcomeMessage{{After: at}})
	if WrongSequence(err) {
		return nil // another process was first
	}
	return err
}

// ErrNoStream says that a stream does not exist.
var ErrNoStream = jetstream.ErrStreamNotFound

// ErrNoPosition says that the stream has no message with a position.
var ErrNoPosition = errors.New("no position in " + OutcomesStream)

// foreignMessages is how many messages at the end of the stream may have been published by others: only the program
// may publish there, but an administrator can.
const foreignMessages = 500

// OutcomesEnd reads the end of CERTPOST_OUTCOMES.
func (b *Broker) OutcomesEnd(ctx context.Context) (end OutcomeEnd, err error) {
	s, err := b.js.Stream(ctx, OutcomesStream)
	if err != nil {
		return end, fmt.Errorf("stream %s: %w", OutcomesStream, Explain(err, OutcomesStream))
	}
	end.Sequence = s.CachedInfo().State.LastSeq
	first := end.Sequence
	for {
		found := false
		for raw, err := range b.read(ctx, OutcomesStream, "", max(first, 1)) {
			if err != nil {
				return end, err
			}
			end.Sequence = max(end.Sequence, raw.Sequence)
			var at OutcomePosition
			if json.Unmarshal([]byte(raw.Header.Get(headerPosition)), &at) == nil && !at.LedgerMade.IsZero() {
				end.Position, end.At, found = at, raw.Time, true
			}
		}
		if found {
			return end, nil
		}
		if first+foreignMessages <= end.Sequence || first <= 1 {
			return end, ErrNoPosition
		}
		first -= min(first-1, foreignMessages)
	}
}

// OutcomeMessage is an outcome to publish, or, without an id, only a position.
type OutcomeMessage struct {
	ID, Target, TraceParent string
	Data                    []byte
	After                   OutcomePosition
}

func (m *OutcomeMessage) message() (*nats.Msg, error) {
	position, err := json.Marshal(m.After)
	if err != nil {
		return nil, err
	}
	out := nats.NewMsg(outcomePosition)
	if m.ID != "" {
		out.Subject, out.Data = OutcomeSubject(m.Target), m.Data
		out.Header.Set(nats.MsgIdHdr, m.ID)
		out.Header.Set("content-type", "application/cloudevents+json")
		if m.TraceParent != "" {
			out.Header.Set("traceparent", HeaderText(m.TraceParent))
		}
	}
	out.Header.Set(headerPosition, string(position))
	return out, nil
}

// OutcomeSubject is the subject of the outcomes of a target.
func OutcomeSubject(target string) string {
	if !events.IsToken(target) {
		target = NoToken
	}
	return OutcomePrefix + target
}

// AppendOutcomes appends messages after an end of the stream, all of them or, if the server takes no batch, some,
// and returns the new end. The error is one of WrongSequence if the stream ends elsewhere: another process has
// published. After another error it is not known what was stored: OutcomesEnd says it.
func (b *Broker) AppendOutcomes(ctx context.Context, end OutcomeEnd, group []OutcomeMessage) (OutcomeEnd, error) {
	msgs := make([]*nats.Msg, len(group))
	for i := range group {
		var err error
		if msgs[i], err = group[i].message(); err != nil {
			return end, err
		}
	}
	last := group[len(group)-1].After
	if len(msgs) > 1 {
		msgs[0].Header.Set(jetstream.ExpectedLastSeqHeader, strconv.FormatUint(end.Sequence, 10))
		once, cancel := context.WithTimeout(ctx, b.RequestTimeout())
		sequence, err := b.PublishBatch(once, msgs)
		cancel()
		if err == nil {
			b.outcomesAt.Store(&last)
			return OutcomeEnd{sequence, last, time.Now()}, nil
		}
		if !errors.Is(err, errBatchRefused) {
			return end, Explain(err, OutcomesStream)
		}
	}
	for i, m := range msgs {
		m.Header.Set(jetstream.ExpectedLastSeqHeader, strconv.FormatUint(end.Sequence, 10))
		once, cancel := context.WithTimeout(ctx, b.RequestTimeout())
		ack, err := b.js.PublishMsg(once, m)
		cancel()
		if err != nil {
			return end, Explain(err, OutcomesStream)
		}
		if !ack.Duplicate {
			end = OutcomeEnd{ack.Sequence, group[i].After, time.Now()}
		}
	}
	if at := end.Position; at.Letters != last.Letters || at.Audit != last.Audit || at.Ledger != last.Ledger {
		return b.AppendOutcomes(ctx, end, []OutcomeMessage{{After: last}}) // the last ones were duplicates
	}
	b.outcomesAt.Store(&last)
	return end, nil
}

// OutcomeItem is something that a source of outcomes has after a position: exactly one of Letter, Record and
// Change is set.
type OutcomeItem struct {
	Letter *DeadLetter
	Record *AuditRecord
	Change *LedgerChange
	Past   *PastOutcome // of Change, instead of its own state
	Stored time.Time    // by the server's clock
	After  OutcomePosition
}

// SeenRevisions are the revisions of the ledger above Floor with an outcome that a process has read.
type SeenRevisions map[uint64]bool

// ReadOutcomeSources reads what is after a position, up to about a number of items, the letters first, and returns the
// position at which it has stopped.
func (b *Broker) ReadOutcomeSources(ctx context.Context, s OutcomeSources, from OutcomePosition, most int, seen SeenRevisions) (items []OutcomeItem, at OutcomePosition, err error) {
	at = from
	at.Missing = slices.Clone(from.Missing)
	if now := time.Now().UTC(); now.Sub(at.Marked) >= floorAge || now.Before(at.Marked) {
		at.Floor, at.Mark, at.Marked = at.Mark, at.Ledger, now
		maps.DeleteFunc(seen, func(revision uint64, _ bool) bool { return revision <= at.Floor })
	}
	add := func(i OutcomeItem) {
		i.After = at
		i.After.Missing = slices.Clone(at.Missing)
		items = append(items, i)
	}
	for d, err := range b.ReadLetters(ctx, at.Letters+1) {
		if err != nil {
			return items, at, err
		}
		if d.Sequence > s.Letters.Last || len(items) >= most {
			break
		}
		at.miss(d.Sequence, s.Letters)
		at.Letters = d.Sequence
		add(OutcomeItem{Letter: &d, Stored: d.Time})
	}
	if len(items) < most {
		at.miss(s.Letters.Last+1, s.Letters)
		at.Letters = max(at.Letters, s.Letters.Last)
	}
	for r, err := range b.ReadAudit(ctx, at.Audit+1) {
		if err != nil {
			return items, at, err
		}
		unread := r.LetterNumber > at.Letters && r.LetterNumber <= s.Letters.Last
		if r.Sequence > s.Audit.Last || len(items) >= most || unread {
			break
		}
		at.Audit = r.Sequence
		if i := slices.Index(at.Missing, r.LetterNumber); i >= 0 && r.Action.Ends() && r.Stage != StageIntent {
			at.Missing = slices.Delete(at.Missing, i, i+1)
			if r.Letter != nil {
				d := *r.Letter
				d.Body = r.Body
				add(OutcomeItem{Letter: &d, Stored: d.Time})
			}
		}
		add(OutcomeItem{Record: &r, Stored: r.Stored})
	}
	for raw, err := range b.read(ctx, "KV_"+LedgerBucket, "", at.Ledger+1) {
		if err != nil {
			return items, at, err
		}
		if raw.Sequence > s.Ledger.Last || len(items) >= most {
			break
		}
		c := ledgerChange(raw)
		at.Ledger = c.Revision
		for i := range c.Entry.Past {
			if past := &c.Entry.Past[i]; past.Revision > at.Floor && !seen[past.Revision] {
				seen[past.Revision] = true
				add(OutcomeItem{Change: &c, Past: past, Stored: past.At})
			}
		}
		if c.Entry.outcome(c.Revision) != nil {
			seen[c.Revision] = true
		}
		add(OutcomeItem{Change: &c, Stored: c.Time})
	}
	if len(items) < most { // entries that have changed since are further on
		at.Ledger = max(at.Ledger, s.Ledger.Last)
	}
	return items, at, nil
}

// miss notes the letters that are gone between the position and a number.
func (p *OutcomePosition) miss(next uint64, s StreamState) {
	first := max(p.Letters, s.Base) + 1
	if next > maxMissing {
		first = max(first, next-maxMissing)
	}
	for n := first; n < next; n++ {
		p.Missing = append(p.Missing, n)
	}
	p.Missing = slices.Delete(p.Missing, 0, max(len(p.Missing)-maxMissing, 0))
}
