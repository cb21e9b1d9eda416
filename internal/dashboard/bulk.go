package dashboard

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/access"
	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/verdict"
)

// order is an action on many letters, as the address or the form of the confirm page
// states it.
type order struct {
	Action     string // replay, discard, hold, release, restore
	Query      desk.Query
	Numbers    []uint64 // nil: all that match the query
	Superseded bool     // include letters with a newer certificate
	Reason     string
	List       string // the address of the list where the order began

	Rate      verdict.Rate
	Canary    bool
	Uncertain bool
	Force     bool

	// Count and Hash identify what the confirm page showed.
	Count int
	Hash  string
}

// frozen is the selection that was shown, in the desk's type.
func (o *order) frozen() desk.Frozen {
	return desk.Frozen{Query: o.Query, AsOf: o.Query.AsOf, Count: o.Count, Hash: o.Hash, Purpose: desk.Purpose(o.Action), Only: o.Numbers, WithSuperseded: o.Superseded}
}

// readOrder reads an order from the query of an address or the fields of a form. It
// refuses unknown keys: without a mistyped filter the order would match more letters.
func readOrder(r *request, values url.Values) (order, error) {
	o := order{
		Action: values.Get("action"), Superseded: values.Get("with_superseded") == "yes", Reason: r.reason(), Canary: values.Get("canary") == "yes",
		Uncertain: values.Get("uncertain") == "yes", Force: values.Get("force") == "yes", Hash: values.Get("hash"),
	}
	if _, known := orders[o.Action]; !known {
		return o, wrongf("Unknown action %q: use replay, discard, hold, release or restore", clipped(o.Action))
	}
	for _, text := range values["number"] {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil || n == 0 {
			return o, wrongf("%q is not a letter number", clipped(text))
		}
		o.Numbers = append(o.Numbers, n)
	}
	var err error
	if o.Query, err = desk.LetterConditions.Parse(values, orderKeys...); err != nil {
		return o, nothingDone(err)
	}
	if err := desk.CheckState(desk.Purpose(o.Action), &o.Query); err != nil {
		return o, nothingDone(err)
	}
	o.List = listed(values.Get("list"), o.Query)
	switch all := values.Get("all") == "yes"; {
	case all && o.Numbers != nil:
		return o, wrongf("The form names letters by number and all that match. Select one of both. Nothing was done")
	case !all && o.Numbers == nil:
		return o, errNoneChosen
	}
	o.Count, _ = strconv.Atoi(values.Get("count"))
	if rate := strings.TrimSpace(values.Get("rate")); rate != "" {
		if err := o.Rate.UnmarshalText([]byte(rate)); err != nil {
			return o, wrongf("Invalid rate %q: %v", clipped(rate), err)
		}
	}
	return o, nil
}

// orderKeys are the keys of an order besides the conditions of its query.
var orderKeys = []string{"action", "number", "all", "list", "view", "with_superseded", "reason", "rate", "canary", "uncertain", "force", "count", "hash", "recipients", access.TokenField}

// errNoneChosen is the error of an order that selects no letters.
var errNoneChosen = wrongf("No letter is selected. Select letters in the list, or act on all that match")

// chooseIn redirects to the list where an order began, to its notice that rows must be selected
// first.
func chooseIn(list, action string) view {
	path, text, _ := strings.Cut(list, "?")
	query, err := url.ParseQuery(text)
	if err != nil {
		query = url.Values{}
	}
	query.Set(chooseKey, action)
	return view{to: address(path, query) + "#" + chooseKey}
}

// listed is the address of the list where an order says it began. The value comes from
// the address, which anyone can craft, so it is used only if it is a list of letters.
func listed(at string, q desk.Query) string {
	path, _, _ := strings.Cut(at, "?")
	if access.LocalPath(at) == at && (path == lettersPath || strings.HasPrefix(path, lettersPath+"/groups/")) {
		return at
	}
	q.AsOf = 0
	return address(lettersPath, q.Values())
}

func clipped(text string) string {
	runes := []rune(text)
	return string(runes[:min(len(runes), 60)])
}

// orders are the actions on many letters, with their texts.
var orders = map[string]struct{ Title, Verb, Says, Notice string }{
	"replay":  {"Replay", "Replay", "The event of each letter is published again for its target; then the letter leaves the list. A delivery that fails again becomes a new letter.", "started"},
	"discard": {"Discard", "Discard", "They leave the list. You can restore each one until its audit record expires; its page shows the date.", "discarded"},
	"hold":    {"Hold", "Hold", "They cannot be replayed or discarded until an operator releases them.", "held"},
	"restore": {"Restore", "Restore", "They are on the list again, under new numbers and with their history. A letter whose delivery has a newer letter on the list stays discarded.", "restored-many"},
	"release": {"Release", "Release", "Their holds end. They can be replayed and discarded again.", "released"},
}

// confirmView shows exactly which letters the action will affect.
type confirmView struct {
	order
	Frozen   desk.Frozen
	Contents desk.Contents
	Title    string
	Verb     string
	Says     string
	Chips    []desk.Chip
	Fields   []field // hidden fields, sent back unchanged
	With     string  // the address that includes, or excludes, superseded letters
	Takes    string  // how long it takes at the rate, "" when unknown
	Fault    string
	Was      int    // the count that was confirmed, when the count has changed
	Changed  string // the refusal when it has
	Commands []command
	Ahead    *desk.SetPreflight // of a preflight; nil if there was none
}

// Fixed reports whether a preflight has found that a replay of these letters would be delivered.
func (c confirmView) Fixed() bool { return c.Ahead != nil && c.Ahead.OK }

type field struct{ Name, Value string }

// fieldsOf returns values as hidden fields.
func fieldsOf(values url.Values) (fields []field) {
	for name, all := range values {
		for _, value := range all {
			fields = append(fields, field{name, value})
		}
	}
	return fields
}

func (p *pages) confirm(r *request) (view, error) {
	o, err := readOrder(r, r.URL.Query())
	if errors.Is(err, errNoneChosen) && r.format() == asHTML {
		return chooseIn(o.List, o.Action), nil
	}
	if err != nil {
		return view{}, err
	}
	if r.URL.Query().Get("canary") == "" {
		o.Canary = true
	}
	return p.confirmation(r.Context(), o, ""), nil
}

func (p *pages) confirmation(ctx context.Context, o order, fault string) view {
	frozen := p.desk.FreezeFor(desk.Purpose(o.Action), o.Query, o.Numbers, o.Superseded)
	words := orders[o.Action]
	c := confirmView{order: o, Frozen: frozen, Contents: p.desk.Contents(ctx, frozen), Title: words.Title + " " + plural(frozen.Count, "dead letter"), Verb: words.Verb, Says: words.Says,
		Chips: chips(o.Query), Fault: fault, Takes: takes(frozen.Count, o)}
	o.Query.AsOf = frozen.AsOf
	values := o.Query.Values()
	for _, n := range o.Numbers {
		values.Add("number", strconv.FormatUint(n, 10))
	}
	if o.Numbers == nil {
		values.Set("all", "yes")
	}
	values.Set("action", o.Action)
	values.Set("list", o.List)
	other := with(values, "with_superseded", map[bool]string{true: "no", false: "yes"}[o.Superseded])
	c.With = address(lettersPath+"/confirm", other)
	if o.Superseded {
		values.Set("with_superseded", "yes")
	}
	values.Set("count", strconv.Itoa(frozen.Count))
	values.Set("hash", frozen.Hash)
	c.Fields = fieldsOf(values)
	c.Commands = c.order.commands(frozen)
	return view{template: "confirm", title: c.Title, data: c, object: frozen}
}

// chips are the conditions that the operator has chosen. AsOf is left out: it only
// bounds the query to the letters that existed when it was shown.
func chips(q desk.Query) []desk.Chip {
	q.AsOf = 0
	return q.Chips()
}

// takes is how long a replay takes at its rate, "" without a rate.
func takes(count int, o order) string {
	if o.Action != "replay" || o.Rate.IsZero() || count == 0 {
		return ""
	}
	return span(time.Duration(count) * o.Rate.Per / time.Duration(o.Rate.Count))
}

// commands returns the order as shell commands for exactly the same letters: they check the
// hash too. The NATS CLI cannot act on many letters, so its command is a request to
// Certpost's NATS service.
func (o order) commands(frozen desk.Frozen) []command {
	request := struct {
		Numbers    []uint64          `json:"numbers,omitempty"`
		Filter     map[string]string `json:"filter,omitempty"`
		Superseded bool              `json:"with_superseded,omitempty"`
		Hash       string            `json:"hash,omitempty"`
		Canary     bool              `json:"canary,omitempty"`
		Reason     string            `json:"reason,omitempty"`
	}{Numbers: o.Numbers}
	var words []string
	if o.Numbers == nil {
		o.Query.AsOf = frozen.AsOf
		request.Filter, request.Hash, request.Superseded, request.Canary = desk.LetterConditions.Filter(o.Query), frozen.Hash, o.Superseded, o.Action == "replay"
		words = append(append(words, "--all"), desk.LetterConditions.Flags(o.Query)...)
		if request.Superseded {
			words = append(words, "--with-superseded")
		}
		if request.Canary {
			words = append(words, "--canary")
		}
		words = append(words, "--hash="+frozen.Hash)
	}
	if o.Action != "release" && o.Action != "restore" {
		request.Reason = "WHY"
		words = append(words, "--reason=WHY")
	}
	body, _ := json.Marshal(request) // every field can be marshalled
	return []command{onLetter(o.Action, o.Numbers, words...), {"nats", shellLine("nats", "req", "certpost.dead."+o.Action, string(body))}}
}

// bulk carries out an order. The desk checks that it affects only what was shown.
func (p *pages) bulk(r *request) (view, error) {
	o, err := readOrder(r, r.PostForm)
	if err != nil {
		return view{}, err
	}
	frozen, done := o.frozen(), 0
	frozen.Act = desk.NewAct()
	to := o.after()
	switch o.Action {
	case "replay":
		var run desk.Run
		run, err = p.desk.StartRun(r.Context(), r.actor(), desk.RunSpec{Frozen: frozen, Rate: o.Rate, Canary: o.Canary, Uncertain: o.Uncertain, Force: o.Force, Reason: o.Reason})
		to = "/replays/" + url.PathEscape(run.ID) + "?done=started"
	case "discard":
		done, err = p.desk.Discard(r.Context(), r.actor(), frozen, o.Reason)
		to += "&" + undoKey + "=" + url.QueryEscape(frozen.Act)
	case "restore":
		done, err = p.desk.RestoreAll(r.Context(), r.actor(), frozen, o.Reason)
	case "hold":
		done, err = p.desk.Hold(r.Context(), r.actor(), frozen, o.Reason)
	case "release":
		done, err = p.desk.Release(r.Context(), r.actor(), frozen, o.Reason)
	}
	if err == nil && done == 0 && o.Action != "replay" {
		err = p.desk.WhyNone(r.Context(), o.Numbers)
	}
	switch {
	case errors.Is(err, desk.ErrChanged):
		return p.changed(r.Context(), o), nil
	case desk.StatusOf(err) == http.StatusUnprocessableEntity:
		return refused(p.confirmation(r.Context(), o, says(err)), http.StatusUnprocessableEntity), nil
	case errors.Is(err, desk.ErrUncertain):
		return refused(p.confirmation(r.Context(), o, "Some of the mails may have been sent. Tick the box to replay those too, or exclude them with the filter Sent?."), http.StatusConflict), nil
	}
	return view{to: to}, err
}

// after is the address to go to when the order was carried out: the list with its filter, if some of
// its letters were selected. Of all that match none is left there, a group without letters has no
// page, and what was restored is on another list: that leads to all letters.
func (o order) after() string {
	if path, _, _ := strings.Cut(o.List, "?"); o.Numbers != nil && path == lettersPath && o.Action != "restore" {
		return backWith(o.List, orders[o.Action].Notice)
	}
	return backWith(lettersPath, orders[o.Action].Notice)
}

// undo restores what an act on many letters has discarded.
func (p *pages) undo(r *request) (view, error) {
	act := r.PostFormValue("act")
	if err := desk.CheckAct(act); err != nil {
		return view{}, err
	}
	if _, err := p.desk.UndoDiscard(r.Context(), r.actor(), act); err != nil {
		return view{}, err
	}
	return view{to: lettersPath + "?done=restored-many"}, nil
}

// preflightMany responds with the confirm page and what a replay of its letters would find: it
// changes nothing, and its findings are not stored.
func (p *pages) preflightMany(r *request) (view, error) {
	o, err := readOrder(r, r.PostForm)
	if err != nil {
		return view{}, err
	}
	o.Action = "replay"
	found, err := p.desk.PreflightSet(r.Context(), o.frozen(), r.PostFormValue("recipients") == "yes")
	if errors.Is(err, desk.ErrChanged) {
		return p.changed(r.Context(), o), nil
	}
	if err != nil {
		return view{}, err
	}
	v := p.confirmation(r.Context(), o, "")
	c := v.data.(confirmView)
	c.Ahead = &found
	v.data, v.object = c, found
	return v, nil
}

// changed shows both counts and asks for confirmation again: the query now finds
// letters that were not shown.
func (p *pages) changed(ctx context.Context, o order) view {
	v := p.confirmation(ctx, o, "")
	c := v.data.(confirmView)
	c.Changed, c.Was = says(desk.ErrChanged), o.Count
	v.data = c
	return refused(v, http.StatusConflict)
}

func refused(v view, status int) view {
	v.status = status
	return v
}
