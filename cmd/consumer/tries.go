package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/broker"
)

// printTries prints the failed attempts of a delivery, oldest first, and the transcript
// of the last one.
func (a *app) printTries(e *broker.Entry) error {
	if e == nil || len(e.Tries) == 0 {
		return nil
	}
	fmt.Fprintln(a.stdout, "\nFailed attempts")
	var rows [][]string
	for _, t := range e.Tries {
		attempt := fmt.Sprint(t.Number)
		if t.Generation > 1 {
			attempt += fmt.Sprintf(" after replay %d", t.Generation-1)
		}
		rows = append(rows, []string{attempt, when(t.At), t.Transcript.Took().Round(time.Millisecond).String(), string(t.Code), string(t.Phase),
			t.Transcript.Peer, t.Transcript.TLS, reply(t.ReplyCode, t.EnhancedCode, t.Reply)})
	}
	if err := table(a.stdout, []string{"ATTEMPT", "WHEN", "TOOK", "CODE", "PHASE", "ADDRESS", "TLS", "REPLY"}, rows); err != nil {
		return err
	}
	last := e.Tries[len(e.Tries)-1].Transcript
	var steps []string
	for _, s := range last.Steps {
		steps = append(steps, fmt.Sprintf("%s %s", s.Phase, s.Took.Round(10*time.Microsecond)))
	}
	fmt.Fprintf(a.stdout, "\nThe last attempt, step by step\n  %s\n", strings.Join(steps, ", "))
	if c := last.PeerCertificate; c != nil {
		fmt.Fprintf(a.stdout, "  the relay's certificate: %s\n", printable(fmt.Sprintf("%s, issued by %s, expires %s, SHA-256 %s", c.Name(), c.Issuer, when(c.NotAfter), c.Fingerprint)))
	}
	for _, line := range last.Dialogue {
		fmt.Fprintf(a.stdout, "  %s\n", printable(line))
	}
	return nil
}
