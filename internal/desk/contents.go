package desk

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/certpost/certpost/internal/verdict"
)

// Contents is what is in a selection of letters: what those who confirm an action on it look at.
type Contents struct {
	Causes     Tally `json:"causes"`
	Targets    Tally `json:"targets"`
	Recipients Tally `json:"recipients"` // who would get the mails, or may have them
	Names      Tally `json:"names"`      // of the certificates, the first of each
	// SoonestExpiry is that of the certificate that expires first, SoonestName its name.
	SoonestExpiry time.Time `json:"soonest_expiry,omitzero"`
	SoonestName   string    `json:"soonest_name,omitempty"`
	// MaybeSent are the first letters whose mail may have been sent, at most 20: look for these
	// Message-IDs.
	MaybeSent []MaybeSentMail `json:"may_have_been_sent,omitempty"`
}

// Tally counts letters by a value: the values with the most letters, at most 20.
type Tally struct {
	Values int       `json:"values"` // how many there are
	First  []Counted `json:"first"`
}

// Counted is a value and how many letters, or deliveries, have it.
type Counted struct {
	Value   string `json:"value"`
	Letters int    `json:"count"`
}

// MaybeSentMail is a mail to look for at its recipients or their relay.
type MaybeSentMail struct {
	Number     uint64   `json:"number"`
	Target     string   `json:"target"`
	MessageID  string   `json:"message_id,omitempty"`
	Recipients []string `json:"recipients,omitempty"`
}

// maxTallied is how many values of a Tally, and how many mails, are listed.
const maxTallied = 20

// Contents returns what is in a frozen selection that was just made.
func (d *Desk) Contents(ctx context.Context, f Frozen) Contents {
	_, set, err := d.resolve(f, f.Purpose)
	if err != nil {
		return Contents{} // it has changed: the action says so
	}
	var out Contents
	ask := maxAsked
	causes, targets, recipients, names := map[string]int{}, map[string]int{}, map[string]int{}, map[string]int{}
	for part := range slices.Chunk(set, maxPage) {
		var letters []Letter
		d.mu.RLock()
		for _, n := range part {
			if l := d.of(f.Query).find(n); l != nil {
				letters = append(letters, l.letter())
			}
		}
		d.mu.RUnlock()
		d.complete(letters)
		for i := range letters {
			l := &letters[i]
			cause, _ := Explain(l.Code, l.Phase, "")
			causes[titleOf(cause, l.ToFix)]++
			if l.Target != "" {
				targets[l.Target]++
			}
			to := l.Recipients
			if f.Purpose == ForReplay {
				to = d.wouldGet(ctx, l, &ask)
			}
			for _, r := range to {
				recipients[r]++
			}
			if c := l.Certificate; c != nil {
				names[c.Name()]++
				if out.SoonestExpiry.IsZero() || c.NotAfter.Before(out.SoonestExpiry) {
					out.SoonestExpiry, out.SoonestName = c.NotAfter, c.Name()
				}
			}
			if l.Certainty == verdict.MaybeSent && len(out.MaybeSent) < maxTallied {
				out.MaybeSent = append(out.MaybeSent, MaybeSentMail{l.Sequence, l.Target, l.MessageID, l.Recipients})
			}
		}
	}
	out.Causes, out.Targets, out.Recipients, out.Names = tallied(causes), tallied(targets), tallied(recipients), tallied(names)
	return out
}

// maxAsked is of how many letters that some recipients have the ledger is read, for who they are.
const maxAsked = 200

// wouldGet returns the recipients of a letter's replay. It goes to those that the target has now: if
// none of those that the mail was for is among them any more, the address was corrected since.
// Those that have the mail do not get it again: the ledger says who they are, which is read of the
// first letters, ask of them. Of a mail that may have been sent, it is those that may have it.
func (d *Desk) wouldGet(ctx context.Context, l *Letter, ask *int) []string {
	to, ok := d.deliverer.(Addressees)
	if !ok || l.Certainty != verdict.NotSent && l.Certainty != verdict.Accepted {
		return l.Recipients
	}
	now := to.Recipients(d.currentTarget(l.Target))
	if len(now) == 0 || slices.ContainsFunc(l.Recipients, func(r string) bool { return slices.Contains(now, r) }) {
		return l.Recipients
	}
	if l.Certainty == verdict.NotSent {
		return now
	}
	if *ask--; *ask < 0 {
		return l.Recipients
	}
	entries, err := d.b.Deliveries(ctx, l.Target, l.Event)
	if err != nil || len(entries) == 0 {
		return l.Recipients
	}
	return slices.DeleteFunc(now, func(r string) bool { return slices.Contains(entries[0].Accepted, r) })
}

func tallied(counts map[string]int) Tally {
	out := Tally{Values: len(counts), First: []Counted{}}
	for _, value := range slices.SortedFunc(maps.Keys(counts), func(a, b string) int { return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(a, b)) }) {
		if len(out.First) == maxTallied {
			break
		}
		out.First = append(out.First, Counted{value, counts[value]})
	}
	return out
}

// complete adds what a letter does not say, because it is about all recipients of its target, or
// because an earlier version wrote it: the recipients by the target's present definition, and the
// Message-ID of a mail that may have been sent.
func (d *Desk) complete(letters []Letter) {
	ids, _ := d.deliverer.(MessageIDs)
	to, _ := d.deliverer.(Addressees)
	for i := range letters {
		l := &letters[i]
		if l.Certainty == verdict.MaybeSent && l.MessageID == "" && ids != nil {
			l.MessageID = ids.MessageID(l.Target, l.Event)
		}
		if len(l.Recipients) == 0 && l.Target != "" && to != nil {
			l.Recipients = to.Recipients(l.Target)
		}
	}
}
