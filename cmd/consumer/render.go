package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/certpost/certpost/internal/delivery"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/verdict"
)

type renderCmd struct {
	Target []string `help:"Targets that the mail is for. Default: those of the event, or that match the certificate; for the sample all." placeholder:"ID"`
	Cert   string   `help:"Certificate and chain, PEM. Default: a sample." placeholder:"FILE" xor:"event"`
	Event  string   `help:"Event as JSON, with its labels and targets, instead of --cert." placeholder:"FILE" xor:"event"`
	Key    string   `help:"Private key of the certificate, PEM, for payloads that contain it. Default: a new one that nobody uses." placeholder:"FILE"`
	Out    string   `help:"File to write the mail to (- for standard output), or for several targets a directory; -o eml and -o json are the formats." short:"o" default:"-" placeholder:"FILE"`
	Output string   `help:"Format of what is printed: eml, or json with subject, bodies and files of each mail." enum:"eml,json" default:"eml"`
}

// Validate is called when the command line has been read. With all commands -o is the format;
// here it is the file as well, so a file of that name is ./json.
func (c *renderCmd) Validate() error {
	if c.Out == "eml" || c.Out == "json" {
		c.Output, c.Out = c.Out, "-"
	}
	return nil
}

// Run writes the mails that targets would get. It connects to nothing and fetches no secret;
// what a mail has instead is on standard error, or in the JSON. A file may contain a private
// key that was given, so only its owner may read it.
func (c *renderCmd) Run(a *app) error {
	cfg, _, err := a.load()
	if err != nil {
		return err
	}
	for i, id := range c.Target {
		t, err := a.targetOf(cfg.Book.Current(), id)
		if err != nil {
			return err
		}
		c.Target[i] = t.ID
	}
	ev, err := c.event()
	if err != nil {
		return err
	}
	var key []byte
	if c.Key != "" {
		if key, err = readFile(c.Key); err != nil {
			return usage("--key: %w", err)
		}
		defer clear(key)
	}
	courier := delivery.NewCourier(cfg.Book, nil, cfg.courierOptions()) // without a store there are no secrets
	defer courier.Close()
	ids, err := c.targets(a, courier, cfg, ev)
	if err != nil {
		return err
	}
	var views []*verdict.MailView
	for _, id := range ids {
		view, failed := courier.Preview(ev, id, key)
		if failed != nil {
			if len(ids) > 1 {
				return &failure{exitFailed, fmt.Errorf("target %s: %w", id, failed)}
			}
			return failed
		}
		views = append(views, view)
	}
	return c.write(a, views)
}

// event returns the event to render; nil for the sample.
func (c *renderCmd) event() (*events.Event, error) {
	switch {
	case c.Cert != "":
		return eventFromFile(c.Cert)
	case c.Event == "":
		if c.Key != "" {
			return nil, usage("--key needs --cert or --event: it is the key of a certificate")
		}
		return nil, nil
	}
	body, err := readFile(c.Event)
	if err != nil {
		return nil, usage("--event: %w", err)
	}
	ev, err := events.Decode(nil, body)
	if err != nil {
		return nil, usage("--event %s: %w", c.Event, err)
	}
	return ev, nil
}

// targets returns the targets to render for.
func (c *renderCmd) targets(a *app, courier *delivery.Courier, cfg *Config, ev *events.Event) (ids []string, err error) {
	switch {
	case len(c.Target) > 0:
		return c.Target, nil
	case ev != nil && ev.Certificate.Ref == nil:
		routes, failed := courier.Resolve(a.ctx, ev)
		if failed != nil {
			return nil, failed
		}
		for _, route := range routes {
			if route.Failure != nil {
				return nil, route.Failure
			}
			ids = append(ids, route.Target)
		}
	case ev != nil && len(ev.Targets) > 0:
		ids = ev.Targets
	default:
		for _, t := range cfg.Book.Current().All() {
			if !t.Disabled {
				ids = append(ids, t.ID)
			}
		}
	}
	if len(ids) == 0 {
		return nil, usage("no target gets this mail: none matches the certificate, or all are disabled; give --target")
	}
	return ids, nil
}

func (c *renderCmd) write(a *app, views []*verdict.MailView) error {
	info, err := os.Stat(c.Out)
	directory := err == nil && info.IsDir()
	if len(views) > 1 && !directory && (c.Out != "-" || c.Output == "eml") {
		return usage("%d mails: give a directory with -o, or one --target", len(views))
	}
	for _, v := range views {
		var err error
		switch {
		case directory:
			err = writePrivately(filepath.Join(c.Out, v.Target+".eml"), v.Raw)
		case c.Out != "-":
			err = writePrivately(c.Out, v.Raw)
		case c.Output == "eml":
			_, err = a.stdout.Write(v.Raw)
		}
		if err != nil {
			return err
		}
		if len(v.Instead) > 0 && c.Output == "eml" {
			fmt.Fprintf(a.stderr, "certpost: the mail for %s has %s\n", v.Target, strings.Join(v.Instead, "; "))
		}
	}
	if c.Output == "json" {
		return a.json(views)
	}
	return nil
}

// writePrivately writes a file that only its owner may read, even if the file existed
// with wider permissions.
func writePrivately(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Mode().IsRegular() {
		if err := f.Chmod(0o600); err != nil {
			return err
		}
	}
	if _, err := f.Write(content); err != nil {
		return err
	}
	return f.Close()
}
