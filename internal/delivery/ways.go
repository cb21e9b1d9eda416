package delivery

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/smtp"
	"github.com/certpost/certpost/internal/verdict"
)

// carry gives the mail to the first of the target's relays that answers. Whatever
// one says to the mail is the verdict; only those that say nothing are passed over.
func (c *Courier) carry(ctx context.Context, ways []*Target, p *provisions, msg *message, a verdict.Attempt) smtp.Result {
	var away *verdict.Failure
	for i, way := range ways {
		got := c.try(ctx, way, i > 0, p, msg, a)
		if got.Failure == nil || !got.Failure.Relay || ctx.Err() != nil {
			return got
		}
		away = alsoAway(away, got.Failure)
	}
	return smtp.Result{Failure: away}
}

// alsoAway is the verdict when several relays are away: the delivery comes back
// when the first of them may be tried.
func alsoAway(before, f *verdict.Failure) *verdict.Failure {
	if before == nil {
		return f
	}
	sum := *before
	sum.Reason += "; fallback: " + f.Reason
	sum.Untried = before.Untried && f.Untried
	sum.After = min(before.After, f.After)
	return &sum
}

// try gives the mail to one relay, unless that is left alone at present.
func (c *Courier) try(ctx context.Context, way *Target, fallback bool, p *provisions, msg *message, a verdict.Attempt) smtp.Result {
	name := smtp.RelayName(way.Host, way.Port)
	door, wait, reason := c.breakers.Get(name, smtp.BreakerThreshold).Admit()
	if door == nil {
		return smtp.Result{Failure: leftAlone(name, wait, reason)}
	}
	defer door.End()
	if !fallback {
		got := c.hand(ctx, way, p, msg, a)
		judge(door, got.Failure)
		return got
	}
	trust, wait, reason := c.breakers.Get(way.login(), 1).Admit()
	if trust == nil {
		return smtp.Result{Failure: leftAlone(name, wait, reason)}
	}
	defer trust.End()
	got := smtp.Result{Failure: c.logInTo(ctx, way, p)}
	if got.Failure == nil {
		got = c.hand(ctx, way, p, msg, a)
		judge(door, got.Failure)
	}
	judgeFallback(trust, got.Failure)
	return got
}

// leftAlone is the verdict on a delivery that comes while the breaker is open.
func leftAlone(relay string, wait time.Duration, reason string) *verdict.Failure {
	return &verdict.Failure{
		Outcome: verdict.Outcome{
			Code:      verdict.SMTPConnect,
			Phase:     verdict.PhaseConnect,
			Reason:    fmt.Sprintf("%s is left alone for a while, because %s", relay, reason),
			Certainty: verdict.NotSent,
		},
		Relay: true, Untried: true, After: wait,
	}
}

// judge tells the breaker what came of the relay, and the failure how long to stay
// away.
func judge(p *smtp.Permit, f *verdict.Failure) {
	switch {
	case f == nil:
		p.Success()
	case f.Relay:
		f.After = p.Failure(f.Reason)
	case f.Untried, f.Phase == verdict.PhaseSecrets, f.Phase == verdict.PhaseConnect, isStopped(f):
		// the relay was not asked, or not long enough
	default:
		p.Success()
	}
}

// judgeFallback makes a fallback that cannot be used as it is defined, or does not
// want us, one that is away: it stands in for a relay that will come back, and a
// wrong password for it must not end what that one would have taken.
func judgeFallback(p *smtp.Permit, f *verdict.Failure) {
	switch {
	case f == nil || !beforeMail(f.Phase):
		p.Success()
	case f.Relay, f.Untried, isStopped(f):
		// the other breaker's business, or nothing was found out
	default:
		f.Relay = true
		f.After = p.Failure(f.Reason)
	}
}

// isStopped reports whether the attempt ended because the program does.
func isStopped(f *verdict.Failure) bool { return errors.Is(f.Cause, context.Canceled) }

// beforeMail reports whether a phase is over before the relay hears of the mail.
func beforeMail(phase verdict.Phase) bool {
	return slices.Contains([]verdict.Phase{
		verdict.PhaseSecrets, verdict.PhaseConnect, verdict.PhaseBanner, verdict.PhaseEHLO,
		verdict.PhaseSTARTTLS, verdict.PhaseTLS, verdict.PhaseAuth,
	}, phase)
}

// login names everything that decides whether a relay can be logged in to.
func (t *Target) login() string {
	return strings.Join([]string{
		smtp.RelayName(t.Host, t.Port), t.TLSMode, fmt.Sprint(t.TLSSkipVerify, t.AllowInsecureAuth), t.CAFile,
		t.ClientCertFile, t.ClientKeyFile,
		t.AuthMethod, t.Username.Plain, t.Username.Ref.String(), t.Password.String(),
		t.OAuth2.TokenURL, t.OAuth2.ClientID, t.OAuth2.ClientSecret.String(), strings.Join(t.OAuth2.Scopes, " "),
	}, "\x00")
}

// logInTo replaces the login that was fetched for another relay.
func (c *Courier) logInTo(ctx context.Context, way *Target, p *provisions) *verdict.Failure {
	p.username, p.password = "", secrets.Value{}
	p.vars["host"] = way.Host
	return c.login(ctx, way, p)
}

// Relays are the relays of a lane: for every different list that one of its
// targets has, in the order in which they are tried.
func (c *Courier) Relays(lane string) [][]verdict.RelayStatus {
	defs := c.book.Current()
	var all [][]verdict.RelayStatus
	for _, ways := range defs.roads[lane] {
		list := make([]verdict.RelayStatus, len(ways))
		for i, way := range ways {
			name := smtp.RelayName(way.Host, way.Port)
			limits := defs.limits[name]
			s := verdict.RelayStatus{Relay: name, MaxConnections: limits.MaxConnections, MaxRate: limits.MaxMessageRate}
			c.breakers.Get(name, smtp.BreakerThreshold).Status(&s)
			if i > 0 && s.Wait == 0 {
				trust := verdict.RelayStatus{}
				if c.breakers.Get(way.login(), 1).Status(&trust); trust.Breaker != verdict.Closed {
					s.Breaker, s.Wait, s.Reason = trust.Breaker, trust.Wait, trust.Reason
				}
			}
			list[i] = s
		}
		all = append(all, list)
	}
	return all
}

// roadsOf are, for each lane, the different lists of relays that its targets have.
func roadsOf(d *Definitions) map[string][][]*Target {
	roads := make(map[string][][]*Target)
	known := make(map[string]bool)
	for _, t := range d.targets {
		name := t.lane
		for i, way := range d.ways[t.ID] {
			if i == 0 {
				name += "\x00" + smtp.RelayName(way.Host, way.Port)
			} else {
				name += "\x00" + way.login()
			}
		}
		if !t.Disabled && !known[name] {
			known[name] = true
			roads[t.lane] = append(roads[t.lane], d.ways[t.ID])
		}
	}
	return roads
}
