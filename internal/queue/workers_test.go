package queue

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestWorkersTakeTheNextTask(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorkers()
		var started, done atomic.Int32
		release := make(chan struct{})
		add := func(tasks int) {
			for range tasks {
				w.Go(func() {
					started.Add(1)
					<-release
					done.Add(1)
				})
			}
			synctest.Wait()
		}
		for round := range int32(3) {
			add(5) // as many as there are, at once
			if started.Load() != 5*(round+1) || w.made.Load() != 5 {
				t.Errorf("round %d: %d tasks were started, by %d workers", round, started.Load(), w.made.Load())
			}
			for range 5 {
				release <- struct{}{}
			}
			synctest.Wait()
		}
		time.Sleep(2 * workerRests)
		add(1)
		if w.made.Load() != 6 {
			t.Errorf("after a rest, %d workers were made", w.made.Load())
		}
		waited := make(chan struct{})
		go func() {
			w.Wait()
			close(waited)
		}()
		synctest.Wait()
		select {
		case <-waited:
			t.Error("Wait did not wait for the last task")
		default:
		}
		close(release)
		<-waited
		if done.Load() != 16 {
			t.Errorf("%d tasks were done", done.Load())
		}
	})
}
