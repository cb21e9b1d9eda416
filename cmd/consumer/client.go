package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/user"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/service"
	"github.com/certpost/certpost/internal/verdict"
)

// client sends the requests of commands to the running program if one answers on
// NATS, otherwise to an API in the command's own process, which reads the same streams.
// Both give the same answers, except that the command's own API knows no targets and
// works on no runs. docs/decisions/0038 says why.
type client struct {
	*broker.Broker
	log zerolog.Logger
	own *service.API // nil while the running program answers
	end func()       // stops the desk of own

	readWithin time.Duration // how long own waits for streams that cannot be read

	works atomic.Bool // own works: an interrupt may come at any time
}

// client connects a command.
func (a *app) client() (*client, func(), error) {
	b, done, err := a.dial(a.ctx)
	if err != nil {
		return nil, nil, err
	}
	c := &client{Broker: b, readWithin: cmp.Or(a.readWithin, readWithin), log: a.logger(LogConfig{Level: "error", Format: "auto"}), end: func() {}}
	return c, func() { c.end(); done() }, nil
}

// ask sends one request and decodes the answer.
func ask[A any](ctx context.Context, c *client, name string, request any) (answer A, err error) {
	body, err := json.Marshal(request)
	if err != nil {
		return answer, fmt.Errorf("%s: %w", name, err)
	}
	text, err := c.answer(ctx, name, body)
	if err != nil {
		return answer, err
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return answer, fmt.Errorf("this version cannot read the answer of the running certpost to %s: use the version that is running", name)
	}
	return answer, nil
}

func (c *client) answer(ctx context.Context, name string, request []byte) ([]byte, error) {
	if c.own == nil {
		began := time.Now()
		text, err := c.Ask(ctx, name, request)
		var refused *broker.Refused
		switch {
		case errors.As(err, &refused):
			r := &service.Refusal{Status: refused.Status, Text: refused.Text}
			_ = json.Unmarshal(refused.Data, r) // another version may send less
			return nil, r
		case errors.Is(err, broker.ErrLost):
			return nil, fmt.Errorf("%w: %s", err, afterLoss(name, request, began))
		case !errors.Is(err, broker.ErrNoService):
			return text, err
		}
		if err := c.openOwn(ctx); err != nil {
			return nil, err
		}
	}
	return c.own.Answer(ctx, name, "", request)
}

// openOwn opens a desk that only this command uses.
func (c *client) openOwn(ctx context.Context) error {
	d := desk.New(c.Broker, absent{}, c.log)
	d.AllowEdits(desk.EditRules{Unknown: errNoProgram})
	following, cancel := context.WithCancel(context.WithoutCancel(ctx)) // an action in progress is finished also when interrupted
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = d.Follow(following)
	}()
	c.own = service.New(d)
	c.works.Store(true)
	c.end = func() { cancel(); <-ended }
	return readIndex(ctx, d, c.readWithin)
}

// readWithin is how long a command waits for streams that cannot be read: longer than a cluster
// needs to find a new leader.
const readWithin = 10 * time.Second

// readIndex waits until the desk has read the streams: however long that takes while they can be
// read, and at most for a time while they cannot, because this NATS may never get them.
func readIndex(ctx context.Context, d *desk.Desk, within time.Duration) error {
	for {
		part, cancel := context.WithTimeout(ctx, within)
		err := d.Ready(part)
		cancel()
		switch {
		case err == nil:
			select {
			case <-d.BucketRead(): // else a hold would not be known yet
			case <-ctx.Done():
			case <-time.After(within):
			}
			return nil
		case ctx.Err() != nil:
			return err
		}
		if why := d.Unreadable(); why != nil {
			return fmt.Errorf("no running certpost answers, and its streams cannot be read there: %w; is this the right NATS (nats.url, --nats-url)? `certpost run` creates them", why)
		}
	}
}

// absent is the desk's Deliverer in the process of a command, which has no targets.
type absent struct{}

func (absent) Targets() []verdict.TargetView            { return nil }
func (absent) Target(string) (verdict.TargetView, bool) { return verdict.TargetView{}, false }
func (absent) Relays() []verdict.RelayView              { return nil }

func (absent) Check(context.Context, string) []verdict.Finding { return noProgram() }

func (absent) Examine(context.Context, verdict.Trial) []verdict.Finding { return noProgram() }

var errNoProgram = errors.New("no running certpost answers, and only a running one has the targets and may read their secrets: start it, or set nats.service: true in its configuration")

func noProgram() []verdict.Finding {
	return []verdict.Finding{{What: "certpost", Status: verdict.Error, Message: errNoProgram.Error()}}
}

// me is the caller of this command's requests, for the audit.
func me() service.Caller { return service.Caller{By: actor(), Via: broker.ViaShell} }

// actor is the operator's name in the audit: user@host.
func actor() string {
	name := "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	return name + "@" + host
}
