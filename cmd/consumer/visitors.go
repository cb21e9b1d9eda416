package main

import (
	"context"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/access"
	"github.com/certpost/certpost/internal/broker"
)

// visitors puts into the audit who signed in and out, and who was refused. Nobody
// waits for it, so that people can sign in while NATS is away, when they most want to.
type visitors struct {
	append func(context.Context, ...broker.AuditRecord) error
	log    zerolog.Logger
	queue  chan broker.AuditRecord
	// refused is when somebody was last refused something, so that trying again and
	// again fills the log alone; of the one goroutine of run.
	refused map[[2]string]time.Time
}

const (
	visitorsWaiting  = 1000             // records, beyond which the log alone has them
	visitorsPatience = 10 * time.Second // for one record, and for all that are left at the end
	refusedAgain     = time.Minute      // until the same is recorded again of the same user
	visitorsUnknown  = 30               // records within that time of people without a name: anybody on the network can make some
)

func newVisitors(b *broker.Broker, log zerolog.Logger) *visitors {
	return &visitors{append: b.Append, log: log, queue: make(chan broker.AuditRecord, visitorsWaiting), refused: map[[2]string]time.Time{}}
}

// record takes an event down. It never blocks.
func (v *visitors) record(_ context.Context, e access.Event) {
	action, known := map[access.EventKind]broker.Action{
		access.SignedIn: broker.ActionSignedIn, access.SignedOut: broker.ActionSignedOut,
		access.SignInFailed: broker.ActionRefused, access.Refused: broker.ActionRefused,
	}[e.Kind]
	if !known {
		return
	}
	r := broker.AuditRecord{Action: action, Reason: e.Reason, Actor: broker.Actor{
		Name: e.User.Recorded(), Role: e.User.Role.String(), Via: broker.ViaPage, Address: e.User.Address}}
	select {
	case v.queue <- r:
	default:
		v.missed(r, nil)
	}
}

// run writes what was taken down until the context ends, and then what is left.
func (v *visitors) run(ctx context.Context) {
	for ctx.Err() == nil {
		select {
		case r := <-v.queue:
			v.write(context.WithoutCancel(ctx), r)
		case <-ctx.Done():
		}
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), visitorsPatience)
	defer cancel()
	for {
		select {
		case r := <-v.queue:
			v.write(end, r)
		default:
			return
		}
	}
}

func (v *visitors) write(ctx context.Context, r broker.AuditRecord) {
	if r.Action == broker.ActionRefused && !v.isNew([2]string{r.Name + " " + r.Address, r.Reason}, time.Now()) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, visitorsPatience)
	defer cancel()
	if err := v.append(ctx, r); err != nil {
		v.missed(r, err)
	}
}

// isNew says whether a refusal was not recorded a moment ago.
func (v *visitors) isNew(what [2]string, now time.Time) bool {
	unknown := 0
	for known, at := range v.refused {
		if now.Sub(at) >= refusedAgain {
			delete(v.refused, known)
		} else if isUnknown(known[0]) {
			unknown++
		}
	}
	if _, known := v.refused[what]; known || len(v.refused) >= visitorsWaiting || unknown >= visitorsUnknown && isUnknown(what[0]) {
		return false
	}
	v.refused[what] = now
	return true
}

// isUnknown says that who was refused, a name and an address, has no name.
func isUnknown(who string) bool { return strings.HasPrefix(who, " ") }

func (v *visitors) missed(r broker.AuditRecord, err error) {
	v.log.Warn().Err(err).Str("event", string(r.Action)).Str("user", r.Name).Str("address", r.Address).
		Msg("could not be put into the audit; this line is what there is of it")
}
