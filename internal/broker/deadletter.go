package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/verdict"
)

// The headers of deliveries and dead letters.
const (
	HeaderEventID       = "Certpost-Event-Id"
	HeaderTarget        = "Certpost-Target"
	HeaderLane          = "Certpost-Lane"
	HeaderGeneration    = "Certpost-Generation"
	HeaderForce         = "Certpost-Force"
	HeaderCode          = "Certpost-Code"
	HeaderClass         = "Certpost-Class"
	HeaderPhase         = "Certpost-Phase"
	HeaderReason        = "Certpost-Reason"
	HeaderReplyCode     = "Certpost-Reply-Code"
	HeaderEnhancedCode  = "Certpost-Enhanced-Code"
	headerReply         = "Certpost-Reply"
	HeaderAttempts      = "Certpost-Attempts"
	HeaderFirstAttempt  = "Certpost-First-Attempt"
	HeaderLastAttempt   = "Certpost-Last-Attempt"
	HeaderCertainty     = "Certpost-Certainty"
	HeaderRecipients    = "Certpost-Recipients"
	headerSecrets       = "Certpost-Secret-Versions"
	HeaderReplaySubject = "Certpost-Replay-Subject"
	headerRestoredFrom  = "Certpost-Restored-From"
)

// NoToken stands in subjects where there is no lane or no target.
const NoToken = "_"

// DeadLetter is a delivery that ended without success, as it stands in
// CERTPOST_DEAD_LETTERS.
type DeadLetter struct {
	Sequence   uint64    `json:"sequence"`
	Subject    string    `json:"subject"`
	Time       time.Time `json:"time"`
	Event      string    `json:"event"`
	Token      string    `json:"token"` // the event id as it stands in subjects
	Target     string    `json:"target,omitempty"`
	Lane       string    `json:"lane,omitempty"`
	Generation int       `json:"generation"`
	verdict.Outcome
	Class         verdict.Class `json:"class"`
	Attempts      int           `json:"attempts"`
	First         time.Time     `json:"first_attempt,omitzero"`
	Last          time.Time     `json:"last_attempt,omitzero"`
	Recipients    []string      `json:"recipients,omitempty"`      // those still owed
	Secrets       string        `json:"secret_versions,omitempty"` // "reference=version, ..." of what the last attempt used
	ReplaySubject string        `json:"replay_subject"`
	TraceParent   string        `json:"traceparent,omitempty"`
	RestoredFrom  uint64        `json:"restored_from,omitempty"` // the number it had when it was discarded
	Body          []byte        `json:"-"`                       // the event
}

// subjectOf is where the letter of one delivery stands for one code.
func (d *DeadLetter) subjectOf() string {
	target, lane := d.Target, d.Lane
	if !events.IsToken(target) {
		target = NoToken
	}
	if !events.IsToken(lane) {
		lane = NoToken
	}
	return DeadLetterPrefix + strings.Join([]string{string(d.Code), lane, target, d.Token}, ".")
}

func (d *DeadLetter) message(id string) *nats.Msg {
	m := nats.NewMsg(d.Subject)
	m.Data = d.Body
	set := func(key, value string) {
		if value != "" {
			m.Header.Set(key, HeaderText(value))
		}
	}
	set(nats.MsgIdHdr, id)
	set(HeaderEventID, d.Event)
	set(HeaderTarget, d.Target)
	set(HeaderLane, d.Lane)
	set(HeaderGeneration, strconv.Itoa(d.Generation))
	set(HeaderCode, string(d.Code))
	set(HeaderClass, string(d.Class))
	set(HeaderPhase, string(d.Phase))
	set(HeaderReason, d.Reason)
	if d.ReplyCode != 0 {
		set(HeaderReplyCode, strconv.Itoa(d.ReplyCode))
	}
	set(HeaderEnhancedCode, d.EnhancedCode)
	set(headerReply, d.Reply)
	set(HeaderAttempts, strconv.Itoa(d.Attempts))
	set(HeaderFirstAttempt, timeText(d.First))
	set(HeaderLastAttempt, timeText(d.Last))
	set(HeaderCertainty, string(d.Certainty))
	set(HeaderRecipients, strings.Join(d.Recipients, ", "))
	set(headerSecrets, d.Secrets)
	set(HeaderReplaySubject, d.ReplaySubject)
	if d.RestoredFrom != 0 {
		set(headerRestoredFrom, strconv.FormatUint(d.RestoredFrom, 10))
	}
	set("traceparent", d.TraceParent)
	return m
}

// parseDeadLetter reads a letter; what the headers do not say (somebody else
// published it) comes from the subject.
func parseDeadLetter(raw *jetstream.RawStreamMsg) DeadLetter {
	h := raw.Header
	d := DeadLetter{
		Outcome: verdict.Outcome{
			Code:         verdict.Code(h.Get(HeaderCode)),
			Phase:        verdict.Phase(h.Get(HeaderPhase)),
			Reason:       h.Get(HeaderReason),
			EnhancedCode: h.Get(HeaderEnhancedCode),
			Reply:        h.Get(headerReply),
			Certainty:    verdict.Certainty(h.Get(HeaderCertainty)),
		},
		Sequence: raw.Sequence, Subject: raw.Subject, Time: raw.Time, Body: raw.Data, Event: h.Get(HeaderEventID), Target: h.Get(HeaderTarget), Lane: h.Get(HeaderLane), ReplaySubject: h.Get(HeaderReplaySubject), Secrets: h.Get(headerSecrets), TraceParent: h.Get("traceparent"),
	}
	if parts := strings.Split(strings.TrimPrefix(raw.Subject, DeadLetterPrefix), "."); len(parts) == 4 {
		d.Token = parts[3]
		setIfEmpty(&d.Event, parts[3])
		if d.Code == "" {
			d.Code = verdict.Code(parts[0])
		}
		if parts[1] != NoToken {
			setIfEmpty(&d.Lane, parts[1])
		}
		if parts[2] != NoToken {
			setIfEmpty(&d.Target, parts[2])
		}
	}
	d.Class = d.Code.Class()
	d.Generation, _ = strconv.Atoi(h.Get(HeaderGeneration))
	d.ReplyCode, _ = strconv.Atoi(h.Get(HeaderReplyCode))
	d.Attempts, _ = strconv.Atoi(h.Get(HeaderAttempts))
	d.RestoredFrom, _ = strconv.ParseUint(h.Get(headerRestoredFrom), 10, 64)
	d.First, _ = time.Parse(time.RFC3339Nano, h.Get(HeaderFirstAttempt))
	d.Last, _ = time.Parse(time.RFC3339Nano, h.Get(HeaderLastAttempt))
	if list := h.Get(HeaderRecipients); list != "" {
		d.Recipients = strings.Split(list, ", ")
	}
	return d
}

func setIfEmpty(field *string, value string) {
	if *field == "" {
		*field = value
	}
}

// HeaderText keeps a value on its header line.
func HeaderText(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}

// traceContext is the form of a W3C traceparent. What looks otherwise is not
// passed on: it comes from anybody.
var traceContext = regexp.MustCompile(`^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$`)

func TraceParent(h nats.Header) string {
	if v := h.Get("traceparent"); traceContext.MatchString(v) {
		return v
	}
	return ""
}

func timeText(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// codeStoreFailed is how a stream answers when a subject already holds the one
// message it may hold.
const codeStoreFailed = 10077

// publishLetterTries bounds how often a letter is published that others replace, or remove,
// at the same time.
const publishLetterTries = 5

// PublishDeadLetter publishes a dead letter and returns once the stream has acknowledged it.
// origin names the message that is given up, so that the same message, coming
// again after a crash or given up by two processes at once, makes no second letter,
// and another one does. A letter of an earlier try on the same subject gives way: its
// delivery is not settled yet, so nothing is lost if we die in between.
func (b *Broker) PublishDeadLetter(ctx context.Context, d *DeadLetter, origin string) error {
	d.Subject = d.subjectOf()
	d.Class = d.Code.Class()
	if d.Certainty == "" {
		d.Certainty = verdict.NotSent
	}
	id := d.Token + "/" + origin + "/dead"
	m := d.message(id)
	if int64(len(m.Data)) > b.nc.MaxPayload()-8<<10 { // headers take their part
		m.Data = Withheld("the event is too large to be copied here", d)
	}
	var earlier *DeadLetter
	for range publishLetterTries {
		ack, err := b.js.PublishMsg(ctx, m)
		var api *jetstream.APIError
		occupied := errors.As(err, &api) && api.ErrorCode == codeStoreFailed
		if err != nil && !occupied {
			return fmt.Errorf("dead letter %s: %w", d.Subject, err)
		}
		if err == nil && !ack.Duplicate {
			if earlier != nil {
				b.ObserveReplaced(ctx, *earlier)
			}
			return nil
		}
		there, err := b.leaderGet(ctx, DeadLettersStream, getRequest{Last: d.Subject})
		switch {
		case errors.Is(err, jetstream.ErrMsgNotFound):
			if !occupied {
				// The stream remembers our letter and has it no more: somebody has acted on
				// it meanwhile. This message needs one all the same.
				m.Header.Set(nats.MsgIdHdr, id+"/"+nuid.Next())
			}
		case err != nil:
			return fmt.Errorf("dead letter %s: look for an earlier one: %w", d.Subject, err)
		case !occupied || strings.HasPrefix(there.Header.Get(nats.MsgIdHdr), id):
			return nil // it is there, or a newer one of this delivery is
		default:
			if err := b.RemoveLetter(ctx, there.Sequence); err != nil {
				return fmt.Errorf("dead letter %s: replace the earlier one: %w", d.Subject, err)
			}
			replaced := parseDeadLetter(there)
			earlier = &replaced
		}
	}
	return fmt.Errorf("dead letter %s: others publish and remove it at the same time", d.Subject)
}

// RemoveEarlier removes the letter of an earlier life from its subject, and returns what
// was there.
func (b *Broker) RemoveEarlier(ctx context.Context, subject string) (*DeadLetter, error) {
	there, err := b.leaderGet(ctx, DeadLettersStream, getRequest{Last: subject})
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, nil
	}
	if err == nil {
		err = b.RemoveLetter(ctx, there.Sequence)
	}
	if err != nil {
		return nil, fmt.Errorf("dead letter %s: replace the earlier one: %w", subject, err)
	}
	d := parseDeadLetter(there)
	return &d, nil
}

// ObserveReplaced records that a letter gave way to a newer one. That must not
// hold up what the newer one is about: who follows the letters sees it as well.
func (b *Broker) ObserveReplaced(ctx context.Context, d DeadLetter) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if _, err := b.Observe(ctx, AuditRecord{Action: ActionReplaced, Actor: ProcessActor(b.nc.Opts.Name), Event: d.Event, Target: d.Target, LetterNumber: d.Sequence, Letter: &d}); err != nil {
		b.log.Debug().Err(err).Uint64("letter", d.Sequence).Msg("a dead letter gave way to a newer one, which could not be recorded")
	}
}

// Withheld is the body of a letter whose event may not, or cannot, be copied.
func Withheld(why string, d *DeadLetter) []byte {
	body, _ := json.Marshal(map[string]string{"withheld": why, "id": d.Event})
	return body
}

// RemoveDeadLetter takes the letters of a delivery that has succeeded off the list; each is
// recorded first, once, and not if a replay of it was. digest is that of the event: a
// letter of another certificate, published under the same id, stays.
func (b *Broker) RemoveDeadLetter(ctx context.Context, target, token, digest string, by Actor) error {
	for d, err := range b.LettersUnder(ctx, DeadLetterPrefix+"*.*."+target+"."+token) {
		if err != nil {
			return err
		}
		if d.IsOfAnother(digest) {
			continue
		}
		if err := b.Append(ctx, AuditRecord{Action: ActionDelivered, Actor: by, Event: d.Event, Target: d.Target, LetterNumber: d.Sequence}); err != nil {
			return err
		}
		if err := b.RemoveLetter(ctx, d.Sequence); err != nil {
			return err
		}
	}
	return nil
}

// IsOfAnother reports that the letter's event is about another certificate than that of
// the digest. Where it cannot be read, it is taken for an earlier try to publish the one.
func (d *DeadLetter) IsOfAnother(digest string) bool {
	ev, err := events.Decode(nil, d.Body)
	return err == nil && ev.Digest() != digest
}

// LettersUnder yields the open letters under a filter that few fit, mostly none: each
// event asks, so it is one request for each letter and one for the end.
func (b *Broker) LettersUnder(ctx context.Context, filter string) iter.Seq2[DeadLetter, error] {
	return func(yield func(DeadLetter, error) bool) {
		for next := uint64(1); ; {
			raw, err := b.leaderGet(ctx, DeadLettersStream, getRequest{Seq: next, Next: filter})
			if errors.Is(err, jetstream.ErrMsgNotFound) {
				return
			}
			if err != nil {
				yield(DeadLetter{}, b.readError(ctx, DeadLettersStream, err))
				return
			}
			if !yield(parseDeadLetter(raw), nil) {
				return
			}
			next = raw.Sequence + 1
		}
	}
}

func (b *Broker) RemoveLetter(ctx context.Context, seq uint64) error {
	stream, err := b.js.Stream(ctx, DeadLettersStream)
	if err != nil {
		return fmt.Errorf("stream %s: %w", DeadLettersStream, err)
	}
	if err := stream.DeleteMsg(ctx, seq); err != nil {
		// Gone already is as good: a newer letter of the same delivery took its place.
		if gone, gerr := b.gone(ctx, seq); gerr != nil || !gone {
			return fmt.Errorf("remove dead letter %d: %w", seq, err)
		}
	}
	return nil
}

// DeadLetters yields the open letters in order, those whose subject fits the
// filter ("" for all). Looking changes nothing.
func (b *Broker) DeadLetters(ctx context.Context, filter string) iter.Seq2[DeadLetter, error] {
	return b.readLetters(ctx, filter, 1)
}

// ErrNoLetter says that there is no such open dead letter.
var ErrNoLetter = errors.New("no such open dead letter")

// DeadLetter returns the letter with a sequence number.
func (b *Broker) DeadLetter(ctx context.Context, seq uint64) (DeadLetter, error) {
	raw, err := b.messageAt(ctx, DeadLettersStream, seq)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return DeadLetter{}, fmt.Errorf("%w: number %d (replayed, discarded or expired?)", ErrNoLetter, seq)
	}
	if err != nil {
		return DeadLetter{}, b.readError(ctx, DeadLettersStream, err)
	}
	return parseDeadLetter(raw), nil
}
