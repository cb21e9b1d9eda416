package secrets

import (
	"fmt"
	"path"
	"path/filepath"
	"strings"
)

// Policy says which secrets an event may name. An event's author is not the
// operator: without a policy he could have any secret mailed out that Certpost
// can read. The zero Policy allows nothing.
type Policy struct {
	// Paths are globs on mount/path of a Vault secret ("secret/certs/*") and on
	// mount/key of a transit key ("transit/certs"). * stands for any characters
	// but a slash, so secret/certs/* is one level; a last segment ** stands for
	// one or more segments, whatever they are.
	Paths []string
	// FileRoots are directories. A file is allowed when it lies below one of them
	// after all symbolic links are resolved.
	FileRoots []string
}

// Validate lists what is wrong with the policy: globs that fit nothing, and
// roots that are not absolute. Problem.Path is "secret_paths[0]" or the like.
func (p Policy) Validate() []Problem {
	var found problems
	for i, glob := range p.Paths {
		at := fmt.Sprintf("secret_paths[%d]", i)
		if err := validateSegments("glob", strings.ReplaceAll(glob, "**", "x")); err != nil {
			found.add(at, strings.TrimPrefix(err.Error(), "glob: "))
		} else if _, err := path.Match(glob, ""); err != nil {
			found.add(at, "is not a glob: a [ without a ]")
		} else if !strings.Contains(glob, "/") {
			found.add(at, "names a mount and no path below it: add /* for one level, /** for all")
		} else if i := strings.Index(glob, "**"); i >= 0 && (i != len(glob)-2 || glob[i-1] != '/') {
			found.add(at, "** may stand for the last segments alone, after a slash")
		}
	}
	for i, root := range p.FileRoots {
		if !filepath.IsAbs(root) {
			found.add(fmt.Sprintf("file_roots[%d]", i), "is not an absolute path")
		}
	}
	return found
}

// Allows returns nil, or an ErrDenied that says why the reference may not stand
// in an event. Nothing is fetched for it.
func (p Policy) Allows(ref Ref) error {
	if err := ref.Validate(); err != nil {
		return ref.refuse("an event may not name it: %v", err)
	}
	switch {
	case ref.Vault != nil:
		if strings.ContainsAny(ref.Vault.Path, "{}") {
			return ref.refuse("an event may not use path templates")
		}
		return p.allowsPath(ref, ref.Vault.Mount+"/"+ref.Vault.Path)
	case ref.Transit != nil:
		return p.allowsPath(ref, ref.Transit.Mount+"/"+ref.Transit.Key)
	case ref.File != "":
		return p.allowsFile(ref)
	}
	return ref.refuse("an event may name secrets in vault, transit and file alone")
}

func (p Policy) allowsPath(ref Ref, location string) error {
	for _, glob := range p.Paths {
		if globMatches(glob, location) {
			return nil
		}
	}
	return ref.denied("add its path to events.secret_paths if events are meant to name it",
		"an event may not name it: it lies outside events.secret_paths")
}

// globMatches compares segment by segment; both are clean (no empty segments, no dots).
func globMatches(glob, location string) bool {
	globs, segments := strings.Split(strings.Trim(glob, "/"), "/"), strings.Split(location, "/")
	if last := len(globs) - 1; globs[last] == "**" && len(segments) > last {
		globs, segments = globs[:last], segments[:last]
	}
	if len(globs) != len(segments) {
		return false
	}
	for i, g := range globs {
		if ok, err := path.Match(g, segments[i]); err != nil || !ok {
			return false
		}
	}
	return true
}

func (p Policy) allowsFile(ref Ref) error {
	if !filepath.IsAbs(ref.File) || filepath.Clean(ref.File) != ref.File {
		return ref.refuse("an event may not name it: the path is not absolute and clean")
	}
	for _, root := range p.FileRoots {
		inside, err := liesBelow(root, ref.File)
		if err != nil {
			continue // a root, or the file below it, is not there
		}
		if inside {
			return nil
		}
	}
	// Whether a file outside exists is nothing an event's author may learn: the
	// answer is the same for one that does not.
	return ref.denied("add its directory to events.file_roots if events are meant to name it",
		"an event may not name it: it is not a file below events.file_roots")
}

// liesBelow follows all symbolic links of both before it compares.
func liesBelow(root, file string) (bool, error) {
	realRoot, err := filepath.EvalSymlinks(root)
	if err != nil {
		return false, err
	}
	realFile, err := filepath.EvalSymlinks(file)
	if err != nil {
		return false, err
	}
	rel, err := filepath.Rel(realRoot, realFile)
	return err == nil && rel != "." && filepath.IsLocal(rel), err
}
