package delivery

import (
	"context"
	"fmt"
	"time"

	"github.com/certpost/certpost/internal/verdict"
)

// The values of Target.Superseded, what to do with a certificate when the target was already sent
// one that supersedes it.
const (
	SupersededDeliver    = "deliver"
	SupersededSkip       = "skip"
	SupersededDeadLetter = "dead_letter"
)

// supersededRetry is how long a delivery waits when it is not known whether the target has a newer
// certificate.
const supersededRetry = 5 * time.Second

// checkNewer returns the failure for a certificate that a newer one has superseded at the
// target, by the target's policy. It comes before any secret is fetched or made.
func (a *attempt) checkNewer(ctx context.Context) *verdict.Failure {
	policy := a.target.Superseded
	if policy == "" || policy == SupersededDeliver || a.order.Newer == nil {
		return nil
	}
	b, failure := a.certificate(ctx, a.event)
	if failure != nil {
		return failure
	}
	newer, err := a.order.Newer(ctx, verdict.CertificateOf(b.Leaf))
	if err != nil {
		f := verdict.Fail(verdict.SMTPTransient, verdict.PhaseResolve, "it is not known now whether the target already has a newer certificate; Certpost retries").Because(err)
		f.Untried, f.After = true, supersededRetry
		return f
	}
	if newer == "" {
		return nil
	}
	advice := "discard it, or replay it with force"
	if policy == SupersededSkip {
		advice = "nothing was sent"
	}
	f := verdict.Fail(verdict.SMTPValidation, verdict.PhaseResolve,
		fmt.Sprintf("the target already has a newer certificate for these names and this kind of key (%s), and its policy is superseded: %s; %s", newer, policy, advice))
	f.Skip = policy == SupersededSkip
	return f
}
