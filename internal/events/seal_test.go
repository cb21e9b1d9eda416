package events

import (
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func newSeal(t *testing.T) Seal {
	t.Helper()
	s, err := ReadSeal(NewSealKey())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// marked returns the message of an event with its seal.
func marked(s Seal, e *Event) (header map[string][]string, body []byte) {
	b := e.Body()
	header = map[string][]string{"Certpost-Target": {"a"}, "Nats-Msg-Id": {"e1/a/1"}, "Certpost-Event-Id": {e.ID}}
	s.Mark(header, b)
	return header, b.Bytes
}

// TestSealedIsReadAsUnsealed reads every valid event of the corpus both ways.
func TestSealedIsReadAsUnsealed(t *testing.T) {
	t.Parallel()
	seal := newSeal(t)
	for _, tt := range goodEvents {
		want, err := Decode(nil, body(tt.want))
		if err != nil {
			t.Fatal(err)
		}
		header, text := marked(seal, want)
		got, ok := cutBody(text).event()
		if !ok {
			t.Errorf("%.80s: cannot be read by its seal", text)
			continue
		}
		if got.Digest() != want.Digest() {
			t.Errorf("%.80s: digest %s, want %s", text, got.Digest(), want.Digest())
		}
		if sealed, err := seal.Decode(header, text); err != nil || !reflect.DeepEqual(sealed, got) {
			t.Errorf("%.80s: %v", text, err)
		}
		got.digest = ""
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%.80s: read as\n%+v\nwant\n%+v", text, got, want)
		}
	}
}

// Fault: a delivery with the seal of another one. Result: decoded in full; a private key in
// it is found.
func TestSealIsOfOneMessage(t *testing.T) {
	t.Parallel()
	seal, other := newSeal(t), newSeal(t)
	header, text := marked(seal, sample())
	forged := []byte(strings.Replace(string(text), `"env":"prod"`, `"env":`+jsonString(keys(t)["P-256 as SEC 1 in PEM"]), 1))
	moved := func(change func(map[string][]string)) map[string][]string {
		h, _ := marked(seal, sample())
		change(h)
		return h
	}
	for name, tt := range map[string]struct {
		seal   Seal
		header map[string][]string
		body   []byte
		sealed bool
	}{
		"its own":                {seal, header, text, true},
		"another message id":     {seal, moved(func(h map[string][]string) { h["Nats-Msg-Id"] = []string{"x"} }), text, true},
		"of an atomic batch":     {seal, moved(func(h map[string][]string) { h["Nats-Batch-Id"] = []string{"x"} }), text, true},
		"another process's key":  {other, header, text, false},
		"no key":                 {Seal{}, header, text, false},
		"another body":           {seal, header, forged, false},
		"a header more":          {seal, moved(func(h map[string][]string) { h["Certpost-Force"] = []string{"true"} }), text, false},
		"a header less":          {seal, moved(func(h map[string][]string) { delete(h, "Certpost-Target") }), text, false},
		"another value":          {seal, moved(func(h map[string][]string) { h["Certpost-Target"] = []string{"b"} }), text, false},
		"two values":             {seal, moved(func(h map[string][]string) { h["Certpost-Target"] = []string{"a", "b"} }), text, false},
		"two seals":              {seal, moved(func(h map[string][]string) { h[HeaderSeal] = append(h[HeaderSeal], h[HeaderSeal]...) }), text, false},
		"no seal":                {seal, moved(func(h map[string][]string) { delete(h, HeaderSeal) }), text, false},
		"a seal that is no hash": {seal, moved(func(h map[string][]string) { h[HeaderSeal] = []string{"seal"} }), text, false},
	} {
		e, err := tt.seal.Decode(tt.header, tt.body)
		if invalid := (*Invalid)(nil); name == "another body" {
			if invalid, _ = err.(*Invalid); invalid == nil || !invalid.HoldsKey {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if read := e.digest != ""; read != tt.sealed {
			t.Errorf("%s: read by the seal %v, want %v", name, read, tt.sealed)
		}
	}
}

// TestVerifiedChainsAreSealed: that a chain was verified is known to whoever reads the sealed
// message, and to nobody who reads it in full.
//
// Fault: a message that says of itself that its chain was verified. Result: verified again.
func TestVerifiedChainsAreSealed(t *testing.T) {
	t.Parallel()
	seal := newSeal(t)
	for _, verified := range []bool{true, false} {
		e := sample()
		e.ChainVerified = verified
		header, text := marked(seal, e)
		for name, tt := range map[string]struct {
			seal Seal
			set  []string
			want bool
		}{
			"as sealed":      {seal, header[headerChain], verified},
			"set by others":  {seal, []string{chainVerified, chainVerified}, false},
			"a wrong word":   {seal, []string{"yes"}, false},
			"taken away":     {seal, nil, false},
			"without a seal": {Seal{}, []string{chainVerified}, false},
		} {
			h := maps.Clone(header)
			if h[headerChain] = tt.set; tt.set == nil {
				delete(h, headerChain)
			}
			if got, err := tt.seal.Decode(h, text); err != nil || got.ChainVerified != tt.want {
				t.Errorf("verified %v, %s: %v, want %v; %v", verified, name, got.ChainVerified, tt.want, err)
			}
		}
	}
}

// TestBodiesAreCutAtTheCertificate checks what could be mistaken for the certificate.
func TestBodiesAreCutAtTheCertificate(t *testing.T) {
	t.Parallel()
	tricky := `"certificate":"x"`
	for _, e := range []*Event{
		{ID: tricky, Source: tricky, Certificate: Certificate{PEM: "a\nb"}},
		{ID: "e1", Certificate: Certificate{PEM: "a\tb\n"}},
		{ID: "e1", Certificate: Certificate{PEM: tricky}, Labels: map[string]string{"certificate": "y"}},
		{ID: "e1", Certificate: Certificate{Ref: &Reference{File: "/a"}}, Labels: map[string]string{"certificate": "y"}},
		{ID: "e1", Certificate: Certificate{PEM: "\u2028\"\\n"}, Targets: []string{"certificate"}, Time: time.Date(2026, 1, 31, 12, 0, 0, 1, time.UTC)},
	} {
		b := e.Body()
		if b.certificate != nil && !slices.Equal(slices.Concat(b.before, b.certificate, b.after), b.Bytes) {
			t.Errorf("%s: cut into %s, %s, %s", b.Bytes, b.before, b.certificate, b.after)
		}
		got, ok := b.event()
		if !ok { // decoded in full then
			if b.certificate != nil {
				t.Errorf("%s: cannot be read", b.Bytes)
			}
			continue
		}
		digest := got.Digest()
		got.digest = ""
		if !reflect.DeepEqual(got, e) || digest != e.Digest() {
			t.Errorf("%s: read as %+v", b.Bytes, got)
		}
	}
}

func TestSealKeys(t *testing.T) {
	t.Parallel()
	for _, key := range []string{"", "00", strings.Repeat("0", 63), strings.Repeat("x", 64)} {
		if _, err := ReadSeal(key); err == nil {
			t.Errorf("%q is taken for a key", key)
		}
	}
	if first, second := NewSealKey(), NewSealKey(); first == second {
		t.Error("two keys are the same")
	}
}

// BenchmarkSealed reads the deliveries of one event.
func BenchmarkSealed(b *testing.B) {
	seal, _ := ReadSeal(NewSealKey())
	header, text := marked(seal, sample())
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := seal.Decode(header, text); err != nil {
			b.Fatal(err)
		}
	}
}

// The deliveries of an event are events of their own: what is noted in one is not in the other,
// and other bodies are other events.
func TestDeliveriesOfAnEventAreRead(t *testing.T) {
	t.Parallel()
	seal := newSeal(t)
	one := &Event{ID: "one", Certificate: Certificate{PEM: "x"}, Targets: []string{"a", "b"}, Labels: map[string]string{"k": "v"}, ChainVerified: true}
	two := *one
	two.ID = "two"
	read := func(e *Event) *Event {
		header, body := marked(seal, e)
		got, err := seal.Decode(header, body)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	first, second, other, third := read(one), read(one), read(&two), read(one)
	for _, e := range []*Event{first, second, third} {
		if e.ID != "one" || !reflect.DeepEqual(e, first) || !e.ChainVerified {
			t.Errorf("read as %+v", e)
		}
	}
	if other.ID != "two" {
		t.Errorf("another event was read as %+v", other)
	}
	first.Subject, first.ChainVerified = "changed", false
	unverified := *one
	unverified.ChainVerified = false
	if again := read(&unverified); again == first || again.Subject != "" || again.ChainVerified {
		t.Errorf("read as %+v", again)
	}
	if again := read(one); again.Subject != "" || !again.ChainVerified {
		t.Errorf("read as %+v", again)
	}
}
