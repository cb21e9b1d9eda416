package harness

import (
	"fmt"
	"strings"

	"github.com/certpost/certpost/bench/road"
	"github.com/certpost/certpost/internal/devrelay"
)

// Targets returns the section of a configuration with targets as in production (see
// road.SubmissionTarget), all at one relay. It writes the files they need into dir.
func Targets(ids []string, relay *devrelay.Relay, dir string) (string, error) {
	t, err := road.SubmissionTarget("", relay, dir)
	if err != nil {
		return "", err
	}
	var text strings.Builder
	text.WriteString("targets:\n")
	for _, id := range ids {
		fmt.Fprintf(&text, "  - {id: %s, host: %s, port: %d, ca_file: %q, username: %q, password: {file: %q}, from_address: %s, to: [%s]}\n",
			id, t.Host, t.Port, t.CAFile, t.Username.Plain, t.Password.File, t.FromAddress, t.To[0])
	}
	return text.String(), nil
}
