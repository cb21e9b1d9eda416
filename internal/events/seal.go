package events

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
)

// HeaderSeal is the header that holds a message's seal.
const HeaderSeal = "Certpost-Seal"

// headerChain is the header that holds chainVerified if Event.ChainVerified is set. It counts
// only below a valid seal.
const (
	headerChain   = "Certpost-Chain"
	chainVerified = "verified"
)

// sealRules is the version of the rules that Decode checks, and by which chains are verified.
// It changes when they become stricter: what an earlier version has sealed is checked again then.
const sealRules = "1"

// sealKeySize is the size of a seal's key, in bytes.
const sealKeySize = sha256.Size

// Seal marks messages that Certpost itself has made from an event that Decode has accepted,
// so that whoever delivers them need not search them for private keys again: a keyed hash of
// body and headers. The zero Seal marks nothing and recognizes nothing. It is safe for
// concurrent use.
type Seal struct {
	key  []byte
	last *atomic.Pointer[sealedEvent] // the last one that was read
}

// sealedEvent is an event and the body that it was read from.
type sealedEvent struct {
	body  []byte
	event Event
}

// NewSealKey returns a random key, as text for ReadSeal.
func NewSealKey() string {
	key := make([]byte, sealKeySize)
	rand.Read(key) // never fails: crypto/rand crashes the program instead
	return hex.EncodeToString(key)
}

// ReadSeal returns the seal with a key that NewSealKey has made.
func ReadSeal(key string) (Seal, error) {
	raw, err := hex.DecodeString(key)
	if err != nil || len(raw) != sealKeySize {
		return Seal{}, errors.New("not a key of a seal: want 64 hexadecimal digits")
	}
	return Seal{raw, new(atomic.Pointer[sealedEvent])}, nil
}

// Mark sets the seal of a message in its headers. They must not change after that, except
// those in unsealed.
func (s Seal) Mark(header map[string][]string, body Body) {
	if s.key != nil {
		if body.chainVerified {
			header[headerChain] = []string{chainVerified}
		}
		header[HeaderSeal] = []string{hex.EncodeToString(s.sum(header, body))}
	}
}

// Decode returns what the function Decode returns for the message. It reads one with a valid
// seal without the checks that it passed when it was sealed. Lists and maps of the event may be
// those of an earlier one with the same body: nobody may change them.
func (s Seal) Decode(header map[string][]string, body []byte) (*Event, error) {
	if marks := header[HeaderSeal]; s.key != nil && len(marks) == 1 {
		cut := cutBody(body)
		mark, err := hex.DecodeString(marks[0])
		if err == nil && hmac.Equal(mark, s.sum(header, cut)) {
			if e, ok := s.event(cut); ok {
				e.ChainVerified = slices.Equal(header[headerChain], []string{chainVerified})
				return e, nil
			}
		}
	}
	return Decode(header, body)
}

// event reads a body. The deliveries of an event have the same one, and come after each other:
// it is read once for all of them.
func (s Seal) event(body Body) (*Event, bool) {
	if last := s.last.Load(); last != nil && bytes.Equal(last.body, body.Bytes) {
		e := last.event
		return &e, true
	}
	e, ok := body.event()
	if ok {
		s.last.Store(&sealedEvent{body.Bytes, *e})
	}
	return e, ok
}

// unsealed are the headers that publishing sets or changes.
var unsealed = []string{HeaderSeal, "Nats-Msg-Id", "Nats-Batch-Id", "Nats-Batch-Sequence", "Nats-Batch-Commit"}

// sum returns the keyed hash of headers and body. Each text is preceded by its length, so
// that two messages have the same input only if they are equal.
func (s Seal) sum(header map[string][]string, body Body) []byte {
	mac := hmac.New(sha256.New, s.key)
	var input []byte
	add := func(text string) {
		input = append(input, byte(len(text)>>24), byte(len(text)>>16), byte(len(text)>>8), byte(len(text)))
		input = append(input, text...)
	}
	add(sealRules)
	for _, name := range slices.Sorted(maps.Keys(header)) {
		if slices.Contains(unsealed, name) {
			continue
		}
		for _, v := range header[name] {
			add(name)
			add(v)
		}
	}
	add("")
	add(string(body.before))
	add(string(body.after))
	mac.Write(append(input, body.digest[:]...))
	return mac.Sum(nil)
}

// Body is the canonical form of an event as the body of messages, one for each target.
type Body struct {
	Bytes []byte

	before, certificate, after []byte            // Bytes
	digest                     [sha256.Size]byte // of certificate; the event's digest
	chainVerified              bool
}

// Body returns the event's canonical form as a body.
func (e *Event) Body() Body {
	body := cutBody(e.Encode())
	body.chainVerified = e.ChainVerified
	return body
}

// cutBody cuts a body around its certificate if that is a text. Only strings precede it in
// the canonical form, and in strings quotes are escaped, so the first match is the field.
func cutBody(body []byte) Body {
	const name = `"certificate":`
	p := Body{Bytes: body, before: body}
	i := bytes.Index(body, []byte(name))
	if i >= 0 {
		i += len(name)
		if n := stringAt(body[i:]); n > 0 {
			p.before, p.certificate, p.after = body[:i], body[i:i+n], body[i+n:]
		}
	}
	p.digest = sha256.Sum256(p.certificate)
	return p
}

// stringAt returns the length of the JSON string at the start of b, 0 if there is none, or
// if it has escapes other than \n.
func stringAt(b []byte) int {
	if len(b) == 0 || b[0] != '"' {
		return 0
	}
	n := bytes.IndexByte(b[1:], '"')
	if n < 0 {
		return 0
	}
	text := b[1 : 1+n]
	if bytes.Count(text, []byte{'\\'}) != bytes.Count(text, []byte(`\n`)) {
		return 0
	}
	return n + 2
}

// event reads a body that Encode has written.
func (p Body) event() (*Event, bool) {
	var e Event
	if p.certificate == nil {
		var stored struct {
			*Event
			Certificate Reference `json:"certificate"`
		}
		stored.Event = &e
		if json.Unmarshal(p.before, &stored) != nil || stored.Certificate == (Reference{}) {
			return nil, false
		}
		e.Certificate.Ref = &stored.Certificate
		return &e, true
	}
	var stored struct {
		*Event
		Certificate string `json:"certificate"`
	}
	stored.Event = &e
	if json.Unmarshal(slices.Concat(p.before, []byte(`""`), p.after), &stored) != nil {
		return nil, false
	}
	e.Certificate.PEM = strings.ReplaceAll(string(p.certificate[1:len(p.certificate)-1]), `\n`, "\n")
	e.digest = hex.EncodeToString(p.digest[:])
	return &e, true
}
