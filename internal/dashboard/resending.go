package dashboard

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/certpost/certpost/internal/access"
	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/desk"
)

const (
	resendPath          = deliveriesPath + "/resend"
	resendPreflightPath = deliveriesPath + "/resend-preflight"
)

// resendOrder sends again what was delivered, as the address or the form of its confirm page
// states it.
type resendOrder struct {
	desk.ResendSelection
	List   string // the address of the list where the order began
	Hash   string // of the selection that the confirm page has shown
	Reason string
}

// resendOrderKeys are the keys of an order besides the conditions of its query.
var resendOrderKeys = []string{"delivery", "all", "list", "hash", "with_superseded", "reason", access.TokenField}

// errAllSent is the error of an order on everything that was ever sent.
var errAllSent = wrongf("All that match is everything that was sent. Filter the list first, by target, name or time. Nothing was done")

// readResendOrder reads an order from the query of an address or the fields of a form. It refuses
// unknown keys: without a mistyped filter the order would match more.
func readResendOrder(r *request, values url.Values) (o resendOrder, err error) {
	o.Hash, o.Reason, o.WithSuperseded = values.Get("hash"), r.reason(), values.Get("with_superseded") == "yes"
	if o.Query, err = desk.DeliveryConditions.Parse(values, resendOrderKeys...); err != nil {
		return o, nothingDone(err)
	}
	if o.Named, err = namedDeliveries(values); err != nil {
		return o, err
	}
	o.List = deliveriesList(values.Get("list"), deliveriesPath+"?state="+string(broker.StateSent))
	if o.Query.State == "" {
		o.Query.State = broker.StateSent
	}
	switch all := values.Get("all") == "yes"; {
	case all && o.Named != nil:
		return o, wrongf("The form names deliveries and all that match. Select one of both. Nothing was done")
	case !all && o.Named == nil:
		return o, errNoDelivery
	case all && o.Query == (desk.DeliveryQuery{State: broker.StateSent}):
		return o, errAllSent
	}
	return o, nil
}

// values are the values of the order, except its reason.
func (o resendOrder) values() url.Values {
	values := desk.DeliveryConditions.Values(o.Query)
	values.Set("list", o.List)
	if o.WithSuperseded {
		values.Set("with_superseded", "yes")
	}
	if o.Named == nil {
		values.Set("all", "yes")
	}
	for _, n := range o.Named {
		values.Add("delivery", n.Target+"/"+n.Event)
	}
	return values
}

// confirmResendView shows exactly which mails would go out again, and after the order those that
// could not.
type confirmResendView struct {
	resendOrder
	Contents desk.ResendContents
	Title    string
	Chips    []desk.Chip
	Fields   []field // hidden fields, sent back unchanged
	With     string  // the address that includes, or excludes, what the target has a newer certificate of
	Fault    string
	Refused  []desk.RefusedResend // what was not sent again
	Commands []command
}

// confirmResend shows what an order selects, and changes nothing.
func (p *pages) confirmResend(r *request) (view, error) {
	o, err := readResendOrder(r, r.URL.Query())
	if errors.Is(err, errNoDelivery) && r.format() == asHTML {
		return chooseIn(o.List, "resend"), nil
	}
	if err != nil {
		return view{}, err
	}
	return p.resendConfirmation(r, o, false, "")
}

// preflightResend responds with the confirm page and whether the targets would get the mails now: it
// changes nothing, and its findings are not stored.
func (p *pages) preflightResend(r *request) (view, error) {
	o, err := readResendOrder(r, r.PostForm)
	if err != nil {
		return view{}, err
	}
	return p.resendConfirmation(r, o, true, "")
}

func (p *pages) resendConfirmation(r *request, o resendOrder, examine bool, fault string) (view, error) {
	contents, err := p.desk.ResendContents(r.Context(), o.ResendSelection, examine)
	if err != nil {
		return view{}, err
	}
	title := "Send " + plural(contents.Count, "delivery", "deliveries") + " again"
	c := confirmResendView{resendOrder: o, Contents: contents, Title: title, Chips: desk.DeliveryConditions.Chips(o.Query), Fault: fault, Commands: o.commands()}
	values := o.values()
	other := o
	other.WithSuperseded = !o.WithSuperseded
	c.With = address(resendPath, other.values())
	values.Set("hash", contents.Hash)
	c.Fields = fieldsOf(values)
	return view{template: "confirm-resend", title: title, data: c, object: contents}, nil
}

// commands are the order as shell commands: one for all that match, or one for each delivery.
func (o resendOrder) commands() (all []command) {
	words := []string{"certpost", "deliveries", "resend"}
	if o.WithSuperseded {
		words = append(words, "--with-superseded")
	}
	line := func(more ...string) {
		line := append(append(words[:len(words):len(words)], more...), "--reason=WHY")
		all = append(all, command{"certpost", shellLine(line...)})
	}
	for _, n := range o.Named {
		if len(all) < fewCommands {
			line("--target="+n.Target, "--event="+n.Event)
		}
	}
	if o.Named == nil {
		q := o.Query
		q.State = ""
		line(desk.DeliveryConditions.Flags(q)...)
	}
	return all
}

// resendMany carries out an order on exactly what its confirm page has shown.
func (p *pages) resendMany(r *request) (view, error) {
	o, err := readResendOrder(r, r.PostForm)
	if err == nil && o.Hash == "" {
		err = wrongf("The form lacks the hash of what was shown. Confirm the order on its page. Nothing was done")
	}
	if err != nil {
		return view{}, err
	}
	out, err := p.desk.Resend(r.Context(), r.actor(), o.ResendSelection, o.Hash, o.Reason)
	switch {
	case errors.Is(err, desk.ErrChanged):
		v, failed := p.resendConfirmation(r, o, false, strings.TrimSuffix(says(err), ".")+": other deliveries match now than were shown. Nothing was sent. Check the selection and confirm again.")
		return refused(v, http.StatusConflict), failed
	case desk.StatusOf(err) == http.StatusUnprocessableEntity: // the reason
		v, failed := p.resendConfirmation(r, o, false, says(err))
		return refused(v, http.StatusUnprocessableEntity), failed
	case err != nil || len(out.Refused) == 0:
		return view{to: backWith(o.List, "resent-many")}, err
	}
	title := fmt.Sprintf("%s sent again, %d not", plural(out.Done, "delivery", "deliveries"), len(out.Refused))
	return view{template: "confirm-resend", title: title, object: out,
		data: confirmResendView{resendOrder: o, Title: title, Refused: out.Refused, Commands: o.commands()}}, nil
}

// backWith is the address of a list with a notice, in place of one that it has.
func backWith(list, notice string) string {
	path, text, _ := strings.Cut(list, "?")
	query, err := url.ParseQuery(text)
	if err != nil {
		query = url.Values{}
	}
	return address(path, with(lasting(query), doneKey, notice))
}
