package broker

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
)

// What NATS refuses at a publication names the setting that helps.
func TestExplainOfPublications(t *testing.T) {
	t.Parallel()
	for want, api := range map[string]*jetstream.APIError{
		"raise nats.max_store":              {Code: 503, ErrorCode: 10023, Description: "insufficient resources"},
		"raise nats.max_bytes.events":       {Code: 503, ErrorCode: 10077, Description: "maximum bytes exceeded"},
		"max_msg_size":                      {Code: 400, ErrorCode: 10054, Description: "message size exceeds maximum allowed"},
		"set a lower nats.max_bytes.events": {Code: 400, ErrorCode: 10047, Description: "insufficient storage resources available"},
		"raise the account's max_consumers": {Code: 400, ErrorCode: 10026, Description: "maximum consumers limit reached"},
		"JetStream is switched off":         {Code: 503, ErrorCode: 10039, Description: "account not found"},
	} {
		err := Explain(fmt.Errorf("publish: %w", api), EventsStream)
		if !errors.Is(err, api) || !strings.Contains(err.Error(), want) {
			t.Errorf("%d: %v, want %s", api.ErrorCode, err, want)
		}
	}
	occupied := &jetstream.APIError{Code: 503, ErrorCode: 10077, Description: "maximum messages per subject exceeded"}
	if err := Explain(occupied, DeadLettersStream); err != error(occupied) {
		t.Errorf("a letter that is there already: %v", err)
	}
}
