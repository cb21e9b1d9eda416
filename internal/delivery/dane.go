package delivery

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/dane"
	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/mailhost"
	"github.com/certpost/certpost/internal/verdict"
)

// The values of the key dane.
const (
	daneHold = "hold"
	daneWarn = "warn"
	daneOff  = "off"
)

// usualDANE is the default of the key dane: mail servers ask for TLSA records, other clients do not.
func (t *Target) usualDANE() string {
	if t.Type == typePostfix {
		return daneHold
	}
	endpoints, _ := t.PostDeployVerify.endpoints()
	if t.Type == typeFile && t.PostDeployVerify.verifies() && slices.ContainsFunc(endpoints, speaksSMTP) {
		return daneHold
	}
	return daneOff
}

func speaksSMTP(e mailhost.Endpoint) bool {
	return cmp.Or(e.Protocol, mailhost.ProtocolOf(e.Address)) == mailhost.SMTP
}

// usesDANE reports whether DNS is asked before a deployment.
func (t *Target) usesDANE() bool { return t.DANE == daneHold || t.DANE == daneWarn }

// validateDANE checks the names.
func (t *Target) validateDANE(v *validation) {
	for i, name := range t.DANENames {
		if message := wrongHost(name); message != "" {
			v.err(fmt.Sprintf("dane_names[%d]", i), "%s", message)
		}
	}
	if t.DANE == daneOff && len(t.DANENames) > 0 {
		v.warn("dane_names", "has no effect with dane: off")
	}
}

// change is what DNS is asked about before wanted replaces present. If there is no name otherwise, as with a
// wildcard certificate, the names of the present one are asked.
func (t *Target) change(present, wanted []*x509.Certificate) dane.Change {
	c := dane.Change{Servers: t.DANENames, Former: present, New: wanted}
	if len(c.Servers) == 0 {
		c.Servers = dane.Servers(wanted[0], t.PostDeployVerify.ServerName, t.Host)
	}
	if len(c.Servers) == 0 && len(present) > 0 {
		c.Servers = dane.Servers(present[0])
	}
	return c
}

// noNames says that there is no name to ask DNS about.
const noNames = "DNS was not asked for TLSA records, because the names of this host are not known: the certificates have none but wildcards, and server_name and host are no full names; set dane_names, or dane: off"

// held is why a deployment waits.
type held struct {
	reason string
	hold   *verdict.Hold
}

func (h *held) Error() string { return h.reason }

// mayReplace returns the Deployer's Admit: with dane: hold it refuses a certificate that mail servers
// with DANE would not accept yet.
func (a *attempt) mayReplace() func(context.Context, []*x509.Certificate, []*x509.Certificate) error {
	if !a.target.usesDANE() {
		return nil
	}
	return func(ctx context.Context, present, wanted []*x509.Certificate) error {
		change := a.target.change(present, wanted)
		v := a.opts.Resolver.Check(ctx, change, stateOf(a.order.Hold), time.Now())
		switch {
		case len(change.Servers) == 0:
			a.warnings = append(a.warnings, noNames)
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case v.Ready:
			if v.Vanished != "" {
				a.warnings = append(a.warnings, v.Vanished)
			}
			return nil
		case a.target.DANE == daneWarn:
			a.warnings = append(a.warnings, "deployed although mail servers that use DANE may refuse to deliver: "+v.Reason)
			return nil
		}
		h := &held{reason: v.Reason, hold: &verdict.Hold{Publish: v.Publish, Fits: v.State.Fits, Until: v.Until, TTL: v.State.TTL, Seen: v.State.Seen, Gone: v.State.Gone}}
		if present != nil {
			h.hold.Expires = present[0].NotAfter
			h.reason += "; the present certificate " + expires(present[0].NotAfter, time.Now())
		}
		return h
	}
}

func expires(at, now time.Time) string {
	if now.Before(at) {
		return "expires on " + legible.Moment(at)
	}
	return "expired on " + legible.Moment(at)
}

func stateOf(h *verdict.Hold) dane.State {
	if h == nil {
		return dane.State{}
	}
	return dane.State{Fits: h.Fits, TTL: h.TTL, Seen: h.Seen, Gone: h.Gone}
}

// heldFailure returns the failure of a deployment that waits; nil if err is another one.
func heldFailure(err error) *verdict.Failure {
	h, ok := errors.AsType[*held](err)
	if !ok {
		return nil
	}
	f := verdict.Fail(verdict.DeployHeld, verdict.PhaseDANE, h.reason)
	f.Rollback, f.Hold = verdict.RollbackNotNeeded, h.hold
	return f
}

// mayReturn is mayReplace of a rollback. An operator orders it because something is wrong now, so it does
// not wait; only a former certificate with which mail servers would stop to deliver is refused.
func (a *attempt) mayReturn() func(context.Context, []*x509.Certificate, []*x509.Certificate) error {
	if !a.target.usesDANE() {
		return nil
	}
	return func(ctx context.Context, present, wanted []*x509.Certificate) error {
		change := a.target.change(present, wanted)
		if len(change.Servers) == 0 {
			a.warnings = append(a.warnings, noNames)
			return nil
		}
		v := a.opts.Resolver.Check(ctx, change, dane.State{}, time.Now())
		if a.target.DANE == daneHold && len(v.Publish) > 0 && !v.Broken {
			return &held{reason: v.Reason + "; to roll back all the same, set dane: warn in the target", hold: &verdict.Hold{Publish: v.Publish}}
		}
		if !v.Ready {
			a.warnings = append(a.warnings, "mail servers that use DANE may refuse to deliver: "+v.Reason)
		}
		return nil
	}
}

// daneFindings says what a deployment would wait for; without wanted, whether the present
// certificate fits.
func (c *Courier) daneFindings(ctx context.Context, t *Target, present, wanted []*x509.Certificate) (all []verdict.Finding) {
	if wanted == nil {
		return c.daneOfPresent(ctx, t, present)
	}
	if !t.usesDANE() || len(present) > 0 && present[0].Equal(wanted[0]) {
		return nil
	}
	change := t.change(present, wanted)
	if len(change.Servers) == 0 {
		return []verdict.Finding{{What: "dane_names", Status: verdict.Warning, Message: noNames}}
	}
	v := c.opts.Resolver.Check(ctx, change, dane.State{}, time.Now())
	for _, note := range v.Notes {
		all = append(all, verdict.Finding{What: "dane", Status: verdict.OK, Message: note})
	}
	switch {
	case v.Ready:
	case t.DANE == daneHold:
		all = append(all, verdict.Finding{What: "dane", Status: verdict.Warning, Message: "the deployment would wait: " + v.Reason})
	default:
		all = append(all, verdict.Finding{What: "dane", Status: verdict.Warning, Message: "it would be deployed, and mail servers that use DANE may refuse to deliver: " + v.Reason})
	}
	return all
}

// daneOfPresent says whether the certificate that is there now fits the records.
func (c *Courier) daneOfPresent(ctx context.Context, t *Target, present []*x509.Certificate) []verdict.Finding {
	if !t.usesDANE() || len(present) == 0 {
		return nil
	}
	change := t.change(present, present)
	v := c.opts.Resolver.Check(ctx, change, dane.State{}, time.Now())
	switch {
	case len(change.Servers) == 0:
		return []verdict.Finding{{What: "dane_names", Status: verdict.Warning, Message: noNames}}
	case len(v.Publish) > 0:
		return []verdict.Finding{{What: "dane", Status: verdict.Warning, Message: unfit(v)}}
	case v.Unknown:
		return []verdict.Finding{{What: "dane", Status: verdict.Warning, Message: v.Reason}}
	case len(v.State.Seen) > 0:
		return []verdict.Finding{{What: "dane", Status: verdict.OK, Message: "the TLSA records fit the certificate that is there now"}}
	case len(v.Notes) > 0:
		return []verdict.Finding{{What: "dane", Status: verdict.OK, Message: strings.Join(v.Notes, "; ")}}
	}
	return nil
}

// unfit says that mail servers refuse the certificate that is there.
func unfit(v dane.Verdict) string {
	return "no TLSA record fits the certificate that is there now, so mail servers that use DANE do not deliver: publish " + strings.Join(v.Publish, " and ")
}
