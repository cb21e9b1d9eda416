package delivery

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/config"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/mailhost"
	"github.com/certpost/certpost/internal/payload"
	"github.com/certpost/certpost/internal/verdict"
)

// deploy puts the certificate onto the mail host of the target: the counterpart of transmit
// for targets of the types postfix, dovecot and file.
func (a *attempt) deploy(ctx context.Context) (*verdict.Receipt, *verdict.Failure) {
	d, failure := a.hostDeployment(a.target)
	if failure != nil {
		return nil, failure
	}
	warnings, err := a.certificateWarnings(a.target, a.p.bundle, time.Now())
	if err != nil {
		return nil, asFailure(err)
	}
	material, err := a.target.material(a.p)
	if err != nil {
		return nil, asFailure(err)
	}
	defer clear(material.File)
	a.warnings = warnings
	deployer := mailhost.Deployer{
		Event: mailhost.Event{ID: a.event.ID, Publication: a.order.Published, Force: a.order.Force},
		Admit: a.mayReplace(), Claim: a.order.Claim, Reached: a.opts.Reached,
	}
	result, err := deployer.Deploy(ctx, d, material)
	if err != nil {
		return nil, deployFailure(err)
	}
	a.warnings = append(a.warnings, result.Notes...)
	return a.deployed(result), nil
}

// material is what the engine deploys.
func (t *Target) material(p *provisions) (mailhost.Material, error) {
	m := mailhost.Material{Bundle: p.bundle, Key: p.key}
	if !t.oneFile() {
		return m, nil
	}
	settings := t.settings(p.vars)
	files, err := payload.Build(settings, p.bundle, p.key, p.passphrase, time.Now())
	if err != nil {
		return m, err
	}
	m.File, m.Same = files[0].Data, settings.Same(p.bundle, p.passphrase)
	return m, nil
}

// deployed is the receipt of a deployment.
func (a *attempt) deployed(result *mailhost.Result) *verdict.Receipt {
	// Also if it is unchanged: the file may be right, and the program still serve what was there before.
	if a.opts.Deployed != nil {
		a.opts.Deployed()
	}
	r := &verdict.Receipt{
		Host: a.target.Host, State: string(result.State), Steps: result.Done, RollbackAvailable: result.Backup,
		Definition: a.defs.version(a.target), At: time.Now().UTC().Truncate(time.Millisecond), Payload: payload.PEMAndKey,
		Files: a.target.hostFiles(), PrivateKey: verdict.KeyClear, Certificate: a.described, Secrets: a.p.versions, Warnings: a.warnings,
	}
	if a.target.oneFile() {
		r.Payload, r.PrivateKey = a.target.Payload, a.target.keySent()
	}
	if r.PrivateKey.Sent() {
		r.KeyMode = a.target.KeyMode.String()
	}
	if result.Replaced != nil {
		r.Replaced = verdict.CertificateOf(result.Replaced).Fingerprint
	}
	r.Timings.Secrets, r.Timings.Send, r.Timings.Total = a.fetched.Sub(a.started), time.Since(a.fetched), time.Since(a.started)
	if len(result.Served) > 0 {
		r.TLS, r.Peer = result.Served[0].TLS, result.Served[0].Peer
	}
	return r
}

// hostFiles are the paths of the target's files, each once.
func (t *Target) hostFiles() []string {
	files := slices.DeleteFunc([]string{t.CertPath, t.KeyPath, t.ChainPath}, func(path string) bool { return path == "" })
	slices.Sort(files)
	return slices.Compact(files)
}

// hostDeployment returns what the engine has to do for a target, if this process runs on its
// host.
func (c *Courier) hostDeployment(t *Target) (mailhost.Deployment, *verdict.Failure) {
	if t.lane != c.opts.HostLane || c.opts.HostLane == "" {
		return mailhost.Deployment{}, verdict.Fail(verdict.TargetInvalid, verdict.PhaseResolve, fmt.Sprintf(
			"target %s is on mail host %s, and this process does not run there: its configuration needs mail_host: %s, then replay", t.ID, legible.Clean(t.Host, 100), legible.Clean(t.Host, 100)))
	}
	d := t.deployment()
	roots, err := t.PostDeployVerify.roots()
	if err != nil {
		return d, verdict.Fail(verdict.TargetInvalid, verdict.PhaseResolve, fmt.Sprintf("post_deploy_verify.ca_file %s of target %s: %s; fix it, then replay",
			legible.Clean(t.PostDeployVerify.CAFile, 300), t.ID, legible.Clean(err.Error(), 300)))
	}
	d.Verify.Roots = roots
	return d, nil
}

// stepPhases has the phase of each step of a deployment.
var stepPhases = map[mailhost.Step]verdict.Phase{
	mailhost.StepCheck: verdict.PhasePayload, mailhost.StepPaths: verdict.PhaseWrite, mailhost.StepRecover: verdict.PhaseWrite,
	mailhost.StepWrite: verdict.PhaseWrite, mailhost.StepValidate: verdict.PhaseValidate, mailhost.StepReload: verdict.PhaseReload, mailhost.StepVerify: verdict.PhaseVerify,
}

// deployFailure turns an error of the engine into a verdict. Its texts quote no key.
func deployFailure(err error) *verdict.Failure {
	if f, ok := errors.AsType[*mailhost.Failure](err); ok {
		out := verdict.Fail(f.Code, stepPhases[f.Step], f.Reason).Because(err)
		out.Rollback = verdict.Rollback(f.Rollback)
		return out
	}
	if f := heldFailure(err); f != nil {
		return f
	}
	if older, ok := errors.AsType[*mailhost.Older](err); ok {
		out := verdict.Fail(verdict.SMTPValidation, verdict.PhaseResolve, older.Reason)
		out.Rollback, out.Skip = verdict.RollbackNotNeeded, true
		return out
	}
	// The end of the process, or a claim that was not given: nothing was touched.
	out := verdict.Fail(verdict.SMTPTransient, verdict.PhaseClaim, "the deployment did not begin").Because(err)
	out.Rollback = verdict.RollbackNotNeeded
	return out
}

// RecoverHost ends the deployments on this process's mail host that a crash has interrupted:
// it is for the start of a process, before anything is delivered. It returns one text for each
// target where there was something to end; problem says that this failed.
func (c *Courier) RecoverHost(ctx context.Context, report func(target, text string, problem bool)) {
	for _, t := range c.book.Current().targets {
		if t.lane != c.opts.HostLane || c.opts.HostLane == "" || t.Disabled {
			continue
		}
		d, failure := c.hostDeployment(t)
		if failure != nil {
			report(t.ID, failure.Reason, true)
			continue
		}
		recovered, err := (mailhost.Deployer{Reached: c.opts.Reached}).Recover(ctx, d)
		switch {
		case err != nil && ctx.Err() == nil:
			report(t.ID, legible.Clean(err.Error(), 600), true)
		case recovered:
			report(t.ID, fmt.Sprintf("a deployment to target %s (%s) that was interrupted was finished, or the former files were put back", t.ID, strings.Join(t.hostFiles(), ", ")), false)
		}
	}
}

// RollBack puts the files back that a deployment replaced. The receipt is about the certificate that is
// back.
func (c *Courier) RollBack(ctx context.Context, what verdict.Deployed) (*verdict.Receipt, *verdict.Failure) {
	defs, started := c.book.Current(), time.Now()
	t, failure := lookUp(defs, what.Target)
	if failure == nil && !t.onHost() {
		failure = verdict.Fail(verdict.TargetInvalid, verdict.PhaseResolve, fmt.Sprintf("target %s is a mail: %s", t.ID, (&verdict.Receipt{}).Remedy()))
	}
	if failure != nil {
		return nil, failure
	}
	d, failure := c.hostDeployment(t)
	if failure != nil {
		return nil, failure
	}
	a := &attempt{Courier: c, defs: defs, target: t, started: started, fetched: started}
	deployer := mailhost.Deployer{Event: mailhost.Event{ID: what.Event, Publication: what.Published}, Admit: a.mayReturn(), Reached: c.opts.Reached}
	result, err := deployer.Former(ctx, d, what.Fingerprint)
	if err != nil {
		return nil, deployFailure(err)
	}
	a.p, a.warnings = &provisions{bundle: &payload.Bundle{Leaf: result.Leaf}}, append(a.warnings, result.Notes...)
	a.described = verdict.CertificateOf(result.Leaf)
	return a.deployed(result), nil
}

// Plan says what a delivery of an event to a target on this mail host would do, and changes
// nothing. It fetches the key as a delivery does.
func (c *Courier) Plan(ctx context.Context, ev *events.Event, target string) []verdict.Finding {
	return c.PlanWithKey(ctx, ev, target, nil)
}

// PlanWithKey is Plan with the certificate's private key in PEM; nil: the event says where it is.
func (c *Courier) PlanWithKey(ctx context.Context, ev *events.Event, target string, key []byte) []verdict.Finding {
	return c.plan(ctx, target, ev, key, verdict.Publication{})
}

// plan is PlanWithKey of an event that has a place in the order of publication.
func (c *Courier) plan(ctx context.Context, target string, ev *events.Event, key []byte, place verdict.Publication) []verdict.Finding {
	failed := func(what string, f *verdict.Failure) []verdict.Finding {
		return []verdict.Finding{{What: what, Status: verdict.Error, Message: f.Error()}}
	}
	t, failure := lookUp(c.book.Current(), target)
	if failure == nil && !t.onHost() {
		failure = verdict.Fail(verdict.TargetInvalid, verdict.PhaseResolve, fmt.Sprintf("target %s is a mail: certpost render shows it", t.ID))
	}
	if failure != nil {
		return failed("target", failure)
	}
	b, failure := c.certificate(ctx, ev)
	if failure != nil {
		return failed("certificate", failure)
	}
	if _, err := c.certificateWarnings(t, b, time.Now()); err != nil {
		return failed("certificate", asFailure(err))
	}
	p := newProvisions(t, b)
	p.trial = true
	defer p.clear()
	if key == nil {
		p.key, failure = c.privateKey(ctx, t, ev, p)
	} else {
		p.key, failure = c.openKey(ctx, t, p, bytes.Clone(key))
	}
	if failure != nil {
		return failed("key", failure)
	}
	if failure := c.ownSecrets(ctx, t, p); failure != nil {
		return failed("secret", failure)
	}
	m, err := t.material(p)
	if err != nil {
		return failed("certificate", asFailure(err))
	}
	defer clear(m.File)
	return c.planned(ctx, t, &m, mailhost.Event{ID: ev.ID, Publication: place})
}

// isMail returns the refusal to make a mail for a target on a mail host; nil for a mail.
func (t *Target) isMail() *verdict.Failure {
	if !t.onHost() {
		return nil
	}
	return verdict.Fail(verdict.TargetInvalid, verdict.PhaseResolve,
		fmt.Sprintf("target %s is on mail host %s and gets no mail: certpost deliveries plan says what a deployment would do", t.ID, legible.Clean(t.Host, 100)))
}

// host checks what a replay of a deployment needs: what can be known here, and on the mail host itself
// everything.
func (e *examination) host(ctx context.Context, place verdict.Publication) {
	c, t := e.courier, e.t
	if e.bundle == nil {
		return
	}
	if failure := c.foreseeHost(t, e.bundle, e.ev); failure != nil {
		e.say("deployment", verdict.Error, "%s", failure.Error())
		return
	}
	if t.lane == c.opts.HostLane {
		e.found = append(e.found, c.plan(ctx, t.ID, e.ev, nil, place)...)
		return
	}
	e.say("deployment", verdict.OK, "the certificate can be deployed; its key, the files and the program are on mail host %s: certpost deliveries plan looks there", legible.Clean(t.Host, 100))
}

// probeHost checks what a deployment to a target on a mail host needs.
func (c *Courier) probeHost(ctx context.Context, t *Target) []verdict.Finding {
	if t.lane != c.opts.HostLane || c.opts.HostLane == "" {
		return []verdict.Finding{{What: "mail host", Status: verdict.OK, Message: fmt.Sprintf("not looked at, because it is %s: `certpost check --live` there checks it", legible.Clean(t.Host, 100))}}
	}
	return c.planned(ctx, t, nil, mailhost.Event{})
}

// planned says what a deployment to a target on this host would do, without material only what can be
// said without a certificate.
func (c *Courier) planned(ctx context.Context, t *Target, m *mailhost.Material, of mailhost.Event) (all []verdict.Finding) {
	d, failure := c.hostDeployment(t)
	if failure != nil {
		return []verdict.Finding{{What: "target", Status: verdict.Error, Message: failure.Reason}}
	}
	for _, f := range (mailhost.Deployer{Event: of}).Plan(ctx, d, m) {
		status := verdict.OK
		switch {
		case f.Failed:
			status = verdict.Error
		case f.Warning:
			status = verdict.Warning
		}
		all = append(all, verdict.Finding{What: f.What, Status: status, Message: f.Text})
	}
	var wanted []*x509.Certificate
	if m != nil {
		wanted = append([]*x509.Certificate{m.Bundle.Leaf}, m.Bundle.Chain...)
	}
	return append(all, c.daneFindings(ctx, t, mailhost.Present(d), wanted)...)
}

// ValidateHost returns the problem of the option mail_host.
func ValidateHost(host string) []config.Problem {
	if host == "" || wrongHost(host) == "" {
		return nil
	}
	return []config.Problem{{Path: "mail_host", Message: "want the name of this host as in the targets' host, such as mx1 or mx1.example.com"}}
}
