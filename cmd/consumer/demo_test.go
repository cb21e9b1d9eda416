package main

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/certpost/certpost/internal/lab"
)

// demonstration is a `certpost demo` with its own temp directory.
type demonstration struct {
	*program
	temp   string
	stdout *writings
}

func startDemo(t *testing.T, args ...string) *demonstration {
	t.Helper()
	d := &demonstration{newProgram(t, ""), t.TempDir(), &writings{}}
	d.cmd = exec.Command(d.path, append([]string{"demo"}, args...)...)
	d.cmd.Dir, d.cmd.Stdout, d.cmd.Stderr = d.dir, d.stdout, d.log
	d.cmd.Env = append(os.Environ(), "TMPDIR="+d.temp)
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return d
}

// left checks that the temp directory is empty.
func (d *demonstration) left() {
	d.t.Helper()
	left, err := os.ReadDir(d.temp)
	if err != nil || len(left) > 0 {
		d.t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestDemoOnce(t *testing.T) {
	t.Parallel()
	d := startDemo(t, "--once", "--inbox", "127.0.0.1:0", "--nats-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0")
	d.ended()
	want := `^EVENT +TARGET +STATE +CODE +ATTEMPTS
demo-1 +ops-archive +sent +1
demo-2 +java-keystore +sent +1
demo-2 +ops-archive +sent +1
demo-3 +wrong-address +dead +SMTP_PERMANENT +1
demo-4 +demo-mx +sent +1
mx\.example\.com at 127\.0\.0\.1:\d+ served serial ([0-9a-f]+) before the deployment, and serves ([0-9a-f]+) now\.
$`
	if found := regexp.MustCompile(want).FindStringSubmatch(d.stdout.String()); found == nil || found[1] == found[2] {
		t.Errorf("it prints\n%s", d.stdout)
	}
	d.left()
}

// Where another user could replace the files, the demo does without its mail host, and says why.
func TestDemoWithoutAMailHost(t *testing.T) {
	t.Parallel()
	open := filepath.Join(t.TempDir(), "open")
	if err := errors.Join(os.Mkdir(open, 0o700), os.Chmod(open, 0o777), os.Mkdir(filepath.Join(open, "demo"), 0o700)); err != nil {
		t.Fatal(err)
	}
	ca, err := newDemoCA()
	if err != nil {
		t.Fatal(err)
	}
	d := &demo{dir: filepath.Join(open, "demo"), authority: ca}
	if err := d.openHost(t.Context()); err != nil || d.host != nil {
		t.Fatalf("%+v, %v", d.host, err)
	}
	if report, err := d.hostReport(t.Context()); err != nil || !strings.HasPrefix(report, "No certificate was deployed to a mail server: ") || !strings.Contains(report, "chmod go-w") {
		t.Errorf("%q, %v", report, err)
	}
}

func TestDemoOnceTooSlow(t *testing.T) {
	t.Parallel()
	d := startDemo(t, "--once", "--timeout", "1ms", "--inbox", "127.0.0.1:0", "--nats-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0")
	var exit *exec.ExitError
	if err := d.cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != exitFailed || d.logged(0) != "certpost: not every sample was settled within 1ms\n" {
		t.Errorf("%v: %s", err, d.logged(0))
	}
	d.cmd = nil
	d.left()
}

// The commands that the demo prints work when they are pasted into a shell.
func TestDemoPrintsWhatWorks(t *testing.T) {
	t.Parallel()
	d := startDemo(t, "--inbox", "127.0.0.1:0", "--nats-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0")
	d.until("its output", func() bool { return strings.HasSuffix(d.stdout.String(), "removes its files.\n") })
	words := d.stdout.String()
	if !strings.Contains(words, "All sample deliveries have arrived except one") {
		t.Errorf("it says\n%s", words)
	}
	inbox := regexp.MustCompile(`(?m)^  Inbox +(\S+)$`).FindStringSubmatch(words)
	board := regexp.MustCompile(`(?m)^  Dashboard +(\S+) `).FindStringSubmatch(words)
	health := regexp.MustCompile(`(?m)^  Health +(\S+)$`).FindStringSubmatch(words)
	_, block, ok := strings.Cut(words, "In another terminal:\n")
	if inbox == nil || health == nil || board == nil || !ok {
		t.Fatalf("it says\n%s", words)
	}
	if page := page(t, health[1]); !strings.Contains(page, `"status":"healthy"`) {
		t.Errorf("health: %s", page)
	}
	if page := page(t, board[1]+"dead-letters"); !strings.Contains(page, "wrong-address") {
		t.Errorf("the dashboard does not show the dead letter:\n%s", page)
	}
	if n := strings.Count(page(t, inbox[1]), "[DEMO]"); n != 2 {
		t.Errorf("the inbox has %d mails to ops@demo.example, want 2", n)
	}

	mine, foreign := []string{"set -eu"}, []string{"set -eu"}
	for line := range strings.Lines(block) {
		switch command := strings.TrimSpace(line); {
		case !strings.HasPrefix(line, "  "):
		case strings.HasPrefix(command, "nats "):
			foreign = append(foreign, command)
		case strings.HasPrefix(command, "cd "):
			mine, foreign = append(mine, command), append(foreign, command)
		case strings.Contains(command, " preflight "):
			mine = append(mine, command+" || test $? = 1") // it says that the replay fails
		default:
			mine = append(mine, command)
		}
	}
	if len(mine) != 7 || len(foreign) != 4 {
		t.Fatalf("commands: %q, %q", mine, foreign)
	}
	out := paste(t, os.Environ(), mine)
	for _, want := range []string{`event \S+ published`, `SMTP_PERMANENT +wrong-address +mail\.example\.com +\S+ +demo-3`, `\[1/1\] demo-3 wrong-address: published again to certpost\.delivery\.`} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("no %s in\n%s", want, out)
		}
	}
	d.until("the mails of the commands", func() bool {
		page := page(t, inbox[1])
		return strings.Count(page, "www.example.com") >= 2 && strings.Contains(page, "java@demo.example")
	})
	t.Run("NATS CLI", func(t *testing.T) {
		env := lab.NATSEnv(t, "nats://127.0.0.1:1") // the command names the server
		if out := paste(t, env, foreign); !strings.Contains(out, "Stored in Stream: CERTPOST_EVENTS") || !strings.Contains(out, "certpost.dead.") {
			t.Errorf("nats says %s", out)
		}
		d.until("the mail of the event", func() bool { return strings.Contains(page(t, inbox[1]), "ftp.example.com") })
	})

	if err := d.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	d.ended()
	d.left()
}

// Ctrl-C is never a failure.
func TestDemoEndsEarly(t *testing.T) {
	t.Parallel()
	for name, signal := range map[string]os.Signal{"SIGINT": os.Interrupt, "SIGTERM": syscall.SIGTERM} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := startDemo(t, "--inbox", "127.0.0.1:0", "--nats-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0")
			d.until("its directory", func() bool {
				found, err := filepath.Glob(filepath.Join(d.temp, "certpost-demo-*"))
				return err == nil && len(found) == 1
			})
			if err := d.cmd.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			d.ended()
			d.left()
		})
	}
}

// An address that is in use is reported with the flag that it comes from.
func TestDemoNamesTheFlag(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, flag := range []string{"--inbox", "--nats-listen", "--http-listen"} {
		args := []string{"demo", "--once", "--inbox=127.0.0.1:0", flag, taken.Addr().String()}
		if flag == "--inbox" {
			args = slices.Delete(args, 2, 3)
		}
		command(t, nil, args...).failed(t, exitFailed, "certpost: "+flag+" "+taken.Addr().String()+": bind: address already in use: stop the program that has the port, or choose another "+flag+"\n")
	}
}

func paste(t *testing.T, env, lines []string) string {
	t.Helper()
	cmd := exec.Command("sh")
	cmd.Env, cmd.Stdin = env, strings.NewReader("")
	cmd.Args = append(cmd.Args, "-c", strings.Join(lines, "\n"))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s\n%v: %s", strings.Join(lines, "\n"), err, &out)
	}
	return out.String()
}

func page(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}
