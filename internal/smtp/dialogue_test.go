package smtp

import (
	"bufio"
	"bytes"
	"io"
	"maps"
	"net"
	"net/textproto"
	"slices"
	"strings"
	"testing"
)

func TestParseOffers(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]offers{
		"":                               {},
		"relay.test":                     {},
		"PIPELINING":                     {}, // a relay's name
		"relay.test\nPIPELINING":         {"PIPELINING": ""},
		"relay.test\npipelining\nSize 9": {"PIPELINING": "", "SIZE": "9"},
		"relay.test\nAUTH PLAIN LOGIN":   {"AUTH": "PLAIN LOGIN"},
		"relay.test\nAUTH=LOGIN\nAUTH=PLAIN CRAM-MD5\nauth Plain": {"AUTH": "LOGIN PLAIN CRAM-MD5 Plain"},
		"relay.test hello\n  STARTTLS \n":                         {"STARTTLS": "", "": ""},
	} {
		if got := parseOffers(text); !maps.Equal(got, want) {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
	if got := parseOffers("x\nAUTH=login\nAUTH Plain").mechanisms(); !slices.Equal(got, []string{"LOGIN", "PLAIN"}) {
		t.Errorf("mechanisms %v", got)
	}
	for text, want := range map[string]int{"SIZE": 0, "SIZE 0": 0, "SIZE much": 0, "SIZE -1": 0, "size 100": 100, "SIZE  77 ": 77, "8BITMIME": 0} {
		if got := parseOffers("x\n" + text).SizeLimit(); got != want {
			t.Errorf("%q: %d, want %d", text, got, want)
		}
	}
}

// Fault: bare LF, a line with only a dot. Result: encoded and stuffed; no bare CR or LF is
// sent.
func TestStuff(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]string{
		"":                          "\r\n",
		"a\r\nb\r\n":                "a\r\nb\r\n",
		".":                         "..\r\n",
		".a\r\n.b\r\n..\r\n":        "..a\r\n..b\r\n...\r\n",
		"a.\r\n.\r\n":               "a.\r\n..\r\n",
		"a\r\n\r\n.\r\n.\r\n":       "a\r\n\r\n..\r\n..\r\n",
		"a\r\n.\r\n.\r\n.b":         "a\r\n..\r\n..\r\n..b\r\n",
		strings.Repeat("x", 10_000): strings.Repeat("x", 10_000) + "\r\n",
		strings.Repeat(".\r\n", 99): strings.Repeat("..\r\n", 99),
	} {
		if got := string(stuff(nil, []byte(raw))); got != want+".\r\n" {
			t.Errorf("%q: %q, want %q", raw, got, want)
		}
	}
}

// The buffer of a mail that may contain a private key is never moved while it is filled: the
// old one would not be cleared.
func TestContentIsNotMoved(t *testing.T) { // not parallel: it counts allocations
	for _, raw := range [][]byte{nil, []byte("."), bytes.Repeat([]byte(".\r\n"), 999), bytes.Repeat([]byte("x"), 100_001)} {
		if allocated := testing.AllocsPerRun(10, func() { stuff(nil, raw) }); allocated > 1 {
			t.Errorf("%d bytes: %v buffers", len(raw), allocated)
		}
	}
}

// A mail with a bare CR or LF is found, wherever it is.
func TestLineEndsAreChecked(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]bool{
		"": true, "a": true, "\r\n": true, "a\r\n\r\nb": true, "a\r\nb\r\n": true,
		"\n": false, "\r": false, "a\nb\r\n": false, "a\r\n\n": false, "a\r\r\n": false, "a\r\nb\r": false, "\n\r": false, "\r\n\r\n\r\r\n": false,
	} {
		if got := endsLinesWithCRLF([]byte(raw)); got != want {
			t.Errorf("%q: %v", raw, got)
		}
	}
}

// A reader that follows RFC 5321 gets exactly the mail that was sent.
func FuzzContent(f *testing.F) {
	for _, seed := range []string{"", ".", "..\r\n", "a\r\n.\r\nb", "\r\n.\r\n", ".\r\n.\r\n.", "Subject: x\r\n\r\n.dot\r\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		raw = bytes.ReplaceAll(bytes.ReplaceAll(raw, []byte("\r"), nil), []byte("\n"), []byte("\r\n"))
		client, server := net.Pipe()
		s := &Session{tcp: client}
		s.setConn(client)
		done := make(chan error, 1)
		go func() {
			done <- s.content(raw)
			_ = client.Close()
		}()
		in := bufio.NewReader(server)
		got, err := io.ReadAll(textproto.NewReader(in).DotReader())
		rest, restErr := io.ReadAll(in)
		if err != nil || restErr != nil || <-done != nil {
			t.Fatal(err, restErr)
		}
		want := bytes.ReplaceAll(raw, []byte("\r\n"), []byte("\n"))
		if len(want) > 0 && !bytes.HasSuffix(want, []byte("\n")) || len(raw) == 0 {
			want = append(bytes.Clone(want), '\n') // the final dot is on its own line
		}
		if !bytes.Equal(got, want) || len(rest) > 0 {
			t.Errorf("sent %q, read %q and then %q", raw, got, rest)
		}
	})
}

func BenchmarkStuff(b *testing.B) {
	mail := []byte(strings.Repeat(strings.Repeat("x", 76)+"\r\n", 200) + ".one dot\r\n")
	b.SetBytes(int64(len(mail)))
	var buffer []byte
	for b.Loop() {
		buffer = stuff(buffer, mail)
	}
}
