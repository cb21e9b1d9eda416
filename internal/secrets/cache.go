package secrets

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

// cache keeps what was read for a while, and lets one read serve everybody who
// asks for the same key at the same time.
//
// A read runs under the cache's own context: when the caller that began it
// gives up, the others still get their answer.
type cache[T any] struct {
	life     context.Context
	patience time.Duration // bounds one read
	flights  singleflight.Group

	mu      sync.Mutex
	entries map[string]*cached[T] // guarded by mu
}

// cached is a value with the moment at which reading it began: what was changed
// in the store after that moment may be missing from it.
type cached[T any] struct {
	value T
	began time.Time
}

func newCache[T any](life context.Context, patience time.Duration) *cache[T] {
	return &cache[T]{life: life, patience: patience, entries: map[string]*cached[T]{}}
}

// get returns what is kept under key if reading it began at or after since (the
// zero time takes anything that is kept), else it reads. read says how long its
// result may be kept; 0 is not at all, and then it serves only those who wait
// for it. The error is read's, or ctx.Err() when ctx ends first.
func (c *cache[T]) get(ctx context.Context, key string, since time.Time, read func(context.Context) (T, time.Duration, error)) (T, error) {
	for {
		if entry := c.lookup(key, since); entry != nil {
			return entry.value, nil
		}
		flight := c.flights.DoChan(key, func() (any, error) {
			// Between our look and this flight another one may have landed.
			if entry := c.lookup(key, since); entry != nil {
				return entry, nil
			}
			return c.fly(key, read)
		})
		select {
		case <-ctx.Done():
			var none T
			return none, ctx.Err()
		case landed := <-flight:
			entry := landed.Val.(*cached[T])
			if !entry.began.Before(since) {
				return entry.value, landed.Err
			}
			// We joined a flight that began before we were called, so it may bring
			// yesterday's value. The next one cannot.
		}
	}
}

func (c *cache[T]) fly(key string, read func(context.Context) (T, time.Duration, error)) (*cached[T], error) {
	ctx, cancel := context.WithTimeout(c.life, c.patience)
	defer cancel()
	entry := &cached[T]{began: time.Now()}
	value, ttl, err := read(ctx)
	entry.value = value
	if err == nil && ttl > 0 {
		c.keep(key, entry, ttl)
	}
	return entry, err
}

func (c *cache[T]) lookup(key string, since time.Time) *cached[T] {
	c.mu.Lock()
	defer c.mu.Unlock()
	if entry, ok := c.entries[key]; ok && !entry.began.Before(since) {
		return entry
	}
	return nil
}

// keep holds the entry for ttl and no longer: a value that nobody asks for again
// must not stay in memory.
func (c *cache[T]) keep(key string, entry *cached[T], ttl time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.entries[key] = entry
	time.AfterFunc(ttl-time.Since(entry.began), func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.entries[key] == entry {
			delete(c.entries, key)
		}
	})
}

// drop forgets what is kept under key.
func (c *cache[T]) drop(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.entries, key)
}

// clear forgets everything.
func (c *cache[T]) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.entries)
}
