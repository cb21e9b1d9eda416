package main

import "github.com/certpost/certpost/internal/events"

type schemaCmd struct {
	Of string `arg:"" enum:"event,config" help:"The schema: event or config."`
}

// Run prints a JSON Schema.
func (c *schemaCmd) Run(a *app) error {
	text := events.Schema()
	if c.Of == "config" {
		text = configSchema()
	}
	_, err := a.stdout.Write(text)
	return err
}
