package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/verdict"
)

// API answers questions and takes orders about dead letters, in JSON: those of
// the NATS service and those of the commands. docs/replay.md describes them.
type API struct {
	desk *desk.Desk
}

// endpoint is one kind of question. Its subject is "certpost." and its name.
type endpoint struct {
	name, about string
	answer      func(ctx context.Context, c *API, request []byte) (any, error)
}

// endpoints are all there is.
func endpoints() []endpoint {
	return []endpoint{
		{"dead.list", "open dead letters that fit a filter, a page at a time", answering((*API).list)},
		{"dead.groups", "open dead letters by cause", answering((*API).groups)},
		{"dead.show", "all that is known of one dead letter, open or not", answering((*API).show)},
		{"dead.preflight", "whether a replay would be delivered, without sending", answering((*API).preflight)},
		{"dead.replay", "publish dead letters again: some by number, or a run of all that fit", answering((*API).replay)},
		{"dead.edit", "replay one dead letter for another target or to other recipients, where that is switched on", answering((*API).editReplay)},
		{"dead.discard", "give dead letters up", answering((*API).discard)},
		{"dead.restore", "put discarded letters on the list again", answering((*API).restore)},
		{"dead.hold", "keep dead letters from being replayed and discarded", answering((*API).hold)},
		{"dead.release", "end holds", answering((*API).release)},
		{"replays.list", "replay runs, newest first", answering((*API).runs)},
		{"replays.show", "one replay run and what became of its letters", answering((*API).run)},
		{"replays.pause", "pause a replay run", answering((*API).pauseRun)},
		{"replays.resume", "let a paused replay run go on", answering((*API).resumeRun)},
		{"replays.cancel", "end a replay run; what it has not replayed stays on the list", answering((*API).cancelRun)},
		{"deliveries.list", "what went to whom, by certificate, target, state and time", answering((*API).deliveries)},
		{"deliveries.show", "one delivery and its history", answering((*API).delivery)},
		{"history.list", "what was done, by whom, newest first", answering((*API).history)},
	}
}

// answering reads the request for a method. Keys that nobody knows are an error:
// a mistyped filter must not choose all letters.
func answering[Q, A any](do func(*API, context.Context, Q) (A, error)) func(context.Context, *API, []byte) (any, error) {
	return func(ctx context.Context, c *API, request []byte) (any, error) {
		var q Q
		if len(bytes.TrimSpace(request)) > 0 {
			d := json.NewDecoder(bytes.NewReader(request))
			d.DisallowUnknownFields()
			if err := d.Decode(&q); err != nil {
				return nil, badRequest("the request cannot be read: %w", err)
			}
			if _, err := d.Token(); !errors.Is(err, io.EOF) {
				return nil, badRequest("there is more than one JSON value in the request")
			}
		}
		return do(c, ctx, q)
	}
}

// badRequest is a request that cannot be read.
func badRequest(format string, args ...any) error {
	return &desk.Invalid{Text: fmt.Errorf(format, args...).Error()}
}

// refusal is how an error travels: an HTTP status and words, and, when somebody
// else was faster, what that was.
type refusal struct {
	Status   int                 `json:"status"`
	Text     string              `json:"error"`
	Conflict *broker.AuditRecord `json:"conflict,omitempty"`
}

func (r *refusal) Error() string { return r.Text }

func refusalOf(err error) *refusal {
	r := &refusal{Status: desk.StatusOf(err), Text: err.Error()}
	var known *refusal
	if errors.As(err, &known) {
		r.Status, r.Conflict = known.Status, known.Conflict
		return r
	}
	if conflict := (*desk.Conflict)(nil); errors.As(err, &conflict) {
		r.Conflict = &conflict.Record
	}
	return r
}

// asker says who asks. A name is what somebody says of himself: NATS knows who may
// ask at all.
type asker struct {
	By  string     `json:"by,omitempty"`
	Via broker.Via `json:"via,omitempty"` // shell, when a command of ours asks
}

// maxBy is as many characters of a name as the audit keeps for years, and every list
// has to hold.
const maxBy = 128

// check looks at what goes into the audit as it was given.
func (a asker) check() error {
	if utf8.RuneCountInString(a.By) > maxBy {
		return badRequest("by is longer than %d characters", maxBy)
	}
	return nil
}

func (a asker) actor() broker.Actor {
	by := broker.Actor{Name: strings.TrimSpace(legible.Clean(a.By, 2*maxBy)), Via: broker.ViaService}
	if by.Name == "" {
		by.Name = "somebody over NATS"
	}
	if a.Via == broker.ViaShell {
		by.Via = broker.ViaShell
	}
	return by
}

// filtered chooses letters as the address of a page does: {"code": "SMTP_AUTH"}.
type filtered struct {
	Filter map[string]string `json:"filter,omitempty"`
}

func (f filtered) query() (desk.Query, error) {
	values := url.Values{}
	for key, value := range f.Filter {
		values.Set(key, value)
	}
	q, err := desk.ParseQuery(values)
	if err != nil {
		return q, badRequest("filter: %w", err)
	}
	known := q.Values()
	for key, value := range f.Filter {
		if strings.TrimSpace(value) != "" && !known.Has(key) {
			return q, badRequest("filter: there is no %q", legible.Clean(key, 60))
		}
	}
	return q, nil
}

// current waits, for a moment, until the index has what the streams have: who asks
// behind a letter, or behind his own order, shall see it.
func (c *API) current(ctx context.Context) error {
	if err := c.desk.Ready(ctx); err != nil {
		return err
	}
	c.desk.CatchUp(ctx)
	return nil
}

type pageRequest struct {
	filtered
	After uint64 `json:"after,omitempty"`
	Size  int    `json:"size,omitempty"`
}

func (c *API) list(ctx context.Context, r pageRequest) (desk.Listing, error) {
	q, err := r.query()
	if err != nil {
		return desk.Listing{}, err
	}
	if err := c.current(ctx); err != nil {
		return desk.Listing{}, err
	}
	listing := c.desk.Letters(q, desk.Page{After: r.After, Size: min(r.Size, maxAnswered)})
	listing.Letters = append([]desk.Letter{}, listing.Letters...)
	return listing, nil
}

// maxAnswered is how many letters or entries one answer has at most; NATS takes
// 1 MiB in a message.
const maxAnswered = 200

type groupsAnswer struct {
	Groups  []desk.Group `json:"groups"`
	Balance desk.Balance `json:"balance"`
}

func (c *API) groups(ctx context.Context, r filtered) (groupsAnswer, error) {
	q, err := r.query()
	if err == nil {
		err = c.current(ctx)
	}
	if err != nil {
		return groupsAnswer{}, err
	}
	return groupsAnswer{append([]desk.Group{}, c.desk.Groups(q)...), c.desk.Balance()}, nil
}

type numberRequest struct {
	Number uint64 `json:"number"`
}

// letterAnswer is a letter with its event, which holds no secret.
type letterAnswer struct {
	desk.Detail
	Body      string `json:"body,omitempty"`
	NotReplay string `json:"cannot_be_replayed,omitempty"` // why
}

func (c *API) show(ctx context.Context, r numberRequest) (letterAnswer, error) {
	if err := c.current(ctx); err != nil {
		return letterAnswer{}, err
	}
	d, err := c.desk.Letter(ctx, r.Number)
	if err != nil {
		return letterAnswer{}, err
	}
	return letterAnswer{d, string(d.Event), d.NotReplayable}, nil
}

type preflightAnswer struct {
	Findings []verdict.Finding `json:"findings"`
	OK       bool              `json:"ok"` // no finding is an error
}

func (c *API) preflight(ctx context.Context, r numberRequest) (preflightAnswer, error) {
	found, err := c.desk.Preflight(ctx, r.Number)
	a := preflightAnswer{Findings: append([]verdict.Finding{}, found...), OK: true}
	for _, f := range found {
		a.OK = a.OK && f.Status != verdict.Error
	}
	return a, err
}

type runsAnswer struct {
	Runs []desk.Run `json:"runs"`
}

func (c *API) runs(ctx context.Context, _ struct{}) (runsAnswer, error) {
	err := c.desk.Ready(ctx)
	return runsAnswer{append([]desk.Run{}, c.desk.Runs()...)}, err
}

type runRequest struct {
	ID    string `json:"id"`
	After uint64 `json:"after,omitempty"`
	Size  int    `json:"size,omitempty"` // of the results; 0: none
}

type runAnswer struct {
	desk.Run
	Results []desk.RunResult `json:"results,omitempty"`
	Next    uint64           `json:"next,omitempty"` // for after; 0: this is the last page
}

func (c *API) run(ctx context.Context, r runRequest) (a runAnswer, err error) {
	if err = c.desk.Ready(ctx); err != nil {
		return a, err
	}
	if a.Run, err = c.desk.RunOf(r.ID); err != nil || r.Size == 0 {
		return a, err
	}
	a.Results, a.Next, err = c.desk.Results(ctx, r.ID, r.After, min(r.Size, maxAnswered))
	return a, err
}

type runOrder struct {
	asker
	ID     string `json:"id"`
	Reason string `json:"reason,omitempty"`
}

func (c *API) pauseRun(ctx context.Context, r runOrder) (desk.Run, error) {
	return c.orderRun(ctx, r, c.desk.PauseRun)
}

func (c *API) resumeRun(ctx context.Context, r runOrder) (desk.Run, error) {
	return c.orderRun(ctx, r, c.desk.ResumeRun)
}

func (c *API) cancelRun(ctx context.Context, r runOrder) (desk.Run, error) {
	return c.orderRun(ctx, r, c.desk.CancelRun)
}

func (c *API) orderRun(ctx context.Context, r runOrder, order func(context.Context, broker.Actor, string, string) error) (desk.Run, error) {
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

type deliveriesRequest struct {
	Name        string       `json:"name,omitempty"`
	Serial      string       `json:"serial,omitempty"`
	Fingerprint string       `json:"fingerprint,omitempty"`
	Target      string       `json:"target,omitempty"`
	Event       string       `json:"event,omitempty"`
	State       broker.State `json:"state,omitempty"`
	From        time.Time    `json:"from,omitzero"`
	To          time.Time    `json:"to,omitzero"`
	After       uint64       `json:"after,omitempty"`
	Size        int          `json:"size,omitempty"`
}

// deliveries waits until the whole ledger was read, which takes some seconds after
// the start when there are many: half an answer to "what went to whom" is a wrong one.
func (c *API) deliveries(ctx context.Context, r deliveriesRequest) (listing desk.DeliveryListing, err error) {
	if err := c.current(ctx); err != nil {
		return listing, err
	}
	q := desk.DeliveryQuery{Name: r.Name, Serial: r.Serial, Fingerprint: r.Fingerprint, Target: r.Target, Event: r.Event, State: r.State, From: r.From, To: r.To}
	late := until(ctx, func() bool {
		listing, err = c.desk.Deliveries(ctx, q, r.After, min(r.Size, maxAnswered))
		return err != nil || listing.Read >= listing.Of
	})
	if err == nil && late != nil {
		err = fmt.Errorf("the ledger is still being read, %d of %d entries: ask again", listing.Read, listing.Of)
	}
	return listing, err
}

type deliveryRequest struct {
	Target string `json:"target"`
	Event  string `json:"event"`
}

type deliveryAnswer struct {
	broker.Entry
	History []broker.AuditRecord `json:"history"`
}

func (c *API) delivery(ctx context.Context, r deliveryRequest) (deliveryAnswer, error) {
	entry, history, err := c.desk.Delivery(ctx, r.Target, r.Event)
	return deliveryAnswer{entry, append([]broker.AuditRecord{}, history...)}, err
}
