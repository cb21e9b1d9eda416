package dashboard

import (
	"context"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/verdict"
)

const deliveriesPath = "/deliveries"

// deliveriesView is the page of deliveries.
type deliveriesView struct {
	Fields   formFields
	Chips    []desk.Chip
	Path     string
	List     []deliveryRow
	Waits    bool // what waits is listed: reason and next try take the place of reply and recipients
	Total    int
	Unlisted uint64 // older deliveries that the list may lack
	Pager    pager
	Reading  bool // the index has not read all of the ledger yet
	Read, Of uint64
	Here     string // the address of this page of the list
	Sent     bool   // what was sent is listed: it can be sent again
	All      string // the address of the confirmation of an action on all that match; the action is appended
	Choose   string // the action that was requested with nothing selected
	Who      string // who got the certificates of the name that is searched for
	Commands []command
}

// deliveryRow is one delivery in the list.
type deliveryRow struct {
	broker.Entry
	Address  string
	Leaf     *verdict.Certificate
	To       []string // the recipients that have the mail, otherwise those still owed it, or that may have it; empty: the target's
	More     int      // recipients that are not shown
	Outcome  string   // the relay's reply, or the code and phase of the failure
	Doubtful bool     // the mail may have been sent
}

func (p *pages) deliveries(r *request) (view, error) {
	q, err := desk.DeliveryConditions.Parse(r.URL.Query(), listKeys...)
	if err != nil {
		return view{}, err
	}
	found, err := p.desk.Deliveries(r.Context(), q, r.after(), pageSize(r))
	if err != nil {
		return view{}, err
	}
	v := deliveriesView{
		Fields: filterFields(desk.DeliveryConditions.All(), desk.DeliveryConditions.Values(q), map[string][]string{"target": p.targetIDs()}), Chips: desk.DeliveryConditions.Chips(q), Path: deliveriesPath, Total: found.Total, Waits: q.State == broker.StateWaiting, Sent: q.State == broker.StateSent, Unlisted: found.Unlisted,
		Reading: found.Read < found.Of, Read: found.Read, Of: found.Of, Here: r.here(),
		Commands: []command{{"certpost", shellLine(append([]string{"certpost", "deliveries", "list"}, desk.DeliveryConditions.Flags(q)...)...)}, {"nats", "nats kv ls " + broker.LedgerBucket}},
	}
	if v.Waits {
		values := desk.DeliveryConditions.Values(q)
		values.Del("state")
		v.All = allThatWait(values)
	}
	if v.Sent && q != (desk.DeliveryQuery{State: broker.StateSent}) {
		v.All = address(resendPath, with(with(desk.DeliveryConditions.Values(q), "all", "yes"), "list", r.here()))
	}
	switch action := r.FormValue(chooseKey); {
	case v.Waits && waitWords[action].Verb != "":
		v.Choose = action
	case v.Sent && action == "resend":
		v.Choose = "send again"
	}
	v.Who = whoPath
	if q.Name != "" {
		v.Who = whoAddress(q.Name, false)
	}
	for _, e := range found.Entries {
		v.List = append(v.List, newDeliveryRow(e))
	}
	if found.Next != 0 {
		v.Pager.Next = r.with("after", strconv.FormatUint(found.Next, 10))
	}
	if r.after() != 0 {
		v.Pager.First = r.with("after", "")
	}
	return view{template: "deliveries", title: "Deliveries", data: v, renews: v.Reading, hasRows: len(v.List) > 0, table: exported(desk.DeliveryTable, p.eachDelivery(r.Context(), q))}, nil
}

// fieldTime formats a time for an input of type datetime-local; "" for the zero time.
func fieldTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02T15:04")
}

// deliveryAddress returns the address of a delivery's page.
func deliveryAddress(target, event string) string {
	return deliveriesPath + "/" + url.PathEscape(target) + "/" + events.Token(event)
}

// fewRecipients is the number of recipients that a row shows.
const fewRecipients = 2

func newDeliveryRow(e broker.Entry) deliveryRow {
	row := deliveryRow{Entry: e, Address: deliveryAddress(e.Target, e.Event), Leaf: leafOf(&e), To: e.Accepted, Outcome: outcome(&e),
		Doubtful: doubtful(&e)}
	if len(row.To) == 0 {
		row.To = e.Owed
	}
	if len(row.To) == 0 && e.Uncertain {
		row.To = e.MaybeHave()
	}
	if len(row.To) > fewRecipients {
		row.To, row.More = row.To[:fewRecipients], len(row.To)-fewRecipients
	}
	return row
}

// doubtful reports whether the mail may have been sent although its outcome is unknown.
func doubtful(e *broker.Entry) bool {
	return e.Uncertain || e.State == broker.StateDead && e.Failure != nil && e.Failure.Certainty == verdict.MaybeSent
}

func leafOf(e *broker.Entry) *verdict.Certificate {
	if e.Receipt != nil && e.Receipt.Certificate != nil {
		return e.Receipt.Certificate
	}
	return e.Certificate
}

// outcome returns the relay's reply in short, or the code and phase of the failure.
func outcome(e *broker.Entry) string {
	switch {
	case e.State == broker.StateSent && e.Receipt != nil && e.Receipt.RolledBack != nil:
		return "rolled back"
	case e.State == broker.StateSent && e.Receipt != nil && e.Receipt.OnHost():
		return e.Receipt.State + " on " + e.Receipt.Host
	case e.State == broker.StateSent && e.Receipt != nil && e.Receipt.QueueID != "":
		return strconv.Itoa(e.Receipt.ReplyCode) + ", queued as " + e.Receipt.QueueID
	case e.State == broker.StateSent && e.Receipt != nil:
		return replyText(e.Receipt.ReplyCode, "", e.Receipt.Reply)
	case e.Failure != nil:
		return string(e.Failure.Code) + " in " + string(e.Failure.Phase)
	}
	return ""
}

// whole is the number of entries that an export reads at a time.
const whole = 500

// eachDelivery yields all entries that match. If the ledger cannot be read, the response is
// aborted, so that a client cannot mistake a part for the whole list.
func (p *pages) eachDelivery(ctx context.Context, q desk.DeliveryQuery) iter.Seq[broker.Entry] {
	return func(yield func(broker.Entry) bool) {
		for after, more := uint64(0), true; more; {
			found, err := p.desk.Deliveries(ctx, q, after, whole)
			if err != nil {
				p.log.Warn().Err(err).Msg("an export of deliveries was aborted: reading the ledger failed")
				panic(http.ErrAbortHandler)
			}
			for _, e := range found.Entries {
				if !yield(e) {
					return
				}
			}
			after, more = found.Next, found.Next != 0
		}
	}
}
