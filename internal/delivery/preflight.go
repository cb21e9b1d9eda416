package delivery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/payload"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/smtp"
	"github.com/certpost/certpost/internal/verdict"
)

// Examine checks whether a delivery of an event to a target would succeed now, and
// sends nothing. It checks the target, the event, what its source may name, its
// certificate and key, the target's secrets, the mail, and each relay up to AUTH, each once
// and within the target's timeout. An Error among the findings means that the delivery would
// fail.
func (i Inspector) Examine(ctx context.Context, trial verdict.Trial) []verdict.Finding {
	e := examination{courier: i.courier, defs: i.courier.book.Current(), trial: trial}
	e.target(trial.Target)
	e.event(trial.Event)
	if e.ev != nil {
		e.ev.Subject = trial.From.Subject
		e.source(trial.Target)
		e.certificate(ctx)
	}
	if e.t == nil {
		return e.found
	}
	if e.t.onHost() {
		e.host(ctx, trial.From.Published)
		return e.found
	}
	p := &provisions{versions: map[string]string{}, vars: secrets.Vars{"target": e.t.ID}}
	if e.bundle != nil {
		p = newProvisions(e.t, e.bundle)
	}
	p.trial = true
	defer p.clear()
	if e.bundle != nil && e.keyAndPayload(ctx, p) {
		e.mail(ctx, p)
	}
	defer func() { e.msg.release() }()
	e.found = append(e.found, e.courier.probeKeys(ctx, e.t)...)
	e.relays(ctx, p)
	return e.found
}

// MessageID returns the Message-ID of the mail for an event and a target, the same
// for every attempt: the operator can look for it at the relay when the outcome is
// unknown. It is "" if the target is unknown or its from_address invalid.
func (i Inspector) MessageID(target, event string) string {
	t, ok := i.courier.book.Current().Get(target)
	if !ok {
		return ""
	}
	from, err := parseMailbox("from_address", t.FromAddress)
	if err != nil {
		return ""
	}
	return messageID(event, t.ID, cmp.Or(i.courier.opts.MessageIDDomain, from.domain()))
}

// Recipients returns the recipients that a target's definition names, without those that each event
// fills; nil if the target is unknown or has none.
func (i Inspector) Recipients(target string) []string {
	t, ok := i.courier.book.Current().Get(target)
	if !ok {
		return nil
	}
	return slices.DeleteFunc(slices.Concat(t.To, t.CC, t.BCC), hasPlace)
}

// examination collects the findings of one preflight. What could not be loaded is nil.
type examination struct {
	courier *Courier
	defs    *Definitions
	trial   verdict.Trial
	found   []verdict.Finding

	t      *Target
	ev     *events.Event
	bundle *payload.Bundle
	msg    *message
}

func (e *examination) say(what string, status verdict.Status, format string, args ...any) {
	e.found = append(e.found, verdict.Finding{What: what, Status: status, Message: fmt.Sprintf(format, args...)})
}

func (e *examination) target(id string) {
	t, failure := lookUp(e.defs, id)
	if failure != nil {
		e.say("target", verdict.Error, "%s", failure.Reason)
		return
	}
	e.t = t
	if t.onHost() {
		e.say("target", verdict.OK, "%s is defined: %s on mail host %s", t.ID, t.Type, legible.Clean(t.Host, 100))
		return
	}
	e.say("target", verdict.OK, "%s is defined: payload %s, relay %s", t.ID, t.Payload, smtp.RelayName(t.Host, t.Port))
}

// event decodes the body. Only the reasons of events.Invalid are shown: they are
// texts of Certpost.
func (e *examination) event(body []byte) {
	ev, err := events.Decode(nil, body)
	if invalid := (*events.Invalid)(nil); errors.As(err, &invalid) {
		e.say("event", verdict.Error, "the event cannot be read: %s", invalid.Reason)
		return
	}
	if err != nil {
		e.say("event", verdict.Error, "the event cannot be read")
		return
	}
	e.ev = ev
	e.say("event", verdict.OK, "the event can be read")
}

// source reports what the event's source may not do; that it may is said only where sources
// are limited. The secrets that it may not name are reported where they are fetched.
func (e *examination) source(target string) {
	may, failure := e.courier.sources.of(e.ev)
	if failure == nil && target != "" {
		failure = may.target(target)
	}
	switch {
	case failure != nil:
		e.say("source", verdict.Error, "%s", failure.Reason)
	case may.source != "":
		e.say("source", verdict.OK, "%s may send to the target", may.source)
	}
}

func (e *examination) certificate(ctx context.Context) {
	b, failure := e.courier.certificate(ctx, e.ev)
	if failure != nil {
		e.say("certificate", verdict.Error, "%s", failure.Error())
		return
	}
	e.bundle = b
	now := time.Now()
	t := e.t
	if t == nil {
		t = &Target{}
	}
	warnings, err := e.courier.certificateWarnings(t, b, now)
	switch {
	case err != nil:
		e.say("certificate", verdict.Error, "%s", asFailure(err).Reason)
	case len(warnings) > 0:
		e.say("certificate", verdict.Warning, "%s; the mail has this warning", strings.Join(warnings, "; "))
	default:
		e.say("certificate", verdict.OK, "%s: %s", payload.ShortName(b.Leaf), validity(b.Leaf.NotAfter, now))
	}
}

// keyAndPayload fetches the private key and builds the payload, which checks that the
// key matches the certificate. It reports whether the mail can be rendered.
func (e *examination) keyAndPayload(ctx context.Context, p *provisions) bool {
	settings, what := e.t.settings(p.vars), "payload"
	if settings.NeedsKey() {
		what = "key"
		var failure *verdict.Failure
		if p.key, failure = e.courier.privateKey(ctx, e.t, e.ev, p); failure != nil {
			e.say("key", verdict.Error, "%s", failure.Error())
			return false
		}
	}
	if settings.Passphrase() != "" {
		if failure := e.courier.fetchPassphrase(ctx, e.t, p); failure != nil {
			return false // the check of the target's secrets reports it
		}
	}
	files, err := payload.Build(settings, p.bundle, p.key, p.passphrase, time.Now())
	for _, f := range files {
		clear(f.Data)
	}
	switch encrypted := settings.Passphrase() != ""; {
	case err != nil:
		e.say(what, verdict.Error, "%s", asFailure(err).Error())
	case settings.NeedsKey() && encrypted:
		e.say("key", verdict.OK, "it can be read, matches the certificate, and the %s file can be made", e.t.Payload)
	case settings.NeedsKey():
		e.say("key", verdict.OK, "it can be read and matches the certificate")
	}
	return err == nil
}

// mail renders the mail that would be sent. A refused certificate is already reported.
func (e *examination) mail(ctx context.Context, p *provisions) {
	addressed, failure := e.t.addressed(p.bundle, e.ev)
	if failure != nil {
		e.say("mail", verdict.Error, "%s", failure.Error())
		return
	}
	if _, err := e.courier.certificateWarnings(e.t, p.bundle, time.Now()); err != nil {
		return
	}
	msg, failure := (&attempt{Courier: e.courier, order: verdict.Attempt{Target: e.t.ID, Number: 1, Accepted: e.trial.Accepted}, event: e.ev, target: addressed, p: p}).preview(ctx)
	if failure != nil {
		e.say("mail", verdict.Error, "%s", failure.Error())
		return
	}
	e.msg = msg
	e.say("mail", verdict.OK, "the mail can be built; number of recipients: %d", len(msg.recipients))
}

// relays checks each relay of the target. An error of a fallback is only a warning,
// and so is an unavailable first relay if a fallback answers.
func (e *examination) relays(ctx context.Context, p *provisions) {
	relays := e.defs.relays[e.t.ID]
	primaryAway, fallbackAnswers := false, false
	first := len(e.found)
	for n, relay := range relays {
		p.vars["host"] = relay.Host
		findings, away := e.courier.probe(ctx, relay, n > 0, p, e.msg, e.trial.Envelope)
		good := true
		for i := range findings {
			if good = good && findings[i].Status != verdict.Error; n > 0 && findings[i].Status == verdict.Error {
				findings[i].Status = verdict.Warning
			}
			if n > 0 {
				findings[i].Message = "fallback: " + findings[i].Message
			}
		}
		primaryAway = primaryAway || n == 0 && away
		fallbackAnswers = fallbackAnswers || n > 0 && good
		e.found = append(e.found, findings...)
	}
	if primaryAway && fallbackAnswers {
		for i := range e.found[first:] {
			if f := &e.found[first+i]; f.What == "relay" && f.Status == verdict.Error {
				f.Status, f.Message = verdict.Warning, f.Message+"; a fallback answers"
			}
		}
	}
}
