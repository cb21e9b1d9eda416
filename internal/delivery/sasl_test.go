package delivery

import (
	"slices"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/verdict"
)

// SCRAM binds both sides: a relay that does not know the password, or takes the
// steps in an order that lets it get around proving it, is not believed.
func TestSCRAMRelaysHaveToProveThemselves(t *testing.T) {
	t.Parallel()
	const password = "correct-horse-battery"
	ca := newAuthority(t, "Test CA")
	for name, test := range map[string]struct {
		lies   scramLies
		offers string
		code   verdict.Code // "": succeeds
		says   string
	}{
		"honest":                        {offers: "SCRAM-SHA-256"},
		"honest, bound to TLS":          {offers: "SCRAM-SHA-256 SCRAM-SHA-256-PLUS"},
		"235 without a proof":           {lies: scramLies{order: "-r5"}, code: verdict.SMTPAuth, says: "did not prove"},
		"235 at once":                   {lies: scramLies{order: "5"}, code: verdict.SMTPAuth, says: "did not prove"},
		"235 after the first message":   {lies: scramLies{order: "-5"}, code: verdict.SMTPAuth, says: "did not prove"},
		"a false proof":                 {lies: scramLies{falseProof: true}, code: verdict.SMTPAuth, says: "did not prove"},
		"the proof of an empty state":   {lies: scramLies{order: "-v5", nothing: true}, code: verdict.SMTPTransient, says: "a challenge that has no place there"},
		"begun again after its message": {lies: scramLies{order: "-r-v5", nothing: true}, code: verdict.SMTPTransient, says: "a challenge that has no place there"},
		"its first message twice":       {lies: scramLies{order: "-rrv5"}, code: verdict.SMTPTransient, says: "a challenge that has no place there"},
		"its proof twice":               {lies: scramLies{order: "-rvv5"}, code: verdict.SMTPTransient, says: "a challenge that has no place there"},
		"one iteration":                 {lies: scramLies{iterations: 1}, code: verdict.SMTPAuth, says: "iterations"},
		"two thousand million":          {lies: scramLies{iterations: 2_000_000_000}, code: verdict.SMTPAuth, says: "iterations"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if test.offers == "" {
				test.offers = "SCRAM-SHA-256"
			}
			server := startRelay(t, relayScript{cert: ca.issue(t, nil), implicit: true, lies: test.lies,
				offers: []string{"AUTH " + test.offers}, users: map[string]string{"certs": password}})
			r := clientOf(server)
			r.tlsMode, r.roots = "smtps", ca.pool()
			r.authMethod, r.username, r.password = "scram-sha-256", "certs", secrets.New([]byte(password))
			_, f := attempt(patient(t), r, someone, someMail).verdicts()
			if test.code == "" {
				if f != nil || server.taken()[0].user != "certs" {
					t.Fatalf("%v, %+v", f, server.taken())
				}
				return
			}
			if f == nil || f.Code != test.code || f.Phase != verdict.PhaseAuth || !strings.Contains(f.Reason, test.says) {
				t.Fatalf("got %+v", f)
			}
			if heard := server.heard(); slices.Contains(heard, "MAIL") {
				t.Errorf("heard %v", heard)
			}
			server.idle(t)
		})
	}
}
