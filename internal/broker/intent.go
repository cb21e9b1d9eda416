package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// claimLife is how long an intent without an outcome keeps others from acting on
// the letter. Who is killed in between has left a letter too many by then, and
// anybody may take the action up.
const claimLife = 30 * time.Second

// Taken says that somebody else was faster: a letter has ended, or somebody is
// acting on it right now.
type Taken struct {
	Record AuditRecord // the first one's
}

func (t *Taken) Error() string {
	r, done := t.Record, "was "+string(t.Record.Action)
	if r.Stage == StageIntent {
		done = "is being " + string(r.Action)
	}
	by := r.Name
	if by == "" {
		by = "somebody"
	}
	return fmt.Sprintf("dead letter %d %s by %s at %s", r.LetterNumber, done, by, r.Time.UTC().Format("2006-01-02 15:04:05 UTC"))
}

// Begin claims a letter by recording an intent: nobody else's is recorded for as
// long as this one lives, and none at all once the letter has ended. The error is a
// *Taken for who comes second. What belongs to the same run is never second.
func (b *Broker) Begin(ctx context.Context, r AuditRecord) error {
	_, err := b.claimFor(ctx, r)
	return err
}

// claim is what who has a letter may do, and until when.
type claim struct {
	intent AuditRecord
	// until is by this process's clock, and counted from before the intent was written:
	// nobody takes the letter over earlier, whatever the clocks of others say.
	until time.Time
}

// claimReserve is the part of a claim's life that is left for what is on its way to
// the server when the owner's time is over.
const claimReserve = 6

// claimFor is Begin, for who goes on to act.
func (b *Broker) claimFor(ctx context.Context, r AuditRecord) (claim, error) {
	r.Stage = StageIntent
	l := b.link(r, "")
	mine := claim{intent: l.record, until: time.Now().Add(b.cfg.ClaimLife - b.cfg.ClaimLife/claimReserve)}
	l.check = func(ctx context.Context) (bool, error) {
		s, err := b.standingOf(ctx, r)
		if err != nil || s.intent != nil && s.intent.is(mine.intent) {
			return false, err // stored by an earlier try, whose acknowledgement got lost
		}
		if r.Action == ActionRestored {
			return true, b.restorable(ctx, s, r)
		}
		if s.end != nil {
			return false, &Taken{*s.end}
		}
		alive, err := b.alive(ctx, s)
		if alive && (r.Run == "" || s.intent.Run != r.Run) {
			return false, &Taken{*s.intent}
		}
		return err == nil, err
	}
	return mine, asTaken(b.appendAll(ctx, []*link{l}))
}

// asTaken leaves of an error that somebody was faster nothing but that.
func asTaken(err error) error {
	if taken := (*Taken)(nil); errors.As(err, &taken) {
		return taken
	}
	return err
}

// is reports whether two records are the same one: before it was written, and read.
func (r *AuditRecord) is(other AuditRecord) bool {
	return r.Time.Equal(other.Time) && r.Actor == other.Actor && r.Action == other.Action && r.Stage == other.Stage &&
		r.LetterNumber == other.LetterNumber && r.Run == other.Run
}

// conclude records what came of a claim. The error is a *Taken when the letter has
// ended otherwise meanwhile: the claim's time was over, and somebody took the letter
// up. A delivery may succeed before the replay that brought it has recorded itself:
// then there are both ends, and they say the same.
func (b *Broker) conclude(ctx context.Context, c claim, r AuditRecord) error {
	r.Stage = StageOutcome
	l := b.link(r, "")
	l.check = func(ctx context.Context) (bool, error) {
		s, err := b.standingOf(ctx, r)
		switch {
		case err != nil:
			return false, err
		case s.end != nil && (s.end.is(l.record) || r.Run != "" && s.end.Run == r.Run && s.end.Action == r.Action):
			return false, nil
		case s.end != nil && (s.end.Action != ActionDelivered || r.Action != ActionReplayed):
			return false, &Taken{*s.end}
		case r.Action == ActionDiscarded && s.intent != nil && !s.intent.is(c.intent):
			return false, &Taken{*s.intent} // nothing was done yet, and the letter is somebody else's
		}
		return true, nil
	}
	return asTaken(b.appendAll(ctx, []*link{l}))
}

// notEnded is the check that a letter's end is recorded once.
func (b *Broker) notEnded(r AuditRecord) func(context.Context) (bool, error) {
	return func(ctx context.Context) (bool, error) {
		s, err := b.standingOf(ctx, r)
		return err == nil && (s.end == nil || s.end.Action == ActionDelivered && r.Action == ActionReplayed), err
	}
}

// untouched is the check that nobody has acted on a letter, or is about to.
func (b *Broker) untouched(r AuditRecord) func(context.Context) (bool, error) {
	return func(ctx context.Context) (bool, error) {
		s, err := b.standingOf(ctx, r)
		if err != nil || s.end != nil {
			return false, err
		}
		alive, err := b.alive(ctx, s)
		return err == nil && !alive, err
	}
}

// standing is what the audit says of one letter: the newest record of each kind.
type standing struct {
	end, intent, failed, restored *AuditRecord
}

// alive reports an intent whose owner may still be at work. Both moments are the
// server's: processes whose clocks differ agree on it.
func (b *Broker) alive(ctx context.Context, s standing) (bool, error) {
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

// ErrNotDiscarded says that only a discarded letter can be restored.
var ErrNotDiscarded = errors.New("is not that of a discarded dead letter")

func (b *Broker) restorable(ctx context.Context, s standing, r AuditRecord) error {
	switch {
	case s.end == nil || s.end.Action != ActionDiscarded:
		return fmt.Errorf("number %d %w", r.LetterNumber, ErrNotDiscarded)
	case s.restored != nil:
		return &Taken{*s.restored}
	}
	alive, err := b.alive(ctx, s)
	if alive {
		return &Taken{*s.intent}
	}
	return err
}

// standingOf reads what the audit says of a letter, from the stream's leader: with
// the chain's head known, nothing can be added to it unnoticed.
func (b *Broker) standingOf(ctx context.Context, about AuditRecord) (standing, error) {
	var s standing
	place := "*." + auditPlace(about)
	newest, err := b.lastRecord(ctx, place)
	if err != nil || newest == nil {
		return s, err
	}
	restoring := about.Action == ActionRestored
	switch {
	case newest.LetterNumber == about.LetterNumber && newest.Stage == StageIntent && newest.Action != ActionRestored && !restoring:
		s.intent = newest // there would be none behind an end
		return s, nil
	case newest.LetterNumber == about.LetterNumber && newest.Stage != StageIntent && newest.Action.Ends() && !restoring:
		s.end = newest
	default: // it is about another letter of the delivery, or not all there is
		if s, err = b.allOf(ctx, place, about.LetterNumber); err != nil {
			return s, err
		}
	}
	if s.end == nil || restoring {
		return s, nil
	}
	// Numbers begin anew with the stream of letters: what ended before there was this
	// stream was another letter.
	letters, err := b.js.Stream(ctx, DeadLettersStream)
	if err != nil {
		return s, fmt.Errorf("stream %s: %w", DeadLettersStream, err)
	}
	if s.end.Stored.Before(letters.CachedInfo().Created.Add(-time.Second)) {
		s.end = nil
	}
	return s, nil
}

// allOf reads all records about one letter.
func (b *Broker) allOf(ctx context.Context, place string, number uint64) (s standing, err error) {
	for raw, err := range b.read(ctx, AuditStream, auditPrefix+place, 1) {
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

// lastRecord is the newest one under a subject, nil when there is none.
func (b *Broker) lastRecord(ctx context.Context, filter string) (*AuditRecord, error) {
	raw, err := b.leaderGet(ctx, AuditStream, getRequest{Last: auditPrefix + filter})
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("what the audit says of dead letter: %w", err)
	}
	r := readRecord(raw)
	return &r, nil
}
