package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/duration"
	"github.com/certpost/certpost/internal/service"
)

type replaysCmd struct {
	List   replaysListCmd   `cmd:"" help:"List replay runs, newest first."`
	Show   replaysShowCmd   `cmd:"" help:"Show one replay run and the results of its letters."`
	Pause  replaysPauseCmd  `cmd:"" help:"Pause a replay run."`
	Resume replaysResumeCmd `cmd:"" help:"Resume a paused replay run."`
	Cancel replaysCancelCmd `cmd:"" help:"End a replay run; letters that it has not replayed stay on the list."`
}

type replaysListCmd struct {
	filterFlags
	Output string `help:"Format: table, wide (all columns, nothing shortened), json or csv." enum:"table,wide,json,csv" default:"table" short:"o"`
}

// Validate is called when the command line has been read.
func (c *replaysListCmd) Validate() error {
	_, err := parseFlags(desk.RunConditions, &c.filterFlags)
	return err
}

func (c *replaysListCmd) Run(a *app) error {
	counter, done, err := a.client()
	if err != nil {
		return err
	}
	defer done()
	answer, err := ask[service.RunsAnswer](a.ctx, counter, "replays.list", service.ListRequest{Filtered: service.Filtered{Filter: c.values()}})
	if err != nil {
		return err
	}
	return printList(a, c.Output, answer.Runs, "no replay runs",
		[]string{"RUN", "STATE", "LETTERS", "PUBLISHED", "DELIVERED", "DEAD AGAIN", "GONE", "FAILED", "STARTED", "ENDED", "BY", "WHY"},
		func(r desk.Run, _ bool) []string {
			return []string{r.ID, string(r.State), fmt.Sprint(r.Spec.Frozen.Count), fmt.Sprint(r.Published), fmt.Sprint(r.Delivered), fmt.Sprint(r.DeadAgain),
				fmt.Sprint(r.Gone), fmt.Sprint(r.Failed), when(r.Started), when(r.Ended), r.By.Shown(), r.Why}
		}, desk.RunTable)
}

type replaysShowCmd struct {
	ID     string `arg:"" help:"Id of the run."`
	Wait   bool   `help:"Show the progress of the run until it ends."`
	Limit  uint   `help:"Maximum number of letters; 0: all." default:"100"`
	Output string `help:"Format: text or json." enum:"text,json" default:"text" short:"o"`
}

func (c *replaysShowCmd) Run(a *app) error {
	counter, done, err := a.client()
	if err != nil {
		return err
	}
	defer done()
	if c.Wait {
		return a.follow(counter, c.ID, c.Output, 0)
	}
	run, err := wholeRun(a.ctx, counter, c.ID, int(c.Limit))
	if err != nil {
		return err
	}
	return a.printRun(run, c.Output)
}

// wholeRun requests a run with the results of its letters, at most limit (0: all).
func wholeRun(ctx context.Context, c *client, id string, limit int) (desk.RunPage, error) {
	size := func(have int) int {
		if limit == 0 {
			return service.MaxPage
		}
		return min(service.MaxPage, limit-have)
	}
	run, err := ask[desk.RunPage](ctx, c, "replays.show", service.RunRequest{ID: id, Size: size(0)})
	for next := run.Next; err == nil && next != 0 && size(len(run.Results)) > 0; {
		var page desk.RunPage
		page, err = ask[desk.RunPage](ctx, c, "replays.show", service.RunRequest{ID: id, After: next, Size: size(len(run.Results))})
		run.Results = append(run.Results, page.Results...)
		next = page.Next
	}
	return run, err
}

func (a *app) printRun(r desk.RunPage, format string) error {
	if format == "json" {
		return a.json(r)
	}
	spec := r.Spec
	fields := [][2]string{
		{"Run", r.ID}, {"State", string(r.State)}, {"Why", r.Why}, {"By", r.By.Shown()}, {"Reason", spec.Reason}, {"Started", when(r.Started)}, {"Ended", when(r.Ended)},
		{"Letters", fmt.Sprint(spec.Frozen.Count) + leftOut(&spec.Frozen)}, {"Selection", which(&spec.Frozen)}, {"Rate", spec.Rate.String()}, {"Canary", yes(spec.Canary)},
		{"May have been sent", yes(spec.Uncertain)}, {"Forced", yes(spec.Force)}, {"Published", fmt.Sprint(r.Published)}, {"Delivered", fmt.Sprint(r.Delivered)},
		{"Dead again", fmt.Sprint(r.DeadAgain)}, {"Gone", number(r.Gone)}, {"Failed", number(r.Failed)}, {"Worker", r.Worker},
	}
	if err := pairs(a.stdout, fields...); err != nil || len(r.Results) == 0 {
		return err
	}
	fmt.Fprintln(a.stdout)
	var rows [][]string
	for _, l := range r.Results {
		note := l.Note
		if l.Letter != 0 {
			note = strings.TrimSpace(fmt.Sprintf("now number %d %s", l.Letter, note))
		}
		rows = append(rows, []string{fmt.Sprint(l.Number), l.Target, l.Event, l.Result, when(l.At), note})
	}
	return table(a.stdout, []string{"NUMBER", "TARGET", "EVENT", "RESULT", "AT", "NOTE"}, rows)
}

const allOpen = "all open letters"

// which describes how letters were selected.
func which(f *desk.Frozen) string {
	conditions := f.Query.Values()
	conditions.Del("as_of") // every run has one
	conditions.Del("order")
	switch {
	case f.Named:
		return "by number"
	case len(conditions) == 0:
		return allOpen
	}
	return conditions.Encode()
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return ""
}

// follow waits for the end of a run, with a progress bar on a terminal, and prints its
// results. The error says if a letter was not delivered, or that the limit was reached (0: none).
func (a *app) follow(c *client, id, format string, limit time.Duration) error {
	var run desk.RunPage
	var late <-chan time.Time
	if limit > 0 {
		late = time.After(limit)
	}
	bar := a.bar()
	defer bar.end()
	started := time.Now()
	for {
		var err error
		run, err = ask[desk.RunPage](a.ctx, c, "replays.show", service.RunRequest{ID: id})
		if a.ctx.Err() != nil {
			return interruptedRun(id)
		}
		if err != nil {
			return err
		}
		bar.show(run.Published+run.Gone+run.Failed, run.Spec.Frozen.Count, fmt.Sprintf("%s, %d delivered, %d dead again", run.State, run.Delivered, run.DeadAgain))
		if run.Over() {
			break
		}
		if c.own != nil && run.Worker == "" && time.Since(started) > workerWithin {
			return fmt.Errorf("replay run %s waits: no certpost process is running that could work on it", id)
		}
		select {
		case <-a.ctx.Done():
			return interruptedRun(id)
		case <-late:
			return fmt.Errorf("replay run %s has not ended within %s; it goes on: certpost replays show %s", id, duration.Format(limit), id)
		case <-time.After(followEvery):
		}
	}
	bar.end()
	run, err := wholeRun(a.ctx, c, id, service.MaxPage)
	if err != nil {
		return err
	}
	if err := a.printRun(run, format); err != nil {
		return err
	}
	if run.State != desk.RunDone || run.DeadAgain+run.Failed > 0 {
		return &failure{exitFailed, fmt.Errorf("replay run %s is %s: %d delivered, %d dead again, %d failed", id, run.State, run.Delivered, run.DeadAgain, run.Failed)}
	}
	return nil
}

// interruptedRun says what becomes of a run that a command no longer waits for.
func interruptedRun(id string) error {
	return &failure{exitFailed, fmt.Errorf("interrupted; replay run %s goes on without this command: certpost replays show %s, or pause or cancel it", id, id)}
}

// followEvery is the time between two requests for the state of a run. workerWithin is the
// time in which a process must have started to work on it.
const (
	followEvery  = 300 * time.Millisecond
	workerWithin = 10 * time.Second
)

// bar shows the progress of long work, only on a terminal.
type bar struct {
	out   io.Writer // nil: not a terminal
	shown bool
}

// bar is the progress bar of a command.
func (a *app) bar() *bar {
	if a.quiet {
		return &bar{}
	}
	return newBar(a.stderr)
}

func newBar(out io.Writer) *bar {
	if screenOf(out).moves {
		return &bar{out: out}
	}
	return &bar{}
}

func (b *bar) show(done, of int, text string) {
	if b.out == nil || of == 0 {
		return
	}
	const width = 30
	filled := min(width, width*done/of)
	fmt.Fprintf(b.out, "\r\x1b[K[%s%s] %d/%d %s", strings.Repeat("#", filled), strings.Repeat(".", width-filled), done, of, text)
	b.shown = true
}

func (b *bar) end() {
	if b.shown {
		fmt.Fprint(b.out, "\r\x1b[K")
		b.shown = false
	}
}

// runCommand has the arguments of pause, resume and cancel.
type runCommand struct {
	ID     string `arg:"" help:"Id of the run."`
	Reason string `help:"Reason (kept in the audit)."`
	Output string `help:"Format: text or json." enum:"text,json" default:"text" short:"o"`
}

// Validate is called when the command line has been read.
func (c *runCommand) Validate() error {
	return reasoned(c.Reason, false)
}

func (c *runCommand) order(a *app, name string) error {
	counter, done, err := a.client()
	if err != nil {
		return err
	}
	defer done()
	run, err := give[desk.Run](a, counter, name, service.RunOrder{Caller: me(), ID: c.ID, Reason: c.Reason})
	if err != nil {
		return err
	}
	if c.Output == "json" {
		return a.json(run)
	}
	fmt.Fprintf(a.stdout, "replay run %s is %s, %d of %d published\n", run.ID, run.State, run.Published, run.Spec.Frozen.Count)
	return nil
}

type replaysPauseCmd struct{ runCommand }

func (c *replaysPauseCmd) Run(a *app) error { return c.order(a, "replays.pause") }

type replaysResumeCmd struct{ runCommand }

func (c *replaysResumeCmd) Run(a *app) error { return c.order(a, "replays.resume") }

type replaysCancelCmd struct{ runCommand }

func (c *replaysCancelCmd) Run(a *app) error { return c.order(a, "replays.cancel") }
