package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/certpost/certpost/internal/backoff"
	"github.com/rs/zerolog"
)

// fakeStore is a store that writes when the test lets it, and records how.
type fakeStore struct {
	open chan struct{} // a receive lets one write through

	mu     sync.Mutex
	seq    uint64
	groups [][]string // the keys of each group
	single []string
}

func (s *fakeStore) alone(ctx context.Context, e entryWrite) (uint64, error) {
	select {
	case <-s.open:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seq++
	s.single = append(s.single, e.key)
	return s.seq, nil
}

func (s *fakeStore) together(all []entryWrite) (uint64, error) {
	<-s.open
	s.mu.Lock()
	defer s.mu.Unlock()
	var keys []string
	for _, e := range all {
		keys = append(keys, e.key)
	}
	s.seq += uint64(len(all))
	s.groups = append(s.groups, keys)
	return s.seq, nil
}

func TestFewWriteAloneAndManyTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &fakeStore{open: make(chan struct{})}
		c := &committer{writeSingle: s.alone, writeGroup: s.together}
		revisions := map[string]uint64{}
		var mu sync.Mutex
		put := func(ctx context.Context, key string) {
			go func() {
				revision, err := c.put(ctx, entryWrite{key: key})
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					revisions[key] += revision
				}
			}()
			synctest.Wait() // in the order of the calls
		}
		for i := range maxSingleWrites {
			put(t.Context(), fmt.Sprintf("first-%d", i))
		}
		impatient, cancel := context.WithCancel(t.Context())
		put(impatient, "left")
		for i := range batchFrom - 2 {
			put(t.Context(), fmt.Sprintf("then-%d", i))
		}
		cancel() // a waiting caller leaves
		synctest.Wait()
		put(t.Context(), "then-0") // the same key again
		put(t.Context(), "last")   // enough for a group
		put(t.Context(), "late")   // while the group is being written
		if c.singleWrites != maxSingleWrites || !c.group || len(c.waiting) != 2 {
			t.Fatalf("%d alone, group %v, %d waiting", c.singleWrites, c.group, len(c.waiting))
		}
		for range maxSingleWrites + 3 {
			s.open <- struct{}{}
			synctest.Wait()
		}
		if len(s.groups) != 1 || len(s.groups[0]) != batchFrom-1 || slices.Contains(s.groups[0], "left") || slices.Contains(s.groups[0], "late") {
			t.Errorf("groups %q", s.groups)
		}
		if len(s.single) != maxSingleWrites+2 {
			t.Errorf("alone %q", s.single)
		}
		if _, written := revisions["left"]; written || len(revisions) != maxSingleWrites+batchFrom {
			t.Errorf("revisions %v", revisions)
		}
		// Each write has its own revision, and the key "then-0" has two.
		sum := uint64(0)
		for _, r := range revisions {
			sum += r
		}
		if n := uint64(maxSingleWrites + batchFrom - 1 + 2); s.seq != n || sum != n*(n+1)/2 {
			t.Errorf("%d writes, revisions %v", s.seq, revisions)
		}
		if c.singleWrites != 0 || c.group || len(c.waiting) != 0 {
			t.Errorf("at the end %d alone, group %v, %d waiting", c.singleWrites, c.group, len(c.waiting))
		}
	})
}

// openLedgerForTest is a ledger on a store that flushes every write.
func openLedgerForTest(t *testing.T) (*Broker, Ledger) {
	t.Helper()
	b, err := Open(Config{DataDir: t.TempDir(), Listen: "none"}, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	if err := b.EnsureTopology(t.Context()); err != nil {
		t.Fatal(err)
	}
	l, err := b.OpenLedger(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if l.groups == nil {
		t.Fatal("writes are not grouped")
	}
	return b, l
}

// Many workers write their entries repeatedly: each gets the revision that its entry
// has in the store, and can continue from it.
func TestGroupCommitGivesEachItsRevision(t *testing.T) {
	t.Parallel()
	_, l := openLedgerForTest(t)
	var grouped atomic.Int64
	together := l.groups.writeGroup
	l.groups.writeGroup = func(all []entryWrite) (uint64, error) {
		grouped.Add(int64(len(all)))
		return together(all)
	}
	const workers, rounds = 64, 10
	inParallel(workers, func(w int) {
		key, revision := fmt.Sprintf("target.e%d", w), uint64(0)
		for i := range rounds {
			var err error
			if revision, err = l.Put(t.Context(), key, Entry{Event: key, Attempts: i}, revision); err != nil {
				t.Errorf("%s, round %d: %v", key, i, err)
				return
			}
			entry, have, err := l.Get(t.Context(), key)
			if err != nil || have != revision || entry.Attempts != i {
				t.Errorf("%s, round %d: revision %d, in the store %d with %+v, %v", key, i, revision, have, entry, err)
			}
		}
	})
	if grouped.Load() < workers {
		t.Errorf("%d of %d writes were grouped", grouped.Load(), workers*rounds)
	}
}

// If many workers claim the same entry, one gets it and the others get ErrClaimLost;
// writes of other entries are not affected.
//
// Fault: two replicas. Result: each delivery is sent once.
func TestGroupCommitOneClaimWins(t *testing.T) {
	t.Parallel()
	_, l := openLedgerForTest(t)
	const keys, rivals = 40, 3
	won := make([]atomic.Int32, keys)
	inParallel(keys*rivals, func(i int) {
		key, me := fmt.Sprintf("target.e%d", i%keys), fmt.Sprint(i/keys)
		revision, err := l.Put(t.Context(), key, Entry{Owner: me}, 0)
		if errors.Is(err, ErrClaimLost) {
			return
		}
		if err != nil {
			t.Error(err)
			return
		}
		won[i%keys].Add(1)
		if entry, have, err := l.Get(t.Context(), key); err != nil || have != revision || entry.Owner != me {
			t.Errorf("%s is %+v at %d (%v), but %s was told that it owns it at %d", key, entry, have, err, me, revision)
		}
		// A write at a wrong revision is refused as well.
		if _, err := l.Put(t.Context(), key, Entry{Owner: me + "again"}, revision+1_000_000); !errors.Is(err, ErrClaimLost) {
			t.Errorf("%s at a wrong revision: %v", key, err)
		}
	})
	for k := range won {
		if n := won[k].Load(); n != 1 {
			t.Errorf("entry %d was given to %d", k, n)
		}
	}
}

// A group's acknowledgement is lost, or the group itself: each member finds out which,
// writes once and gets the right result.
func TestGroupCommitOutcomeUnknown(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]func(write func() (uint64, error)) error{
		"after it was written":   func(write func() (uint64, error)) error { _, err := write(); return err },
		"before it was written":  func(func() (uint64, error)) error { return nil },
		"while it is being read": func(write func() (uint64, error)) error { go write(); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, l := openLedgerForTest(t)
			var lost atomic.Int64
			together := l.groups.writeGroup
			l.groups.writeGroup = func(all []entryWrite) (uint64, error) {
				lost.Add(1)
				if err := fault(func() (uint64, error) { return together(all) }); err != nil {
					t.Error(err)
				}
				return 0, errors.New("the connection was lost")
			}
			const workers, rounds = 48, 5
			inParallel(workers, func(w int) {
				key, revision := fmt.Sprintf("target.e%d", w), uint64(0)
				for i := range rounds {
					var err error
					if revision, err = l.Put(t.Context(), key, Entry{Event: key, Attempts: i}, revision); err != nil {
						t.Errorf("%s, round %d: %v", key, i, err)
						return
					}
				}
				if entry, have, err := l.Get(t.Context(), key); err != nil || have != revision || entry.Attempts != rounds-1 {
					t.Errorf("%s: revision %d, in the store %d with %+v, %v", key, revision, have, entry, err)
				}
			})
			if lost.Load() == 0 {
				t.Error("there was no group")
			}
		})
	}
}

// The connection is lost repeatedly while groups are written. A worker that gets an
// error retries the same write, as a delivery that was sent does, and is never
// refused, because no other worker wrote the entry.
//
// Fault: connections reset. Result: reconnects.
func TestGroupCommitConnectionLost(t *testing.T) {
	t.Parallel()
	b, l := openLedgerForTest(t)
	var groups atomic.Int64
	together := l.groups.writeGroup
	l.groups.writeGroup = func(all []entryWrite) (uint64, error) {
		if groups.Add(1)%8 == 4 {
			done := make(chan struct{})
			defer func() { <-done }()
			go func() {
				defer close(done)
				id, err := b.nc.GetClientID()
				if err == nil {
					err = b.server.srv.DisconnectClientByID(id)
				}
				if err != nil {
					t.Log(err) // not connected at this moment
				}
			}()
		}
		return together(all)
	}
	const workers, rounds = 48, 8
	inParallel(workers, func(w int) {
		key, revision := fmt.Sprintf("target.e%d", w), uint64(0)
		for i := range rounds {
			for {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				next, err := l.Put(ctx, key, Entry{Event: key, Attempts: i}, revision)
				cancel()
				if err == nil {
					revision = next
					break
				}
				if errors.Is(err, ErrClaimLost) {
					t.Errorf("%s, round %d: %v", key, i, err)
					return
				}
				backoff.Sleep(t.Context(), 50*time.Millisecond)
			}
		}
		entry, have, err := l.Get(t.Context(), key)
		for err != nil && t.Context().Err() == nil {
			backoff.Sleep(t.Context(), 50*time.Millisecond)
			entry, have, err = l.Get(t.Context(), key)
		}
		if have != revision || entry.Attempts != rounds-1 {
			t.Errorf("%s: revision %d, in the store %d with %+v", key, revision, have, entry)
		}
	})
	if groups.Load() < 4 {
		t.Errorf("only %d groups", groups.Load())
	}
}

func inParallel(n int, do func(int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { do(i) })
	}
	wg.Wait()
}
