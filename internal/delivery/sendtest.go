package delivery

import (
	"context"
	"time"

	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/verdict"
)

// SendTest sends a target's mail for a certificate that nobody uses: through the target's
// relay, with its login, its payload and its recipients, but without a ledger. key is the
// certificate's private key, PEM. The subject begins with TEST.
func (c *Courier) SendTest(ctx context.Context, ev *events.Event, target string, key []byte) (*verdict.Receipt, *verdict.Failure) {
	a := &attempt{Courier: c, order: verdict.Attempt{Target: target, Number: 1, Claim: func(time.Time) error { return nil }}, event: ev, defs: c.book.Current(), started: time.Now()}
	defer a.clear()
	t, failure := lookUp(a.defs, target)
	if failure != nil {
		return nil, failure
	}
	marked := *t
	marked.SubjectPrefix = "TEST " + t.SubjectPrefix
	a.target = &marked
	b, failure := c.certificate(ctx, ev)
	if failure != nil {
		return nil, failure
	}
	a.p = newProvisions(t, b)
	a.p.key = key
	if failure := a.address(); failure != nil {
		return nil, a.explain(failure)
	}
	if failure := c.ownSecrets(ctx, t, a.p); failure != nil {
		return nil, a.explain(failure)
	}
	a.fetched = time.Now()
	if a.msg, failure = a.render(ctx); failure != nil {
		return nil, a.explain(failure)
	}
	a.rendered = time.Now()
	receipt, failure := a.transmit(ctx)
	return receipt, a.target.explainLogin(a.explain(failure))
}
