package secrets

import (
	"fmt"
	"path"
	"path/filepath"
	"strings"
)

// Policy says which secrets an event may name. The author of an event is not the
// operator: without a policy they could have every secret mailed out that Certpost can
// read. The zero Policy allows nothing.
type Policy struct {
	// Paths are globs on mount/path of a Vault secret ("secret/certs/*") and on
	// mount/key of a transit key ("transit/certs"). * matches any characters except a
	// slash, so secret/certs/* matches one level; ** as the last segment matches one or
	// more segments.
	Paths []string
	// FileRoots are directories. A file is allowed when it is below one of them after
	// all symbolic links are resolved.
	FileRoots []string
}

// Validate returns the problems of the policy: globs that match nothing, and roots
// that are not absolute. Problem.Path is such as "secret_paths[0]".
func (p Policy) Validate() []Problem {
	var found problems
	for i, glob := range p.Paths {
		at := fmt.Sprintf("secret_paths[%d]", i)
		if err := validateSegments("glob", strings.ReplaceAll(glob, "**", "x")); err != nil {
			found.add(at, strings.TrimPrefix(err.Error(), "glob: "))
		} else if _, err := path.Match(glob, ""); err != nil {
			found.add(at, "is not a valid glob: a [ without a ]")
		} else if !strings.Contains(glob, "/") {
			found.add(at, "has a mount but no path below it: add /* for one level, /** for all")
		} else if i := strings.Index(glob, "**"); i >= 0 && (i != len(glob)-2 || glob[i-1] != '/') {
			found.add(at, "** is allowed only as the last segment")
		}
	}
	for i, root := range p.FileRoots {
		if !filepath.IsAbs(root) {
			found.add(fmt.Sprintf("file_roots[%d]", i), "is not an absolute path")
		}
	}
	return found
}

// Allows returns nil, or an ErrDenied that says why an event may not name the
// reference. It fetches nothing.
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
	return ref.refuse("an event may name only secrets in vault, transit and file")
}

func (p Policy) allowsPath(ref Ref, location string) error {
	for _, glob := range p.Paths {
		if globMatches(glob, location) {
			return nil
		}
	}
	return ref.denied("add its path to events.secret_paths if events should name it",
		"an event may not name it: it is outside events.secret_paths")
}

// globMatches compares segment by segment. Both are clean: no empty segments, no dots.
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
			continue // the root, or the file below it, does not exist
		}
		if inside {
			return nil
		}
	}
	// The author of an event must not learn whether a file outside the roots exists:
	// the answer is the same for a file that does not.
	return ref.denied("add its directory to events.file_roots if events should name it",
		"an event may not name it: it is not a file below events.file_roots")
}

// liesBelow reports whether file is below root after all symbolic links of both are
// resolved.
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
