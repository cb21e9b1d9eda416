package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/service"
	"github.com/certpost/certpost/internal/spool"
)

type statusCmd struct {
	Output string `help:"Format: text or json." enum:"text,json" default:"text" short:"o"`
}

// overview is what `status` knows.
type overview struct {
	NATS    string         `json:"nats"` // the address that answered
	Backlog broker.Backlog `json:"backlog"`
	Groups  []desk.Group   `json:"dead_letter_groups"`
	Lanes   []desk.LaneRow `json:"lanes"`
	Serving bool           `json:"serving"` // a process serves each lane with waiting deliveries
	// Standstills are what has not moved in a running process for a minute or longer.
	Standstills []broker.Standstill `json:"standstills,omitempty"`
	Spool       spool.State         `json:"spool"` // of publishers with this configuration
}

// Run prints what waits, what ended, and which lanes do not deliver. It exits with 1 if
// deliveries wait that no process serves.
func (c *statusCmd) Run(a *app) error {
	cfg, _, err := a.load()
	if err != nil {
		return err
	}
	var o overview
	if o.Spool, err = cfg.spool().State(); err != nil {
		fmt.Fprintln(a.stderr, "certpost: warning: what waits for publication cannot be read:", err)
	}
	client, done, err := a.client()
	if err != nil {
		if o.Spool.Waiting > 0 {
			err = fmt.Errorf("%w; %s has %s", err, o.Spool.Dir, waitingText(o.Spool, time.Now()))
		}
		return err
	}
	defer done()
	o.NATS, o.Serving = client.URL(), true
	if o.Backlog, err = client.Backlog(a.ctx); err != nil {
		return err
	}
	if o.Lanes, err = laneRows(a.ctx, client.Broker, cfg.Book.Current()); err != nil {
		return err
	}
	if o.Standstills, err = client.Standstills(a.ctx); err != nil {
		return err
	}
	groups, err := ask[service.GroupsAnswer](a.ctx, client, "dead.groups", service.ListRequest{})
	if err != nil {
		return err
	}
	o.Groups, o.Backlog.Dead = groups.Groups, uint64(groups.Balance.Open)
	for _, lane := range o.Lanes {
		o.Serving = o.Serving && (lane.Waiting == 0 || lane.Replicas > 0 || lane.Starting)
	}
	if c.Output == "json" {
		err = a.json(o)
	} else {
		err = o.print(a)
	}
	if err == nil && !o.Serving {
		err = &failure{exitFailed, fmt.Errorf("deliveries wait in lanes that no process serves: start `certpost run`, for a mail host there")}
	}
	return err
}

func (o overview) print(a *app) error {
	oldest := ""
	if !o.Backlog.Oldest.IsZero() {
		oldest = ", the oldest for " + time.Since(o.Backlog.Oldest).Round(time.Second).String()
	}
	letters := count(int(o.Backlog.Dead), "dead letter")
	if n := len(o.Groups); n > 0 {
		letters += " of " + count(n, "cause")
	}
	fields := [][2]string{{"NATS", o.NATS}, {"Events", count(int(o.Backlog.Events), "event") + " to resolve"},
		{"Deliveries", count(int(o.Backlog.Deliveries), "delivery", "deliveries") + " waiting" + oldest}, {"Dead letters", letters}}
	if o.Spool.Waiting > 0 {
		fields = append(fields, [2]string{"Spool", waitingText(o.Spool, time.Now()) + ", in " + o.Spool.Dir})
	}
	if n := len(o.Spool.Refused); n > 0 {
		fields = append(fields, [2]string{"Set aside", count(n, "event") + " that will not be published: see certpost check"})
	}
	if err := pairs(a.stdout, fields...); err != nil {
		return err
	}
	var rows [][]string
	for _, lane := range o.Lanes {
		rows = append(rows, []string{lane.Lane, strings.Join(relaysOf(lane), " "), fmt.Sprint(lane.Waiting), fmt.Sprint(lane.InFlight), desk.StateOf(lane.LaneInfo).Words, lately(lane.LaneInfo)})
	}
	if len(rows) > 0 {
		fmt.Fprintln(a.stdout)
		if err := table(a.stdout, []string{"LANE", "RELAYS", "WAITING", "IN FLIGHT", "STATE", "LAST HOUR"}, rows); err != nil {
			return err
		}
	}
	for _, s := range o.Standstills {
		fmt.Fprintln(a.stdout, "\n"+printable(fmt.Sprintf("standstill since %s: %s: %s", s.Since.Format(time.RFC3339), strings.TrimSpace(desk.StandstillWords(s.Part)+" "+s.Name), s.Reason)))
	}
	for _, lane := range o.Lanes {
		if lane.Away() {
			fmt.Fprintln(a.stdout, "\n"+desk.AwayWords(lane.LaneInfo))
		}
		held, _ := desk.HeldWords(lane.LaneInfo)
		for _, text := range held {
			fmt.Fprintln(a.stdout, "\nheld back: "+printable(text))
		}
	}
	if len(o.Groups) > 0 {
		fmt.Fprintln(a.stdout, "\nThe causes of the dead letters: certpost dead-letters groups")
	}
	return nil
}
