package mailhost

import (
	"errors"
	"io/fs"
	"syscall"

	"github.com/certpost/certpost/internal/legible"
)

// explain returns the text of an error of the file system, with what to do about it.
func explain(err error) string {
	hint := ""
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		hint = "; free some space on this disk"
	case errors.Is(err, syscall.EROFS):
		hint = "; the file system is read-only for Certpost: with systemd, add the directory to ReadWritePaths"
	case errors.Is(err, syscall.EXDEV), errors.Is(err, syscall.EBUSY):
		hint = "; the file seems to be mounted by itself, so it cannot be replaced: mount its directory instead"
	case errors.Is(err, syscall.EPERM):
		hint = "; Certpost must own the file or run as root, and the file must not be immutable (`lsattr`)"
	case errors.Is(err, fs.ErrPermission):
		hint = "; the user of Certpost needs write permission for the directory"
	}
	return legible.Clean(err.Error(), maxError) + hint
}
