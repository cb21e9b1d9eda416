package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/service"
)

// longWork is an order for many letters, sent in parts, so that an operator at a
// terminal sees the progress, and can interrupt it between two parts.
type longWork struct {
	app    *app
	c      *client
	name   string // of the endpoint
	done   string // the action in the past tense: discarded
	order  any
	choice *service.Selection // the order's selection
	bar    *bar
}

// Letters in one part. Those of a filter are processed in parallel, those given by
// number one after the other.
const (
	partOfFilter  = 200
	partOfNumbers = 10
)

func (a *app) longWork(c *client, name, done string, order any, choice *service.Selection, format string) *longWork {
	l := &longWork{app: a, c: c, name: name, done: done, order: order, choice: choice, bar: &bar{}}
	if format != "json" {
		l.bar = a.bar()
	}
	return l
}

func (l *longWork) ask(ctx context.Context) (service.OrderAnswer, error) {
	return ask[service.OrderAnswer](ctx, l.c, l.name, l.order)
}

// askForPart sends a part of the order. An interrupt does not cancel it, so that its result is known.
func (l *longWork) askForPart() (service.OrderAnswer, error) {
	return l.askToItsEnd("this part of the order")
}

// askForAll sends the order in one part.
func (l *longWork) askForAll() (service.OrderAnswer, error) { return l.askToItsEnd("the order") }

func (l *longWork) askToItsEnd(what string) (service.OrderAnswer, error) {
	ctx, finished := l.app.toItsEnd(l.c, what)
	defer finished()
	return l.ask(ctx)
}

// freeze does a dry run, and limits the order to exactly the letters of the dry run.
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
		part, err := l.askForPart()
		if err != nil {
			return all, l.broken(all.Done, f.Count, err)
		}
		all.Done += part.Done
		all.Act = part.Act
		if all.Rest = part.Rest; all.Rest == nil || all.Rest.Count == 0 {
			return all, nil
		}
		l.bar.show(f.Count-all.Rest.Count, f.Count, l.done)
		if l.app.ctx.Err() != nil {
			return all, l.interrupted(all.Done, f.Count, "the same command again does the rest")
		}
		l.choice.Hash, l.choice.Filter["above"] = all.Rest.Hash, fmt.Sprint(all.Rest.Query.Above)
	}
}

// byNumber acts on letters in the order in which they were given. All numbers are
// checked before anything is done.
func (l *longWork) byNumber() (all service.OrderAnswer, err error) {
	numbers := desk.Once(l.choice.Numbers)
	if len(numbers) <= partOfNumbers {
		return l.askForAll()
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
	all.Letters, all.Act = nil, l.choice.Act
	for part := range slices.Chunk(numbers, partOfNumbers) {
		if l.app.ctx.Err() != nil {
			return all, l.interrupted(all.Done, len(numbers), fmt.Sprintf("for the rest, give the numbers from %d on again", numbers[len(all.Letters)]))
		}
		l.choice.Numbers = part
		acted, err := l.askForPart()
		if err != nil {
			return all, l.broken(all.Done, len(numbers), err)
		}
		all.Done += acted.Done
		all.Letters = append(all.Letters, acted.Letters...)
		l.bar.show(len(all.Letters), len(numbers), l.done)
	}
	return all, nil
}

// nameAct gives an order for several letters the id of its act. It is chosen here, not taken from
// the first answer, so that a part of which no letter was done, or whose answer is lost, is of the
// same act as the others. A replay of many letters is a run instead.
func (l *longWork) nameAct(all bool) {
	if l.name != "dead.replay" && (all || len(desk.Once(l.choice.Numbers)) > 1) {
		l.choice.Act = desk.NewAct()
	}
}

// interrupted says what was done, and how to do the rest: of letters given by number those that are
// done would be refused.
func (l *longWork) interrupted(done, of int, rest string) error {
	return &failure{exitFailed, fmt.Errorf("interrupted: %d of %d %s, the others are unchanged; %s", done, of, l.done, rest)}
}

func (l *longWork) broken(done, of int, err error) error {
	if done == 0 {
		return err
	}
	return fmt.Errorf("%d of %d %s, then an error: %w", done, of, l.done, err)
}
