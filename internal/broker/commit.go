package broker

import (
	"context"
	"slices"
	"sync"
)

// maxSingleWrites is how many entries are on their way one by one before others
// wait: enough to keep the server busy, few enough for a group to gather.
const maxSingleWrites = 4

// committer writes the entries of many workers in groups ("group commit"), where
// every write is flushed to disk by itself and a group needs a few flushes for
// all. While few write, each writes alone and waits for nobody. When enough wait
// they go as one, and while that is being written others gather for the next.
//
// It has no goroutine of its own to stop: whoever comes or goes sends the next
// ones on their way.
type committer struct {
	// writeSingle writes one entry.
	writeSingle func(context.Context, entryWrite) (revision uint64, err error)
	// writeGroup writes entries of different keys, all or none, and returns the
	// revision of the last; the others' precede it without gaps. After an error it
	// may not be known whether all or none are written.
	writeGroup func([]entryWrite) (last uint64, err error)

	mu           sync.Mutex
	singleWrites int        // entries on their way one by one
	group        bool       // a group is on its way
	waiting      []*waiting // in the order of their arrival
}

// entryWrite is one compare-and-set: the value, if the revision of the key is
// still that one (0: none yet).
type entryWrite struct {
	key      string
	value    []byte
	revision uint64
}

type waiting struct {
	entryWrite
	ready   chan struct{} // closed when its turn has come
	written uint64        // the new revision; 0: it is to be written alone
}

// put writes one entry and returns its new revision. What a group could not
// write, for whatever reason, each member writes alone: it then hears what is
// wrong with its own entry, and finds its own value there if the group was
// written after all and only the acknowledgement lost.
func (c *committer) put(ctx context.Context, e entryWrite) (uint64, error) {
	w := &waiting{entryWrite: e, ready: make(chan struct{})}
	c.mu.Lock()
	c.waiting = append(c.waiting, w)
	c.dispatch()
	c.mu.Unlock()
	select {
	case <-w.ready:
	case <-ctx.Done():
		if c.removeWaiting(w) {
			return 0, ctx.Err()
		}
		<-w.ready // it is being written: what became of it is known in a moment
	}
	if w.written != 0 {
		return w.written, nil
	}
	defer c.endSingle()
	return c.writeSingle(ctx, e)
}

// removeWaiting takes one out that waits; false if its turn has come.
func (c *committer) removeWaiting(w *waiting) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.Index(c.waiting, w)
	if i >= 0 {
		c.waiting = slices.Delete(c.waiting, i, i+1)
	}
	return i >= 0
}

// endSingle ends a write alone.
func (c *committer) endSingle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.singleWrites--
	c.dispatch()
}

// dispatch gives those their turn who need not wait. The lock is held.
func (c *committer) dispatch() {
	for len(c.waiting) > 0 && !c.group {
		switch {
		case len(c.waiting) >= batchFrom:
			c.group = true
			go c.commit(c.nextGroup())
		case c.singleWrites < maxSingleWrites:
			c.singleWrites++
			close(c.waiting[0].ready)
			c.waiting = slices.Delete(c.waiting, 0, 1)
		default:
			return
		}
	}
}

// nextGroup takes the next group: the first of each key, because a batch writes a
// key once. The lock is held.
func (c *committer) nextGroup() []*waiting {
	var group, rest []*waiting
	keys := map[string]bool{}
	for _, w := range c.waiting {
		if keys[w.key] || len(group) == maxBatch {
			rest = append(rest, w)
			continue
		}
		keys[w.key] = true
		group = append(group, w)
	}
	c.waiting = rest
	return group
}

// commit writes a group and tells its members.
func (c *committer) commit(group []*waiting) {
	writes := make([]entryWrite, len(group))
	for i, w := range group {
		writes[i] = w.entryWrite
	}
	last, err := c.writeGroup(writes)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.group = false
	for i, w := range group {
		if err != nil {
			c.singleWrites++
		} else {
			w.written = last - uint64(len(group)-1-i)
		}
		close(w.ready)
	}
	c.dispatch()
}
