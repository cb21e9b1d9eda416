package desk

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/broker"
)

// When acting on one letter fails, no more are begun, and those that were done are
// counted, also after the failed one.
// partOfAct acts for a caller that records the act as a whole: these desks have no broker.
var partOfAct = broker.Actor{Name: "ann", Act: "act"}

func TestActingOnManyStopsWhenOneFails(t *testing.T) {
	t.Parallel()
	d := filled(2000)
	var begun atomic.Int32
	broken := errors.New("NATS is unavailable")
	done, err := d.eachOf(t.Context(), partOfAct, d.FreezeFor(ForHold, Query{}, nil, true), ForHold, "", func(_ context.Context, _ broker.Actor, number uint64) error {
		begun.Add(1)
		switch {
		case number == 20:
			return broken
		case number > 100:
			time.Sleep(time.Millisecond) // as an act takes: the failure is seen meanwhile
		}
		if number%2 == 0 {
			return &broker.Taken{Record: broker.AuditRecord{LetterNumber: number}}
		}
		return nil
	})
	if n := int(begun.Load()); !errors.Is(err, broken) || !strings.Contains(err.Error(), "of 2000 letters were done") || done < n/2-actsAtOnce || done > n/2+1 || n > 1000 {
		t.Errorf("%d begun, %d done, %v", n, done, err)
	}
}

func TestActingOnManyEndsWithItsCaller(t *testing.T) {
	t.Parallel()
	d := filled(2000)
	ctx, cancel := context.WithCancel(t.Context())
	var began atomic.Int32
	done, err := d.eachOf(ctx, partOfAct, d.FreezeFor(ForHold, Query{}, nil, true), ForHold, "", func(context.Context, broker.Actor, uint64) error {
		if began.Add(1) == 30 {
			cancel()
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) || done != int(began.Load()) || done >= 2000 {
		t.Errorf("%d begun, %d done, %v", began.Load(), done, err)
	}
}
