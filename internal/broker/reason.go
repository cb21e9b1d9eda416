package broker

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// MaxReason is the length of the longest reason for an action, in characters: the audit
// keeps it for years, and every list shows it.
const MaxReason = 500

// The refusals of CheckReason.
var (
	ErrNoReason      = errors.New("a reason is required: the audit keeps it")
	ErrReasonTooLong = fmt.Errorf("the reason is longer than %d characters: shorten it", MaxReason)
)

// CheckReason returns the reason of an action without the space around it. The error is
// ErrReasonTooLong, or ErrNoReason when a reason is required and there is none.
func CheckReason(reason string, required bool) (string, error) {
	reason = strings.TrimSpace(reason)
	switch {
	case utf8.RuneCountInString(reason) > MaxReason:
		return "", ErrReasonTooLong
	case required && reason == "":
		return "", ErrNoReason
	}
	return reason, nil
}
