package dashboard

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/legible"
)

// A real shell splits the line into the original words.
func TestShellLineReadByBash(t *testing.T) {
	t.Parallel()
	bash := lab.Need(t, "bash")
	words := []string{"plain", "", "two words", "it's", `back\slash`, "$HOME `id` $(id)", "a;b|c&d>e", "*?[x]", "~", "#no comment", "line\nend", "tab\t", "\x1b[31m",
		"\u202egpj.exe", "üñí", `"quoted"`, "--reason=WHY", "{{.}}", "!history", "\\'\u200b'"}
	line := shellLine(append([]string{"printf", `%s\0`}, words...)...)
	out, err := exec.Command(bash, "-c", line).Output()
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00"); strings.Join(got, "|") != strings.Join(words, "|") {
		t.Errorf("bash read %q as %q", words, got)
	}
	if strings.IndexFunc(line, legible.Hidden) >= 0 {
		t.Errorf("%q has invisible characters", line)
	}
}

func TestCommandsOfALetter(t *testing.T) {
	t.Parallel()
	subject := "certpost.delivery.relay.it's"
	got := replayWithNATS(7, subject).Line
	for _, want := range []string{"nats stream get CERTPOST_DEAD_LETTERS 7 --json |", `nats pub -J --force-stdin 'certpost.delivery.relay.it'\''s'`} {
		if !strings.Contains(got, want) {
			t.Errorf("%q does not contain %q", got, want)
		}
	}
	if got := onLetter("discard", []uint64{7, 8}, "--reason=WHY").Line; got != "certpost dead-letters discard 7 8 --reason=WHY" {
		t.Error(got)
	}
	if got := shellLine(desk.LetterConditions.Flags(desk.Query{Text: "two words", Code: "SMTP_AUTH", AsOf: 9})...); got != "--as-of=9 --code=SMTP_AUTH '--text=two words'" {
		t.Error(got)
	}
	if got := service("hold", 7, true).Line; got != `nats req certpost.dead.hold '{"numbers": [7], "reason": "WHY"}'` {
		t.Error(got)
	}
}
