//go:build unix

package spool

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// owned refuses a directory of another user, such as one that was made before ours below /tmp: that user
// decides what is published from it, and which files are stored as keys. Root is trusted anyway.
func (s *Spool) owned(info fs.FileInfo) error {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || stat.Uid == 0 || int(stat.Uid) == s.user() {
		return nil
	}
	return fmt.Errorf("spool: %s belongs to another user (%d), who could decide what is published from it: run certpost as that user, or name a directory of its own (spool.dir): %w",
		s.dir, stat.Uid, fs.ErrPermission)
}

func (s *Spool) user() int {
	if s.uid != nil {
		return *s.uid
	}
	return os.Geteuid()
}
