package events

import (
	"bytes"
	"encoding/base64"
	"errors"
	"reflect"
	"strings"
	"testing"
	"unicode"
)

// fuzzHeaders are the forms in which a fuzzed body arrives.
var fuzzHeaders = []header{nil, {"Content-Type": {ContentType}}, binaryHeader(), binaryHeader("ce-time", "2026-01-31T12:00:00+01:00")}

// FuzzDecode checks the guarantees of Decode: no panic; an *Invalid with a reason that
// fits on one line, or an event whose canonical form is read back as equal; and a key
// is always found, wherever it is and however broken the rest is.
func FuzzDecode(f *testing.F) {
	for _, tt := range goodEvents {
		f.Add(byte(0), uint(10), body(tt.body))
		f.Add(byte(2), uint(1000), body(tt.want))
	}
	for _, tt := range badEvents {
		if len(tt.body) < 10_000 {
			f.Add(byte(1), uint(0), body(tt.body))
			f.Add(byte(3), uint(len(tt.body)), body(tt.body))
		}
	}
	all := keys(f)
	pemKey := all["P-256 as SEC 1 in PEM"]
	planted := [][]byte{
		pemKey,
		bytes.ReplaceAll(pemKey, []byte("\n"), []byte(`\n`)),
		[]byte(base64.StdEncoding.EncodeToString(all["Ed25519 as PKCS#8 in DER"])),
		[]byte(base64.StdEncoding.EncodeToString(pemKey)),
		[]byte(base64.RawURLEncoding.EncodeToString(all["PKCS#12, modern"])),
		all["RSA as PKCS#1 in DER"],
	}
	f.Fuzz(func(t *testing.T, form byte, where uint, text []byte) {
		header := fuzzHeaders[int(form)%len(fuzzHeaders)]
		e, err := Decode(header, text)
		checkDecoded(t, e, err)

		i := int(where % uint(len(text)+1))
		for n, key := range planted {
			with := bytes.Join([][]byte{text[:i], key, text[i:]}, nil)
			e, err := Decode(header, with)
			checkDecoded(t, e, err)
			var invalid *Invalid
			if !errors.As(err, &invalid) || !invalid.HoldsKey {
				t.Fatalf("planted key %d at %d was not found: %v", n, i, err)
			}
			for j := 0; j+16 <= len(key); j += 16 {
				if strings.Contains(invalid.Reason+invalid.ID, string(key[j:j+16])) {
					t.Fatalf("planted key %d is quoted: %q, %q", n, invalid.Reason, invalid.ID)
				}
			}
		}
	})
}

func checkDecoded(t *testing.T, e *Event, err error) {
	t.Helper()
	if err != nil {
		var invalid *Invalid
		if e != nil || !errors.As(err, &invalid) || invalid.Reason == "" {
			t.Fatalf("got %v with %T %v", e, err, err)
		}
		if len(invalid.Reason) > 2000 || strings.ContainsFunc(invalid.Reason, func(r rune) bool { return r > unicode.MaxASCII || unicode.IsControl(r) }) {
			t.Fatalf("no reason for a header: %q", invalid.Reason)
		}
		if invalid.ID != "" && (len(invalid.ID) > 4*maxID || strings.ContainsFunc(invalid.ID, unicode.IsControl)) {
			t.Fatalf("no good id: %q", invalid.ID)
		}
		return
	}
	canonical := e.Encode()
	again, err := Decode(nil, canonical)
	if err != nil {
		t.Fatalf("the canonical form is refused: %v\n%s", err, canonical)
	}
	if !reflect.DeepEqual(e, again) || !bytes.Equal(canonical, again.Encode()) || e.Digest() != again.Digest() {
		t.Fatalf("read back differently:\n%s\n%s", canonical, again.Encode())
	}
	envelope, err := Decode(nil, e.CloudEvent())
	if err != nil {
		t.Fatalf("the CloudEvent is refused: %v\n%s", err, e.CloudEvent())
	}
	if e.Source != "" && !reflect.DeepEqual(e, envelope) {
		t.Fatalf("the CloudEvent reads back differently:\n%s\n%s", canonical, envelope.Encode())
	}
	if HoldsPrivateKey(canonical) {
		t.Fatalf("an event that holds a key was accepted:\n%s", canonical)
	}
}

// FuzzToken checks that Token returns a token, always the same for one id, and
// different ones for different ids.
func FuzzToken(f *testing.F) {
	f.Add("a.b", "a_b")
	f.Add("", "h_e3b0c44298fc1c149afbf4c8996fb924")
	f.Fuzz(func(t *testing.T, a, b string) {
		x, y := Token(a), Token(b)
		if !IsToken(x) || !IsToken(y) {
			t.Fatalf("no tokens: %q, %q", x, y)
		}
		if (a == b) != (x == y) {
			t.Fatalf("%q and %q get %s and %s", a, b, x, y)
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	for name, text := range map[string][]byte{
		"bare":     sample().Encode(),
		"envelope": sample().CloudEvent(),
		"largest":  body(goodEvents[10].body),
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Decode(nil, text); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	// A malicious publisher may send 1 MiB that is slow to search.
	for name, part := range map[string]string{"base64": "MIIB", "hexadecimal": "30820204", "backslashes": `\\`, "percent": "%25", "brackets": "[", "SEQUENCE": "0\x82", "nested base64": base64.StdEncoding.EncodeToString([]byte("TUlJQk1JSUJNSUlC"))} {
		text := bytes.Repeat([]byte(part), MaxSize/len(part))
		b.Run("worst case, "+name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				if _, err := Decode(nil, text); err == nil {
					b.Fatal("taken for an event")
				}
			}
		})
	}
}
