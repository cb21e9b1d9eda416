package verdict

import (
	"strings"
	"testing"
)

// What to do instead of a rollback that is not possible is true of the delivery at hand.
func TestRemedy(t *testing.T) {
	t.Parallel()
	for want, r := range map[string]Receipt{
		"":                                    {Host: "mx1", Payload: "pem_and_key", RollbackAvailable: true},
		"keeps no former files":               {Host: "mx1", Payload: "pem_and_key"},
		"copy the backup beside it":           {Host: "mx1", Payload: "jks"},
		"the former certificate is back":      {Host: "mx1", Payload: "pem_and_key", RollbackAvailable: true, RolledBack: &RolledBack{}},
		"revoke the certificate at its CA":    {Relay: "relay:25", Payload: "jks"},
		"Certpost does not put a pkcs12 file": {Host: "mx1", Payload: "pkcs12"},
	} {
		if got := r.Remedy(); want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%+v: %q, want %q", r, got, want)
		}
	}
}
