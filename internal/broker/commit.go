package broker

import (
	"context"
	"slices"
	"sync"
)

// maxSingleWrites is how many entries are written singly at the same time before others
// wait: enough to keep the server busy, few enough for a group to gather.
const maxSingleWrites = 4

// committer writes the entries of many workers in groups ("group commit"), for a store that
// flushes every write to disk: a single write costs one flush, a group needs a few flushes
// for all. While few workers write, each writes its entry at once. When enough wait, they
// are written as one group, and meanwhile others gather for the next.
//
// It has no goroutine to stop: each call that adds, removes or ends a write starts the next
// ones.
type committer struct {
	// writeSingle writes one entry.
	writeSingle func(context.Context, entryWrite) (revision uint64, err error)
	// writeGroup writes entries of different keys, all or none, and returns the revision of
	// the last; the others' precede it without gaps. After an error it may be unknown
	// whether all or none are written.
	writeGroup func([]entryWrite) (last uint64, err error)

	mu           sync.Mutex
	singleWrites int        // single writes in progress
	group        bool       // a group is being written
	waiting      []*waiting // in order of arrival
}

// entryWrite is one compare-and-set: the value, if the key's revision is still this one (0:
// no entry yet).
type entryWrite struct {
	key      string
	value    []byte
	revision uint64
}

type waiting struct {
	entryWrite
	ready   chan struct{} // closed when its turn has come
	written uint64        // the new revision; 0: to be written singly
}

// put writes one entry and returns its new revision. If a group could not be written, for
// whatever reason, each member writes its entry singly: it then gets the error of its own
// entry, or finds its own value stored if the group was written and only the
// acknowledgement was lost.
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
		<-w.ready // it is being written: its outcome follows soon
	}
	if w.written != 0 {
		return w.written, nil
	}
	defer c.endSingle()
	return c.writeSingle(ctx, e)
}

// removeWaiting removes a write that waits; false if it is already being written.
func (c *committer) removeWaiting(w *waiting) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.Index(c.waiting, w)
	if i >= 0 {
		c.waiting = slices.Delete(c.waiting, i, i+1)
	}
	return i >= 0
}

// endSingle ends a single write.
func (c *committer) endSingle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.singleWrites--
	c.dispatch()
}

// dispatch starts the waiting writes that may start now. The lock is held.
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

// nextGroup takes the next group: the first write of each key, because a batch writes a key
// only once. The lock is held.
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

// commit writes a group and reports the revision, or the failure, to its members.
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
