//go:build unix

package certfiles

import (
	"errors"
	"os"
	"syscall"
	"testing"
)

// Whatever else lies beside a certificate under a name that a client would use: a scan ends, and finds it.
//
// Fault: named pipes, devices and links in circles in a watched directory. Result: left out or named, never waited for.
func TestPipesInDirectories(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	_, full, key := a.issue("www.example.com")
	tr := newTree(t)
	tr.write("www.crt", full)
	tr.write("www.key", key)
	if err := errors.Join(syscall.Mkfifo(tr.path("www.json"), 0o600), syscall.Mkfifo(tr.path("a.pem"), 0o600), syscall.Mkfifo(tr.path("a.key"), 0o600),
		os.Symlink("/dev/zero", tr.path("zero.pem")), os.Symlink(".", tr.path("loop"))); err != nil {
		t.Fatal(err)
	}
	tr.wants("file://web1" + tr.dir + "/www.crt www.key")

	// A file that becomes a pipe after it was looked at.
	if err := errors.Join(os.Remove(tr.path("www.crt")), syscall.Mkfifo(tr.path("www.crt"), 0o600)); err != nil {
		t.Fatal(err)
	}
	f := &file{}
	if tr.s.parse(tr.path("www.crt"), f); f.err == nil || f.kind != other {
		t.Errorf("%+v", f)
	}
}
