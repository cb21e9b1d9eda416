package secrets

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/certpost/certpost/internal/tracing"
)

// cache keeps values for a limited time, and lets one read serve all callers that ask
// for the same key at the same time.
//
// A read runs under the cache's own context: when the caller that started it stops
// waiting, the others still get their answer.
type cache[T any] struct {
	life     context.Context
	patience time.Duration // bounds one read
	flights  singleflight.Group

	mu      sync.Mutex
	entries map[string]*cached[T] // guarded by mu
}

// cached is a value with the time at which its read began: later changes in the store
// may not be in it.
type cached[T any] struct {
	value T
	began time.Time
}

func newCache[T any](life context.Context, patience time.Duration) *cache[T] {
	return &cache[T]{life: life, patience: patience, entries: map[string]*cached[T]{}}
}

// get returns the value cached under key if its read began at or after since (the
// zero time accepts every cached value), else it calls read. read returns for how
// long its result may be cached; with 0 the result serves only the callers that wait
// for it. The error is that of read, or ctx.Err() when ctx ends first.
func (c *cache[T]) get(ctx context.Context, key string, since time.Time, read func(context.Context) (T, time.Duration, error)) (T, error) {
	for {
		if entry := c.lookup(key, since); entry != nil {
			return entry.value, nil
		}
		flight := c.flights.DoChan(key, func() (any, error) {
			// Another flight may have ended since the lookup above.
			if entry := c.lookup(key, since); entry != nil {
				return entry, nil
			}
			return c.fly(ctx, key, read)
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
			// The joined flight began before since, so its value may be too old. The
			// next flight begins after since.
		}
	}
}

// fly reads for all callers that wait, also when the first one has gone; its spans are within that of the first one.
func (c *cache[T]) fly(first context.Context, key string, read func(context.Context) (T, time.Duration, error)) (*cached[T], error) {
	ctx, cancel := context.WithTimeout(tracing.WithSpanOf(c.life, first), c.patience)
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

// keep caches the entry for ttl and then removes it: a secret must not stay in memory
// only because no caller asks for it again.
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

// drop removes the value cached under key.
func (c *cache[T]) drop(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.entries, key)
}

// clear removes all cached values.
func (c *cache[T]) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.entries)
}
