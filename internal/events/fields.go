package events

import (
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/pemtext"
)

// Limits of an event's fields, in characters unless noted. The JSON Schema has the
// same limits.
const (
	maxID          = 256
	maxSource      = 1024
	maxCertificate = pemtext.MaxCertificates // bytes
	maxTargets     = 1000
	maxTarget      = 256 // more than a target id may have, so that a dead letter can name an unknown one
	maxLabels      = 64
	maxLabelName   = 128
	maxLabelValue  = 256
	maxVaultField  = 512
	maxFilePath    = 4096
	maxCiphertext  = 64 << 10 // bytes
)

// optional are the fields of an event that may be left out. null means the same: encoders write it
// for what is not set.
var optional = []string{"source", "time", "private_key", "targets", "labels"}

// readData reads the event's own object. It does not require an id: in a CloudEvent
// the envelope has it.
func readData(where *path, data value) (Event, *Invalid) {
	var e Event
	switch data.kind {
	case anObject:
	case aList:
		return e, refuse(where, "a list, expected an object; publish each event as its own message")
	default:
		return e, refuse(where, "%s, expected an object", data.kind)
	}
	for _, m := range data.members {
		if m.kind == aNull && slices.Contains(optional, m.name) {
			continue
		}
		in := where.field(m.name)
		var invalid *Invalid
		switch m.name {
		case "id":
			e.ID, invalid = readID(in, m.value)
		case "source":
			e.Source, invalid = readSource(in, m.value)
		case "time":
			e.Time, invalid = readTime(in, m.value)
		case "certificate":
			e.Certificate, invalid = readCertificate(in, m.value)
		case "private_key":
			e.PrivateKey, invalid = readReference(in, m.value)
		case "targets":
			e.Targets, invalid = readTargets(in, m.value)
		case "labels":
			e.Labels, invalid = readLabels(in, m.value)
		default:
			invalid = unknown(in, m.name, "id", "source", "time", "certificate", "private_key", "targets", "labels")
		}
		if invalid != nil {
			return e, invalid
		}
	}
	if e.Certificate == (Certificate{}) {
		return e, refuse(where.field("certificate"), "required; expected the PEM text (leaf, then chain) or a reference to it")
	}
	return e, nil
}

func readID(in *path, v value) (string, *Invalid) { return readText(in, v, maxID) }

// readText reads a string that must be usable as a header and as a line of a log:
// not empty, no control characters, no space at either end.
func readText(in *path, v value, limit int) (string, *Invalid) {
	switch {
	case v.kind != aString:
		return "", refuse(in, "%s, expected a string", v.kind)
	case v.text == "":
		return "", refuse(in, "empty")
	case utf8.RuneCountInString(v.text) > limit:
		return "", refuse(in, "%d characters long, at most %d are allowed", utf8.RuneCountInString(v.text), limit)
	case strings.ContainsFunc(v.text, unicode.IsControl):
		return "", refuse(in, "has a control character")
	case strings.Trim(v.text, " ") != v.text:
		return "", refuse(in, "begins or ends with a space")
	}
	return v.text, nil
}

var uriReference = regexp.MustCompile(`^([A-Za-z0-9._~:/?\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+(#([A-Za-z0-9._~:/?@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)?$`)

// readSource reads a URI-reference (RFC 3986 section 4.1).
func readSource(in *path, v value) (string, *Invalid) {
	source, invalid := readText(in, v, maxSource)
	if invalid != nil {
		return "", invalid
	}
	if _, err := url.Parse(source); err != nil || !uriReference.MatchString(source) {
		return "", refuse(in, "not a URI-reference (RFC 3986), such as certbot://web1/www.example.com; percent-encode the characters that a URI does not allow")
	}
	return source, nil
}

// readTime reads an RFC 3339 time, in which t and z may be lower case (section 5.6). It refuses years that cannot be encoded again,
// and those before 1970. A leap second (23:59:60 UTC at the end of a month, section 5.7) is read as the second before it, because a
// time.Time has none.
func readTime(in *path, v value) (time.Time, *Invalid) {
	if v.kind != aString {
		return time.Time{}, refuse(in, "%s, expected a string", v.kind)
	}
	var t time.Time
	text, leap := withoutLeapSecond(strings.ToUpper(v.text))
	if t.UnmarshalText([]byte(text)) != nil || leap && !lastOfMonth(t.UTC()) {
		return time.Time{}, refuse(in, "not a time of RFC 3339, such as 2026-01-31T12:00:00Z")
	}
	if t = t.UTC(); t.Year() < 1970 || t.Year() > 9999 {
		return time.Time{}, refuse(in, "not between the years 1970 and 9999")
	}
	return t, nil
}

// withoutLeapSecond replaces the second 60 of a time of RFC 3339 by 59, and reports whether it had it.
func withoutLeapSecond(text string) (string, bool) {
	const minutes = "2006-01-02T15:04"
	if len(text) > len(minutes) && strings.HasPrefix(text[len(minutes):], ":60") {
		return text[:len(minutes)] + ":59" + text[len(minutes)+len(":60"):], true
	}
	return text, false
}

// lastOfMonth reports whether t is in the last second of its month.
func lastOfMonth(t time.Time) bool {
	next := t.Truncate(time.Second).Add(time.Second)
	return next.Day() == 1 && next.Hour() == 0 && next.Minute() == 0 && next.Second() == 0
}

// readCertificate accepts any text: errors in the PEM are reported when the payload
// is built, with the certificate at hand.
func readCertificate(in *path, v value) (Certificate, *Invalid) {
	switch {
	case v.kind == anObject:
		ref, invalid := readReference(in, v)
		return Certificate{Ref: ref}, invalid
	case v.kind != aString:
		return Certificate{}, refuse(in, "%s, expected the PEM text (a string) or a reference to it (an object)", v.kind)
	case strings.Trim(v.text, "\t\r\n ") == "":
		return Certificate{}, refuse(in, "empty")
	case len(v.text) > maxCertificate:
		return Certificate{}, refuse(in, "%d bytes long, at most %d are allowed", len(v.text), maxCertificate)
	case strings.ContainsFunc(v.text, func(r rune) bool { return unicode.IsControl(r) && !strings.ContainsRune("\t\r\n", r) }):
		return Certificate{}, refuse(in, "has a control character other than tab and line break; expected PEM text")
	}
	return Certificate{PEM: v.text}, nil
}

// vaultForm is a reference to a secret in Vault.
const vaultForm = `{"vault": {"mount": "secret", "path": "certs/web1", "key": "private_key"}}`

var referenceKinds = []string{"vault", "transit", "file"}

func readReference(in *path, v value) (*Reference, *Invalid) {
	const one = "exactly one of vault, transit and file"
	if v.kind != anObject {
		return nil, refuse(in, "%s, expected a reference: an object with %s", v.kind, one)
	}
	var ref Reference
	given := 0
	for _, m := range v.members {
		if m.kind == aNull && slices.Contains(referenceKinds, m.name) {
			continue
		}
		given++
		in := in.field(m.name)
		var invalid *Invalid
		switch m.name {
		case "vault":
			ref.Vault, invalid = readVault(in, m.value)
		case "transit":
			ref.Transit, invalid = readTransit(in, m.value)
		case "file":
			ref.File, invalid = readText(in, m.value, maxFilePath)
			if invalid == nil && ref.File[0] != '/' {
				invalid = refuse(in, "not an absolute path")
			}
		case "env", "value":
			invalid = refuse(in, "only the configuration may name secrets this way; expected %s", one)
		default:
			invalid = unknown(in, m.name, referenceKinds...)
		}
		if invalid != nil {
			return nil, invalid
		}
	}
	if given != 1 {
		return nil, refuse(in, "%d kinds of reference, expected %s", given, one)
	}
	return &ref, nil
}

func readVault(in *path, v value) (*VaultReference, *Invalid) {
	var ref VaultReference
	invalid := readFields(in, v, []field{
		{"mount", true, text(&ref.Mount, maxVaultField)},
		{"path", true, text(&ref.Path, maxVaultField)},
		{"key", true, text(&ref.Key, maxVaultField)},
		{"version", false, func(in *path, v value) *Invalid {
			n, err := strconv.ParseInt(v.text, 10, 32)
			if v.kind != aNumber || err != nil || n < 1 {
				return refuse(in, "expected a whole number from 1, as digits; leave it out for the newest version")
			}
			ref.Version = int(n)
			return nil
		}},
	})
	return &ref, invalid
}

var ciphertext = regexp.MustCompile(`^vault:v[1-9][0-9]*:[A-Za-z0-9+/=_-]+$`)

func readTransit(in *path, v value) (*TransitReference, *Invalid) {
	var ref TransitReference
	invalid := readFields(in, v, []field{
		{"mount", true, text(&ref.Mount, maxVaultField)},
		{"key", true, text(&ref.Key, maxVaultField)},
		{"ciphertext", true, func(in *path, v value) (invalid *Invalid) {
			ref.Ciphertext, invalid = readText(in, v, maxCiphertext)
			if invalid == nil && !ciphertext.MatchString(ref.Ciphertext) {
				invalid = refuse(in, "not a ciphertext of Vault's transit engine, which begins with vault:v1:")
			}
			return invalid
		}},
	})
	return &ref, invalid
}

// field is a known field of a small object.
type field struct {
	name     string
	required bool
	read     func(in *path, v value) *Invalid
}

func text(into *string, limit int) func(*path, value) *Invalid {
	return func(in *path, v value) (invalid *Invalid) {
		*into, invalid = readText(in, v, limit)
		return invalid
	}
}

func readFields(in *path, v value, fields []field) *Invalid {
	if v.kind != anObject {
		return refuse(in, "%s, expected an object", v.kind)
	}
	known := make([]string, len(fields))
	for i, f := range fields {
		known[i] = f.name
	}
next:
	for _, m := range v.members {
		for _, f := range fields {
			if f.name == m.name {
				if m.kind == aNull && !f.required {
					continue next
				}
				if invalid := f.read(in.field(m.name), m.value); invalid != nil {
					return invalid
				}
				continue next
			}
		}
		return unknown(in.field(m.name), m.name, known...)
	}
	for _, f := range fields {
		if _, ok := v.get(f.name); f.required && !ok {
			return refuse(in.field(f.name), "required")
		}
	}
	return nil
}

func readTargets(in *path, v value) ([]string, *Invalid) {
	switch {
	case v.kind != aList:
		return nil, refuse(in, "%s, expected a list of target ids", v.kind)
	case len(v.items) == 0:
		return nil, refuse(in, "an empty list; leave it out to reach every target whose match applies")
	case len(v.items) > maxTargets:
		return nil, refuse(in, "%d targets, at most %d are allowed", len(v.items), maxTargets)
	}
	ids := make([]string, len(v.items))
	first := make(map[string]int, len(v.items))
	for i, item := range v.items {
		id, invalid := readText(in.item(i), item, maxTarget)
		if invalid != nil {
			return nil, invalid
		}
		if at, twice := first[id]; twice {
			return nil, refuse(in.item(i), "the same target as %s", in.item(at))
		}
		ids[i], first[id] = id, i
	}
	return ids, nil
}

func readLabels(in *path, v value) (map[string]string, *Invalid) {
	switch {
	case v.kind != anObject:
		return nil, refuse(in, "%s, expected an object of strings", v.kind)
	case len(v.members) > maxLabels:
		return nil, refuse(in, "%d labels, at most %d are allowed", len(v.members), maxLabels)
	case len(v.members) == 0:
		return nil, nil
	}
	labels := make(map[string]string, len(v.members))
	for _, m := range v.members {
		if _, invalid := readText(in.field(m.name), value{kind: aString, text: m.name}, maxLabelName); invalid != nil {
			return nil, refuse(in, "a label's name: %s", strings.TrimPrefix(invalid.Reason, in.field(m.name).String()+": "))
		}
		switch in := in.field(m.name); {
		case m.kind != aString:
			return nil, refuse(in, "%s, expected a string", m.kind)
		case utf8.RuneCountInString(m.text) > maxLabelValue:
			return nil, refuse(in, "%d characters long, at most %d are allowed", utf8.RuneCountInString(m.text), maxLabelValue)
		case strings.ContainsFunc(m.text, unicode.IsControl):
			return nil, refuse(in, "has a control character")
		}
		labels[m.name] = m.text
	}
	return labels, nil
}

// vaultWords are other names for the fields of a reference to Vault.
var vaultWords = map[string]string{"vault_mount": "mount", "vault_path": "path", "vault_key": "key", "key_data": "key"}

// unknown refuses a field, naming the nearest known one.
func unknown(in *path, name string, known ...string) *Invalid {
	if where := vaultWords[name]; where != "" {
		return refuse(in, "unknown field; want %s of %s", where, vaultForm)
	}
	if near := legible.Nearest(name, known...); near != "" {
		return refuse(in, "unknown field; did you mean %q?", near)
	}
	return refuse(in, "unknown field; expected one of %s", strings.Join(known, ", "))
}
