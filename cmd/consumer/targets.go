package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/certpost/certpost/internal/delivery"
	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/verdict"
)

type targetsCmd struct {
	List targetsListCmd `cmd:"" help:"List the targets of the configuration."`
	Show targetsShowCmd `cmd:"" help:"Show all settings of one target, and which rule or default each comes from."`
}

type targetsListCmd struct {
	Output string `help:"Format: table, wide (all columns, nothing shortened), json or csv." enum:"table,wide,json,csv" default:"table" short:"o"`
}

// views are the targets as the configuration defines them. No secret is read.
func (a *app) views() ([]verdict.TargetView, error) {
	cfg, _, err := a.load()
	if err != nil {
		return nil, err
	}
	return delivery.NewCourier(cfg.Book, nil, cfg.courierOptions()).Inspector().Targets(), nil
}

// Run lists the targets.
func (c *targetsListCmd) Run(a *app) error {
	views, err := a.views()
	if err != nil {
		return err
	}
	return printList(a, c.Output, views, "no targets are defined", []string{"ID", "TYPE", "LANE", "RELAYS", "PAYLOAD", "TO", "STATE", "WHERE"},
		func(t verdict.TargetView, short bool) []string {
			state := "enabled"
			if t.Disabled {
				state = "disabled"
			}
			if n := len(t.Warnings); n > 0 {
				state += ", " + count(n, "warning")
			}
			to := strings.Join(t.To, " ")
			if short {
				to = shorten(to, 40)
			}
			return []string{t.ID, t.Type, t.Lane, cmp.Or(strings.Join(t.Relays, " "), hostText(t)), t.Payload, to, state, t.Where}
		}, desk.DefinitionTable)
}

type targetsShowCmd struct {
	Target string `arg:"" help:"Id of the target."`
	Output string `help:"Format: text or json." enum:"text,json" default:"text" short:"o"`
}

// Run shows one target.
func (c *targetsShowCmd) Run(a *app) error {
	views, err := a.views()
	if err != nil {
		return err
	}
	var ids []string
	for _, t := range views {
		ids = append(ids, t.ID)
		if t.ID != c.Target && !slices.Contains(t.FormerIDs, c.Target) {
			continue
		}
		a.noteFormerID(c.Target, t.ID)
		if c.Output == "json" {
			return a.json(t)
		}
		fields := [][2]string{{"Lane", t.Lane}, {"Relays", strings.Join(t.Relays, " ")}, {"Mail host", t.Host}, {"Defined in", t.Where}, {"Version", t.Version}}
		for _, row := range t.Rows {
			value := row.Value
			if row.Default {
				value += " (default)"
			}
			fields = append(fields, [2]string{row.Key, value})
		}
		for _, w := range t.Warnings {
			fields = append(fields, [2]string{"Warning", w})
		}
		return pairs(a.stdout, fields...)
	}
	return unknownTarget("unknown target "+legibleID(c.Target), c.Target, ids)
}

// hostText names the mail host of a target; "" for a mail.
func hostText(t verdict.TargetView) string {
	if t.Host == "" {
		return ""
	}
	return "mail host " + t.Host
}

// legibleID is an id as an error shows it.
func legibleID(id string) string { return fmt.Sprintf("%q", shorten(printable(id), 80)) }
