package secrets

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// open opens the file of a reference that an event names, if it is below one of the
// roots, and judges what it has opened. The path is resolved twice: here, to say what
// stops it, and by os.Root, which never leaves its directory, whatever happens to the links
// in the meantime.
func (p Policy) open(ref Ref) (*os.File, error) {
	place, err := p.resolve(ref)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(place.root)
	if err != nil {
		return nil, p.unopened(ref, place.root, err)
	}
	defer root.Close()
	// Stat first: opening a device may do something.
	info, err := root.Stat(place.rel)
	if err != nil {
		return nil, p.unopened(ref, place.path(), err)
	}
	if err := p.ownFile(ref, info); err != nil {
		return nil, err
	}
	file, err := root.OpenFile(place.rel, os.O_RDONLY|nonblock, 0)
	if err != nil {
		return nil, p.unopened(ref, place.path(), err)
	}
	if info, err = file.Stat(); err == nil {
		err = p.ownFile(ref, info)
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// ownFile refuses what may be below a root without belonging to it.
func (p Policy) ownFile(ref Ref, info fs.FileInfo) error {
	if !info.Mode().IsRegular() {
		return ref.refuse("%s may not name it: it is not a regular file", p.Of.event())
	}
	if n := hardLinks(info); n > 1 {
		return ref.denied("make it a file of its own: cp it, and mv the copy over it",
			"%s may not name it: the file has %d hard links, so it may also be a file outside %s", p.Of.event(), n, p.Of.setting("file_roots"))
	}
	return nil
}

// unopened says why a file or directory below a root could not be opened.
func (p Policy) unopened(ref Ref, path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return ref.notFound("", "%s does not exist", clean(path))
	case errors.Is(err, fs.ErrPermission):
		return ref.denied(mayRead, "Certpost (user %d) may not read %s, or a directory on the way to it", os.Geteuid(), clean(path))
	}
	return ref.unavailable("", "the file changed while it was opened, or it cannot be read at present")
}

const mayRead = "give the user that Certpost runs as permission to read it, and to read and enter every directory below the root"

// place is a file below a root, without symbolic links.
type place struct{ root, rel string }

func (p place) path() string { return filepath.Join(p.root, p.rel) }

// resolve follows the symbolic links of the file, and looks at nothing outside the
// roots: the author of an event must not learn whether a file there exists.
func (p Policy) resolve(ref Ref) (place, error) {
	if !filepath.IsAbs(ref.File) || filepath.Clean(ref.File) != ref.File {
		return place{}, ref.refuse("%s may not name it: the path is not absolute and clean", p.Of.event())
	}
	roots := p.roots()
	at, rel := start(roots, ref.File)
	if rel == "" {
		return place{}, ref.denied("add its directory to "+p.Of.setting("file_roots")+" if events should name it",
			"%s may not name it: it is not a file below %s", p.Of.event(), p.Of.setting("file_roots"))
	}
	if at.real == "" {
		return place{}, p.unopened(ref, at.named, at.err)
	}
	current, todo := at.real, segments(rel)
	for links := 0; len(todo) > 0; {
		next := filepath.Join(current, todo[0])
		info, err := os.Lstat(next)
		switch {
		case errors.Is(err, fs.ErrPermission):
			return place{}, ref.denied(mayRead, "Certpost (user %d) may not enter %s", os.Geteuid(), clean(current))
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
			return place{}, ref.notFound("", "%s does not exist", clean(next))
		case err != nil:
			return place{}, ref.unavailable("", "%s cannot be read at present", clean(next))
		case info.Mode()&fs.ModeSymlink == 0:
			current, todo = next, todo[1:]
			continue
		}
		to, err := os.Readlink(next)
		if links++; err != nil || links > maxLinks {
			return place{}, ref.refuse("%s may not name it: %s is a symbolic link that leads nowhere", p.Of.event(), clean(next))
		}
		if !filepath.IsAbs(to) {
			to = filepath.Join(current, to)
		}
		at, rel := start(roots, filepath.Clean(to))
		if rel == "" || at.real == "" {
			return place{}, ref.denied(fmt.Sprintf("add %s to %s if events should name its files", clean(filepath.Dir(to)), p.Of.setting("file_roots")),
				"%s may not name it: %s is a symbolic link to %s, which is outside %s", p.Of.event(), clean(next), clean(to), p.Of.setting("file_roots"))
		}
		current, todo = at.real, append(segments(rel), todo[1:]...)
	}
	for _, r := range roots {
		if rel, err := filepath.Rel(r.real, current); r.real != "" && err == nil && rel != "." && filepath.IsLocal(rel) {
			return place{r.real, rel}, nil
		}
	}
	return place{}, ref.refuse("%s may not name it: it is a directory of %s", p.Of.event(), p.Of.setting("file_roots"))
}

// maxLinks is the number of symbolic links that one path may have, as in Linux.
const maxLinks = 40

// fileRoot is one of Policy.FileRoots: as configured, and without symbolic links.
type fileRoot struct {
	named, real string
	err         error // why real is empty
}

func (p Policy) roots() []fileRoot {
	all := make([]fileRoot, 0, len(p.FileRoots))
	for _, named := range p.FileRoots {
		real, err := filepath.EvalSymlinks(named)
		if err != nil {
			real = ""
		}
		all = append(all, fileRoot{filepath.Clean(named), real, err})
	}
	return all
}

// start returns the root that has the path below it, and the path from there; rel is ""
// if there is none, "." for the root itself. Where the text of the path does not say so,
// links outside the roots may lead to one.
func start(roots []fileRoot, path string) (found fileRoot, rel string) {
	for _, r := range roots {
		if below := r.rel(path); below != "" && (rel == "" || found.real == "") {
			found, rel = r, below
		}
	}
	if rel != "" {
		return found, rel
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return fileRoot{}, ""
	}
	for _, r := range roots {
		if below := r.rel(real); below != "" {
			return r, below
		}
	}
	return fileRoot{}, ""
}

func segments(rel string) []string {
	if rel == "." {
		return nil
	}
	return strings.Split(rel, string(filepath.Separator))
}

// rel returns the path below the root, by its text; "." is the root itself, "" is outside.
func (r fileRoot) rel(path string) string {
	for _, base := range []string{r.named, r.real} {
		if base == "" {
			continue
		}
		if rel, err := filepath.Rel(base, path); err == nil && filepath.IsLocal(rel) {
			return rel
		}
	}
	return ""
}
