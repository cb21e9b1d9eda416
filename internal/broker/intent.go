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
	r.Stage = StageIntent
	l := b.link(r, "")
	l.check = func(ctx context.Context) (bool, error) {
		s, err := b.standingOf(ctx, r)
		if err != nil {
			return false, err
		}
		if r.Action == ActionRestored {
			return true, b.restorable(s, r)
		}
		if s.end != nil {
			return false, &Taken{*s.end}
		}
		if b.alive(s) && (r.Run == "" || s.intent.Run != r.Run) {
			return false, &Taken{*s.intent}
		}
		return true, nil
	}
	err := b.appendAll(ctx, []*link{l})
	if taken := (*Taken)(nil); errors.As(err, &taken) {
		return taken
	}
	return err
}

// notEnded is the check that a letter's end is recorded once. A delivery may
// succeed before the replay that brought it has recorded itself: then there are both,
// and they say the same.
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
		return err == nil && s.end == nil && !b.alive(s), err
	}
}

// standing is what the audit says of one letter: the newest record of each kind.
type standing struct {
	end, intent, failed, restored *AuditRecord
}

// alive reports an intent whose owner may still be at work.
func (b *Broker) alive(s standing) bool {
	if s.intent == nil || time.Since(s.intent.Time) >= b.claim {
		return false
	}
	for _, after := range []*AuditRecord{s.end, s.failed, s.restored} {
		if after != nil && after.Sequence > s.intent.Sequence {
			return false
		}
	}
	return true
}

// ErrNotDiscarded says that only a discarded letter can be restored.
var ErrNotDiscarded = errors.New("is not a discarded dead letter")

func (b *Broker) restorable(s standing, r AuditRecord) error {
	switch {
	case s.end == nil || s.end.Action != ActionDiscarded:
		return fmt.Errorf("number %d %w", r.LetterNumber, ErrNotDiscarded)
	case s.restored != nil:
		return &Taken{*s.restored}
	case b.alive(s):
		return &Taken{*s.intent}
	}
	return nil
}

// standingOf reads what the audit says of a letter, from the stream's leader: with
// the chain's head known, nothing can be added to it unnoticed.
func (b *Broker) standingOf(ctx context.Context, about AuditRecord) (standing, error) {
	var s standing
	place := "." + auditPlace(about)
	newest, err := b.lastRecord(ctx, "*"+place)
	if err != nil || newest == nil {
		return s, err
	}
	if newest.LetterNumber == about.LetterNumber && about.Action != ActionRestored {
		switch {
		case newest.Stage == StageIntent && newest.Action != ActionRestored:
			s.intent = newest // there would be none behind an end
			return s, nil
		case newest.Stage != StageIntent && newest.Action.Ends():
			s.end = newest
			return s, nil
		}
	}
	kinds := map[string]**AuditRecord{string(StageIntent): &s.intent, string(ActionFailed): &s.failed, string(ActionRestored): &s.restored}
	for kind, field := range kinds {
		if *field, err = b.lastAbout(ctx, kind+place, about.LetterNumber); err != nil {
			return s, err
		}
	}
	for _, action := range ending {
		end, err := b.lastAbout(ctx, string(action)+place, about.LetterNumber)
		if err != nil {
			return s, err
		}
		if end != nil && (s.end == nil || end.Sequence > s.end.Sequence) {
			s.end = end
		}
	}
	return s, nil
}

func (b *Broker) lastAbout(ctx context.Context, filter string, number uint64) (*AuditRecord, error) {
	r, err := b.lastRecord(ctx, filter)
	if err != nil || r == nil || r.LetterNumber != number {
		return nil, err
	}
	return r, nil
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
