package access

import (
	"context"
	"strings"
	"time"
	"unicode"
)

// EventKind is what happened.
type EventKind string

// The kinds of events.
const (
	SignedIn     EventKind = "signed-in"
	SignInFailed EventKind = "sign-in-failed"
	SignedOut    EventKind = "signed-out"
	Refused      EventKind = "refused" // a request that takes a higher role
)

// Event is something that belongs into the history of who did what.
type Event struct {
	Time time.Time
	Kind EventKind
	// User is who it was. Of a failed sign-in the name is there only if somebody has
	// it: people type passwords into the wrong field.
	User User
	// Way is how the user signs in: password or provider.
	Way    string
	Reason string // of a failure: why; of what was refused: method and path
}

// The ways to sign in.
const (
	byPassword = "password"
	byProvider = "provider"
)

// maxReason is the length of the longest reason, in characters: an address may have
// 64 kB, and the history is kept for years.
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

// shown makes a text from outside fit for one line: graphic characters alone, and at
// most that many.
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
