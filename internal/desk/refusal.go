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

// The refusals. Pages, commands and the NATS service show their texts; only this package and
// package broker apply the rules behind them.
var (
	ErrNotFound      = errors.New("not found")
	ErrChanged       = errors.New("the selection has changed")
	ErrHeld          = errors.New("the dead letter is held")
	ErrInRun         = errors.New("the dead letter is part of an unfinished replay run")
	ErrNotHeld       = broker.ErrNotHeld
	ErrUncertain     = errors.New("the mail may have been sent: a replay requires confirmation")
	ErrNoReason      = broker.ErrNoReason
	ErrReasonTooLong = broker.ErrReasonTooLong
	ErrNotAllowed    = errors.New("not allowed by http.edit_and_replay")
	ErrUnfit         = errors.New("the value is refused")
	ErrNoEdit        = errors.New("the edit changes nothing: name another target, or recipients")
)

// Invalid is the error for an invalid value: of a filter, a number or an address.
type Invalid struct{ Text string }

func (e *Invalid) Error() string { return e.Text }

func invalid(format string, args ...any) error { return &Invalid{fmt.Sprintf(format, args...)} }

// StatusOf returns the HTTP status of an error, for pages, commands and the NATS service:
// 400 for an invalid value, 403 if the configuration does not allow the action, 404 for what
// is not found, 409 if the state of the letter or run does not allow it, 422 for a reason
// that is missing or too long and for an edit that changes nothing, and 503 for every other
// error, because a retry may succeed.
func StatusOf(err error) int {
	var conflict *Conflict
	var malformed *Invalid
	switch {
	case errors.As(err, &malformed):
		return http.StatusBadRequest
	case errors.Is(err, ErrNotAllowed):
		return http.StatusForbidden
	case errors.As(err, &conflict), errors.Is(err, ErrChanged), errors.Is(err, ErrHeld), errors.Is(err, ErrInRun), errors.Is(err, ErrNotHeld), errors.Is(err, ErrNotSilenced), errors.Is(err, ErrUncertain), errors.Is(err, ErrNoRollback), errors.Is(err, ErrNothingWaits),
		errors.Is(err, ErrHandlingChanged), errors.Is(err, broker.ErrNotResendable), errors.Is(err, broker.ErrNoEvent):
		return http.StatusConflict
	case errors.Is(err, ErrNotFound), errors.Is(err, broker.ErrNoLetter):
		return http.StatusNotFound
	case errors.Is(err, ErrNoReason), errors.Is(err, ErrReasonTooLong), errors.Is(err, ErrNoEdit), errors.Is(err, ErrUnfit):
		return http.StatusUnprocessableEntity
	}
	return http.StatusServiceUnavailable
}

// Conflict is the error for a letter or run on which another action came first.
type Conflict struct {
	Number uint64             // of the letter; 0 for a run
	Record broker.AuditRecord // of the first action
}

func (c *Conflict) Error() string {
	was := " was "
	if c.Record.Stage == broker.StageIntent {
		was = " is being "
	}
	return c.subject() + was + string(c.Record.Action) + " by " + c.Record.Shown() + " at " + c.Record.Time.UTC().Format("2006-01-02 15:04:05 UTC")
}

func (c *Conflict) subject() string {
	if c.Number == 0 {
		return "replay run " + c.Record.Run
	}
	return "dead letter " + strconv.FormatUint(c.Number, 10)
}

// refused is one of the errors above with a text of its own.
type refused struct {
	error
	is error
}

func (r refused) Unwrap() []error { return []error{r.error, r.is} }

// whyNot returns the reason why a letter could not be acted on, and what to do.
func (d *Desk) whyNot(ctx context.Context, number uint64) error {
	letter, err := d.Letter(ctx, number)
	switch {
	case err != nil:
		return err
	case letter.Status != Open:
		return Gone(letter)
	case letter.Hold != nil:
		return refused{fmt.Errorf("%w; release it first", &broker.Held{Hold: *letter.Hold}), ErrHeld}
	case letter.Run != "":
		return refused{fmt.Errorf("dead letter %d is part of replay run %s: wait until it ends, or cancel it", number, letter.Run), ErrInRun}
	}
	return fmt.Errorf("dead letter %d %w", number, ErrNotHeld)
}

// WhyNone returns why an action on many letters did nothing: for letters selected by
// number, the reason for the first.
func (d *Desk) WhyNone(ctx context.Context, numbers []uint64) error {
	if len(numbers) > 0 {
		return d.whyNot(ctx, numbers[0])
	}
	return fmt.Errorf("none of the letters is still on the list: %w", ErrNotFound)
}

// Gone returns the refusal to act on a letter that has left the list.
func Gone(letter Detail) error {
	if letter.End != nil {
		return &Conflict{Number: letter.Sequence, Record: *letter.End}
	}
	return refused{fmt.Errorf("dead letter %d is no longer on the list: it was %s", letter.Sequence, letter.Status), ErrNotFound}
}

// notFound returns ErrNotFound for a letter.
func notFound(number uint64) error {
	return refused{fmt.Errorf("there is no dead letter with the number %d, and no record of one", number), ErrNotFound}
}
