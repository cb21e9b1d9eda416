package webhook

import (
	"encoding/base64"
	"strings"
	"testing"
)

// The key is what is decoded, and its length counts, not that of the text.
func TestKeys(t *testing.T) {
	t.Parallel()
	encode := base64.StdEncoding.EncodeToString
	fifteen, sixteen := strings.Repeat("k", 15), strings.Repeat("k", 16)
	for _, c := range []struct {
		name   string
		key    func(string) ([]byte, error)
		secret string
		want   string // of the error; "": the key is sixteen
	}{
		{"text", TextKey, sixteen, ""},
		{"short text", TextKey, fifteen, "15 bytes, want at least 16"},
		{"empty", TextKey, "", "0 bytes"},
		{"base64", Base64Key, encode([]byte(sixteen)), ""},
		{"short base64", Base64Key, encode([]byte(fifteen)), "15 bytes"},
		{"no base64", Base64Key, "sixteen characters!", "is not base64"},
		{"whsec_", StandardKey, prefix + encode([]byte(sixteen)), ""},
		{"short whsec_", StandardKey, prefix + encode([]byte("canary")), "6 bytes"},
		{"whsec_ and no base64", StandardKey, prefix + "canary-canary-canary!", "begins with whsec_, but"},
		{"without whsec_", StandardKey, sixteen, ""},
		{"short without whsec_", StandardKey, fifteen, "15 bytes"},
	} {
		key, err := c.key(c.secret)
		switch {
		case c.want == "" && (err != nil || string(key) != sixteen):
			t.Errorf("%s: %q, %v", c.name, key, err)
		case c.want != "" && (err == nil || key != nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "canary")):
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		}
	}
}
