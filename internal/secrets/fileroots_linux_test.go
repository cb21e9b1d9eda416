package secrets

import (
	"context"
	"errors"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// certbot makes a tree as certbot does, private directories included: live/web1 has
// links into archive/web1.
func certbot(t *testing.T) (root, live string) {
	t.Helper()
	root = filepath.Join(publicDir(t), "letsencrypt")
	live = filepath.Join(root, "live", "web1", "privkey.pem")
	archive := filepath.Join(root, "archive", "web1")
	err := errors.Join(os.MkdirAll(filepath.Dir(live), 0o755), os.MkdirAll(archive, 0o755),
		os.WriteFile(filepath.Join(archive, "privkey1.pem"), []byte("the key"), 0o600),
		os.Symlink("../../archive/web1/privkey1.pem", live))
	if err != nil {
		t.Fatal(err)
	}
	return root, live
}

// publicDir is a temporary directory that every user may enter.
func publicDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "certpost")
	if err := errors.Join(err, os.Chmod(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// asAnotherUser runs f with the rights of a user who owns nothing.
func asAnotherUser(t *testing.T, f func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		f()
		return
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// For this thread alone; it also takes away root's right to read everything.
	if err := unix.Setfsuid(65534); err != nil {
		t.Skipf("the user cannot be changed here: %v", err)
	}
	defer unix.Setfsuid(0)
	f()
}

// TestPermissionsBelowARoot: the error says what stops Certpost, and where.
//
// Fault: a file below a root that Certpost may not read. Result: dead (SECRET_DENIED); the
// text names the directory or link.
func TestPermissionsBelowARoot(t *testing.T) {
	t.Parallel()
	root, live := certbot(t)
	archived := filepath.Join(root, "archive", "web1", "privkey1.pem")
	policy := Policy{FileRoots: []string{root}}
	for _, test := range []struct {
		path string
		mode os.FileMode
		says string
	}{
		{archived, 0, "may not read " + archived},
		{filepath.Join(root, "archive"), 0o000, "may not enter " + filepath.Join(root, "archive")},
		{filepath.Join(root, "live"), 0o000, "may not enter " + filepath.Join(root, "live")},
		{filepath.Join(root, "archive"), 0o111, "may not read " + archived + ", or a directory on the way to it"},
		{root, 0o111, "may not read " + root},
	} {
		info, err := os.Stat(test.path)
		if err := errors.Join(err, os.Chmod(archived, 0o644), os.Chmod(test.path, test.mode)); err != nil {
			t.Fatal(err)
		}
		asAnotherUser(t, func() { err = policy.Allows(Ref{File: live}) })
		if !errors.Is(err, ErrDenied) || !strings.Contains(err.Error(), test.says) || !strings.Contains(err.Error(), "permission to read it") {
			t.Errorf("%s with %v: %v\nwant %s", test.path, test.mode, err, test.says)
		}
		var found []RootFinding
		asAnotherUser(t, func() { found = policy.TryRoots(t.Context()) })
		if f := found[0]; len(f.Warnings) == 0 && f.Err == nil {
			t.Errorf("%s with %v: trying the root found %+v", test.path, test.mode, f)
		}
		if err := os.Chmod(test.path, info.Mode()); err != nil {
			t.Fatal(err)
		}
	}
	asAnotherUser(t, func() {
		if err := policy.Allows(Ref{File: live}); err != nil {
			t.Error(err)
		}
	})
}

// TestLinksOutOfARoot: file_roots that name live/ alone do not cover archive/, and the
// error names the directory that is missing.
//
// Fault: or whose link leads out of the roots. Result: dead (SECRET_DENIED); the text names
// the directory or link.
func TestLinksOutOfARoot(t *testing.T) {
	t.Parallel()
	root, live := certbot(t)
	policy := Policy{FileRoots: []string{filepath.Join(root, "live")}}
	archive := filepath.Join(root, "archive", "web1")
	err := policy.Allows(Ref{File: live})
	want := "file:" + live + ": an event may not name it: " + live + " is a symbolic link to " + archive + "/privkey1.pem, which is outside events.file_roots; " +
		"add " + archive + " to events.file_roots if events should name its files"
	if !errors.Is(err, ErrDenied) || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	found := policy.TryRoots(t.Context())
	if len(found) != 1 || found[0].Files != 0 || len(found[0].Warnings) != 1 || found[0].Warnings[0] != want {
		t.Errorf("trying the roots found %+v", found)
	}
	policy.FileRoots = append(policy.FileRoots, archive)
	if err := policy.Allows(Ref{File: live}); err != nil {
		t.Error(err)
	}
	for i, f := range policy.TryRoots(t.Context()) {
		if f.Err != nil || f.Files != 1 || f.Warnings != nil {
			t.Errorf("root %d: %+v", i, f)
		}
	}
}

// TestLinkThatIsFlipped: whenever a link changes, nothing outside the root is read.
//
// Fault: a link below a root that changes between check and read. Result: nothing outside
// the roots is read.
func TestLinkThatIsFlipped(t *testing.T) {
	t.Parallel()
	o := observe(t)
	store := o.openWith(t, Config{})
	dir := publicDir(t)
	root, outside := filepath.Join(dir, "root"), filepath.Join(dir, "outside")
	own, other := o.secret("own"), o.secret("other")
	if err := errors.Join(os.MkdirAll(filepath.Join(root, "in"), 0o755), os.MkdirAll(outside, 0o755),
		os.WriteFile(filepath.Join(root, "in", "key.pem"), []byte(own), 0o600), os.WriteFile(filepath.Join(outside, "key.pem"), []byte(other), 0o600),
		os.Symlink("in", filepath.Join(root, "dir")), os.Symlink("in/key.pem", filepath.Join(root, "key.pem"))); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var flipping sync.WaitGroup
	flipping.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			for link, to := range map[string][2]string{"dir": {"in", outside}, "key.pem": {"in/key.pem", "../outside/key.pem"}} {
				next := filepath.Join(dir, "next")
				if os.Symlink(to[i%2], next) == nil {
					os.Rename(next, filepath.Join(root, link))
				}
			}
		}
	})
	policy := Policy{FileRoots: []string{root}}
	read := map[string]int{}
	for i := range 3000 {
		file := []string{filepath.Join(root, "dir", "key.pem"), filepath.Join(root, "key.pem")}[i%2]
		secret, err := store.OfEvent(t.Context(), policy, Ref{File: file})
		if err == nil {
			read[string(secret.Value.Reveal())]++
		}
	}
	stop()
	flipping.Wait()
	if read[other] != 0 || read[own] == 0 || len(read) != 1 {
		t.Errorf("read the file below the root %d times, and one outside %d times", read[own], read[other])
	}
}

// TestFilesThatAreNotTheRootsOwn: hard links, devices, FIFOs and sockets.
//
// Fault: hard links, devices, FIFOs. Result: refused (SECRET_DENIED).
func TestFilesThatAreNotTheRootsOwn(t *testing.T) {
	t.Parallel()
	dir := publicDir(t)
	root, outside := filepath.Join(dir, "root"), filepath.Join(dir, "secret.pem")
	at := func(name string) string { return filepath.Join(root, name) }
	if err := errors.Join(os.Mkdir(root, 0o755), os.WriteFile(outside, []byte("x"), 0o600), os.Link(outside, at("hard.pem")), syscall.Mkfifo(at("fifo"), 0o600)); err != nil {
		t.Fatal(err)
	}
	says := map[string]string{"hard.pem": "the file has 2 hard links", "fifo": "not a regular file"}
	if u, err := user.Current(); err == nil && u.Uid == "0" && syscall.Mknod(at("null"), syscall.S_IFCHR|0o600, int(unix.Mkdev(1, 3))) == nil {
		says["null"] = "not a regular file"
	}
	policy := Policy{FileRoots: []string{root}}
	for name, want := range says {
		if err := policy.Allows(Ref{File: at(name)}); !errors.Is(err, ErrDenied) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", name, err, want)
		}
	}
	if found := policy.TryRoots(t.Context()); found[0].Files != 0 || len(found[0].Warnings) != len(says) {
		t.Errorf("trying the root found %+v", found)
	}
	for i := range maxRootWarnings + 3 {
		if err := os.Link(outside, at("more"+strconv.Itoa(i))); err != nil {
			t.Fatal(err)
		}
	}
	found := policy.TryRoots(t.Context())[0]
	if n := len(found.Warnings); n != maxRootWarnings+1 || found.Warnings[n-1] != strconv.Itoa(len(says)+3)+" more like these" {
		t.Errorf("many warnings: %q", found.Warnings)
	}
}

// TestRootsThatAreMissing: the root itself is named.
func TestRootsThatAreMissing(t *testing.T) {
	t.Parallel()
	root := filepath.Join(t.TempDir(), "none")
	found := Policy{FileRoots: []string{root}}.TryRoots(t.Context())
	if len(found) != 1 || !errors.Is(found[0].Err, ErrNotFound) || !strings.Contains(found[0].Err.Error(), root+" does not exist") {
		t.Errorf("found %+v", found)
	}
}
