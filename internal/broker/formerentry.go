package broker

import (
	"context"
	"errors"
)

// FormerEntry returns what the ledger has of an event under the former ids of a target, as the
// target's: with it a delivery to a target that was renamed begins, if it has no entry of its own. So
// what was sent under a former id is not sent again, what some recipients have is sent to the others
// only, and an outcome that is unknown stays unknown. If there are several entries, the one in state
// `sent` counts, otherwise that of the first id. The error is ErrNoEntry if there is none.
func (b *Broker) FormerEntry(ctx context.Context, target string, formerIDs []string, token string) (Entry, error) {
	found, err := Entry{}, ErrNoEntry
	for _, id := range formerIDs {
		e, _, lerr := b.LatestEntry(ctx, LedgerKey(id, token))
		switch {
		case errors.Is(lerr, ErrNoEntry):
			continue
		case lerr != nil:
			return Entry{}, lerr
		case err == nil && e.State != StateSent:
			continue
		}
		found, err = e, nil
		if e.State == StateSent {
			break
		}
	}
	if err != nil {
		return Entry{}, err
	}
	// The outcomes and the letter are those of the former entry, which stays.
	found.Target, found.was, found.Past, found.DeadLetter = target, nil, nil, ""
	return found, nil
}
