package delivery

import (
	"bytes"
	"context"
	"regexp"
	"sync"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/devrelay"
	"github.com/certpost/certpost/internal/payload"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/verdict"
)

// Two deliveries of an event that are in work together carry one file. It is held no longer
// than they are, however they end, and a mail that is only rendered holds none.
func TestFilesAreSharedAndLetGo(t *testing.T) {
	t.Parallel()
	relay, err := devrelay.Start(devrelay.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = relay.Close() })
	o := newFixture(t, relay.Plain(), RelayLimits{}, func(target *Target) {
		target.Payload, target.PKCS12Passphrase = payload.PKCS12, Passphrase{Ref: secrets.Ref{Value: secrets.New([]byte("correct-horse"))}}
	})
	key := o.withKey()

	var both, done sync.WaitGroup
	both.Add(2)
	for range 2 {
		done.Go(func() {
			_, failure := o.Deliver(context.Background(), o.event, verdict.Attempt{Target: o.target.ID, Number: 1, Claim: func(time.Time) error {
				both.Done()
				both.Wait()
				if held := o.files.Held(); held != 1 {
					t.Errorf("%d files are held, want 1", held)
				}
				return nil
			}})
			if failure != nil {
				t.Error(failure)
			}
		})
	}
	done.Wait()
	attachment := regexp.MustCompile(`(?s)Content-Type: application/x-pkcs12.*?\r?\n\r?\n(.*?)\r?\n--`)
	mails := relay.Mails()
	if len(mails) != 2 {
		t.Fatalf("%d mails, want 2", len(mails))
	}
	first, second := attachment.FindSubmatch(mails[0].Raw), attachment.FindSubmatch(mails[1].Raw)
	if first == nil || second == nil || !bytes.Equal(first[1], second[1]) {
		t.Error("the two mails carry different files: each was encrypted by itself")
	}
	o.isLetGo("two deliveries")

	if _, failure := o.Preview(o.event, o.target.ID, bytes.Clone(key)); failure != nil {
		t.Error(failure)
	}
	o.isLetGo("a rendered mail")
	if _, failure := o.SendTest(t.Context(), o.event, o.target.ID, bytes.Clone(key)); failure != nil {
		t.Error(failure)
	}
	o.isLetGo("a test mail")
	if found := o.Inspector().Examine(t.Context(), verdict.Trial{Target: o.target.ID, From: verdict.Origin{Subject: o.event.Subject}, Event: o.event.Encode()}); len(found) == 0 {
		t.Error("nothing was checked")
	}
	o.isLetGo("a preflight")

	if err := relay.Close(); err != nil {
		t.Fatal(err)
	}
	if _, failure := o.deliver(t.Context()); failure == nil {
		t.Error("no relay, and no failure")
	}
	o.isLetGo("a relay that is away")
	o.redefine(func(target *Target) { target.MaxMessageBytes = 100 })
	if _, failure := o.deliver(t.Context()); failure == nil || failure.Phase != verdict.PhaseRender {
		t.Errorf("a mail that is too large: %+v", failure)
	}
	o.isLetGo("a mail that is too large")
}

func (o *fixture) isLetGo(after string) {
	o.t.Helper()
	if held := o.files.Held(); held != 0 {
		o.t.Errorf("after %s: %d files are held", after, held)
	}
}
