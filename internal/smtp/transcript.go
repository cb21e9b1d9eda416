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

// Bounds of what is kept of a conversation: the ledger has it for every attempt that
// failed. Fifty recipients make a hundred lines, of which the first and the last tell.
const (
	maxLine      = 240 // bytes of a line
	maxDialogue  = 40  // lines
	headLines    = 16  // of them, when there are more
	maxReplyKept = 1 << 10
	maxPeerNames = 5
)

// transcript is what a session has gone through with the present mail. It notes what is
// there anyway, and makes something of it only when somebody asks.
type transcript struct {
	kept      bool
	inAuth    bool // AUTH: no word of it is noted but the method and the codes
	untrusted *x509.Certificate
	steps     []verdict.Step
	lines     []dialogueLine
}

// dialogueLine is a line as it was said.
type dialogueLine struct {
	code int // of a reply; 0: ours
	text string
}

// recordPhase notes a phase; what comes in several parts, as RCPT does, is one.
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

// recordReply notes a reply; one without a code was none.
func (c *transcript) recordReply(code int, text string) {
	if code == 0 {
		return
	}
	if c.inAuth {
		text = enhancedCode(code, text)
	}
	if len(text) > maxReplyKept {
		text = strings.Clone(text[:maxReplyKept]) // not to keep the whole
	}
	c.lines = append(c.lines, dialogueLine{code, text})
}

// withoutCredentials leaves of a line of AUTH the method, and of one that answers a
// challenge nothing.
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

// snapshot is the course so far, fit to be stored.
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
		names := &c.PeerCertificate.DNSNames
		*names = (*names)[:min(len(*names), maxPeerNames)]
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
