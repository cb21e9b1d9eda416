package secrets

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// RootFinding is the result of trying one root of a Policy.
type RootFinding struct {
	Root  string
	Files int // that events may name and Certpost can read
	// Warnings say what below the root cannot be read and why, at most maxRootWarnings.
	Warnings []string
	// Err says that the root itself cannot be used. It is an *Error.
	Err error
}

const (
	maxRootEntries  = 10_000 // that are tried below one root
	maxRootWarnings = 8
)

// TryRoots opens what is below each root as an event would, and reads nothing of it.
func (p Policy) TryRoots(ctx context.Context) []RootFinding {
	var all []RootFinding
	for _, root := range p.roots() {
		found := RootFinding{Root: root.named}
		ref := Ref{File: root.named}
		if root.err != nil {
			found.Err = p.unopened(ref, root.named, root.err)
			all = append(all, found)
			continue
		}
		entries, more := 0, 0
		warn := func(err error) {
			if len(found.Warnings) >= maxRootWarnings {
				more++
				return
			}
			found.Warnings = append(found.Warnings, err.Error())
		}
		_ = filepath.WalkDir(root.real, func(path string, entry fs.DirEntry, err error) error {
			switch entries++; {
			case ctx.Err() != nil || entries > maxRootEntries:
				warn(errors.New("not everything was tried, because there is too much below it"))
				return fs.SkipAll
			case err != nil && path == root.real:
				found.Err = p.unopened(ref, root.named, err)
			case err != nil:
				warn(p.unopened(Ref{File: path}, path, err))
			case entry.IsDir():
			case path == root.real:
				found.Err = ref.refuse("it is not a directory: name the one that has the files")
			default:
				file, err := p.open(Ref{File: path})
				if err != nil {
					if place, err := p.resolve(Ref{File: path}); err == nil && isDirectory(place.path()) {
						return nil // a link to a directory that is walked on its own
					}
					warn(err)
					return nil
				}
				file.Close()
				found.Files++
			}
			return nil
		})
		if more > 0 {
			found.Warnings = append(found.Warnings, fmt.Sprintf("%d more like these", more))
		}
		all = append(all, found)
	}
	return all
}

func isDirectory(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.IsDir()
}
