package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/verdict"
)

// actTimeout bounds the steps that are completed after the caller's context has ended.
const actTimeout = 30 * time.Second

// Detached returns a context for multi-step actions that must not stop half-way. It
// outlives the caller's context and ends after actTimeout.
func Detached(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), actTimeout)
}

// ErrUncertain is returned for a letter whose mail may have been sent, unless
// Replay.Uncertain confirms the replay.
var ErrUncertain = errors.New("the mail may already have been sent: search the relay's log for its Message-ID, then replay with explicit confirmation")

// Replay says how to replay a dead letter.
type Replay struct {
	Uncertain bool // confirms a replay although the mail may have been sent
	Force     bool // send again even if the ledger says sent
	Reason    string
	Run       string // the replay run it is part of, if any
	// Target and Lane name another target; Recipients, if set, are the only ones to get the
	// mail. The caller checks the permission to change either.
	Target, Lane string
	Recipients   []string
}

// Replay publishes a dead letter's event again and takes the letter off the list, in this
// order: intent, publication, outcome, removal. If the process ends in between, the letter
// may stay on the list although it was replayed, but it is never lost, and replaying it
// again is harmless. The error is a *Taken if another action on the letter came first, a
// *Held, or ErrUncertain.
func (b *Broker) Replay(ctx context.Context, d DeadLetter, by Actor, how Replay) error {
	var err error
	if how.Reason, err = CheckReason(how.Reason, false); err != nil {
		return err
	}
	m, err := b.replayOf(ctx, d, how)
	if err != nil {
		return err
	}
	r := AuditRecord{Action: ActionReplayed, Actor: by, Reason: how.Reason, Run: how.Run, Event: d.Event, Target: d.Target,
		LetterNumber: d.Sequence, NewTarget: how.Target, NewRecipients: how.Recipients}
	c, err := b.begin(ctx, d, r)
	if err != nil {
		return err
	}
	ack, err := b.publishUntil(ctx, m, c.until)
	ctx, cancel := Detached(ctx)
	defer cancel()
	if err != nil {
		err = fmt.Errorf("replay dead letter %d to %s: %w", d.Sequence, m.Subject, err)
		b.recordFailure(ctx, r, err)
		return err
	}
	b.reached(PointRepublished)
	r.Letter = &d
	if strings.HasPrefix(m.Subject, DeliveryPrefix) {
		r.Delivery = ack.Sequence
	}
	if err := b.recordOutcome(ctx, c, r); err != nil {
		return err
	}
	b.reached(PointConcluded)
	return b.RemoveLetter(ctx, d.Sequence)
}

// publishUntil publishes a message that has an id, and retries until the claim ends: after
// that another process may act on the letter.
func (b *Broker) publishUntil(ctx context.Context, m *nats.Msg, until time.Time) (ack *jetstream.PubAck, err error) {
	ctx, cancel := context.WithDeadline(context.WithoutCancel(ctx), until)
	defer cancel()
	// If an acknowledgement was lost, the message id makes another publication harmless.
	lost := func(err error) bool {
		return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout)
	}
	err = b.PersistUnless(ctx, func(err error) bool { return !lost(err) }, func(ctx context.Context) error {
		ack, err = b.js.PublishMsg(ctx, m)
		return err
	})
	stream := EventsStream
	if strings.HasPrefix(m.Subject, DeliveryPrefix) {
		stream = DeliveriesStream
	}
	return ack, Explain(err, stream)
}

// replayOf builds the message that replays a letter.
func (b *Broker) replayOf(ctx context.Context, d DeadLetter, how Replay) (*nats.Msg, error) {
	if why := d.Unreplayable(); why != "" {
		return nil, fmt.Errorf("dead letter %d cannot be replayed: %s", d.Sequence, why)
	}
	if d.Certainty == verdict.MaybeSent && !how.Uncertain {
		return nil, fmt.Errorf("dead letter %d: %w", d.Sequence, ErrUncertain)
	}
	m := nats.NewMsg(d.ReplaySubject)
	m.Data = d.Body
	m.Header.Set(HeaderEventID, HeaderText(d.Event))
	if d.Lane != "" || how.Target != "" { // a delivery: the success is recorded as that of this replay
		m.Header.Set(HeaderLetter, strconv.FormatUint(d.Sequence, 10))
	}
	switch {
	case how.Target != "":
		if !events.IsToken(how.Target) || !events.IsToken(how.Lane) {
			return nil, fmt.Errorf("dead letter %d: invalid target %q or lane %q", d.Sequence, how.Target, how.Lane)
		}
		if err := b.knownLane(ctx, how.Lane); err != nil {
			return nil, err
		}
		m.Subject = DeliverySubject(how.Lane, how.Target)
		m.Header.Set(nats.MsgIdHdr, d.Token+"/"+how.Target+"/letter-"+strconv.FormatUint(d.Sequence, 10))
		m.Header.Set(HeaderTarget, how.Target)
		m.Header.Set(HeaderLane, how.Lane)
		m.Header.Set(HeaderGeneration, strconv.Itoa(d.Generation+1))
	case d.Lane != "":
		gen := strconv.Itoa(d.Generation + 1)
		m.Header.Set(nats.MsgIdHdr, d.Token+"/"+d.Target+"/"+gen)
		m.Header.Set(HeaderTarget, HeaderText(d.Target))
		m.Header.Set(HeaderLane, d.Lane)
		m.Header.Set(HeaderGeneration, gen)
	default:
		m.Header.Set(nats.MsgIdHdr, "letter-"+strconv.FormatUint(d.Sequence, 10))
	}
	if how.Recipients != nil {
		m.Header.Set(HeaderRecipients, HeaderText(strings.Join(how.Recipients, ", ")))
	}
	if how.Force {
		m.Header.Set(HeaderForce, "true")
	}
	if d.EventSubject != "" && !isEventSubject(m.Subject) {
		m.Header.Set(HeaderEventSubject, HeaderText(d.EventSubject)) // the source's limits hold for a replay too
	}
	if d.Published.Known() {
		m.Header.Set(HeaderPublication, d.Published.String())
	}
	if d.TraceParent != "" {
		m.Header.Set("traceparent", HeaderText(d.TraceParent))
	}
	return m, nil
}

// Unreplayable returns the reason why a letter cannot be replayed; "" if it can.
func (d *DeadLetter) Unreplayable() string {
	if why := WithheldBecause(d.Body); why != "" {
		return "its event was not stored (" + why + "); publish the event again, then discard the letter"
	}
	if d.ReplaySubject == "" {
		return "its " + HeaderReplaySubject + " header is missing"
	}
	if !isEventSubject(d.ReplaySubject) && !strings.HasPrefix(d.ReplaySubject, DeliveryPrefix) {
		return "its " + HeaderReplaySubject + " is not a subject of events or deliveries, so Certpost did not write this letter"
	}
	return ""
}

// begin claims a letter for the action in r; *Held if the letter is held. If an earlier
// action recorded its outcome but did not remove the letter, begin completes that action
// before it returns the *Taken.
func (b *Broker) begin(ctx context.Context, d DeadLetter, r AuditRecord) (claim, error) {
	hold, err := b.holdOf(ctx, d.Sequence)
	if err != nil {
		return claim{}, err
	}
	if hold != nil {
		return claim{}, &Held{*hold}
	}
	c, err := b.claimFor(ctx, r)
	if taken := (*Taken)(nil); errors.As(err, &taken) {
		if cerr := b.Complete(ctx, d, taken.Record); cerr != nil {
			b.log.Warn().Err(cerr).Uint64("letter", d.Sequence).Msg("a dead letter that was acted on is still on the list")
		}
	}
	if err == nil {
		b.reached(PointIntended)
	}
	return c, err
}

// Complete does the remaining steps of an action whose process ended after it recorded the
// outcome and before it removed the letter. Calling it twice is harmless.
func (b *Broker) Complete(ctx context.Context, d DeadLetter, end AuditRecord) error {
	if end.Stage == StageIntent || end.LetterNumber != d.Sequence {
		return nil
	}
	switch end.Action {
	case ActionDiscarded:
		if err := b.markDiscarded(ctx, d); err != nil {
			return err
		}
	case ActionReplayed, ActionDelivered:
	default:
		return nil
	}
	return b.RemoveLetter(ctx, d.Sequence)
}

// recordFailure ends a claim whose action failed, so that the next action need not wait for
// the claim to expire.
func (b *Broker) recordFailure(ctx context.Context, intent AuditRecord, why error) {
	intent.Action, intent.Stage, intent.Reason = ActionFailed, StageOutcome, why.Error()
	if err := b.Append(ctx, intent); err != nil {
		b.log.Debug().Err(err).Uint64("letter", intent.LetterNumber).Msg("cannot record that an action on a dead letter failed; the letter is free when its claim expires")
	}
}

// Discard discards a dead letter, with a reason. The audit record keeps the letter and its
// event, or the letter only if the event is too large. Errors are those of Replay.
func (b *Broker) Discard(ctx context.Context, d DeadLetter, by Actor, reason string) error {
	reason, err := CheckReason(reason, true)
	if err != nil {
		return err
	}
	r := AuditRecord{Action: ActionDiscarded, Actor: by, Reason: reason, Event: d.Event, Target: d.Target, LetterNumber: d.Sequence}
	c, err := b.begin(ctx, d, r)
	if err != nil {
		return err
	}
	ctx, cancel := Detached(ctx)
	defer cancel()
	r.Letter, r.Body = &d, d.Body
	if whole, err := json.Marshal(r); err != nil || int64(len(whole)) > b.nc.MaxPayload()-1<<10 { // leaves room for the hash and the headers
		r.Body, r.TooLarge = nil, true
	}
	if err := b.recordOutcome(ctx, c, r); err != nil {
		return err
	}
	b.reached(PointConcluded)
	if err := b.markDiscarded(ctx, d); err != nil {
		return err
	}
	b.reached(PointGivenUp)
	return b.RemoveLetter(ctx, d.Sequence)
}

// markDiscarded records in the ledger that a letter was discarded.
func (b *Broker) markDiscarded(ctx context.Context, d DeadLetter) error {
	return b.amend(ctx, d, func(e *Entry) bool {
		if e.State != StateDead || e.DeadLetter != d.Subject {
			return false
		}
		e.State, e.DeadLetter = StateDiscarded, ""
		return true
	})
}

// amend changes the ledger entry of a letter's delivery if there is one and change returns
// true. If a running attempt writes the entry at the same time, that write wins.
func (b *Broker) amend(ctx context.Context, d DeadLetter, change func(*Entry) bool) error {
	if !events.IsToken(d.Target) {
		return nil // never had an entry
	}
	l, err := b.OpenLedger(ctx)
	if err != nil {
		return err
	}
	key := LedgerKey(d.Target, d.Token)
	entry, revision, err := l.Get(ctx, key)
	if errors.Is(err, ErrNoEntry) || err == nil && !change(&entry) {
		return nil
	}
	if err == nil {
		_, err = l.Put(ctx, key, entry, revision)
	}
	if errors.Is(err, ErrClaimLost) {
		return nil
	}
	return err
}

// Restore publishes a discarded letter again, from its audit record, and returns its new
// number. The error is a *Taken if the letter was or is being restored, and ErrNotDiscarded
// if the record is not that of a discarded letter.
func (b *Broker) Restore(ctx context.Context, discarded AuditRecord, by Actor, reason string) (number uint64, err error) {
	if reason, err = CheckReason(reason, false); err != nil {
		return 0, err
	}
	old := discarded.LetterNumber
	switch {
	case discarded.Action != ActionDiscarded || discarded.Stage == StageIntent || discarded.Letter == nil:
		return 0, fmt.Errorf("number %d %w", old, ErrNotDiscarded)
	case discarded.TooLarge:
		return 0, fmt.Errorf("dead letter %d cannot be restored: %w; publish the event again", old, ErrTooLarge)
	}
	r := AuditRecord{Action: ActionRestored, Actor: by, Reason: reason, Event: discarded.Event, Target: discarded.Target, LetterNumber: old}
	c, err := b.claimFor(ctx, r)
	if err != nil {
		return 0, err
	}
	b.reached(PointIntended)
	d := *discarded.Letter
	d.Body, d.RestoredFrom = discarded.Body, old
	number, err = b.publishRestored(ctx, &d, c.until)
	ctx, cancel := Detached(ctx)
	defer cancel()
	if err != nil {
		b.recordFailure(ctx, r, err)
		return 0, err
	}
	b.reached(PointRepublished)
	if err := b.amend(ctx, d, func(e *Entry) bool {
		if e.State != StateDiscarded {
			return false
		}
		e.State, e.DeadLetter = StateDead, d.Subject
		return true
	}); err != nil {
		return number, err
	}
	r.Stage, r.NewLetter = StageOutcome, number
	err = b.Append(ctx, r)
	b.reached(PointConcluded)
	return number, err
}

// publishRestored publishes a restored letter. If the stream already has it, an earlier
// attempt was interrupted, and the number of that one is returned.
func (b *Broker) publishRestored(ctx context.Context, d *DeadLetter, until time.Time) (number uint64, err error) {
	ack, err := b.publishUntil(ctx, d.message("restore/"+strconv.FormatUint(d.RestoredFrom, 10)), until)
	var api *jetstream.APIError
	if errors.As(err, &api) && api.ErrorCode == codeStoreFailed {
		raw, gerr := b.leaderGet(ctx, DeadLettersStream, getRequest{Last: d.Subject})
		if gerr == nil {
			there := parseDeadLetter(raw)
			if there.RestoredFrom == d.RestoredFrom {
				return there.Sequence, nil
			}
			return 0, fmt.Errorf("dead letter %d cannot be restored: %w, number %d, is on the list", d.RestoredFrom, ErrNewerLetter, there.Sequence)
		}
	}
	if err != nil {
		return 0, fmt.Errorf("restore dead letter %d: %w", d.RestoredFrom, err)
	}
	return ack.Sequence, nil
}

// Discarded returns the audit record of a discarded letter, for Restore; ErrNotDiscarded if
// there is none.
func (b *Broker) Discarded(ctx context.Context, number uint64) (AuditRecord, error) {
	found := AuditRecord{LetterNumber: number}
	for raw, err := range b.read(ctx, AuditStream, auditPrefix+string(ActionDiscarded)+".>", 1) {
		if err != nil {
			return found, err
		}
		if r := readRecord(raw); r.LetterNumber == number && r.Action == ActionDiscarded {
			found = r
		}
	}
	if found.Sequence == 0 {
		return found, fmt.Errorf("number %d %w", number, ErrNotDiscarded)
	}
	return found, nil
}

// RecordAt returns the audit record with a sequence.
func (b *Broker) RecordAt(ctx context.Context, sequence uint64) (AuditRecord, error) {
	raw, err := b.messageAt(ctx, AuditStream, sequence)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return AuditRecord{}, fmt.Errorf("audit record %d not found", sequence)
	}
	if err != nil {
		return AuditRecord{}, b.readError(ctx, AuditStream, err)
	}
	return readRecord(raw), nil
}

// gone reports whether a letter is no longer in the stream, according to its leader.
func (b *Broker) gone(ctx context.Context, number uint64) (bool, error) {
	_, err := b.leaderGet(ctx, DeadLettersStream, getRequest{Seq: number})
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("dead letter %d: %w", number, err)
	}
	return false, nil
}

// TakeOff removes a letter whose end the audit has: the process that recorded the end was
// killed before it removed the letter. A letter without a recorded end stays.
func (b *Broker) TakeOff(ctx context.Context, number uint64) error {
	d, err := b.DeadLetter(ctx, number)
	if errors.Is(err, ErrNoLetter) {
		return nil
	}
	if err != nil {
		return err
	}
	s, err := b.auditStateOf(ctx, AuditRecord{Event: d.Event, Target: d.Target, LetterNumber: number})
	if err != nil || s.end == nil {
		return err
	}
	return b.Complete(ctx, d, *s.end)
}
