package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/certpost/certpost/bench/road"
)

// disk is a file system of its own, ext4 in an image file behind a loop device, whose power
// can be cut. It needs root.
//
// What a cut throws away are the writes that the kernel holds and that no program has flushed
// (fsync, fdatasync, O_SYNC). It is kinder than a real power cut in two points: what the
// device has been given counts as stored, so a disk that lies about flushes is not
// simulated; and ext4 stores new names of files, and their renaming, together with the next
// flush of any file.
type disk struct{ image, dir string }

// newDisk returns a new empty disk, mounted at dir/disk.
func newDisk(ctx context.Context, dir string) (*disk, error) {
	d := &disk{image: filepath.Join(dir, "disk.img"), dir: filepath.Join(dir, "disk")}
	image, err := os.Create(d.image)
	if err != nil {
		return nil, err
	}
	// The file is sparse.
	err = errors.Join(image.Truncate(4<<30), image.Close(), os.Mkdir(d.dir, 0o700))
	if err == nil {
		err = command(ctx, "mkfs.ext4", "-q", "-E", "lazy_itable_init=1,lazy_journal_init=1", d.image)
	}
	if err == nil {
		err = d.mount(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("a disk whose power can be cut (needs root, loop devices and mkfs.ext4): %w", err)
	}
	return d, nil
}

// mount mounts the disk; after a cut, ext4 replays its journal. The options keep the kernel
// from flushing by itself: no periodic commit within ten minutes, and none because a file
// replaces another.
func (d *disk) mount(ctx context.Context) error {
	return command(ctx, "mount", "-o", "loop,commit=600,noauto_da_alloc", d.image, d.dir)
}

// goDown is EXT4_IOC_SHUTDOWN of linux/fs/ext4, and noLogFlush is its flag
// EXT4_GOING_FLAGS_NOLOGFLUSH: what is not stored by now, the journal included, is
// never stored.
const goDown, noLogFlush = 0x8004587d, 2

// cut cuts the power and switches it on again. The process that used the disk must have been
// killed.
func (d *disk) cut(ctx context.Context) error {
	fd, err := unix.Open(d.dir, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := errors.Join(unix.IoctlSetPointerInt(fd, goDown, noLogFlush), unix.Close(fd)); err != nil {
		return fmt.Errorf("cutting the power of %s: %w", d.dir, err)
	}
	if err := d.unmount(ctx); err != nil {
		return err
	}
	return d.mount(ctx)
}

// unmount waits for a publisher that is about to read a file of the disk.
func (d *disk) unmount(ctx context.Context) error {
	return road.Poll(ctx, 10*time.Second, func() error { return command(ctx, "umount", d.dir) })
}

func command(ctx context.Context, name string, args ...string) error {
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, out)
	}
	return nil
}
