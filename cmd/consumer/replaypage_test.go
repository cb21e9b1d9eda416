package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/devrelay"
	"github.com/certpost/certpost/internal/lab"
)

// The commands of docs/replay.md print what the page says, in a shell, with the real NATS
// CLI.
func TestReplayPage(t *testing.T) {
	t.Parallel()
	o := newFixture(t, "", refuseNobody)
	for i := range 4 {
		o.publish(fmt.Sprintf("e%d", i+1), "nobody")
		o.settled()
	}
	o.publish("e5", "absent")
	o.settled()
	steps := pageSteps(t, "replay.md")
	if len(steps) < 25 {
		t.Fatalf("only %d commands", len(steps))
	}
	o.runPage(steps)
}

// The commands of docs/embedded-nats.md do what the page says.
func TestEmbeddedNATSPage(t *testing.T) {
	t.Parallel()
	o := newFixture(t, "")
	_, _, chain := o.issue("www.example.com")
	body, err := json.Marshal(map[string]any{"id": "by-hand-1", "certificate": chain, "targets": []string{"ops"}})
	if err != nil {
		t.Fatal(err)
	}
	o.write("event.json", string(body))
	o.runPage(pageSteps(t, "embedded-nats.md"))
	o.mailTo("ops@demo.example", 1)
}

// runPage runs the commands of a page in a shell, with certpost and the NATS CLI.
func (o *fixture) runPage(steps []pageStep) {
	t := o.t
	t.Helper()
	env := append(lab.NATSEnv(t, o.service.broker.URL(), lab.SeedEnv(o.path("data"), "admin")), "CERTPOST_CONFIG="+o.config)
	bin := t.TempDir()
	if err := os.Symlink(lab.Build(t), filepath.Join(bin, "certpost")); err != nil {
		t.Fatal(err)
	}
	for i, v := range env {
		if path, ok := strings.CutPrefix(v, "PATH="); ok {
			env[i] = "PATH=" + bin + ":" + path
		}
	}
	for _, step := range steps {
		if step.mended {
			if err := o.relay.SetRules([]devrelay.Rule{}); err != nil {
				t.Fatal(err)
			}
		}
		var out []byte
		var err error
		want := pattern(step.output)
		// A command that only reads is repeated until its output fits; an act runs once.
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
			cmd := exec.CommandContext(t.Context(), "sh", "-euc", step.command)
			cmd.Env, cmd.Dir = env, o.dir
			out, err = cmd.CombinedOutput()
			out = actingOn.ReplaceAll(out, nil) // the page tells of it once
			out = append(bytes.TrimRight(out, "\n"), '\n')
			if step.kind == "act" || (err != nil) == (step.kind == "fails") && want.Match(out) || time.Now().After(end) {
				break
			}
		}
		if (err != nil) != (step.kind == "fails") || !want.Match(out) {
			t.Errorf("%s\nends with %v and says\n%s\nand the page\n%s", step.command, err, out, step.output)
			if step.kind == "act" {
				return
			}
		}
		if strings.Contains(string(out), relayPassword) {
			t.Errorf("%s prints a secret", step.command)
		}
	}
}

// pageStep is one command of the page and its output. Its kind is act for a command that
// changes something, fails for one that must fail, and "" for one that only reads.
type pageStep struct {
	command, kind, output string
	mended                bool // before it, the relay is fixed
}

func pageSteps(t *testing.T, page string) (steps []pageStep) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(lab.Root(), "docs", page))
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?ms)^```sh ?([a-z]*)\n(.*?)^```$(?:\n```text\n(.*?)^```$)?|^<!-- mended").FindAllStringSubmatch(string(text), -1)
	mended := false
	for _, b := range blocks {
		if strings.HasPrefix(b[0], "<!--") {
			mended = true
			continue
		}
		steps = append(steps, pageStep{b[2], b[1], b[3], mended})
		mended = false
	}
	return steps
}

// pattern matches an output as the page shows it: * is any text within a line, a line of
// ... any lines, and two or more spaces are one or more.
func pattern(text string) *regexp.Regexp {
	if text == "" {
		return regexp.MustCompile(``)
	}
	expr := `(?s)^`
	for line := range strings.Lines(text) {
		if line = strings.TrimRight(line, "\n"); line == "..." {
			expr += `(?:[^\n]*\n)*?`
			continue
		}
		var words []string
		for _, word := range regexp.MustCompile(` {2,}`).Split(line, -1) {
			words = append(words, strings.ReplaceAll(regexp.QuoteMeta(word), `\*`, `[^\n]*?`))
		}
		expr += strings.Join(words, ` +`) + ` *\n`
	}
	return regexp.MustCompile(expr + `$`)
}

func TestPagePatterns(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		page, output string
		fits         bool
	}{
		{"a  *  c\n", "a    b  c\n", true},
		{"a  *  c\n", "a    b  d\n", false},
		{"a\n...\nz\n", "a\nb\nc\nz\n", true},
		{"a\n...\nz\n", "a\nz\n", true},
		{"a\n...\nz\n", "a\nb\n", false},
		{"a\n", "a\nb\n", false},
		{"...\na.b\n...\n", "x\na.b\ny\n", true},
		{"...\na.b\n...\n", "x\naxb\ny\n", false},
		{"x=*,y\n", "x=1,2,y\n", true},
	} {
		if pattern(test.page).MatchString(test.output) != test.fits {
			t.Errorf("%q and %q", test.page, test.output)
		}
	}
}
