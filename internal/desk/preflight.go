package desk

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/verdict"
)

// Preflight checks everything that a replay of the letter needs, and sends nothing. envelope also
// asks the relay about sender and recipients (MAIL, RCPT, RSET).
func (d *Desk) Preflight(ctx context.Context, number uint64, envelope bool) (verdict.Preflight, error) {
	letter, err := d.b.DeadLetter(ctx, number)
	if err != nil {
		return verdict.Preflight{}, d.refusal(number, err)
	}
	if why := letter.Unreplayable(); why != "" {
		return verdict.NewPreflight([]verdict.Finding{{What: "event", Status: verdict.Error, Message: why}}), nil
	}
	var all []verdict.Finding
	if t, renamed := d.redirected(letter.Target); renamed {
		all, letter.Target = append(all, aboutRedirect(letter.Target, t.ID)), t.ID
	}
	entry, found := d.examineLedger(ctx, letter)
	trial := verdict.Trial{Target: letter.Target, From: verdict.Origin{Subject: letter.EventSubject, Published: letter.Published}, Event: letter.Body, Envelope: envelope}
	if entry != nil && entry.State != broker.StateSent {
		trial.Accepted = entry.Accepted
	}
	all = append(append(all, d.deliverer.Examine(ctx, trial)...), found...)
	return verdict.NewPreflight(append(all, d.untriedPart(letter, entry, envelope)...)), nil
}

// untriedPart returns the finding that the part in which the last attempt failed is not tried, with
// the relay's last reply; none if it is.
func (d *Desk) untriedPart(letter broker.DeadLetter, entry *broker.Entry, envelope bool) []verdict.Finding {
	what, how := "", ""
	switch letter.Phase {
	case verdict.PhaseMail, verdict.PhaseRcpt:
		if envelope {
			return nil
		}
		what = verdict.PartRecipients
		if letter.Phase == verdict.PhaseMail {
			what = "sender"
		}
	case verdict.PhaseData, verdict.PhaseContent:
		if letter.Certainty == verdict.MaybeSent {
			return nil // no reply came: the mail itself was not refused
		}
		what, how = "content", ", and cannot be without sending; replay one letter first"
	default:
		return nil
	}
	last := strings.Join(strings.Fields(fmt.Sprintf("%s %s %s", some(uint64(letter.ReplyCode)), letter.EnhancedCode, strings.TrimPrefix(letter.Reply, letter.EnhancedCode))), " ")
	if last == "" {
		last = letter.Reason
	} else {
		last = "reply " + last
	}
	text := "not tried; last " + last + how
	if changed := d.changedSince(letter.Target, entry); changed {
		text += "; the target was changed since"
	}
	return []verdict.Finding{{What: what, Status: verdict.NotTried, Message: text}}
}

// changedSince reports whether the target's definition is another than in the last failed attempt.
func (d *Desk) changedSince(target string, entry *broker.Entry) bool {
	if entry == nil || len(entry.Tries) == 0 {
		return false
	}
	transcript := entry.Tries[len(entry.Tries)-1].Transcript
	if transcript == nil || transcript.Definition == "" {
		return false
	}
	view, defined := d.targetView(target)
	return defined && view.Version != transcript.Definition
}

// examineLedger checks whether a replay would be refused, or send nothing, because of what the
// ledger says of the delivery. The entry is nil if there is none about this certificate.
func (d *Desk) examineLedger(ctx context.Context, letter broker.DeadLetter) (*broker.Entry, []verdict.Finding) {
	ev, err := events.Decode(nil, letter.Body)
	if err != nil || !events.IsToken(letter.Target) {
		return nil, nil // Examine says so
	}
	entries, err := d.b.Deliveries(ctx, letter.Target, ev.ID)
	if err == nil && len(entries) == 0 {
		entries, err = d.formerEntries(ctx, letter.Target, ev.ID)
	}
	if err != nil {
		return nil, []verdict.Finding{{What: verdict.PartLedger, Status: verdict.NotTried, Message: "what was delivered before cannot be read now: " + err.Error()}}
	}
	for i := range entries {
		entry := &entries[i]
		if failure := entry.Refuses(ev); failure != nil {
			return nil, []verdict.Finding{{What: "event", Status: verdict.Error, Message: failure.Reason + ", and discard this dead letter: a replay fails again"}}
		}
		if entry.State == broker.StateSent {
			return entry, []verdict.Finding{{What: verdict.PartLedger, Status: verdict.Warning, Message: "it was delivered, so a replay sends nothing, unless it is forced"}}
		}
	}
	if len(entries) == 0 {
		return nil, nil
	}
	return &entries[0], nil
}

// SetPreflight is what a replay of a set of letters would meet now. One letter of each target and
// cause is examined, at most maxExaminedParts.
type SetPreflight struct {
	Verdict string          `json:"verdict"`
	Outlook verdict.Outlook `json:"outlook"` // the worst of all letters
	OK      bool            `json:"ok"`      // no letter would fail, and all is known
	Letters int             `json:"letters"`
	Parts   []PartPreflight `json:"parts"`
	// NotExamined are letters of further targets and causes.
	NotExamined int `json:"not_examined,omitempty"`
}

// PartPreflight is the preflight of one letter, which stands for those of its target and cause.
type PartPreflight struct {
	Target  string `json:"target,omitempty"`
	Number  uint64 `json:"number"` // the letter that was examined
	Letters int    `json:"letters"`
	verdict.Preflight
}

// maxExaminedParts bounds the letters that are examined for a set, examinedAtOnce how many at a
// time. None is begun after examinedWithin: a page has a minute for its answer.
const (
	maxExaminedParts = 20
	examinedAtOnce   = 4
	examinedWithin   = 20 * time.Second
)

// PreflightSet examines a frozen selection. The error is ErrChanged if it has changed.
func (d *Desk) PreflightSet(ctx context.Context, f Frozen, envelope bool) (SetPreflight, error) {
	_, set, err := d.resolve(f, ForReplay)
	if err != nil {
		return SetPreflight{}, err
	}
	out := SetPreflight{Letters: len(set), Parts: []PartPreflight{}}
	type part struct{ target, cause string }
	places := map[part]int{}
	d.mu.RLock()
	for _, n := range set {
		l := d.letters.find(n)
		if l == nil {
			continue // it has left meanwhile
		}
		key := part{l.target.Value(), l.group.fingerprint}
		if at, known := places[key]; known {
			out.Parts[at].Letters++
		} else if len(out.Parts) == maxExaminedParts {
			out.NotExamined++
		} else {
			places[key] = len(out.Parts)
			out.Parts = append(out.Parts, PartPreflight{Target: key.target, Number: n, Letters: 1})
		}
	}
	d.mu.RUnlock()
	begin, cancel := context.WithTimeout(ctx, examinedWithin)
	defer cancel()
	var group errgroup.Group
	group.SetLimit(examinedAtOnce)
	var mu sync.Mutex
	for i := range out.Parts {
		group.Go(func() error {
			if begin.Err() != nil {
				return ctx.Err() // too late to begin: not examined
			}
			found, err := d.Preflight(ctx, out.Parts[i].Number, envelope)
			if err != nil && StatusOf(err) != http.StatusServiceUnavailable { // it has left meanwhile
				found, err = verdict.NewPreflight([]verdict.Finding{{What: "letter", Status: verdict.Error, Message: err.Error()}}), nil
			}
			mu.Lock()
			defer mu.Unlock()
			out.Parts[i].Preflight = found
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return out, err
	}
	out.Parts = slices.DeleteFunc(out.Parts, func(p PartPreflight) bool {
		if p.Outlook == "" {
			out.NotExamined += p.Letters
		}
		return p.Outlook == ""
	})
	out.sumUp()
	return out, nil
}

// sumUp counts the letters by the outlook of their part.
func (s *SetPreflight) sumUp() {
	counts := map[verdict.Outlook]int{}
	for _, p := range s.Parts {
		counts[p.Outlook] += p.Letters
	}
	var said []string
	for _, o := range []struct {
		n    int
		text string
	}{{counts[verdict.WouldFail], "would fail"}, {counts[verdict.NotKnown], "not known, because what failed before was not tried"}, {counts[verdict.WouldRepeat], "were delivered already"},
		{s.NotExamined, "not examined"}, {counts[verdict.WouldDeliver], "would be delivered"}} {
		if o.n > 0 {
			said = append(said, fmt.Sprintf("%d %s", o.n, o.text))
		}
	}
	for _, o := range []verdict.Outlook{verdict.WouldFail, verdict.NotKnown, verdict.WouldRepeat, verdict.WouldDeliver} {
		if counts[o] > 0 {
			s.Outlook = o
			break
		}
	}
	if s.NotExamined > 0 && s.Outlook != verdict.WouldFail || s.Letters == 0 {
		s.Outlook = verdict.NotKnown
	}
	s.OK = s.Letters > 0 && counts[verdict.WouldDeliver]+counts[verdict.WouldRepeat] == s.Letters
	switch {
	case s.Letters == 0:
		s.Verdict = "No letters are selected."
	default:
		s.Verdict = fmt.Sprintf("Of %s: %s. One letter of each target and cause was examined.", countLetters(s.Letters, "", ""), strings.Join(said, ", "))
	}
}
