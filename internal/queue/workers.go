package queue

import (
	"sync"
	"sync/atomic"
	"time"
)

// workerRests is how long a worker waits for its next task before it ends.
const workerRests = time.Second

// workers run tasks, each as soon as it comes, in goroutines that take another task when they
// are done. An attempt needs a stack of 32 KiB, and the runtime gives that back when a goroutine
// ends: growing one for each delivery took 2 to 3 % of a mail's processor time.
type workers struct {
	waiting chan func()
	ended   chan struct{}
	running sync.WaitGroup
	made    atomic.Int64 // workers, for tests
}

func newWorkers() *workers {
	return &workers{waiting: make(chan func()), ended: make(chan struct{})}
}

// Go runs a task.
func (w *workers) Go(task func()) {
	select {
	case w.waiting <- task: // only if a worker rests
	default:
		w.made.Add(1)
		w.running.Go(func() { w.work(task) })
	}
}

func (w *workers) work(task func()) {
	rest := time.NewTimer(workerRests)
	defer rest.Stop()
	for {
		task()
		rest.Reset(workerRests)
		select {
		case task = <-w.waiting:
		case <-rest.C:
			return
		case <-w.ended:
			return
		}
	}
}

// Wait returns when all tasks are done. After it is called, no task may be added.
func (w *workers) Wait() {
	close(w.ended)
	w.running.Wait()
}
