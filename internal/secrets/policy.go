package secrets

import (
	"cmp"
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
	// all symbolic links are resolved, and is a regular file without further hard links.
	FileRoots []string
	// Of says whose policy this is, for errors: that of one source of events. The zero value
	// means all events.
	Of Origin
}

// Origin names the source that a policy applies to, and the setting that holds it.
type Origin struct {
	Source  string // as errors show it: `source "web1"`
	Setting string // without .secret_paths: events.sources.web1
}

// event is "an event", with its source if the policy is that of one.
func (o Origin) event() string {
	if o.Source == "" {
		return "an event"
	}
	return "an event of " + o.Source
}

func (o Origin) setting(key string) string { return cmp.Or(o.Setting, "events") + "." + key }

// IsZero reports whether nothing is set.
func (p Policy) IsZero() bool { return len(p.Paths) == 0 && len(p.FileRoots) == 0 }

// Validate returns the problems of the policy: globs that match nothing, and roots
// that are not absolute. Problem.Path is such as "secret_paths[0]".
func (p Policy) Validate() []Problem {
	var found problems
	for i, glob := range p.Paths {
		at := fmt.Sprintf("secret_paths[%d]", i)
		if strings.HasPrefix(strings.TrimPrefix(glob, "/"), "v1/") || strings.Contains(glob, "://") {
			found.add(at, "is a path of Vault's API or a URL: begin with the mount, such as secret/certs/*")
		} else if err := validateSegments("glob", strings.ReplaceAll(glob, "**", "x")); err != nil {
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
		} else if filepath.Clean(root) == filepath.Dir(root) {
			found.add(fmt.Sprintf("file_roots[%d]", i), "is the whole file system: name the directory that has the certificates")
		}
	}
	return found
}

// Allows returns nil, or an error that says why an event may not name the reference. It
// fetches nothing. A file may change afterwards, so Store.OfEvent reads the one that it
// has judged.
func (p Policy) Allows(ref Ref) error {
	if err := ref.Validate(); err != nil {
		return ref.refuse("%s may not name it: %v", p.Of.event(), err)
	}
	switch {
	case ref.Vault != nil:
		if strings.ContainsAny(ref.Vault.Path, "{}") {
			return ref.refuse("%s may not use path templates", p.Of.event())
		}
		return p.allowsPath(ref, ref.Vault.Mount+"/"+ref.Vault.Path)
	case ref.Transit != nil:
		return p.allowsPath(ref, ref.Transit.Mount+"/"+ref.Transit.Key)
	case ref.File != "":
		file, err := p.open(ref)
		if err == nil {
			file.Close()
		}
		return err
	}
	return ref.refuse("%s may name only secrets in vault, transit and file", p.Of.event())
}

func (p Policy) allowsPath(ref Ref, location string) error {
	for _, glob := range p.Paths {
		if globMatches(glob, location) {
			return nil
		}
	}
	for _, glob := range p.Paths {
		if mount, rest, found := strings.Cut(glob, "/data/"); found && globMatches(mount+"/"+rest, location) {
			return ref.denied("write "+clean(mount+"/"+rest)+" in "+p.Of.setting("secret_paths")+": references and globs leave out the data/ of KV version 2",
				"%s may not name it: it is outside %s", p.Of.event(), p.Of.setting("secret_paths"))
		}
	}
	return ref.denied("add its path to "+p.Of.setting("secret_paths")+" if events should name it",
		"%s may not name it: it is outside %s", p.Of.event(), p.Of.setting("secret_paths"))
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
