package broker

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// The number of a dead letter is its sequence in the stream. Holds, replay runs, the audit
// and people name letters by it, so a stream that is created again must not assign one a
// second time.

// lastLetterKey is the key in the bucket CERTPOST_DESK of the highest number that is known to
// be assigned.
const lastLetterKey = "letters.last"

const (
	// noteLettersEvery is the shortest time between two notes of that number.
	noteLettersEvery = 5 * time.Second
	// letterMargin is more than the letters that can be written between two notes.
	letterMargin = 10_000
)

// NoteLetters notes the highest number of a letter, so that it is known when the stream is
// gone. It writes only when the number has grown, and then every few seconds.
func (b *Broker) NoteLetters(ctx context.Context, last uint64) error {
	b.numbers.Lock()
	due := last > b.numbers.noted && time.Since(b.numbers.at) >= noteLettersEvery
	b.numbers.seen = max(b.numbers.seen, last)
	if due {
		b.numbers.at = time.Now()
	}
	b.numbers.Unlock()
	if !due {
		return nil
	}
	kv, err := b.js.KeyValue(ctx, DeskBucketName)
	if err != nil {
		return fmt.Errorf("bucket %s: %w", DeskBucketName, err)
	}
	noted, err := noteOf(ctx, kv)
	if err == nil && noted < last {
		_, err = kv.PutString(ctx, lastLetterKey, strconv.FormatUint(last, 10))
	}
	if err != nil {
		return fmt.Errorf("note the number of the newest dead letter: %w", err)
	}
	b.numbers.Lock()
	b.numbers.noted = max(b.numbers.noted, last)
	b.numbers.Unlock()
	return nil
}

func noteOf(ctx context.Context, kv jetstream.KeyValue) (uint64, error) {
	e, err := kv.Get(ctx, lastLetterKey)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(string(e.Value()), 10, 64)
	if err != nil {
		return 0, nil // not written by Certpost: it says nothing
	}
	return n, nil
}

// firstLetter returns the number of the first letter of a new stream: 1 if there was no
// stream before, otherwise one that no earlier stream has assigned, as far as this process,
// the note and the audit know.
func (b *Broker) firstLetter(ctx context.Context) (uint64, error) {
	b.numbers.Lock()
	highest := b.numbers.seen
	b.numbers.Unlock()
	kv, err := b.js.KeyValue(ctx, DeskBucketName)
	if err == nil {
		var noted uint64
		if noted, err = noteOf(ctx, kv); err == nil {
			highest = max(highest, noted)
		}
	}
	if err != nil && !errors.Is(err, jetstream.ErrBucketNotFound) {
		return 0, fmt.Errorf("the numbers of earlier dead letters: %w", err)
	}
	if _, err := b.js.Stream(ctx, AuditStream); !errors.Is(err, jetstream.ErrStreamNotFound) {
		for r, err := range b.ReadAudit(ctx, 1) {
			if err != nil {
				return 0, fmt.Errorf("the numbers of earlier dead letters: %w", err)
			}
			highest = max(highest, r.LetterNumber, r.NewLetter)
		}
	}
	if highest == 0 {
		return 1, nil
	}
	return highest + letterMargin, nil
}
