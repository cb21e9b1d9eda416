package desk

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
	"unique"

	"github.com/certpost/certpost/internal/backoff"
	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/verdict"
)

// Letter returns one letter, open or not, with its delivery and history; ErrNotFound if
// there never was one with the number, or no record of it is left.
func (d *Desk) Letter(ctx context.Context, number uint64) (Detail, error) {
	out := Detail{Status: Open}
	there, err := d.b.DeadLetter(ctx, number)
	if err == nil && d.unremoved(number) {
		err = broker.ErrNoLetter
	}
	switch {
	case err == nil:
		out.Event = there.Body
		out.NotReplayable = there.Unreplayable()
	case errors.Is(err, broker.ErrNoLetter):
		if there, err = d.departed(ctx, number, &out); err != nil {
			return out, err
		}
	default:
		return out, err
	}
	out.DeadLetter = there
	out.Body = nil
	out.ToFix = toFix(&there)
	out.Letter.Fingerprint = fingerprintOf(&there)
	out.Cause, out.Remedy = Explain(there.Code, there.Phase, adviceOf(there.Code, there.Phase, there.Reason))
	if t, renamed := d.redirected(there.Target); renamed && out.Status == Open {
		out.RedirectedTo = t.ID
	}
	if leaf, ok := leafOf(there.Body); ok {
		out.Certificate = leaf.Value().certificate()
	}
	d.mu.RLock()
	if l := d.letters.find(number); l != nil && out.Status == Open {
		known := l.letter()
		out.Hold, out.Superseded, out.Run = known.Hold, known.Superseded, known.Run
	}
	if g := d.letters.groups[out.Fingerprint]; g != nil {
		out.Siblings = g.byNumber.size
		if out.Status == Open {
			out.Siblings = max(0, out.Siblings-1)
		}
	}
	if d.maxAge > 0 && out.Status == Open {
		out.Expires = there.Time.Add(d.maxAge)
	}
	if d.auditAge > 0 && out.Status == Discarded && out.End != nil {
		out.Expires = out.End.Time.Add(d.auditAge)
	}
	out.History = records(d.history.of(number, there.RestoredFrom, there.Target, there.Event, maxPage))
	d.mu.RUnlock()
	if out.Hold != nil && out.NotReplayable == "" {
		out.NotReplayable = "held by " + out.Hold.Shown() + ": " + out.Hold.Reason
	}
	return out, d.addDelivery(ctx, &out)
}

// unremoved reports whether an action has ended a letter that the stream still has.
func (d *Desk) unremoved(number uint64) bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.letters.outcomes.unremoved(number)
}

// addDelivery adds the ledger entry. A letter without one is no error: its event never became
// a delivery.
func (d *Desk) addDelivery(ctx context.Context, out *Detail) error {
	if !events.IsToken(out.Target) {
		return nil
	}
	if out.Status == Open {
		one := []Letter{out.Letter}
		d.complete(one)
		out.Letter = one[0]
	}
	out.MessageID = out.DeadLetter.MessageID
	if ids, ok := d.deliverer.(MessageIDs); ok && out.MessageID == "" {
		out.MessageID = ids.MessageID(out.Target, out.DeadLetter.Event)
	}
	entries, err := d.b.Deliveries(ctx, out.Target, out.DeadLetter.Event)
	if errors.Is(err, broker.ErrUnreadableEntry) {
		d.log.Warn().Err(err).Uint64("letter", out.Sequence).Msg("a dead letter is shown without its ledger entry")
		return nil
	}
	if err != nil || len(entries) == 0 {
		return err
	}
	e := entries[0]
	out.Delivery, out.Has, out.Reach = &e, e.Accepted, Reach(&e)
	if e.State == broker.StateSent {
		out.Recipients = nil // nothing is owed any more
	} else {
		out.Recipients = slices.DeleteFunc(slices.Clone(out.Recipients), func(r string) bool { return slices.Contains(e.Accepted, r) })
	}
	if e.Receipt != nil && e.Receipt.MessageID != "" {
		out.MessageID = e.Receipt.MessageID
	}
	if out.Certificate == nil {
		out.Certificate = e.Certificate
	}
	return nil
}

// departed returns a letter that is not open any more, from the audit record of its end.
func (d *Desk) departed(ctx context.Context, number uint64, out *Detail) (broker.DeadLetter, error) {
	d.mu.RLock()
	out.Status = d.letters.outcomes.status(number)
	record, known := d.history.ended(number)
	d.mu.RUnlock()
	if !known {
		return broker.DeadLetter{}, notFound(number)
	}
	end, err := d.b.RecordAt(ctx, record.Sequence)
	if err != nil {
		return broker.DeadLetter{}, err
	}
	out.End, out.Event = &end, end.Body
	out.NotReplayable = "not on the list any more"
	if out.Status == "" || out.Status == Open {
		out.Status = outcomeNames[outcomeOf(&end)]
	}
	letter := broker.DeadLetter{Sequence: number, Event: end.Event, Target: end.Target, Lane: end.Lane}
	if end.Letter != nil {
		letter = *end.Letter
	}
	letter.Sequence, letter.Body = number, end.Body
	end.Body = nil
	return letter, nil
}

// LaneRow is a lane with its relays, as defined now.
type LaneRow struct {
	broker.LaneInfo
	Relays []verdict.RelayView `json:"relays"`
}

// TargetResult is a target's definition with its latest results.
type TargetResult struct {
	verdict.TargetView
	LastSent time.Time `json:"last_sent,omitzero"`
	LastDead time.Time `json:"last_dead,omitzero"`
	Open     int       `json:"open"` // dead letters
	Sent     int       `json:"sent"` // deliveries
}

// Targets returns the targets as defined now, with their latest results.
func (d *Desk) Targets() []TargetResult {
	views := d.deliverer.Targets()
	d.mu.RLock()
	defer d.mu.RUnlock()
	out := make([]TargetResult, len(views))
	for i, view := range views {
		out[i].TargetView = view
		if t := d.letters.targets[unique.Make(view.ID)]; t != nil {
			out[i].Open, out[i].LastDead = t.open, fromNanoseconds(t.last)
		}
		r := d.deliveries.of(view.ID)
		if dead := time.Unix(r.dead, 0).UTC(); r.dead != 0 && dead.After(out[i].LastDead) && dead.Sub(out[i].LastDead) > time.Minute {
			out[i].LastDead = dead // of a letter that has left the list before this process began
		}
		out[i].Sent, out[i].LastSent = r.sent, fromNanoseconds(r.last*int64(time.Second))
	}
	return out
}

// Check checks a target's secrets, and its relays up to AUTH. It sends nothing.
func (d *Desk) Check(ctx context.Context, target string) []verdict.Finding {
	return d.deliverer.Check(ctx, target)
}

// Preview returns the mail of a target for a sample certificate, or why it cannot be made. It
// fetches no secret and connects to nothing.
func (d *Desk) Preview(target string) (*verdict.MailView, *verdict.Failure) {
	p, ok := d.deliverer.(Previewer)
	if !ok {
		return nil, nil
	}
	return p.Preview(target)
}

// lanes returns all lanes, as the heartbeats of their processes describe them. A process that
// has just started has sent none yet, so for a short time a lane without a process counts as
// starting, not as unserved.
func (d *Desk) lanes(ctx context.Context) ([]broker.LaneInfo, error) {
	lanes, err := d.b.LaneInfos(ctx)
	d.mu.RLock()
	defer d.mu.RUnlock()
	starting := time.Since(d.began) < d.pace.start
	for i := range lanes {
		lanes[i].SentLately = d.deliveries.throughput.of(lanes[i].Lane, time.Now())
		lanes[i].Starting = starting && lanes[i].Replicas == 0
	}
	return lanes, err
}

// followLanes notifies the pages when lanes change: a process starts or ends, a breaker
// opens, an operator suspends a lane.
func (d *Desk) followLanes(ctx context.Context) {
	for ctx.Err() == nil {
		err := d.b.FollowLanes(ctx, func() { d.listeners.notify(Change{Lanes: true}) })
		if ctx.Err() == nil {
			d.log.Debug().Err(err).Msg("the lanes cannot be watched now; pages show their state as of loading")
			backoff.Sleep(ctx, time.Second)
		}
	}
}

// Relays returns all lanes with their relays.
func (d *Desk) Relays(ctx context.Context) ([]LaneRow, error) {
	lanes, err := d.lanes(ctx)
	if err != nil {
		return nil, err
	}
	relays := map[string][]verdict.RelayView{}
	for _, r := range d.deliverer.Relays() {
		relays[r.Lane] = append(relays[r.Lane], r)
	}
	out := make([]LaneRow, len(lanes))
	for i, l := range lanes {
		out[i] = LaneRow{l, relays[l.Lane]}
	}
	return out, nil
}

// Suspend stops fetching from a lane until it is resumed or, unless until is zero, until
// that time.
func (d *Desk) Suspend(ctx context.Context, by broker.Actor, lane, reason string, until time.Time) error {
	err := d.b.Suspend(ctx, broker.Suspension{Lane: lane, Reason: reason, Until: until}, by)
	d.lanesChanged(ctx, err)
	return err
}

// Resume ends a lane's suspension and the pauses of its relays.
func (d *Desk) Resume(ctx context.Context, by broker.Actor, lane, reason string) error {
	err := d.b.Resume(ctx, lane, by, reason)
	d.lanesChanged(ctx, err)
	return err
}

func (d *Desk) lanesChanged(ctx context.Context, err error) {
	if err == nil {
		d.CatchUp(ctx)
		d.listeners.notify(Change{Lanes: true, Audit: true})
	}
}

// Overview returns the data of the first page. It sends some requests to NATS.
func (d *Desk) Overview(ctx context.Context) (Overview, error) {
	lanes, err := d.lanes(ctx)
	if err != nil {
		return Overview{}, err
	}
	backlog, err := d.b.Backlog(ctx)
	if err != nil {
		return Overview{}, err
	}
	standstills, err := d.b.Standstills(ctx)
	if err != nil {
		return Overview{}, err
	}
	out := Overview{Lanes: lanes, Backlog: backlog, Standstills: standstills, Groups: d.Groups(Query{}), Runs: []Run{}}
	for _, r := range d.Runs(RunQuery{}) {
		if r.State.unfinished() {
			out.Runs = append(out.Runs, r)
		}
	}
	now := time.Now()
	d.mu.RLock()
	defer d.mu.RUnlock()
	out.Balance = d.balance()
	out.Backlog.Dead = uint64(out.Balance.Open)
	out.Recovered24h = d.history.recovered(now.Add(-24 * time.Hour))
	out.LastSuccess = fromNanoseconds(d.deliveries.lastSent * int64(time.Second))
	out.Sent24h, out.Dead24h = d.deliveries.sent.last24(now), d.letters.dead.last24(now)
	if out.Reading = d.lag(); out.Reading == "" && d.deliveries.reading() {
		out.Reading = fmt.Sprintf("the ledger is being read: %d of %d entries", d.deliveries.live, d.deliveries.entries)
	}
	return out, nil
}

// Lag returns the reason why lists may be incomplete, "" if there is none. Without it, an
// empty list would look like success.
func (d *Desk) Lag() string {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.lag()
}

func (d *Desk) lag() string {
	switch {
	case !d.read:
		return "the dead letters are still being read"
	case d.followErr != nil:
		return "NATS is unavailable, and lists show the last known state"
	}
	return ""
}

// Broken says why audit or ledger is not what Certpost wrote, "" if nothing like that was found.
func (d *Desk) Broken() string {
	if err := d.b.AuditProblem(); err != nil {
		return err.Error()
	}
	return ""
}

// Unsigned says why no record of the audit is signed, "" if they are.
func (d *Desk) Unsigned() string { return d.b.Unsigned() }
