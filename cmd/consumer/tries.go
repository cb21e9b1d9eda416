package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/broker"
)

// printTries prints the attempts of a delivery that failed, oldest first, and what
// was said in the last of them.
func (a *app) printTries(e *broker.Entry) error {
	if e == nil || len(e.Tries) == 0 {
		return nil
	}
	fmt.Fprintln(a.stdout, "\nAttempts that failed")
	var rows [][]string
	for _, t := range e.Tries {
		rows = append(rows, []string{fmt.Sprintf("%d.%d", max(t.Generation, 1), t.Number), when(t.At), t.Transcript.Took().Round(time.Millisecond).String(), string(t.Code), string(t.Phase),
			t.Transcript.Peer, t.Transcript.TLS, reply(t.ReplyCode, t.EnhancedCode, t.Reply)})
	}
	if err := table(a.stdout, []string{"LIFE.ATTEMPT", "WHEN", "TOOK", "CODE", "PHASE", "ADDRESS", "TLS", "REPLY"}, rows); err != nil {
		return err
	}
	last := e.Tries[len(e.Tries)-1].Transcript
	var steps []string
	for _, s := range last.Steps {
		steps = append(steps, fmt.Sprintf("%s %s", s.Phase, s.Took.Round(10*time.Microsecond)))
	}
	fmt.Fprintf(a.stdout, "\nThe last one, step by step\n  %s\n", strings.Join(steps, ", "))
	if c := last.PeerCertificate; c != nil {
		fmt.Fprintf(a.stdout, "  the relay's certificate: %s\n", printable(fmt.Sprintf("%s from %s, to %s, SHA-256 %s", c.CommonName, c.Issuer, when(c.NotAfter), c.Fingerprint)))
	}
	for _, line := range last.Dialogue {
		fmt.Fprintf(a.stdout, "  %s\n", printable(line))
	}
	return nil
}
