package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/delivery"
	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/verdict"
)

type relaysCmd struct {
	List    relaysListCmd    `cmd:"" help:"List lanes and their relays: waiting deliveries, breakers, limits, suspensions."`
	Suspend relaysSuspendCmd `cmd:"" help:"Suspend a lane: its deliveries wait, and no attempts are counted."`
	Resume  relaysResumeCmd  `cmd:"" help:"Resume a suspended lane, and end the pauses of its relays at limits of their own."`
}

type relaysListCmd struct {
	Output string `help:"Format: table, wide (all columns, nothing shortened), json or csv." enum:"table,wide,json,csv" default:"table" short:"o"`
}

func (c *relaysListCmd) Run(a *app) error {
	cfg, _, err := a.load()
	if err != nil {
		return err
	}
	b, done, err := a.dialWith(a.ctx, cfg)
	if err != nil {
		return err
	}
	defer done()
	rows, err := laneRows(a.ctx, b, cfg.Book.Current())
	if err != nil {
		return err
	}
	err = printList(a, c.Output, rows, "no lanes: no targets are defined, and no deliveries wait",
		[]string{"LANE", "RELAYS", "WAITING", "IN FLIGHT", "STATE", "LAST HOUR", "RATE AND CONNECTIONS"}, func(r desk.LaneRow, _ bool) []string {
			return []string{r.Lane, strings.Join(relaysOf(r), " "), fmt.Sprint(r.Waiting), fmt.Sprint(r.InFlight), desk.StateOf(r.LaneInfo).Words, lately(r.LaneInfo), strings.Join(limitsOf(r), "; ")}
		}, desk.LaneTable)
	if c.Output == "json" || c.Output == "csv" {
		return err
	}
	for _, r := range rows {
		if err == nil {
			err = explain(a.stdout, r)
		}
	}
	return err
}

// explain prints why a lane does not deliver as it should, in whole: these texts are too long
// for a table.
func explain(w io.Writer, r desk.LaneRow) error {
	state := desk.StateOf(r.LaneInfo)
	if state.Why == "" {
		return nil
	}
	until := when(state.Until)
	if r.Suspension != nil {
		until = cmp.Or(until, "resumed")
	}
	fmt.Fprintln(w)
	return pairs(w, [2]string{"Lane", r.Lane}, [2]string{"State", state.Words}, [2]string{"Until", until}, [2]string{"By", state.By},
		[2]string{"Reason", state.Why}, [2]string{"Reply", state.Reply})
}

// lately is how many of the last hour's attempts in a lane succeeded, as "3 of 4"; "-" if there were none.
func lately(l broker.LaneInfo) string {
	if a := l.Activity; a != nil && a.Accepted+a.Failed > 0 {
		return fmt.Sprintf("%d of %d", a.Accepted, a.Accepted+a.Failed)
	}
	return "-"
}

// laneRows returns the existing lanes and those that the defined targets use, by name.
func laneRows(ctx context.Context, b *broker.Broker, defs *delivery.Definitions) ([]desk.LaneRow, error) {
	infos, err := b.LaneInfos(ctx)
	if err != nil {
		return nil, err
	}
	rows := []desk.LaneRow{}
	index := map[string]int{}
	for _, info := range infos {
		index[info.Lane] = len(rows)
		rows = append(rows, desk.LaneRow{LaneInfo: info, Relays: []verdict.RelayView{}})
	}
	for _, relay := range defs.Relays() {
		if relay.Lane == "" {
			continue
		}
		i, known := index[relay.Lane]
		if !known {
			i = len(rows)
			index[relay.Lane] = i
			rows = append(rows, desk.LaneRow{LaneInfo: broker.LaneInfo{Lane: relay.Lane}})
		}
		rows[i].Relays = append(rows[i].Relays, relay)
	}
	slices.SortFunc(rows, func(a, b desk.LaneRow) int { return cmp.Compare(a.Lane, b.Lane) })
	return rows, nil
}

// relaysOf are the addresses of a lane's relays.
func relaysOf(r desk.LaneRow) (names []string) {
	for _, relay := range r.Relays {
		names = append(names, relay.Relay)
	}
	return names
}

// limitsOf are the limits of those relays of a lane that have some.
func limitsOf(r desk.LaneRow) (limits []string) {
	for _, relay := range r.Relays {
		if text := relay.Limits(); text != "" {
			limits = append(limits, text)
		}
	}
	return limits
}

type relaysSuspendCmd struct {
	Lane   string        `arg:"" help:"The lane (see certpost relays list)."`
	Reason string        `help:"Reason (kept in the audit)." required:""`
	For    time.Duration `help:"Duration, such as 2h or 1d (default: until resumed)." placeholder:"DURATION"`
}

// Validate is called when the command line has been read.
func (c *relaysSuspendCmd) Validate() error {
	if c.For < 0 {
		return fmt.Errorf("--for must not be negative: want a duration such as 2h")
	}
	return reasoned(c.Reason, true)
}

func (c *relaysSuspendCmd) Run(a *app) error {
	b, done, err := a.dial(a.ctx)
	if err != nil {
		return err
	}
	defer done()
	s := broker.Suspension{Lane: c.Lane, Reason: c.Reason}
	end := "until it is resumed"
	if c.For > 0 {
		s.Until = time.Now().Add(c.For).UTC().Truncate(time.Second)
		end = "until " + when(s.Until)
	}
	if err := b.Suspend(a.ctx, s, broker.Actor{Name: actor(), Via: broker.ViaShell}); err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "lane %s is suspended %s; attempts in progress are finished\n", c.Lane, end)
	return nil
}

type relaysResumeCmd struct {
	Lane   string `arg:"" help:"The lane."`
	Reason string `help:"Reason (kept in the audit)."`
}

func (c *relaysResumeCmd) Run(a *app) error {
	b, done, err := a.dial(a.ctx)
	if err != nil {
		return err
	}
	defer done()
	if err := b.Resume(a.ctx, c.Lane, broker.Actor{Name: actor(), Via: broker.ViaShell}, c.Reason); err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "lane %s is resumed\n", c.Lane)
	return nil
}
