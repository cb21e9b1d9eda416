package dashboard

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/certpost/certpost/internal/access"
	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/events"
)

// waitOrder is an action on many waiting deliveries, as the address or the form of its confirm
// page states it.
type waitOrder struct {
	Action string // retry, cancel
	desk.WaitSelection
	List   string // the address of the list where the order began
	Reason string
}

// waitOrderKeys are the keys of an order besides the conditions of its query.
var waitOrderKeys = []string{"action", "delivery", "all", "lane", "list", "up_to", "reason", access.TokenField}

// waitWords are the actions on waiting deliveries, with their texts.
var waitWords = map[string]struct{ Title, Verb, Says, Notice string }{
	"retry":  {"Retry", "Retry now", "They are tried now instead of at their next try. Those in lanes that deliver nothing still wait: resume the lane first.", "retried-many"},
	"cancel": {"Cancel", "Cancel", "No mails are sent. Each delivery becomes a dead letter with your reason, which can be replayed or discarded. Those that are being sent at this moment are left.", "withdrawn-many"},
}

// allThatWait is the address of the confirmation of an action on all waiting deliveries that a
// query selects; the action is appended.
func allThatWait(query url.Values) string {
	return address(deliveriesPath+"/confirm", with(query, "all", "yes")) + "&action="
}

// nothingDone is the error of an order that cannot be read.
func nothingDone(err error) error {
	text := err.Error()
	if !strings.HasSuffix(text, "?") { // did you mean target?
		text += "."
	}
	return wrongf("%s Nothing was done", text)
}

// errNoDelivery is the error of an order that selects nothing.
var errNoDelivery = wrongf("No delivery is selected. Select deliveries in the list, or act on all that match")

// readWaitOrder reads an order from the query of an address or the fields of a form. It refuses
// unknown keys: without a mistyped filter the order would match more.
func readWaitOrder(r *request, values url.Values) (o waitOrder, err error) {
	o.Action, o.Lane, o.Reason = values.Get("action"), values.Get("lane"), r.reason()
	if _, known := waitWords[o.Action]; !known {
		return o, wrongf("Unknown action %q: use retry or cancel", clipped(o.Action))
	}
	if o.Query, err = desk.DeliveryConditions.Parse(values, waitOrderKeys...); err != nil {
		return o, nothingDone(err)
	}
	if o.Named, err = namedDeliveries(values); err != nil {
		return o, err
	}
	if text := values.Get("up_to"); text != "" {
		if o.UpTo, err = strconv.ParseUint(text, 10, 64); err != nil {
			return o, wrongf("Invalid up_to: use the place of a delivery in the queue")
		}
	}
	o.List = deliveriesList(values.Get("list"), deliveriesPath+"?state=waiting")
	switch all := values.Get("all") == "yes"; {
	case all && o.Named != nil:
		return o, wrongf("The form names deliveries and all that match. Select one of both. Nothing was done")
	case !all && o.Named == nil:
		return o, errNoDelivery
	}
	return o, nil
}

// namedDeliveries reads the deliveries that are selected in a list; nil if none is.
func namedDeliveries(values url.Values) (all []desk.DeliveryName, err error) {
	for _, text := range values["delivery"] {
		target, event, _ := strings.Cut(text, "/")
		if !events.IsToken(target) || event == "" {
			return nil, wrongf("%q is not a delivery: use TARGET/EVENT", clipped(text))
		}
		all = append(all, desk.DeliveryName{Target: target, Event: event})
	}
	return all, nil
}

// deliveriesList is the address of the list where an order says it began, if it is one of
// deliveries.
func deliveriesList(at, otherwise string) string {
	if access.LocalPath(at) == at && strings.HasPrefix(at, deliveriesPath+"?") {
		return at
	}
	return otherwise
}

// confirmWaitView shows which deliveries the action will affect.
type confirmWaitView struct {
	waitOrder
	Contents desk.DeliveryContents
	Title    string
	Verb     string
	Says     string
	Chips    []desk.Chip
	Fields   []field // hidden fields, sent back unchanged
	Fault    string
	Commands []command
}

func (p *pages) confirmWaiting(r *request) (view, error) {
	o, err := readWaitOrder(r, r.URL.Query())
	if errors.Is(err, errNoDelivery) && r.format() == asHTML {
		return chooseIn(o.List, o.Action), nil
	}
	if err != nil {
		return view{}, err
	}
	return p.waitConfirmation(r, o, "")
}

func (p *pages) waitConfirmation(r *request, o waitOrder, fault string) (view, error) {
	contents, err := p.desk.WaitContents(r.Context(), o.WaitSelection)
	if err != nil {
		return view{}, err
	}
	words := waitWords[o.Action]
	c := confirmWaitView{waitOrder: o, Contents: contents, Title: words.Title + " " + plural(contents.Count, "waiting delivery", "waiting deliveries"), Verb: words.Verb, Says: words.Says,
		Chips: desk.DeliveryConditions.Chips(o.Query), Fault: fault, Commands: o.commands()}
	values := desk.DeliveryConditions.Values(o.Query)
	values.Set("action", o.Action)
	values.Set("list", o.List)
	values.Set("up_to", strconv.FormatUint(contents.UpTo, 10)) // what comes from now on is left out
	if o.Lane != "" {
		values.Set("lane", o.Lane)
	}
	if o.Named == nil {
		values.Set("all", "yes")
	}
	for _, n := range o.Named {
		values.Add("delivery", n.Target+"/"+n.Event)
	}
	c.Fields = fieldsOf(values)
	return view{template: "confirm-waiting", title: c.Title, data: c, object: contents}, nil
}

// commands are the order as shell commands: one for all that match, or one for each delivery.
func (o waitOrder) commands() (all []command) {
	line := func(words ...string) {
		words = append([]string{"certpost", "deliveries", o.Action}, words...)
		if o.Action == "cancel" {
			words = append(words, "--reason=WHY")
		}
		all = append(all, command{"certpost", shellLine(words...)})
	}
	for _, n := range o.Named {
		if len(all) < fewCommands {
			line("--target="+n.Target, "--event="+n.Event)
		}
	}
	if o.Named == nil {
		words := desk.DeliveryConditions.Flags(o.Query)
		if o.Lane != "" {
			words = append(words, "--lane="+o.Lane)
		}
		if len(words) == 0 {
			words = []string{"--all"}
		}
		line(words...)
	}
	return all
}

// fewCommands is the number of commands that a page shows for named deliveries.
const fewCommands = 10

// actOnWaiting carries out an order.
func (p *pages) actOnWaiting(r *request) (view, error) {
	o, err := readWaitOrder(r, r.PostForm)
	if err != nil {
		return view{}, err
	}
	switch o.Action {
	case "retry":
		var out desk.Retried
		if out, err = p.desk.RetryNow(r.Context(), r.actor(), o.WaitSelection, o.Reason); err == nil && out.Done == 0 {
			err = fmt.Errorf("%s: %w", out.Blocked[0], desk.ErrNothingWaits)
		}
	case "cancel":
		_, err = p.desk.Cancel(r.Context(), r.actor(), o.WaitSelection, o.Reason)
	}
	if desk.StatusOf(err) == http.StatusUnprocessableEntity { // the reason
		v, failed := p.waitConfirmation(r, o, says(err))
		return refused(v, desk.StatusOf(err)), failed
	}
	return view{to: deliveriesPath + "?state=waiting&done=" + waitWords[o.Action].Notice}, err
}
