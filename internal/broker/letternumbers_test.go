package broker

import (
	"testing"
)

// A stream of dead letters that is created again assigns no number a second time, also when
// another process does it: the numbers of letters are noted, and the audit has those of
// letters that were acted on.
//
// Fault: the stream of letters is created again. Result: no number is used twice.
func TestLetterNumbersAreNotUsedTwice(t *testing.T) {
	t.Parallel()
	b, _ := brokerWithLetter(t)
	ctx := t.Context()
	anew := func() uint64 {
		t.Helper()
		b.numbers.Lock()
		b.numbers.seen = 0 // as in a process that has just started
		b.numbers.Unlock()
		if err := b.js.DeleteStream(ctx, DeadLettersStream); err != nil {
			t.Fatal(err)
		}
		if err := b.EnsureTopology(ctx); err != nil {
			t.Fatal(err)
		}
		s, err := b.js.Stream(ctx, DeadLettersStream)
		if err != nil {
			t.Fatal(err)
		}
		return s.CachedInfo().Config.FirstSeq
	}
	if err := b.NoteLetters(ctx, 7); err != nil {
		t.Fatal(err)
	}
	if err := b.NoteLetters(ctx, 9); err != nil { // too soon to be written again
		t.Fatal(err)
	}
	if first := anew(); first != 7+letterMargin {
		t.Errorf("after a note of letter 7 the stream begins at %d", first)
	}
	if err := b.Append(ctx, AuditRecord{Action: ActionDiscarded, Actor: operator, LetterNumber: 50_000, NewLetter: 50_003}); err != nil {
		t.Fatal(err)
	}
	if first := anew(); first != 50_003+letterMargin {
		t.Errorf("after an audit record about letter 50003 the stream begins at %d", first)
	}
	// The settings of the stream stay as they are.
	if err := b.EnsureTopology(ctx); err != nil {
		t.Errorf("the next start: %v", err)
	}
}
