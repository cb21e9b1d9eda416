package smtp

import (
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/verdict"
)

// Limits of a stored transcript: the ledger keeps one for every failed attempt. Fifty
// recipients make a hundred lines, of which the first and the last matter.
const (
	maxLine      = 240     // bytes of a line
	maxDialogue  = 40      // lines
	headLines    = 16      // lines kept from the beginning, if there are more than maxDialogue
	maxReplyKept = 1 << 10 // bytes of a reply in memory
	maxPeerNames = 5
)

// transcript records what a session did for the current mail. Recording is cheap: only
// snapshot formats it.
type transcript struct {
	kept      bool              // the connection was reused
	inAuth    bool              // during AUTH only the method and the codes are recorded
	untrusted *x509.Certificate // the relay's, if it failed verification
	steps     []verdict.Step
	lines     []dialogueLine
}

// dialogueLine is one command or one reply.
type dialogueLine struct {
	code int // of a reply; 0: a command
	text string
}

// recordPhase records the duration of a phase; consecutive parts, such as several RCPT,
// are added up.
func (c *transcript) recordPhase(phase verdict.Phase, since time.Time) {
	took := time.Since(since)
	if last := len(c.steps) - 1; last >= 0 && c.steps[last].Phase == phase {
		c.steps[last].Took += took
		return
	}
	c.steps = append(c.steps, verdict.Step{Phase: phase, Took: took})
}

func (c *transcript) recordLines(lines ...string) {
	for _, line := range lines {
		if c.inAuth {
			line = withoutCredentials(line)
		}
		c.lines = append(c.lines, dialogueLine{text: line})
	}
}

// recordReply records a reply. Code 0 means that no reply was read.
func (c *transcript) recordReply(code int, text string) {
	if code == 0 {
		return
	}
	if c.inAuth {
		text = enhancedCode(code, text)
	}
	if len(text) > maxReplyKept {
		text = strings.Clone(text[:maxReplyKept]) // so that the rest can be freed
	}
	c.lines = append(c.lines, dialogueLine{code, text})
}

// withoutCredentials keeps only the method of an AUTH command, and nothing of the
// response to a challenge.
func withoutCredentials(line string) string {
	const left = "(credentials)"
	words := strings.Fields(line)
	if len(words) < 2 || words[0] != "AUTH" {
		return left
	}
	if len(words) == 2 {
		return line
	}
	return words[0] + " " + words[1] + " " + left
}

// snapshot returns the transcript so far, in the form that is stored.
func (s *Session) snapshot() *verdict.Transcript {
	c := &verdict.Transcript{Relay: s.address, Kept: s.transcript.kept, TLS: s.tlsVersion(), Steps: slices.Clone(s.transcript.steps)}
	if s.tcp != nil {
		c.Peer = s.tcp.RemoteAddr().String()
	}
	peer := s.transcript.untrusted
	if shown := s.PeerCertificate(); shown != nil {
		peer = shown
	}
	if peer != nil {
		c.PeerCertificate = verdict.CertificateOf(peer)
		for _, names := range []*[]string{&c.PeerCertificate.DNSNames, &c.PeerCertificate.OtherNames} {
			*names = (*names)[:min(len(*names), maxPeerNames)]
		}
	}
	for i, line := range s.transcript.lines {
		if more := len(s.transcript.lines) - maxDialogue; more > 0 && i >= headLines && i < headLines+more {
			if i == headLines {
				c.Dialogue = append(c.Dialogue, fmt.Sprintf("(%d lines omitted)", more))
			}
			continue
		}
		c.Dialogue = append(c.Dialogue, line.String())
	}
	return c
}

func (l dialogueLine) String() string {
	if l.code == 0 {
		return legible.Clean("C: "+l.text, maxLine)
	}
	return legible.Clean(strings.TrimSpace(fmt.Sprintf("S: %d %s", l.code, strings.ReplaceAll(l.text, "\n", ", "))), maxLine)
}
