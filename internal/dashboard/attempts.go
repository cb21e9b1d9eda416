package dashboard

import (
	"fmt"
	"slices"
	"strings"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/verdict"
)

// attemptsView is the failed attempts of a delivery, each with its course, and the
// differences between them and the attempt that succeeded.
type attemptsView struct {
	List    []attempt // newest first
	Columns []string  // of the comparison, oldest first; nil: there is nothing to compare
	Rows    []difference
	Same    bool // no fact differs
}

// attempt is one failed attempt.
type attempt struct {
	broker.Try
	Title string
	Steps []phase
	Took  string
	Gap   string // says which attempts before it are not kept
}

// difference is one fact of each attempt; Changed says that the attempts differ in it.
type difference struct {
	What    string
	Values  []string
	Changed bool
}

func attemptsOf(e *broker.Entry) attemptsView {
	if e == nil {
		return attemptsView{}
	}
	var v attemptsView
	for i, t := range e.Tries {
		a := attempt{Try: t, Title: fmt.Sprintf("Attempt %d", t.Number), Steps: stepsOf(t.Transcript, t.Phase)}
		if t.Generation > 1 {
			a.Title += fmt.Sprintf(" after replay %d", t.Generation-1)
		}
		a.Took = span(t.Transcript.Took())
		if i > 0 {
			a.Gap = between(e.Tries[i-1], t)
		}
		v.List = append(v.List, a)
	}
	v.Columns, v.Rows = compare(v.List, e)
	v.Same = len(v.Rows) > 0 && !v.Rows[0].Changed // those that differ come first
	slices.Reverse(v.List)
	return v
}

// between says how many attempts between a and b the ledger did not keep.
func between(a, b broker.Try) string {
	switch missing := b.Number - a.Number - 1; {
	case a.Generation != b.Generation && b.Number > 1:
		return "The attempts between this one and the first are not kept."
	case a.Generation == b.Generation && missing > 0:
		return plural(missing, "attempt between this one and the first is", "attempts between this one and the first are") + " not kept."
	}
	return ""
}

// facts are the facts in which attempts are compared.
var facts = []string{"definition", "relay", "address", "connection", "TLS", "relay's certificate", "secrets", "phase", "code", "reply", "sent?"}

func factsOf(c *verdict.Transcript, secrets map[string]string, phase verdict.Phase, code verdict.Code, reply string, sent verdict.Certainty) []string {
	connection, tls, certificate := "", c.TLS, ""
	if c.Peer != "" {
		connection = map[bool]string{true: "reused", false: "new"}[c.Kept]
	}
	if shown := c.PeerCertificate; shown != nil {
		certificate = shown.Name() + " " + shown.Fingerprint[:min(len(shown.Fingerprint), 8)]
	} else if c.Peer != "" && tls == "" {
		tls = "none"
	}
	return []string{c.Definition, c.Relay, c.Peer, connection, tls, certificate, verdict.Versions(secrets), string(phase), string(code), reply, string(sent)}
}

// compare sets the attempts side by side, followed by the one that succeeded. Facts
// that differ come first.
func compare(list []attempt, e *broker.Entry) (columns []string, rows []difference) {
	var all [][]string
	for _, a := range list {
		columns = append(columns, a.Title)
		all = append(all, factsOf(a.Transcript, a.Secrets, a.Phase, a.Code, replyText(a.ReplyCode, a.EnhancedCode, a.Reply), a.Certainty))
	}
	if r := e.Receipt; r != nil && e.State == broker.StateSent && len(all) > 0 {
		columns = append(columns, "Delivered")
		c := verdict.Transcript{Definition: r.Definition, Relay: r.Relay, Peer: r.Peer, Kept: r.Timings.Dial == 0, TLS: r.TLS}
		all = append(all, factsOf(&c, r.Secrets, "", "", replyText(r.ReplyCode, "", r.Reply), verdict.Accepted))
	}
	if len(all) < 2 {
		return nil, nil
	}
	var same []difference
	for i, what := range facts {
		row := difference{What: what}
		for _, one := range all {
			row.Values = append(row.Values, one[i])
			// An unknown value is not a difference.
			row.Changed = row.Changed || one[i] != "" && slices.ContainsFunc(row.Values, func(v string) bool { return v != "" && v != one[i] })
		}
		switch {
		case row.Changed:
			rows = append(rows, row)
		case strings.Join(row.Values, "") != "":
			same = append(same, row)
		}
	}
	return columns, append(rows, same...)
}

// phase is one phase of a delivery and whether the attempt reached it.
type phase struct {
	Name  verdict.Phase
	State string // past, here (failed in it), ahead (not reached)
	Took  string // "" when unknown
}

// way is the order of the phases of a delivery. The target decides which of the
// optional phases an attempt goes through.
var (
	way = []verdict.Phase{
		verdict.PhaseDecode, verdict.PhaseSource, verdict.PhaseResolve, verdict.PhaseSecrets, verdict.PhasePayload, verdict.PhaseRender, verdict.PhaseConnect, verdict.PhaseBanner,
		verdict.PhaseEHLO, verdict.PhaseSTARTTLS, verdict.PhaseTLS, verdict.PhaseAuth, verdict.PhaseMail, verdict.PhaseRcpt, verdict.PhaseClaim, verdict.PhaseData,
		verdict.PhaseContent, verdict.PhaseSettle,
	}
	optional = []verdict.Phase{verdict.PhaseSource, verdict.PhaseSTARTTLS, verdict.PhaseTLS, verdict.PhaseAuth}
)

// stepsOf are the phases that an attempt went through, and those that would have come
// next.
func stepsOf(c *verdict.Transcript, failed verdict.Phase) (steps []phase) {
	last := -1 // the place of the failed phase: later ones went on without the recipients it refused
	for i, s := range c.Steps {
		if s.Phase == failed {
			last = i
		}
		steps = append(steps, phase{s.Phase, "past", span(s.Took)})
	}
	at := slices.Index(way, failed)
	if last >= 0 {
		steps[last].State = "here"
	} else if at >= 0 {
		steps = append(steps, phase{failed, "here", ""})
	}
	if at < 0 {
		return steps
	}
	return append(steps, ahead(max(at, slices.Index(way, steps[len(steps)-1].Name)))...)
}

// phases are the phases of an attempt whose course is unknown. Optional phases before
// the failed one are left out. A mail that was accepted for some recipients has gone on after a
// refused RCPT.
func phases(failed verdict.Phase, sent verdict.Certainty) (steps []phase) {
	at := slices.Index(way, failed)
	if at < 0 {
		return nil
	}
	for _, name := range way[:at] {
		if !slices.Contains(optional, name) {
			steps = append(steps, phase{name, "past", ""})
		}
	}
	steps = append(steps, phase{failed, "here", ""})
	if failed == verdict.PhaseRcpt && sent == verdict.Accepted {
		for _, name := range []verdict.Phase{verdict.PhaseClaim, verdict.PhaseData, verdict.PhaseContent} {
			steps = append(steps, phase{name, "past", ""})
		}
		at = slices.Index(way, verdict.PhaseContent)
	}
	return append(steps, ahead(at)...)
}

func ahead(at int) (steps []phase) {
	for _, name := range way[at+1:] {
		if !slices.Contains(optional, name) {
			steps = append(steps, phase{name, "ahead", ""})
		}
	}
	return steps
}
