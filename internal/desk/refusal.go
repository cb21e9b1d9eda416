package desk

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/certpost/certpost/internal/broker"
)

// MaxReason is the length of the longest reason for an action, in characters.
const MaxReason = broker.MaxReason

// The refusals. Pages, commands and the NATS service show their texts; the rules behind
// them are applied here and in package broker, and nowhere else.
var (
	ErrNotFound      = errors.New("there is no such dead letter, run or delivery")
	ErrChanged       = errors.New("the query now finds other letters than those that were shown")
	ErrHeld          = errors.New("the dead letter is held")
	ErrInRun         = errors.New("the dead letter is part of an unfinished replay run")
	ErrNotHeld       = broker.ErrNotHeld
	ErrUncertain     = errors.New("the mail may have been sent: replaying it requires a confirmation")
	ErrNoReason      = broker.ErrNoReason
	ErrReasonTooLong = broker.ErrReasonTooLong
	ErrNotAllowed    = errors.New("not allowed by http.edit_and_replay")
	ErrNoEdit        = errors.New("nothing is changed: name another target, or recipients")
)

// Invalid is a value that cannot be read: of a filter, of a number, of an address.
type Invalid struct{ Text string }

func (e *Invalid) Error() string { return e.Text }

func invalid(format string, args ...any) error { return &Invalid{fmt.Sprintf(format, args...)} }

// StatusOf is the HTTP status of an error, the same at every door: 400 for a value that
// cannot be read, 403 for what the configuration does not allow, 404, 409 for what the
// state of a letter or run does not allow, 422 for a reason that is missing or too long
// and for an edit that changes nothing, and 503 for everything that is no refusal, because
// it may succeed later.
func StatusOf(err error) int {
	var conflict *Conflict
	var malformed *Invalid
	switch {
	case errors.As(err, &malformed):
		return http.StatusBadRequest
	case errors.Is(err, ErrNotAllowed):
		return http.StatusForbidden
	case errors.As(err, &conflict), errors.Is(err, ErrChanged), errors.Is(err, ErrHeld), errors.Is(err, ErrInRun), errors.Is(err, ErrNotHeld), errors.Is(err, ErrUncertain):
		return http.StatusConflict
	case errors.Is(err, ErrNotFound), errors.Is(err, broker.ErrNoLetter):
		return http.StatusNotFound
	case errors.Is(err, ErrNoReason), errors.Is(err, ErrReasonTooLong), errors.Is(err, ErrNoEdit):
		return http.StatusUnprocessableEntity
	}
	return http.StatusServiceUnavailable
}

// Conflict is the answer to who comes second: a letter, or a run, that somebody
// else has acted on. It is a page with status 409.
type Conflict struct {
	Number uint64             // of the letter; 0: it is about a run
	Record broker.AuditRecord // the first one's action
}

func (c *Conflict) Error() string {
	was := " was "
	if c.Record.Stage == broker.StageIntent {
		was = " is being "
	}
	return c.subject() + was + string(c.Record.Action) + " by " + c.Record.Name + " at " + c.Record.Time.UTC().Format("2006-01-02 15:04:05 UTC")
}

func (c *Conflict) subject() string {
	if c.Number == 0 {
		return "replay run " + c.Record.Run
	}
	return "dead letter " + strconv.FormatUint(c.Number, 10)
}

// refused is a refusal in words of its own, which is one of the above.
type refused struct {
	error
	is error
}

func (r refused) Unwrap() []error { return []error{r.error, r.is} }

// whyNot says why an action did nothing to a letter, and what to do.
func (d *Desk) whyNot(ctx context.Context, number uint64) error {
	letter, err := d.Letter(ctx, number)
	switch {
	case err != nil:
		return err
	case letter.Fate != Open:
		return Gone(letter)
	case letter.Hold != nil:
		return refused{fmt.Errorf("%w; release it first", &broker.Held{Hold: *letter.Hold}), ErrHeld}
	case letter.Run != "":
		return refused{fmt.Errorf("dead letter %d is part of replay run %s: wait for its end, or cancel it first", number, letter.Run), ErrInRun}
	}
	return fmt.Errorf("dead letter %d %w", number, ErrNotHeld)
}

// WhyNone says why an action on many letters did nothing: of those that were selected by
// number the reason of the first.
func (d *Desk) WhyNone(ctx context.Context, numbers []uint64) error {
	if len(numbers) > 0 {
		return d.whyNot(ctx, numbers[0])
	}
	return fmt.Errorf("none of the letters is still on the list: %w", ErrNotFound)
}

// Gone is the refusal to act on a letter that has left the list.
func Gone(letter Detail) error {
	if letter.End != nil {
		return &Conflict{Number: letter.Sequence, Record: *letter.End}
	}
	return refused{fmt.Errorf("dead letter %d is no longer on the list: it was %s", letter.Sequence, letter.Fate), ErrNotFound}
}

// notFound is ErrNotFound for a letter.
func notFound(number uint64) error {
	return refused{fmt.Errorf("there is no dead letter with the number %d, and there never was as far as is known", number), ErrNotFound}
}
