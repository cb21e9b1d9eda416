package delivery

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/certpost/certpost/internal/events"
)

// Reaches returns why an event does not go to a target by the definitions of now, nil if it does. The
// rule is that of the fan-out: the event names the target, or its certificate matches it, and its
// source may send there.
func (i Inspector) Reaches(ctx context.Context, ev *events.Event, target string) error {
	routes, failure := i.courier.Resolve(ctx, ev)
	if failure != nil {
		return errors.New(failure.Reason)
	}
	for _, route := range routes {
		switch {
		case route.Target != target:
		case route.Failure != nil:
			return errors.New(route.Failure.Reason)
		default:
			return nil
		}
	}
	if len(ev.Targets) > 0 && !slices.Contains(ev.Targets, target) {
		return fmt.Errorf("the event names its targets, and %s is not among them: publish the certificate for it under a new id", target)
	}
	return fmt.Errorf("the certificate does not match target %s: extend its match, or publish the certificate for it under a new id", target)
}
