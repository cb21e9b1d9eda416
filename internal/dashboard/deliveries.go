package dashboard

import (
	"context"
	"encoding/hex"
	"iter"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/verdict"
)

const deliveriesPath = "/deliveries"

// deliveriesView is the list of deliveries: what went to whom, and when.
type deliveriesView struct {
	Form     deliveryForm
	Chips    []desk.Chip
	Path     string
	List     []deliveryRow
	Total    int
	Pager    pager
	Reading  bool // the index has not read all of the ledger yet
	Read, Of uint64
	Here     string // the address of this page of the list
	Commands []command
}

// deliveryForm is the filter as its form shows it.
type deliveryForm struct {
	desk.DeliveryQuery
	From, Before string // as an input of type datetime-local wants them
	States       []broker.State
	Targets      []string
}

// states are the states that a ledger entry can have.
var states = []broker.State{broker.StateWaiting, broker.StateSending, broker.StateSent, broker.StateDead, broker.StateDiscarded}

// deliveryRow is one delivery in the list.
type deliveryRow struct {
	broker.Entry
	Address  string
	Leaf     *verdict.Certificate
	To       []string // who has the mail, else who is still owed it; empty: the target's recipients
	More     int      // recipients that are not shown
	Outcome  string   // the relay's reply, or why there is none
	Doubtful bool     // it is unknown whether the mail was sent
}

func (p *pages) deliveries(r *request) (view, error) {
	q, err := r.deliveryQuery()
	if err != nil {
		return view{}, err
	}
	found, err := p.desk.Deliveries(r.Context(), q, r.after(), pageSize(r))
	if err != nil {
		return view{}, err
	}
	v := deliveriesView{
		Form: newDeliveryForm(q, p.filterForm(desk.Query{}).Targets), Chips: r.chips(deliveryConditions), Path: deliveriesPath, Total: found.Total,
		Reading: found.Read < found.Of, Read: found.Read, Of: found.Of, Here: r.URL.RequestURI(),
		Commands: []command{{"certpost", shellLine(append([]string{"certpost", "deliveries", "list"}, r.optionsOf("name", "serial", "fingerprint", "target", "event", "state", "from", "to")...)...)}, {"nats", "nats kv ls " + broker.LedgerBucket}},
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
	return view{template: "deliveries", title: "Deliveries", data: v, table: p.deliveryTable(r.Context(), q)}, nil
}

// deliveryQuery reads the filter. A serial or fingerprint that is not hexadecimal is an
// error, because an empty list would not tell the reader that the value is wrong.
func (r *request) deliveryQuery() (desk.DeliveryQuery, error) {
	given := r.URL.Query()
	common, err := r.common("name", "target", "event", "from", "to")
	if err != nil {
		return desk.DeliveryQuery{}, err
	}
	q := desk.DeliveryQuery{Name: common.Name, Target: common.Target, Event: common.Event, From: common.From, To: common.To,
		Serial: strings.TrimSpace(given.Get("serial")), Fingerprint: strings.TrimSpace(given.Get("fingerprint")), State: broker.State(strings.TrimSpace(given.Get("state")))}
	if q.State != "" && !slices.Contains(states, q.State) {
		return q, wrongf("Invalid state: use waiting, sending, sent, dead or discarded")
	}
	if !isHex(q.Serial) || !isHex(q.Fingerprint) {
		return q, wrongf("Invalid serial or fingerprint: use hexadecimal digits, with or without colons, such as 03:AA:11")
	}
	return q, nil
}

// common reads the given conditions of a list with the parser of the list of letters,
// which has them too.
func (r *request) common(keys ...string) (desk.Query, error) {
	values := url.Values{}
	for _, key := range keys {
		values.Set(key, r.URL.Query().Get(key))
	}
	return parseQuery(values)
}

// isHex reports whether a text is a hexadecimal number as certificate viewers write it.
func isHex(text string) bool {
	digits := strings.NewReplacer(":", "", " ", "").Replace(strings.TrimPrefix(strings.ToLower(text), "0x"))
	if len(digits)%2 != 0 {
		digits = "0" + digits
	}
	_, err := hex.DecodeString(digits)
	return err == nil && len(text) <= 200
}

// condition is one key of a list's address, with the label that its chip shows before
// the value.
type condition struct{ key, label string }

var deliveryConditions = []condition{{"name", "name"}, {"serial", "serial"}, {"fingerprint", "SHA-256"}, {"target", "target"}, {"event", "event"}, {"state", "state"}, {"from", "from"}, {"to", "before"}}

// chips are the conditions in the request's address.
func (r *request) chips(conditions []condition) (chips []desk.Chip) {
	for _, c := range conditions {
		if value := strings.TrimSpace(r.URL.Query().Get(c.key)); value != "" {
			rest := r.URL.Query()
			rest.Del(c.key)
			rest.Del("after")
			chips = append(chips, desk.Chip{Label: c.label + " " + value, Without: rest.Encode()})
		}
	}
	return chips
}

// optionsOf are the request's filters as options of the certpost command.
func (r *request) optionsOf(keys ...string) (words []string) {
	for _, key := range keys {
		if value := strings.TrimSpace(r.URL.Query().Get(key)); value != "" {
			words = append(words, "--"+key+"="+value)
		}
	}
	return words
}

func newDeliveryForm(q desk.DeliveryQuery, targets []string) deliveryForm {
	return deliveryForm{DeliveryQuery: q, From: fieldTime(q.From), Before: fieldTime(q.To), States: states, Targets: targets}
}

// fieldTime is a time as an input of type datetime-local wants it, "" for none.
func fieldTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02T15:04")
}

// deliveryAddress is the address of a delivery's page.
func deliveryAddress(target, event string) string {
	return deliveriesPath + "/" + url.PathEscape(target) + "/" + events.Token(event)
}

// fewRecipients is how many recipients a row shows.
const fewRecipients = 2

func newDeliveryRow(e broker.Entry) deliveryRow {
	row := deliveryRow{Entry: e, Address: deliveryAddress(e.Target, e.Event), Leaf: leafOf(&e), To: e.Accepted, Outcome: outcome(&e),
		Doubtful: doubtful(&e)}
	if len(row.To) == 0 {
		row.To = e.Owed
	}
	if len(row.To) > fewRecipients {
		row.To, row.More = row.To[:fewRecipients], len(row.To)-fewRecipients
	}
	return row
}

// doubtful reports whether a mail may have been sent without its outcome being known.
func doubtful(e *broker.Entry) bool {
	return e.Uncertain || e.State == broker.StateDead && e.Failure != nil && e.Failure.Certainty == verdict.MaybeSent
}

func leafOf(e *broker.Entry) *verdict.Certificate {
	if e.Receipt != nil && e.Receipt.Certificate != nil {
		return e.Receipt.Certificate
	}
	return e.Certificate
}

// outcome is the relay's reply in short, or the code and phase of the failure.
func outcome(e *broker.Entry) string {
	switch {
	case e.State == broker.StateSent && e.Receipt != nil && e.Receipt.QueueID != "":
		return strconv.Itoa(e.Receipt.ReplyCode) + ", queued as " + e.Receipt.QueueID
	case e.State == broker.StateSent && e.Receipt != nil:
		return replyText(e.Receipt.ReplyCode, "", e.Receipt.Reply)
	case e.Failure != nil:
		return string(e.Failure.Code) + " in " + string(e.Failure.Phase)
	}
	return ""
}

// whole is how many entries are read at a time for an export.
const whole = 500

// deliveryTable is every delivery that matches, for CSV and JSON: recipients, the
// relay's reply and the certificate.
func (p *pages) deliveryTable(ctx context.Context, q desk.DeliveryQuery) *table {
	return &table{
		name: "deliveries",
		columns: []string{"event", "target", "lane", "state", "generation", "attempts", "first_attempt", "last_attempt", "name", "dns_names", "issuer", "serial", "sha256", "not_before", "not_after",
			"accepted", "refused", "owed", "relay", "tls", "reply_code", "reply", "queue_id", "message_id", "size", "possible_duplicates", "uncertain", "code", "phase", "reason"},
		rows: rowsOf(p.eachDelivery(ctx, q), deliveryCells),
	}
}

// eachDelivery are all entries that match. When reading the ledger fails, the response
// is aborted, so that a client cannot mistake a part for the whole list.
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

func deliveryCells(e broker.Entry) []string {
	cert, receipt, failure := verdict.Certificate{}, verdict.Receipt{}, broker.FailureRecord{}
	if c := leafOf(&e); c != nil {
		cert = *c
	}
	if e.Receipt != nil {
		receipt = *e.Receipt
	}
	if e.Failure != nil {
		failure = *e.Failure
	}
	var refused []string
	for _, one := range e.Refused {
		refused = append(refused, one.Recipient)
	}
	return []string{e.Event, e.Target, e.Lane, string(e.State), strconv.Itoa(e.Generation), strconv.Itoa(e.Attempts), stamp(e.First), stamp(e.Last),
		cert.CommonName, strings.Join(cert.DNSNames, " "), cert.Issuer, cert.Serial, cert.Fingerprint, stamp(cert.NotBefore), stamp(cert.NotAfter),
		strings.Join(e.Accepted, " "), strings.Join(refused, " "), strings.Join(e.Owed, " "), receipt.Relay, receipt.TLS, numberOrNone(uint64(receipt.ReplyCode)), receipt.Reply,
		receipt.QueueID, receipt.MessageID, numberOrNone(uint64(receipt.Size)), strconv.Itoa(e.PossibleDuplicates), strconv.FormatBool(e.Uncertain),
		string(failure.Code), string(failure.Phase), failure.Reason}
}
