package backoff

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestJitterSpreadsAndStaysNear(t *testing.T) {
	t.Parallel()
	low, high := time.Hour, time.Duration(0)
	for range 1000 {
		d := Jitter(time.Second)
		low, high = min(low, d), max(high, d)
	}
	if low < 800*time.Millisecond || high > 1200*time.Millisecond || high-low < 300*time.Millisecond {
		t.Errorf("from %v to %v", low, high)
	}
}

func TestSleepEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		Sleep(t.Context(), time.Minute)
		if took := time.Since(began); took != time.Minute {
			t.Errorf("slept %v", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		Sleep(ctx, time.Hour)
		if took := time.Since(began); took != time.Minute+time.Second {
			t.Errorf("slept %v after the context ended", took-time.Minute)
		}
	})
}
