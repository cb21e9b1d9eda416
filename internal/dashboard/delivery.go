package dashboard

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"html/template"
	"slices"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/verdict"
)

// deliveryView is one delivery, of one event to one target: who has the mail, and the
// evidence for it.
type deliveryView struct {
	broker.Entry
	WaitingSince time.Time // of a delivery that was never attempted
	Leaf         *verdict.Certificate
	Recipients   []recipient
	Steps        []step
	Tries        attemptsView
	OnHost       bool   // a deployment onto a mail host
	Reach        string // sent to 1 of 2; "" if none or all have the mail
	Doubtful     bool   // it is unknown whether the mail was sent
	Letter       uint64 // the open dead letter, 0 for none
	History      []historyRow
	TargetPage   string // addresses
	LanePage     string
	SameEvent    string               // all deliveries of the event
	SameLeaf     string               // all deliveries of the certificate, "" when the certificate is unknown
	Who          string               // who got the key of its name, "" likewise
	Retry        string               // the address that ends its wait, "" if it does not wait
	Cancel       string               // likewise, that cancels it
	Resend       string               // that sends it again, "" if it was not delivered
	Others       []string             // targets that the event may be sent to
	Ahead        *desk.ResendContents // what a resend would find; nil before it was asked
	To           string               // the target that was chosen then; "": the same
	Why          string               // the reason that was typed then
	Rollback     string               // the address of the rollback, "" if it is not possible
	Commands     []command
}

// recipient is one address and the outcome of the mail for it.
type recipient struct {
	Address string
	Kind    string // the class of the mark
	Word    string
	Says    string // the relay's reply
}

// step is a part of the last attempt and its duration.
type step struct {
	What string
	Took string
}

func (p *pages) delivery(r *request) (view, error) {
	if !events.IsToken(r.PathValue("target")) {
		return view{}, desk.ErrNotFound // anything but a token could be a wildcard in the bucket
	}
	detail, err := p.named(r.Context(), r.PathValue("target"), r.PathValue("event"))
	if err != nil {
		return view{}, err
	}
	letters := p.desk.Letters(desk.Query{Target: detail.Target, Event: detail.Event}, desk.Page{Size: 1}).Letters
	v := newDelivery(detail, letters)
	for _, id := range p.targetIDs() {
		if id != detail.Target {
			v.Others = append(v.Others, id)
		}
	}
	return view{template: "delivery", title: "Delivery of " + detail.Event + " to " + detail.Target, data: v, object: detail}, nil
}

// named is the delivery of an event, given by its id or by its token. Addresses hold
// the token, because an id may contain any character; the id cannot be derived from it.
func (p *pages) named(ctx context.Context, target, event string) (desk.DeliveryDetail, error) {
	detail, err := p.desk.Delivery(ctx, target, event)
	if !errors.Is(err, desk.ErrNotFound) {
		return detail, err
	}
	found, err := p.desk.Deliveries(ctx, desk.DeliveryQuery{Target: target, Event: event}, 0, 1)
	if err != nil {
		return detail, err
	}
	if len(found.Entries) == 0 {
		return detail, desk.ErrNotFound
	}
	return p.desk.Delivery(ctx, target, found.Entries[0].Event)
}

func newDelivery(d desk.DeliveryDetail, letters []desk.Letter) deliveryView {
	e := d.Entry
	token := events.Token(e.Event)
	v := deliveryView{
		Entry: e, WaitingSince: d.WaitingSince, OnHost: verdict.OnHost(e.Lane), Leaf: leafOf(&e), Doubtful: doubtful(&e), Reach: desk.Reach(&e), Recipients: recipients(&e), Tries: attemptsOf(&e), History: historyRows(d.History), TargetPage: targetAddress(e.Target), LanePage: laneAddress(e.Lane),
		SameEvent: address(deliveriesPath, queryOf("event", e.Event)),
		Commands: []command{{"certpost", shellLine("certpost", "deliveries", "show", e.Event, e.Target)},
			{"nats", shellLine("nats", "kv", "get", broker.LedgerBucket, e.Target+"."+token, "--raw")}},
	}
	if v.Leaf != nil {
		v.SameLeaf = address(deliveriesPath, queryOf("fingerprint", v.Leaf.Fingerprint))
		v.Who = whoAddress(v.Leaf.Name(), true)
	}
	if e.State == broker.StateWaiting {
		v.Retry, v.Cancel = deliveryAddress(e.Target, e.Event)+"/retry", deliveryAddress(e.Target, e.Event)+"/cancel"
		v.Commands = append(v.Commands, command{"certpost", shellLine("certpost", "deliveries", "retry", "--event="+e.Event, "--target="+e.Target)},
			command{"certpost", shellLine("certpost", "deliveries", "cancel", "--event="+e.Event, "--target="+e.Target, "--reason=WHY")})
	}
	if e.State == broker.StateSent {
		v.Resend = deliveryAddress(e.Target, e.Event) + "/resend"
		v.Commands = append(v.Commands, command{"certpost", shellLine("certpost", "deliveries", "resend", "--event="+e.Event, "--target="+e.Target, "--reason=WHY")})
	}
	if d.RollbackAvailable {
		v.Rollback = deliveryAddress(e.Target, e.Event) + "/rollback"
		v.Commands = append(v.Commands, command{"certpost", shellLine("certpost", "deliveries", "rollback", e.Event, e.Target, "--reason=WHY")})
	}
	if len(letters) > 0 {
		v.Letter = letters[0].Sequence
	}
	if e.Receipt != nil {
		t := e.Receipt.Timings
		if v.OnHost {
			v.Steps = []step{{"Fetching secrets", span(t.Secrets)}, {"Deployment", span(t.Send)}, {"Total", span(t.Total)}}
			return v
		}
		v.Steps = []step{{"Fetching secrets", span(t.Secrets)}, {"Writing the mail", span(t.Render)}, {"Connecting, TLS and login", "reused connection"}, {"From MAIL to the reply", span(t.Send)}, {"Total", span(t.Total)}}
		if t.Dial > 0 {
			v.Steps[2].Took = span(t.Dial)
		}
	}
	return v
}

// retryNow ends the wait of the delivery.
func (p *pages) retryNow(r *request) (view, error) {
	if !events.IsToken(r.PathValue("target")) {
		return view{}, desk.ErrNotFound
	}
	detail, err := p.named(r.Context(), r.PathValue("target"), r.PathValue("event"))
	if err != nil {
		return view{}, err
	}
	result, err := p.desk.RetryNow(r.Context(), r.actor(), desk.WaitSelection{Query: desk.DeliveryQuery{Target: detail.Target, Event: detail.Event}}, r.reason())
	if err == nil && len(result.Blocked) > 0 {
		err = fmt.Errorf("%s: %w", result.Blocked[0], desk.ErrNothingWaits)
	}
	return view{to: deliveryAddress(r.PathValue("target"), detail.Event) + "?done=retried"}, err
}

// cancel makes a dead letter of the waiting delivery.
func (p *pages) cancel(r *request) (view, error) {
	if !events.IsToken(r.PathValue("target")) {
		return view{}, desk.ErrNotFound
	}
	detail, err := p.named(r.Context(), r.PathValue("target"), r.PathValue("event"))
	if err == nil {
		_, err = p.desk.Cancel(r.Context(), r.actor(), desk.WaitSelection{Query: desk.DeliveryQuery{Target: detail.Target, Event: detail.Event}}, r.reason())
	}
	return view{to: deliveryAddress(r.PathValue("target"), detail.Event) + "?done=withdrawn"}, err
}

// resend shows what sending the delivery again would find, and with confirm=yes sends it.
func (p *pages) resend(r *request) (view, error) {
	if !events.IsToken(r.PathValue("target")) {
		return view{}, desk.ErrNotFound
	}
	detail, err := p.named(r.Context(), r.PathValue("target"), r.PathValue("event"))
	if err != nil {
		return view{}, err
	}
	to := r.PostFormValue("to")
	if to == detail.Target {
		to = ""
	}
	s := desk.ResendSelection{Query: desk.DeliveryQuery{Target: detail.Target, Event: detail.Event}, WithSuperseded: true, To: to, Force: to != "" && r.PostFormValue("force") == "yes"}
	if r.PostFormValue("confirm") == "yes" {
		_, err := p.desk.Resend(r.Context(), r.actor(), s, r.PostFormValue("hash"), r.reason())
		return view{to: deliveryAddress(cmp.Or(to, detail.Target), detail.Event) + "?done=resent"}, err
	}
	if _, err := broker.CheckReason(r.reason(), true); err != nil {
		return view{}, err
	}
	ahead, err := p.desk.ResendContents(r.Context(), s, true)
	if err != nil {
		return view{}, err
	}
	v, err := p.delivery(r)
	if err == nil {
		page := v.data.(deliveryView)
		page.Ahead, page.To, page.Why = &ahead, to, r.reason()
		v.data, v.object = page, ahead
	}
	return v, err
}

// rollBack puts the files back that the deployment has replaced on its mail host.
func (p *pages) rollBack(r *request) (view, error) {
	if !events.IsToken(r.PathValue("target")) {
		return view{}, desk.ErrNotFound
	}
	detail, err := p.named(r.Context(), r.PathValue("target"), r.PathValue("event"))
	if err == nil {
		_, err = p.desk.RollBack(r.Context(), r.actor(), detail.Target, detail.Event, r.reason())
	}
	return view{to: deliveryAddress(r.PathValue("target"), detail.Event) + "?done=rolled-back"}, err
}

// recipients are all addresses that the ledger knows. Those without the mail come
// first, because they need attention.
func recipients(e *broker.Entry) (all []recipient) {
	for _, no := range e.Refused {
		all = append(all, recipient{no.Recipient, "bad", "refused permanently", replyText(no.ReplyCode, no.EnhancedCode, no.Reply)})
	}
	owing := e.Owed
	if e.Uncertain && len(owing) == 0 {
		owing = e.MaybeHave()
	}
	for _, owed := range owing {
		if slices.ContainsFunc(e.Refused, func(no verdict.Refusal) bool { return no.Recipient == owed }) {
			continue // a dead letter lists refused recipients as owed as well
		}
		one := recipient{owed, "busy", "pending", ""}
		switch e.State {
		case broker.StateDead:
			one.Kind, one.Word = "open", "not delivered"
		case broker.StateDiscarded:
			one.Kind, one.Word = "gone", "discarded"
		case broker.StateSkipped:
			one.Kind, one.Word = "gone", "skipped"
		}
		if e.Uncertain {
			one.Kind, one.Word = "half", "may have been sent"
		}
		all = append(all, one)
	}
	for _, has := range e.Accepted {
		one := recipient{has, "full", "accepted", ""}
		if e.Receipt != nil {
			one.Says = replyText(e.Receipt.ReplyCode, "", e.Receipt.Reply)
		}
		all = append(all, one)
	}
	return all
}

// stateMark is the mark for the state of a delivery.
func stateMark(e broker.Entry) template.HTML {
	switch e.State {
	case broker.StateSent:
		return mark("full", e.StateWord())
	case broker.StateSending:
		return mark("busy", "sending")
	case broker.StateWaiting:
		return mark("busy", "waiting")
	case broker.StateDead:
		return mark("open", "dead")
	case broker.StateDiscarded:
		return mark("gone", "discarded")
	case broker.StateSkipped:
		return mark("gone", "skipped")
	}
	return mark("gone", "unknown")
}
