package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/access"
	"github.com/certpost/certpost/internal/broker"
)

// newTestVisitors records into a list; append fails while away is true.
func newTestVisitors(log *strings.Builder, away func() error) (*visitors, *[]broker.AuditRecord) {
	var records []broker.AuditRecord
	return &visitors{
		append: func(_ context.Context, rs ...broker.AuditRecord) error {
			if err := away(); err != nil {
				return err
			}
			records = append(records, rs...)
			return nil
		},
		log: zerolog.New(log), queue: make(chan broker.AuditRecord, visitorsWaiting), refused: map[[2]string]time.Time{}, quotas: map[kind]*quota{},
	}, &records
}

func TestVisitorsAreRecorded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		v, records := newTestVisitors(&log, func() error { return nil })
		ctx, stop := context.WithCancel(t.Context())
		go v.run(ctx)
		ada := access.User{Name: "ada", Subject: "https://id.example.com#17", Role: access.Viewer, Address: "192.0.2.1"}
		v.record(ctx, access.Event{Kind: access.SignedIn, User: ada})
		for range 500 { // repeated attempts make one record a minute
			v.record(ctx, access.Event{Kind: access.Refused, User: ada, Reason: "POST /dead-letters/1/replay"})
		}
		synctest.Wait()
		v.record(ctx, access.Event{Kind: access.Refused, User: ada, Reason: "POST /dead-letters/2/replay"})
		time.Sleep(refusedAgain)
		v.record(ctx, access.Event{Kind: access.Refused, User: ada, Reason: "POST /dead-letters/1/replay"})
		synctest.Wait()
		stop()
		v.record(ctx, access.Event{Kind: access.SignedOut, User: ada}) // during the shutdown
		synctest.Wait()
		v.run(ctx)
		var got []string
		for _, r := range *records {
			got = append(got, fmt.Sprint(r.Action, " ", r.Name, " ", r.Role, " ", r.Address, " ", r.Reason))
		}
		want := []string{
			"signed-in ada (17) viewer 192.0.2.1 ",
			"refused ada (17) viewer 192.0.2.1 POST /dead-letters/1/replay",
			"refused ada (17) viewer 192.0.2.1 POST /dead-letters/2/replay",
			"refused ada (17) viewer 192.0.2.1 POST /dead-letters/1/replay",
			"signed-out ada (17) viewer 192.0.2.1 ",
		}
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("recorded\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	})
}

// A sign-in does not wait while NATS is down.
func TestVisitorsDoNotWait(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	v, records := newTestVisitors(&log, func() error { return errors.New("NATS is away") })
	for range visitorsWaiting + 1 { // run does not run, so the queue fills up
		v.record(t.Context(), access.Event{Kind: access.SignedIn, User: access.User{Name: "ada"}})
	}
	if n := strings.Count(log.String(), "this log line is its only record"); n != 1 {
		t.Errorf("%d lines in the log, want one, of the one there was no room for", n)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	v.run(ended)
	if n := strings.Count(log.String(), "NATS is away"); n != visitorsWaiting || len(*records) != 0 {
		t.Errorf("%d lines in the log and %d records, want a line for each of %d that could not be written", n, len(*records), visitorsWaiting)
	}
}

// Unknown users who try names, each from another address, cause few records in an audit
// that is kept for years. It still has the number of their attempts, and every event of
// known users.
func TestStrangersDoNotFillTheAudit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		v, records := newTestVisitors(&log, func() error { return nil })
		ctx, stop := context.WithCancel(t.Context())
		go v.run(ctx)
		const hours, tries = 5, 7200
		ada := access.User{Name: "ada", Subject: "user:ada", Role: access.Viewer, Address: "192.0.2.1"}
		for i := range hours * tries {
			v.record(ctx, access.Event{Kind: access.SignInFailed, User: access.User{Address: fmt.Sprintf("2001:db8:%x::%x", i, i)}, Reason: "no account has that name"})
			if i == tries/2 {
				v.record(ctx, access.Event{Kind: access.SignInFailed, User: access.User{Name: "ada", Address: "192.0.2.1"}, Reason: "wrong password"})
				v.record(ctx, access.Event{Kind: access.SignedIn, User: ada})
				v.record(ctx, access.Event{Kind: access.Refused, User: ada, Reason: "POST /dead-letters/1/replay"})
			}
			time.Sleep(time.Hour / tries)
		}
		stop()
		synctest.Wait()
		strangers, sums, more, ofAda := 0, 0, 0, 0
		for _, r := range *records {
			var n int
			switch _, err := fmt.Sscanf(r.Reason, "%d more since", &n); {
			case r.Name == "ada":
				ofAda++
			case err == nil && r.Via == broker.ViaItself && r.Action == broker.ActionRefused:
				sums++
				more += n
			default:
				strangers++
			}
		}
		// Events left out are summed up within the minute after an hour. The quota of the
		// quiet hour before is added to those of the hours.
		if strangers > (hours+1)*strangersAnHour || sums > hours || strangers+more < hours*tries*99/100 || ofAda != 3 {
			t.Errorf("%d records of unknown users, %d sums with %d more, of %d attempts; %d records of ada, want 3", strangers, sums, more, hours*tries, ofAda)
		}
	})
}
