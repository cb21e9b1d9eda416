package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
)

// skip is one test that did not run.
type skip struct{ pkg, test, reason string }

// runTests runs the tests of the main module in three go commands, one after the other: the
// browser's, those of whole programs, which mostly wait for other programs, and with the race
// detector all others (task race has it for all). Without a C compiler there is no race detector, which is an error only in CI.
func (s *session) runTests(ctx context.Context, o options) error {
	flags := []string{"test", "-json", "-count=1", "-timeout=45m"}
	if o.short {
		flags = append(flags, "-short")
	}
	if o.run != "" {
		flags = append(flags, "-run", o.run)
	}
	race := slices.Clone(flags)
	if hasRaceDetector(ctx) {
		race = append(race, "-race")
	} else if s.ci {
		return fmt.Errorf("the race detector needs a C compiler: install gcc and libc6-dev")
	} else {
		s.note("the tests run without the race detector: no C compiler found")
	}
	list := s.command(ctx, "go", append([]string{"list"}, o.packages...)...)
	list.Stdout = nil
	found, err := list.Output()
	if err != nil {
		return fmt.Errorf("go list: %w", err)
	}
	browser, programs, others := split(strings.Fields(string(found)))
	// One after the other: on two cores, tests beside a browser wait too long for each other.
	var commands [][]string
	for _, group := range []struct{ flags, packages []string }{
		{append(slices.Clone(flags), "-p=1"), browser},
		{append(slices.Clone(flags), "-p=3", "-parallel=4"), programs},
		{race, others},
	} {
		if len(group.packages) > 0 {
			commands = append(commands, append(group.flags, group.packages...))
		}
	}

	results := make([]result, len(commands))
	out := &lockedWriter{w: os.Stdout}
	for i, args := range commands {
		results[i] = s.goTest(ctx, args, out)
	}
	var ran int
	for _, r := range results {
		ran += r.ran
		s.skipped = append(s.skipped, r.skipped...)
		err = errors.Join(err, r.err)
	}
	if err != nil {
		return err
	}
	fmt.Printf("    %d tests run, %d skipped\n", ran, len(s.skipped))
	if ran == 0 {
		s.note("no test matches %q", o.run)
	}
	if s.ci && !o.short && len(s.skipped) > 0 {
		return fmt.Errorf("%d tests were skipped; with CI=true this is a failure", len(s.skipped))
	}
	return nil
}

// split separates the packages whose tests drive a browser or whole programs (NATS servers,
// mail servers, Certpost itself), where a race detector costs much and finds little that the
// tests of the parts do not find, and sorts all so that the slowest packages begin first: the last package to
// end is then a short one.
func split(packages []string) (browser, programs, others []string) {
	slowest := []string{"/internal/browser/", "/cmd/consumer/", "/internal/queue/", "/bench/", "/internal/broker/", "/internal/desk/", "/internal/delivery/", "/internal/secrets/"}
	place := func(pkg string) int {
		i := slices.IndexFunc(slowest, func(part string) bool { return strings.Contains(pkg+"/", part) })
		return cmp.Or(i+1, len(slowest)+1)
	}
	slices.SortStableFunc(packages, func(a, b string) int { return cmp.Compare(place(a), place(b)) })
	for _, p := range packages {
		switch {
		case strings.HasSuffix(p, "/internal/browser"):
			browser = append(browser, p)
		case strings.Contains(p, "/bench/"), strings.HasSuffix(p, "/cmd/consumer"):
			programs = append(programs, p)
		default:
			others = append(others, p)
		}
	}
	return browser, programs, others
}

// result is what became of one go command.
type result struct {
	ran     int
	skipped []skip
	err     error
}

func (s *session) goTest(ctx context.Context, args []string, out io.Writer) (r result) {
	cmd := s.command(ctx, "go", args...)
	cmd.Env = append(cmd.Environ(), "SKIPPED_TESTS_ARE_LISTED=yes") // in the summary: internal/skips_test.go need not fail
	cmd.Stdout = nil
	events, err := cmd.StdoutPipe()
	if err != nil {
		return result{err: err}
	}
	if err := cmd.Start(); err != nil {
		return result{err: err}
	}
	r.ran, r.skipped, r.err = report(events, out)
	if failed := cmd.Wait(); failed != nil {
		r.err = fmt.Errorf("go test: %w", failed)
	}
	return r
}

// lockedWriter lets several reports write whole texts to one output.
type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(text []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(text)
}

func hasRaceDetector(ctx context.Context) bool {
	out, err := exec.CommandContext(ctx, "go", "env", "CGO_ENABLED", "CC").Output()
	if err != nil {
		return false
	}
	cgo, compiler, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	words := strings.Fields(compiler)
	if cgo != "1" || len(words) == 0 {
		return false
	}
	_, err = exec.LookPath(words[0])
	return err == nil
}

// event is a line of `go test -json` (go doc test2json).
type event struct {
	Action  string
	Package string
	Test    string
	Output  string
}

// report reads the events of `go test -json` and writes what `go test` writes
// without -v: one line per package, after the output of its failed tests. It
// returns the number of tests that ran to completion (without subtests) and the
// skipped tests.
func report(events io.Reader, w io.Writer) (ran int, skipped []skip, err error) {
	packages := map[string]*packageReport{}
	lines := bufio.NewReader(events)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) != nil {
				w.Write(line) // the go command's own messages are not JSON
			} else if e.Package == "" {
				io.WriteString(w, e.Output) // a compiler message
			} else {
				p := packages[e.Package]
				if p == nil {
					p = &packageReport{said: map[string]string{}}
					packages[e.Package] = p
				}
				if p.take(e); p.ended {
					io.WriteString(w, p.text)
					ran += p.ran
					skipped = append(skipped, p.skipped...)
					delete(packages, e.Package)
				}
			}
		}
		if err == io.EOF {
			// The remaining packages were interrupted.
			for _, p := range packages {
				io.WriteString(w, p.text)
			}
			return ran, skipped, nil
		}
		if err != nil {
			return ran, skipped, err
		}
	}
}

// packageReport collects the output of one package's tests: packages run in
// parallel, and their lines are interleaved.
type packageReport struct {
	said    map[string]string // output of unfinished tests, by test
	text    string            // output to print
	ran     int
	skipped []skip
	ended   bool
}

func (p *packageReport) take(e event) {
	switch {
	case e.Action == "output" && e.Test != "":
		// Omit the lines that a test runs, pauses and continues.
		if !strings.HasPrefix(e.Output, "=== ") {
			p.said[e.Test] += e.Output
		}
	case e.Action == "output":
		// With -run most packages print that they have no tests to run.
		if e.Output != "PASS\n" && !strings.Contains(e.Output, "no tests to run") {
			p.text += e.Output
		}
	case e.Action != "pass" && e.Action != "fail" && e.Action != "skip":
		// start, run, pause, cont: nothing to report.
	case e.Test == "":
		p.ended = true
		if e.Action == "fail" {
			// The output of an unfinished test has the reason: a panic or a time-out.
			for _, test := range slices.Sorted(maps.Keys(p.said)) {
				p.text = p.said[test] + p.text
			}
		}
	default:
		if e.Action == "fail" {
			p.text += p.said[e.Test]
		}
		// A skip in a fuzz test means an input that does not apply, not a skipped test.
		if e.Action == "skip" && !strings.HasPrefix(e.Test, "Fuzz") {
			p.skipped = append(p.skipped, skip{e.Package, e.Test, reason(p.said[e.Test])})
		} else if !strings.Contains(e.Test, "/") {
			p.ran++
		}
		delete(p.said, e.Test)
	}
}

// reason extracts the message from a skipped test's output, without file and line.
func reason(output string) string {
	var said []string
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "--- ") {
			continue
		}
		if place, text, found := strings.Cut(line, ": "); found && strings.Contains(place, ".go:") {
			line = text
		}
		said = append(said, line)
	}
	if len(said) == 0 {
		return "no reason given"
	}
	return strings.Join(said, "; ")
}

// groupSkips returns one line for each reason, with its tests.
func groupSkips(skipped []skip) []string {
	tests := map[string][]string{}
	var order []string
	for _, k := range skipped {
		if tests[k.reason] == nil {
			order = append(order, k.reason)
		}
		pkg := strings.TrimPrefix(k.pkg, "github.com/certpost/certpost/")
		tests[k.reason] = append(tests[k.reason], pkg+"."+k.test)
	}
	slices.Sort(order)
	var lines []string
	for _, r := range order {
		lines = append(lines, fmt.Sprintf("%s (%s)", strings.Join(tests[r], ", "), r))
	}
	return lines
}
