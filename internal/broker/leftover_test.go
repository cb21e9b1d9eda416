package broker

import (
	"context"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/verdict"
)

// Who dies between the ledger's `sent` and the removal of the dead letter leaves a
// letter of what was delivered; the message that comes again takes it off.
func TestALetterOfWhatWasDeliveredIsTakenOff(t *testing.T) {
	t.Parallel()
	var mended, died atomic.Bool
	b := &bench{t: t, post: newPostOffice("ops"), set: quick(), ackWait: time.Second, cfg: Config{DataDir: t.TempDir(), Listen: "none", SyncInterval: "2m"}}
	b.post.plan("ops", func(int, verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
		if mended.Load() {
			return nil, nil
		}
		return nil, fail(verdict.SMTPPermanent, verdict.PhaseRcpt)
	})
	b.set.Reached = func(point string) {
		if point == pointRecorded && died.CompareAndSwap(false, true) {
			runtime.Goexit()
		}
	}
	b.start()
	b.publish(event("e1", "ops"))
	b.settled()
	d := b.letters()[0]
	mended.Store(true)
	// As with `nats pub`: the letter stays where it is until the delivery has succeeded.
	if _, err := b.broker.js.Publish(context.Background(), d.ReplaySubject, d.Body); err != nil {
		t.Fatal(err)
	}
	b.settled()
	if l := b.letters(); !died.Load() || len(l) != 0 || len(b.post.mails("e1")) != 1 {
		t.Errorf("%d mails, and on the list: %+v", len(b.post.mails("e1")), l)
	}
	if told := history(t, b.broker, d.Sequence); !slices.Equal(told, []string{"outcome delivered"}) {
		t.Errorf("history %q", told)
	}
}
