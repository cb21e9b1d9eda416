package access

import (
	"context"
	"strings"
	"time"
	"unicode"
)

// EventKind says what happened.
type EventKind string

// The event kinds.
const (
	SignedIn     EventKind = "signed-in"
	SignInFailed EventKind = "sign-in-failed"
	SignedOut    EventKind = "signed-out" // with a reason: another session than the user's current one
	Refused      EventKind = "refused"    // a request that requires a higher role
)

// Event is a sign-in, sign-out or refusal, for the audit.
type Event struct {
	Time time.Time
	Kind EventKind
	// User is who caused it. A failed sign-in has the name only if an account has it:
	// users type passwords into the wrong field.
	User User
	// Way is how the user signs in: password or provider.
	Way string
	// Reason is why a sign-in failed, method and path of what was refused, or whose session
	// was ended from the list of sessions.
	Reason string
}

// The ways to sign in.
const (
	byPassword = "password"
	byProvider = "provider"
)

// maxReason is the maximum length of a reason, in characters: a URL may have 64 kB, and
// the audit is kept for years.
const maxReason = 400

func (a *Access) record(ctx context.Context, e Event) {
	e.Reason = shown(e.Reason, maxReason)
	e.Time = time.Now().UTC()
	a.cfg.Log.Info().Str("event", string(e.Kind)).Str("user", e.User.Name).Str("role", e.User.Role.String()).
		Str("address", e.User.Address).Str("way", e.Way).Str("reason", e.Reason).Msg("access")
	if a.cfg.Record != nil {
		a.cfg.Record(ctx, e)
	}
}

// shown makes untrusted text fit for one line: characters that are not graphic become "?",
// and only the first most characters are kept.
func shown(text string, most int) string {
	var b strings.Builder
	for _, c := range text {
		if most--; most < 0 {
			break
		}
		if c == unicode.ReplacementChar || !unicode.IsGraphic(c) {
			c = '?'
		}
		b.WriteRune(c)
	}
	return strings.TrimSpace(b.String())
}
