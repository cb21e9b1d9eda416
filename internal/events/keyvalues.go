package events

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// keyIn searches one JSON text, and the values read from it, for private keys: by
// their content, by their name, and split over several values. bad is the error of
// reading the text, nil if all of it was read.
func keyIn(where *path, text []byte, root value, bad *Invalid) *Invalid {
	found := HoldsPrivateKey(text)
	if found {
		if place := findKey(where, root); place != nil {
			return keyFound("at " + place.String())
		}
	}
	switch unlike := noReference(where, root); {
	case unlike != nil && bad != nil:
		return &Invalid{Reason: bad.Reason + "; what private_key has before that is no reference" + ifKey + keyAdvice, HoldsKey: true}
	case unlike != nil:
		return unlike
	case found:
		return keyFound("in the body")
	}
	if place := splitKey(where, root); place != nil {
		return keyFound("split over the values at " + place.String())
	}
	return nil
}

// findKey returns the first value that contains a key by itself, or the object
// around a name that does.
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
	if isJWK && (private || symmetric) || len(v.items)+len(v.members) >= shortestList && listsKey(v) {
		return where
	}
	return nil
}

// listsKey reports whether the numbers in a list, or in an object with indices as
// names, are the bytes of a key.
func listsKey(v value) bool {
	var list []byte
	for _, item := range v.items {
		list = append(list, item.text+","...)
	}
	for _, m := range v.members {
		list = append(list, m.text+","...)
	}
	return HoldsPrivateKey(list)
}

// noReference refuses the first value under a name of private keys that is neither
// empty nor a well-formed reference: whatever it is, it may be the key in a form that
// no search knows.
func noReference(where *path, v value) *Invalid {
	for i, item := range v.items {
		if invalid := noReference(where.item(i), item); invalid != nil {
			return invalid
		}
	}
	for _, m := range v.members {
		in := where.field(m.name)
		if !namesKey(m.name) {
			if invalid := noReference(in, m.value); invalid != nil {
				return invalid
			}
			continue
		}
		if holdsNothing(m.value) {
			continue
		}
		if _, invalid := readReference(in, m.value); invalid != nil {
			if m.name != "private_key" {
				return keyFound("at " + in.String())
			}
			invalid.Reason += ifKey + keyAdvice
			invalid.HoldsKey = true
			return invalid
		}
	}
	return nil
}

// holdsNothing reports whether a value has no room for a key: no text, number or name
// in it.
func holdsNothing(v value) bool {
	if v.text != "" {
		return false
	}
	for _, item := range v.items {
		if !holdsNothing(item) {
			return false
		}
	}
	for _, m := range v.members {
		known := m.name == "" || slices.Contains(referenceKinds, m.name) // the name is no key either
		if !known || !holdsNothing(m.value) {
			return false
		}
	}
	return true
}

// keyNames are the names that publishers give to private keys, in lower case and
// without what separates words.
var keyNames = []string{"privatekey", "privkey", "privatekeypem", "privatekeyder", "privatekeydata", "privatekeybase64", "privatekeyb64", "rsaprivatekey", "ecprivatekey"}

// longestKeyName limits a name, with its separators, in bytes.
const longestKeyName = 40

func namesKey(name string) bool {
	if len(name) > longestKeyName {
		return false
	}
	return slices.Contains(keyNames, strings.Map(func(r rune) rune {
		if r > 0x7f || !alphanumeric[r] {
			return -1
		}
		return r
	}, strings.ToLower(name)))
}

// ownFields are the fields whose text is not a piece of a key: another field follows
// them in the message only by chance.
var ownFields = []string{"id", "source", "time", "certificate", "specversion", "type", "subject", "dataschema", "datacontenttype", "data_base64"}

// splitKey returns where a key is split over several values, such as labels: the
// object or list that has them. Values are joined in the order of the message and in
// that of their names.
func splitKey(where *path, root value) *path {
	loose := value{kind: anObject}
	for _, m := range root.members {
		in := where.field(m.name)
		switch {
		case slices.Contains(ownFields, m.name):
		case m.name == "data":
			if found := splitKey(in, m.value); found != nil {
				return found
			}
		case m.kind == aString:
			loose.members = append(loose.members, m)
		case joinsToKey(m.value):
			return in
		}
	}
	if root.kind != anObject && joinsToKey(root) || joinsToKey(loose) {
		return where
	}
	return nil
}

func joinsToKey(v value) bool {
	if len(v.members)+len(v.items) == 0 {
		return false
	}
	var seen [][]byte
	for _, order := range []func(a, b member) int{nil, byName, byNumber} {
		for _, names := range []bool{false, true} {
			joined := joinTexts(nil, v, order, names)
			if slices.ContainsFunc(seen, func(s []byte) bool { return bytes.Equal(s, joined) }) {
				continue
			}
			if HoldsPrivateKey(joined) {
				return true
			}
			seen = append(seen, joined)
		}
	}
	return false
}

// joinTexts appends all texts of a value, without certificates, and its names if wanted.
func joinTexts(out []byte, v value, order func(a, b member) int, names bool) []byte {
	if v.kind == aString && !strings.Contains(v.text, "CERTIFICATE-----") {
		out = append(out, v.text...)
	}
	for _, item := range v.items {
		out = joinTexts(out, item, order, names)
	}
	members := v.members
	if order != nil {
		members = slices.SortedStableFunc(slices.Values(members), order)
	}
	for _, m := range members {
		if names {
			out = append(out, m.name...)
		}
		out = joinTexts(out, m.value, order, names)
	}
	return out
}

func byName(a, b member) int { return strings.Compare(a.name, b.name) }

// byNumber sorts part2 before part10.
func byNumber(a, b member) int {
	x, y := a.name, b.name
	for x != "" && y != "" {
		n, m := digits([]byte(x), len(x)), digits([]byte(y), len(y))
		if n > 0 && m > 0 {
			one, other := strings.TrimLeft(x[:n], "0"), strings.TrimLeft(y[:m], "0")
			if c := cmp.Or(cmp.Compare(len(one), len(other)), strings.Compare(one, other)); c != 0 {
				return c
			}
			x, y = x[n:], y[m:]
			continue
		}
		if x[0] != y[0] {
			return cmp.Compare(x[0], y[0])
		}
		x, y = x[1:], y[1:]
	}
	return cmp.Compare(len(x), len(y))
}
