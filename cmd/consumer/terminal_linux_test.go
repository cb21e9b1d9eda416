package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/access"
	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/service"
)

// seat is a command that runs at its own terminal.
type seat struct {
	*lab.Terminal
	t      *testing.T
	cmd    *exec.Cmd
	stdout bytes.Buffer
}

func takeSeat(t *testing.T, args ...string) *seat {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	s := &seat{Terminal: lab.OpenTerminal(t), t: t, cmd: exec.CommandContext(ctx, lab.Build(t), args...)}
	s.cmd.Dir, s.cmd.Env = t.TempDir(), append(os.Environ(), "NO_COLOR=1")
	s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = s.Program, &s.stdout, s.Program
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0} // so that Ctrl-C is a signal to it
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return s
}

// enters waits until the prompt is shown and the echo is off, then types.
func (s *seat) enters(prompt, keys string) {
	s.t.Helper()
	s.Awaits(prompt)
	for end := time.Now().Add(time.Minute); s.Echoes(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatalf("what is typed after %q is shown", prompt)
		}
	}
	s.Type(keys)
}

// leaves waits for the command's end, and requires that the echo is on again.
func (s *seat) leaves(code int) {
	s.t.Helper()
	err := s.cmd.Wait()
	var exit *exec.ExitError
	if got := s.cmd.ProcessState.ExitCode(); got != code || err != nil && !errors.As(err, &exit) {
		s.t.Errorf("exit %d (%v), want %d; shown: %q", got, err, code, s.Shown())
	}
	if !s.Echoes() {
		s.t.Error("the terminal is left without an echo")
	}
}

func TestHashPasswordAtATerminal(t *testing.T) {
	t.Parallel()
	const password = "canary horse battery staple"
	t.Run("twice the same", func(t *testing.T) {
		t.Parallel()
		s := takeSeat(t, "hash-password")
		s.enters("Password: ", password+"\r")
		s.enters("Again: ", password+"\r")
		s.leaves(exitDone)
		hash, err := access.ParseHash(strings.TrimSuffix(s.stdout.String(), "\n"))
		if err != nil || !hash.Fits(password) || strings.Contains(s.Shown(), "canary") {
			t.Errorf("%v: %q, shown %q", err, s.stdout.String(), s.Shown())
		}
	})
	t.Run("two that differ", func(t *testing.T) {
		t.Parallel()
		s := takeSeat(t, "hash-password")
		s.enters("Password: ", password+"\r")
		s.enters("Again: ", password+" \r")
		s.leaves(exitUsage)
		if s.Awaits("certpost: the passwords differ: nothing was hashed"); s.stdout.Len() != 0 || strings.Contains(s.Shown(), "canary") {
			t.Errorf("%q, shown %q", s.stdout.String(), s.Shown())
		}
	})
	for name, keys := range map[string][]string{
		"Ctrl-C at once":          {"canary\x03"},
		"Ctrl-C when asked again": {password + "\r", "canary\x03"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := takeSeat(t, "hash-password")
			for i, prompt := range []string{"Password: ", "Again: "}[:len(keys)] {
				s.enters(prompt, keys[i])
			}
			s.leaves(exitFailed)
			if s.Awaits("certpost: interrupted: nothing was hashed"); s.stdout.Len() != 0 || strings.Contains(s.Shown(), "canary") {
				t.Errorf("%q, shown %q", s.stdout.String(), s.Shown())
			}
		})
	}
	t.Run("from a pipe", func(t *testing.T) {
		t.Parallel()
		s := exec.Command(lab.Build(t), "hash-password")
		s.Stdin = strings.NewReader(password + "\n")
		out, err := s.Output()
		hash, parseErr := access.ParseHash(strings.TrimSuffix(string(out), "\n"))
		if err != nil || parseErr != nil || !hash.Fits(password) {
			t.Errorf("%v, %v: %q", err, parseErr, out)
		}
	})
}

// at runs a command in this process, at a terminal, and interrupts it when the terminal
// shows a text ("": never).
func (o *fixture) at(term *lab.Terminal, interrupt string, args ...string) said {
	o.t.Helper()
	ctx, stop := context.WithCancel(o.t.Context())
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		for interrupt != "" && ctx.Err() == nil {
			if strings.Contains(term.Shown(), interrupt) {
				stop()
			}
			time.Sleep(time.Millisecond)
		}
	}()
	var stdout bytes.Buffer
	code := execute(ctx, append([]string{"-c", o.config}, args...), []string{"NO_COLOR=1"}, &stdout, term.Program)
	stop()
	<-watched
	fmt.Fprint(term.Program, "[the end]")
	term.Awaits("[the end]")
	shown := strings.TrimSuffix(term.Shown(), "[the end]")
	where := actingOn.FindString(shown)
	return said{code: code, stdout: stdout.String(), stderr: strings.Replace(shown, where, "", 1), where: where}
}

// Long work shows its progress only at a terminal. It can be interrupted between two
// parts, and then prints what was done.
//
// Fault: a command discards more letters than one request takes, by mistake. Result: the parts are one act: one line in the audit, and the command prints the one undo for all of them.
func TestLongWorkAtATerminal(t *testing.T) {
	t.Parallel()
	o := newFixture(t, "")
	const n = 2*partOfFilter + 50
	for i := range n {
		o.publish(fmt.Sprintf("e%d", i), "absent")
	}
	o.settled()
	o.until("the letters", func() bool { return len(o.letters()) == n })
	counts := func(held, open int) {
		t.Helper()
		answer := read[[]desk.Group](t, o.certpost("dead-letters", "groups", "-o", "json").done(t))
		if len(answer) != 1 || answer[0].Held != held || answer[0].Count != open {
			t.Errorf("%+v, want %d held of %d", answer, held, open)
		}
	}

	// Interrupted after the first part: that part is done, the rest unchanged.
	cut := o.at(lab.OpenTerminal(t), fmt.Sprintf("%d/%d held", partOfFilter, n), "dead-letters", "hold", "--all", "--yes", "--reason", "later")
	if cut.code != exitFailed || !strings.Contains(cut.stderr, "certpost: interrupted: ") || !strings.Contains(cut.stderr, fmt.Sprintf(" of %d held, the others are unchanged; the same command again does the rest", n)) {
		t.Fatalf("%+v", cut)
	}
	var held int
	if _, err := fmt.Sscanf(cut.stdout, "%d dead letters held", &held); err != nil || held == 0 || held >= n || held%partOfFilter != 0 {
		t.Fatalf("%q, %v", cut.stdout, err)
	}
	counts(held, n)
	rest := o.at(lab.OpenTerminal(t), "", "dead-letters", "hold", "--all", "--yes", "--reason", "later")
	if rest.code != exitDone || rest.stdout != fmt.Sprintf("%d dead letters held (skipped: %d held)\n", n-held, held) {
		t.Errorf("%+v", rest)
	}
	counts(n, n)

	// With JSON output, or without a terminal, there is no progress bar.
	if said := o.at(lab.OpenTerminal(t), "", "dead-letters", "release", "--all", "--yes", "-o", "json"); said.stderr != "" || ordered(t, said).Done != n {
		t.Errorf("%+v", said)
	}
	counts(0, n)
	// The parts are one act: one line of the audit, and one undo (see the end).
	out, act := o.certpost("dead-letters", "discard", "--all", "--yes", "--reason", "nobody wants them").undoable(t)
	if out != fmt.Sprintf("%d dead letters discarded\n", n) || len(o.letters()) != 0 {
		t.Errorf("%q", out)
	}
	if lines := o.certpost("audit", "list", "--action", "discarded").done(t); strings.Count(lines, "nobody wants them") != 1 || !strings.Contains(lines, fmt.Sprintf("%d letters (--act=%s)", n, act)) {
		t.Errorf("audit list:\n%s", lines)
	}
	// The record of the whole is not about one letter: the letter's own names the act.
	if lines := o.certpost("audit", "list", "--action", "discarded", "--letter", "7").done(t); !strings.Contains(lines, "  7 (--act="+act+")  ") {
		t.Errorf("audit list of one letter:\n%s", lines)
	}

	// By number: all are checked first, then processed part by part.
	var numbers []string
	for i := range service.MaxNumbered + 5 {
		numbers = append(numbers, fmt.Sprint(i+1))
	}
	restore := func(more ...string) []string {
		return slices.Concat([]string{"dead-letters", "restore", "--reason", "they do"}, numbers, more)
	}
	if said := o.certpost(restore(fmt.Sprint(n + 1))...); said.code != exitFailed || said.stdout != "" || !strings.Contains(said.stderr, fmt.Sprintf("no dead letter with the number %d", n+1)) || len(o.letters()) != 0 {
		t.Errorf("an unknown number: %+v", said)
	}
	if out := o.certpost(restore("--dry-run")...).done(t); strings.Count(out, "would be restored\n") != len(numbers) || len(o.letters()) != 0 {
		t.Errorf("%s", out)
	}
	cut = o.at(lab.OpenTerminal(t), fmt.Sprintf("%d/%d restored", partOfNumbers, len(numbers)), restore()...)
	again := strings.Count(cut.stdout, "on the list again as number")
	if cut.code != exitFailed || again == 0 || again >= len(numbers) || len(o.letters()) != again ||
		!strings.Contains(cut.stderr, fmt.Sprintf("certpost: interrupted: %d of %d restored, the others are unchanged; for the rest, give the numbers from %s on again", again, len(numbers), numbers[again])) {
		t.Errorf("%d are on the list, %d were said to be: %+v", len(o.letters()), again, cut)
	}
	numbers = numbers[again:]
	if said := o.at(lab.OpenTerminal(t), "", restore()...); said.code != exitDone || len(o.letters()) != service.MaxNumbered+5 || !strings.Contains(said.stderr, fmt.Sprintf("/%d restored", len(numbers))) {
		t.Errorf("%+v", said)
	}
	if lines := o.certpost("audit", "list", "--action", "restored").done(t); strings.Count(lines, "they do") != 2 {
		t.Errorf("two orders by number, each in parts, are not two lines:\n%s", lines)
	}

	if out := o.certpost("dead-letters", "restore", "--all", "--yes", "--act", act).done(t); out != fmt.Sprintf("%d dead letters restored\n", n-service.MaxNumbered-5) || len(o.letters()) != n {
		t.Errorf("the undo: %q, %d letters", out, len(o.letters()))
	}
}

// The operator may interrupt instead of answering.
func TestInterruptedQuestion(t *testing.T) {
	t.Parallel()
	term := lab.OpenTerminal(t)
	ctx, stop := context.WithCancel(t.Context())
	a := &app{ctx: ctx, stderr: term.Program, answers: term.Program}
	go func() {
		term.Awaits("Type 3 to continue: ")
		stop()
	}()
	if err := a.confirm(&desk.Frozen{Count: 3}, nil, "nats://x", "discarded", false); !errors.Is(err, errInterrupted) || !strings.Contains(err.Error(), "nothing was done") {
		t.Errorf("%v", err)
	}
}

// Letters that another caller has discarded meanwhile are skipped, and letters that are
// not in the frozen set are unchanged, also between two parts.
func TestPartsOfAFrozenQuery(t *testing.T) {
	t.Parallel()
	o := newFixture(t, "")
	for i := range 12 {
		o.publish(fmt.Sprintf("e%d", i), "absent")
	}
	o.settled()
	o.until("the letters", func() bool { return len(o.letters()) == 12 })
	c := o.client()
	order := func(filter, hash string) string {
		return fmt.Sprintf(`{"filter": {"code": "TARGET_UNKNOWN"%s}, "hash": %q, "size": 5, "reason": "x"}`, filter, hash)
	}
	dry := asked[service.OrderAnswer](c, "dead.discard", `{"filter": {"code": "TARGET_UNKNOWN"}, "dry_run": true, "reason": "x"}`)
	first := asked[service.OrderAnswer](c, "dead.discard", order(fmt.Sprintf(`, "as_of": "%d"`, dry.Frozen.AsOf), dry.Frozen.Hash))
	if first.Done != 5 || first.Rest == nil || first.Rest.Count != 7 || first.Rest.Query.Above != 5 {
		t.Fatalf("%+v", first)
	}
	asked[service.OrderAnswer](c, "dead.discard", `{"numbers": [7], "reason": "another caller was first"}`)
	o.publish("late", "absent")
	o.settled()
	o.until("the late one", func() bool { return len(o.letters()) == 7 })
	next := func(rest *desk.Frozen) service.OrderAnswer {
		return asked[service.OrderAnswer](c, "dead.discard", order(fmt.Sprintf(`, "as_of": "%d", "above": "%d"`, rest.AsOf, rest.Query.Above), rest.Hash))
	}
	second := next(first.Rest)
	if second.Done != 4 || second.Rest.Count != 2 || second.Rest.Query.Above != 10 {
		t.Errorf("%+v, rest %+v", second, second.Rest)
	}
	if third := next(second.Rest); third.Done != 2 || third.Rest.Count != 0 {
		t.Errorf("%+v, rest %+v", third, third.Rest)
	}
	if left := o.letters(); len(left) != 1 || left[0].Event != "late" {
		t.Errorf("%+v", left)
	}
	for request, want := range map[string]string{
		`dead.replay {"all": true, "size": 5, "reason": "x"}`:     "leave out size",
		`dead.hold {"numbers": [13], "size": 5, "reason": "x"}`:   "require a filter",
		`dead.discard {"all": true, "size": -1, "reason": "x"}`:   "invalid size -1",
		`dead.discard {"filter": {"above": "x"}, "reason": "x"}`:  "above: want the number",
		`dead.discard {"filter": {"above": "13"}, "reason": "x"}`: "",
	} {
		subject, body, _ := strings.Cut(request, " ")
		status, m := c.ask(subject, body)
		if (status == "") != (want == "") || !strings.Contains(string(m.Data), want) {
			t.Errorf("%s: %s %s", request, status, m.Data)
		}
	}
	if left := o.letters(); len(left) != 1 {
		t.Errorf("%+v", left)
	}
}
