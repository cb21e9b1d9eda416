package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/broker"
)

type deliveriesCmd struct {
	List deliveriesListCmd `cmd:"" help:"List deliveries, newest last attempt first."`
	Show deliveriesShowCmd `cmd:"" help:"Show what is known of one event's deliveries."`
}

type deliveriesListCmd struct {
	Target string        `help:"Only this target." placeholder:"ID"`
	Event  string        `help:"Only this event." placeholder:"ID"`
	State  string        `help:"Only this state: ${enum}." enum:"any,waiting,sending,sent,dead,discarded" default:"any" placeholder:"STATE"`
	Since  time.Duration `help:"Only those with an attempt in this time (24h)." placeholder:"DURATION"`
	Limit  int           `help:"At most so many; 0 for all." default:"100"`
	Output string        `help:"Format: table or json." enum:"table,json" default:"table" short:"o"`
}

func (c *deliveriesListCmd) Run(a *app) error {
	b, done, err := a.dial(a.ctx)
	if err != nil {
		return err
	}
	defer done()
	all, err := b.Deliveries(a.ctx, c.Target, c.Event)
	if err != nil {
		return err
	}
	kept := []broker.Entry{}
	for _, e := range newestFirst(all) {
		if (c.State == "any" || string(e.State) == c.State) && (c.Since == 0 || time.Since(e.Last) <= c.Since) && (c.Limit == 0 || len(kept) < c.Limit) {
			kept = append(kept, e)
		}
	}
	if c.Output == "json" {
		return a.json(kept)
	}
	if len(kept) == 0 {
		fmt.Fprintln(a.stdout, "no such deliveries")
		return nil
	}
	return table(a.stdout, deliveryHead, deliveryRows(kept))
}

var deliveryHead = []string{"EVENT", "TARGET", "STATE", "CODE", "ATTEMPTS", "LAST ATTEMPT", "CERTIFICATE"}

func deliveryRows(entries []broker.Entry) [][]string {
	var rows [][]string
	for _, e := range entries {
		code, cert := "", ""
		if e.Failure != nil {
			code = string(e.Failure.Code)
		}
		if e.Receipt != nil && e.Receipt.Certificate != nil {
			cert = e.Receipt.Certificate.CommonName
		}
		rows = append(rows, []string{e.Event, e.Target, string(e.State), code, fmt.Sprint(e.Attempts), when(e.Last), cert})
	}
	return rows
}

type deliveriesShowCmd struct {
	Event  string `arg:"" help:"Id of the event."`
	Target string `arg:"" optional:"" help:"Id of the target; all of the event's if not given."`
	Output string `help:"Format: text or json." enum:"text,json" default:"text" short:"o"`
}

func (c *deliveriesShowCmd) Run(a *app) error {
	b, done, err := a.dial(a.ctx)
	if err != nil {
		return err
	}
	defer done()
	all, err := b.Deliveries(a.ctx, c.Target, c.Event)
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return &failure{exitFailed, errors.New("the ledger knows no such delivery: not attempted yet, or the ids are wrong")}
	}
	if c.Output == "json" {
		return a.json(all)
	}
	for i, e := range all {
		if i > 0 {
			fmt.Fprintln(a.stdout)
		}
		if err := pairs(a.stdout, deliveryFields(e)...); err != nil {
			return err
		}
	}
	return nil
}

func newestFirst(all []broker.Entry) []broker.Entry {
	slices.SortStableFunc(all, func(a, b broker.Entry) int { return b.Last.Compare(a.Last) })
	return all
}

// deliveryFields is one ledger entry for people.
func deliveryFields(e broker.Entry) [][2]string {
	fields := [][2]string{
		{"Event", e.Event}, {"Target", e.Target}, {"Lane", e.Lane}, {"State", string(e.State)},
		{"Attempts", number(e.Attempts)}, {"First attempt", when(e.First)}, {"Last attempt", when(e.Last)},
		{"Has the mail", strings.Join(e.Accepted, ", ")}, {"Still owed to", strings.Join(e.Owed, ", ")},
		{"Possible duplicates", number(e.PossibleDuplicates)},
	}
	for _, r := range e.Refused {
		fields = append(fields, [2]string{"Refused for good", strings.TrimSpace(fmt.Sprintf("%s: %d %s", r.Recipient, r.ReplyCode, r.Reply))})
	}
	if e.State == broker.StateSending {
		fields = append(fields, [2]string{"Lease", when(e.Lease) + " by " + e.Owner})
	}
	if f := e.Failure; f != nil {
		fields = append(fields, [2]string{"Last failure", string(f.Code) + " in " + string(f.Phase)}, [2]string{"Reason", f.Reason},
			[2]string{"Reply", reply(f.ReplyCode, f.EnhancedCode, f.Reply)}, [2]string{"Sent?", string(f.Certainty)})
	}
	if r := e.Receipt; r != nil {
		fields = append(fields, [2]string{"Relay", r.Relay}, [2]string{"TLS", r.TLS}, [2]string{"Relay's reply", reply(r.ReplyCode, "", r.Reply)},
			[2]string{"Queue id", r.QueueID}, [2]string{"Message-ID", r.MessageID}, [2]string{"Size", fmt.Sprintf("%d bytes", r.Size)})
		if c := r.Certificate; c != nil {
			fields = append(fields, [2]string{"Certificate", c.CommonName}, [2]string{"Names", strings.Join(c.DNSNames, ", ")}, [2]string{"Issuer", c.Issuer},
				[2]string{"Serial", c.Serial}, [2]string{"SHA-256", c.Fingerprint}, [2]string{"Valid", when(c.NotBefore) + " to " + when(c.NotAfter)})
		}
		for _, ref := range slices.Sorted(maps.Keys(r.Secrets)) {
			fields = append(fields, [2]string{"Secret", ref + " version " + r.Secrets[ref]})
		}
	}
	return append(fields, [2]string{"Dead letter", e.DeadLetter})
}
