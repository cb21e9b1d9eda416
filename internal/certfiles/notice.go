package certfiles

import (
	"context"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

// debounce is the pause after a change in which more changes are waited for.
const debounce = 50 * time.Millisecond

// Notices tells when something below directories may have changed. It is a hint: changes
// behind links, on network file systems, or too many at once are not noticed.
type Notices struct {
	// C gets a value some time after changes.
	C <-chan struct{}

	watcher *fsnotify.Watcher
	c       chan struct{}
}

// Notice starts to watch. The error says that this machine cannot, and changes are found only by
// looking again.
func Notice(ctx context.Context, dirs []string) (*Notices, error) {
	w, err := fsnotify.NewBufferedWatcher(1024)
	if err != nil {
		return nil, err
	}
	c := make(chan struct{}, 1)
	n := &Notices{C: c, c: c, watcher: w}
	if err := n.Extend(dirs); err != nil {
		w.Close()
		return nil, err
	}
	go n.run(ctx)
	return n, nil
}

// Extend watches the directories that exist now. It is called after each look, because new
// directories are not watched by themselves.
func (n *Notices) Extend(dirs []string) error {
	listed := map[string]bool{}
	for _, path := range n.watcher.WatchList() { // without those that were removed
		listed[path] = true
	}
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err != nil || !e.IsDir() {
				return nil // the look reports it
			}
			if strings.HasPrefix(e.Name(), "..") && path != dir {
				return fs.SkipDir
			}
			if depth := strings.Count(path, string(filepath.Separator)) - strings.Count(dir, string(filepath.Separator)); depth > maxDepth {
				return fs.SkipDir
			}
			if listed[path] {
				return nil
			}
			return n.watcher.Add(path)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// run passes on that something happened, until the context ends.
func (n *Notices) run(ctx context.Context) {
	defer n.watcher.Close()
	var due <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case _, ok := <-n.watcher.Events:
			if !ok {
				return
			}
		case _, ok := <-n.watcher.Errors: // such as too many events at once: look again
			if !ok {
				return
			}
		case <-due:
			due = nil
			select {
			case n.c <- struct{}{}:
			default:
			}
			continue
		}
		if due == nil {
			due = time.After(debounce)
		}
	}
}
