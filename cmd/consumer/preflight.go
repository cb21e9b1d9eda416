package main

import (
	"errors"
	"fmt"

	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/service"
	"github.com/certpost/certpost/internal/verdict"
)

type lettersPreflightCmd struct {
	Numbers []uint64 `arg:"" optional:"" name:"number" help:"Numbers of the letters."`
	All     bool     `help:"All open letters, or all that match the filter."`
	letterFilter
	WithSuperseded bool   `help:"Include letters whose target has a newer certificate (with --all)."`
	Recipients     bool   `help:"Also ask the relay whether it accepts sender and recipients (MAIL, RCPT, RSET)."`
	Output         string `help:"Format: table, wide (all columns, nothing shortened), json or csv." enum:"table,wide,json,csv" default:"table" short:"o"`
}

// Validate is called when the command line has been read.
func (c *lettersPreflightCmd) Validate() error {
	return (&chosen{Numbers: c.Numbers, All: c.All, letterFilter: c.letterFilter, WithSuperseded: c.WithSuperseded}).Validate()
}

// Run prints what a replay would meet: the verdict, then the findings; exit 1 unless it would be
// delivered.
func (c *lettersPreflightCmd) Run(a *app) error {
	counter, done, err := a.client()
	if err != nil {
		return err
	}
	defer done()
	request := service.PreflightRequest{Recipients: c.Recipients, Superseded: c.WithSuperseded}
	switch {
	case len(c.Numbers) == 1:
		request.Number = c.Numbers[0]
	case len(c.Numbers) > 1:
		request.Numbers = c.Numbers
	case c.isSet():
		request.Filter = c.values()
	default:
		request.All = true
	}
	answer, err := ask[service.PreflightAnswer](a.ctx, counter, "dead.preflight", request)
	if err != nil {
		return err
	}
	if err := a.printPreflight(answer, c.Output); err != nil {
		return err
	}
	switch {
	case answer.OK:
		return nil
	case answer.Outlook == verdict.NotKnown && !c.Recipients:
		return &failure{exitFailed, errors.New("it is not known whether a replay would be delivered; --recipients also asks the relay")}
	case answer.Outlook == verdict.NotKnown:
		return &failure{exitFailed, errors.New("it is not known whether a replay would be delivered")}
	}
	return &failure{exitFailed, errors.New("a replay would not be delivered now")}
}

func (a *app) printPreflight(answer service.PreflightAnswer, format string) error {
	if format == "json" {
		return a.json(answer)
	}
	if format == "table" || format == "wide" {
		fmt.Fprintln(a.stdout, printable(answer.Verdict)+"\n")
	}
	if answer.Set != nil {
		return printList(a, format, answer.Set.Parts, "no letters", []string{"OUTLOOK", "LETTERS", "TARGET", "EXAMINED", "VERDICT"}, func(p desk.PartPreflight, _ bool) []string {
			return []string{string(p.Outlook), fmt.Sprint(p.Letters), p.Target, fmt.Sprint(p.Number), p.Verdict}
		}, desk.PartTable)
	}
	return printList(a, format, answer.Findings, "no findings", []string{"STATUS", "WHAT", "MESSAGE"}, func(f verdict.Finding, _ bool) []string {
		return []string{string(f.Status), f.What, f.Message}
	}, desk.PreflightTable)
}
