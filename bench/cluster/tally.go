//go:build unix

package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/mail"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/devrelay"
)

// tally is the outcome of all events.
type tally struct {
	events, mails int
	lost          int // deliveries without a mail
	unsettled     int // deliveries that are not sent in the ledger
	dead          int // dead letters
	duplicates    int // mails beyond the first of a delivery
	unmarked      int // of these, without X-Certpost-Possible-Duplicate
	unknown       int // attempts with an unknown outcome before them, as counted in the ledger
	killed        bool
}

func count(ids []string, mails []devrelay.Mail, found outcome) tally {
	t := tally{events: len(ids), mails: len(mails), dead: int(found.dead)}
	sent := map[string]bool{}
	for _, e := range found.entries {
		sent[e.Event+" "+e.Target] = e.State == broker.StateSent
		t.unknown += e.PossibleDuplicates
	}
	taken, marked := map[string]int{}, map[string]int{}
	for _, m := range mails {
		read, err := mail.ReadMessage(bytes.NewReader(m.Raw))
		if err != nil {
			continue // counted as lost
		}
		key := read.Header.Get("X-Certpost-Event-Id") + " " + read.Header.Get("X-Certpost-Target")
		taken[key]++
		if read.Header.Get("X-Certpost-Possible-Duplicate") != "" {
			marked[key]++
		}
	}
	for _, id := range ids {
		for _, target := range targetIDs {
			key := id + " " + target
			more := max(taken[key]-1, 0)
			t.duplicates += more
			t.unmarked += max(more-marked[key], 0)
			if taken[key] == 0 {
				t.lost++
			}
			if !sent[key] {
				t.unsettled++
			}
		}
	}
	return t
}

// String is the report.
func (t tally) String() string {
	return fmt.Sprintf("%d events, %d deliveries, %d mails\nlost %d, not settled %d, dead letters %d\nduplicates %d (not marked %d), unknown outcomes %d\n",
		t.events, t.events*len(targetIDs), t.mails, t.lost, t.unsettled, t.dead, t.duplicates, t.unmarked, t.unknown)
}

// verdict returns an error if deliveries were lost, unsettled or dead, or if mails were sent
// twice without a reason.
func (t tally) verdict() error {
	var all []error
	if t.lost+t.unsettled+t.dead > 0 {
		all = append(all, errors.New("some deliveries have no mail, are not sent in the ledger, or became dead letters"))
	}
	if t.duplicates > 0 && !t.killed {
		all = append(all, errors.New("mails were sent twice although no Certpost was killed"))
	}
	if t.unmarked > 0 || t.duplicates > t.unknown {
		all = append(all, errors.New("mails were sent twice without being marked, or more often than the ledger knows of"))
	}
	return errors.Join(all...)
}
