//go:build unix

package inputfile

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Fault: a path leads to a named pipe, a socket, a device or a directory. Result: refused at once, with what it is.
func TestOnlyRegularFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	socket, err := net.Listen("unix", at("socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	if err := errors.Join(syscall.Mkfifo(at("pipe"), 0o600), os.Mkdir(at("directory"), 0o700),
		os.WriteFile(at("file"), []byte("text"), 0o600), os.Symlink("file", at("link")), os.Symlink("pipe", at("link to a pipe"))); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"pipe": "it is a named pipe, not a regular file", "link to a pipe": "it is a named pipe, not a regular file",
		"socket": "it is a socket, not a regular file", "directory": "it is a directory, not a regular file",
	} {
		if text, err := Read(at(name), 10); !errors.Is(err, ErrNotRegular) || err.Error() != "read "+at(name)+": "+want || text != nil {
			t.Errorf("%s: %q, %v", name, text, err)
		}
	}
	if _, err := Read("/dev/zero", 10); !errors.Is(err, ErrNotRegular) || !strings.Contains(err.Error(), "it is a device") {
		t.Error(err)
	}
	for _, name := range []string{"file", "link"} {
		if text, err := Read(at(name), 4); string(text) != "text" || err != nil {
			t.Errorf("%s: %q, %v", name, text, err)
		}
	}
	if text, err := Read(at("file"), 3); err == nil || !strings.HasSuffix(err.Error(), "it has more than 3 bytes, which no such file has") || text != nil {
		t.Errorf("%q, %v", text, err)
	}
	if _, err := Read(at("none"), 3); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// What the process was started with is read as it is, also before it was written.
func TestWhatIsOpenAlready(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	go func() {
		_, _ = w.WriteString("text")
		w.Close()
	}()
	if text, err := Read(fmt.Sprintf("/dev/fd/%d", r.Fd()), 10); string(text) != "text" || err != nil {
		t.Errorf("%q, %v", text, err)
	}
	for path, open := range map[string]bool{"/dev/stdin": true, "/dev/../dev/fd/3": true, "/dev/fd": false, "/dev/fd/../zero": false, "/tmp/dev/stdin": false} {
		if isOpen(path) != open {
			t.Errorf("%s: %t", path, !open)
		}
	}
}
