//go:build linux

package mailhost

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/certpost/certpost/internal/lab"
)

// mount mounts a file system in memory with options, for one test.
func mount(t *testing.T, options string) string {
	t.Helper()
	needRoot(t)
	dir := privateDir(t)
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "mode=0755,"+options); err != nil {
		lab.Skip(t, fmt.Sprintf("mounting is not permitted: %v", err))
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("unmounting: %v", err)
		}
	})
	return dir
}

// TestDiskFull: with every amount of space, and of inodes, that is too little: the former
// files stay, and no part of the new ones.
//
// Fault: the disk has no space or no inodes. Result: fails (DEPLOY_WRITE); the files are as
// before; no part of a new file is left.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	for layout := range layouts {
		t.Run(layout, func(t *testing.T) {
			t.Parallel()
			for _, kind := range []string{"nr_blocks", "nr_inodes"} {
				failed := 0
				for n := 1; ; n++ {
					if n > 40 {
						t.Fatal("40 blocks or inodes are too few")
					}
					dir := mount(t, "size=1m")
					d := layouts[layout](dir)
					d.BackupRetention = 1
					mustDeploy(t, deployer(), d, a.fresh(t), Deployed)
					used := len(snapshot(t, dir)) + 1 // and the directory
					if kind == "nr_blocks" {
						used--
					}
					if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT, fmt.Sprintf("%s=%d", kind, used+n-1)); err != nil {
						t.Fatal(err)
					}
					before := snapshot(t, dir)
					next := a.fresh(t)
					_, err := deployer().Deploy(t.Context(), d, next)
					if err == nil {
						wantContents(t, d, next)
						break
					}
					failed++
					f := failureOf(err)
					if f.Code != "DEPLOY_WRITE" || f.Rollback != NotNeeded || !strings.Contains(f.Reason, "no space") {
						t.Fatal(err)
					}
					wantSame(t, before, snapshot(t, dir))
				}
				if failed < 2 { // the new file, and the journal
					t.Errorf("%s: failed %d times only", kind, failed)
				}
			}
		})
	}
}

// Fault: is read-only. Result: fails (DEPLOY_WRITE); the files are as before.
func TestReadOnlyFileSystem(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	for layout := range layouts {
		t.Run(layout, func(t *testing.T) {
			t.Parallel()
			dir := mount(t, "size=1m")
			d := layouts[layout](dir)
			mustDeploy(t, deployer(), d, a.fresh(t), Deployed)
			if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
				t.Fatal(err)
			}
			before := snapshot(t, dir)
			f := wantFailure(t, deployer(), d, a.fresh(t), "DEPLOY_WRITE", StepWrite, NotNeeded)
			if !strings.Contains(f.Reason, "ReadWritePaths") {
				t.Error(f)
			}
			wantSame(t, before, snapshot(t, dir))
		})
	}
}

// TestMountedFile: containers mount single files; these cannot be replaced.
//
// Fault: the file is a mount point. Result: fails (DEPLOY_WRITE); the files are as before;
// no part of a new file is left.
func TestMountedFile(t *testing.T) {
	t.Parallel()
	needRoot(t)
	a := newAuthority(t)
	eachLayout(t, func(t *testing.T, d Deployment) {
		mustDeploy(t, deployer(), d, a.fresh(t), Deployed)
		if err := syscall.Mount(d.KeyPath, d.KeyPath, "", syscall.MS_BIND, ""); err != nil {
			lab.Skip(t, fmt.Sprintf("mounting is not permitted: %v", err))
		}
		t.Cleanup(func() {
			if err := syscall.Unmount(d.KeyPath, 0); err != nil {
				t.Errorf("unmounting: %v", err)
			}
		})
		dir := filepath.Dir(d.KeyPath)
		before := snapshot(t, dir)
		f := failureOf(func() error { _, err := deployer().Deploy(t.Context(), d, a.fresh(t)); return err }())
		if f.Code != "DEPLOY_WRITE" || !strings.Contains(f.Reason, "mount its directory") || f.Rollback == RollbackFailed {
			t.Error(f)
		}
		wantSame(t, before, snapshot(t, dir))
	})
}

// immutable sets the attribute of a file or directory until the test ends.
func immutable(t *testing.T, path string) {
	t.Helper()
	needRoot(t)
	chattr := lab.Need(t, "chattr")
	if err := (Command{chattr, "+i", path}).run(t.Context(), defaultCommandTimeout, nil); err != nil {
		lab.Skip(t, fmt.Sprintf("the file system has no immutable files: %v", err))
	}
	t.Cleanup(func() { mutable(t, path) })
}

func mutable(t *testing.T, path string) {
	t.Helper()
	if _, err := os.Lstat(path); err == nil {
		if err := (Command{"chattr", "-i", path}).run(context.Background(), defaultCommandTimeout, nil); err != nil {
			t.Error(err)
		}
	}
}

// Fault: the file or its directory is immutable. Result: fails (DEPLOY_WRITE); the files
// are as before; no part of a new file is left.
func TestImmutable(t *testing.T) {
	t.Parallel()
	needRoot(t)
	a := newAuthority(t)
	eachLayout(t, func(t *testing.T, d Deployment) {
		dir := filepath.Dir(d.CertPath)
		mustDeploy(t, deployer(), d, a.fresh(t), Deployed)
		before := snapshot(t, dir)
		for _, path := range []string{d.CertPath, d.KeyPath, dir} {
			immutable(t, path)
			f := wantFailure(t, deployer(), d, a.fresh(t), "DEPLOY_WRITE", StepWrite, NotNeeded)
			if !strings.Contains(f.Reason, "immutable") {
				t.Error(f)
			}
			mutable(t, path)
			wantSame(t, before, snapshot(t, dir))
		}
	})
}

// TestRollbackFails: the files cannot be put back, the failure says so, and the next
// deployment gets no further before recovery has put them back.
//
// Fault: the rollback itself fails. Result: the failure says so; the next deployment fails
// (DEPLOY_WRITE) until it is ended; recovery puts the former files back.
func TestRollbackFails(t *testing.T) {
	t.Parallel()
	needRoot(t)
	chattr := lab.Need(t, "chattr")
	a := newAuthority(t)
	eachLayout(t, func(t *testing.T, d Deployment) {
		dir := filepath.Dir(d.CertPath)
		former, next := a.fresh(t), a.fresh(t)
		mustDeploy(t, deployer(), d, former, Deployed)
		immutable(t, dir) // or skips
		mutable(t, dir)
		t.Cleanup(func() { mutable(t, dir) })
		broken := d
		broken.ReloadCommand = script(t, chattr+" +i "+dir+"; exit 1")
		f := wantFailure(t, deployer(), broken, next, "DEPLOY_RELOAD", StepReload, RollbackFailed)
		if !strings.Contains(f.Reason, "could not be put back") {
			t.Error(f)
		}
		// A new attempt gets no further, and says so.
		wantFailure(t, deployer(), broken, next, "DEPLOY_WRITE", StepRecover, RollbackFailed)
		mutable(t, dir)

		broken.ReloadCommand = Command{"false"}
		if recovered, err := deployer().Recover(t.Context(), broken); !recovered || err != nil {
			t.Errorf("%v, %v", recovered, err)
		}
		wantContents(t, d, former)
		mustDeploy(t, deployer(), d, next, Deployed)
	})
}
