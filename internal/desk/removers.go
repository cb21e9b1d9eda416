package desk

import (
	"context"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/backoff"
	"github.com/certpost/certpost/internal/broker"
)

// maxRemovers bounds what is remembered of removals that NATS told of.
const maxRemovers = 10_000

// removers are who took letters off the stream, as NATS told. Most of it is
// Certpost's own work, which the audit explains better. Desk.mu guards it.
type removers struct {
	letters map[uint64]broker.Actor
	purges  []broker.Removal
}

func newRemovers() *removers { return &removers{letters: map[uint64]broker.Actor{}} }

func (x *removers) put(r broker.Removal) {
	switch {
	case r.Sequence != 0:
		if len(x.letters) >= maxRemovers {
			clear(x.letters)
		}
		x.letters[r.Sequence] = r.By
	case !r.Ours:
		x.purges = append(x.purges[max(0, len(x.purges)-maxPurges):], r)
	}
}

// maxPurges bounds the purges remembered: people make few.
const maxPurges = 100

// of is who took a letter off; subject is "" when that is not known.
func (x *removers) of(number uint64, subject string) broker.Actor {
	if by, ok := x.letters[number]; ok {
		return by
	}
	for i := len(x.purges) - 1; i >= 0; i-- {
		p := x.purges[i]
		if (p.Before == 0 || number < p.Before) && (p.Subject == "" || subject != "" && fitsSubject(p.Subject, subject)) {
			return p.By
		}
	}
	return broker.Actor{Name: "somebody with access to NATS", Via: broker.ViaNATS}
}

// fitsSubject reports whether a subject fits a filter of NATS.
func fitsSubject(filter, subject string) bool {
	f, s := strings.Split(filter, "."), strings.Split(subject, ".")
	for i, token := range f {
		if token == ">" {
			return len(s) > i
		}
		if i >= len(s) || token != "*" && token != s[i] {
			return false
		}
	}
	return len(f) == len(s)
}

// followRemovals listens to who removes letters.
func (d *Desk) followRemovals(ctx context.Context) {
	for ctx.Err() == nil {
		err := d.b.FollowRemovals(ctx, func(r broker.Removal) {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.removers.put(r)
		})
		if err != nil && ctx.Err() == nil {
			d.log.Debug().Err(err).Msg("NATS does not tell who removes dead letters; their removal is recorded without a name")
		}
		backoff.Sleep(ctx, 30*time.Second)
	}
}
