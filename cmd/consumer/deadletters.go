package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/verdict"
)

type deadLettersCmd struct {
	List    lettersListCmd    `cmd:"" help:"List open dead letters, oldest first."`
	Show    lettersShowCmd    `cmd:"" help:"Show one dead letter and the commands that replay it."`
	Replay  lettersReplayCmd  `cmd:"" help:"Publish dead letters again, after what stopped them was mended."`
	Discard lettersDiscardCmd `cmd:"" help:"Give dead letters up, with a reason."`
}

// letterFilter chooses dead letters by what stands in their subjects.
type letterFilter struct {
	Code   string `help:"Only this code (SMTP_AUTH, ...)."`
	Target string `help:"Only this target." placeholder:"ID"`
	Event  string `help:"Only this event." placeholder:"ID"`
}

// Validate is called when the command line has been read.
func (f *letterFilter) Validate() error {
	if strings.ContainsAny(f.Code, ".*> \t") {
		return fmt.Errorf("--code %q is no code", f.Code)
	}
	return nil
}

// letters collects what fits. The subject filter would do for tokens alone; ids
// may be any text, so the letters themselves are compared.
func (f *letterFilter) letters(ctx context.Context, b *broker.Broker) ([]broker.DeadLetter, error) {
	subject := ""
	if f.Code != "" {
		subject = "certpost.dead." + strings.ToUpper(f.Code) + ".>"
	}
	var all []broker.DeadLetter
	for d, err := range b.DeadLetters(ctx, subject) {
		if err != nil {
			return nil, err
		}
		if (f.Target == "" || d.Target == f.Target) && (f.Event == "" || d.Event == f.Event || d.Token == f.Event) {
			all = append(all, d)
		}
	}
	return all, nil
}

type lettersListCmd struct {
	letterFilter
	Output string `help:"Format: table or json." enum:"table,json" default:"table" short:"o"`
}

func (c *lettersListCmd) Run(a *app) error {
	b, done, err := a.dial(a.ctx)
	if err != nil {
		return err
	}
	defer done()
	letters, err := c.letters(a.ctx, b)
	if err != nil {
		return err
	}
	if c.Output == "json" {
		if letters == nil {
			letters = []broker.DeadLetter{}
		}
		return a.json(letters)
	}
	if len(letters) == 0 {
		fmt.Fprintln(a.stdout, "no open dead letters")
		return nil
	}
	var rows [][]string
	for _, d := range letters {
		rows = append(rows, []string{fmt.Sprint(d.Sequence), when(d.Time), string(d.Code), d.Target, d.Event, string(d.Certainty), shorten(d.Reason, 80)})
	}
	return table(a.stdout, []string{"NUMBER", "TIME", "CODE", "TARGET", "EVENT", "SENT?", "REASON"}, rows)
}

func shorten(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}

type lettersShowCmd struct {
	Number uint64 `arg:"" help:"Number of the letter (its sequence in CERTPOST_DEAD_LETTERS)."`
	Body   bool   `help:"Print the event alone, as it would be replayed."`
	Output string `help:"Format: text or json." enum:"text,json" default:"text" short:"o"`
}

func (c *lettersShowCmd) Run(a *app) error {
	b, done, err := a.dial(a.ctx)
	if err != nil {
		return err
	}
	defer done()
	d, err := b.DeadLetter(a.ctx, c.Number)
	if err != nil {
		return err
	}
	if c.Body {
		_, err := a.stdout.Write(append(d.Body, '\n'))
		return err
	}
	if c.Output == "json" {
		return a.json(struct {
			broker.DeadLetter
			Body string `json:"body"`
		}{d, string(d.Body)})
	}
	err = pairs(a.stdout,
		[2]string{"Number", fmt.Sprint(d.Sequence)}, [2]string{"Time", when(d.Time)}, [2]string{"Event", d.Event},
		[2]string{"Target", d.Target}, [2]string{"Lane", d.Lane}, [2]string{"Code", string(d.Code) + " (" + string(d.Class) + ")"},
		[2]string{"Phase", string(d.Phase)}, [2]string{"Reason", d.Reason}, [2]string{"Reply", reply(d.ReplyCode, d.EnhancedCode, d.Reply)},
		[2]string{"Sent?", string(d.Certainty)}, [2]string{"Owed to", strings.Join(d.Recipients, ", ")},
		[2]string{"Attempts", number(d.Attempts)}, [2]string{"First attempt", when(d.First)}, [2]string{"Last attempt", when(d.Last)},
		[2]string{"Generation", number(d.Generation)}, [2]string{"Secrets used", d.Secrets})
	if err != nil || d.ReplaySubject == "" {
		return err
	}
	pipeline := strings.NewReplacer("$NUMBER", fmt.Sprint(d.Sequence), "$REPLAY_SUBJECT", shellWord(printable(d.ReplaySubject)), "\n", "\n  ").Replace(replayWithNATS)
	fmt.Fprintf(a.stdout, "\nTo replay it, when what stopped it has been mended:\n  certpost dead-letters replay %d\nor with the NATS CLI:\n  %s\n", d.Sequence, pipeline)
	return nil
}

// replayWithNATS replays a dead letter without Certpost; the README has the same
// lines. It needs nothing that is not everywhere.
const replayWithNATS = `nats stream get CERTPOST_DEAD_LETTERS $NUMBER --json |
  sed -n 's/^ *"data": "\([^"]*\)".*/\1/p' | base64 -d |
  nats pub -J --force-stdin $REPLAY_SUBJECT`

// chosen are the letters that a command acts on: by number, or all that fit a filter.
type chosen struct {
	Numbers []uint64 `arg:"" optional:"" name:"number" help:"Numbers of the letters."`
	All     bool     `help:"All open letters, or all that fit --code, --target and --event."`
	letterFilter
}

// Validate is called when the command line has been read.
func (c *chosen) Validate() error {
	switch {
	case len(c.Numbers) > 0 && c.All:
		return errors.New("give numbers or --all, not both")
	case len(c.Numbers) > 0 && c.letterFilter != letterFilter{}:
		return errors.New("--code, --target and --event choose among --all, not among numbers")
	case len(c.Numbers) == 0 && !c.All:
		return errors.New("which ones? Give their numbers (see certpost dead-letters list), or --all")
	}
	return c.letterFilter.Validate()
}

func (c *chosen) find(ctx context.Context, b *broker.Broker) ([]broker.DeadLetter, error) {
	if c.All {
		return c.letters(ctx, b)
	}
	var all []broker.DeadLetter
	for _, n := range c.Numbers {
		d, err := b.DeadLetter(ctx, n)
		if err != nil {
			return nil, err
		}
		all = append(all, d)
	}
	return all, nil
}

// outcome is what an action did to one letter.
type outcome struct {
	Number uint64 `json:"number"`
	Event  string `json:"event"`
	Target string `json:"target,omitempty"`
	Done   string `json:"done,omitempty"`
	Error  string `json:"error,omitempty"`
}

// act does something to every letter, says what came of each, and fails if one did.
func (a *app) act(letters []broker.DeadLetter, format string, do func(broker.DeadLetter) (string, error)) error {
	outcomes := []outcome{}
	failed := 0
	for i, d := range letters {
		o := outcome{Number: d.Sequence, Event: d.Event, Target: d.Target}
		var err error
		if o.Done, err = do(d); err != nil {
			o.Error = err.Error()
			failed++
		}
		outcomes = append(outcomes, o)
		if format != "json" {
			fmt.Fprintf(a.stdout, "%s %s %s: %s\n", progress(i, len(letters)), printable(d.Event), printable(d.Target), o.Done+o.Error)
		}
		if a.ctx.Err() != nil {
			return fmt.Errorf("interrupted after %d of %d letters; none is lost", i+1, len(letters))
		}
	}
	if format == "json" {
		if err := a.json(outcomes); err != nil {
			return err
		}
	} else if len(letters) == 0 {
		fmt.Fprintln(a.stdout, "no open dead letters")
	}
	if failed > 0 {
		return &failure{exitFailed, fmt.Errorf("%d of %d failed", failed, len(letters))}
	}
	return nil
}

func progress(i, of int) string {
	width := len(strconv.Itoa(of))
	return fmt.Sprintf("[%*d/%d]", width, i+1, of)
}

type lettersReplayCmd struct {
	chosen
	Force  bool   `help:"Deliver even if the ledger says that the mail was sent."`
	Yes    bool   `help:"Also those that may have been sent already." short:"y"`
	Output string `help:"Format: text or json." enum:"text,json" default:"text" short:"o"`
}

func (c *lettersReplayCmd) Run(a *app) error {
	b, done, err := a.dial(a.ctx)
	if err != nil {
		return err
	}
	defer done()
	letters, err := c.find(a.ctx, b)
	if err != nil {
		return err
	}
	return a.act(letters, c.Output, func(d broker.DeadLetter) (string, error) {
		if d.Certainty == verdict.May && !c.Yes {
			return "", errors.New("may have been sent already: look for its Message-ID at the relay, then add --yes")
		}
		if err := b.Replay(a.ctx, d, operator(), broker.Replay{Uncertain: c.Yes, Force: c.Force}); err != nil {
			return "", err
		}
		return "published again to " + d.ReplaySubject, nil
	})
}

type lettersDiscardCmd struct {
	chosen
	Reason string `help:"Why (kept in the audit)." required:""`
	Output string `help:"Format: text or json." enum:"text,json" default:"text" short:"o"`
}

// Validate is called when the command line has been read.
func (c *lettersDiscardCmd) Validate() error {
	if strings.TrimSpace(c.Reason) == "" {
		return errors.New("--reason is empty: say why, for who looks into the audit later")
	}
	return c.chosen.Validate()
}

func (c *lettersDiscardCmd) Run(a *app) error {
	b, done, err := a.dial(a.ctx)
	if err != nil {
		return err
	}
	defer done()
	letters, err := c.find(a.ctx, b)
	if err != nil {
		return err
	}
	return a.act(letters, c.Output, func(d broker.DeadLetter) (string, error) {
		return "discarded", b.Discard(a.ctx, d, operator(), c.Reason)
	})
}

// operator is who does this, and by what way.
func operator() broker.Actor { return broker.Actor{Name: actor(), Via: broker.ViaShell} }

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
