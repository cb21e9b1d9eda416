// Command test is the test command of the README:
//
//	go run -C tools/test . [flags] [packages]
//
// It needs only Go. It installs what the tests need (Debian packages if it runs as
// root on Debian or Ubuntu, Go programs into .tools/bin of the
// checkout), checks the source, runs every test, and reports which tests were skipped and
// why. With CI=true in the environment a skipped test is a failure. It uses only the
// standard library, so that it runs before anything was downloaded.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func main() {
	var o options
	flag.BoolVar(&o.short, "short", false, "omit the slow tests")
	flag.StringVar(&o.run, "run", "", "run only the tests that match this `pattern`, without source checks")
	flag.BoolVar(&o.skipInstall, "skip-install", false, "install and build nothing: use what is already on the machine")
	flag.BoolVar(&o.lint, "lint", false, "only check the source, without tests")
	flag.BoolVar(&o.reproducible, "reproducible", false, "only build the program twice, and compare")
	flag.DurationVar(&o.fuzz, "fuzz", 0, "only fuzz: run each fuzz test for this `time`")
	flag.Parse()
	o.packages = flag.Args()
	if len(o.packages) == 0 {
		o.packages = []string{"./..."}
	}
	// Ctrl-C cancels the context, so that an interrupted installation restores the
	// files that it has moved.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "FAILED:", err)
		os.Exit(1)
	}
}

type options struct {
	short, skipInstall, lint, reproducible bool

	run      string
	packages []string // to test, relative to the checkout's root
	fuzz     time.Duration
}

// run executes all steps, even after one has failed, so that one run reports
// everything to fix. The summary comes last; the error names the failed steps.
func run(ctx context.Context, o options) error {
	root, err := findRoot()
	if err != nil {
		return err
	}
	if err := withoutVersionStamp(ctx); err != nil {
		return err
	}
	s := &session{root: root, ci: os.Getenv("CI") == "true", started: time.Now()}
	if o.fuzz > 0 {
		s.step(ctx, "fuzzing", func(ctx context.Context) error { return s.fuzz(ctx, o.fuzz) })
		return s.summary(ctx)
	}
	if o.reproducible {
		s.step(ctx, "reproducible build", s.reproducible)
		return s.summary(ctx)
	}
	if !o.skipInstall {
		if !o.lint {
			s.step(ctx, "system packages", s.installPackages)
			s.step(ctx, "Exim", s.unpackExim)
			s.step(ctx, "OpenSMTPD", s.unpackOpenSMTPD)
		}
		s.step(ctx, "tools", func(ctx context.Context) error { return s.buildTools(ctx, o.lint) })
	}
	if o.run == "" {
		for _, c := range s.checks() {
			s.step(ctx, c.name, c.run)
		}
	}
	if !o.lint {
		s.step(ctx, "tests", func(ctx context.Context) error { return s.runTests(ctx, o) })
	}
	return s.summary(ctx)
}

// session is one run of this command.
type session struct {
	root    string // of the checkout
	ci      bool   // a skipped test is a failure
	started time.Time
	failed  []string // steps, in order
	notes   []string // for the summary
	skipped []skip
}

// step runs one step, prints its duration, and records a failure. It does nothing
// once the context is cancelled.
func (s *session) step(ctx context.Context, name string, do func(context.Context) error) {
	if ctx.Err() != nil {
		return
	}
	fmt.Printf("==> %s\n", name)
	began := time.Now()
	err := do(ctx)
	took := time.Since(began).Round(100 * time.Millisecond)
	if err != nil {
		s.failed = append(s.failed, name)
		fmt.Printf("==> %s: FAILED after %s: %v\n", name, took, err)
		return
	}
	fmt.Printf("==> %s: done in %s\n", name, took)
}

func (s *session) note(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	s.notes = append(s.notes, line)
	fmt.Println("    " + line)
}

func (s *session) summary(ctx context.Context) error {
	fmt.Printf("\nsummary after %s\n", time.Since(s.started).Round(time.Second))
	for _, line := range s.notes {
		fmt.Println("  note:", line)
	}
	for _, line := range groupSkips(s.skipped) {
		fmt.Println("  skipped:", line)
	}
	if len(s.skipped) == 0 {
		fmt.Println("  skipped: nothing")
	}
	if err := ctx.Err(); err != nil {
		return errors.New("interrupted")
	}
	if len(s.failed) > 0 {
		return errors.New(strings.Join(s.failed, ", "))
	}
	fmt.Println("  passed: everything that ran")
	return nil
}

// command prepares a program that runs in the checkout's root with the same standard
// output and error as this process. It has no input, so that no program waits for an answer.
func (s *session) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = s.root
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 30 * time.Second
	return cmd
}

// withoutVersionStamp adds -buildvcs=false to GOFLAGS, for every go command that this
// process runs: git refuses to read a checkout that belongs to another user, for example
// one that is mounted into a container, and then go list and go build fail.
func withoutVersionStamp(ctx context.Context) error {
	flags, err := exec.CommandContext(ctx, "go", "env", "GOFLAGS").Output()
	if err != nil {
		return fmt.Errorf("go env GOFLAGS: %w", err)
	}
	return os.Setenv("GOFLAGS", strings.TrimSpace(string(flags))+" -buildvcs=false")
}

// findRoot searches for the checkout's go.mod from the working directory upwards.
func findRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		data, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(data), "module github.com/certpost/certpost\n") {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("not in a checkout of Certpost: run `go run -C tools/test .` in the root of the checkout")
		}
		dir = parent
	}
}
