package delivery

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/encryption"
	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/verdict"
)

// KeyWarning is how long before the end of a recipient's key its end is a problem by default: time
// enough to get the next one from a person.
const KeyWarning = 30 * 24 * time.Hour

// RecipientKey is the key of one recipient as it is now.
type RecipientKey struct {
	Target, Address string
	About           string    // kind and fingerprint; "" if it cannot be read
	Expires         time.Time // zero: never, or it cannot be read
	Problem         string    // why a mail cannot be encrypted with it; "" if it can
	// Unknown says that its store does not answer, so that nothing is known of it.
	Unknown bool

	names []string // the addresses that the key names
}

// Ends reports whether the key cannot be used, or not for longer than the time.
func (k RecipientKey) Ends(now time.Time, within time.Duration) bool {
	return k.Problem != "" && !k.Unknown || !k.Expires.IsZero() && k.Expires.Sub(now) < within
}

// String says what is to be known of the key, in one line.
func (k RecipientKey) String() string {
	text := "key of " + legible.Clean(k.Address, 254)
	switch {
	case k.Problem != "":
		return text + ": " + k.Problem
	case !k.Expires.IsZero():
		return text + " expires on " + k.Expires.UTC().Format(time.DateOnly)
	}
	return text + ": " + k.About
}

// RecipientKeys fetches and checks the keys that mails are encrypted to, of all targets that
// are not disabled, each address of a target once.
func (i Inspector) RecipientKeys(ctx context.Context) []RecipientKey {
	var all []RecipientKey
	now := time.Now()
	for _, t := range i.courier.book.Current().targets {
		if !t.Disabled {
			all = append(all, i.courier.recipientKeys(ctx, t, now)...)
		}
	}
	return all
}

func (c *Courier) recipientKeys(ctx context.Context, t *Target, now time.Time) (all []RecipientKey) {
	if !t.encrypts() {
		return nil
	}
	p := targetProvisions(t)
	for _, address := range slices.DeleteFunc(slices.Concat(t.To, t.CC), hasPlace) {
		state := RecipientKey{Target: t.ID, Address: address}
		key, failure := c.recipientKey(ctx, t, p, address)
		if failure != nil {
			state.Problem, state.Unknown = failure.Reason, failure.Code == verdict.SecretUnavailable
		} else {
			state.About, state.Expires, state.names = key.String(), key.Expires(), key.Names()
			if err := key.Usable(encryption.Options{OAEP: t.SMIMEOAEP}, now); err != nil {
				state.Problem = err.Error()
			}
		}
		all = append(all, state)
	}
	return all
}

// probeKeys checks the keys that the target's mails are encrypted to.
func (c *Courier) probeKeys(ctx context.Context, t *Target) (all []verdict.Finding) {
	now := time.Now()
	for _, k := range c.recipientKeys(ctx, t, now) {
		f := verdict.Finding{What: "recipient key", Status: verdict.OK, Message: fmt.Sprintf("key of %s: %s", legible.Clean(k.Address, 254), k.About)}
		switch {
		case k.Problem != "":
			f.Status, f.Message = verdict.Error, k.String()
		case k.Ends(now, cmp.Or(c.opts.ExpiryWarning, KeyWarning)):
			f.Status, f.Message = verdict.Warning, k.String()
		}
		all = append(all, f)
		if k.Problem == "" && len(k.names) > 0 && !slices.ContainsFunc(k.names, func(n string) bool { return strings.EqualFold(n, k.Address) }) {
			all = append(all, verdict.Finding{What: "recipient key", Status: verdict.Warning, Message: fmt.Sprintf("the key of %s is that of %s; make sure that only the recipient can decrypt with it",
				legible.Clean(k.Address, 254), legible.Clean(strings.Join(k.names, ", "), 254))})
		}
	}
	return all
}
