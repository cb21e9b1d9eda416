package broker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
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
	HeaderEventID        = "Certpost-Event-Id"
	HeaderTarget         = "Certpost-Target"
	HeaderLane           = "Certpost-Lane"
	HeaderGeneration     = "Certpost-Generation"
	HeaderEventSequence  = "Certpost-Event-Sequence" // of the event in CERTPOST_EVENTS; deliveries only
	HeaderEventSubject   = "Certpost-Event-Subject"  // that the event was published on: its source
	HeaderForce          = "Certpost-Force"
	HeaderLetter         = "Certpost-Letter"          // the number of the dead letter that a delivery replays
	HeaderCopyOf         = "Certpost-Copy-Of"         // the sequence of the delivery that was moved, or stranded
	headerOriginal       = "Certpost-Original"        // the sequence of the first of those, of a copy of a copy
	HeaderEventPublished = "Certpost-Event-Published" // when the event was published (RFC 3339); deliveries only
	HeaderPublished      = "Certpost-Published"       // of a copy, or a recovered delivery: when the first one was published (RFC 3339)
	HeaderPublication    = "Certpost-Publication"     // of letters and replays: the event's place in the order of publication
	HeaderCode           = "Certpost-Code"
	HeaderClass          = "Certpost-Class"
	HeaderPhase          = "Certpost-Phase"
	HeaderReason         = "Certpost-Reason"
	HeaderReplyCode      = "Certpost-Reply-Code"
	HeaderEnhancedCode   = "Certpost-Enhanced-Code"
	headerReply          = "Certpost-Reply"
	HeaderAttempts       = "Certpost-Attempts"
	HeaderFirstAttempt   = "Certpost-First-Attempt"
	HeaderLastAttempt    = "Certpost-Last-Attempt"
	HeaderCertainty      = "Certpost-Certainty"
	HeaderRecipients     = "Certpost-Recipients"
	HeaderRollback       = "Certpost-Rollback" // restored, not-needed or failed; for mails not-supported
	headerSecrets        = "Certpost-Secret-Versions"
	headerFailedReplays  = "Certpost-Failed-Replays"
	headerMessageID      = "Certpost-Message-Id"
	headerToFix          = "Certpost-To-Fix"
	HeaderReplaySubject  = "Certpost-Replay-Subject"
	headerRestoredFrom   = "Certpost-Restored-From"
)

// NoToken replaces a missing lane, target or event in subjects.
const NoToken = "_"

// DeadLetter is a delivery that ended without success, as stored in CERTPOST_DEAD_LETTERS.
type DeadLetter struct {
	Sequence   uint64    `json:"sequence"`
	Subject    string    `json:"subject"`
	Time       time.Time `json:"time"`
	Event      string    `json:"event"`
	Token      string    `json:"token"` // the event id as used in subjects
	Target     string    `json:"target,omitempty"`
	Lane       string    `json:"lane,omitempty"`
	Generation int       `json:"generation"`
	verdict.Outcome
	Class         verdict.Class `json:"class"`
	Attempts      int           `json:"attempts"`                 // of the whole life, and so is First
	FailedReplays int           `json:"failed_replays,omitempty"` // replays that ended in a letter, this one included
	First         time.Time     `json:"first_attempt,omitzero"`
	Last          time.Time     `json:"last_attempt,omitzero"`
	Recipients    []string      `json:"recipients,omitempty"`      // those still owed; of a mail that may have been sent, those who may have it
	MessageID     string        `json:"message_id,omitempty"`      // of a mail that may have been sent
	Secrets       string        `json:"secret_versions,omitempty"` // "reference=version, ..." used by the last attempt
	ReplaySubject string        `json:"replay_subject"`
	EventSubject  string        `json:"event_subject,omitempty"` // that the event was published on
	TraceParent   string        `json:"traceparent,omitempty"`
	RestoredFrom  uint64        `json:"restored_from,omitempty"` // its number when it was discarded
	// Published is the event's place in the order of publication; a replay keeps it.
	Published verdict.Publication `json:"published,omitzero"`
	Body      []byte              `json:"-"` // the event

	origin origin
}

// origin is the message that a letter is about, as its message id says.
type origin struct {
	kind     byte   // 'd': in CERTPOST_DELIVERIES, 'e': in CERTPOST_EVENTS; 0: not known
	sequence uint64 // there
}

// originOf reads the id that PublishDeadLetter has given to a letter: the part before /dead
// begins with the kind, or with restored, and the sequence.
func originOf(id string) (o origin) {
	id, _, found := cutLast(id, "/dead")
	_, part, _ := cutLast(id, "/")
	number := strings.TrimLeft(part, "abcdefghijklmnopqrstuvwxyz")
	word := strings.TrimSuffix(part, number)
	number, _, _ = strings.Cut(number, ".")
	sequence, err := strconv.ParseUint(number, 10, 64)
	switch {
	case !found || err != nil:
	case word == "d", word == "restored":
		o = origin{'d', sequence}
	case word == "e":
		o = origin{'e', sequence}
	}
	return o
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return "", s, false
}

// Message is a message of CERTPOST_DELIVERIES or CERTPOST_EVENTS.
type Message struct {
	Sequence uint64
	Stored   time.Time
}

// ofLaterDelivery reports whether the letter is about a delivery that was published after m.
func (d *DeadLetter) ofLaterDelivery(m Message) bool { return d.later('d', m) }

// OfLaterEvent reports whether the letter is about an event that was published after m.
func (d *DeadLetter) OfLaterEvent(m Message) bool { return d.later('e', m) }

// later looks at the time as well: in a stream that was made anew the sequences begin again.
func (d *DeadLetter) later(kind byte, m Message) bool {
	return d.origin.kind == kind && d.origin.sequence > m.Sequence && d.Time.After(m.Stored)
}

// LetterSubject returns the subject of a letter, one per delivery and code:
// certpost.dead.<code>.<lane>.<target>.<token>. What is missing becomes NoToken, and a
// target that is not a token of a subject becomes its hash: an event may name several
// such targets, each with a letter of its own.
func LetterSubject(code verdict.Code, lane, target, token string) string {
	switch {
	case target == "":
		target = NoToken
	case !events.IsToken(target):
		target = events.Token(target)
	}
	if !events.IsToken(lane) {
		lane = NoToken
	}
	return DeadLetterPrefix + strings.Join([]string{string(code), lane, target, token}, ".")
}

func (d *DeadLetter) subjectOf() string { return LetterSubject(d.Code, d.Lane, d.Target, d.Token) }

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
	if d.FailedReplays != 0 {
		set(headerFailedReplays, strconv.Itoa(d.FailedReplays))
	}
	set(HeaderFirstAttempt, timeText(d.First))
	set(HeaderLastAttempt, timeText(d.Last))
	set(HeaderCertainty, string(d.Certainty))
	set(headerToFix, d.ToFix)
	set(headerMessageID, d.MessageID)
	set(HeaderRollback, string(verdict.RollbackOf(d.Outcome, d.Lane)))
	set(HeaderRecipients, strings.Join(d.Recipients, ", "))
	set(headerSecrets, d.Secrets)
	set(HeaderReplaySubject, d.ReplaySubject)
	set(HeaderEventSubject, d.EventSubject)
	if d.RestoredFrom != 0 {
		set(headerRestoredFrom, strconv.FormatUint(d.RestoredFrom, 10))
	}
	set(HeaderPublication, d.Published.String())
	set("traceparent", d.TraceParent)
	return m
}

// parseDeadLetter reads a letter. What the headers lack, because another program published
// it, comes from the subject.
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
			Rollback:     verdict.Rollback(h.Get(HeaderRollback)),
			ToFix:        h.Get(headerToFix),
		},
		Sequence: raw.Sequence, Subject: raw.Subject, Time: raw.Time, Body: raw.Data, Event: h.Get(HeaderEventID), Target: h.Get(HeaderTarget), Lane: h.Get(HeaderLane), ReplaySubject: h.Get(HeaderReplaySubject), Secrets: h.Get(headerSecrets), TraceParent: h.Get("traceparent"),
	}
	d.Published = verdict.ParsePublication(h.Get(HeaderPublication))
	d.origin = originOf(h.Get(nats.MsgIdHdr))
	d.EventSubject = SubjectOfEvent(h)
	if d.EventSubject == "" && isEventSubject(d.ReplaySubject) {
		d.EventSubject = d.ReplaySubject
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
	d.MessageID = h.Get(headerMessageID)
	d.FailedReplays, _ = strconv.Atoi(h.Get(headerFailedReplays))
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

// HeaderText replaces control characters by spaces, so that a value stays on its header
// line.
func HeaderText(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}

// SubjectOfEvent returns the subject that the event of a delivery was published on, as the
// fan-out has noted it in the headers; "" if they do not say.
func SubjectOfEvent(h nats.Header) string {
	if subject := h.Get(HeaderEventSubject); isEventSubject(subject) {
		return subject
	}
	return ""
}

func timeText(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// codeStoreFailed is the stream's error code when a subject already holds its one message.
const codeStoreFailed = 10077

// publishLetterTries bounds the attempts to publish a letter while other processes replace
// or remove it at the same time.
const publishLetterTries = 5

// PublishDeadLetter publishes a dead letter and returns once the stream has acknowledged
// it. origin identifies the delivery message: the same message again, after a crash or from
// two processes at once, makes no second letter, and neither does another message that was made
// of the same publication of the event. An earlier letter on the same subject is removed first:
// its delivery is not settled yet, so nothing is lost if the process ends in between.
func (b *Broker) PublishDeadLetter(ctx context.Context, d *DeadLetter, origin string) error {
	d.Subject = d.subjectOf()
	d.Class = d.Code.Class()
	if d.Certainty == "" {
		d.Certainty = verdict.NotSent
	}
	id := d.Token + "/" + origin + "/dead"
	m := d.message(id)
	if int64(len(m.Data)) > b.nc.MaxPayload()-8<<10 { // leaves room for the headers
		m.Data = Withheld("the event is too large to be copied here", d)
	}
	var earlier *DeadLetter
	for range publishLetterTries {
		ack, err := b.publishOnce(ctx, m)
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
				// The stream knows the message id but no longer has the letter: it was acted
				// on meanwhile. This message needs a letter all the same.
				m.Header.Set(nats.MsgIdHdr, id+"/"+nuid.Next())
			}
		case err != nil:
			return fmt.Errorf("dead letter %s: look for an earlier one: %w", d.Subject, err)
		default:
			stored := parseDeadLetter(there)
			sameMessage := !occupied || strings.HasPrefix(there.Header.Get(nats.MsgIdHdr), id)
			if stored.tells(d, sameMessage) {
				return nil
			}
			if err := b.RemoveLetter(ctx, stored.Sequence); err != nil {
				return fmt.Errorf("dead letter %s: replace the earlier one: %w", d.Subject, err)
			}
			if !occupied {
				m.Header.Set(nats.MsgIdHdr, id+"/"+nuid.Next()) // the stream knows the former one
			}
			earlier = &stored
		}
	}
	return fmt.Errorf("dead letter %s: other processes publish and remove it at the same time", d.Subject)
}

// tells reports whether the stored letter d says what another one under its subject would say: it
// is about the same message or, after kill -9, about another one that the fan-out made of the same
// publication of the event; about that generation or a later one, from which the next replay
// counts; and as sure whether a mail was sent.
func (d *DeadLetter) tells(other *DeadLetter, sameMessage bool) bool {
	samePublication := d.Published.Sequence != 0 && d.Published.Sequence == other.Published.Sequence && d.Published.At.Equal(other.Published.At)
	return (sameMessage || samePublication) && d.Generation >= other.Generation && d.Certainty == other.Certainty
}

// publishOnce publishes a message that has an id, and tries again while the stream does not
// answer: the id makes another publication harmless.
func (b *Broker) publishOnce(ctx context.Context, m *nats.Msg) (ack *jetstream.PubAck, err error) {
	err = b.Persist(ctx, func(ctx context.Context) error {
		ack, err = b.js.PublishMsg(ctx, m)
		return err
	})
	return ack, Explain(err, DeadLettersStream)
}

// Withheld returns the body of a letter whose event must not or cannot be copied.
func Withheld(why string, d *DeadLetter) []byte {
	body, _ := json.Marshal(map[string]string{"withheld": why, "id": d.Event})
	return body
}

// WithheldBecause returns the reason why the body of a letter does not hold the event; ""
// if it does.
func WithheldBecause(body []byte) string {
	var instead struct {
		Why string `json:"withheld"`
	}
	// Bodies are large and few are withheld, so the test for the key comes first.
	if !bytes.Contains(body, []byte(`"withheld"`)) || json.Unmarshal(body, &instead) != nil {
		return ""
	}
	return instead.Why
}

// IsOfAnother reports that the letter's event is about another certificate than the digest.
// An event that cannot be decoded counts as an earlier attempt to publish the same one.
func (d *DeadLetter) IsOfAnother(digest string) bool {
	ev, err := events.Decode(nil, d.Body)
	return err == nil && ev.Digest() != digest
}

// LettersUnder yields the open letters that match a filter. It is meant for filters that
// match few, mostly none, because it is called for each event: one request for each letter
// and one for the end.
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
	err := b.Persist(ctx, func(ctx context.Context) error {
		stream, err := b.js.Stream(ctx, DeadLettersStream)
		if err != nil {
			return err
		}
		return stream.DeleteMsg(ctx, seq)
	})
	if err != nil {
		// A letter that is already gone is no error: a newer one may have replaced it.
		if gone, gerr := b.gone(ctx, seq); gerr != nil || !gone {
			return fmt.Errorf("remove dead letter %d: %w", seq, err)
		}
	}
	return nil
}

// DeadLetters yields, in order, the open letters whose subject matches the filter ("" for
// all).
func (b *Broker) DeadLetters(ctx context.Context, filter string) iter.Seq2[DeadLetter, error] {
	return b.readLetters(ctx, filter, 1)
}

// ErrNoLetter says that no open dead letter has this number.
var ErrNoLetter = errors.New("open dead letter not found")

// DeadLetter returns the open letter with a sequence number; ErrNoLetter if there is none.
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
