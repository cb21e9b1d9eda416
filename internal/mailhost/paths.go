package mailhost

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/verdict"
)

// maxLinks is the number of symbolic links in a path that Linux follows, too.
const maxLinks = 40

// resolve follows the symbolic links of an absolute path, so that the file behind them is
// replaced and the links stay. It refuses a path on which a user with fewer rights than
// this process could put another file or link: every directory must belong to root or to
// this process's user, and nobody else may write it. After that the path can be used
// without races. The file itself need not exist; its directory must.
func resolve(path string) (string, error) {
	problem := func(text string, args ...any) error {
		f := fail(verdict.DeployWrite, StepPaths, text, args...)
		f.Reason = legible.Clean(path, 300) + ": " + f.Reason
		return f
	}
	at, todo, links := "/", parts(path), 0
	for {
		info, err := os.Lstat(at)
		switch {
		case errors.Is(err, fs.ErrNotExist) && len(todo) == 0:
			return at, nil
		case errors.Is(err, fs.ErrNotExist):
			return "", problem("the directory %s does not exist; create it, owned by root and not writable for others", at)
		case err != nil:
			return "", problem("%s", err)
		}
		uid, _ := ownerOf(info)
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			if !trusted(uid) {
				return "", problem("the symbolic link %s belongs to the user with number %d, who could point it elsewhere; its owner must be root or the user of Certpost", at, uid)
			}
			if links++; links > maxLinks {
				return "", problem("it has too many symbolic links")
			}
			target, err := os.Readlink(at)
			if err != nil {
				return "", problem("%s", err)
			}
			if !filepath.IsAbs(target) {
				// Not Join: it would cancel ".." before the links ahead of it are followed.
				target = filepath.Dir(at) + "/" + target
			}
			at, todo = "/", append(parts(target), todo...)
			continue
		case info.IsDir():
			if !trusted(uid) {
				return "", problem("the directory %s belongs to the user with number %d, who could replace what is in it; its owner must be root or the user of Certpost", at, uid)
			}
			sticky := info.Mode()&fs.ModeSticky != 0 && len(todo) > 1
			if info.Mode().Perm()&0o022 != 0 && !sticky {
				return "", problem("the directory %s has mode %#o: other users could replace what is in it; run `chmod go-w` on it", at, info.Mode().Perm())
			}
			if len(todo) == 0 {
				return "", problem("it is a directory, not a file")
			}
		case len(todo) > 0:
			return "", problem("%s is not a directory", at)
		case !info.Mode().IsRegular():
			return "", problem("it is not a regular file")
		default:
			return at, nil
		}
		if todo[0] == ".." {
			at = filepath.Dir(at) // at is a directory without links here
		} else {
			at = filepath.Join(at, todo[0])
		}
		todo = todo[1:]
	}
}

// parts splits an absolute path. "" and "." are left out.
func parts(path string) (list []string) {
	for part := range strings.SplitSeq(path, "/") {
		if part != "" && part != "." {
			list = append(list, part)
		}
	}
	return list
}

// trusted reports whether a user has at least the rights of this process.
func trusted(uid int) bool { return uid == 0 || uid == os.Geteuid() }
