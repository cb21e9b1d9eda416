package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
)

// The members of a group that could not be written write singly, and are counted while they
// do: further writes wait for their turn as always.
func TestMembersOfAFailedGroupAreCounted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &fakeStore{open: make(chan struct{})}
		fail := make(chan struct{})
		c := &committer{writeSingle: s.alone, writeGroup: func([]entryWrite) (uint64, error) {
			<-fail
			return 0, errors.New("the acknowledgement was lost")
		}}
		written := make(chan string, 100)
		put := func(key string) {
			go func() {
				if _, err := c.put(t.Context(), entryWrite{key: key}); err != nil {
					t.Error(err)
				}
				written <- key
			}()
			synctest.Wait()
		}
		counts := func(when string, single, waiting int, group bool) {
			t.Helper()
			synctest.Wait()
			c.mu.Lock()
			defer c.mu.Unlock()
			if c.singleWrites != single || len(c.waiting) != waiting || c.group != group {
				t.Errorf("%s: %d single writes, %d waiting, group %v; want %d, %d, %v", when, c.singleWrites, len(c.waiting), c.group, single, waiting, group)
			}
		}
		for i := range maxSingleWrites {
			put(fmt.Sprintf("first-%d", i))
		}
		for i := range batchFrom {
			put(fmt.Sprintf("group-%d", i))
		}
		counts("a group is written", maxSingleWrites, 0, true)
		fail <- struct{}{}
		counts("the group has failed", maxSingleWrites+batchFrom, 0, false)
		put("late")
		counts("one more", maxSingleWrites+batchFrom, 1, false)
		for range batchFrom {
			s.open <- struct{}{}
		}
		counts("as many as before the group", maxSingleWrites, 1, false)
		s.open <- struct{}{}
		counts("the late one writes", maxSingleWrites, 0, false)
		for range maxSingleWrites {
			s.open <- struct{}{}
		}
		counts("at the end", 0, 0, false)
		if n := maxSingleWrites + batchFrom + 1; len(written) != n || len(s.single) != n {
			t.Errorf("%d calls ended, %d entries written, want %d", len(written), len(s.single), n)
		}
	})
}

// A caller that waits for its turn and gives up is told at once, and nothing of it is
// written later. One whose entry is being written is told the outcome instead.
func TestWaitingWritersMayLeave(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &fakeStore{open: make(chan struct{})}
		c := &committer{writeSingle: s.alone, writeGroup: s.together}
		ctx, cancel := context.WithCancel(t.Context())
		outcome := map[string]chan error{}
		put := func(ctx context.Context, key string) {
			outcome[key] = make(chan error, 1)
			go func() {
				_, err := c.put(ctx, entryWrite{key: key})
				outcome[key] <- err
			}()
			synctest.Wait()
		}
		for i := range maxSingleWrites {
			put(t.Context(), fmt.Sprintf("busy-%d", i))
		}
		put(ctx, "leaves")
		cancel()
		synctest.Wait()
		select {
		case err := <-outcome["leaves"]:
			if !errors.Is(err, context.Canceled) {
				t.Errorf("the one that leaves: %v", err)
			}
		default:
			t.Error("the one that leaves still waits")
		}

		ctx, cancel = context.WithCancel(t.Context())
		put(ctx, "in the group")
		for i := range batchFrom - 1 {
			put(t.Context(), fmt.Sprintf("group-%d", i))
		}
		cancel()
		synctest.Wait()
		if len(outcome["in the group"]) != 0 {
			t.Error("its entry is being written, and it does not wait for the outcome")
		}
		for range maxSingleWrites + 1 {
			s.open <- struct{}{}
		}
		synctest.Wait()
		if err := <-outcome["in the group"]; err != nil {
			t.Errorf("written with its group: %v", err)
		}
		if s.seq != uint64(maxSingleWrites+batchFrom) || len(s.groups) != 1 || slices.Contains(s.groups[0], "leaves") || slices.Contains(s.single, "leaves") {
			t.Errorf("%d entries written, in groups %q, singly %q; want nothing of the one that left", s.seq, s.groups, s.single)
		}
	})
}
