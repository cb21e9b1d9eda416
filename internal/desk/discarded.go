package desk

import (
	"context"
	"errors"
	"time"
	"unique"

	"github.com/certpost/certpost/internal/broker"
)

// keptDiscarded is how many discarded letters the index has, those with the highest numbers.
// Older ones can be restored by their number.
const keptDiscarded = 100_000

// Discard is who discarded a letter, when and why.
type Discard struct {
	At       time.Time `json:"at"`
	By       string    `json:"by"` // in the words of broker.Actor.Shown
	Reason   string    `json:"reason"`
	Act      string    `json:"act,omitempty"`       // the act on many letters that it was part of
	TooLarge bool      `json:"too_large,omitempty"` // its event was not kept, so it cannot be restored
}

// discard is a Discard in the index.
type discard struct {
	at              int64
	by, reason, act unique.Handle[string]
	tooLarge        bool
}

func (d *discard) view() *Discard {
	return &Discard{At: fromNanoseconds(d.at), By: d.by.Value(), Reason: d.reason.Value(), Act: d.act.Value(), TooLarge: d.tooLarge}
}

// act returns the act that discarded the letter, "" for none.
func (l *letter) act() string {
	if l.discard == nil {
		return ""
	}
	return l.discard.act.Value()
}

// discarded is the index of discarded letters that can be restored: an index as that of the open
// ones, made from the audit, which keeps them whole. Desk.mu guards it.
type discarded struct {
	letters *letters
	kept    []keptRecord // by sequence
}

// keptRecord is the record that keeps a letter.
type keptRecord struct{ sequence, number uint64 }

func newDiscarded(hash hasher) *discarded {
	return &discarded{letters: newLetters(hash, keptDiscarded)}
}

// newDiscardedLetter returns what the index has of the letter in a record; nil if it is not the
// record of a discarded letter. It parses the certificate: call it without the lock.
func newDiscardedLetter(r *broker.AuditRecord) (broker.DeadLetter, *letter) {
	if r.Action != broker.ActionDiscarded || r.Stage == broker.StageIntent || r.Letter == nil {
		return broker.DeadLetter{}, nil
	}
	d := *r.Letter
	d.Sequence, d.Body = numberOf(r), r.Body
	l := newLetter(&d)
	l.discard = &discard{at: nanoseconds(r.Time), by: unique.Make(r.Shown()), reason: unique.Make(r.Reason), act: unique.Make(r.Act), tooLarge: r.TooLarge}
	d.Body = nil
	return d, l
}

func (x *discarded) put(sequence uint64, d *broker.DeadLetter, l *letter) {
	x.letters.put(d, l)
	x.kept = append(x.kept, keptRecord{sequence, l.number})
}

// expire drops the letters whose records have left the audit: first is its oldest record.
func (x *discarded) expire(first uint64) {
	for len(x.kept) > 0 && x.kept[0].sequence < first {
		x.letters.gone(x.kept[0].number)
		x.kept = x.kept[1:]
	}
}

// of returns the index that has the letters of a query. The lock is held.
func (d *Desk) of(q Query) *letters {
	if q.State == Discarded {
		return d.discarded.letters
	}
	return d.letters
}

// fits returns why letters of a query cannot be selected for a purpose, nil if they can.
func (p Purpose) fits(q Query) error {
	if (p == ForRestore) == (q.State == Discarded) {
		return nil
	}
	if p == ForRestore {
		return invalid("only discarded letters can be restored: leave out the state, or write discarded")
	}
	return invalid("discarded letters cannot be selected for the action %s: restore them first", p)
}

// CheckState returns the refusal to select the letters of a query for a purpose. A restore is
// always of discarded letters, so their state need not be given.
func CheckState(p Purpose, q *Query) error {
	if p == ForRestore && q.State == "" {
		q.State = Discarded
	}
	return p.fits(*q)
}

// RestoreAll puts discarded letters on the list again, under new numbers. done is the number of
// restored letters. Letters that were restored already, or whose delivery has a newer letter on
// the list, are skipped; they cause an error only if no letter was restored.
func (d *Desk) RestoreAll(ctx context.Context, by broker.Actor, frozen Frozen, reason string) (done int, err error) {
	if reason, err = broker.CheckReason(reason, false); err != nil {
		return 0, err
	}
	return d.eachOf(ctx, by, frozen, ForRestore, reason, func(ctx context.Context, by broker.Actor, number uint64) error {
		record, err := d.endOf(ctx, number)
		if err == nil {
			_, err = d.b.Restore(ctx, record, by, reason)
		}
		if taken := (*broker.Taken)(nil); err == nil || errors.As(err, &taken) && taken.Record.Action == broker.ActionRestored && taken.Record.Stage != broker.StageIntent {
			d.mu.Lock()
			d.discarded.letters.gone(number)
			d.mu.Unlock()
		}
		return err
	})
}

// UndoDiscard restores what an act on many letters has discarded. done is the number of restored
// letters; the error is ErrNotFound if none is discarded any more.
func (d *Desk) UndoDiscard(ctx context.Context, by broker.Actor, act string) (done int, err error) {
	if act == "" {
		return 0, invalid("the act whose letters are to be restored is missing")
	}
	f := d.FreezeFor(ForRestore, Query{State: Discarded, Act: act}, nil, true)
	if f.Count == 0 {
		return 0, refused{errors.New("none of the letters is still discarded"), ErrNotFound}
	}
	return d.RestoreAll(ctx, by, f, "undo of the discard")
}
