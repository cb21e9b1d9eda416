package verdict

import (
	"fmt"
	"strings"
)

// Trial asks what a delivery of an event to a target would meet now. Nothing is sent.
type Trial struct {
	Target string
	From   Origin // what is known of the event's publication
	Event  []byte
	// Accepted have the mail already, and would not get it again.
	Accepted []string
	// Envelope also asks the relay about sender and recipients: MAIL, a RCPT for each recipient,
	// and RSET. A relay may count or log these commands, so that it is done on request only.
	Envelope bool
}

// Preflight is what a replay would meet now.
type Preflight struct {
	Verdict  string    `json:"verdict"` // one or two sentences: would it be delivered, and if not, why
	Outlook  Outlook   `json:"outlook"`
	OK       bool      `json:"ok"` // a replay would leave nothing to do
	Findings []Finding `json:"findings"`
}

// Outlook says what would become of a replay.
type Outlook string

// The outlooks, the best first.
const (
	WouldDeliver Outlook = "delivered"    // everything was tried, and nothing fails
	WouldRepeat  Outlook = "nothing-sent" // it was delivered before; only a forced replay sends it again
	NotKnown     Outlook = "not-known"    // nothing that was tried fails, but what failed before was not tried
	WouldFail    Outlook = "fails"        // it would become a dead letter again
)

// Parts that are checked in one package, and looked at in another.
const (
	PartRecipients = "recipients"
	PartLedger     = "ledger" // a Warning: it was delivered already
)

// NewPreflight sums findings up.
func NewPreflight(findings []Finding) Preflight {
	p := Preflight{Outlook: WouldDeliver, Findings: append([]Finding{}, findings...)}
	p.Verdict = "A replay would be delivered now, as far as can be told without sending."
	var failing []Finding
	for _, f := range findings {
		if f.Status == Error {
			failing = append(failing, f)
		}
	}
	switch {
	case len(failing) > 0:
		p.Outlook, p.Verdict = WouldFail, fmt.Sprintf("A replay would fail now: %s: %s", failing[0].What, strings.TrimSuffix(failing[0].Message, "."))
		if more := len(failing) - 1; more > 0 {
			p.Verdict += fmt.Sprintf(" (and %d more)", more)
		}
		p.Verdict += "."
	default:
		for _, f := range findings {
			switch {
			case f.Status == NotTried:
				p.Outlook, p.Verdict = NotKnown, "It is not known whether a replay would be delivered: "+f.What+": "+f.Message+"."
			case f.What == PartLedger && f.Status == Warning && p.Outlook == WouldDeliver:
				p.Outlook, p.Verdict = WouldRepeat, "A replay would send nothing: it was delivered already."
			}
		}
	}
	p.OK = p.Outlook == WouldDeliver || p.Outlook == WouldRepeat
	return p
}
