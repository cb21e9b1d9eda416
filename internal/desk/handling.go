package desk

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/legible"
)

// handlingPrefix is the prefix of the keys of handlings in the bucket CERTPOST_DESK, followed by
// the fingerprint of the group.
const handlingPrefix = "group."

// Handling is who works on a group, under which ticket, and what they found out. It stays when the
// letters of the group come and go; the audit has every change.
type Handling struct {
	Assignee string    `json:"assignee,omitempty"`
	Ticket   string    `json:"ticket,omitempty"` // an address, http or https
	Notes    []Note    `json:"notes,omitempty"`  // oldest first; the newest MaxNotes, the audit has the others
	Changed  time.Time `json:"changed"`
	Revision uint64    `json:"revision"` // for HandlingChange.Revision
}

// Note is a text that an operator wrote about a group.
type Note struct {
	At   time.Time `json:"at"`
	By   string    `json:"by"` // in the words of broker.Actor.Shown
	Text string    `json:"text"`
}

// Limits of a handling.
const (
	MaxNotes    = 20
	MaxAssignee = 100 // characters
	MaxTicket   = 500 // bytes
)

// HandlingChange is what to change: what is nil or "" stays.
type HandlingChange struct {
	Assignee *string // "" for none
	Ticket   *string // "" for none
	Note     string
	// Revision is the one that the operator saw, 0 if there was none; nil changes any. It guards
	// assignee and ticket, not the note, which replaces nothing.
	Revision *uint64
}

// ErrNoChange is returned for a change of a handling that changes nothing.
var ErrNoChange = errors.New("nothing to change: give an assignee, a ticket or a note")

// ErrHandlingChanged is returned if another operator has changed assignee or ticket since they
// were shown.
var ErrHandlingChanged = errors.New("another operator has changed the assignee or the ticket meanwhile; look at them, then change them again")

// check returns the change as it is stored.
func (c HandlingChange) check() (HandlingChange, error) {
	var err error
	if c.Note, err = broker.CheckReason(c.Note, false); err != nil {
		return c, errors.New("the note is longer than " + fmt.Sprint(MaxReason) + " characters: shorten it, or write it into the ticket")
	}
	if c.Assignee != nil {
		name := strings.TrimSpace(legible.Clean(strings.TrimSpace(*c.Assignee), utf8.UTFMax*MaxAssignee))
		if utf8.RuneCountInString(*c.Assignee) > MaxAssignee {
			return c, fmt.Errorf("the assignee is longer than %d characters", MaxAssignee)
		}
		c.Assignee = &name
	}
	if c.Ticket != nil {
		ticket, err := checkTicket(strings.TrimSpace(*c.Ticket))
		if err != nil {
			return c, err
		}
		c.Ticket = &ticket
	}
	if c.Note == "" && c.Assignee == nil && c.Ticket == nil {
		return c, ErrNoChange
	}
	return c, nil
}

// checkTicket checks the address of a ticket, and returns it with the host in ASCII: a page shows it as a link, so it may have no other
// scheme, and no password, because everybody who may read sees it.
func checkTicket(ticket string) (string, error) {
	if ticket == "" {
		return "", nil
	}
	if len(ticket) > MaxTicket {
		return "", fmt.Errorf("the ticket's address is longer than %d bytes", MaxTicket)
	}
	u, err := url.Parse(ticket)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || strings.ContainsFunc(ticket, legible.Hidden) {
		return "", errors.New("the ticket must be an address that begins with https:// or http://")
	}
	if u.User != nil {
		return "", errors.New("the ticket's address must have no user and no password: all who may read see it")
	}
	if problem := legible.WrongPort(u); problem != "" {
		return "", errors.New("the ticket's address " + problem)
	}
	if err := legible.ASCIIHost(u); err != nil {
		return "", fmt.Errorf("the ticket's address %w", err)
	}
	return u.String(), nil
}

// TicketHost returns the host, and the port if it has one, of the ticket's address, in ASCII: what
// a link leads to.
func (h Handling) TicketHost() string {
	u, err := url.Parse(h.Ticket)
	if err != nil {
		return ""
	}
	return u.Host
}

// Handle changes who works on a group, its ticket, or adds a note. The error is ErrNotFound if the
// group has no open letter, ErrUnfit for a value that is refused, and ErrHandlingChanged.
func (d *Desk) Handle(ctx context.Context, by broker.Actor, fingerprint string, change HandlingChange) (Handling, error) {
	change, err := change.check()
	if err != nil {
		return Handling{}, refused{err, ErrUnfit}
	}
	if len(d.Groups(Query{Fingerprint: fingerprint})) == 0 {
		return Handling{}, refused{errors.New("the group " + legible.Clean(fingerprint, 60) + " has no open letter"), ErrNotFound}
	}
	bucket, err := d.b.Desk(ctx)
	if err != nil {
		return Handling{}, err
	}
	ctx, cancel := broker.Detached(ctx)
	defer cancel()
	for {
		changed, err := d.handle(ctx, bucket, by, handlingPrefix+fingerprint, change)
		if !errors.Is(err, broker.ErrDeskChanged) || ctx.Err() != nil {
			return changed, err
		}
	}
}

// handle makes one attempt; the error is broker.ErrDeskChanged if another process wrote first.
func (d *Desk) handle(ctx context.Context, bucket *broker.DeskBucket, by broker.Actor, key string, change HandlingChange) (Handling, error) {
	entry, err := bucket.Get(ctx, key)
	missing := errors.Is(err, broker.ErrNoDeskEntry)
	if err != nil && !missing {
		return Handling{}, err
	}
	h := readHandling(entry)
	if change.Revision != nil && *change.Revision != h.Revision && (change.Assignee != nil || change.Ticket != nil) {
		return h, ErrHandlingChanged
	}
	now, group := time.Now().UTC(), strings.TrimPrefix(key, handlingPrefix)
	var records []broker.AuditRecord
	set := func(field *string, to *string, action broker.Action) {
		if to != nil && *to != *field {
			*field = *to
			records = append(records, broker.AuditRecord{Action: action, Actor: by, Reason: *to, Group: group})
		}
	}
	set(&h.Assignee, change.Assignee, broker.ActionAssigned)
	set(&h.Ticket, change.Ticket, broker.ActionTicketed)
	if change.Note != "" {
		h.Notes = append(h.Notes, Note{now, by.Shown(), change.Note})
		h.Notes = h.Notes[max(0, len(h.Notes)-MaxNotes):]
		records = append(records, broker.AuditRecord{Action: broker.ActionNoted, Actor: by, Reason: change.Note, Group: group})
	}
	if records == nil {
		return h, nil // it is so already
	}
	h.Changed = now
	value, err := json.Marshal(h)
	if err != nil {
		return h, err
	}
	var revision uint64
	if missing {
		revision, err = bucket.Create(ctx, key, value)
	} else {
		revision, err = bucket.Update(ctx, key, value, entry.Revision)
	}
	if err != nil {
		return h, err
	}
	h.Revision = revision
	d.applyHandling(broker.DeskEntry{Key: key, Value: value, Revision: revision})
	if err := d.b.Append(ctx, records...); err != nil {
		return h, fmt.Errorf("the change is stored, but the audit has no record of it: %w", err)
	}
	d.CatchUp(ctx)
	return h, nil
}

// readHandling reads an entry of the bucket; one that cannot be read counts as empty.
func readHandling(e broker.DeskEntry) (h Handling) {
	if json.Unmarshal(e.Value, &h) != nil {
		h = Handling{}
	}
	if u, err := url.Parse(h.Ticket); err == nil && h.Ticket != "" && legible.ASCIIHost(u) == nil { // of an earlier version
		h.Ticket = u.String()
	}
	h.Revision = e.Revision
	return h
}

// applyHandling applies an entry of the bucket: set, or removed.
func (d *Desk) applyHandling(e broker.DeskEntry) {
	fingerprint := strings.TrimPrefix(e.Key, handlingPrefix)
	d.mu.Lock()
	known, there := d.runs.handlings[fingerprint]
	news := there == e.Deleted || there && known.Revision < e.Revision
	switch {
	case !news:
	case e.Deleted:
		delete(d.runs.handlings, fingerprint)
	default:
		d.runs.handlings[fingerprint] = readHandling(e)
	}
	d.mu.Unlock()
	if news {
		d.listeners.notify(Change{Letters: true})
	}
}

// handlingKept is how long a handling is kept that was not changed, of a group without letters.
const handlingKept = runsKept

// sweepHandlings removes handlings of groups that have long been empty.
func (d *Desk) sweepHandlings(ctx context.Context, bucket *broker.DeskBucket) {
	d.mu.RLock()
	old := map[string]uint64{}
	for fingerprint, h := range d.runs.handlings {
		if d.read && d.letters.groups[fingerprint] == nil && time.Since(h.Changed) > handlingKept {
			old[fingerprint] = h.Revision
		}
	}
	d.mu.RUnlock()
	for fingerprint, revision := range old {
		if err := bucket.Delete(ctx, handlingPrefix+fingerprint, revision); err != nil {
			d.log.Debug().Err(err).Str("group", fingerprint).Msg("removing the notes on a group that has long been empty failed; retrying later")
		}
	}
}
