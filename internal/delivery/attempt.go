package delivery

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/payload"
	"github.com/certpost/certpost/internal/verdict"
)

// attempt is one attempt at one delivery: its input, and what it has fetched and
// rendered.
type attempt struct {
	*Courier
	order  verdict.Attempt
	event  *events.Event
	defs   *Definitions // as of the start of the attempt
	target *Target
	p      *provisions
	msg    *message
	// described is the certificate, for the ledger and the receipt.
	described *verdict.Certificate
	// release lets go of the payload's files, once rendered. A delivery holds them to its
	// end, so that the others of the event that are in work meanwhile need not build them.
	release func()

	warnings []string // for the receipt

	started, fetched, rendered time.Time
	steps                      []verdict.Step // before the first relay was tried
}

// Deliver makes one attempt at one delivery, in the steps that docs/flow.md lists: it sends a mail,
// or deploys onto the mail host that this process runs on.
// Everything that can fail without the relay is done before the relay is dialled.
func (c *Courier) Deliver(ctx context.Context, ev *events.Event, order verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
	a := &attempt{Courier: c, order: order, event: ev, defs: c.book.Current(), started: time.Now()}
	defer a.clear()
	if failure := a.prepare(ctx); failure != nil {
		return nil, a.explain(failure)
	}
	if a.target.onHost() {
		receipt, failure := a.deploy(ctx)
		a.stepOf(failure)
		return receipt, a.explain(failure)
	}
	receipt, failure := a.transmit(ctx)
	if failure != nil && failure.Recipients == nil && (len(order.Accepted) > 0 || len(order.Override) > 0) {
		failure.Recipients = a.msg.recipients // fewer than the target names
	}
	return receipt, a.target.allowRetry(a.target.explainLogin(a.explain(failure)))
}

// transmit sends the rendered mail, and completes and redacts what is known of it then.
func (a *attempt) transmit(ctx context.Context) (*verdict.Receipt, *verdict.Failure) {
	receipt, failure := a.send(ctx).Verdicts()
	newRedactor(a.msg, a.p).redact(receipt, failure)
	if receipt != nil {
		a.complete(receipt)
	}
	return receipt, failure
}

// prepare checks what the source may do, looks the target up, fetches its secrets and renders the mail,
// if it is one.
func (a *attempt) prepare(ctx context.Context) (failure *verdict.Failure) {
	if failure = a.permit(); failure == nil {
		a.target, failure = lookUp(a.defs, a.order.Target)
	}
	if failure == nil {
		failure = a.checkNewer(ctx)
	}
	if failure != nil {
		a.step(failure.Phase, a.started, failure)
		return failure
	}
	if a.p, failure = a.provisions(ctx, a.target, a.event); failure == nil && !a.target.onHost() {
		failure = a.address()
	}
	if a.p != nil {
		a.described = verdict.CertificateOf(a.p.bundle.Leaf)
	}
	if a.p != nil && a.event.Certificate.Ref == nil && a.order.Parsed != nil {
		a.order.Parsed(a.described)
	}
	a.step(verdict.PhaseSecrets, a.started, failure)
	a.fetched = time.Now()
	if failure != nil || a.target.onHost() {
		return failure
	}
	a.msg, failure = a.render(ctx)
	a.step(verdict.PhaseRender, a.fetched, failure)
	a.rendered = time.Now()
	return failure
}

// permit checks that the event's source may send to the target, by the configuration of
// now: that the event became a delivery, or was replayed, opens nothing.
func (a *attempt) permit() *verdict.Failure {
	may, failure := a.sources.of(a.event)
	if failure == nil {
		failure = may.target(a.order.Target)
	}
	return failure
}

// address fills the places of the target's recipients.
func (a *attempt) address() *verdict.Failure {
	filled, failure := a.target.addressed(a.p.bundle, a.event)
	if failure == nil {
		a.target = filled
	}
	return failure
}

// step records a step. A failed step gets the phase of its failure: fetching the secrets
// may also show that the certificate is invalid.
func (a *attempt) step(phase verdict.Phase, since time.Time, failure *verdict.Failure) {
	if failure != nil {
		phase = failure.Phase
	}
	a.steps = append(a.steps, verdict.Step{Phase: phase, Took: time.Since(since)})
}

// stepOf records the deployment as a step, if it failed.
func (a *attempt) stepOf(failure *verdict.Failure) {
	if failure != nil {
		a.step(failure.Phase, a.fetched, failure)
	}
}

// preview renders a mail that is not sent by this attempt.
func (a *attempt) preview(ctx context.Context) (*message, *verdict.Failure) {
	defer a.releaseFiles()
	return a.render(ctx)
}

// render builds the payload and the mail, in memory.
func (a *attempt) render(ctx context.Context) (*message, *verdict.Failure) {
	now := time.Now()
	owed, others, failure := a.opts.Readdress.recipients(a.target, a.order)
	if failure != nil {
		return nil, failure
	}
	sealing, failure := a.sealing(ctx, a.target, a.p, others, now)
	if failure != nil {
		return nil, failure
	}
	signing, failure := a.signing(ctx, a.target, a.p, now)
	if failure != nil {
		return nil, failure
	}
	return a.assemble(now, sealing, signing, owed, others)
}

// assemble makes payload and mail of what was fetched.
func (a *attempt) assemble(now time.Time, sealing *sealing, signing signing, owed []string, others []mailbox) (*message, *verdict.Failure) {
	warnings, err := a.certificateWarnings(a.target, a.p.bundle, now)
	if err != nil {
		return nil, asFailure(err)
	}
	if _, expired := a.p.bundle.DateProblem(now); expired != "" {
		a.warnings = warnings[1:] // the receipt has the dates themselves
	} else {
		a.warnings = warnings
	}
	attachments, release, err := a.files.Build(a.target.settings(a.p.vars), a.p.bundle, a.p.key, a.p.passphrase, now)
	if err != nil {
		return nil, asFailure(err)
	}
	a.release = release
	if attachments, err = sealing.files(attachments); err != nil {
		return nil, asFailure(err)
	}
	if failure := a.target.tooLarge(attachments); failure != nil {
		return nil, failure
	}
	msg, err := renderMail(a.target, mailFacts{
		eventID: a.event.ID, source: a.event.Source, time: a.event.Time, now: now, bundle: a.p.bundle, attachments: attachments,
		recipients: owed, accepted: a.order.Accepted, others: others, possibleDuplicate: a.order.PossibleDuplicate, warnings: warnings,
		passphraseAt: a.p.passphraseAt, sealing: sealing, signing: signing, product: a.opts.Product, messageIDDomain: a.opts.MessageIDDomain,
		words: a.opts.Words, labels: a.event.Labels,
	})
	if err != nil {
		return nil, asFailure(err)
	}
	if n := len(msg.raw); n > a.target.MaxMessageBytes && a.target.MaxMessageBytes > 0 {
		msg.release()
		return nil, verdict.Fail(verdict.SMTPPayload, verdict.PhaseRender,
			fmt.Sprintf("the mail has %d bytes, and max_message_bytes allows %d; raise it or choose a smaller payload, then replay", n, a.target.MaxMessageBytes))
	}
	return msg, nil
}

// tooLarge returns the failure for an attachment above max_attachment_bytes.
func (t *Target) tooLarge(attachments []payload.Attachment) *verdict.Failure {
	for _, a := range attachments {
		if n := len(a.Data); n > t.MaxAttachmentBytes && t.MaxAttachmentBytes > 0 {
			return verdict.Fail(verdict.SMTPPayload, verdict.PhasePayload,
				fmt.Sprintf("the attachment %s has %d bytes, and max_attachment_bytes allows %d; raise it or choose a smaller payload, then replay", a.Name, n, t.MaxAttachmentBytes))
		}
	}
	return nil
}

// certificateWarnings checks the certificate by the policies of configuration and target.
func (c *Courier) certificateWarnings(t *Target, b *payload.Bundle, now time.Time) ([]string, error) {
	dates, err := payload.CheckDates(b, now, cmp.Or(t.InvalidDates, c.opts.InvalidDates))
	if err != nil {
		return nil, err
	}
	strays, err := payload.CheckChain(b, t.StrictChain)
	if err != nil {
		return nil, err
	}
	unsupported, err := payload.CheckSupported(b, t.Payload, t.AllowUnsupportedCertificate)
	return slices.Concat(dates, strays, unsupported), err
}

// complete adds to a receipt what is not known from the conversation with the relay.
func (a *attempt) complete(r *verdict.Receipt) {
	r.MessageID, r.Size = a.msg.messageID, len(a.msg.raw)
	r.Certificate, r.Secrets = a.described, a.p.versions
	r.Phases = append(slices.Clip(a.steps), r.Phases...)
	r.Timings.Secrets, r.Timings.Render, r.Timings.Total = a.fetched.Sub(a.started), a.rendered.Sub(a.fetched), time.Since(a.started)
	r.Definition = a.defs.version(a.target)
	r.Warnings = append(r.Warnings, a.warnings...)
	settings := a.target.settings(nil)
	r.At, r.Payload, r.Files, r.PrivateKey = time.Now().UTC().Truncate(time.Millisecond), cmp.Or(settings.Kind, payload.PEM), a.msg.files, a.target.keySent()
	if !r.DSN && settings.NeedsKey() {
		r.Warnings = append(r.Warnings, keyInBounces(r.Relay, a.target))
	}
}

// keySent says whether a mail to the target has the private key, and whether that, or the
// mail, is encrypted.
func (t *Target) keySent() verdict.KeySent {
	switch {
	case !t.settings(nil).NeedsKey():
		return verdict.KeyNone
	case t.keyInClear():
		return verdict.KeyClear
	}
	return verdict.KeyEncrypted
}

// explain adds to a failure the versions of the definition and the secrets that the
// attempt used, and its steps before the first relay was tried.
func (a *attempt) explain(f *verdict.Failure) *verdict.Failure {
	if f == nil || f.Untried {
		return f
	}
	if f.Transcript == nil {
		f.Transcript = &verdict.Transcript{}
	}
	f.Transcript.Steps = append(slices.Clip(a.steps), f.Transcript.Steps...)
	if a.target != nil {
		f.Transcript.Definition = a.defs.version(a.target)
		if a.target.onHost() && f.Rollback == "" {
			f.Rollback = verdict.RollbackNotNeeded
		}
	}
	if a.p != nil {
		f.Secrets = a.p.versions
	}
	return f
}

// allowRetry sets RetryAnyway for a refused login or a TLS failure if the target has
// retry_auth or retry_tls.
func (t *Target) allowRetry(f *verdict.Failure) *verdict.Failure {
	if f != nil {
		f.RetryAnyway = f.Code == verdict.SMTPAuth && t.RetryAuth || f.Code == verdict.SMTPTLS && t.RetryTLS
	}
	return f
}

// clear overwrites the secrets and the mail.
func (a *attempt) clear() {
	a.p.clear()
	a.msg.release()
	a.releaseFiles()
}

func (a *attempt) releaseFiles() {
	if a.release != nil {
		a.release()
	}
}
