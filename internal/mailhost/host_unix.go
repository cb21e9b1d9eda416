//go:build unix

package mailhost

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/certpost/certpost/internal/backoff"
)

// supported is nil where deployments are possible.
var supported error

// ownerOf returns the numbers of a file's user and group.
func ownerOf(info fs.FileInfo) (uid, gid int) {
	stat := info.Sys().(*syscall.Stat_t)
	return int(stat.Uid), int(stat.Gid)
}

// lockDirectory waits for the lock of a directory. The lock is on the directory itself:
// a lock file would have to stay for ever. The kernel releases it when the process ends.
func lockDirectory(ctx context.Context, path string) (*os.File, error) {
	dir, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	for {
		err := syscall.Flock(int(dir.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil:
			return dir, nil
		case errors.Is(err, syscall.EINTR):
		case !errors.Is(err, syscall.EWOULDBLOCK):
			dir.Close()
			return nil, &fs.PathError{Op: "lock", Path: path, Err: err}
		case ctx.Err() != nil:
			dir.Close()
			return nil, ctx.Err()
		default:
			backoff.Sleep(ctx, backoff.Jitter(50*time.Millisecond))
		}
	}
}

// hangUp sends SIGHUP to a process.
func hangUp(pid int) error { return syscall.Kill(pid, syscall.SIGHUP) }

// mayRun reports whether this process may execute a file.
func mayRun(path string) bool {
	const execute = 1 // X_OK
	return syscall.Access(path, execute) == nil
}

// noFollow makes opening a symbolic link an error.
const noFollow = syscall.O_NOFOLLOW

// ownGroup starts a command in its own process group, and kills the whole group when
// the command's context ends.
func ownGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}
