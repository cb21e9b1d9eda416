package dashboard

import (
	"fmt"
	"slices"
	"strings"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/verdict"
)

// attemptsView are the attempts of a delivery that failed, each with its course, and
// what was different between them and in the one that succeeded.
type attemptsView struct {
	List    []attempt // the newest first
	Columns []string  // of the comparison, the oldest first; fewer than two: there is none
	Rows    []difference
}

// attempt is one of them.
type attempt struct {
	broker.Try
	Title string
	Steps []phase
	Took  string
	Gap   string // what is not kept between it and the one before
}

// difference is one fact of each attempt; Changed says that it is not the same in all.
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
		a := attempt{Try: t, Title: fmt.Sprintf("Attempt %d", t.Number), Steps: stepsOf(t.Course, t.Phase)}
		if t.Generation > 1 {
			a.Title += fmt.Sprintf(" of life %d", t.Generation)
		}
		a.Took = span(t.Course.Took())
		if i > 0 {
			a.Gap = between(e.Tries[i-1], t)
		}
		v.List = append(v.List, a)
	}
	v.Columns, v.Rows = compare(v.List, e)
	slices.Reverse(v.List)
	return v
}

// between says which attempts the ledger did not keep.
func between(a, b broker.Try) string {
	switch missing := b.Number - a.Number - 1; {
	case a.Generation != b.Generation && b.Number > 1:
		return "Those between it and the first are not kept."
	case a.Generation == b.Generation && missing > 0:
		return plural(missing, "attempt is", "attempts are") + " between it and the first, and not kept."
	}
	return ""
}

// facts are what attempts are compared by.
var facts = []string{"definition", "relay", "address", "connection", "TLS", "relay's certificate", "secrets", "phase", "code", "reply", "sent?"}

func factsOf(c *verdict.Course, secrets map[string]string, phase verdict.Phase, code verdict.Code, reply string, sent verdict.Certainty) []string {
	connection, tls, certificate := "", c.TLS, ""
	if c.Peer != "" {
		connection = map[bool]string{true: "kept from before", false: "new"}[c.Kept]
	}
	if shown := c.PeerCertificate; shown != nil {
		certificate = shown.CommonName + " " + shown.Fingerprint[:min(len(shown.Fingerprint), 8)]
	} else if c.Peer != "" && tls == "" {
		tls = "none"
	}
	return []string{c.Definition, c.Relay, c.Peer, connection, tls, certificate, verdict.Versions(secrets), string(phase), string(code), reply, string(sent)}
}

// compare sets attempts side by side, with the one that succeeded behind them; what is
// different comes first.
func compare(list []attempt, e *broker.Entry) (columns []string, rows []difference) {
	var all [][]string
	for _, a := range list {
		columns = append(columns, a.Title)
		all = append(all, factsOf(a.Course, a.Secrets, a.Phase, a.Code, replyText(a.ReplyCode, a.EnhancedCode, a.Reply), a.Certainty))
	}
	if r := e.Receipt; r != nil && e.State == broker.StateSent && len(all) > 0 {
		columns = append(columns, "Delivered")
		c := verdict.Course{Definition: r.Definition, Relay: r.Relay, Peer: r.Peer, Kept: r.Timings.Dial == 0, TLS: r.TLS}
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
			// What is not known of one is no difference.
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

// phase is one step of a delivery and whether it came that far.
type phase struct {
	Name  verdict.Phase
	State string // past, here, ahead
	Took  string // "" where it is not known
}

// way is that of a delivery. Which of the optional phases a relay is taken
// through depends on its target.
var (
	way = []verdict.Phase{
		verdict.PhaseDecode, verdict.PhaseResolve, verdict.PhaseSecrets, verdict.PhasePayload, verdict.PhaseRender, verdict.PhaseConnect, verdict.PhaseBanner,
		verdict.PhaseEHLO, verdict.PhaseSTARTTLS, verdict.PhaseTLS, verdict.PhaseAuth, verdict.PhaseMail, verdict.PhaseRcpt, verdict.PhaseClaim, verdict.PhaseData,
		verdict.PhaseContent, verdict.PhaseSettle,
	}
	optional = []verdict.Phase{verdict.PhaseSTARTTLS, verdict.PhaseTLS, verdict.PhaseAuth}
)

// stepsOf are the steps that an attempt took, with what would have come next.
func stepsOf(c *verdict.Course, failed verdict.Phase) (steps []phase) {
	for i, s := range c.Steps {
		state := "past"
		if i == len(c.Steps)-1 && s.Phase == failed {
			state = "here"
		}
		steps = append(steps, phase{s.Phase, state, span(s.Took)})
	}
	at := slices.Index(way, failed)
	if at < 0 {
		return steps
	}
	if len(steps) == 0 || steps[len(steps)-1].State != "here" {
		steps = append(steps, phase{failed, "here", ""})
	}
	return append(steps, ahead(at)...)
}

// phases are the steps of an attempt whose course is not known.
func phases(failed verdict.Phase) (steps []phase) {
	at := slices.Index(way, failed)
	if at < 0 {
		return nil
	}
	for _, name := range way[:at] {
		if !slices.Contains(optional, name) {
			steps = append(steps, phase{name, "past", ""})
		}
	}
	return append(append(steps, phase{failed, "here", ""}), ahead(at)...)
}

func ahead(at int) (steps []phase) {
	for _, name := range way[at+1:] {
		if !slices.Contains(optional, name) {
			steps = append(steps, phase{name, "ahead", ""})
		}
	}
	return steps
}
