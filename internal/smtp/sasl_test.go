package smtp

import (
	"slices"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/verdict"
)

// SCRAM authenticates both sides: a relay that does not know the password, or uses an
// order of steps that avoids proving it, is not trusted.
//
// Fault: SCRAM-SHA-256. Result: a relay that does not prove itself (SCRAM) is not trusted.
func TestSCRAMRelaysHaveToProveThemselves(t *testing.T) {
	t.Parallel()
	const password = "correct-horse-battery"
	ca := lab.NewTLSAuthority(t, "Test CA")
	for name, test := range map[string]struct {
		lies   lab.ScramLies
		offers string
		code   verdict.Code // "": succeeds
		says   string
	}{
		"honest":                        {offers: "SCRAM-SHA-256"},
		"honest, bound to TLS":          {offers: "SCRAM-SHA-256 SCRAM-SHA-256-PLUS"},
		"235 without a proof":           {lies: lab.ScramLies{Order: "-r5"}, code: verdict.SMTPAuth, says: "did not prove"},
		"235 at once":                   {lies: lab.ScramLies{Order: "5"}, code: verdict.SMTPAuth, says: "did not prove"},
		"235 after the first message":   {lies: lab.ScramLies{Order: "-5"}, code: verdict.SMTPAuth, says: "did not prove"},
		"a false proof":                 {lies: lab.ScramLies{FalseProof: true}, code: verdict.SMTPAuth, says: "did not prove"},
		"the proof of an empty state":   {lies: lab.ScramLies{Order: "-v5", Nothing: true}, code: verdict.SMTPTransient, says: "an unexpected challenge"},
		"begun again after its message": {lies: lab.ScramLies{Order: "-r-v5", Nothing: true}, code: verdict.SMTPTransient, says: "an unexpected challenge"},
		"its first message twice":       {lies: lab.ScramLies{Order: "-rrv5"}, code: verdict.SMTPTransient, says: "an unexpected challenge"},
		"its proof twice":               {lies: lab.ScramLies{Order: "-rvv5"}, code: verdict.SMTPTransient, says: "an unexpected challenge"},
		"one iteration":                 {lies: lab.ScramLies{Iterations: 1}, code: verdict.SMTPAuth, says: "iteration count"},
		"two thousand million":          {lies: lab.ScramLies{Iterations: 2_000_000_000}, code: verdict.SMTPAuth, says: "iteration count"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if test.offers == "" {
				test.offers = "SCRAM-SHA-256"
			}
			server := lab.StartRelay(t, lab.RelayScript{Cert: ca.Issue(t, nil), Implicit: true, Lies: test.lies,
				Offers: []string{"AUTH " + test.offers}, Users: map[string]string{"certs": password}})
			r := clientOf(server)
			r.TLSMode, r.roots = "smtps", ca.Pool()
			r.AuthMethod, r.Username, r.Password = "scram-sha-256", "certs", secrets.New([]byte(password))
			_, f := attempt(lab.Patient(t), r, someone, someMail).Verdicts()
			if test.code == "" {
				if f != nil || server.Taken()[0].User != "certs" {
					t.Fatalf("%v, %+v", f, server.Taken())
				}
				return
			}
			if f == nil || f.Code != test.code || f.Phase != verdict.PhaseAuth || !strings.Contains(f.Reason, test.says) {
				t.Fatalf("got %+v", f)
			}
			if heard := server.Heard(); slices.Contains(heard, "MAIL") {
				t.Errorf("heard %v", heard)
			}
			server.Idle(t)
		})
	}
}
