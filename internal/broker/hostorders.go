package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/certpost/certpost/internal/verdict"
)

// hostOrderSubject is where the process on a mail host takes the orders of the others; only
// Certpost's own NATS users may publish there.
func hostOrderSubject(lane string) string { return servicePrefix + "host." + lane }

// The orders.
const (
	OrderRollback = "rollback" // put the files back that a deployment replaced
	OrderPlan     = "plan"     // say what a deployment would do
)

// HostOrder is what another process asks of the one on a mail host.
type HostOrder struct {
	Order  string `json:"order"`
	Target string `json:"target"`
	// Of a rollback: the id of the event whose deployment it is, and who wants it and why. They
	// are stored with the receipt.
	Event  string `json:"event,omitempty"`
	By     string `json:"by,omitempty"`
	Reason string `json:"reason,omitempty"`
	// Body is the event of a plan, as it would be published.
	Body []byte `json:"body,omitempty"`
}

// HostAnswer is the answer to a HostOrder.
type HostAnswer struct {
	Receipt  *verdict.Receipt  `json:"receipt,omitempty"` // of a rollback that succeeded, about the certificate that is back
	Failure  *verdict.Outcome  `json:"failure,omitempty"`
	Findings []verdict.Finding `json:"findings,omitempty"` // of a plan
}

// ErrHostAway says that no process runs on the mail host.
var ErrHostAway = errors.New("no process runs on this mail host now")

// hostOrderTimeout bounds the wait for a host whose commands and server may be slow; the
// work there goes on if it takes longer.
const hostOrderTimeout = 4 * time.Minute

// AskHost gives an order to the process on a mail host and waits for its answer; ErrHostAway
// if there is none.
func (b *Broker) AskHost(ctx context.Context, lane string, order HostOrder) (answer HostAnswer, err error) {
	body, err := json.Marshal(order)
	if err != nil {
		return answer, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, hostOrderTimeout, fmt.Errorf("the process on the mail host did not answer within %s; `certpost deliveries show` says later how it ended", hostOrderTimeout))
	defer cancel()
	msg, err := b.nc.RequestWithContext(ctx, hostOrderSubject(lane), body)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return answer, ErrHostAway
	case err != nil && ctx.Err() != nil:
		return answer, context.Cause(ctx)
	case err != nil:
		return answer, fmt.Errorf("order to the mail host of lane %s: %w", lane, err)
	}
	if err := json.Unmarshal(msg.Data, &answer); err != nil {
		return answer, fmt.Errorf("this version cannot read the answer of the process on the mail host of lane %s: run the same version there", lane)
	}
	return answer, nil
}

// ServeHost answers the orders for a mail host until the context ends, then finishes the one in
// progress. They are done one after the other. answer gets a context that does not end with ctx.
func (b *Broker) ServeHost(ctx context.Context, lane string, answer func(context.Context, HostOrder) HostAnswer) error {
	orders := make(chan *nats.Msg, 16)
	sub, err := b.nc.ChanQueueSubscribe(hostOrderSubject(lane), lane, orders)
	if err != nil {
		return fmt.Errorf("orders for lane %s: %w", lane, err)
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only without a connection
	for {
		select {
		case <-ctx.Done():
			return nil
		case m := <-orders:
			b.answerOrder(ctx, m, answer)
		}
	}
}

func (b *Broker) answerOrder(ctx context.Context, m *nats.Msg, answer func(context.Context, HostOrder) HostAnswer) {
	if !replyAllowed(m.Reply) || m.Reply == "" {
		b.log.Warn().Str("subject", m.Subject).Msg("refused an order whose answer could not be sent; nothing was done")
		return
	}
	var order HostOrder
	out := HostAnswer{Failure: &verdict.Outcome{Code: verdict.TargetInvalid, Phase: verdict.PhaseDecode, Reason: "this version cannot read the order: run the same version on all hosts", Certainty: verdict.NotSent}}
	if json.Unmarshal(m.Data, &order) == nil {
		out = answer(context.WithoutCancel(ctx), order)
	}
	text, err := json.Marshal(out)
	if err == nil {
		err = b.nc.Publish(m.Reply, text)
	}
	if err != nil {
		b.log.Debug().Err(err).Str("order", order.Order).Msg("the answer to an order could not be sent")
	}
}
