package spool

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/certpost/certpost/internal/lab"
)

// Fault: the disk of the spool is full, or read-only. Result: an error; nothing half-written is
// left, and what is there stays.
func TestDiskOfTheSpool(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		lab.Skip(t, "needs the right to mount a file system: "+err.Error())
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	s := New(filepath.Join(dir, "spool"), someLimits)
	add(t, s, entry("kept", "s"))
	stuff, err := os.Create(filepath.Join(dir, "stuff"))
	if err != nil {
		t.Fatal(err)
	}
	defer stuff.Close()
	for err == nil {
		_, err = stuff.Write(make([]byte, 1024))
	}
	if _, err := s.Add(t.Context(), entry("lost", "s")); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("%v, want no space", err)
	}
	if _, err := os.Stat(filepath.Join(s.Dir(), "unfinished")); err == nil || waiting(t, s) != 1 {
		t.Error("something half-written is left")
	}
	if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err == nil {
		if _, err := s.Add(t.Context(), entry("lost", "s")); !errors.Is(err, syscall.EROFS) {
			t.Errorf("%v, want a read-only file system", err)
		}
	}
}
