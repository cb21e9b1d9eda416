package delivery

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/smtp"
	"github.com/certpost/certpost/internal/verdict"
)

// send gives the mail to the first of the target's relays that answers. What a relay
// says about the mail is the verdict; only an unavailable relay leads to the next one.
func (a *attempt) send(ctx context.Context) smtp.Result {
	var unavailable *verdict.Failure
	for i, relay := range a.defs.relays[a.target.ID] {
		got := a.deliverVia(ctx, relay, i > 0)
		if got.Failure == nil || !got.Failure.Relay || ctx.Err() != nil {
			return got
		}
		unavailable = allUnavailable(unavailable, got.Failure)
	}
	return smtp.Result{Failure: unavailable}
}

// allUnavailable is the verdict when several relays are unavailable: the delivery comes
// back when the first of them may be tried.
func allUnavailable(before, f *verdict.Failure) *verdict.Failure {
	if before == nil {
		return f
	}
	sum := *before
	sum.Reason += "; fallback: " + f.Reason
	sum.Untried = before.Untried && f.Untried
	sum.After = min(before.After, f.After)
	return &sum
}

// deliverVia gives the mail to one relay, unless its breaker is open. A reused connection
// that proves closed before MAIL, or on which the relay wants no more mails, is replaced by
// a new one, once.
func (a *attempt) deliverVia(ctx context.Context, t *Target, fallback bool) smtp.Result {
	permits, failure := a.admit(t, fallback)
	if failure != nil {
		return smtp.Result{Failure: failure}
	}
	defer permits.end()
	h, failure := a.handover(ctx, t, fallback)
	got := smtp.Result{Failure: failure}
	if failure == nil {
		h.permit = permits.relay
		got = a.sendTo(ctx, h, false)
	}
	if got.Redial {
		got = a.sendTo(ctx, h, true)
	}
	if limit := got.Limit(); limit != nil {
		a.pause(permits.relay, smtp.RelayName(t.Host, t.Port), limit)
	} else {
		judge(permits.relay, got.Failure)
	}
	if permits.login != nil {
		judgeFallback(permits.login, got.Failure)
	}
	return got
}

// permits are the permits of the breakers to try a relay.
type permits struct {
	relay *smtp.Permit
	login *smtp.Permit // of a fallback: its login has a breaker of its own
}

// admit asks the breakers of a relay. The failure says which one is open, and for how long.
func (a *attempt) admit(t *Target, fallback bool) (p permits, failure *verdict.Failure) {
	name := smtp.RelayName(t.Host, t.Port)
	var wait time.Duration
	var reason string
	if p.relay, wait, reason = a.breakers.Get(name, smtp.BreakerThreshold).Admit(); p.relay == nil {
		return p, breakerOpen(name, wait, reason)
	}
	if !fallback {
		return p, nil
	}
	if p.login, wait, reason = a.breakers.Get(t.login(), 1).Admit(); p.login == nil {
		p.relay.End()
		return p, breakerOpen(name, wait, reason)
	}
	return p, nil
}

// end returns the permits to the breakers.
func (p permits) end() {
	p.relay.End()
	if p.login != nil {
		p.login.End()
	}
}

// pause keeps all processes from a relay that said that it is at a limit of its own, for the
// relay's limit_pause.
func (a *attempt) pause(permit *smtp.Permit, relay string, limit *verdict.Failure) {
	pause := a.defs.limits[relay].LimitPause
	setDefault(&pause, defaultLimitPause)
	until := permit.Pause(limit.Outcome, pause)
	limit.After = pause
	if a.order.Limits != nil {
		a.order.Limits.Pause(verdict.RelayPause{
			Relay: relay, Lanes: a.defs.lanesOf(relay), Reason: limit.Reason, Reply: limit.Reply,
			Since: time.Now().UTC(), Until: until.UTC(),
		})
	}
}

// lanesOf returns the lanes whose targets have the relay as their first one or as a
// fallback, sorted.
func (d *Definitions) lanesOf(relay string) []string {
	var lanes []string
	for lane, relayLists := range d.laneRelays {
		if slices.ContainsFunc(slices.Concat(relayLists...), func(t *Target) bool { return smtp.RelayName(t.Host, t.Port) == relay }) {
			lanes = append(lanes, lane)
		}
	}
	slices.Sort(lanes)
	return lanes
}

// PauseRelay keeps this process from a relay that is at a limit of its own, as another
// process has learnt, or this one before a restart.
func (c *Courier) PauseRelay(p verdict.RelayPause) {
	c.breakers.Get(p.Relay, smtp.BreakerThreshold).Hold(verdict.Outcome{Reason: p.Reason, Reply: p.Reply}, p.Until)
}

// ResumeRelay ends the pause of a relay for a limit of its own: the next mail is the probe.
func (c *Courier) ResumeRelay(relay string) {
	c.breakers.Get(relay, smtp.BreakerThreshold).Resume()
}

// breakerOpen is the verdict on a delivery to a relay whose breaker is open.
func breakerOpen(relay string, wait time.Duration, reason string) *verdict.Failure {
	return &verdict.Failure{
		Outcome: verdict.Outcome{
			Code:      verdict.SMTPConnect,
			Phase:     verdict.PhaseConnect,
			Reason:    fmt.Sprintf("%s is skipped for %s, because %s", relay, legible.Seconds(wait), reason),
			Certainty: verdict.NotSent,
		},
		Relay: true, Untried: true, After: wait,
	}
}

// judge reports the result of the attempt to the breaker of a relay, and sets in the
// failure how long the relay is skipped (After).
func judge(p *smtp.Permit, f *verdict.Failure) {
	switch {
	case f == nil:
		p.Success()
	case f.Relay && !f.Untried:
		f.After = p.Failure(f.Outcome)
	case f.Untried, f.Phase == verdict.PhaseSecrets, f.Phase == verdict.PhaseConnect, isStopped(f):
		// the relay was not tried, or had no time to answer
	default:
		p.Success()
	}
}

// judgeFallback treats a misconfigured or refusing fallback as unavailable, so that a
// wrong fallback password cannot turn the primary's outage into a dead letter.
func judgeFallback(p *smtp.Permit, f *verdict.Failure) {
	switch {
	case f == nil || !beforeMail(f.Phase):
		p.Success()
	case f.Relay, f.Untried, isStopped(f):
		// the relay's own breaker counts it, or it says nothing about the login
	default:
		f.Relay = true
		f.After = p.Failure(f.Outcome)
	}
}

// isStopped reports whether the attempt ended because the program is shutting down.
func isStopped(f *verdict.Failure) bool { return errors.Is(f.Cause, context.Canceled) }

// beforeMail reports whether a phase comes before MAIL.
func beforeMail(phase verdict.Phase) bool {
	return slices.Contains([]verdict.Phase{
		verdict.PhaseSecrets, verdict.PhaseConnect, verdict.PhaseBanner, verdict.PhaseEHLO,
		verdict.PhaseSTARTTLS, verdict.PhaseTLS, verdict.PhaseAuth,
	}, phase)
}

// login returns a key made of all settings on which a login at the relay depends.
func (t *Target) login() string {
	return strings.Join([]string{
		smtp.RelayName(t.Host, t.Port), t.TLSMode, fmt.Sprint(t.TLSSkipVerify, t.AllowInsecureAuth), t.CAFile,
		t.TLSServerName, t.TLSFingerprint,
		t.ClientCertFile, t.ClientKeyFile,
		t.AuthMethod, t.Username.Plain, t.Username.Ref.String(), t.Password.String(),
		t.OAuth2.TokenURL, t.OAuth2.ClientID, t.OAuth2.ClientSecret.String(), strings.Join(t.OAuth2.Scopes, " "),
	}, "\x00")
}

// logInTo fetches the credentials of a fallback in place of the primary's.
func (a *attempt) logInTo(ctx context.Context, t *Target) *verdict.Failure {
	a.p.username, a.p.password = "", secrets.Value{}
	a.p.vars["host"] = t.Host
	return a.login(ctx, t, a.p)
}

// Relays returns the state of the relays of a lane: one list for each distinct list
// of relays among its targets, in the order in which they are tried. The lane of a mail host
// has none.
func (c *Courier) Relays(lane string) [][]verdict.RelayStatus {
	defs := c.book.Current()
	var all [][]verdict.RelayStatus
	for _, relays := range defs.laneRelays[lane] {
		list := make([]verdict.RelayStatus, len(relays))
		for i, relay := range relays {
			name := smtp.RelayName(relay.Host, relay.Port)
			limits := defs.limits[name]
			s := verdict.RelayStatus{Relay: name, MaxConnections: limits.MaxConnections, MaxRate: limits.MaxMessageRate}
			c.breakers.Get(name, smtp.BreakerThreshold).Status(&s)
			if i > 0 && s.Wait == 0 {
				login := verdict.RelayStatus{}
				if c.breakers.Get(relay.login(), 1).Status(&login); login.Breaker != verdict.Closed {
					s.Breaker, s.Wait, s.Reason, s.Reply, s.Limit = login.Breaker, login.Wait, login.Reason, login.Reply, false
				}
			}
			list[i] = s
		}
		all = append(all, list)
	}
	return all
}

// laneRelaysOf returns, for each lane, the distinct lists of relays of its targets.
func laneRelaysOf(d *Definitions) map[string][][]*Target {
	lanes := make(map[string][][]*Target)
	known := make(map[string]bool)
	for _, t := range d.targets {
		if t.onHost() {
			continue
		}
		key := t.lane
		for i, relay := range d.relays[t.ID] {
			if i == 0 {
				key += "\x00" + smtp.RelayName(relay.Host, relay.Port)
			} else {
				key += "\x00" + relay.login()
			}
		}
		if !t.Disabled && !known[key] {
			known[key] = true
			lanes[t.lane] = append(lanes[t.lane], d.relays[t.ID])
		}
	}
	return lanes
}
