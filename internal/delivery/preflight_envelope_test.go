package delivery

import (
	"cmp"
	"slices"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/verdict"
)

// A preflight that also asks about sender and recipients names each that the relay refuses, leaves
// out those who have the mail, ends with RSET, and sends nothing.
func TestExamineAsksTheRelayAboutRecipients(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		script  lab.RelayScript
		trial   verdict.Trial
		want    [][2]string
		outlook verdict.Outlook
		heard   string // the commands from MAIL on
	}{
		"not asked": {outlook: verdict.WouldDeliver},
		"accepted": {trial: verdict.Trial{Envelope: true}, want: [][2]string{{"ok recipients", "a@example.com, b@example.com"}},
			outlook: verdict.WouldDeliver, heard: "MAIL RCPT RCPT RSET"},
		"one refused": {script: lab.RelayScript{PerRcpt: map[string]string{"b@example.com": "550 5.1.1 no such user"}}, trial: verdict.Trial{Envelope: true},
			want: [][2]string{{"ok recipients", "a@example.com"}, {"error recipients", "b@example.com: "}}, outlook: verdict.WouldFail, heard: "MAIL RCPT RCPT RSET"},
		"one refused for now": {script: lab.RelayScript{PerRcpt: map[string]string{"b@example.com": "450 4.2.0 greylisted"}}, trial: verdict.Trial{Envelope: true},
			want: [][2]string{{"ok recipients", "a@example.com"}, {"warning recipients", "b@example.com: "}}, outlook: verdict.WouldDeliver, heard: "MAIL RCPT RCPT RSET"},
		"one has the mail": {script: lab.RelayScript{PerRcpt: map[string]string{"b@example.com": "550 5.1.1 no such user"}}, trial: verdict.Trial{Envelope: true, Accepted: []string{"b@example.com"}},
			want: [][2]string{{"ok recipients", "a@example.com"}}, outlook: verdict.WouldDeliver, heard: "MAIL RCPT RSET"},
		"sender refused": {script: lab.RelayScript{Acts: map[string]lab.RelayAct{lab.AtMail: {Reply: "554 5.7.1 not you"}}}, trial: verdict.Trial{Envelope: true},
			want: [][2]string{{"error envelope", "554"}}, outlook: verdict.WouldFail},
		"ends at RCPT": {script: lab.RelayScript{Acts: map[string]lab.RelayAct{lab.AtRcpt: {Drop: true}}}, trial: verdict.Trial{Envelope: true},
			want: [][2]string{{"warning envelope", "SMTP_"}}, outlook: verdict.WouldDeliver},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := lab.StartRelay(t, test.script)
			o := newFixture(t, server.Address(), RelayLimits{}, func(target *Target) {
				target.To, target.CC, target.BCC = []string{"a@example.com", "b@example.com"}, nil, nil
			})
			test.trial.Target, test.trial.Event = o.target.ID, o.event.Encode()
			found := o.Inspector().Examine(lab.Patient(t), test.trial)
			for _, want := range test.want {
				if !finds(found, want[0], want[1]) {
					t.Errorf("nothing says %q in\n%s", want, strings.Join(spoken(found), "\n"))
				}
			}
			if got := verdict.NewPreflight(found); got.Outlook != test.outlook {
				t.Errorf("outlook %q (%s), want %q", got.Outlook, got.Verdict, test.outlook)
			}
			heard := server.Heard() // QUIT comes later
			heard = heard[cmp.Or(slices.Index(heard, "MAIL")+1, len(heard)+1)-1:]
			if got := strings.TrimSuffix(strings.Join(heard, " "), " QUIT"); (test.heard != "" || !test.trial.Envelope) && got != test.heard {
				t.Errorf("the relay heard %q, want %q", got, test.heard)
			}
			if len(server.Taken()) > 0 || slices.Contains(heard, "DATA") {
				t.Errorf("the preflight sent a mail; heard %v", heard)
			}
		})
	}
}
