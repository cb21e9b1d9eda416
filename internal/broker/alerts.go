package broker

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// alertsKey is the key of the alerts in the bucket CERTPOST_DESK (package alert).
const alertsKey = "alerts"

// ChangeAlerts reads the value at the key alerts, nil if there is none, and writes what change
// makes of it, unless that is nil. If another process writes first, it calls change again.
func (b *Broker) ChangeAlerts(ctx context.Context, change func(value []byte) ([]byte, error)) error {
	if err := b.Disconnected(); err != nil {
		return err // at once: what is alone without NATS must know it
	}
	desk, err := b.Desk(ctx)
	if err != nil {
		return err
	}
	for {
		entry, err := desk.Get(ctx, alertsKey)
		missing := errors.Is(err, ErrNoDeskEntry)
		if err != nil && !missing {
			return err
		}
		value, err := change(entry.Value)
		if err != nil || value == nil {
			return err
		}
		if missing {
			_, err = desk.Create(ctx, alertsKey, value)
		} else {
			_, err = desk.Update(ctx, alertsKey, value, entry.Revision)
		}
		if !errors.Is(err, ErrDeskChanged) {
			return err
		}
		if ctx.Err() != nil {
			return fmt.Errorf("write %s in %s: %w", alertsKey, DeskBucketName, ctx.Err())
		}
	}
}

// RecordSilence records that an operator silenced alerts until a time (ActionSilenced), or ended
// that silence (ActionUnsilenced). since is when the silence began.
func (b *Broker) RecordSilence(ctx context.Context, action Action, alert string, since, until time.Time, by Actor, reason string) error {
	ctx, cancel := Detached(ctx)
	defer cancel()
	return b.audit(ctx, AuditRecord{Action: action, Actor: by, Reason: reason, Alert: alert, Until: until}, "alert/"+alert+"/"+strconv.FormatInt(since.UnixNano(), 10))
}
