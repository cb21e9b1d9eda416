package broker

import (
	"bytes"
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

// actTimeout bounds what is brought to its end although its caller is gone.
const actTimeout = 30 * time.Second

// Detached is the context of what takes several steps, of which some are worse than none.
func Detached(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), actTimeout)
}

// publishPatience bounds one try to publish a replay; the acknowledgement may have got
// lost, and the message id makes another try harmless.
const publishPatience = 5 * time.Second

// ErrUncertain says that a letter's mail may have been sent, which needs a second
// yes.
var ErrUncertain = errors.New("the mail may have been sent already: look for its Message-ID at the relay, then replay it with a second yes")

// Replay says how a dead letter is to be replayed.
type Replay struct {
	Uncertain bool // also what may have been sent: the second yes
	Force     bool // also what the ledger says was sent
	Reason    string
	Run       string // the replay run it is part of
	// Target and Lane name another target; Recipients are the only ones to get the
	// mail. Who asks for either has to be permitted to.
	Target, Lane string
	Recipients   []string
}

// Replay publishes a dead letter's event again and takes the letter off the list:
// intent, publication, outcome, removal, in this order. An end in between leaves a
// letter too many, never one too few, and beginning anew is harmless. The error is
// a *Taken when somebody else was faster, a *Held, or ErrUncertain.
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
		b.abandon(ctx, r, err)
		return err
	}
	b.reached(PointRepublished)
	r.Letter = &d
	if strings.HasPrefix(m.Subject, DeliveryPrefix) {
		r.Delivery = ack.Sequence
	}
	if err := b.conclude(ctx, c, r); err != nil {
		return err
	}
	b.reached(PointConcluded)
	return b.RemoveLetter(ctx, d.Sequence)
}

// publishUntil publishes a message that has an id, while a claim lives: afterwards
// somebody else may act.
func (b *Broker) publishUntil(ctx context.Context, m *nats.Msg, until time.Time) (*jetstream.PubAck, error) {
	ctx, cancel := context.WithDeadline(context.WithoutCancel(ctx), until)
	defer cancel()
	for {
		try, cancel := context.WithTimeout(ctx, publishPatience)
		ack, err := b.js.PublishMsg(try, m)
		cancel()
		if lost := errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout); !lost || ctx.Err() != nil {
			return ack, err
		}
	}
}

// replayOf is the message that replays a letter.
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
	switch {
	case how.Target != "":
		if !events.IsToken(how.Target) || !events.IsToken(how.Lane) {
			return nil, fmt.Errorf("dead letter %d: target %q in lane %q is none that there can be", d.Sequence, how.Target, how.Lane)
		}
		if err := b.knownLane(ctx, how.Lane); err != nil {
			return nil, err
		}
		m.Subject = DeliveryPrefix + how.Lane + "." + how.Target
		m.Header.Set(nats.MsgIdHdr, d.Token+"/"+how.Target+"/letter-"+strconv.FormatUint(d.Sequence, 10))
		m.Header.Set(HeaderTarget, how.Target)
		m.Header.Set(HeaderLane, how.Lane)
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
	if d.TraceParent != "" {
		m.Header.Set("traceparent", HeaderText(d.TraceParent))
	}
	return m, nil
}

// Unreplayable says why a letter cannot be replayed; "" when it can.
func (d *DeadLetter) Unreplayable() string {
	var body struct {
		Withheld string `json:"withheld"`
	}
	if bytes.Contains(d.Body, []byte(`"withheld"`)) && json.Unmarshal(d.Body, &body) == nil && body.Withheld != "" {
		return "it has no event (" + body.Withheld + "); publish the event anew, then discard the letter"
	}
	if d.ReplaySubject == "" {
		return "it does not say where to (no " + HeaderReplaySubject + " header)"
	}
	if !isEventSubject(d.ReplaySubject) && !strings.HasPrefix(d.ReplaySubject, DeliveryPrefix) {
		return "it would go where neither events nor deliveries go, which no letter of Certpost's does"
	}
	return ""
}

// begin claims a letter that is not held for what the record says. Where somebody's
// action on it was cut short behind its outcome, that is brought to its end first.
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

// Complete does what is left to do when a process ended after an outcome was
// recorded and before the letter was removed. Taken up twice it is harmless.
func (b *Broker) Complete(ctx context.Context, d DeadLetter, end AuditRecord) error {
	if end.Stage == StageIntent || end.LetterNumber != d.Sequence {
		return nil
	}
	switch end.Action {
	case ActionDiscarded:
		if err := b.giveUp(ctx, d); err != nil {
			return err
		}
	case ActionReplayed, ActionDelivered:
	default:
		return nil
	}
	return b.RemoveLetter(ctx, d.Sequence)
}

// abandon ends a claim whose action failed, so that the next one need not wait.
func (b *Broker) abandon(ctx context.Context, intent AuditRecord, why error) {
	intent.Action, intent.Stage, intent.Reason = ActionFailed, StageOutcome, why.Error()
	if err := b.Append(ctx, intent); err != nil {
		b.log.Debug().Err(err).Uint64("letter", intent.LetterNumber).Msg("a failure could not be recorded; the letter is free again in a moment")
	}
}

// Discard gives a dead letter up, with a reason. The audit keeps it whole. Errors
// are those of Replay.
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
	if whole, err := json.Marshal(r); err != nil || int64(len(whole)) > b.nc.MaxPayload()-1<<10 { // the hash and headers take their part
		r.Body, r.TooLarge = nil, true
	}
	if err := b.conclude(ctx, c, r); err != nil {
		return err
	}
	b.reached(PointConcluded)
	if err := b.giveUp(ctx, d); err != nil {
		return err
	}
	b.reached(PointGivenUp)
	return b.RemoveLetter(ctx, d.Sequence)
}

// giveUp tells the ledger that a letter was discarded.
func (b *Broker) giveUp(ctx context.Context, d DeadLetter) error {
	return b.amend(ctx, d, func(e *Entry) bool {
		if e.State != StateDead || e.DeadLetter != d.Subject {
			return false
		}
		e.State, e.DeadLetter = StateDiscarded, ""
		return true
	})
}

// amend changes the ledger's entry of a letter's delivery, if there is one and
// change wants it. What a delivery at work writes at the same time counts more.
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

// Restore puts a discarded letter on the list again, from its record, and returns
// its new number. The error is a *Taken when somebody has restored it, or is about
// to, and ErrNotDiscarded when the record is of something else.
func (b *Broker) Restore(ctx context.Context, discarded AuditRecord, by Actor, reason string) (number uint64, err error) {
	if reason, err = CheckReason(reason, false); err != nil {
		return 0, err
	}
	old := discarded.LetterNumber
	switch {
	case discarded.Action != ActionDiscarded || discarded.Stage == StageIntent || discarded.Letter == nil:
		return 0, fmt.Errorf("number %d %w", old, ErrNotDiscarded)
	case discarded.TooLarge:
		return 0, fmt.Errorf("dead letter %d cannot be restored: its event was too large to be kept; publish it anew", old)
	}
	r := AuditRecord{Action: ActionRestored, Actor: by, Reason: reason, Event: discarded.Event, Target: discarded.Target, LetterNumber: old}
	c, err := b.claimFor(ctx, r)
	if err != nil {
		return 0, err
	}
	b.reached(PointIntended)
	d := *discarded.Letter
	d.Body, d.RestoredFrom = discarded.Body, old
	number, err = b.relist(ctx, &d, c.until)
	ctx, cancel := Detached(ctx)
	defer cancel()
	if err != nil {
		b.abandon(ctx, r, err)
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

// relist publishes a restored letter. If it finds itself there, an earlier try was
// cut short.
func (b *Broker) relist(ctx context.Context, d *DeadLetter, until time.Time) (number uint64, err error) {
	ack, err := b.publishUntil(ctx, d.message("restore/"+strconv.FormatUint(d.RestoredFrom, 10)), until)
	var api *jetstream.APIError
	if errors.As(err, &api) && api.ErrorCode == codeStoreFailed {
		raw, gerr := b.leaderGet(ctx, DeadLettersStream, getRequest{Last: d.Subject})
		if gerr == nil {
			there := parseDeadLetter(raw)
			if there.RestoredFrom == d.RestoredFrom {
				return there.Sequence, nil
			}
			return 0, fmt.Errorf("dead letter %d cannot be restored: a newer one of the same delivery, number %d, is on the list", d.RestoredFrom, there.Sequence)
		}
	}
	if err != nil {
		return 0, fmt.Errorf("restore dead letter %d: %w", d.RestoredFrom, err)
	}
	return ack.Sequence, nil
}

// Discarded finds the record of a discarded letter, to restore it.
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

// RecordAt reads one record of the audit by its sequence.
func (b *Broker) RecordAt(ctx context.Context, sequence uint64) (AuditRecord, error) {
	raw, err := b.at(ctx, AuditStream, sequence)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return AuditRecord{}, fmt.Errorf("there is no record %d in the audit", sequence)
	}
	if err != nil {
		return AuditRecord{}, b.unread(ctx, AuditStream, err)
	}
	return readRecord(raw), nil
}

// gone reports whether a letter is certainly not on the list any more.
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

// TakeOff takes a letter off the list whose end the audit has: whoever recorded it
// did not live to remove it. A letter without an end stays.
func (b *Broker) TakeOff(ctx context.Context, number uint64) error {
	d, err := b.DeadLetter(ctx, number)
	if errors.Is(err, ErrNoLetter) {
		return nil
	}
	if err != nil {
		return err
	}
	s, err := b.standingOf(ctx, AuditRecord{Event: d.Event, Target: d.Target, LetterNumber: number})
	if err != nil || s.end == nil {
		return err
	}
	return b.Complete(ctx, d, *s.end)
}
