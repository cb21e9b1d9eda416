// Package examples holds configurations to start from and the JSON Schema by
// which editors complete and check them. Tests load all of it.
package examples

import (
	"bytes"
	_ "embed" // for the schema
)

//go:embed config.schema.json
var configSchema []byte

// ConfigSchema is the JSON Schema of certpost.yaml (draft 2020-12).
func ConfigSchema() []byte { return bytes.Clone(configSchema) }
