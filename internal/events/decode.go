package events

import (
	"cmp"
	"encoding/base64"
	"fmt"
	"mime"
	"slices"
	"strings"
	"unicode/utf8"
)

// ContentType is the media type of a CloudEvent in structured JSON.
const ContentType = "application/cloudevents+json"

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

// Decode reads an event from a message in one of three forms:
//
//   - a CloudEvent in structured JSON: content type application/cloudevents+json,
//     or a body with specversion
//   - a CloudEvent in binary mode: ce- headers, and the data as the body
//   - the bare data, an object with an id
//
// Names of headers are compared without regard to case. The error is always an
// *Invalid. An event that Decode gives holds no private key that
// HoldsPrivateKey finds, and Encode writes it in a form that Decode reads.
func Decode(header map[string][]string, body []byte) (*Event, error) {
	e, invalid := decode(header, body)
	if invalid != nil {
		return nil, invalid
	}
	return e, nil
}

func decode(header map[string][]string, body []byte) (*Event, *Invalid) {
	attributes, badHeader := attributesOf(header)
	if len(body) > MaxSize {
		return nil, &Invalid{
			Reason:   fmt.Sprintf("the body has %d bytes, and at most %d are read; it was not searched for private keys and is not kept", len(body), MaxSize),
			HoldsKey: true,
			ID:       readableID(attributes),
		}
	}
	root, badJSON := readJSON(at("$"), body)
	id := readableID(append(attributes, root.members...))

	e, invalid := (*Event)(nil), (*Invalid)(nil)
	switch {
	case headersHoldKey(header):
		invalid = keyFound("in the headers")
	case HoldsPrivateKey(body):
		invalid = keyFound(keyPlace(root))
	case badHeader != nil:
		invalid = badHeader
	case badJSON != nil:
		invalid = badJSON
	default:
		e, invalid = fromForm(header, attributes, root)
	}
	if invalid != nil {
		invalid.ID = id
		return nil, invalid
	}
	return e, nil
}

// fromForm finds out which of the three forms it is, and reads it.
func fromForm(header map[string][]string, attributes []member, root value) (*Event, *Invalid) {
	_, enveloped := root.get("specversion")
	media := contentType(header)
	switch {
	case media == ContentType || media == "application/cloudevents":
		return fromEnvelope(root)
	case strings.HasPrefix(media, "application/cloudevents-batch"):
		return nil, refuse(at("header Content-Type"), "a batch of CloudEvents; publish each event as a message of its own")
	case strings.HasPrefix(media, "application/cloudevents"):
		return nil, refuse(at("header Content-Type"), "a CloudEvents format that is not read; expected %s", ContentType)
	case len(attributes) > 0:
		return fromBinary(attributes, root)
	case enveloped:
		return fromEnvelope(root)
	}
	if _, ok := root.get("data"); ok {
		return nil, refuse(at("$.specversion"), `missing; a CloudEvents envelope around data needs "specversion": "1.0"`)
	}
	e, invalid := readData(at("$"), root)
	if invalid == nil && e.ID == "" {
		invalid = refuse(at("$.id"), "missing; give the event an id that no other certificate gets")
	}
	return complete(e, invalid)
}

// fromEnvelope reads a CloudEvent in structured JSON.
func fromEnvelope(root value) (*Event, *Invalid) {
	if root.kind != anObject {
		return nil, refuse(at("$"), "%s, expected a CloudEvent (an object)", root.kind)
	}
	attributes := slices.DeleteFunc(slices.Clone(root.members), func(m member) bool {
		return m.name == "data" || m.name == "data_base64"
	})
	envelope, invalid := readAttributes(at("$").field, attributes)
	if invalid != nil {
		return nil, invalid
	}
	data, inline := root.get("data")
	encoded, isEncoded := root.get("data_base64")
	where := at("$").field("data")
	switch {
	case inline && isEncoded:
		return nil, refuse(where, "given together with data_base64; keep one of them")
	case isEncoded:
		where = at("$").field("data_base64")
		if data, invalid = readEncoded(where, encoded); invalid != nil {
			return nil, invalid
		}
	case !inline:
		return nil, refuse(where, "missing; certificate, private_key, targets and labels belong into it")
	}
	return join(envelope, where, data)
}

// readEncoded reads the JSON text in data_base64. It is searched for keys by
// itself, because in the body it stood one encoding deeper.
func readEncoded(where *path, encoded value) (value, *Invalid) {
	text, err := base64.StdEncoding.DecodeString(encoded.text)
	if encoded.kind != aString || err != nil {
		return value{}, refuse(where, "expected a JSON object as base64 (RFC 4648 section 4, with padding)")
	}
	if HoldsPrivateKey(text) {
		return value{}, keyFound("at " + where.String())
	}
	return readJSON(where, text)
}

// fromBinary reads a CloudEvent in binary mode: attributes from headers, the
// body as data.
func fromBinary(attributes []member, root value) (*Event, *Invalid) {
	envelope, invalid := readAttributes(headerPath, attributes)
	if invalid != nil {
		return nil, invalid
	}
	if _, ok := root.get("specversion"); ok {
		return nil, refuse(at("$.specversion"), "the ce- headers say binary mode, where the body is the data alone; leave out the headers or the envelope")
	}
	return join(envelope, at("$"), root)
}

// join reads the data and puts it into the envelope. What stands in both has to
// be the same.
func join(envelope Event, where *path, data value) (*Event, *Invalid) {
	e, invalid := readData(where, data)
	if invalid != nil {
		return nil, invalid
	}
	const differs = "differs from the envelope's; leave it out of the data, or make both the same"
	switch {
	case e.ID != "" && e.ID != envelope.ID:
		return nil, refuse(where.field("id"), differs)
	case e.Source != "" && e.Source != envelope.Source:
		return nil, refuse(where.field("source"), differs)
	case !e.Time.IsZero() && !envelope.Time.IsZero() && !e.Time.Equal(envelope.Time):
		return nil, refuse(where.field("time"), differs)
	}
	e.ID, e.Source = envelope.ID, envelope.Source
	if e.Time.IsZero() {
		e.Time = envelope.Time
	}
	return complete(e, nil)
}

// complete is the last check: what Decode gives must fit into a message again,
// together with the headers of a delivery or a dead letter.
func complete(e Event, invalid *Invalid) (*Event, *Invalid) {
	if invalid != nil {
		return nil, invalid
	}
	if n := len(e.Encode()); n > MaxSize-roomForHeaders {
		return nil, refuse(at("$"), "%d bytes when written as a delivery, and at most %d fit; name fewer targets or labels", n, MaxSize-roomForHeaders)
	}
	return &e, nil
}

// roomForHeaders is what a delivery's or a dead letter's headers may take of a
// message; NATS counts headers and body together, 1 MiB by default.
const roomForHeaders = 16 << 10

// readableID gives the id of a message that was refused otherwise: the one that
// stands there, if it is a good one and there is no other.
func readableID(members []member) string {
	id := ""
	for _, m := range members {
		if m.name != "id" {
			continue
		}
		got, invalid := readID(at("$.id"), m.value)
		broken := strings.ContainsRune(got, utf8.RuneError) // stands for what was not UTF-8
		if invalid != nil || broken || id != "" && got != id || HoldsPrivateKey([]byte(got)) {
			return ""
		}
		id = got
	}
	return id
}

// keyAdvice ends every reason that speaks of a key in an event.
const keyAdvice = "store the key in Vault, publish a reference to it as private_key, and replace this key, because the stream now holds it"

func keyFound(place string) *Invalid {
	return &Invalid{Reason: "the event carries a private key, or what looks like one, " + place + ": " + keyAdvice, HoldsKey: true}
}

// headersHoldKey searches all headers, whoever's they are: a dead letter might
// copy them.
func headersHoldKey(header map[string][]string) bool {
	var all []byte
	for name, values := range header {
		for _, v := range values {
			all = append(all, name+": "+v+"\n"...)
		}
	}
	return HoldsPrivateKey(all)
}

// keyPlace says where in the body the key stands, without a name that may be
// part of it.
func keyPlace(root value) string {
	if where := findKey(at("$"), root); where != nil {
		return "at " + where.String()
	}
	return "in the body"
}

// findKey gives the first value that holds a key by itself, or the object around
// a name that does.
func findKey(where *path, v value) *path {
	if v.kind == aString && HoldsPrivateKey([]byte(v.text)) {
		return where
	}
	for i, item := range v.items {
		if found := findKey(where.item(i), item); found != nil {
			return found
		}
	}
	for _, m := range v.members {
		alone := fmt.Sprintf("{%q:%q}", m.name, m.text)
		if HoldsPrivateKey([]byte(m.name)) {
			return where
		}
		if found := findKey(where.field(m.name), m.value); found != nil {
			return found
		}
		if m.kind == aString && HoldsPrivateKey([]byte(alone)) {
			return where.field(m.name)
		}
	}
	_, isJWK := v.get("kty")
	_, private := v.get("d")
	_, symmetric := v.get("k")
	if isJWK && (private || symmetric) {
		return where
	}
	return nil
}

func headerPath(attribute string) *path {
	return at("header ce-" + strings.Trim(quoteName(attribute), `"`))
}

func contentType(header map[string][]string) string {
	for name, values := range header {
		if strings.EqualFold(name, "Content-Type") && len(values) > 0 {
			return mediaType(values[0])
		}
	}
	return ""
}

func mediaType(s string) string {
	if media, _, err := mime.ParseMediaType(s); err == nil {
		return media
	}
	media, _, _ := strings.Cut(s, ";")
	return strings.ToLower(strings.TrimSpace(media))
}

// attributesOf reads the ce- headers, sorted by name (CloudEvents NATS protocol
// binding 1.0.3, section 3.1.3).
func attributesOf(header map[string][]string) ([]member, *Invalid) {
	const prefix = "ce-"
	var attributes []member
	for name, values := range header {
		if len(name) <= len(prefix) || !strings.EqualFold(name[:len(prefix)], prefix) {
			continue
		}
		for _, v := range values {
			attributes = append(attributes, member{strings.ToLower(name[len(prefix):]), value{kind: aString, text: v}})
		}
	}
	slices.SortFunc(attributes, func(a, b member) int {
		return cmp.Or(strings.Compare(a.name, b.name), strings.Compare(a.text, b.text))
	})
	var invalid *Invalid
	for i := range attributes {
		a := &attributes[i]
		text, ok := decodeHeader(a.text)
		switch {
		case invalid != nil:
		case !ok:
			invalid = refuse(headerPath(a.name), "not valid percent-encoded UTF-8")
		case i > 0 && a.name == attributes[i-1].name:
			invalid = refuse(headerPath(a.name), "given twice; keep one of them")
		}
		a.text = text
	}
	return attributes, invalid
}

// decodeHeader undoes what the binding does to a header's value: a quoted string
// (RFC 7230 section 3.2.6) first, then one round of percent-encoding.
func decodeHeader(s string) (string, bool) {
	s = strings.Trim(s, " \t")
	if len(s) >= 2 && s[0] == '"' && s[len(s)-1] == '"' {
		var plain strings.Builder
		for i := 1; i < len(s)-1; i++ {
			if s[i] == '\\' && i+1 < len(s)-1 {
				i++
			}
			plain.WriteByte(s[i])
		}
		s = plain.String()
	}
	plain := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			plain = append(plain, s[i])
			continue
		}
		c, size := escape([]byte(s[i:min(len(s), i+3)]))
		if size == 0 {
			return "", false
		}
		plain = append(plain, byte(c))
		i += size - 1
	}
	if !utf8.Valid(plain) {
		return "", false
	}
	return string(plain), true
}
