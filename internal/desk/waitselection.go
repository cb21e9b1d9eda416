package desk

import (
	"context"
	"slices"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/events"
)

// WaitSelection selects deliveries that wait: those that all its conditions match. The zero value
// selects all.
type WaitSelection struct {
	Query DeliveryQuery
	Lane  string         // "": in all lanes
	Named []DeliveryName // if not nil, only these
	// UpTo, if not 0, leaves out what has come into the queue behind this place since the selection
	// was shown.
	UpTo uint64
}

// DeliveryName names a delivery: one event to one target.
type DeliveryName struct {
	Target string `json:"target"`
	Event  string `json:"event"` // its id, or its token
}

// has reports whether the selection names the delivery, or none.
func (s *WaitSelection) has(e *broker.Entry) bool {
	return (s.Lane == "" || e.Lane == s.Lane) && (s.Named == nil || slices.ContainsFunc(s.Named, func(n DeliveryName) bool {
		return n.Target == e.Target && (n.Event == e.Event || n.Event == events.Token(e.Event))
	}))
}

// one returns the delivery that the selection names, if that is all that it says.
func (s *WaitSelection) one() (DeliveryName, bool) {
	q := s.Query
	q.State = ""
	switch {
	case s.Lane != "" || q != DeliveryQuery{Target: q.Target, Event: q.Event}:
	case len(s.Named) == 1 && q == DeliveryQuery{}:
		return s.Named[0], true
	case s.Named == nil && q.Target != "" && q.Event != "":
		return DeliveryName{q.Target, q.Event}, true
	}
	return DeliveryName{}, false
}

// noneWaits is the refusal of an order for waiting deliveries of which none was found. For one that
// was named it says in which state that is, and which command is for it.
func (d *Desk) noneWaits(ctx context.Context, s WaitSelection) error {
	if name, ok := s.one(); ok {
		return d.presently(ctx, name, ErrNothingWaits)
	}
	return errNoneWaits
}

// most returns how many deliveries can match at most; 0: not known.
func (s *WaitSelection) most() int {
	switch {
	case s.Named != nil:
		return len(s.Named)
	case s.Query.Target != "" && s.Query.Event != "":
		return 1
	}
	return 0
}

// eachWaiting calls act with the selected deliveries, some at a time, the newest first.
func (d *Desk) eachWaiting(ctx context.Context, s WaitSelection, act func([]broker.Entry) error) error {
	if s.Query.State != "" && s.Query.State != broker.StateWaiting {
		return invalid("only deliveries in state waiting can be retried now or cancelled, not %s: replay dead letters, resend what was sent", s.Query.State)
	}
	s.Query.State = broker.StateWaiting
	before := uint64(0)
	if s.UpTo != 0 {
		before = s.UpTo + 1
	}
	for found := 0; ; {
		page, err := d.waiting(ctx, s.Query, before, maxExamined)
		if err != nil {
			return err
		}
		entries := slices.DeleteFunc(page.Entries, func(e broker.Entry) bool { return !s.has(&e) })
		if len(entries) > 0 {
			if err := act(entries); err != nil {
				return err
			}
		}
		found += len(entries)
		if page.Next == 0 || s.most() > 0 && found >= s.most() {
			return nil
		}
		before = page.Next
	}
}

// DeliveryContents is what is in a selection of deliveries: what those who confirm an action on it
// look at.
type DeliveryContents struct {
	Count int `json:"count"`
	// UpTo is the place of the newest in the queue, for the order's selection; 0 for deliveries that do not wait.
	UpTo       uint64 `json:"up_to,omitempty"`
	Lanes      Tally  `json:"lanes"`
	Targets    Tally  `json:"targets"`
	Recipients Tally  `json:"recipients"` // who does not have the mail; of what was sent, who gets it again
	Names      Tally  `json:"names"`      // of the certificates, the first of each
	// SoonestExpiry is that of the certificate that expires first, SoonestName its name.
	SoonestExpiry time.Time `json:"soonest_expiry,omitzero"`
	SoonestName   string    `json:"soonest_name,omitempty"`
	// Uncertain are deliveries whose mail may have been sent already.
	Uncertain int `json:"may_have_been_sent,omitempty"`
}

// deliveryTallies counts deliveries for their contents.
type deliveryTallies struct {
	DeliveryContents
	to                                Addressees
	lanes, targets, recipients, names map[string]int
}

func (d *Desk) newTallies() *deliveryTallies {
	to, _ := d.deliverer.(Addressees)
	return &deliveryTallies{to: to, lanes: map[string]int{}, targets: map[string]int{}, recipients: map[string]int{}, names: map[string]int{}}
}

func (t *deliveryTallies) add(e *broker.Entry) {
	t.Count++
	t.lanes[e.Lane]++
	t.targets[e.Target]++
	recipients := e.Missing()
	if e.State == broker.StateSent {
		recipients = e.Accepted
	}
	if len(recipients) == 0 && t.to != nil {
		recipients = t.to.Recipients(e.Target)
	}
	for _, r := range recipients {
		t.recipients[r]++
	}
	if c := e.Certificate; c != nil {
		t.names[c.Name()]++
		if t.SoonestExpiry.IsZero() || c.NotAfter.Before(t.SoonestExpiry) {
			t.SoonestExpiry, t.SoonestName = c.NotAfter, c.Name()
		}
	}
	if e.Uncertain {
		t.Uncertain++
	}
}

func (t *deliveryTallies) contents() DeliveryContents {
	out := t.DeliveryContents
	out.Lanes, out.Targets, out.Recipients, out.Names = tallied(t.lanes), tallied(t.targets), tallied(t.recipients), tallied(t.names)
	return out
}

// WaitContents returns what is in a selection of waiting deliveries now.
func (d *Desk) WaitContents(ctx context.Context, s WaitSelection) (DeliveryContents, error) {
	t := d.newTallies()
	err := d.eachWaiting(ctx, s, func(entries []broker.Entry) error {
		for i := range entries {
			t.add(&entries[i])
			t.UpTo = max(t.UpTo, entries[i].Sequence)
		}
		return nil
	})
	return t.contents(), err
}
