package events

import (
	"crypto/sha256"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestToken(t *testing.T) {
	t.Parallel()
	hash := "h_" + strings.Repeat("0123456789abcdef", 2)
	for _, tt := range []struct {
		id   string
		kept bool
	}{
		{"01KG9V7Q3M8ZJ5R4T6W2X0Y1AB", true},
		{"a", true},
		{"A-b_9", true},
		{strings.Repeat("x", 64), true},
		{"h_", true},
		{"h_short", true},
		{strings.ToUpper(hash), true},
		{hash + "0", true},
		{hash, false},
		{"", false},
		{strings.Repeat("x", 65), false},
		{"a.b", false},
		{"a b", false},
		{"*", false},
		{">", false},
		{"é", false},
		{"a\x00", false},
		{"_", true},
	} {
		got := Token(tt.id)
		if (got == tt.id) != tt.kept {
			t.Errorf("Token(%q) = %q", tt.id, got)
		}
		if !IsToken(got) {
			t.Errorf("Token(%q) = %q, which is not a token", tt.id, got)
		}
		if !tt.kept && !looksHashed(got) {
			t.Errorf("Token(%q) = %q, which does not look hashed", tt.id, got)
		}
	}
	if Token(Token("a.b")) == Token("a.b") {
		t.Error("an id that equals the token of another id has the same token")
	}
}

func TestNewID(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var ids []string
		for range 1000 {
			ids = append(ids, NewID())
			time.Sleep(time.Millisecond)
		}
		if !slices.IsSorted(ids) {
			t.Error("ids do not sort by time")
		}
		if len(slices.Compact(ids)) != 1000 {
			t.Error("an id came twice")
		}
		for _, id := range ids {
			if len(id) != 26 || strings.Trim(id, crockford) != "" || Token(id) != id {
				t.Fatalf("%q is not a ULID, or not a token", id)
			}
		}
		// synctest's clock begins at 2000-01-01T00:00:00Z, 946684800000 ms, which is
		// 00VHNCZB00 in 10 digits of base 32.
		if !strings.HasPrefix(ids[0], "00VHNCZB00") {
			t.Errorf("the time of %s is not 2000-01-01", ids[0])
		}
	})
	same := map[string]bool{}
	for range 10_000 {
		same[NewID()] = true
	}
	if len(same) != 10_000 {
		t.Errorf("%d of 10000 ids are different", len(same))
	}
}

func TestIDFor(t *testing.T) {
	t.Parallel()
	one, two := sha256.Sum256([]byte("one")), sha256.Sum256([]byte("two"))
	id := IDFor(one, "certbot://web1/x")
	if id != IDFor(one, "certbot://web1/x") {
		t.Error("the same certificate gets another id")
	}
	if id == IDFor(two, "certbot://web1/x") || id == IDFor(one, "certbot://web2/x") {
		t.Error("another certificate, or another source, gets the same id")
	}
	if len(id) != 26 || Token(id) != id {
		t.Errorf("%q does not have the form of an id", id)
	}
	// Fixed: a new release must not send old certificates a second time.
	if want := "0KEHVQBWAJVVDGAWRPK3F6JH29"; id != want {
		t.Errorf("got %s, want %s", id, want)
	}
}
