package legible

import "testing"

// Fault: internationalized names. Result: mixed scripts are marked.
func TestName(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ in, text, note string }{
		{"web1.example.com", "web1.example.com", ""},
		{"Web1.example.com", "Web1.example.com", ""},
		{"xn--bcher-kva.example", "xn--bcher-kva.example", "bücher.example"},
		{"bücher.example", "xn--bcher-kva.example", "bücher.example"},
		{"*.xn--bcher-kva.example", "*.xn--bcher-kva.example", "*.bücher.example"},
		{"pаypal.com", "xn--pypal-4ve.com", "pаypal.com, mixes Cyrillic and Latin letters"},
		{"xn--pypal-4ve.com", "xn--pypal-4ve.com", "pаypal.com, mixes Cyrillic and Latin letters"},
		{"xn--80ak6aa92e.com", "xn--80ak6aa92e.com", "аррӏе.com, in Cyrillic letters"},
		{"xn--wgv71a119e.jp", "xn--wgv71a119e.jp", "日本語.jp, in Han letters"},
		{"カタカナとabc漢字.jp", "xn--abc-vb4b8ma3lrdv510cymwb.jp", "カタカナとabc漢字.jp, in Han, Hiragana and Katakana letters"},
		{"xn--a.example", "xn--a.example", ""}, // not valid: shown as it is
		{"Jürgen Müller", "Jürgen Müller", ""},
		{"Раypal Inc", "Раypal Inc", "mixes Cyrillic and Latin letters"},
	} {
		if got := Name(c.in, 200); got.Text != c.text || got.Note != c.note {
			t.Errorf("Name(%q) = %q, %q, want %q, %q", c.in, got.Text, got.Note, c.text, c.note)
		}
	}
}
