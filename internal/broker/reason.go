package broker

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/certpost/certpost/internal/legible"
)

// MaxReason is the length of the longest reason for an action, in characters: the audit
// keeps it for years, and every list shows it.
const MaxReason = 500

// The refusals of CheckReason.
var (
	ErrNoReason      = errors.New("a reason is required: the audit keeps it")
	ErrReasonTooLong = fmt.Errorf("the reason is longer than %d characters: shorten it", MaxReason)
)

// CheckReason returns the reason of an action as it is stored: on one line, and without
// invisible characters. The error is ErrReasonTooLong, or ErrNoReason when a reason is
// required and there is nothing to read in it.
func CheckReason(reason string, required bool) (string, error) {
	if reason = strings.TrimSpace(reason); utf8.RuneCountInString(reason) > MaxReason {
		return "", ErrReasonTooLong
	}
	reason = legible.Clean(reason, utf8.UTFMax*MaxReason)
	if strings.Trim(reason, " \ufffd") == "" {
		reason = ""
	}
	if required && reason == "" {
		return "", ErrNoReason
	}
	return reason, nil
}
