package alert

import (
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/certpost/certpost/internal/backoff"
	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/webhook"
)

// Timing says when messages go out.
type Timing struct {
	GroupWait time.Duration // what becomes due within it is one message
	Interval  time.Duration // at most one message in it, on each channel
	Repeat    time.Duration // after which an alert that lasts is told again
}

const (
	// refreshSeen is how old Seen may become before a process writes it again.
	refreshSeen = 20 * time.Second
	// unseenFor is how long no process has seen an alert that is over.
	unseenFor = time.Minute
	// lease is how long a process may take to send a message; sendPatience ends before it.
	lease        = 2 * time.Minute
	sendPatience = time.Minute
	// briefAfter is how many refused messages in a row have the next one made without details.
	briefAfter = 3
	// The pauses after failed tries.
	firstPause  = 30 * time.Second
	longestWait = 30 * time.Minute
)

// see notes the conditions that a process sees now. watching is since when it has seen all
// that it could see: only after unseenFor it may say what is over. It reports whether the
// board has changed.
func (b *Board) see(conditions []Condition, now, watching time.Time) (changed bool) {
	if b.ID == "" {
		b.ID, changed = rand.Text(), true
	}
	omitted := 0
	slices.SortStableFunc(conditions, func(x, y Condition) int { return urgency(x.alert(now), y.alert(now)) })
	for _, c := range conditions {
		seen := c.alert(now)
		switch known := b.Find(seen.Key); {
		case known == nil && len(b.Alerts) >= maxAlerts:
			omitted++
		case known == nil:
			b.Alerts, changed = append(b.Alerts, seen), true
		default:
			changed = known.refresh(seen, now) || changed
		}
	}
	if omitted > b.Omitted || omitted < b.Omitted && now.Sub(watching) >= unseenFor {
		b.Omitted, changed = omitted, true
	}
	before := len(b.Alerts)
	for _, a := range b.Alerts {
		if a.Over.IsZero() && now.Sub(later(a.Seen, watching)) >= unseenFor {
			a.Over, changed = now, true
		}
	}
	b.Alerts = slices.DeleteFunc(b.Alerts, func(a *Alert) bool {
		return !a.Over.IsZero() && (len(a.Told) == 0 && !b.sends(a.Key) || now.Sub(a.Over) > keepOver)
	})
	return changed || len(b.Alerts) != before
}

// sends reports whether a message with the alert is under way.
func (b *Board) sends(key string) bool {
	for _, c := range b.Channels {
		if c.Sending != nil && slices.ContainsFunc(c.Sending.Message.Firing, func(l Line) bool { return l.Key == key }) {
			return true
		}
	}
	return false
}

// alert is the alert of a condition that was first seen now.
func (c Condition) alert(now time.Time) *Alert {
	since := c.Since
	if since.IsZero() {
		since = now
	}
	return &Alert{Key: c.Key(), Kind: c.Kind, Severity: c.Severity, Summary: legible.Clean(c.Summary, maxText), Advice: legible.Clean(c.Advice, maxText),
		Since: since.UTC().Truncate(time.Second), Added: now, Seen: now}
}

// refresh notes that the condition of an alert is there.
func (a *Alert) refresh(seen *Alert, now time.Time) (changed bool) {
	if !a.Over.IsZero() {
		a.Over, a.Since, a.Added, changed = time.Time{}, seen.Since, now, true
	}
	// Processes see numbers change at different times: those of one alone must not go back and forth.
	if changed || now.Sub(a.Seen) >= refreshSeen {
		a.Seen, a.Summary, a.Advice, a.Severity = now, seen.Summary, seen.Advice, seen.Severity
		return true
	}
	return false
}

// due returns when a channel is to be told something; false if there is nothing to tell.
func (b *Board) due(channel string, t Timing, now time.Time) (time.Time, bool) {
	var first, over time.Time
	lasts := false
	for _, a := range b.Alerts {
		told, silenced := a.Told[channel], b.Silenced(a, now) != nil
		switch {
		case !a.Over.IsZero():
			over = later(over, a.Over)
			continue
		case silenced:
		case told.IsZero():
			first = earlier(first, a.Added.Add(t.GroupWait))
		default:
			first = earlier(first, told.Add(t.Repeat))
		}
		lasts = lasts || !silenced || !told.IsZero()
	}
	if !lasts && slices.ContainsFunc(b.Alerts, func(a *Alert) bool { return !a.Over.IsZero() && !a.Told[channel].IsZero() }) {
		first = earlier(first, over.Add(t.GroupWait))
	}
	if first.IsZero() {
		return first, false
	}
	if c := b.Channels[channel]; c != nil && !c.Sent.IsZero() {
		first = later(first, c.Sent.Add(t.Interval))
	}
	return first, true
}

// claim returns the message that a process may send on a channel now, and gives it a lease;
// nil if there is nothing to send, or another process sends.
func (b *Board) claim(channel, process, link string, t Timing, now time.Time) *Message {
	if b.Channels == nil {
		b.Channels = map[string]*Channel{}
	}
	c := b.Channels[channel]
	if c == nil {
		c = &Channel{}
		b.Channels[channel] = c
	}
	if s := c.Sending; s != nil && (s.Until.After(now) || s.Next.After(now)) {
		return nil
	}
	if s := c.Sending; s != nil && (s.Refused || now.Sub(s.Message.Made) > t.Repeat) {
		c.Sending = nil // it would be refused again, or what it says is no longer true
	}
	if c.Sending == nil {
		at, ok := b.due(channel, t, now)
		if !ok || at.After(now) {
			return nil
		}
		c.Sending = &Sending{Message: b.message(channel, link, now)}
		if c.Refusals >= briefAfter {
			c.Sending.Message.shorten()
		}
	}
	c.Sending.By, c.Sending.Until, c.Sending.Next = process, now.Add(lease), time.Time{}
	m := c.Sending.Message
	return &m
}

// message is what a channel is told now.
func (b *Board) message(channel, link string, now time.Time) Message {
	m := Message{ID: rand.Text(), Group: b.ID, Made: now.UTC().Truncate(time.Second), Omitted: b.Omitted, Link: link}
	slices.SortFunc(b.Alerts, urgency)
	for _, a := range b.Alerts {
		told := !a.Told[channel].IsZero()
		line := Line{Key: a.Key, Kind: a.Kind, Severity: a.Severity, Summary: a.Summary, Advice: a.Advice, Since: a.Since, Over: a.Over, New: !told}
		switch {
		case !a.Over.IsZero() && told:
			line.Advice, line.New = "", false
			m.Resolved = append(m.Resolved, line)
		case a.Over.IsZero() && b.Silenced(a, now) == nil:
			m.Firing = append(m.Firing, line)
		}
	}
	return m
}

// shorten leaves only which alerts there are. A receiver that refuses what a message says may take that.
func (m *Message) shorten() {
	for i := range m.Firing {
		l := &m.Firing[i]
		l.Summary, l.Advice = fmt.Sprintf("An alert of kind %s, without details because they were refused.", l.Kind), "Look at the page Alerts, or run `certpost alerts list`."
	}
	for i := range m.Resolved {
		m.Resolved[i].Summary = fmt.Sprintf("An alert of kind %s.", m.Resolved[i].Kind)
	}
}

// settle notes what became of a message. A process whose lease has passed to another one
// changes nothing unless it has sent the message.
func (b *Board) settle(channel, process string, m *Message, failed error, now time.Time) {
	c := b.Channels[channel]
	if c == nil || c.Sending == nil || c.Sending.Message.ID != m.ID {
		return
	}
	if failed != nil {
		if c.Sending.By == process {
			c.Tries++
			c.Error = legible.Clean(failed.Error(), maxText)
			pause := backoff.Jitter(min(firstPause<<min(c.Tries-1, 10), longestWait))
			var f *webhook.Failure
			if errors.As(failed, &f) {
				pause = max(pause, f.RetryAfter)
				if c.Sending.Refused = f.Refused; f.Refused {
					c.Refusals++
				}
			}
			c.Sending.Until, c.Sending.Next = time.Time{}, now.Add(pause)
		}
		return
	}
	*c = Channel{Sent: now}
	for _, l := range m.Firing {
		if a := b.Find(l.Key); a != nil {
			if a.Told == nil {
				a.Told = Told{}
			}
			a.Told[channel] = now
		}
	}
	for _, l := range m.Resolved {
		if a := b.Find(l.Key); a != nil && !a.Over.IsZero() {
			delete(a.Told, channel)
		}
	}
}

// merge adds what a process told while it was alone.
func (b *Board) merge(alone *Board, now time.Time) {
	for _, a := range alone.Alerts {
		if len(a.Told) == 0 {
			continue
		}
		known := b.Find(a.Key)
		if known == nil {
			a.Over, a.Seen = time.Time{}, now
			b.Alerts = append(b.Alerts, a)
			continue
		}
		if known.Told == nil {
			known.Told = Told{}
		}
		for channel, at := range a.Told {
			known.Told[channel] = later(known.Told[channel], at)
		}
	}
	for name, c := range alone.Channels {
		if b.Channels == nil {
			b.Channels = map[string]*Channel{}
		}
		if b.Channels[name] == nil {
			b.Channels[name] = &Channel{}
		}
		b.Channels[name].Sent = later(b.Channels[name].Sent, c.Sent)
	}
}

// alone is the board of a process that does not reach the others': what was known of the
// alerts about itself, and the silences.
func (b *Board) alone(own []Condition) *Board {
	out := &Board{ID: b.ID, Silences: slices.Clone(b.Silences), Channels: map[string]*Channel{}}
	for name, c := range b.Channels {
		out.Channels[name] = &Channel{Sent: c.Sent}
	}
	for _, c := range own {
		if a := b.Find(c.Key()); a != nil {
			known := *a
			known.Told = maps.Clone(a.Told)
			out.Alerts = append(out.Alerts, &known)
		}
	}
	return out
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// earlier returns the earlier of two times; zero counts as none.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}
