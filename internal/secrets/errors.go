package secrets

import (
	"errors"
	"fmt"
)

// The kinds of failure of a reference. The caller decides what follows.
var (
	// ErrNotFound: the secret, field or version does not exist, or it is not text.
	ErrNotFound = errors.New("secret not found")
	// ErrDenied: the store answers and refuses access.
	ErrDenied = errors.New("secret denied")
	// ErrUnavailable: the store does not answer, or refuses Certpost's login.
	ErrUnavailable = errors.New("secret store unavailable")
)

// Error is the failure of one reference. All of its text is Certpost's own: it never
// contains secrets, or texts of Vault, the SDK or a parser.
type Error struct {
	Kind error  // ErrNotFound, ErrDenied or ErrUnavailable
	Ref  string // Ref.String of the reference, "" when the error is about Vault as a whole
	What string // what happened, with mount, path and field
	Hint string // what the operator can do; may be empty
	// Cause is context.Canceled or context.DeadlineExceeded when the caller's own
	// context ended. Other causes are internal to this package.
	Cause error
}

// Error returns reference, fact and hint on one line.
func (e *Error) Error() string {
	text := e.What
	if e.Ref != "" {
		text = e.Ref + ": " + text
	}
	if e.Hint != "" {
		text += "; " + e.Hint
	}
	return text
}

// Unwrap returns the kind and the cause, for errors.Is.
func (e *Error) Unwrap() []error {
	if e.Cause != nil {
		return []error{e.Kind, e.Cause}
	}
	return []error{e.Kind}
}

// about sets the reference of an error of a shared read to the caller's own.
func about(ref Ref, err error) error {
	var known *Error
	if !errors.As(err, &known) {
		return err
	}
	named := *known
	named.Ref = ref.String()
	return &named
}

func (r Ref) notFound(hint, format string, args ...any) *Error {
	return &Error{Kind: ErrNotFound, Ref: r.String(), What: fmt.Sprintf(format, args...), Hint: hint}
}

func (r Ref) denied(hint, format string, args ...any) *Error {
	return &Error{Kind: ErrDenied, Ref: r.String(), What: fmt.Sprintf(format, args...), Hint: hint}
}

// refuse is for references that are denied without asking the store.
func (r Ref) refuse(format string, args ...any) *Error { return r.denied("", format, args...) }

func (r Ref) unavailable(hint, format string, args ...any) *Error {
	return &Error{Kind: ErrUnavailable, Ref: r.String(), What: fmt.Sprintf(format, args...), Hint: hint}
}
