package events

import (
	"bytes"
	_ "embed"
)

//go:embed event.schema.json
var schema []byte

// Schema returns the JSON Schema (2020-12) of the event in its two JSON forms. It is the
// same text as docs/schemas/event.schema.json.
func Schema() []byte { return bytes.Clone(schema) }
