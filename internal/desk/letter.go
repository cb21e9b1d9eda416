package desk

import (
	"math"
	"strings"
	"time"
	"unique"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/verdict"
)

// letter is an open dead letter in the index: without its body, and with values that many
// letters share stored once.
type letter struct {
	number    uint64
	at        int64 // time of the letter, Unix nanoseconds
	notAfter  int64 // of the certificate, Unix seconds; never if there is none
	group     *group
	event     string
	target    unique.Handle[string]
	certainty unique.Handle[string]
	reason    unique.Handle[string]
	reply     unique.Handle[string]
	owed      unique.Handle[string] // recipients still owed, joined by ", "
	secrets   unique.Handle[string]
	published unique.Handle[string] // subject of the event
	leaf      unique.Handle[leaf]   // valid if hasLeaf

	first, last          int64 // attempts, Unix nanoseconds, 0: none
	attempts, generation int32
	replyCode            int16
	hasLeaf              bool
	withheld             bool // the body does not contain the event
	rareFields           *rareFields

	hold       *broker.Hold
	superseded *Superseded
	run        *run     // the unfinished run that it is part of
	discard    *discard // of a discarded letter
}

// rareFields are values that most letters do not have, or that for most follow from the
// other fields.
type rareFields struct {
	subject, token, replaySubject, traceParent, messageID string
	failedReplays                                         int32
	restoredFrom                                          uint64
}

// never is later than the expiry of any certificate.
const never = math.MaxInt64

func newLetter(d *broker.DeadLetter) *letter {
	l := &letter{
		number: d.Sequence, at: d.Time.UnixNano(), notAfter: never, event: strings.Clone(d.Event),
		target: unique.Make(d.Target), certainty: unique.Make(string(d.Certainty)), reason: unique.Make(d.Reason),
		reply: unique.Make(d.Reply), owed: unique.Make(strings.Join(d.Recipients, ", ")), secrets: unique.Make(d.Secrets),
		published: unique.Make(d.EventSubject),
		first:     nanoseconds(d.First), last: nanoseconds(d.Last), attempts: int32(d.Attempts), generation: int32(d.Generation),
		replyCode: int16(d.ReplyCode), withheld: broker.WithheldBecause(d.Body) != "",
	}
	if leaf, ok := leafOf(d.Body); ok {
		l.leaf, l.hasLeaf, l.notAfter = leaf, true, leaf.Value().notAfter
	}
	return l
}

// setRareFields stores the values that do not follow from the other fields. The letter
// must have its group.
func (l *letter) setRareFields(d *broker.DeadLetter) {
	o := rareFields{restoredFrom: d.RestoredFrom, failedReplays: int32(d.FailedReplays)}
	if d.Token != events.Token(l.event) {
		o.token = strings.Clone(d.Token)
	}
	if d.ReplaySubject != l.defaultReplaySubject() {
		o.replaySubject = strings.Clone(d.ReplaySubject)
	}
	o.traceParent, o.messageID = strings.Clone(d.TraceParent), strings.Clone(d.MessageID)
	l.rareFields = &o
	if subject := d.Subject; subject != l.subject() {
		o.subject = strings.Clone(subject)
	}
	if o == (rareFields{}) {
		l.rareFields = nil
	}
}

func (l *letter) token() string {
	if l.rareFields != nil && l.rareFields.token != "" {
		return l.rareFields.token
	}
	return events.Token(l.event)
}

func (l *letter) defaultReplaySubject() string {
	return broker.DeliverySubject(l.group.lane, l.target.Value())
}

func (l *letter) replaySubject() string {
	if l.rareFields != nil && l.rareFields.replaySubject != "" {
		return l.rareFields.replaySubject
	}
	return l.defaultReplaySubject()
}

func (l *letter) subject() string {
	if l.rareFields != nil && l.rareFields.subject != "" {
		return l.rareFields.subject
	}
	return broker.LetterSubject(l.group.code, l.group.lane, l.target.Value(), l.token())
}

// letter returns the exported form.
func (l *letter) letter() Letter {
	g := l.group
	out := Letter{
		DeadLetter: broker.DeadLetter{
			Outcome: verdict.Outcome{
				Code:         g.code,
				Phase:        g.phase,
				Reason:       l.reason.Value(),
				ReplyCode:    int(l.replyCode),
				EnhancedCode: g.enhanced,
				Reply:        l.reply.Value(),
				Certainty:    verdict.Certainty(l.certainty.Value()),
				ToFix:        g.toFix,
			},
			Sequence: l.number, Subject: l.subject(), Time: time.Unix(0, l.at).UTC(), Event: l.event, Token: l.token(), Target: l.target.Value(), Lane: g.lane, Generation: int(l.generation), Class: g.code.Class(), Attempts: int(l.attempts), First: fromNanoseconds(l.first), Last: fromNanoseconds(l.last), Secrets: l.secrets.Value(), ReplaySubject: l.replaySubject(), EventSubject: l.published.Value(),
		},
		Fingerprint: g.fingerprint,
	}
	if owed := l.owed.Value(); owed != "" {
		out.Recipients = strings.Split(owed, ", ")
	}
	if l.rareFields != nil {
		out.MessageID = l.rareFields.messageID
		out.TraceParent, out.RestoredFrom, out.FailedReplays = l.rareFields.traceParent, l.rareFields.restoredFrom, int(l.rareFields.failedReplays)
	}
	if l.hasLeaf {
		out.Certificate = l.leaf.Value().certificate()
	}
	if l.hold != nil {
		hold := *l.hold
		out.Hold = &hold
	}
	if l.superseded != nil {
		newer := *l.superseded
		out.Superseded = &newer
	}
	if l.run != nil {
		out.Run = l.run.id
	}
	if l.discard != nil {
		out.Discard = l.discard.view()
	}
	return out
}

func (l *letter) uncertain() bool { return l.certainty.Value() == string(verdict.MaybeSent) }

func (l *letter) named(name string) bool { return l.hasLeaf && l.leaf.Value().named(name) }

// nanoseconds and fromNanoseconds convert times to Unix nanoseconds and back; the zero
// time is 0.
func nanoseconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func fromNanoseconds(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns).UTC()
}

// needle is a free text to search for; the case of ASCII letters is ignored. Values that
// many letters share are searched once.
type needle struct {
	text   string
	known  map[unique.Handle[string]]bool
	groups map[*group]bool
	leaf   unique.Handle[leaf] // of the previous letter: letters of one event are adjacent
	inLeaf bool                // found in that leaf
}

func newNeedle(text string) *needle {
	return &needle{text: strings.ToLower(text), known: map[unique.Handle[string]]bool{}, groups: map[*group]bool{}}
}

func (n *needle) in(l *letter) bool {
	found, known := n.groups[l.group]
	if !known {
		found = containsFold(l.group.label, n.text)
		n.groups[l.group] = found
	}
	if found || containsFold(l.event, n.text) {
		return true
	}
	for _, shared := range [...]unique.Handle[string]{l.target, l.reason, l.reply, l.owed} {
		if n.inShared(shared) {
			return true
		}
	}
	if l.hasLeaf && l.leaf != n.leaf {
		c := l.leaf.Value()
		n.leaf, n.inLeaf = l.leaf, containsFold(c.names, n.text) || containsFold(c.others, n.text) || containsFold(c.cn, n.text) || containsFold(c.serial, n.text) || n.inShared(c.issuer)
	}
	return l.hasLeaf && n.inLeaf
}

func (n *needle) inShared(h unique.Handle[string]) bool {
	found, known := n.known[h]
	if !known {
		found = containsFold(h.Value(), n.text)
		n.known[h] = found
	}
	return found
}

// containsFold reports whether s contains text, which is in lower case. It does not
// allocate: one search calls it a million times.
func containsFold(s, text string) bool {
	if text == "" {
		return true
	}
	for len(s) >= len(text) {
		at := firstFold(s[:len(s)-len(text)+1], text[0])
		if at < 0 {
			return false
		}
		if foldedPrefix(s[at:], text) {
			return true
		}
		s = s[at+1:]
	}
	return false
}

// firstFold returns the first index in s of a byte or its capital, -1 if there is none.
// IndexByte compares many bytes at a time.
func firstFold(s string, small byte) int {
	at := strings.IndexByte(s, small)
	if small < 'a' || small > 'z' {
		return at
	}
	if at >= 0 {
		s = s[:at]
	}
	if sooner := strings.IndexByte(s, small-('a'-'A')); sooner >= 0 {
		return sooner
	}
	return at
}

func foldedPrefix(s, text string) bool {
	for i := range len(text) {
		if lower(s[i]) != text[i] {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}
