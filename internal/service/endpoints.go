// Package service is the API of the NATS service and the commands: requests about dead
// letters, replay runs, deliveries and the audit, in JSON. It makes no decisions: the rules
// are in package desk, which the pages use too.
package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/verdict"
)

// API answers the requests. docs/replay.md describes them.
type API struct{ desk *desk.Desk }

// New returns the API of a desk.
func New(d *desk.Desk) *API { return &API{d} }

// kind says what a request does: who may only look is given the subjects of those that read.
type kind bool

const (
	reads kind = false // changes nothing, and reaches no relay
	acts  kind = true
)

// endpoint is one kind of request. Its subject is "certpost." and its name.
type endpoint struct {
	name   string
	kind   kind
	about  string
	answer func(ctx context.Context, c *API, sender string, request []byte) (any, error)
}

var endpoints = []endpoint{
	{"dead.list", reads, "list the dead letters that match a filter, page by page: open ones, or discarded ones", answering((*API).list)},
	{"dead.groups", reads, "list the open dead letters by cause", answering((*API).groups)},
	{"dead.show", reads, "show one dead letter, open or not, with its history", answering((*API).show)},
	{"dead.preflight", acts, "check whether a replay would be delivered, without sending", answering((*API).preflight)},
	{"dead.replay", acts, "replay dead letters: by number, or all that match a filter, as a run", answering((*API).replay)},
	{"dead.edit", acts, "replay one dead letter for another target or to other recipients, if the configuration allows it", answering((*API).editReplay)},
	{"dead.discard", acts, "discard dead letters", answering((*API).discard)},
	{"dead.restore", acts, "restore discarded dead letters: by number, or all that match a filter", answering((*API).restore)},
	{"dead.hold", acts, "block replay and discard of dead letters until they are released", answering((*API).hold)},
	{"dead.release", acts, "release dead letters from a hold", answering((*API).release)},
	{"dead.handling", acts, "say who works on a group of dead letters, under which ticket, or add a note", answering((*API).handling)},
	{"replays.list", reads, "list replay runs, newest first", answering((*API).runs)},
	{"replays.show", reads, "show one replay run and the result of its letters", answering((*API).run)},
	{"replays.pause", acts, "pause a replay run", answering((*API).pauseRun)},
	{"replays.resume", acts, "resume a paused replay run", answering((*API).resumeRun)},
	{"replays.cancel", acts, "cancel a replay run; letters that it has not replayed stay on the list", answering((*API).cancelRun)},
	{"deliveries.list", reads, "list deliveries, by certificate, recipient, target, state and time", answering((*API).deliveries)},
	{"deliveries.show", reads, "show one delivery and its history", answering((*API).delivery)},
	{"deliveries.who", reads, "list who got the certificates of a name, when, and whether with the private key", answering((*API).who)},
	{"deliveries.retry", acts, "try waiting deliveries now: those that match a filter, those of a lane, or all", answering((*API).retry)},
	{"deliveries.cancel", acts, "cancel waiting deliveries, with a reason: each becomes a dead letter", answering((*API).cancel)},
	{"deliveries.resend", acts, "send again what was delivered, to the same target or to one that was added later", answering((*API).resend)},
	{"deliveries.rollback", acts, "put the files back that a deployment has replaced on its mail host", answering((*API).rollBack)},
	{"deliveries.plan", acts, "say what a deployment onto a mail host would do, without doing it", answering((*API).plan)},
	{"alerts.list", reads, "list the alerts that last, the silences, and how the channels do", answering((*API).alerts)},
	{"alerts.silence", acts, "silence an alert, a kind of alerts, or all, for a time", answering((*API).silence)},
	{"alerts.unsilence", acts, "end a silence of alerts", answering((*API).unsilence)},
	{"history.list", reads, "list audit records, newest first", answering((*API).history)},
}

// Names returns the names of all endpoints.
func Names() (names []string) {
	for _, e := range endpoints {
		names = append(names, e.name)
	}
	return names
}

// Reads returns the names of the endpoints that change nothing, and reach no relay.
func Reads() (names []string) {
	for _, e := range endpoints {
		if e.kind == reads {
			names = append(names, e.name)
		}
	}
	return names
}

// Answer answers one request in JSON. sender is the NATS user or account who sent it, as
// broker.Endpoint gets it. The error is a *Refusal.
func (c *API) Answer(ctx context.Context, name, sender string, request []byte) ([]byte, error) {
	for _, e := range endpoints {
		if e.name == name {
			answer, err := e.answer(ctx, c, sender, request)
			if err != nil {
				return nil, refusalOf(err)
			}
			return json.Marshal(answer)
		}
	}
	return nil, refusalOf(badRequest("unknown request %q", legible.Clean(name, 60)))
}

// Endpoints returns the endpoints of the NATS service.
func (c *API) Endpoints() (all []broker.Endpoint) {
	for _, e := range endpoints {
		all = append(all, broker.Endpoint{Name: e.name, About: e.about, Answer: func(ctx context.Context, sender string, request []byte) ([]byte, error) {
			text, err := c.Answer(ctx, e.name, sender, request)
			if r := (*Refusal)(nil); errors.As(err, &r) {
				data, _ := json.Marshal(r) // every field can be marshalled
				return nil, &broker.Refused{Status: r.Status, Text: r.Text, Data: data}
			}
			return text, err
		}})
	}
	return all
}

// answering decodes the request for a method.
func answering[Q, A any](do func(*API, context.Context, Q) (A, error)) func(context.Context, *API, string, []byte) (any, error) {
	return func(ctx context.Context, c *API, sender string, request []byte) (any, error) {
		var q Q
		if err := decode(request, &q); err != nil {
			return nil, err
		}
		if asked, ok := any(&q).(interface{ sentBy(string) }); ok {
			asked.sentBy(sender)
		}
		return do(c, ctx, q)
	}
}

// badRequest returns the error for an invalid request.
func badRequest(format string, args ...any) error {
	return &desk.Invalid{Text: fmt.Errorf(format, args...).Error()}
}

// Refusal is an error as it is sent: an HTTP status, a text and, if another action on the
// letter or run came first, the record of that action.
type Refusal struct {
	Status   int                 `json:"status"`
	Text     string              `json:"error"`
	Conflict *broker.AuditRecord `json:"conflict,omitempty"`
}

func (r *Refusal) Error() string { return r.Text }

// WrongValue reports whether a value of the request was refused, and not what was to be
// done with it.
func (r *Refusal) WrongValue() bool {
	return r.Status == http.StatusBadRequest || r.Status == http.StatusUnprocessableEntity
}

func refusalOf(err error) *Refusal {
	r := &Refusal{Status: desk.StatusOf(err), Text: err.Error()}
	var known *Refusal
	if errors.As(err, &known) {
		r.Status, r.Conflict = known.Status, known.Conflict
		return r
	}
	if conflict := (*desk.Conflict)(nil); errors.As(err, &conflict) {
		r.Conflict = &conflict.Record
	}
	return r
}

// Caller is the client that sends a request. It chooses its name, which is proved only if it is
// that of the NATS user who sends the request: the permissions in NATS decide which clients may
// send requests.
type Caller struct {
	By  string     `json:"by,omitempty"`
	Via broker.Via `json:"via,omitempty"` // shell for a command of Certpost

	sender string // the NATS user or account that the server has proved, as broker.Endpoint gets it
}

func (a *Caller) sentBy(sender string) { a.sender = sender }

// maxBy is the length of the longest name, in characters: the audit keeps it for years, and
// lists show it.
const maxBy = 128

// check validates the name, which is stored in the audit.
func (a Caller) check() error {
	if utf8.RuneCountInString(a.By) > maxBy {
		return badRequest("by is longer than %d characters", maxBy)
	}
	return nil
}

func (a Caller) actor() broker.Actor {
	by := broker.Actor{Name: strings.TrimSpace(legible.Clean(a.By, 2*maxBy)), Via: broker.ViaService, Proved: broker.Unproved, NATSUser: a.sender}
	switch {
	case broker.SenderProves(a.sender, by.Name):
		by.Name, by.Proved = a.sender, broker.Proved
	case by.Name == "":
		by.Name = "unnamed NATS client"
	}
	if a.Via == broker.ViaShell {
		by.Via = broker.ViaShell
	}
	return by
}

// Filtered selects entries of a list by the same keys as the address of a page:
// {"code": "SMTP_AUTH"}.
type Filtered struct {
	Filter map[string]string `json:"filter,omitempty"`
}

// ListRequest is the request for one page of a list. Conditions may also be top-level keys:
// {"target": "ops", "size": 10}.
type ListRequest struct {
	Filtered
	After uint64 `json:"after,omitempty"` // next of the page before
	Size  int    `json:"size,omitempty"`
}

func (*ListRequest) takesMore() {}

// listKeys are the keys of a ListRequest besides conditions.
var listKeys = []string{"filter", "after", "size"}

// UnmarshalJSON treats every key that is not a field of ListRequest as a condition.
func (r *ListRequest) UnmarshalJSON(text []byte) error {
	type plain ListRequest
	if err := json.Unmarshal(text, (*plain)(r)); err != nil {
		return err
	}
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(text, &keys); err != nil {
		return err
	}
	if r.Size < 0 {
		return fmt.Errorf("size: want a number above 0, not %d", r.Size)
	}
	for key, raw := range keys {
		if slices.Contains(listKeys, key) {
			continue
		}
		if _, twice := r.Filter[key]; twice {
			return fmt.Errorf("%s: is given twice", legible.Clean(key, 60))
		}
		var value any
		if err := json.Unmarshal(raw, &value); err != nil {
			return err
		}
		if r.Filter == nil {
			r.Filter = map[string]string{}
		}
		switch value := value.(type) {
		case string:
			r.Filter[key] = value
		case float64, bool:
			r.Filter[key] = string(raw)
		case nil:
			r.Filter[key] = "" // refused, as a condition without a value
		default:
			r.Filter[key] = string(raw) // refused where it is no condition, else as a value
		}
	}
	return nil
}

// current waits until the index has read what is in the streams now, so that a caller sees
// its own earlier action (read-your-writes).
func (c *API) current(ctx context.Context) error {
	if err := c.desk.Ready(ctx); err != nil {
		return err
	}
	c.desk.CatchUp(ctx)
	return nil
}

func (c *API) list(ctx context.Context, r ListRequest) (desk.Listing, error) {
	q, err := desk.LetterConditions.ParseFilter(r.Filter, listKeys...)
	if err != nil {
		return desk.Listing{}, err
	}
	if err := c.current(ctx); err != nil {
		return desk.Listing{}, err
	}
	listing := c.desk.Letters(q, desk.Page{After: r.After, Size: min(r.Size, MaxPage)})
	listing.Letters = append([]desk.Letter{}, listing.Letters...)
	return listing, nil
}

// MaxPage is the maximum number of letters or entries in one answer; a NATS message may
// have 1 MiB.
const MaxPage = 200

type GroupsAnswer struct {
	Groups  []desk.Group `json:"groups"`
	Balance desk.Balance `json:"balance"`
}

func (c *API) groups(ctx context.Context, r ListRequest) (GroupsAnswer, error) {
	q, err := desk.LetterConditions.ParseFilter(r.Filter, listKeys...)
	if err == nil {
		err = c.current(ctx)
	}
	if err != nil {
		return GroupsAnswer{}, err
	}
	return GroupsAnswer{append([]desk.Group{}, c.desk.Groups(q)...), c.desk.Balance()}, nil
}

type NumberRequest struct {
	Number uint64 `json:"number"`
}

func (c *API) show(ctx context.Context, r NumberRequest) (desk.WholeLetter, error) {
	if err := c.current(ctx); err != nil {
		return desk.WholeLetter{}, err
	}
	d, err := c.desk.Letter(ctx, r.Number)
	return d.Whole(), err
}

// PreflightRequest is about one letter, or about a set.
type PreflightRequest struct {
	Number uint64 `json:"number,omitempty"`
	Filtered
	Numbers    []uint64 `json:"numbers,omitempty"`
	All        bool     `json:"all,omitempty"`
	Superseded bool     `json:"with_superseded,omitempty"`
	Recipients bool     `json:"recipients,omitempty"` // also ask the relay: MAIL, RCPT, RSET
}

// PreflightAnswer is the preflight of one letter, or with Set that of several: then Findings is
// empty.
type PreflightAnswer struct {
	verdict.Preflight
	Set *desk.SetPreflight `json:"set,omitempty"`
}

func (c *API) preflight(ctx context.Context, r PreflightRequest) (a PreflightAnswer, err error) {
	if len(r.Numbers) == 0 && !r.All && len(r.Filter) == 0 {
		a.Preflight, err = c.desk.Preflight(ctx, r.Number, r.Recipients)
		return a, err
	}
	o := Selection{Filtered: r.Filtered, Numbers: r.Numbers, All: r.All, Superseded: r.Superseded}
	if r.Number != 0 {
		return a, badRequest("give number, or one of numbers, filter and all")
	}
	if err := c.prepare(ctx, o); err != nil {
		return a, err
	}
	q, err := desk.LetterConditions.ParseFilter(r.Filter)
	if err != nil {
		return a, err
	}
	for _, n := range r.Numbers {
		if d, err := c.desk.Letter(ctx, n); err != nil {
			return a, err
		} else if d.Status != desk.Open {
			return a, desk.Gone(d)
		}
	}
	set, err := c.desk.PreflightSet(ctx, c.desk.FreezeFor(desk.ForReplay, q, r.Numbers, r.Superseded), r.Recipients)
	a.Preflight = verdict.Preflight{Verdict: set.Verdict, Outlook: set.Outlook, OK: set.OK, Findings: []verdict.Finding{}}
	a.Set = &set
	return a, err
}

type RunsAnswer struct {
	Runs []desk.Run `json:"runs"`
}

func (c *API) runs(ctx context.Context, r ListRequest) (RunsAnswer, error) {
	q, err := desk.RunConditions.ParseFilter(r.Filter, listKeys...)
	if err != nil {
		return RunsAnswer{}, err
	}
	err = c.desk.Ready(ctx)
	return RunsAnswer{c.desk.Runs(q)}, err
}

type RunRequest struct {
	ID    string `json:"id"`
	After uint64 `json:"after,omitempty"`
	Size  int    `json:"size,omitempty"` // of the page of results; 0: none
}

func (c *API) run(ctx context.Context, r RunRequest) (a desk.RunPage, err error) {
	if err = c.desk.Ready(ctx); err != nil {
		return a, err
	}
	if a.Run, err = c.desk.RunOf(r.ID); err != nil || r.Size == 0 {
		return a, err
	}
	a.Results, a.Next, err = c.desk.Results(ctx, r.ID, r.After, min(r.Size, MaxPage))
	return a, err
}

type RunOrder struct {
	Caller
	ID     string `json:"id"`
	Reason string `json:"reason,omitempty"`
}

func (c *API) pauseRun(ctx context.Context, r RunOrder) (desk.Run, error) {
	return c.orderRun(ctx, r, c.desk.PauseRun)
}

func (c *API) resumeRun(ctx context.Context, r RunOrder) (desk.Run, error) {
	return c.orderRun(ctx, r, c.desk.ResumeRun)
}

func (c *API) cancelRun(ctx context.Context, r RunOrder) (desk.Run, error) {
	return c.orderRun(ctx, r, c.desk.CancelRun)
}

func (c *API) orderRun(ctx context.Context, r RunOrder, order func(context.Context, broker.Actor, string, string) error) (desk.Run, error) {
	if err := r.check(); err != nil {
		return desk.Run{}, err
	}
	if err := c.desk.Ready(ctx); err != nil {
		return desk.Run{}, err
	}
	if err := order(ctx, r.actor(), r.ID, r.Reason); err != nil {
		return desk.Run{}, err
	}
	return c.desk.RunOf(r.ID)
}
