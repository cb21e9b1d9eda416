package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// claimLife is how long an intent without an outcome keeps others from acting on the
// letter. If a process is killed in between, the letter stays on the list, and once the
// claim has expired any operator may act on it again.
const claimLife = 30 * time.Second

// Taken is the error for a letter that has ended, or that another action has claimed.
type Taken struct {
	Record AuditRecord // the recorded end, or the intent of the other action
}

func (t *Taken) Error() string {
	r, done := t.Record, "was "+string(t.Record.Action)
	if r.Stage == StageIntent {
		done = "is being " + string(r.Action)
	}
	by := r.Name
	if by == "" {
		by = "an unknown user"
	}
	return fmt.Sprintf("dead letter %d %s by %s at %s", r.LetterNumber, done, by, r.Time.UTC().Format("2006-01-02 15:04:05 UTC"))
}

// Begin claims a letter by recording an intent: no other intent is recorded while this one
// lives, and none after the letter has ended except to restore it. The second caller gets a
// *Taken. Intents of the same replay run do not exclude each other.
func (b *Broker) Begin(ctx context.Context, r AuditRecord) error {
	_, err := b.claimFor(ctx, r)
	return err
}

// claim permits its owner to act on a letter until a time.
type claim struct {
	intent AuditRecord
	// until is by this process's clock, counted from before the intent was written. It is
	// over before another process may take the letter over, whatever the other clocks say.
	until time.Time
}

// claimReserve: the last 1/claimReserve of a claim's life is left for requests that are
// still on their way to the server when the owner's time ends.
const claimReserve = 6

// claimFor is Begin for a caller that goes on to act; it returns the claim.
func (b *Broker) claimFor(ctx context.Context, r AuditRecord) (claim, error) {
	r.Stage = StageIntent
	l := b.link(r, "")
	mine := claim{intent: l.record, until: time.Now().Add(b.cfg.ClaimLife - b.cfg.ClaimLife/claimReserve)}
	l.check = func(ctx context.Context) (bool, error) {
		s, err := b.auditStateOf(ctx, r)
		if err != nil || s.intent != nil && s.intent.sameAs(mine.intent) {
			return false, err // stored by an earlier attempt whose acknowledgement was lost
		}
		if r.Action == ActionRestored {
			return true, b.restorable(ctx, s, r)
		}
		if s.end != nil {
			return false, &Taken{*s.end}
		}
		alive, err := b.claimActive(ctx, s)
		if alive && (r.Run == "" || s.intent.Run != r.Run) {
			return false, &Taken{*s.intent}
		}
		return err == nil, err
	}
	return mine, asTaken(b.appendAll(ctx, []*link{l}))
}

// asTaken returns the *Taken within an error, without the text around it; other errors as
// they are.
func asTaken(err error) error {
	if taken := (*Taken)(nil); errors.As(err, &taken) {
		return taken
	}
	return err
}

// sameAs reports whether two records are the same, one of them possibly read from the
// stream. It compares only fields that writing and reading keep.
func (r *AuditRecord) sameAs(other AuditRecord) bool {
	return r.Time.Equal(other.Time) && r.Actor == other.Actor && r.Action == other.Action && r.Stage == other.Stage &&
		r.LetterNumber == other.LetterNumber && r.Run == other.Run
}

// recordOutcome records the outcome of a claimed action. The error is a *Taken if the claim
// expired and another action took the letter over. A delivery may succeed before the replay
// that caused it has recorded its outcome: then both ends are recorded, and they agree.
func (b *Broker) recordOutcome(ctx context.Context, c claim, r AuditRecord) error {
	r.Stage = StageOutcome
	l := b.link(r, "")
	l.check = func(ctx context.Context) (bool, error) {
		s, err := b.auditStateOf(ctx, r)
		switch {
		case err != nil:
			return false, err
		case s.end != nil && (s.end.sameAs(l.record) || r.Run != "" && s.end.Run == r.Run && s.end.Action == r.Action):
			return false, nil
		case s.end != nil && (s.end.Action != ActionDelivered || r.Action != ActionReplayed):
			return false, &Taken{*s.end}
		case r.Action == ActionDiscarded && s.intent != nil && !s.intent.sameAs(c.intent):
			return false, &Taken{*s.intent} // nothing was done yet, and the letter has another claim
		}
		return true, nil
	}
	return asTaken(b.appendAll(ctx, []*link{l}))
}

// notEnded returns a check that permits a letter's end only if none is recorded. A replay is
// permitted after a recorded delivery: it may have caused it.
func (b *Broker) notEnded(r AuditRecord) func(context.Context) (bool, error) {
	return func(ctx context.Context) (bool, error) {
		s, err := b.auditStateOf(ctx, r)
		return err == nil && (s.end == nil || s.end.Action == ActionDelivered && r.Action == ActionReplayed), err
	}
}

// notEndedOrClaimed returns a check that a letter has no recorded end and no active claim.
func (b *Broker) notEndedOrClaimed(r AuditRecord) func(context.Context) (bool, error) {
	return func(ctx context.Context) (bool, error) {
		s, err := b.auditStateOf(ctx, r)
		if err != nil || s.end != nil {
			return false, err
		}
		alive, err := b.claimActive(ctx, s)
		return err == nil && !alive, err
	}
}

// auditState is what the audit says of one letter: the newest record of each kind.
type auditState struct {
	end, intent, failed, restored *AuditRecord
}

// claimActive reports whether the owner of the last intent may still be acting. Both times
// are the server's, so processes with different clocks agree.
func (b *Broker) claimActive(ctx context.Context, s auditState) (bool, error) {
	if s.intent == nil {
		return false, nil
	}
	for _, after := range []*AuditRecord{s.end, s.failed, s.restored} {
		if after != nil && after.Sequence > s.intent.Sequence {
			return false, nil
		}
	}
	stream, err := b.js.Stream(ctx, AuditStream)
	if err != nil {
		return false, fmt.Errorf("stream %s: %w", AuditStream, err)
	}
	return stream.CachedInfo().TimeStamp.Sub(s.intent.Stored) < b.cfg.ClaimLife, nil
}

// ErrNotDiscarded is returned for a number to restore that is not a discarded letter's.
var ErrNotDiscarded = errors.New("is not a discarded dead letter")

// Why a discarded letter cannot be restored.
var (
	ErrTooLarge    = errors.New("its event was too large for the audit")
	ErrNewerLetter = errors.New("a newer letter of the same delivery")
)

// restorable returns why a letter cannot be restored: it was not discarded, it was already
// restored, or another restore is in progress.
func (b *Broker) restorable(ctx context.Context, s auditState, r AuditRecord) error {
	switch {
	case s.end == nil || s.end.Action != ActionDiscarded:
		return fmt.Errorf("number %d %w", r.LetterNumber, ErrNotDiscarded)
	case s.restored != nil:
		return &Taken{*s.restored}
	}
	alive, err := b.claimActive(ctx, s)
	if alive {
		return &Taken{*s.intent}
	}
	return err
}

// auditStateOf reads what the audit says of a letter, from the stream's leader. In a check
// of the chain the head is known, so a record added since then makes the append fail.
func (b *Broker) auditStateOf(ctx context.Context, about AuditRecord) (auditState, error) {
	var s auditState
	filter := "*." + auditSubjectSuffix(about)
	newest, err := b.lastRecord(ctx, filter)
	if err != nil || newest == nil {
		return s, err
	}
	restoring := about.Action == ActionRestored
	switch {
	case newest.LetterNumber == about.LetterNumber && newest.Stage == StageIntent && newest.Action != ActionRestored && !restoring:
		s.intent = newest // no intent follows an end
		return s, nil
	case newest.LetterNumber == about.LetterNumber && newest.Stage != StageIntent && newest.Action.Ends() && !restoring:
		s.end = newest
	default: // another letter of the delivery, or more records are needed
		if s, err = b.readAuditState(ctx, filter, about.LetterNumber); err != nil {
			return s, err
		}
	}
	if s.end == nil || restoring {
		return s, nil
	}
	// Numbers restart when the stream of letters is recreated: an end recorded before this
	// stream existed belongs to another letter.
	letters, err := b.js.Stream(ctx, DeadLettersStream)
	if err != nil {
		return s, fmt.Errorf("stream %s: %w", DeadLettersStream, err)
	}
	if s.end.Stored.Before(letters.CachedInfo().Created.Add(-time.Second)) {
		s.end = nil
	}
	return s, nil
}

// readAuditState reads the newest record of each kind about one letter.
func (b *Broker) readAuditState(ctx context.Context, filter string, number uint64) (s auditState, err error) {
	for raw, err := range b.read(ctx, AuditStream, auditPrefix+filter, 1) {
		if err != nil {
			return s, err
		}
		r := readRecord(raw)
		switch {
		case r.LetterNumber != number:
		case r.Stage == StageIntent:
			s.intent = &r
		case r.Action.Ends():
			s.end = &r
		case r.Action == ActionFailed:
			s.failed = &r
		case r.Action == ActionRestored:
			s.restored = &r
		}
	}
	return s, nil
}

// lastRecord returns the newest record whose subject matches; nil if there is none.
func (b *Broker) lastRecord(ctx context.Context, filter string) (*AuditRecord, error) {
	raw, err := b.leaderGet(ctx, AuditStream, getRequest{Last: auditPrefix + filter})
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the audit of the dead letter: %w", err)
	}
	r := readRecord(raw)
	return &r, nil
}
