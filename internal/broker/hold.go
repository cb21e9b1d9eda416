package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const holdPrefix = "hold."

// Held is the error of an action on a letter that is held.
type Held struct{ Hold Hold }

func (h *Held) Error() string {
	return fmt.Sprintf("dead letter %d is held by %s since %s: %s", h.Hold.Letter, h.Hold.Shown(), h.Hold.Since.UTC().Format("2006-01-02 15:04:05 UTC"), h.Hold.Reason)
}

// ErrNotHeld is returned for a letter to release that is not held.
var ErrNotHeld = errors.New("is not held")

// Hold keeps a letter from being replayed and discarded; *Held if it is already held. It
// does not keep the letter from expiring, or from being removed when its delivery succeeds.
func (b *Broker) Hold(ctx context.Context, d DeadLetter, by Actor, reason string) (Hold, error) {
	reason, err := CheckReason(reason, true)
	if err != nil {
		return Hold{}, err
	}
	h := Hold{Letter: d.Sequence, Event: d.Event, Target: d.Target, Reason: reason, By: by.Name, Proved: by.Proved, NATSUser: by.NATSUser, Since: time.Now().UTC()}
	value, err := json.Marshal(h)
	if err != nil {
		return h, fmt.Errorf("hold dead letter %d: %w", d.Sequence, err)
	}
	desk, err := b.Desk(ctx)
	if err != nil {
		return h, err
	}
	ctx, cancel := Detached(ctx)
	defer cancel()
	revision, err := desk.Create(ctx, holdKey(d.Sequence), value)
	if errors.Is(err, ErrDeskChanged) {
		if first, gerr := b.holdOf(ctx, d.Sequence); gerr == nil && first != nil {
			return *first, &Held{*first}
		}
	}
	if err != nil {
		return h, err
	}
	if err := b.audit(ctx, h.record(ActionHeld, by, reason), holdID(d.Sequence, revision)); err != nil {
		// A hold without an audit record must not stay in force.
		return h, errors.Join(err, desk.Delete(ctx, holdKey(d.Sequence), revision))
	}
	return h, nil
}

// Release ends a hold; ErrNotHeld if there is none.
func (b *Broker) Release(ctx context.Context, number uint64, by Actor, reason string) error {
	reason, err := CheckReason(reason, false)
	if err != nil {
		return err
	}
	desk, err := b.Desk(ctx)
	if err != nil {
		return err
	}
	entry, err := desk.Get(ctx, holdKey(number))
	if errors.Is(err, ErrNoDeskEntry) {
		return fmt.Errorf("dead letter %d %w", number, ErrNotHeld)
	}
	if err != nil {
		return err
	}
	ctx, cancel := Detached(ctx)
	defer cancel()
	if err := b.audit(ctx, readHold(number, entry.Value).record(ActionReleased, by, reason), holdID(number, entry.Revision)); err != nil {
		return err
	}
	return desk.Delete(ctx, entry.Key, entry.Revision)
}

// ParseHold reads a hold from a bucket entry; false for other entries.
func ParseHold(e DeskEntry) (Hold, bool) {
	text, ok := strings.CutPrefix(e.Key, holdPrefix)
	number, err := strconv.ParseUint(text, 10, 64)
	if !ok || err != nil {
		return Hold{}, false
	}
	if e.Deleted {
		return Hold{Letter: number}, true
	}
	return readHold(number, e.Value), true
}

// readHold treats a value that it cannot read as a hold: an operator may have written it
// with other tools.
func readHold(number uint64, value []byte) Hold {
	var h Hold
	if json.Unmarshal(value, &h) != nil {
		h = Hold{Reason: "the hold's entry cannot be read; release it"}
	}
	h.Letter = number
	return h
}

func (h Hold) record(action Action, by Actor, reason string) AuditRecord {
	return AuditRecord{Action: action, Actor: by, Reason: reason, Event: h.Event, Target: h.Target, LetterNumber: h.Letter}
}

func holdKey(number uint64) string { return holdPrefix + strconv.FormatUint(number, 10) }

func holdID(number, revision uint64) string {
	return "hold/" + strconv.FormatUint(number, 10) + "/" + strconv.FormatUint(revision, 10)
}

// holdOf asks the bucket's leader whether a letter is held; nil if it is not.
func (b *Broker) holdOf(ctx context.Context, number uint64) (*Hold, error) {
	raw, err := b.leaderGet(ctx, "KV_"+DeskBucketName, getRequest{Last: "$KV." + DeskBucketName + "." + holdKey(number)})
	var api *jetstream.APIError
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound), errors.As(err, &api) && api.ErrorCode == jetstream.JSErrCodeStreamNotFound:
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read the hold of dead letter %d: %w", number, err)
	case raw.Header.Get("KV-Operation") != "":
		return nil, nil
	}
	h := readHold(number, raw.Data)
	return &h, nil
}
