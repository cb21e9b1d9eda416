package dashboard

import (
	"strconv"
	"strings"

	"github.com/certpost/certpost/internal/legible"
)

// command is a shell command that does what the page does.
type command struct {
	With string // certpost or nats
	Line string
}

// shellLine joins words to a line that a shell splits into the same words.
func shellLine(words ...string) string {
	quoted := make([]string, len(words))
	for i, word := range words {
		quoted[i] = legible.ShellWord(word)
	}
	return strings.Join(quoted, " ")
}

// onLetter is the certpost command for an action on letters.
func onLetter(action string, numbers []uint64, options ...string) command {
	line := []string{"certpost", "dead-letters", action}
	for _, n := range numbers {
		line = append(line, strconv.FormatUint(n, 10))
	}
	return command{"certpost", shellLine(append(line, options...)...)}
}

// replayWithNATS replays a dead letter with the NATS CLI and standard tools (sed,
// base64); docs/replay.md explains it.
func replayWithNATS(number uint64, subject string) command {
	return command{"nats", strings.NewReplacer("$NUMBER", strconv.FormatUint(number, 10), "$SUBJECT", legible.ShellWord(subject)).Replace(
		`nats stream get CERTPOST_DEAD_LETTERS $NUMBER --json |
  sed -n 's/^ *"data": "\([^"]*\)".*/\1/p' | base64 -d |
  nats pub -J --force-stdin $SUBJECT`)}
}

// discardWithNATS removes a dead letter without Certpost, which notices the removal and
// records it in the audit.
func discardWithNATS(number uint64) command {
	return command{"nats", "nats stream rmm CERTPOST_DEAD_LETTERS " + strconv.FormatUint(number, 10) + " --force"}
}
