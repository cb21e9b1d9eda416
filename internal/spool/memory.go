package spool

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// memoryFile has the ids of the events that were added, also of those that have left the
// spool: a watcher, or a client that says that nothing is new, publishes only what is not
// there.
const memoryFile = "published.json"

// maxRemembered bounds the memory. Beyond it, the certificates that expire first are forgotten.
const maxRemembered = 100_000

type memory struct {
	Version   int                  `json:"version"`
	Published map[string]time.Time `json:"published"` // until when to remember, by id
}

// Remember records that events were added to the spool, or published without it: ids, and
// the time until which each may come again, when its certificate expires.
func (s *Spool) Remember(ctx context.Context, ids map[string]time.Time) error {
	return s.recall(ctx, func(m map[string]time.Time) {
		maps.Copy(m, ids)
	})
}

// Forget undoes Remember.
func (s *Spool) Forget(ctx context.Context, id string) error {
	return s.recall(ctx, func(m map[string]time.Time) { delete(m, id) })
}

// Remembers reports whether an event was added.
func (s *Spool) Remembers(id string) (bool, error) {
	m, err := s.remembered()
	_, found := m[id]
	return found, err
}

func (s *Spool) recall(ctx context.Context, change func(map[string]time.Time)) error {
	unlock, err := s.openToAdd(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	m, err := s.remembered()
	if err != nil {
		return err
	}
	change(m)
	now := time.Now()
	maps.DeleteFunc(m, func(_ string, until time.Time) bool { return until.Before(now) })
	if excess := len(m) - maxRemembered; excess > 0 {
		for _, id := range slices.SortedFunc(maps.Keys(m), func(a, b string) int { return m[a].Compare(m[b]) })[:excess] {
			delete(m, id)
		}
	}
	body, err := json.Marshal(memory{version, m})
	if err != nil {
		return err
	}
	return s.write(memoryFile, body)
}

// remembered reads the memory; it is empty before the first Remember.
func (s *Spool) remembered() (map[string]time.Time, error) {
	body, err := os.ReadFile(filepath.Join(s.dir, memoryFile))
	if errors.Is(err, fs.ErrNotExist) {
		return map[string]time.Time{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	var m memory
	if err := json.Unmarshal(body, &m); err != nil || m.Version != version {
		return nil, fmt.Errorf("spool: %s cannot be read: remove it; certificates may then be published once more", filepath.Join(s.dir, memoryFile))
	}
	if m.Published == nil {
		m.Published = map[string]time.Time{}
	}
	return m.Published, nil
}
