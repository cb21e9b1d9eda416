//go:build unix

package spool

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/certpost/certpost/internal/lab"
)

// Each file that is no event is named by a flush and in the state, also without one that waits; what was set
// aside is no failure of a flush.
//
// Fault: the spool has files that cannot be read. Result: named with the reason, the other events go out.
func TestDamagedFiles(t *testing.T) {
	t.Parallel()
	s := New(filepath.Join(t.TempDir(), "spool"), someLimits)
	add(t, s, entry("a", "a"))
	for name, text := range map[string]string{
		"1.json": "", "2.json": "canary", "3.json": `{"version": 2}`, "4.json": `{"version": 1, "subject": "canary", "event": {}}`, "5.json": strings.Repeat(" ", maxFile+1),
		"6.refused.json": "canary", "other.json": "canary", "7.json.bak": "",
	} {
		lab.Write(t, filepath.Join(s.Dir(), name), []byte(text))
	}
	if err := syscall.Mkfifo(filepath.Join(s.Dir(), "8.json"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := &receiver{}
	failures := r.flush(t, s)
	r.got(t, "a")
	state, err := s.State()
	damaged := state.Damaged()
	if err != nil || len(failures) != 5 || len(damaged) != 5 || len(state.Refused) != 6 || state.Waiting != 0 {
		t.Fatalf("%v\n%v\n%+v, %v", failures, damaged, state, err)
	}
	for i, f := range failures {
		name := filepath.Join(s.Dir(), string(rune('1'+i))+".json")
		if f.Entry != nil || f.Err.Error() != damaged[i].Err.Error() || !strings.HasPrefix(f.Err.Error(), name+" cannot be read as an event (") || strings.Contains(f.Err.Error(), "canary") {
			t.Error(f)
		}
	}
}

// Fault: a local user made the spool's directory first. Result: nothing is written to it, and nothing is
// published from it.
func TestDirectoryOfAnotherUser(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := New(filepath.Join(dir, "spool"), someLimits)
	add(t, s, entry("a", "a"))
	if os.Geteuid() == 0 { // root's own directories are trusted
		if err := os.Chown(s.Dir(), 4242, -1); err != nil {
			t.Fatal(err)
		}
	}
	another := os.Geteuid() + 1
	s.uid = &another
	r := &receiver{}
	_, added := s.Add(t.Context(), entry("b", "b"))
	_, flushed := s.Flush(t.Context(), r.send, func() bool { return false })
	for _, err := range []error{added, flushed, s.Check(), s.Remember(t.Context(), nil)} {
		if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), s.Dir()+" belongs to another user (") {
			t.Error(err)
		}
	}
	r.got(t)
}
