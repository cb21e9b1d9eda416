package legible

import "testing"

// At most three typing errors, fewer in short words, name another word; an empty word none.
func TestNearest(t *testing.T) {
	t.Parallel()
	words := []string{"port", "host", "to", "give_up_after", "tls_mode", "timeout"}
	for word, want := range map[string]string{
		"prot": "port", "hosts": "host", "ot": "to", "giveupafter": "give_up_after", "tlsmode": "tls_mode",
		"tmeout": "timeout", "password": "", "x": "", "": "", "payload": "", "TLS-Mode": "tls_mode", "tlsmdoe": "tls_mode", "prtt": "port", "pxyz": "",
	} {
		if got := Nearest(word, words...); got != want {
			t.Errorf("nearest to %q is %q, want %q", word, got, want)
		}
	}
}
