package desk

import (
	"fmt"
	"slices"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/verdict"
)

// Reach says to how many recipients a delivery was sent that has not reached all of them: "sent to
// 1 of 2"; "" if all of them have the mail, or none has.
func Reach(e *broker.Entry) string {
	if e == nil || len(e.Accepted) == 0 {
		return ""
	}
	lacking := slices.DeleteFunc(e.Missing(), func(r string) bool { return slices.Contains(e.Accepted, r) })
	if e.State == broker.StateSent || len(lacking) == 0 {
		return ""
	}
	return fmt.Sprintf("sent to %d of %d", len(e.Accepted), len(e.Accepted)+len(lacking))
}

// SentWord is a certainty in the words of lists. Of a letter that the relay accepted, there are
// recipients that do not have the mail.
func SentWord(c verdict.Certainty) string {
	switch c {
	case verdict.MaybeSent:
		return "may have been sent"
	case verdict.Accepted:
		return "sent to some"
	}
	return "not sent"
}
