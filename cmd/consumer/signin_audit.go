package main

import (
	"context"
	"fmt"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/time/rate"

	"github.com/certpost/certpost/internal/access"
	"github.com/certpost/certpost/internal/broker"
)

// visitors writes sign-ins, sign-outs and refusals to the audit. Requests do not wait for
// it, so that operators can sign in while NATS is down, which is when they need to.
type visitors struct {
	append func(context.Context, ...broker.AuditRecord) error
	log    zerolog.Logger
	queue  chan broker.AuditRecord
	// refused is when each refusal was last recorded, so that repeated attempts are only
	// logged. Only run's goroutine uses it.
	refused map[[2]string]time.Time
	// quotas are by kind. Only run's goroutine uses them.
	quotas map[kind]*quota
}

// kind is what is counted together. Not named means that the user is unknown.
type kind struct {
	action broker.Action
	named  bool
}

// quota limits the records of one kind, and counts the events that were left out.
type quota struct {
	limit   *rate.Limiter
	leftOut int
	since   time.Time // of the first one left out
}

const (
	visitorsWaiting  = 1000             // records in the queue; further ones are only logged
	visitorsPatience = 10 * time.Second // for one record, and for all that are left at shutdown
	refusedAgain     = time.Minute      // until the same refusal of the same user is recorded again

	// The audit is kept for years, and anyone on the network can fail to sign in. So the
	// records per hour are limited: for all unknown users, and for each kind with a name.
	// After a quiet hour, as many may be written at once.
	strangersAnHour = 60
	visitsAnHour    = 1000
)

func newVisitors(b *broker.Broker, log zerolog.Logger) *visitors {
	return &visitors{append: b.Append, log: log, queue: make(chan broker.AuditRecord, visitorsWaiting), refused: map[[2]string]time.Time{}, quotas: map[kind]*quota{}}
}

// record queues an event. It never blocks.
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

// run writes queued records until the context ends, and then those that are left.
func (v *visitors) run(ctx context.Context) {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case r := <-v.queue:
			v.write(context.WithoutCancel(ctx), r)
		case now := <-tick.C:
			v.sumUp(context.WithoutCancel(ctx), now.Add(-time.Hour))
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
			v.sumUp(end, time.Now())
			return
		}
	}
}

func (v *visitors) write(ctx context.Context, r broker.AuditRecord) {
	now := time.Now()
	if r.Action == broker.ActionRefused && !v.isNew([2]string{r.Name + " " + r.Address, r.Reason}, now) {
		return
	}
	q := v.quotaOf(kind{r.Action, r.Name != ""})
	if q.limit.AllowN(now, 1) {
		v.put(ctx, r)
		return
	}
	if q.leftOut == 0 {
		q.since = now
	}
	q.leftOut++
}

func (v *visitors) put(ctx context.Context, r broker.AuditRecord) {
	ctx, cancel := context.WithTimeout(ctx, visitorsPatience)
	defer cancel()
	if err := v.append(ctx, r); err != nil {
		v.missed(r, err)
	}
}

func (v *visitors) quotaOf(k kind) *quota {
	q, known := v.quotas[k]
	if !known {
		most := strangersAnHour
		if k.named {
			most = visitsAnHour
		}
		q = &quota{limit: rate.NewLimiter(rate.Every(time.Hour/time.Duration(most)), most)}
		v.quotas[k] = q
	}
	return q
}

// sumUp records how many events were left out since a time before the given one: the
// audit has their number, and the log each of them.
func (v *visitors) sumUp(ctx context.Context, before time.Time) {
	for k, q := range v.quotas {
		if q.leftOut == 0 || q.since.After(before) {
			continue
		}
		v.put(ctx, broker.AuditRecord{Action: k.action, Actor: broker.Actor{Name: "certpost", Via: broker.ViaItself},
			Reason: fmt.Sprintf("%d more since %s, only in the log", q.leftOut, q.since.UTC().Format("2006-01-02 15:04:05 UTC"))})
		q.leftOut = 0
	}
}

// isNew says whether a refusal was not recorded within refusedAgain.
func (v *visitors) isNew(what [2]string, now time.Time) bool {
	for known, at := range v.refused {
		if now.Sub(at) >= refusedAgain {
			delete(v.refused, known)
		}
	}
	if _, known := v.refused[what]; known || len(v.refused) >= visitorsWaiting {
		return false
	}
	v.refused[what] = now
	return true
}

func (v *visitors) missed(r broker.AuditRecord, err error) {
	v.log.Warn().Err(err).Str("event", string(r.Action)).Str("user", r.Name).Str("address", r.Address).
		Msg("could not be written to the audit; this log line is its only record")
}
