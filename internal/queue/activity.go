package queue

import (
	"sync"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/verdict"
)

// activity counts what became of a lane's attempts, by minute: a lane whose relay answers is not
// one that delivers.
type activity struct {
	now func() time.Time

	mu      sync.Mutex
	minutes [60]minute
	last    broker.LaneActivity // the times and the failure; not the counts
}

// minute counts the attempts that ended in one minute.
type minute struct {
	at               int64 // minutes since 1970
	accepted, failed int
}

// note counts an attempt. One that was not made, because of a breaker or by policy, does not count.
func (a *activity) note(receipt *verdict.Receipt, f *verdict.Failure) {
	if f != nil && (f.Untried || f.Skip || f.Hold != nil) {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now()
	at := now.Unix() / 60
	m := &a.minutes[at%int64(len(a.minutes))]
	if m.at != at {
		*m = minute{at: at}
	}
	if f == nil && receipt != nil {
		m.accepted++
		a.last.LastAccepted = now
		return
	}
	m.failed++
	a.last.LastFailed = now
	if f != nil {
		a.last.Failure = f.Code
	}
}

// lately is the sum of the last hour; nil if there was no attempt since the process started.
func (a *activity) lately() *broker.LaneActivity {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.last.LastAccepted.IsZero() && a.last.LastFailed.IsZero() {
		return nil
	}
	sum, now := a.last, a.now().Unix()/60
	for _, m := range a.minutes {
		if now-m.at < int64(len(a.minutes)) {
			sum.Accepted, sum.Failed = sum.Accepted+m.accepted, sum.Failed+m.failed
		}
	}
	return &sum
}
