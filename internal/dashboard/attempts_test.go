package dashboard

import (
	"slices"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/verdict"
)

func TestAttemptsAreCompared(t *testing.T) {
	t.Parallel()
	e := sampleEntry()
	e.Receipt.Peer, e.Receipt.Definition = "192.0.2.1:587", "3fa2b1c0"
	v := attemptsOf(&e)
	var titles []string
	for _, a := range v.List {
		titles = append(titles, a.Title+": "+a.Gap)
	}
	if want := []string{"Attempt 1 after replay 1: ", "Attempt 9: 7 attempts between this one and the first are not kept.", "Attempt 1: "}; !slices.Equal(titles, want) {
		t.Errorf("attempts: %q", titles)
	}
	if want := []string{"Attempt 1", "Attempt 9", "Attempt 1 after replay 1", "Delivered"}; !slices.Equal(v.Columns, want) {
		t.Errorf("columns: %q", v.Columns)
	}
	rows := map[string]difference{}
	for _, row := range v.Rows {
		rows[row.What] = row
	}
	for what, changed := range map[string]bool{"definition": false, "address": false, "TLS": false, "relay's certificate": false, "connection": true, "secrets": true, "reply": true, "code": false, "sent?": true} {
		if row, there := rows[what]; !there || row.Changed != changed || len(row.Values) != len(v.Columns) {
			t.Errorf("%s: %+v", what, row)
		}
	}
	if got := strings.Join(rows["secrets"].Values, " "); got != "vault:secret/smtp#password=3 vault:secret/smtp#password=3 vault:secret/smtp#password=4 vault:secret/smtp#password=4" {
		t.Errorf("secrets: %s", got)
	}
	e.State = broker.StateWaiting
	equal := e
	equal.State, equal.Tries = broker.StateDead, []broker.Try{e.Tries[0], e.Tries[0]}
	if v := attemptsOf(&equal); !v.Same || len(v.Rows) == 0 || attemptsOf(&e).Same {
		t.Errorf("two equal attempts differ: %+v", v.Rows)
	}
	e.Tries = e.Tries[:1]
	if v := attemptsOf(&e); len(v.List) != 1 || v.Rows != nil {
		t.Errorf("a single attempt has a comparison: %+v", v.Rows)
	}
	if v := attemptsOf(nil); v.List != nil {
		t.Errorf("%+v", v)
	}
}

// A mail that went on after a refused recipient reached the phases after RCPT.
func TestPhasesAfterARefusedRecipient(t *testing.T) {
	t.Parallel()
	transcript := &verdict.Transcript{}
	for _, p := range []verdict.Phase{verdict.PhaseConnect, verdict.PhaseMail, verdict.PhaseRcpt, verdict.PhaseClaim, verdict.PhaseData, verdict.PhaseContent} {
		transcript.Steps = append(transcript.Steps, verdict.Step{Phase: p})
	}
	for name, steps := range map[string][]phase{"known": stepsOf(transcript, verdict.PhaseRcpt), "unknown": phases(verdict.PhaseRcpt, verdict.Accepted)} {
		var tail []string
		for _, s := range steps[len(steps)-5:] {
			tail = append(tail, string(s.Name)+" "+s.State)
		}
		if got, want := strings.Join(tail, ", "), "rcpt here, claim past, data past, content past, settle ahead"; got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

// Phases that an attempt did not reach are not shown as passed.
func TestHowFarItCame(t *testing.T) {
	t.Parallel()
	show := func(steps []phase) string {
		var all []string
		for _, s := range steps {
			all = append(all, map[string]string{"past": "", "here": "!", "ahead": "-"}[s.State]+string(s.Name))
		}
		return strings.Join(all, " ")
	}
	for failed, want := range map[verdict.Phase]string{
		verdict.PhaseAuth:   "secrets connect !auth -mail -rcpt -claim -data -content -settle",
		verdict.PhaseSettle: "secrets connect auth !settle",
		"another":           "secrets connect auth",
	} {
		if got := show(stepsOf(sampleTries()[0].Transcript, failed)); got != want {
			t.Errorf("%s: %s, want %s", failed, got, want)
		}
	}
	for failed, want := range map[verdict.Phase]string{
		verdict.PhaseRcpt:   "decode resolve secrets payload render connect banner ehlo mail !rcpt -claim -data -content -settle",
		verdict.PhaseDecode: "!decode -resolve -secrets -payload -render -connect -banner -ehlo -mail -rcpt -claim -data -content -settle",
		"another":           "",
	} {
		if got := show(phases(failed, verdict.NotSent)); got != want {
			t.Errorf("%s: %s, want %s", failed, got, want)
		}
	}
}
