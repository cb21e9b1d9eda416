package main

import (
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/outcome"
)

type schemaCmd struct {
	Of string `arg:"" name:"schema" enum:"event,outcome,config" help:"The schema: event, outcome or config."`
}

// Run prints a JSON Schema.
func (c *schemaCmd) Run(a *app) error {
	text := events.Schema()
	switch c.Of {
	case "outcome":
		text = outcome.Schema()
	case "config":
		text = configSchema()
	}
	_, err := a.stdout.Write(text)
	return err
}
