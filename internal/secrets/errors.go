package secrets

import (
	"errors"
	"fmt"
)

// What can happen to a reference. The store says which; what to do about it is
// decided by whoever asked.
var (
	// ErrNotFound: there is no such secret, field or version, or it is not text.
	ErrNotFound = errors.New("secret not found")
	// ErrDenied: the store answered, and refuses.
	ErrDenied = errors.New("secret denied")
	// ErrUnavailable: the store cannot answer just now, or does not let us in.
	ErrUnavailable = errors.New("secret store unavailable")
)

// Error says what happened to one reference. All of its text is ours: neither
// secrets nor what Vault, the SDK or a parser said ever stands in it.
type Error struct {
	Kind error  // ErrNotFound, ErrDenied or ErrUnavailable
	Ref  string // Ref.String of the reference, "" when it is about Vault as a whole
	What string // what happened, with mount, path and field
	Hint string // what a person can do about it; may be empty
	// Cause is context.Canceled or context.DeadlineExceeded when the caller's
	// own context ended. Anything else is for this package alone.
	Cause error
}

// Error gives reference, fact and hint on one line.
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

// Unwrap makes errors.Is work with the kind and with the context's errors.
func (e *Error) Unwrap() []error {
	if e.Cause != nil {
		return []error{e.Kind, e.Cause}
	}
	return []error{e.Kind}
}

// about gives an error of a shared read the reference that this caller asked for.
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

// refuse is for references that we do not even ask for.
func (r Ref) refuse(format string, args ...any) *Error { return r.denied("", format, args...) }

func (r Ref) unavailable(hint, format string, args ...any) *Error {
	return &Error{Kind: ErrUnavailable, Ref: r.String(), What: fmt.Sprintf(format, args...), Hint: hint}
}
