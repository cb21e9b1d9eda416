package desk

import (
	"context"
	"fmt"
	"path"
	"sync"
)

// maxListeners bounds who is told of changes by one process; the dashboard's own bound
// on pages that are kept up to date is lower.
const maxListeners = 600

// listeners are those who want to hear of changes. Nobody waits for them: what one
// has not taken yet is made one with what comes next.
type listeners struct {
	mu    sync.Mutex
	all   map[chan Change]bool
	count uint64 // of changes ever told of
}

// Mark names the state of what the pages show, in this process: it is another one
// after every Change. Who asks for it before he reads, and listens later, can tell
// whether he has missed one in between.
func (d *Desk) Mark() string {
	l := &d.listeners
	l.mu.Lock()
	defer l.mu.Unlock()
	return fmt.Sprintf("%s-%d", path.Base(d.worker), l.count) // the worker ends with an id of this process's life
}

// Changes tells of what the pages show being different now, one Change at most
// waiting to be taken. The channel is closed when the context ends, and at once when
// there are as many listeners as are kept.
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

// notify tells all listeners.
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
		ch <- merged // there is room: nobody else sends
	}
}
