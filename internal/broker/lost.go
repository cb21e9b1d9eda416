package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
)

// ErrLost says that the connection was lost while a request was out, and that no answer came:
// what was asked may be done, in part or not at all.
var ErrLost = errors.New("the connection to NATS was lost")

// lostGrace is how long an answer may take once the connection is back. With an external server or a
// cluster the process that works on the request may have kept its own connection, and answers
// then; with the embedded server it has ended together with the connection.
const lostGrace = 10 * time.Second

// watchConnection returns a context for a request. It ends with ErrLost as its cause when the
// connection was lost and no answer came within the grace after it was back, or when it will not
// come back. done ends the watch, and reports whether the connection was lost meanwhile.
func (b *Broker) watchConnection(ctx context.Context, subject string) (watched context.Context, done func() (lost bool)) {
	ctx, end := context.WithCancelCause(ctx)
	changes := b.nc.StatusChanged(nats.RECONNECTING, nats.CONNECTED, nats.CLOSED)
	lost, ended := false, make(chan struct{})
	go func() {
		defer close(ended)
		var grace <-chan time.Time // nil while the connection is up, or away
		for {
			select {
			case <-ctx.Done():
				return
			case <-grace:
				end(fmt.Errorf("%w during %s, and no answer came within %s of its return", ErrLost, subject, b.cfg.LostGrace))
				return
			case status := <-changes:
				switch {
				case status == nats.CLOSED:
					lost = true
					end(fmt.Errorf("%w during %s, and NATS does not let this client in again", ErrLost, subject))
					return
				case status == nats.RECONNECTING:
					if !lost && b.cfg.Lost != nil {
						b.cfg.Lost()
					}
					lost, grace = true, nil
				case lost:
					grace = time.After(b.cfg.LostGrace)
				}
			}
		}
	}()
	return ctx, func() bool {
		end(nil)
		<-ended
		b.nc.RemoveStatusListener(changes)
		return lost
	}
}
