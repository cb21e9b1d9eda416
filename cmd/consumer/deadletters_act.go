package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/service"
	"github.com/certpost/certpost/internal/verdict"
)

type lettersReplayCmd struct {
	chosen
	MayHaveBeenSent bool          `help:"Also replay letters that may have been sent already."`
	Force           bool          `help:"Send again even if the ledger says that the mail was sent."`
	Rate            string        `help:"Rate limit, such as 10/s or 100/min (with --all)." placeholder:"RATE"`
	Canary          bool          `help:"Replay 1, then 10, then the rest, each step after the one before was delivered (with --all)."`
	Reason          string        `help:"Reason (kept in the audit); required with --all."`
	Wait            bool          `help:"Wait until the outcome is known, and exit with 1 if something was not delivered."`
	Timeout         time.Duration `help:"How long --wait waits; the replay goes on afterwards (default: 5m for letters given by number, without an end with --all)." placeholder:"DURATION"`
	Output          string        `help:"Format: text or json." enum:"text,json" default:"text" short:"o"`
}

// Validate is called when the command line has been read.
func (c *lettersReplayCmd) Validate() error {
	if c.Rate != "" {
		if err := new(verdict.Rate).UnmarshalText([]byte(c.Rate)); err != nil {
			return fmt.Errorf("--rate: %w", err)
		}
	}
	switch {
	case !c.All && (c.Rate != "" || c.Canary):
		return service.ErrForRun
	case c.Timeout < 0 || c.Timeout > 0 && !c.Wait:
		return errors.New("--timeout goes with --wait, and is a duration such as 90s or 10m")
	case c.Wait && c.DryRun:
		return errors.New("--wait does not go with --dry-run: nothing is replayed")
	}
	if err := c.chosen.Validate(); err != nil {
		return err
	}
	return reasoned(c.Reason, c.All && !c.DryRun)
}

func (c *lettersReplayCmd) Run(a *app) error {
	order := service.ReplayOrder{Selection: c.selection(c.Reason), Uncertain: c.MayHaveBeenSent, Force: c.Force, Canary: c.Canary}
	if c.Rate != "" {
		if err := order.Rate.UnmarshalText([]byte(c.Rate)); err != nil {
			return usage("--rate: %w", err)
		}
	}
	var wait *awaited
	if c.Wait {
		wait = &awaited{force: c.Force, limit: c.Timeout}
	}
	return a.act(&c.chosen, "dead.replay", "replayed", &order, &order.Selection, c.Output, wait)
}

type lettersDiscardCmd struct {
	chosen
	Reason string `help:"Reason (kept in the audit)." required:""`
	Output string `help:"Format: text or json." enum:"text,json" default:"text" short:"o"`
}

// Validate is called when the command line has been read.
func (c *lettersDiscardCmd) Validate() error {
	return errors.Join(reasoned(c.Reason, true), c.chosen.Validate())
}

// reasoned checks a reason, required or not, by the rule of the running program.
func reasoned(reason string, required bool) error {
	_, err := broker.CheckReason(reason, required)
	return err
}

func (c *lettersDiscardCmd) Run(a *app) error {
	order := c.selection(c.Reason)
	return a.act(&c.chosen, "dead.discard", "discarded", &order, &order, c.Output, nil)
}

type lettersHoldCmd struct {
	chosen
	Reason string `help:"Reason (kept in the audit)." required:""`
	Output string `help:"Format: text or json." enum:"text,json" default:"text" short:"o"`
}

// Validate is called when the command line has been read.
func (c *lettersHoldCmd) Validate() error {
	return errors.Join(reasoned(c.Reason, true), c.chosen.Validate())
}

func (c *lettersHoldCmd) Run(a *app) error {
	order := c.selection(c.Reason)
	return a.act(&c.chosen, "dead.hold", "held", &order, &order, c.Output, nil)
}

type lettersReleaseCmd struct {
	chosen
	Reason string `help:"Reason (kept in the audit)."`
	Output string `help:"Format: text or json." enum:"text,json" default:"text" short:"o"`
}

func (c *lettersReleaseCmd) Run(a *app) error {
	order := c.selection(c.Reason)
	return a.act(&c.chosen, "dead.release", "released", &order, &order, c.Output, nil)
}

type lettersRestoreCmd struct {
	chosen
	Reason string `help:"Reason (kept in the audit)."`
	Output string `help:"Format: text or json." enum:"text,json" default:"text" short:"o"`
}

// Validate is called when the command line has been read. Letters given by number are restored part
// by part, however many they are.
func (c *lettersRestoreCmd) Validate() error {
	some := c.chosen
	some.Numbers = some.Numbers[:min(len(some.Numbers), service.MaxNumbered)]
	return some.Validate()
}

func (c *lettersRestoreCmd) Run(a *app) error {
	order := c.selection(c.Reason)
	return a.act(&c.chosen, "dead.restore", "restored", &order, &order, c.Output, nil)
}

// act sends an order and prints its result. An order with --all is frozen first, so
// that it acts on exactly the letters whose number the operator confirms.
func (a *app) act(of *chosen, name, done string, order any, choice *service.Selection, format string, wait *awaited) error {
	a.unnamed = a.unnamed && !(of.All && !of.Yes && !of.DryRun && a.answers != nil) // else the question names the system
	c, end, err := a.client()
	if err != nil {
		return err
	}
	defer end()
	l := a.longWork(c, name, done, order, choice, format)
	l.nameAct(of.All)
	var answer service.OrderAnswer
	switch {
	case !of.All && wait != nil:
		if err := wait.readBefore(a.ctx, c, choice.Numbers); err != nil {
			return err
		}
		if answer, err = l.byNumber(); err == nil {
			err = wait.wait(a, c, answer.Letters)
		}
	case !of.All:
		answer, err = l.byNumber()
	case of.DryRun:
		answer, err = l.ask(a.ctx)
	default:
		if answer, err = l.freeze(); err != nil || answer.Frozen.Count == 0 {
			break
		}
		if err := a.confirm(answer.Frozen, answer.Contents, c.URL(), done, of.Yes); err != nil {
			return err
		}
		if name == "dead.replay" {
			answer, err = l.askForAll()
		} else {
			answer, err = l.byParts(answer.Frozen)
		}
	}
	if err == nil && answer.Run != nil && wait != nil {
		return a.follow(c, answer.Run.ID, format, wait.limit)
	}
	if err != nil && answer.Done == 0 {
		return err
	}
	if format == "json" {
		err = errors.Join(a.json(answer), err)
	} else {
		a.printOrder(answer, done)
		if name == "dead.discard" && answer.Done > 0 && choice.Act != "" && !a.quiet {
			fmt.Fprintf(a.stderr, "act %s; to undo it: certpost dead-letters restore --all --act %s\n", choice.Act, choice.Act)
		}
	}
	failed := 0
	for _, o := range answer.Letters {
		if o.Error != "" {
			failed++
		}
	}
	if err == nil && failed > 0 {
		return &failure{exitFailed, fmt.Errorf("%d of %d failed", failed, len(answer.Letters))}
	}
	return err
}

// confirm asks the operator at the terminal. Without a terminal, --yes is required.
func (a *app) confirm(f *desk.Frozen, in *desk.Contents, system, done string, yes bool) error {
	return a.confirmCount(f.Count, fmt.Sprintf("%s would be %s%s", count(f.Count, "dead letter"), done, leftOut(f)), "letters", contentLines(in), system, yes)
}

// confirmCount asks the operator to type how many there are. what is a sentence that says it, and
// lines say what is in them.
func (a *app) confirmCount(n int, what, noun string, lines []string, system string, yes bool) error {
	if yes {
		return nil
	}
	if a.answers == nil {
		return usage("%s: add --yes to confirm, or --dry-run to see which", what)
	}
	for _, line := range lines {
		fmt.Fprintln(a.stderr, printable(line))
	}
	fmt.Fprintf(a.stderr, "%s, at %s. Type %d to continue: ", what, printable(system), n)
	line, err := a.answer(func() (string, error) { return bufio.NewReader(a.answers).ReadString('\n') })
	if given := strings.TrimSpace(line); given != fmt.Sprint(n) {
		nothing := errors.New("nothing was done")
		if given != "" {
			nothing = fmt.Errorf("nothing was done: you typed %q; the answer is the number of %s, %d, so that you have read it", shorten(given, 20), noun, n)
		}
		return &failure{exitFailed, errors.Join(nothing, err)}
	}
	return nil
}

// contentLines say what is in a selection, a line for each kind of value.
func contentLines(in *desk.Contents) (lines []string) {
	if in == nil {
		return nil
	}
	for _, kind := range []struct {
		name string
		of   desk.Tally
	}{{"causes", in.Causes}, {"targets", in.Targets}, {"recipients", in.Recipients}, {"names", in.Names}} {
		lines = append(lines, tallyLine(kind.name, kind.of)...)
	}
	lines = append(lines, expiryLine(in.SoonestExpiry, in.SoonestName)...)
	for _, m := range in.MaybeSent[:min(len(in.MaybeSent), 5)] {
		lines = append(lines, fmt.Sprintf("may have been sent: %d, look for %s at %s", m.Number, m.MessageID, strings.Join(m.Recipients, ", ")))
	}
	return lines
}

// dryRun prints what an order would do: what it acts on, and how many those are.
func (a *app) dryRun(lines []string, what string) {
	for _, line := range append(lines, what) {
		fmt.Fprintln(a.stdout, printable(line))
	}
}

// deliveryLines say what is in a selection of deliveries.
func deliveryLines(in *desk.DeliveryContents) (lines []string) {
	lines = append(lines, tallyLine("lanes", in.Lanes)...)
	lines = append(lines, tallyLine("targets", in.Targets)...)
	lines = append(lines, tallyLine("recipients", in.Recipients)...)
	lines = append(lines, tallyLine("names", in.Names)...)
	if in.Uncertain > 0 {
		lines = append(lines, fmt.Sprintf("may have been sent: %d", in.Uncertain))
	}
	return append(lines, expiryLine(in.SoonestExpiry, in.SoonestName)...)
}

// tallyLine lists the first values of a tally; none for an empty one.
func tallyLine(name string, of desk.Tally) []string {
	var values []string
	for _, v := range of.First[:min(len(of.First), 5)] {
		values = append(values, fmt.Sprintf("%s (%d)", strings.TrimSuffix(v.Value, "."), v.Letters))
	}
	if more := of.Values - len(values); more > 0 {
		values = append(values, fmt.Sprintf("%d more", more))
	}
	if values == nil {
		return nil
	}
	return []string{name + ": " + strings.Join(values, ", ")}
}

func expiryLine(at time.Time, name string) []string {
	if at.IsZero() {
		return nil
	}
	return []string{"soonest expiry: " + when(at) + ", " + name}
}

// errInterrupted says that the operator interrupted the program instead of answering.
var errInterrupted = errors.New("interrupted")

// answer returns what read reads from the terminal, or errInterrupted if the context
// ends first. read itself cannot be interrupted; what it reads later is lost.
func (a *app) answer(read func() (string, error)) (string, error) {
	type answer struct {
		text string
		err  error
	}
	got := make(chan answer, 1)
	go func() {
		text, err := read()
		got <- answer{text, err}
	}()
	select {
	case given := <-got:
		return given.text, given.err
	case <-a.ctx.Done():
		return "", errInterrupted
	}
}

// terminal returns in if it is a terminal, where an operator can answer, else nil.
func terminal(in *os.File) io.Reader {
	if term.IsTerminal(int(in.Fd())) {
		return in
	}
	return nil
}

// leftOut says how many of a filter's letters are skipped, and why.
func leftOut(f *desk.Frozen) string {
	var parts []string
	for _, p := range []struct {
		n    int
		what string
	}{{f.Held, "held"}, {f.Superseded, "superseded"}, {f.Withheld, "without an event"}, {f.InRuns, "in replay runs"}} {
		if p.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", p.n, p.what))
		}
	}
	if parts == nil {
		return ""
	}
	return " (skipped: " + strings.Join(parts, ", ") + ")"
}

func (a *app) printOrder(answer service.OrderAnswer, done string) {
	for i, o := range answer.Letters {
		said := o.Done + o.Error
		if answer.DryRun {
			said = "would be " + done
		}
		out := a.stdout
		if a.quiet && o.Error != "" {
			out = a.stderr
		}
		fmt.Fprintf(out, "%s %s %s: %s\n", progress(i, len(answer.Letters)), printable(o.Event), printable(o.Target), printable(said))
	}
	f := answer.Frozen
	switch {
	case f == nil:
	case f.Count == 0 && f.Purpose == desk.ForRestore:
		fmt.Fprintln(a.stdout, "no discarded dead letters match"+leftOut(f))
	case f.Count == 0:
		fmt.Fprintln(a.stdout, none(which(f) != allOpen)+leftOut(f))
	case answer.DryRun:
		for _, line := range contentLines(answer.Contents) {
			fmt.Fprintln(a.stdout, printable(line))
		}
		fmt.Fprintf(a.stdout, "%s would be %s%s\nfirst numbers: %s\nas of number %d, hash %s\n", count(f.Count, "dead letter"), done, leftOut(f), numbersText(f.Numbers), f.AsOf, f.Hash)
	case answer.Run != nil:
		fmt.Fprintf(a.stdout, "%s in replay run %s%s; see certpost replays show %s\n", count(f.Count, "dead letter"), answer.Run.ID, leftOut(f), answer.Run.ID)
	default:
		fmt.Fprintf(a.stdout, "%s %s%s\n", count(answer.Done, "dead letter"), done, leftOut(f))
		if passed := f.Count - answer.Done; passed > 0 && (answer.Rest == nil || answer.Rest.Count == 0) {
			fmt.Fprintf(a.stdout, "%s held, or acted on by another caller, in the meantime: see certpost audit list\n", wasWere(passed, "other"))
		}
	}
}

func wasWere(n int, what string) string {
	if n == 1 {
		return "1 " + what + " was"
	}
	return fmt.Sprintf("%d %ss were", n, what)
}

func numbersText(numbers []uint64) string {
	return strings.Trim(strings.ReplaceAll(fmt.Sprint(numbers), " ", ", "), "[]")
}
