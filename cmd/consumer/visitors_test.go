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

// newTestVisitors records into a list; append fails while away says so.
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
		log: zerolog.New(log), queue: make(chan broker.AuditRecord, visitorsWaiting), refused: map[[2]string]time.Time{},
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
		for range 500 { // who tries again and again is one record a minute
			v.record(ctx, access.Event{Kind: access.Refused, User: ada, Reason: "POST /dead-letters/1/replay"})
		}
		synctest.Wait()
		v.record(ctx, access.Event{Kind: access.Refused, User: ada, Reason: "POST /dead-letters/2/replay"})
		time.Sleep(refusedAgain)
		v.record(ctx, access.Event{Kind: access.Refused, User: ada, Reason: "POST /dead-letters/1/replay"})
		synctest.Wait()
		stop()
		v.record(ctx, access.Event{Kind: access.SignedOut, User: ada}) // while the program ends
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

// Whoever has many addresses does not fill the history with names that nobody has, and
// what somebody is refused who has one stays in it.
func TestVisitorsFromEverywhere(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		v, records := newTestVisitors(&log, func() error { return nil })
		ctx, stop := context.WithCancel(t.Context())
		go v.run(ctx)
		for i := range 5 * visitorsUnknown {
			v.record(ctx, access.Event{Kind: access.SignInFailed, User: access.User{Address: fmt.Sprintf("2001:db8:%x::1", i)}, Reason: "no account has that name"})
		}
		v.record(ctx, access.Event{Kind: access.SignInFailed, User: access.User{Name: "ada", Address: "192.0.2.1"}, Reason: "wrong password"})
		synctest.Wait()
		if got := *records; len(got) != visitorsUnknown+1 || got[visitorsUnknown].Name != "ada" {
			t.Errorf("%d records", len(got))
		}
		time.Sleep(refusedAgain)
		v.record(ctx, access.Event{Kind: access.SignInFailed, User: access.User{Address: "2001:db8::1"}, Reason: "no account has that name"})
		synctest.Wait()
		if len(*records) != visitorsUnknown+2 {
			t.Errorf("%d records a minute later", len(*records))
		}
		stop()
		synctest.Wait()
	})
}

// Nobody who signs in waits for a NATS that is away.
func TestVisitorsDoNotWait(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	v, records := newTestVisitors(&log, func() error { return errors.New("NATS is away") })
	for range visitorsWaiting + 1 { // nobody takes them off the queue
		v.record(t.Context(), access.Event{Kind: access.SignedIn, User: access.User{Name: "ada"}})
	}
	if n := strings.Count(log.String(), "this line is what there is of it"); n != 1 {
		t.Errorf("%d lines in the log, want one, of the one there was no room for", n)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	v.run(ended)
	if n := strings.Count(log.String(), "NATS is away"); n != visitorsWaiting || len(*records) != 0 {
		t.Errorf("%d lines in the log and %d records, want a line for each of %d that could not be written", n, len(*records), visitorsWaiting)
	}
}
