package desk

import (
	"context"
	"fmt"
	"path"
	"sync"
)

// maxListeners bounds the listeners of one process. The dashboard's own bound on pages
// that are kept up to date is lower.
const maxListeners = 600

// listeners are the channels that receive changes. Sending never waits for a listener: a
// change that it has not received yet is merged with the next one.
type listeners struct {
	mu    sync.Mutex
	all   map[chan Change]bool
	count uint64 // of changes sent so far
}

// Mark identifies the state of what the pages show, in this process: every Change makes
// it a different one. A caller that gets the mark before it reads, and listens later, can
// tell whether it has missed a change in between.
func (d *Desk) Mark() string {
	l := &d.listeners
	l.mu.Lock()
	defer l.mu.Unlock()
	return fmt.Sprintf("%s-%d", path.Base(d.worker), l.count) // the last part of worker is unique to this process
}

// Changes returns a channel that reports changes of what the pages show. At most one
// Change waits in it. The channel is closed when the context ends, and at once if there
// are already maxListeners.
func (d *Desk) Changes(ctx context.Context) <-chan Change {
	ch := make(chan Change, 1)
	l := &d.listeners
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.all) >= maxListeners || ctx.Err() != nil {
		close(ch)
		return ch
	}
	if l.all == nil {
		l.all = map[chan Change]bool{}
	}
	l.all[ch] = true
	context.AfterFunc(ctx, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.all, ch)
		close(ch)
	})
	return ch
}

// notify sends a change to all listeners.
func (l *listeners) notify(c Change) {
	if c == (Change{}) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count++
	for ch := range l.all {
		merged := c
		select {
		case earlier := <-ch:
			merged.Letters = merged.Letters || earlier.Letters
			merged.Runs = merged.Runs || earlier.Runs
			merged.Lanes = merged.Lanes || earlier.Lanes
			merged.Audit = merged.Audit || earlier.Audit
			merged.Newer += earlier.Newer
		default:
		}
		ch <- merged // never blocks: only notify sends, and it holds the lock
	}
}
