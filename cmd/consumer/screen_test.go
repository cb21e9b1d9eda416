package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/verdict"
)

// onScreen is what a command prints in a terminal with width columns; 0: into a pipe.
func onScreen(width int, print func(*app) error) (string, error) {
	var out bytes.Buffer
	err := print(&app{stdout: &screen{Writer: &out, terminal: width > 0, width: width}})
	return out.String(), err
}

// Tables in terminals of several widths, and in a pipe: a row is one line, nothing is wider than
// the terminal, and a pipe gets everything.
func TestTablesGolden(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 31, 15, 4, 5, 0, time.UTC)
	cert := &verdict.Certificate{CommonName: "shop.example.com", DNSNames: []string{"shop.example.com", "www.shop.example.com", "api.shop.example.com"}, Serial: "3a026a04e053df47", NotAfter: at.AddDate(0, 3, 0)}
	var letters []desk.Letter
	var entries []broker.Entry
	var records []desk.Record
	for i, code := range []verdict.Code{verdict.SMTPAuth, verdict.SMTPPermanent, verdict.TargetUnknown} {
		l := desk.Letter{}
		l.Sequence, l.Time, l.Code, l.Target, l.Event, l.Certainty = uint64(45+i), at, code, "partner-archive", "01JQ8Z5V4T00000000000000"+fmt.Sprint(10+i), verdict.NotSent
		l.Reason = "smtp.example.com:587 answered 550 5.1.1 to RCPT TO; the relay's reply has the cause; remove the cause, then replay"
		l.Certificate = cert
		letters = append(letters, l)
		entries = append(entries, broker.Entry{Event: l.Event, Target: l.Target, State: broker.StateDead, Failure: &broker.FailureRecord{Outcome: verdict.Outcome{Code: code}}, Attempts: 1, Last: at, Certificate: cert})
		records = append(records, desk.NewRecord(broker.AuditRecord{Sequence: uint64(1000 + i), Time: at, Action: broker.ActionDiscarded, Actor: broker.Actor{Name: "alice@ops1", Via: broker.ViaShell}, LetterNumber: l.Sequence, Event: l.Event, Target: l.Target, Reason: "the host was switched off in November"}))
	}
	letters[1].Certainty = verdict.MaybeSent
	for name, print := range map[string]func(*app) error{
		"dead-letters": func(a *app) error { return printList(a, "table", letters, "", letterHead, letterRow, desk.LetterTable) },
		"deliveries": func(a *app) error {
			return printList(a, "table", entries, "", deliveryHead, func(e broker.Entry, _ bool) []string { return deliveryRow(e) }, desk.DeliveryTable)
		},
		"audit": func(a *app) error {
			return printList(a, "table", records, "", recordHead, func(r desk.Record, _ bool) []string { return recordRow(r, false) }, desk.RecordTable)
		},
	} {
		var text strings.Builder
		for _, width := range []int{40, 60, 80, 120, 200, 0} {
			got, err := onScreen(width, print)
			if err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(got) {
				if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); width > 0 && n > width && !strings.HasPrefix(line, "left out") {
					t.Errorf("%s: a line of %d characters in %d columns: %s", name, n, width, line)
				}
			}
			if width == 0 && (strings.Contains(got, "…") || !strings.Contains(got, "REASON") && name != "deliveries") {
				t.Errorf("%s: a pipe does not get everything:\n%s", name, got)
			}
			fmt.Fprintf(&text, "%d columns\n%s\n", width, got)
		}
		golden(t, "tables/"+name, text.String())
	}
	// A terminal gets everything by -o wide.
	wide, err := onScreen(40, func(a *app) error { return printList(a, "wide", letters, "", letterHead, letterRow) })
	pipe, _ := onScreen(0, func(a *app) error { return printList(a, "table", letters, "", letterHead, letterRow) })
	if err != nil || wide != pipe {
		t.Errorf("%v\n%s", err, wide)
	}
}

// Colours are for terminals that want them; the text is the same without.
func TestColours(t *testing.T) {
	t.Parallel()
	rows := [][]string{{"a", "nothing succeeds"}, {"b", "sent (deployed)"}, {"dead", "ready"}}
	for _, test := range []struct {
		env     []string
		colours bool
		width   int
	}{
		{nil, true, 0}, {[]string{"TERM=xterm", "COLUMNS=60"}, true, 60}, {[]string{"TERM=dumb"}, false, 0}, {[]string{"NO_COLOR=1"}, false, 0}, {[]string{"NO_COLOR="}, true, 0}, {[]string{"COLUMNS=x"}, true, 0},
	} {
		var out bytes.Buffer
		s := &screen{Writer: &out}
		s.describe(test.env)
		if err := table(s, []string{"LANE", "STATE"}, rows); err != nil {
			t.Fatal(err)
		}
		want := "LANE  STATE\na     nothing succeeds\nb     sent (deployed)\ndead  ready\n"
		if test.colours {
			want = "\x1b[1mLANE\x1b[0m  \x1b[1mSTATE\x1b[0m\na     \x1b[31mnothing succeeds\x1b[0m\nb     \x1b[32msent (deployed)\x1b[0m\ndead  ready\n"
		}
		if out.String() != want || s.width != test.width || s.moves == (len(test.env) == 1 && test.env[0] == "TERM=dumb") {
			t.Errorf("%q: width %d, %q", test.env, s.width, out.String())
		}
		if (newBar(s).out != nil) != s.moves {
			t.Errorf("%q: a progress bar moves the cursor", test.env)
		}
	}
	if s := newScreen(&bytes.Buffer{}, []string{"COLUMNS=60"}); s.terminal || s.colours || s.width != 0 {
		t.Errorf("a pipe is %+v", s)
	}
}
