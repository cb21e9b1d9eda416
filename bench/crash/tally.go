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
	events     int
	deliveries int
	mails      int
	lost       int // deliveries without a mail
	unsettled  int // deliveries that are not sent in the ledger
	dead       int // dead letters
	duplicates int // mails beyond the first of a delivery
	marked     int // mails with X-Certpost-Possible-Duplicate
	unknown    int // attempts with an unknown outcome, as counted in the ledger
}

func count(ids map[string]bool, mails []devrelay.Mail, found outcome) tally {
	t := tally{events: len(ids), deliveries: len(ids) * len(targetIDs), mails: len(mails), dead: int(found.dead)}
	sent := map[string]bool{}
	for _, e := range found.entries {
		sent[e.Event+" "+e.Target] = e.State == broker.StateSent
		t.unknown += e.PossibleDuplicates
	}
	taken := map[string]int{}
	for _, m := range mails {
		read, err := mail.ReadMessage(bytes.NewReader(m.Raw))
		if err != nil {
			continue // counted as lost
		}
		taken[read.Header.Get("X-Certpost-Event-Id")+" "+read.Header.Get("X-Certpost-Target")]++
		if read.Header.Get("X-Certpost-Possible-Duplicate") != "" {
			t.marked++
		}
	}
	for id := range ids {
		for _, target := range targetIDs {
			n := taken[id+" "+target]
			if n == 0 {
				t.lost++
			}
			t.duplicates += max(n-1, 0)
			if !sent[id+" "+target] {
				t.unsettled++
			}
		}
	}
	return t
}

// String is the report.
func (t tally) String() string {
	return fmt.Sprintf("%d events, %d deliveries, %d mails\nlost %d, not settled %d, dead letters %d\nduplicates %d, unknown outcomes %d, mails marked as possible duplicates %d\n",
		t.events, t.deliveries, t.mails, t.lost, t.unsettled, t.dead, t.duplicates, t.unknown, t.marked)
}

// verdict returns an error if deliveries were lost, unsettled or dead, or if there are
// more duplicates than unknown outcomes.
func (t tally) verdict() error {
	var all []error
	if t.lost+t.unsettled+t.dead > 0 {
		all = append(all, errors.New("some deliveries have no mail, are not sent in the ledger, or became dead letters"))
	}
	if t.duplicates > t.unknown {
		all = append(all, errors.New("more duplicate mails than unknown outcomes"))
	}
	return errors.Join(all...)
}
