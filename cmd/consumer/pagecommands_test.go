package main

import (
	"html"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// Each command that a page shows is one that this program accepts.
func TestPagesShowCommandsThatThereAre(t *testing.T) {
	t.Parallel()
	o := newFixture(t, "", refuseNobody)
	o.publish("first", "nobody", "absent", "ops")
	o.settled()
	o.until("the letters on the page", func() bool {
		_, body := o.ask("GET", "/dead-letters")
		return strings.Contains(body, "absent") && strings.Contains(body, "nobody")
	})
	o.certpost("dead-letters", "hold", "1", "--reason", "wait").done(t)
	o.certpost("dead-letters", "discard", "2", "--reason", "no").done(t)
	shown := map[string]bool{}
	for _, page := range []string{"/", "/dead-letters", "/dead-letters?code=SMTP_PERMANENT&q=user&order=expiry&held=no&from=2026-01-01", "/dead-letters?view=groups", "/dead-letters/1", "/dead-letters/2",
		"/dead-letters/confirm?action=replay", "/dead-letters/confirm?action=replay&target=nobody&order=oldest", "/dead-letters/confirm?action=discard&code=SMTP_PERMANENT", "/dead-letters/confirm?action=release",
		"/replays", "/deliveries?name=www.example.com&state=sent&from=2026-01-31T10:00&to=2026-02-01", "/deliveries/ops/first", "/targets", "/targets/ops", "/relays", "/audit", "/audit?letter=1&action=held&by=x", "/audit?lane=relay&run=r1&from=2026-01-31T10:00&to=2026-02-01"} {
		_, body := o.ask("GET", page)
		for _, line := range shownCommands(body) {
			shown[line] = true
		}
	}
	for line := range shown {
		understood(t, line)
	}
	if len(shown) < 12 {
		t.Errorf("only %d commands were found: %v", len(shown), shown)
	}
}

// shownCommands are the commands of this program that a page shows.
func shownCommands(page string) (lines []string) {
	for _, m := range regexp.MustCompile(`(?s)<code><bdi>(certpost .*?)</bdi></code>`).FindAllStringSubmatch(page, -1) {
		lines = append(lines, html.UnescapeString(m[1]))
	}
	return lines
}

// understood reads a command line as a shell and this program do, and returns its words
// after the program's name.
func understood(t *testing.T, line string) []string {
	t.Helper()
	text, err := exec.CommandContext(t.Context(), "sh", "-c", "set -- "+line+`; shift; for word; do printf '%s\n' "$word"; done`).Output()
	if err != nil {
		t.Errorf("a shell cannot read %s: %v", line, err)
		return nil
	}
	parser, err := newParser(newCLI(), kong.Exit(func(int) {}))
	if err != nil {
		t.Fatal(err)
	}
	words := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	if _, err := parser.Parse(words); err != nil {
		t.Errorf("%s: %v", line, err)
	}
	return words
}
