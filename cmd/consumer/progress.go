package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/service"
)

// longWork is an order about many letters, given part by part: so that somebody at a
// terminal sees how far it is, and can end it between two parts.
type longWork struct {
	app    *app
	c      *client
	name   string // of the endpoint
	done   string // what is done, in the past tense
	order  any
	choice *service.Selection // of the order
	bar    *bar
}

// How many letters are acted on in one go. Those of a filter are worked on side by
// side, those named by number one after the other.
const (
	partOfFilter  = 200
	partOfNumbers = 10
)

func (a *app) longWork(c *client, name, done string, order any, choice *service.Selection, format string) *longWork {
	l := &longWork{app: a, c: c, name: name, done: done, order: order, choice: choice, bar: &bar{}}
	if format != "json" {
		l.bar = newBar(a.stderr)
	}
	return l
}

func (l *longWork) ask(ctx context.Context) (service.OrderAnswer, error) {
	return ask[service.OrderAnswer](ctx, l.c, l.name, l.order)
}

// freeze nails the letters down: the order is about exactly them from here on.
func (l *longWork) freeze() (service.OrderAnswer, error) {
	l.choice.DryRun = true
	answer, err := l.ask(l.app.ctx)
	l.choice.DryRun, answer.DryRun = false, false
	if err == nil {
		l.choice.Freeze(answer.Frozen)
	}
	return answer, err
}

// byParts acts on frozen letters, those with the lowest numbers first.
func (l *longWork) byParts(f *desk.Frozen) (all service.OrderAnswer, err error) {
	defer l.bar.end()
	all.Frozen = f
	for l.choice.Size = partOfFilter; ; {
		// What is under way is waited for: then it is known how far it came.
		part, err := l.ask(context.WithoutCancel(l.app.ctx))
		if err != nil {
			return all, l.broken(all.Done, f.Count, err)
		}
		all.Done += part.Done
		if all.Rest = part.Rest; all.Rest == nil || all.Rest.Count == 0 {
			return all, nil
		}
		l.bar.show(f.Count-all.Rest.Count, f.Count, l.done)
		if l.app.ctx.Err() != nil {
			return all, l.interrupted(all.Done, f.Count)
		}
		l.choice.Hash, l.choice.Filter["above"] = all.Rest.Hash, fmt.Sprint(all.Rest.Query.Above)
	}
}

// byNumber acts on letters in the order in which they were named. All numbers are
// looked at before anything is done.
func (l *longWork) byNumber() (all service.OrderAnswer, err error) {
	numbers := slices.Clone(l.choice.Numbers)
	if len(numbers) <= partOfNumbers {
		return l.ask(l.app.ctx)
	}
	defer l.bar.end()
	dry := l.choice.DryRun
	l.choice.DryRun = true
	for part := range slices.Chunk(numbers, service.MaxNumbered) {
		l.choice.Numbers = part
		seen, err := l.ask(l.app.ctx)
		if err != nil {
			return service.OrderAnswer{}, err
		}
		all.Letters = append(all.Letters, seen.Letters...)
	}
	if l.choice.DryRun = dry; dry {
		all.DryRun = true
		return all, nil
	}
	all.Letters = nil
	for part := range slices.Chunk(numbers, partOfNumbers) {
		if l.app.ctx.Err() != nil {
			return all, l.interrupted(all.Done, len(numbers))
		}
		l.choice.Numbers = part
		acted, err := l.ask(context.WithoutCancel(l.app.ctx))
		if err != nil {
			return all, l.broken(all.Done, len(numbers), err)
		}
		all.Done += acted.Done
		all.Letters = append(all.Letters, acted.Letters...)
		l.bar.show(len(all.Letters), len(numbers), l.done)
	}
	return all, nil
}

func (l *longWork) interrupted(done, of int) error {
	return &failure{exitFailed, fmt.Errorf("interrupted: %d of %d %s, and the others are as they were", done, of, l.done)}
}

func (l *longWork) broken(done, of int, err error) error {
	if done == 0 {
		return err
	}
	return fmt.Errorf("%d of %d %s, then: %w", done, of, l.done, err)
}
