package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/user"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/verdict"
)

// counter is where commands ask about dead letters: the running program when one
// answers on NATS, else a clerk of their own, who reads the same streams. Both
// answer the same, but that a clerk without a program around him knows no targets
// and works on no runs. docs/decisions/0038 says why.
type counter struct {
	*broker.Broker
	log zerolog.Logger
	own *API   // nil as long as the program answers
	end func() // of the own clerk's desk
}

// counter connects a command.
func (a *app) counter() (*counter, func(), error) {
	b, done, err := a.dial(a.ctx)
	if err != nil {
		return nil, nil, err
	}
	c := &counter{Broker: b, log: a.logger(LogConfig{Level: "error", Format: "auto"}), end: func() {}}
	return c, func() { c.end(); done() }, nil
}

// ask has one question answered.
func ask[A any](ctx context.Context, c *counter, name string, request any) (answer A, err error) {
	body, err := json.Marshal(request)
	if err != nil {
		return answer, fmt.Errorf("%s: %w", name, err)
	}
	text, err := c.answer(ctx, name, body)
	if err != nil {
		return answer, err
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return answer, fmt.Errorf("the running certpost answers %s in a way that this version does not understand: use the version that runs", name)
	}
	return answer, nil
}

func (c *counter) answer(ctx context.Context, name string, request []byte) ([]byte, error) {
	if c.own == nil {
		text, err := c.Ask(ctx, name, request)
		var refused *broker.Refused
		switch {
		case errors.As(err, &refused):
			r := &refusal{Status: refused.Status, Text: refused.Text}
			_ = json.Unmarshal(refused.Data, r) // another version may say less
			return nil, r
		case !errors.Is(err, broker.ErrNoService):
			return text, err
		}
		if err := c.openOwn(ctx); err != nil {
			return nil, err
		}
	}
	for _, e := range endpoints() {
		if e.name == name {
			answer, err := e.answer(ctx, c.own, request)
			if err != nil {
				return nil, refusalOf(err)
			}
			return json.Marshal(answer)
		}
	}
	return nil, fmt.Errorf("there is no %s", name)
}

// openOwn opens a desk for this command alone.
func (c *counter) openOwn(ctx context.Context) error {
	d := desk.New(c.Broker, absent{}, c.log)
	following, cancel := context.WithCancel(context.WithoutCancel(ctx)) // what is under way when somebody interrupts is finished
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = d.Follow(following)
	}()
	c.own = &API{desk: d}
	c.end = func() { cancel(); <-ended }
	return d.Ready(ctx)
}

// absent is what surrounds a desk in a process that delivers nothing.
type absent struct{}

func (absent) Targets() []verdict.TargetView { return nil }
func (absent) Relays() []verdict.RelayView   { return nil }

func (absent) Check(context.Context, string) []verdict.Finding { return noProgram() }

func (absent) Examine(context.Context, string, []byte) []verdict.Finding { return noProgram() }

func noProgram() []verdict.Finding {
	return []verdict.Finding{{What: "certpost", Status: verdict.Error, Message: "no running certpost answers, which has the targets and may read their secrets: start it, or set nats.service in its configuration"}}
}

// me is who asks, for the audit.
func me() asker { return asker{By: actor(), Via: broker.ViaShell} }

// actor is who does this, for the audit.
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
