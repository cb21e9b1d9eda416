package outcome

import (
	"bytes"
	_ "embed"
)

//go:embed outcome.schema.json
var schema []byte

// Schema returns the JSON Schema (2020-12) of the events. It is the same text as
// docs/schemas/outcome.schema.json.
func Schema() []byte { return bytes.Clone(schema) }
