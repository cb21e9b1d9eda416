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

// Invalid is the only error of Decode: the message is not an event, and never
// will be when it is redelivered.
type Invalid struct {
	// Reason is a sentence for the publisher: where, what was found, what was
	// expected. It quotes field names, cleaned, and never values.
	Reason string
	// HoldsKey says that the message contains, or may contain, a private key: its
	// body and its headers must not be copied, logged or shown.
	HoldsKey bool
	// ID is the event's id, if it could be read.
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
// Header names are compared without regard to case. The error is always an
// *Invalid. A returned event contains no private key that HoldsPrivateKey finds,
// and Encode writes it in a form that Decode reads.
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
			Reason:   fmt.Sprintf("the body has %d bytes, at most %d are allowed; it was not searched for private keys and is not stored", len(body), MaxSize),
			HoldsKey: true,
			ID:       readableID(attributes),
		}
	}
	root, badJSON := readJSON(at("$"), body)
	id := readableID(append(attributes, root.members...))

	key := keyIn(at("$"), body, root, badJSON)
	e, invalid := (*Event)(nil), (*Invalid)(nil)
	switch {
	case headersHoldKey(header):
		invalid = keyFound("in the headers")
	case key != nil:
		invalid = key
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

// fromForm detects which of the three forms the message has, and reads it.
func fromForm(header map[string][]string, attributes []member, root value) (*Event, *Invalid) {
	_, enveloped := root.get("specversion")
	media := contentType(header)
	switch {
	case (media == ContentType || media == "application/cloudevents") && len(attributes) > 0 && !enveloped:
		return nil, refuse(at("header Content-Type"), "%s means structured mode, where the body is the whole CloudEvent, but the attributes are in ce- headers; send the data with Content-Type: application/json, or the CloudEvent without ce- headers", media)
	case media == ContentType || media == "application/cloudevents":
		return fromEnvelope(root)
	case strings.HasPrefix(media, "application/cloudevents-batch"):
		return nil, refuse(at("header Content-Type"), "a batch of CloudEvents; publish each event as its own message")
	case strings.HasPrefix(media, "application/cloudevents"):
		return nil, refuse(at("header Content-Type"), "unsupported CloudEvents format; expected %s", ContentType)
	case len(attributes) > 0:
		return fromBinary(attributes, root)
	case enveloped:
		return fromEnvelope(root)
	}
	if _, ok := root.get("data"); ok {
		return nil, refuse(at("$.specversion"), `required; a CloudEvents envelope around data needs "specversion": "1.0"`)
	}
	e, invalid := readData(at("$"), root)
	if invalid == nil && e.ID == "" {
		invalid = refuse(at("$.id"), "required; give the event an id that no other certificate has")
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
	inline = inline && !(isEncoded && data.kind == aNull)
	isEncoded = isEncoded && !(inline && encoded.kind == aNull)
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
		return nil, refuse(where, "required; it holds certificate, private_key, targets and labels")
	}
	return join(envelope, where, data)
}

// readEncoded reads the JSON text in data_base64. It searches that text for keys
// again, because inside the body it was one encoding deeper.
func readEncoded(where *path, encoded value) (value, *Invalid) {
	text, err := base64.StdEncoding.DecodeString(encoded.text)
	if encoded.kind != aString || err != nil {
		return value{}, refuse(where, "expected a JSON object as base64 (RFC 4648 section 4, with padding)")
	}
	data, bad := readJSON(where, text)
	if key := keyIn(where, text, data, bad); key != nil {
		return value{}, key
	}
	return data, bad
}

// fromBinary reads a CloudEvent in binary mode: attributes from headers, data
// from the body.
func fromBinary(attributes []member, root value) (*Event, *Invalid) {
	envelope, invalid := readAttributes(headerPath, attributes)
	if invalid != nil {
		return nil, invalid
	}
	if _, ok := root.get("specversion"); ok {
		return nil, refuse(at("$.specversion"), "the ce- headers mean binary mode, where the body is only the data; remove the headers or the envelope")
	}
	return join(envelope, at("$"), root)
}

// join reads the data and merges it into the envelope. A field that is in both
// must have the same value in both.
func join(envelope Event, where *path, data value) (*Event, *Invalid) {
	e, invalid := readData(where, data)
	if invalid != nil {
		return nil, invalid
	}
	const differs = "differs from the envelope's; remove it from the data, or make both the same"
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

// complete checks last that the event fits into a message again, together with
// the headers of a delivery or a dead letter.
func complete(e Event, invalid *Invalid) (*Event, *Invalid) {
	if invalid != nil {
		return nil, invalid
	}
	const most = MaxSize - roomForHeaders
	if e.longest() <= most {
		return &e, nil
	}
	if n := len(e.Encode()); n > most {
		return nil, refuse(at("$"), "%d bytes as a delivery, at most %d are allowed; use fewer targets or labels", n, most)
	}
	return &e, nil
}

// longest returns a length that Encode's result does not exceed, in bytes. JSON takes at most
// six for one (\u2028), and the names of the fields, a time and punctuation fit into 1 KiB.
func (e *Event) longest() int {
	n := len(e.ID) + len(e.Source) + len(e.Certificate.PEM)
	for _, target := range e.Targets {
		n += len(target) + len(`"",`)
	}
	for name, text := range e.Labels {
		n += len(name) + len(text) + len(`"":"",`)
	}
	for _, ref := range []*Reference{e.Certificate.Ref, e.PrivateKey} {
		if ref == nil {
			continue
		}
		n += len(ref.File)
		if v := ref.Vault; v != nil {
			n += len(v.Mount) + len(v.Path) + len(v.Key)
		}
		if t := ref.Transit; t != nil {
			n += len(t.Mount) + len(t.Key) + len(t.Ciphertext)
		}
	}
	return 6*n + 1<<10
}

// roomForHeaders is reserved for the headers of a delivery or a dead letter, in
// bytes; NATS limits headers and body together, to 1 MiB by default.
const roomForHeaders = 16 << 10

// readableID returns the id of a message that is refused for another reason, if
// the message has exactly one valid id, else "".
func readableID(members []member) string {
	id := ""
	for _, m := range members {
		if m.name != "id" {
			continue
		}
		got, invalid := readID(at("$.id"), m.value)
		broken := strings.ContainsRune(got, utf8.RuneError) // replaces bytes that were not UTF-8
		if invalid != nil || broken || id != "" && got != id || HoldsPrivateKey([]byte(got)) {
			return ""
		}
		id = got
	}
	return id
}

// BeforePublication returns an error's text without the advice about a key that has been
// disclosed: an event that is checked before it is published has disclosed nothing.
func BeforePublication(err error) string {
	text, _, _ := strings.Cut(err.Error(), ifKey)
	return strings.TrimSuffix(text, disclosed)
}

// ifKey begins the advice in the reason of what may be a key.
const ifKey = "; if it holds the key itself, "

// keyAdvice ends every reason about a private key in an event.
const keyAdvice = "store the key in Vault, publish a reference to it as private_key" + disclosed

// disclosed ends keyAdvice in the reason of an event that was published.
const disclosed = ", and replace this key, because the stream now holds it"

func keyFound(place string) *Invalid {
	return &Invalid{Reason: "the event carries a private key, or what looks like one, " + place + ": " + keyAdvice, HoldsKey: true}
}

// headersHoldKey searches all headers, not only those of Certpost: a dead letter
// might copy them.
func headersHoldKey(header map[string][]string) bool {
	var all []byte
	values := value{kind: anObject}
	for name, texts := range header {
		bare := strings.TrimPrefix(strings.TrimPrefix(strings.ToLower(name), "ce-"), "x-")
		for _, v := range texts {
			if namesKey(bare) && strings.TrimSpace(v) != "" {
				return true
			}
			all = append(all, name+": "+v+"\n"...)
			values.members = append(values.members, member{name, value{kind: aString, text: v}})
		}
	}
	slices.SortStableFunc(values.members, byName) // a map has no order
	return HoldsPrivateKey(all) || joinsToKey(values)
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

// attributesOf reads the ce- headers, sorted by name. A value is the attribute as it is, as the
// CloudEvents SDK for Go writes and reads it: a percent sign in it encodes nothing
// (docs/decisions/0043-headers-are-taken-as-they-are.md).
func attributesOf(header map[string][]string) ([]member, *Invalid) {
	const prefix = "ce-"
	var attributes []member
	for name, values := range header {
		if len(name) <= len(prefix) || !strings.EqualFold(name[:len(prefix)], prefix) {
			continue
		}
		for _, v := range values {
			attributes = append(attributes, member{strings.ToLower(name[len(prefix):]), value{kind: aString, text: strings.Trim(v, " \t")}})
		}
	}
	slices.SortFunc(attributes, func(a, b member) int {
		return cmp.Or(strings.Compare(a.name, b.name), strings.Compare(a.text, b.text))
	})
	for i, a := range attributes {
		switch {
		case !utf8.ValidString(a.text):
			return attributes, refuse(headerPath(a.name), "not UTF-8")
		case i > 0 && a.name == attributes[i-1].name:
			return attributes, refuse(headerPath(a.name), "given twice; keep one of them")
		}
	}
	return attributes, nil
}
