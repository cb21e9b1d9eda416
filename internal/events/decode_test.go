package events

import (
	"errors"
	"reflect"
	"strings"
	"testing"
)

// Fault: a CloudEvent in binary mode whose attributes have percent signs, quotes or letters
// beyond ASCII; null for what is left out. Result: the attributes are taken as they are;
// null is left out.
func TestGoodEvents(t *testing.T) {
	t.Parallel()
	for _, tt := range goodEvents {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			e, err := Decode(tt.header, body(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			if got, want := string(e.Encode()), compact(tt.want); got != want {
				t.Errorf("canonical form\n got %s\nwant %s", got, want)
			}
			again, err := Decode(nil, e.Encode())
			if err != nil {
				t.Fatalf("the canonical form is refused: %v", err)
			}
			if !reflect.DeepEqual(e, again) {
				t.Errorf("read back\n got %+v\nwant %+v", again, e)
			}
		})
	}
}

// Fault: much too large. Result: refused before it is parsed.
// Fault: not JSON, wrong, empty, binary, deeply nested, duplicate keys. Result: dead
// (EVENT_INVALID).
// Fault: ce- headers with the content type of structured mode, and no envelope. Result:
// dead (EVENT_INVALID); the reason names both.
// Fault: a private key in disguise: numbers; text or unknown fields under private_key in
// place of a reference. Result: refused as a key.
func TestBadEvents(t *testing.T) {
	t.Parallel()
	for _, tt := range badEvents {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			e, err := Decode(tt.header, body(tt.body))
			var invalid *Invalid
			if !errors.As(err, &invalid) {
				t.Fatalf("got %T, %v; want an *Invalid", e, err)
			}
			if tt.reason != "" && invalid.Reason != tt.reason {
				t.Errorf("reason\n got %s\nwant %s", invalid.Reason, tt.reason)
			}
			if invalid.HoldsKey != tt.holdsKey {
				t.Errorf("HoldsKey is %t", invalid.HoldsKey)
			}
			if invalid.ID != tt.id {
				t.Errorf("ID is %q, want %q", invalid.ID, tt.id)
			}
			if strings.ContainsAny(invalid.Reason, "\r\n") || len(invalid.Reason) > 500 {
				t.Errorf("no sentence for a header: %q", invalid.Reason)
			}
		})
	}
}
