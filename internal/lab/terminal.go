package lab

import (
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// Terminal is a pseudo terminal: the program has one end, and the test types and reads at
// the other.
type Terminal struct {
	Program *os.File // for the program's standard input, output or errors

	t      testing.TB
	person *os.File
	mu     sync.Mutex
	shown  strings.Builder
}

// OpenTerminal opens a Terminal until the test ends. The test is skipped, or fails with
// CI=true, on a system without pseudo terminals.
func OpenTerminal(t testing.TB) *Terminal {
	t.Helper()
	person, program, err := openTerminal()
	if err != nil {
		Skip(t, "no pseudo terminal can be opened: "+err.Error())
	}
	term := &Terminal{Program: program, t: t, person: person}
	read := make(chan struct{})
	go func() {
		defer close(read)
		_, _ = io.Copy(writer(term.show), person) // ends with an error when the other end is closed everywhere
	}()
	t.Cleanup(func() {
		program.Close()
		person.Close()
		<-read
	})
	return term
}

type writer func([]byte)

func (w writer) Write(p []byte) (int, error) {
	w(p)
	return len(p), nil
}

func (t *Terminal) show(p []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.shown.Write(p)
}

// Type sends keys as a person would press them: "\r" is Enter, "\x03" Ctrl-C.
func (t *Terminal) Type(keys string) {
	t.t.Helper()
	if _, err := t.person.WriteString(keys); err != nil {
		t.t.Fatal(err)
	}
}

// Shown is all that the terminal has ever shown, cursor movements included.
func (t *Terminal) Shown() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.shown.String()
}

// Awaits waits until the terminal has shown a text.
func (t *Terminal) Awaits(text string) {
	t.t.Helper()
	for end := time.Now().Add(patience); !strings.Contains(t.Shown(), text); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.t.Fatalf("the terminal does not show %q, but %q", text, t.Shown())
		}
	}
}
