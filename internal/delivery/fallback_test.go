package delivery

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/certpost/certpost/internal/smtp"
	"github.com/certpost/certpost/internal/verdict"
)

func TestFallbackThatCannotBeUsedIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, test := range []struct {
			phase verdict.Phase
			code  verdict.Code
			away  bool
		}{
			{verdict.PhaseSecrets, verdict.SecretDenied, true},
			{verdict.PhaseConnect, verdict.TargetInvalid, true}, // ca_file
			{verdict.PhaseTLS, verdict.SMTPTLS, true},
			{verdict.PhaseAuth, verdict.SMTPAuth, true},
			{verdict.PhaseBanner, verdict.SMTPPermanent, true},
			{verdict.PhaseMail, verdict.SMTPPermanent, false},
			{verdict.PhaseRcpt, verdict.SMTPTransient, false},
			{verdict.PhaseContent, verdict.SMTPTransient, false},
		} {
			var all smtp.Breakers
			b := all.Get("relay", 1)
			p, _, _ := b.Admit()
			f := &verdict.Failure{Outcome: verdict.Outcome{Code: test.code, Phase: test.phase, Reason: "no"}}
			judgeFallback(p, f)
			p.End()
			var s verdict.RelayStatus
			b.Status(&s)
			if f.Relay != test.away || (s.Breaker == verdict.Open) != test.away {
				t.Errorf("%s in %s: away %v, breaker %s", test.code, test.phase, f.Relay, s.Breaker)
			}
		}
	})
}

func TestVerdictWhenSeveralAreAway(t *testing.T) {
	t.Parallel()
	first := &verdict.Failure{Outcome: verdict.Outcome{Code: verdict.SMTPConnect, Reason: "one is down"}, Relay: true, Untried: true, After: time.Minute}
	second := &verdict.Failure{Outcome: verdict.Outcome{Code: verdict.SMTPTransient, Reason: "two is busy"}, Relay: true, After: time.Second}
	f := allUnavailable(allUnavailable(nil, first), second)
	if f.Code != verdict.SMTPConnect || f.Untried || f.After != time.Second || !strings.Contains(f.Reason, "one is down") || !strings.Contains(f.Reason, "two is busy") {
		t.Errorf("%+v", f)
	}
	if first.Reason != "one is down" {
		t.Error("the first verdict was changed")
	}
}
