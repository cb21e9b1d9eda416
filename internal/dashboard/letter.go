package dashboard

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/verdict"
)

// letterView is one letter: what happened, what to fix, and the possible actions.
type letterView struct {
	desk.Detail
	Title      string  // www.example.com to partner
	Says       string  // what happened
	Phases     []phase // shown when no attempt with its own phases is kept
	Timeline   []moment
	Attempts   attemptsView
	Event      eventView
	Actions    []action
	Ahead      *verdict.Preflight // of a preflight; nil if there was none
	Group      string             // the address of its group
	Ledger     string             // the address of its delivery
	TargetPage string             // the address of its target; "" if that is not defined
	Now        uint64             // the letter as which it was restored, 0 for none
	Editable   bool
	Undo       bool // it was discarded by the request before: offer to restore it
}

func (p *pages) letter(r *request) (view, error) { return p.letterWith(r, nil) }

// letterWith is the letter's page after change was applied to its view; change may be
// nil.
func (p *pages) letterWith(r *request, change func(*letterView)) (view, error) {
	d, err := p.desk.Letter(r.Context(), r.number())
	if err != nil {
		return view{}, err
	}
	v := newLetterView(d, r.now)
	v.Editable = p.desk.Editable(d)
	if p.defined(d.Target) != nil {
		v.TargetPage = targetAddress(d.Target)
	}
	v.Undo = d.Status == desk.Discarded && v.Now == 0 && r.URL.Query().Get(doneKey) == "discarded"
	if change != nil {
		change(&v)
	}
	return view{template: "letter", title: fmt.Sprintf("%s: dead letter %d", v.Title, d.Sequence), data: v, object: d.Whole()}, nil
}

func newLetterView(d desk.Detail, now time.Time) letterView {
	attempts := attemptsOf(d.Delivery)
	v := letterView{
		Detail: d, Title: titleOf(&d), Says: whatHappened(d), Phases: phases(d.Phase, d.Certainty), Timeline: timeline(d, attempts.List, now), Attempts: attempts,
		Event: newEventView(d.Event), Actions: actions(d), Group: lettersPath + "/groups/" + d.Fingerprint, Ledger: deliveryAddress(d.Target, d.DeadLetter.Event),
	}
	for _, record := range d.History {
		if record.Action == broker.ActionRestored && record.LetterNumber == d.Sequence && record.NewLetter != 0 {
			v.Now, v.Actions = record.NewLetter, nil
		}
	}
	return v
}

// titleOf returns what a letter is about: the certificate, or the event if it has none, and the target.
func titleOf(d *desk.Detail) string {
	title := "Event " + d.DeadLetter.Event
	if c := d.Certificate; c != nil && c.Name() != "" {
		title = c.Name()
	}
	if d.Target != "" {
		title += " to " + d.Target
	}
	return title
}

// whatHappened summarizes a letter: cause, phase, attempts, and whether it was sent.
func whatHappened(d desk.Detail) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s It failed in phase %s", sentence(d.Cause), d.Phase)
	if d.Lane != "" {
		fmt.Fprintf(&b, " on lane %s", d.Lane)
	}
	if d.Attempts > 0 {
		fmt.Fprintf(&b, " after %s", plural(d.Attempts, "attempt"))
		if d.Last.Sub(d.First) > time.Second {
			fmt.Fprintf(&b, " over %s", span(d.Last.Sub(d.First)))
		}
		if d.FailedReplays > 0 {
			fmt.Fprintf(&b, ", %s included", plural(d.FailedReplays, "failed replay"))
		}
	}
	switch {
	case d.Delivery != nil && d.Delivery.State == broker.StateSent:
		b.WriteString(". It was delivered since.")
	case d.Certainty == verdict.MaybeSent:
		b.WriteString(". The mail may have been sent: its last byte was sent, but no reply arrived.")
	case d.Certainty == verdict.Accepted:
		fmt.Fprintf(&b, ". The mail was %s.", cmp.Or(d.Reach, "sent to some of the recipients"))
	default:
		b.WriteString(". Nothing was sent.")
	}
	return b.String()
}

// moment is one entry of a letter's timeline.
type moment struct {
	At   time.Time
	Kind string // good, bad or ""
	What string
	Who  string
	Via  broker.Via
	Why  string
}

// timeline is what the letter, the ledger and the audit know about the delivery, oldest
// first.
func timeline(d desk.Detail, tries []attempt, now time.Time) []moment {
	var all []moment
	add := func(m moment) {
		if !m.At.IsZero() {
			all = append(all, m)
		}
	}
	for _, t := range tries {
		add(moment{At: t.At, Kind: "bad", What: fmt.Sprintf("%s failed in %s (%s)", strings.ToLower(t.Title), t.Phase, t.Took), Why: t.Reason})
	}
	if len(tries) == 0 {
		add(moment{At: d.First, What: "first attempt"})
	}
	add(moment{At: d.Time, Kind: "bad", What: fmt.Sprintf("became dead letter %d with %s", d.Sequence, d.Code), Why: d.Reason})
	for _, record := range d.History {
		if record.Stage == broker.StageIntent {
			continue
		}
		m := moment{At: record.Time, What: actionWords(record.Action), Who: record.Shown(), Via: record.Via, Why: record.Reason}
		if record.Action == broker.ActionDelivered || record.Action == broker.ActionSent {
			m.Kind = "good"
		}
		if record.LetterNumber != 0 && record.LetterNumber != d.Sequence {
			m.What += fmt.Sprintf(" (letter %d)", record.LetterNumber)
		}
		add(m)
	}
	if e := d.Delivery; e != nil {
		if e.State == broker.StateSent {
			add(moment{At: e.Last, Kind: "good", What: "the relay accepted the mail"})
		} else if e.Last.After(d.Last) {
			add(moment{At: e.Last, What: "latest attempt, state " + string(e.State)})
		}
	}
	if s := d.Superseded; s != nil {
		add(moment{At: s.At, What: "a newer certificate for the same name was delivered to the target"})
	}
	if d.Status == desk.Open && d.Expires.After(now) {
		add(moment{At: d.Expires, What: "expires"})
	}
	slices.SortStableFunc(all, func(a, b moment) int { return a.At.Compare(b.At) })
	return all
}

// actionWords is the text for an action in the audit: mostly the action's own name.
func actionWords(a broker.Action) string {
	switch a {
	case broker.ActionReplayed:
		return "published again"
	case broker.ActionSent:
		return "sent: the replay succeeded"
	case broker.ActionDelivered:
		return "delivered; the letter left the list"
	case broker.ActionFailed:
		return "an action failed; nothing was changed"
	}
	return string(a)
}

// replyText is a relay's reply on one line, "" when there was none. The enhanced code
// is not repeated when the text begins with it, as with most relays.
func replyText(code int, enhanced, text string) string {
	if code == 0 {
		return text
	}
	if strings.HasPrefix(text, enhanced) {
		enhanced = ""
	}
	return strings.Join(slices.DeleteFunc([]string{strconv.Itoa(code), enhanced, text}, func(s string) bool { return s == "" }), " ")
}
