package dashboard

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/verdict"
)

// letterView is one letter: what happened, what to mend, and what can be done.
type letterView struct {
	desk.Detail
	Says     string // what happened, in a sentence
	Phases   []phase
	Timeline []moment
	Lives    lives
	Event    eventView
	Actions  []action
	Findings []verdict.Finding // of a preflight
	Examined bool
	Group    string // the address of its group
	Ledger   string // the address of its delivery
	Now      uint64 // the letter that it is, since it was restored
	Editable bool
}

func (p *pages) letter(r *request) (view, error) { return p.letterWith(r, nil) }

// letterWith is the letter's page with something changed on it.
func (p *pages) letterWith(r *request, change func(*letterView)) (view, error) {
	d, err := p.desk.Letter(r.Context(), r.number())
	if err != nil {
		return view{}, err
	}
	v := newLetter(d, r.now)
	v.Editable = p.mayEdit(d)
	if change != nil {
		change(&v)
	}
	return view{template: "letter", title: fmt.Sprintf("Dead letter %d", d.Sequence), data: v, object: d}, nil
}

func newLetter(d desk.Detail, now time.Time) letterView {
	v := letterView{
		Detail: d, Says: whatHappened(d), Phases: phases(d.Phase), Timeline: timeline(d, now), Lives: livesOf(d),
		Event: newEventView(d.Event), Actions: actions(d), Group: lettersPath + "/groups/" + d.Fingerprint, Ledger: deliveryAddress(d.Target, d.DeadLetter.Event),
	}
	for _, record := range d.History {
		if record.Action == broker.ActionRestored && record.LetterNumber == d.Sequence && record.NewLetter != 0 {
			v.Now, v.Actions = record.NewLetter, nil
		}
	}
	return v
}

// whatHappened tells a letter in one breath.
func whatHappened(d desk.Detail) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s It ended in the phase %s", sentence(d.Cause), d.Phase)
	if d.Lane != "" {
		fmt.Fprintf(&b, " on the lane %s", d.Lane)
	}
	if d.Attempts > 0 {
		fmt.Fprintf(&b, " after %s", plural(d.Attempts, "attempt"))
		if d.Last.Sub(d.First) > time.Second {
			fmt.Fprintf(&b, " over %s", span(d.Last.Sub(d.First)))
		}
	}
	switch d.Certainty {
	case verdict.May:
		b.WriteString(". The mail may have been sent: its last byte went out, and no answer came back.")
	case verdict.Accepted:
		b.WriteString(". The relay accepted the mail for some.")
	default:
		b.WriteString(". Nothing was sent.")
	}
	return b.String()
}

// phase is one step of a delivery and whether it came that far.
type phase struct {
	Name  verdict.Phase
	State string // past, here, ahead
}

// phases are the steps in their order, up to the one that failed and beyond.
func phases(failed verdict.Phase) []phase {
	order := []verdict.Phase{
		verdict.PhaseDecode, verdict.PhaseResolve, verdict.PhaseSecrets, verdict.PhasePayload, verdict.PhaseRender, verdict.PhaseConnect, verdict.PhaseBanner,
		verdict.PhaseEHLO, verdict.PhaseSTARTTLS, verdict.PhaseTLS, verdict.PhaseAuth, verdict.PhaseMail, verdict.PhaseRcpt, verdict.PhaseClaim, verdict.PhaseData,
		verdict.PhaseContent, verdict.PhaseSettle,
	}
	at := slices.Index(order, failed)
	if at < 0 {
		return nil
	}
	steps := make([]phase, len(order))
	for i, name := range order {
		state := "ahead"
		if i < at {
			state = "past"
		} else if i == at {
			state = "here"
		}
		steps[i] = phase{name, state}
	}
	return steps
}

// moment is one point of a letter's life.
type moment struct {
	At   time.Time
	Kind string // good, bad, or nothing
	What string
	Who  string
	Via  broker.Via
	Why  string
}

// timeline is what the letter, the ledger and the audit know of the delivery, the
// oldest first.
func timeline(d desk.Detail, now time.Time) []moment {
	var all []moment
	add := func(m moment) {
		if !m.At.IsZero() {
			all = append(all, m)
		}
	}
	add(moment{At: d.First, What: "first attempt"})
	if d.Attempts > 1 {
		add(moment{At: d.Last, Kind: "bad", What: fmt.Sprintf("attempt %d failed in %s", d.Attempts, d.Phase), Why: d.Reason})
	}
	add(moment{At: d.Time, Kind: "bad", What: fmt.Sprintf("became dead letter %d with %s", d.Sequence, d.Code), Why: d.Reason})
	for _, record := range d.History {
		if record.Stage == broker.StageIntent {
			continue
		}
		m := moment{At: record.Time, What: actionWords(record.Action), Who: record.Name, Via: record.Via, Why: record.Reason}
		if record.Action == broker.ActionDelivered {
			m.Kind = "good"
		}
		if record.LetterNumber != 0 && record.LetterNumber != d.Sequence {
			m.What += fmt.Sprintf(" (letter %d)", record.LetterNumber)
		}
		add(m)
	}
	if e := d.Delivery; e != nil {
		if e.State == broker.StateSent {
			add(moment{At: e.Last, Kind: "good", What: "the relay took the mail"})
		} else if e.Last.After(d.Last) {
			add(moment{At: e.Last, What: "last attempt since, state " + string(e.State)})
		}
	}
	if s := d.Superseded; s != nil {
		add(moment{At: s.At, What: "a newer certificate for the name reached the target"})
	}
	if d.Fate == desk.Open && d.Expires.After(now) {
		add(moment{At: d.Expires, What: "would be dropped from the stream"})
	}
	slices.SortStableFunc(all, func(a, b moment) int { return a.At.Compare(b.At) })
	return all
}

// actionWords are the actions that do not speak for themselves.
func actionWords(a broker.Action) string {
	switch a {
	case broker.ActionReplayed:
		return "published again"
	case broker.ActionDelivered:
		return "delivered after all"
	case broker.ActionFailed:
		return "an action failed; nothing was changed"
	}
	return string(a)
}

// lives compares the deaths of a delivery with each other: what was different when
// it was replayed.
type lives struct {
	Columns []string
	Rows    []difference
}

// difference is one fact of each life; Changed says that it is not the same in all.
type difference struct {
	What    string
	Values  []string
	Changed bool
}

func livesOf(d desk.Detail) lives {
	var all lives
	facts := [][]string{}
	add := func(title string, values ...string) {
		all.Columns = append(all.Columns, title)
		facts = append(facts, values)
	}
	letter := func(title string, l *broker.DeadLetter) {
		add(title, l.Target, l.Lane, string(l.Code), string(l.Phase), replyText(l.ReplyCode, l.EnhancedCode, l.Reply), l.Secrets, strings.Join(l.Recipients, ", "), string(l.Certainty))
	}
	for _, record := range d.History {
		if record.Action == broker.ActionReplayed && record.Letter != nil && record.Letter.Sequence != d.Sequence {
			letter(fmt.Sprintf("letter %d", record.Letter.Sequence), record.Letter)
		}
	}
	letter(fmt.Sprintf("letter %d", d.Sequence), &d.DeadLetter)
	if e := d.Delivery; e != nil && e.Generation > d.Generation {
		switch {
		case e.Receipt != nil && e.State == broker.StateSent:
			add("delivered", e.Target, e.Receipt.Relay, "", "", replyText(e.Receipt.ReplyCode, "", e.Receipt.Reply), secretVersions(e.Receipt.Secrets), strings.Join(e.Receipt.Recipients, ", "), string(verdict.Accepted))
		case e.Failure != nil:
			f := e.Failure
			add("since", e.Target, e.Lane, string(f.Code), string(f.Phase), replyText(f.ReplyCode, f.EnhancedCode, f.Reply), secretVersions(f.Secrets), strings.Join(e.Owed, ", "), string(f.Certainty))
		}
	}
	if len(facts) < 2 {
		return lives{}
	}
	for i, what := range []string{"target", "relay", "code", "phase", "reply", "secrets", "owed to", "sent?"} {
		row := difference{What: what}
		for _, life := range facts {
			row.Values = append(row.Values, life[i])
			row.Changed = row.Changed || life[i] != facts[0][i]
		}
		all.Rows = append(all.Rows, row)
	}
	return all
}

// secretVersions is references with versions on one line, as dead letters have it.
func secretVersions(secrets map[string]string) string {
	var list []string
	for ref, version := range secrets {
		list = append(list, ref+"="+version)
	}
	slices.Sort(list)
	return strings.Join(list, ", ")
}

// replyText is a relay's reply on one line, "" when there was none. Most relays
// begin the text with the enhanced code.
func replyText(code int, enhanced, text string) string {
	if code == 0 {
		return text
	}
	if strings.HasPrefix(text, enhanced) {
		enhanced = ""
	}
	return strings.Join(slices.DeleteFunc([]string{strconv.Itoa(code), enhanced, text}, func(s string) bool { return s == "" }), " ")
}
