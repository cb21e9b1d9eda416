package delivery

import (
	"context"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/verdict"
)

// SendTest sends a target's mail for a certificate that nobody uses: through the target's
// relay, with its login, its payload and its recipients, but without a ledger. key is the
// certificate's private key, PEM. The subject begins with TEST. It is a single try, and the
// failure says what to do about that.
func (c *Courier) SendTest(ctx context.Context, ev *events.Event, target string, key []byte) (*verdict.Receipt, *verdict.Failure) {
	receipt, failure := c.sendTest(ctx, ev, target, key)
	if failure != nil {
		failure.Reason = singleTry.Replace(failure.Reason)
		for i := range failure.Refused {
			failure.Refused[i].Reason = singleTry.Replace(failure.Refused[i].Reason)
		}
	}
	return receipt, failure
}

// singleTry replaces what the reasons say of deliveries, which are retried, pause their relay,
// or become dead letters that can be replayed.
var singleTry = strings.NewReplacer(
	"Certpost pauses the relay for limit_pause and retries, without counting an attempt", "test again when it is over",
	"Certpost retries; if it keeps failing, check", "check",
	"; Certpost retries", "; test again later",
	"Certpost retries", "test again later",
	", then replay", ", then test again",
)

func (c *Courier) sendTest(ctx context.Context, ev *events.Event, target string, key []byte) (*verdict.Receipt, *verdict.Failure) {
	a := &attempt{Courier: c, order: verdict.Attempt{Target: target, Number: 1, Claim: func(time.Time) error { return nil }}, event: ev, defs: c.book.Current(), started: time.Now()}
	defer a.clear()
	t, failure := lookUp(a.defs, target)
	if failure == nil {
		failure = t.isMail()
	}
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
