package desk

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/alert"
	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/legible"
)

// AlertLimits say from when on dead letters need attention; 0 switches a kind off.
type AlertLimits struct {
	LetterAge time.Duration // age of an open dead letter
	Expiry    time.Duration // until the certificate of an open dead letter expires
	Stands    time.Duration // of a standstill
	Waiting   time.Duration // of a delivery that is not settled
}

// AlertConditions returns what every process sees alike and an operator has to know. The error
// says why that is not complete.
func (d *Desk) AlertConditions(ctx context.Context, limits AlertLimits, now time.Time) (all []alert.Condition, err error) {
	if lag := d.Lag(); lag != "" {
		return nil, errors.New(lag)
	}
	standstills, err := d.b.Standstills(ctx)
	if err != nil {
		return nil, err
	}
	for _, s := range standstills {
		if limits.Stands > 0 && now.Sub(s.Since) >= limits.Stands {
			all = append(all, standsStill(s))
		}
	}
	waiting, werr := d.lanesWait(ctx, limits.Waiting, now)
	if all = append(all, waiting...); werr != nil {
		err = werr
	}
	if !d.ledgerRead() {
		limits.Expiry, err = 0, errors.New("the ledger is being read") // it is not known yet what is superseded
	}
	all = append(all, lettersNeed(d.Groups(Query{}), limits, now)...)
	if n := d.Balance().Unexplained; n > 0 {
		all = append(all, alert.Condition{Kind: alert.Unexplained, Severity: alert.Page, For: time.Minute,
			Summary: fmt.Sprintf("%s gone without a record.", countLetters(n, "is", "are")),
			Advice:  "Somebody, or a limit of the stream, removed them past Certpost. `certpost audit verify` says more."})
	}
	return all, err
}

// ledgerRead reports whether the index has read the whole ledger since the start.
func (d *Desk) ledgerRead() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ledgerWhole = d.ledgerWhole || d.deliveries.slots != nil && !d.deliveries.reading()
	return d.ledgerWhole
}

// maxWaitingLanes bounds the lanes that are looked at for deliveries that wait too long.
const maxWaitingLanes = 200

// lanesWait returns the lanes, except those that an operator has suspended, with deliveries that have
// waited for the limit: their relay, Vault or mail host is away, or refuses each of them for now.
func (d *Desk) lanesWait(ctx context.Context, limit time.Duration, now time.Time) (all []alert.Condition, err error) {
	tooOld := func(lane string) (since time.Time, old bool, err error) {
		since, err = d.b.OldestDelivery(ctx, lane)
		return since, err == nil && !since.IsZero() && now.Sub(since) >= limit, err
	}
	if limit == 0 {
		return nil, nil
	}
	if _, old, err := tooOld("*"); err != nil || !old { // one request, as long as all is well
		return nil, err
	}
	lanes, err := d.lanes(ctx)
	if err != nil {
		return nil, err
	}
	looked := 0
	for _, lane := range lanes {
		n := lane.Waiting + uint64(lane.InFlight)
		if n == 0 || lane.Suspension != nil {
			continue
		}
		if looked++; looked > maxWaitingLanes {
			break
		}
		since, old, err := tooOld(lane.Lane)
		if err != nil {
			return all, err
		}
		if old {
			all = append(all, laneWaits(lane.Lane, n, since, limit))
		}
	}
	return all, nil
}

func laneWaits(lane string, n uint64, since time.Time, limit time.Duration) alert.Condition {
	text := fmt.Sprintf("%d deliveries wait", n)
	if n == 1 {
		text = "1 delivery waits"
	}
	return alert.Condition{Kind: alert.Waiting, Name: lane, Severity: alert.Ticket, Since: since.Add(limit),
		Summary: fmt.Sprintf("%s in lane %s, the oldest since %s.", text, lane, legible.Moment(since)),
		Advice:  "The page Relays, or `certpost relays list`, says whether its relay or host answers; `certpost deliveries list --state waiting` has the reason of each."}
}

func standsStill(s broker.Standstill) alert.Condition {
	what := s.Part
	if s.Name != "" {
		what += "/" + s.Name
	}
	if strings.HasPrefix(s.Part, "outcome") {
		return alert.Condition{Kind: alert.Standstill, Name: what, Severity: alert.Ticket, Since: s.Since,
			Summary: fmt.Sprintf("Other systems do not get outcomes (%s).", what), Advice: "Deliveries go on. The overview page, /healthz and the log say since when and why."}
	}
	return alert.Condition{Kind: alert.Standstill, Name: what, Severity: alert.Page, Since: s.Since,
		Summary: fmt.Sprintf("Events or deliveries do not move (%s).", what), Advice: "The overview page, /healthz and the log say since when and why."}
}

// lettersNeed returns the conditions about open dead letters. Letters that are held are being
// worked on.
func lettersNeed(groups []Group, limits AlertLimits, now time.Time) (all []alert.Condition) {
	var oldest time.Time
	for _, g := range groups {
		if g.Held == g.Count {
			continue
		}
		all = append(all, alert.Condition{Kind: alert.DeadLetters, Name: g.Fingerprint, Severity: alert.Ticket, Since: g.First,
			Summary: fmt.Sprintf("%s %s.", countLetters(g.Count, "", ""), g.about()),
			Advice:  g.Cause + " Open the dead letters on the dashboard, or run `certpost dead-letters groups`."})
		if oldest.IsZero() || g.First.Before(oldest) {
			oldest = g.First
		}
		if soonest := g.SoonestExpiry; limits.Expiry > 0 && !soonest.IsZero() && soonest.Sub(now) < limits.Expiry {
			verb := "expires on"
			if !soonest.After(now) {
				verb = "expired on"
			}
			all = append(all, alert.Condition{Kind: alert.Expiry, Name: g.Fingerprint, Severity: alert.Page, Since: g.First,
				Summary: fmt.Sprintf("A certificate that was not delivered %s %s (%s).", verb, legible.Moment(soonest), g.about()),
				Advice:  "`certpost dead-letters list --order expiry` shows it first. Fix the cause and replay it, or discard it if nobody needs it."})
		}
	}
	if limits.LetterAge > 0 && !oldest.IsZero() && now.Sub(oldest) >= limits.LetterAge {
		all = append(all, alert.Condition{Kind: alert.LetterAge, Severity: alert.Ticket, Since: oldest.Add(limits.LetterAge),
			Summary: fmt.Sprintf("A dead letter has been open since %s.", legible.Moment(oldest)),
			Advice:  "`certpost dead-letters list --order oldest` shows it first. Replay or discard it, or hold it while you work on it."})
	}
	return all
}

// about is SMTP_PERMANENT 5.1.1 in phase rcpt, lane smtp-587.
func (g Group) about() string {
	text := string(g.Code)
	if g.EnhancedCode != "" {
		text += " " + g.EnhancedCode
	}
	if g.Phase != "" {
		text += " in phase " + string(g.Phase)
	}
	if g.Lane != "" {
		text += ", lane " + g.Lane
	}
	return text
}

func countLetters(n int, one, many string) string {
	text, verb := "dead letters", many
	if n == 1 {
		text, verb = "dead letter", one
	}
	text = fmt.Sprintf("%d %s", n, text)
	if verb != "" {
		text += " " + verb
	}
	return text
}

// ChangeAlerts changes the board of alerts (alert.Store).
func (d *Desk) ChangeAlerts(ctx context.Context, change func(*alert.Board) bool) error {
	return d.b.ChangeAlerts(ctx, func(value []byte) ([]byte, error) {
		var b alert.Board
		if err := json.Unmarshal(value, &b); len(value) > 0 && err != nil {
			d.log.Warn().Err(err).Msg("the state of alerts in CERTPOST_DESK cannot be read; it is made anew, and what lasts is told again")
			b = alert.Board{}
		}
		if !change(&b) {
			return nil, nil
		}
		return json.Marshal(&b)
	})
}

// AlertRow is an alert that lasts, or that is over and was not told yet.
type AlertRow struct {
	Key      string         `json:"key"`
	Kind     alert.Kind     `json:"kind"`
	Severity alert.Severity `json:"severity"`
	State    string         `json:"state"` // firing, silenced, resolved
	Summary  string         `json:"summary"`
	Advice   string         `json:"advice,omitempty"`
	Since    time.Time      `json:"since"`
	Over     time.Time      `json:"over,omitzero"`
	Told     alert.Told     `json:"told,omitempty"` // when a channel last got it
	Until    time.Time      `json:"silenced_until,omitzero"`
	By       string         `json:"silenced_by,omitempty"`
	Reason   string         `json:"silenced_because,omitempty"`
}

// AlertChannel is a way of telling.
type AlertChannel struct {
	Name  string    `json:"name"`
	Sent  time.Time `json:"sent,omitzero"` // the last message
	Error string    `json:"error,omitempty"`
	Tries int       `json:"failed_tries,omitempty"`
}

// Alerts are the board as people see it.
type Alerts struct {
	Alerts   []AlertRow      `json:"alerts"`
	Silences []alert.Silence `json:"silences"`
	Channels []AlertChannel  `json:"channels"`
	Omitted  int             `json:"omitted,omitempty"` // for which there was no room
}

// The states of an AlertRow besides those of package alert.
const alertResolved = "resolved"

// Alerts returns the alerts, the most urgent first.
func (d *Desk) Alerts(ctx context.Context) (Alerts, error) {
	var board alert.Board
	err := d.ChangeAlerts(ctx, func(b *alert.Board) bool { board = *b; return false })
	return newAlerts(&board, time.Now()), err
}

func newAlerts(b *alert.Board, now time.Time) Alerts {
	out := Alerts{Alerts: []AlertRow{}, Silences: []alert.Silence{}, Channels: []AlertChannel{}, Omitted: b.Omitted}
	for _, a := range b.Sorted() {
		row := AlertRow{Key: a.Key, Kind: a.Kind, Severity: a.Severity, State: cmp.Or(b.State(a, now), alertResolved), Summary: a.Summary, Advice: a.Advice, Since: a.Since, Over: a.Over, Told: a.Told}
		if s := b.Silenced(a, now); s != nil {
			row.Until, row.By, row.Reason = s.Until, s.By, s.Reason
		}
		out.Alerts = append(out.Alerts, row)
	}
	for _, s := range b.Silences {
		if s.Until.After(now) {
			out.Silences = append(out.Silences, s)
		}
	}
	for name, c := range b.Channels {
		out.Channels = append(out.Channels, AlertChannel{name, c.Sent, c.Error, c.Tries})
	}
	slices.SortFunc(out.Channels, func(a, b AlertChannel) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// ErrNotSilenced is returned for a silence to end that there is not.
var ErrNotSilenced = errors.New("is not silenced")

// Silence keeps the channels from being told of alerts for a time: of one by its key, of a kind,
// or of all (alert.Everything). A silence of the same alerts is replaced.
func (d *Desk) Silence(ctx context.Context, by broker.Actor, of string, last time.Duration, reason string) (alert.Silence, error) {
	s := alert.Silence{Of: of, By: by.Shown(), Since: time.Now().UTC()}
	var err error
	if s.Reason, err = broker.CheckReason(reason, true); err != nil {
		return s, err
	}
	if err := alert.CheckSilence(last); err != nil {
		return s, invalid("invalid duration: %v", err)
	}
	s.Until = s.Since.Add(last).Truncate(time.Second)
	var refusal error
	var before []alert.Silence
	err = d.ChangeAlerts(ctx, func(b *alert.Board) bool {
		before = slices.Clone(b.Silences)
		switch {
		case !b.CanSilence(of):
			refusal = refused{fmt.Errorf("there is no alert %q: want the key of an alert that lasts, all, or one of %s", legible.Clean(of, 100), kinds()), ErrNotFound}
		case !b.Silence(s, s.Since):
			refusal = invalid("there are too many silences: end some of them first")
		default:
			refusal = nil
		}
		return refusal == nil
	})
	if err = errors.Join(err, refusal); err != nil {
		return s, err
	}
	if err := d.b.RecordSilence(ctx, broker.ActionSilenced, of, s.Since, s.Until, by, s.Reason); err != nil {
		// A silence without an audit record must not stay in force.
		undone := d.ChangeAlerts(context.WithoutCancel(ctx), func(b *alert.Board) bool {
			b.Unsilence(of, s.Since)
			for _, old := range before {
				if old.Of == of {
					b.Silence(old, s.Since)
				}
			}
			return true
		})
		return s, errors.Join(err, undone)
	}
	d.CatchUp(ctx)
	return s, nil
}

func kinds() (text string) {
	for i, kind := range alert.Kinds() {
		if i > 0 {
			text += ", "
		}
		text += string(kind)
	}
	return text
}

// Unsilence ends a silence.
func (d *Desk) Unsilence(ctx context.Context, by broker.Actor, of, reason string) error {
	reason, err := broker.CheckReason(reason, false)
	if err != nil {
		return err
	}
	var silence *alert.Silence
	err = d.ChangeAlerts(ctx, func(b *alert.Board) bool {
		silence = nil
		for _, s := range b.Silences {
			if s.Of == of && s.Until.After(time.Now()) {
				silence = &s
			}
		}
		return false
	})
	switch {
	case err != nil:
		return err
	case silence == nil:
		return refused{fmt.Errorf("%q %w", legible.Clean(of, 100), ErrNotSilenced), ErrNotSilenced}
	}
	if err := d.b.RecordSilence(ctx, broker.ActionUnsilenced, of, silence.Since, time.Time{}, by, reason); err != nil {
		return err
	}
	err = d.ChangeAlerts(context.WithoutCancel(ctx), func(b *alert.Board) bool { return b.Unsilence(of, time.Now()) })
	d.CatchUp(ctx)
	return err
}
