package delivery

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/verdict"
)

var (
	someMail = []byte("From: a@example.com\r\nSubject: hello\r\n\r\n.a dot\r\nlast line\r\n")
	someone  = envelope{from: "certs@example.com", recipients: []string{"ops@example.com"}}
)

func claimed(time.Time) error { return nil }

func patient(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// attempt dials, sends one mail and closes.
func attempt(ctx context.Context, r relay, env envelope, raw []byte) result {
	s, failure := dial(ctx, r)
	if failure != nil {
		return result{failure: failure}
	}
	defer s.close()
	return s.send(ctx, env, raw, claimed)
}

func mustDial(t *testing.T, r relay) *session {
	t.Helper()
	s, failure := dial(patient(t), r)
	if failure != nil {
		t.Fatal(failure)
	}
	t.Cleanup(s.close)
	return s
}

func TestSendHandsTheMailOver(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "Test CA")
	for _, mode := range []string{"plaintext", "starttls", "smtps", "opportunistic"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			server := startRelay(t, relayScript{cert: ca.issue(t, nil), implicit: mode == "smtps", users: map[string]string{"certs": "hunter2hunter2"}})
			r := clientOf(server)
			r.tlsMode, r.roots = mode, ca.pool()
			r.authMethod, r.username, r.password = "plain", "certs", secrets.New([]byte("hunter2hunter2"))
			r.allowInsecureAuth = mode == "plaintext"
			env := envelope{from: "certs@example.com", recipients: []string{"ops@example.com", "dev@example.com"}}

			got := attempt(patient(t), r, env, someMail)
			receipt, failure := got.verdicts()
			if failure != nil {
				t.Fatal(failure)
			}
			if receipt.Relay != r.address() || receipt.ReplyCode != 250 || receipt.QueueID != "4Tz9QX2hN1z" ||
				receipt.Reply != "2.0.0 Ok: queued as 4Tz9QX2hN1z" || receipt.Size != len(someMail) ||
				!slices.Equal(receipt.Recipients, env.recipients) || receipt.Timings.Dial <= 0 || receipt.Timings.Send <= 0 {
				t.Errorf("receipt %+v", receipt)
			}
			if secure := strings.HasPrefix(receipt.TLS, "TLS 1.3 TLS_"); secure == (mode == "plaintext") {
				t.Errorf("%s was sent over %q", mode, receipt.TLS)
			}
			mails := server.taken()
			if len(mails) != 1 || mails[0].content != string(someMail) || mails[0].from != env.from || !slices.Equal(mails[0].recipients, env.recipients) {
				t.Errorf("the relay holds %+v", mails)
			}
			server.idle(t)
		})
	}
}

// outcome is what a fault has to come to.
type outcome struct {
	code      verdict.Code
	relay     bool
	certainty verdict.Certainty
	reply     int
	mails     int
}

// TestEveryFaultInEveryPhase writes down again, by hand, what faults.md says.
func TestEveryFaultInEveryPhase(t *testing.T) {
	t.Parallel()
	const (
		soft, closing, hard, syntax = "450 4.7.1 later", "421 4.3.2 going down", "554 5.7.1 never", "501 5.5.4 what?"
		retry, connect              = verdict.SMTPTransient, verdict.SMTPConnect
		final, form                 = verdict.SMTPPermanent, verdict.SMTPValidation
		none                        = verdict.NotSent
	)
	type row struct {
		moment  string
		phase   verdict.Phase
		soft    outcome
		closing outcome
		hard    outcome
		syntax  outcome
		lost    outcome // dropped, hung, garbage
	}
	rows := []row{
		{atBanner, verdict.PhaseBanner, outcome{retry, true, none, 450, 0}, outcome{retry, true, none, 421, 0}, outcome{final, false, none, 554, 0}, outcome{final, false, none, 501, 0}, outcome{connect, true, none, 0, 0}},
		{atEHLO, verdict.PhaseEHLO, outcome{retry, true, none, 450, 0}, outcome{retry, true, none, 421, 0}, outcome{final, false, none, 554, 0}, outcome{final, false, none, 501, 0}, outcome{connect, true, none, 0, 0}},
		{atSTARTTLS, verdict.PhaseSTARTTLS, outcome{retry, true, none, 450, 0}, outcome{retry, true, none, 421, 0}, outcome{verdict.SMTPTLS, false, none, 554, 0}, outcome{verdict.SMTPTLS, false, none, 501, 0}, outcome{connect, true, none, 0, 0}},
		{atAuth, verdict.PhaseAuth, outcome{retry, false, none, 450, 0}, outcome{retry, false, none, 421, 0}, outcome{verdict.SMTPAuth, false, none, 554, 0}, outcome{verdict.SMTPAuth, false, none, 501, 0}, outcome{retry, false, none, 0, 0}},
		{atMail, verdict.PhaseMail, outcome{retry, false, none, 450, 0}, outcome{retry, false, none, 421, 0}, outcome{final, false, none, 554, 0}, outcome{form, false, none, 501, 0}, outcome{retry, false, none, 0, 0}},
		{atRcpt, verdict.PhaseRcpt, outcome{retry, false, none, 450, 0}, outcome{retry, false, none, 421, 0}, outcome{final, false, none, 554, 0}, outcome{form, false, none, 501, 0}, outcome{retry, false, none, 0, 0}},
		{atData, verdict.PhaseData, outcome{retry, false, none, 450, 0}, outcome{retry, false, none, 421, 0}, outcome{final, false, none, 554, 0}, outcome{form, false, none, 501, 0}, outcome{retry, false, none, 0, 0}},
		{atDot, verdict.PhaseContent, outcome{retry, false, none, 450, 0}, outcome{retry, false, none, 421, 0}, outcome{final, false, none, 554, 0}, outcome{form, false, none, 501, 0}, outcome{retry, false, verdict.May, 0, 0}},
	}
	ca := newAuthority(t, "Test CA")
	cert := ca.issue(t, nil)
	for _, row := range rows {
		lost := row.lost
		acceptedThenLost := row.lost
		acceptedThenLost.mails = 1
		cases := map[string]struct {
			act  act
			want outcome
		}{
			"4yz":              {act{reply: soft}, row.soft},
			"4yz in two lines": {act{reply: "450-4.7.1 later\r\n450 4.7.1 or never"}, row.soft},
			"421 and drop":     {act{reply: closing, drop: true}, row.closing},
			"5yz":              {act{reply: hard}, row.hard},
			"501":              {act{reply: syntax}, row.syntax},
			"drop":             {act{drop: true}, lost},
			"hang":             {act{hang: true}, lost},
			"half a reply":     {act{reply: "2", drop: true}, lost},
			"garbage":          {act{reply: "\x00\xff SSH-2.0-OpenSSH"}, lost},
			"endless lines":    {act{reply: "250-and", endless: true}, lost},
			"one endless line": {act{reply: "250 " + strings.Repeat("x", maxReplyLine)}, lost},
			"a code of no use": {act{reply: "199 hm"}, outcome{lost.code, lost.relay, lost.certainty, 199, 0}},
		}
		if row.moment == atDot {
			cases["accept then drop"] = struct {
				act  act
				want outcome
			}{act{take: true, drop: true}, acceptedThenLost}
			cases["accept then hang"] = struct {
				act  act
				want outcome
			}{act{take: true, hang: true}, acceptedThenLost}
		}
		for name, test := range cases {
			t.Run(row.moment+"/"+name, func(t *testing.T) {
				t.Parallel()
				script := relayScript{acts: map[string]act{row.moment: test.act}, cert: cert}
				if name != "hang" && (row.moment == atMail || row.moment == atRcpt || row.moment == atData) {
					t.Run("command by command", func(t *testing.T) {
						t.Parallel()
						script := script
						script.offers = []string{"8BITMIME"}
						_, f := attempt(patient(t), clientOf(startRelay(t, script)), someone, someMail).verdicts()
						if f == nil || f.Code != test.want.code || f.ReplyCode != test.want.reply || f.Phase != row.phase {
							t.Errorf("got %+v, want %+v in %s", f, test.want, row.phase)
						}
					})
				}
				server := startRelay(t, script)
				r := clientOf(server)
				if row.moment == atSTARTTLS || row.moment == atAuth {
					r.tlsMode, r.roots = "starttls", ca.pool()
				}
				if row.moment == atAuth {
					r.authMethod, r.username, r.password = "login", "certs", secrets.New([]byte("a-pass-phrase"))
				}
				ctx := patient(t)
				if test.act.hang {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, time.Second)
					defer cancel()
				}
				receipt, f := attempt(ctx, r, someone, someMail).verdicts()
				if f == nil {
					t.Fatalf("taken: %+v", receipt)
				}
				got := outcome{f.Code, f.Relay, f.Certainty, f.ReplyCode, len(server.taken())}
				if got != test.want || f.Phase != row.phase {
					t.Errorf("got %+v in %s, want %+v in %s\n%v", got, f.Phase, test.want, row.phase, f)
				}
				if receipt != nil {
					t.Errorf("a receipt came along: %+v", receipt)
				}
				if !strings.Contains(f.Reason, r.address()) || strings.Contains(f.Reason, "ops@example.com") {
					t.Errorf("reason %q has to name the relay and no recipient", f.Reason)
				}
				server.idle(t)
			})
		}
	}
}

func TestContentThatDoesNotGoOutIsNotSent(t *testing.T) {
	t.Parallel()
	// More than the buffers of both sides hold: the write has to fail.
	big := []byte(strings.Repeat(strings.Repeat("x", 70)+"\r\n", 1<<18))
	for name, test := range map[string]struct {
		act  act
		code verdict.Code
	}{
		"relay resets":         {act{drop: true}, verdict.SMTPTransient},
		"relay stops reading":  {act{hang: true}, verdict.SMTPTransient},
		"relay finds it large": {act{reply: "552 5.3.4 too large", drop: true}, verdict.SMTPPermanent},
		"relay runs full":      {act{reply: "452 4.3.1 no space", drop: true}, verdict.SMTPTransient},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := startRelay(t, relayScript{acts: map[string]act{atContent: test.act}, offers: []string{"8BITMIME"}})
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, f := attempt(ctx, clientOf(server), someone, big).verdicts()
			if f == nil || f.Code != test.code || f.Phase != verdict.PhaseContent || f.Certainty != verdict.NotSent {
				t.Fatalf("got %+v", f)
			}
			if test.act.reply != "" && f.Reply == "" {
				t.Errorf("the relay's last word is lost: %v", f)
			}
			if slices.Contains(server.heard(), "QUIT") {
				t.Error("a QUIT followed the unfinished content")
			}
			if mails := server.taken(); len(mails) != 0 {
				t.Errorf("the relay took %d mails of which it had not seen the end", len(mails))
			}
		})
	}
}

func TestRepliesByteByByteAreUnderstood(t *testing.T) {
	t.Parallel()
	server := startRelay(t, relayScript{acts: map[string]act{
		atBanner: {reply: "220-scripted.test\r\n220 ESMTP", slowly: true},
		atMail:   {reply: "250 2.1.0 fine", slowly: true},
	}})
	if _, f := attempt(patient(t), clientOf(server), someone, someMail).verdicts(); f != nil {
		t.Fatal(f)
	}
	if len(server.taken()) != 1 {
		t.Error("the mail did not arrive")
	}
}

// An answer that comes drop by drop does not move the deadline of its phase.
func TestSlowRepliesRunIntoTheDeadline(t *testing.T) {
	t.Parallel()
	server := startRelay(t, relayScript{acts: map[string]act{atRcpt: {reply: "250-", slowly: true, endless: true}}})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, f := attempt(ctx, clientOf(server), someone, someMail).verdicts()
	if f == nil || f.Code != verdict.SMTPTransient || f.Phase != verdict.PhaseRcpt {
		t.Fatalf("got %+v", f)
	}
}

func TestRelaysThatKnowOnlyHELO(t *testing.T) {
	t.Parallel()
	server := startRelay(t, relayScript{noEHLO: true})
	if _, f := attempt(patient(t), clientOf(server), someone, someMail).verdicts(); f != nil {
		t.Fatal(f)
	}
	r := clientOf(server)
	r.tlsMode = "starttls"
	if _, f := attempt(patient(t), r, someone, someMail).verdicts(); f == nil || f.Code != verdict.SMTPTLS {
		t.Errorf("STARTTLS with a relay that has none gave %+v", f)
	}
	refusing := startRelay(t, relayScript{noEHLO: true, acts: map[string]act{"HELO": {reply: "450 4.3.2 later"}}})
	if _, f := attempt(patient(t), clientOf(refusing), someone, someMail).verdicts(); f == nil || f.ReplyCode != 450 || !f.Retry() {
		t.Errorf("the answer to HELO has to count, got %+v", f)
	}
}

func TestRecipientsAreJudgedOneByOne(t *testing.T) {
	t.Parallel()
	three := envelope{from: "certs@example.com", recipients: []string{"a@example.com", "b@example.com", "c@example.com"}}
	tests := map[string]struct {
		replies map[string]string
		taken   []string
		owed    []string
		code    verdict.Code
		reply   int
	}{
		"all taken":             {nil, three.recipients, nil, "", 0},
		"251 is taken":          {map[string]string{"b@example.com": "251 2.1.5 will forward"}, three.recipients, nil, "", 0},
		"one refused for good":  {map[string]string{"b@example.com": "550 5.1.1 nobody"}, []string{"a@example.com", "c@example.com"}, []string{"b@example.com"}, verdict.SMTPPermanent, 550},
		"one refused for a bit": {map[string]string{"a@example.com": "450 4.2.0 greylisted"}, []string{"b@example.com", "c@example.com"}, []string{"a@example.com"}, verdict.SMTPTransient, 450},
		"both kinds": {map[string]string{"a@example.com": "550 5.1.1 nobody", "b@example.com": "451 4.3.0 later"},
			[]string{"c@example.com"}, []string{"a@example.com", "b@example.com"}, verdict.SMTPTransient, 451},
		"malformed":                  {map[string]string{"c@example.com": "553 5.1.3 syntax"}, []string{"a@example.com", "b@example.com"}, []string{"c@example.com"}, verdict.SMTPValidation, 553},
		"452 too many":               {map[string]string{"c@example.com": "452 4.5.3 too many"}, []string{"a@example.com", "b@example.com"}, []string{"c@example.com"}, verdict.SMTPTransient, 452},
		"552 too many":               {map[string]string{"c@example.com": "552 too many recipients"}, []string{"a@example.com", "b@example.com"}, []string{"c@example.com"}, verdict.SMTPTransient, 552},
		"5.5.3 too many":             {map[string]string{"c@example.com": "550 5.5.3 too many"}, []string{"a@example.com", "b@example.com"}, []string{"c@example.com"}, verdict.SMTPTransient, 550},
		"552 mailbox full":           {map[string]string{"c@example.com": "552 5.2.2 mailbox full"}, []string{"a@example.com", "b@example.com"}, []string{"c@example.com"}, verdict.SMTPPermanent, 552},
		"all refused for good":       {map[string]string{"a@example.com": "550 5.1.1 x", "b@example.com": "550 5.1.1 x", "c@example.com": "550 5.1.1 x"}, nil, three.recipients, verdict.SMTPPermanent, 550},
		"all refused, one for a bit": {map[string]string{"a@example.com": "550 5.1.1 x", "b@example.com": "451 4.1.1 x", "c@example.com": "550 5.1.1 x"}, nil, three.recipients, verdict.SMTPTransient, 451},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := startRelay(t, relayScript{perRcpt: test.replies})
			s := mustDial(t, clientOf(server))
			got := s.send(patient(t), three, someMail, claimed)
			receipt, failure := got.verdicts()
			var taken, owed []string
			if receipt != nil {
				taken = receipt.Recipients
			}
			if failure != nil {
				owed = failure.Recipients
				if failure.Code != test.code || failure.ReplyCode != test.reply || failure.Phase != verdict.PhaseRcpt || failure.Certainty != verdict.NotSent {
					t.Errorf("failure %+v, want %s by %d", failure, test.code, test.reply)
				}
			}
			final := 0 // of the replies
			for _, reply := range test.replies {
				if strings.HasPrefix(reply, "5") && reply != "552 too many recipients" && reply != "550 5.5.3 too many" {
					final++
				}
			}
			if failure != nil && len(failure.Refused) != final {
				t.Errorf("refused for good: %+v, want %d", failure.Refused, final)
			}
			if !slices.Equal(taken, test.taken) || !slices.Equal(owed, test.owed) {
				t.Errorf("taken %v, owed %v; want %v and %v", taken, owed, test.taken, test.owed)
			}
			if len(got.refused) != len(test.owed) {
				t.Errorf("%d refusals for %d recipients: %+v", len(got.refused), len(test.owed), got.refused)
			}
			mails := server.taken()
			if len(test.taken) == 0 {
				if len(mails) != 0 {
					t.Errorf("the relay holds %+v", mails)
				}
			} else if len(mails) != 1 || !slices.Equal(mails[0].recipients, test.taken) {
				t.Errorf("the relay holds %+v", mails)
			}
			// The session goes on, whatever became of the mail before.
			server.mu.Lock()
			server.perRcpt = nil
			server.mu.Unlock()
			if _, failure := s.send(patient(t), someone, someMail, claimed).verdicts(); failure != nil {
				t.Errorf("the next mail: %v", failure)
			}
			if reset := slices.Contains(server.heard(), "RSET"); reset != (len(test.taken) == 0) {
				t.Errorf("heard %v: RSET belongs behind a transaction that was left open, and nowhere else", server.heard())
			}
		})
	}
}

// Who was refused for good stays so, whatever becomes of the mail.
func TestRefusalsOutliveTheTransaction(t *testing.T) {
	t.Parallel()
	three := envelope{from: "certs@example.com", recipients: []string{"a@example.com", "b@example.com", "c@example.com"}}
	replies := map[string]string{"a@example.com": "550 5.1.1 nobody", "b@example.com": "450 4.2.0 later"}
	for name, test := range map[string]struct {
		acts      map[string]act
		code      verdict.Code
		certainty verdict.Certainty
	}{
		"dropped at the last RCPT": {map[string]act{atRcpt: {drop: true, only: 3}}, verdict.SMTPTransient, verdict.NotSent},
		"421 at the last RCPT":     {map[string]act{atRcpt: {reply: "421 4.3.2 bye", drop: true, only: 3}}, verdict.SMTPTransient, verdict.NotSent},
		"DATA refused":             {map[string]act{atData: {reply: "451 4.3.0 later"}}, verdict.SMTPTransient, verdict.NotSent},
		"content refused":          {map[string]act{atDot: {reply: "554 5.7.1 spam"}}, verdict.SMTPPermanent, verdict.NotSent},
		"reply lost":               {map[string]act{atDot: {take: true, drop: true}}, verdict.SMTPTransient, verdict.May},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := startRelay(t, relayScript{perRcpt: replies, acts: test.acts})
			receipt, f := attempt(patient(t), clientOf(server), three, someMail).verdicts()
			if receipt != nil || f == nil || f.Code != test.code || f.Certainty != test.certainty || !slices.Equal(f.Recipients, three.recipients) {
				t.Fatalf("%+v, %+v", receipt, f)
			}
			if len(f.Refused) != 1 || f.Refused[0].Recipient != "a@example.com" || f.Refused[0].ReplyCode != 550 || f.Refused[0].EnhancedCode != "5.1.1" ||
				f.Refused[0].Code != verdict.SMTPPermanent || f.Refused[0].Reply != "5.1.1 nobody" {
				t.Errorf("refused: %+v", f.Refused)
			}
		})
	}
}

func TestAllOrNothing(t *testing.T) {
	t.Parallel()
	three := envelope{from: "certs@example.com", recipients: []string{"a@example.com", "b@example.com", "c@example.com"}, together: true}
	for name, test := range map[string]struct {
		replies map[string]string
		code    verdict.Code // "": taken
		reply   int
	}{
		"all taken":            {nil, "", 0},
		"one refused for good": {map[string]string{"b@example.com": "550 5.1.1 nobody"}, verdict.SMTPPermanent, 550},
		"one refused for now":  {map[string]string{"c@example.com": "450 4.2.0 later"}, verdict.SMTPTransient, 450},
		"too many":             {map[string]string{"c@example.com": "452 4.5.3 too many"}, verdict.SMTPTransient, 452},
		"both kinds":           {map[string]string{"a@example.com": "553 5.1.3 syntax", "b@example.com": "451 4.3.0 later"}, verdict.SMTPTransient, 451},
		"all refused":          {map[string]string{"a@example.com": "550 no", "b@example.com": "550 no", "c@example.com": "550 no"}, verdict.SMTPPermanent, 550},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := startRelay(t, relayScript{perRcpt: test.replies})
			s := mustDial(t, clientOf(server))
			receipt, f := s.send(patient(t), three, someMail, claimed).verdicts()
			if test.code == "" {
				if f != nil || !slices.Equal(receipt.Recipients, three.recipients) || len(server.taken()) != 1 {
					t.Fatalf("%+v, %v", receipt, f)
				}
				return
			}
			if receipt != nil || f == nil || f.Code != test.code || f.ReplyCode != test.reply || f.Recipients != nil || f.Refused != nil {
				t.Fatalf("%+v, %+v", receipt, f)
			}
			if !strings.Contains(f.Reason, "all_or_nothing") || len(server.taken()) != 0 || slices.Contains(server.heard(), "DATA") {
				t.Errorf("reason %q, heard %v, holds %v", f.Reason, server.heard(), server.taken())
			}
			// What was half said is forgotten before the next mail.
			server.mu.Lock()
			server.perRcpt = nil
			server.mu.Unlock()
			if _, f := s.send(patient(t), someone, someMail, claimed).verdicts(); f != nil {
				t.Fatal(f)
			}
			if mails := server.taken(); len(mails) != 1 || !slices.Equal(mails[0].recipients, someone.recipients) {
				t.Errorf("the relay holds %+v", mails)
			}
		})
	}
}

func TestSessionsCarryManyMailsWithoutChatter(t *testing.T) {
	t.Parallel()
	server := startRelay(t, relayScript{})
	s := mustDial(t, clientOf(server))
	for n := range 3 {
		receipt, f := s.send(patient(t), someone, someMail, claimed).verdicts()
		if f != nil {
			t.Fatal(f)
		}
		if first := n == 0; (receipt.Timings.Dial > 0) != first {
			t.Errorf("mail %d claims %s for dialling", n, receipt.Timings.Dial)
		}
	}
	s.close()
	server.idle(t)
	want := strings.Fields("EHLO MAIL RCPT DATA MAIL RCPT DATA MAIL RCPT DATA QUIT")
	if got := server.heard(); !slices.Equal(got, want) {
		t.Errorf("heard %v, want %v", got, want)
	}
	if len(server.taken()) != 3 || s.tried != 3 {
		t.Errorf("relay holds %d, session counts %d", len(server.taken()), s.tried)
	}
}

// What is said after the relay took the mail changes nothing about it.
func TestTheGoodbyeDoesNotMatter(t *testing.T) {
	t.Parallel()
	for name, a := range map[string]act{"refused": {reply: "500 5.5.1 stay"}, "dropped": {drop: true}} {
		server := startRelay(t, relayScript{acts: map[string]act{atQuit: a}})
		if _, f := attempt(patient(t), clientOf(server), someone, someMail).verdicts(); f != nil {
			t.Errorf("QUIT %s: %v", name, f)
		}
		server.idle(t)
	}
}

// A transaction that cannot be forgotten says nothing about the next mail.
func TestRefusedResetIsNotTheMailsFault(t *testing.T) {
	t.Parallel()
	server := startRelay(t, relayScript{
		acts:    map[string]act{atRset: {reply: "554 5.0.0 no"}},
		perRcpt: map[string]string{"ops@example.com": "450 4.2.0 later"},
	})
	s := mustDial(t, clientOf(server))
	s.send(patient(t), someone, someMail, claimed)
	_, f := s.send(patient(t), someone, someMail, claimed).verdicts()
	if f == nil || f.Code != verdict.SMTPTransient || !s.dead {
		t.Errorf("got %+v, dead %v", f, s.dead)
	}
}

func TestNothingIsSentWithoutAClaim(t *testing.T) {
	t.Parallel()
	server := startRelay(t, relayScript{})
	s := mustDial(t, clientOf(server))
	lost := errors.New("somebody else has it")
	_, f := s.send(patient(t), someone, someMail, func(time.Time) error { return lost }).verdicts()
	if f == nil || f.Phase != verdict.PhaseClaim || !errors.Is(f, lost) || f.Certainty != verdict.NotSent || !f.Retry() {
		t.Fatalf("got %+v", f)
	}
	if slices.Contains(server.heard(), "DATA") || len(server.taken()) != 0 {
		t.Errorf("heard %v, holds %v", server.heard(), server.taken())
	}
}

func TestTheClaimComesRightBeforeDATA(t *testing.T) {
	t.Parallel()
	server := startRelay(t, relayScript{})
	s := mustDial(t, clientOf(server))
	end, _ := patient(t).Deadline()
	ctx, cancel := context.WithDeadline(t.Context(), end)
	defer cancel()
	calls := 0
	_, f := s.send(ctx, someone, someMail, func(until time.Time) error {
		calls++
		if heard := server.heard(); heard[len(heard)-1] != "RCPT" {
			t.Errorf("claimed after %v", heard)
		}
		if !until.Equal(end) {
			t.Errorf("claimed until %s, the context ends %s", until, end)
		}
		return nil
	}).verdicts()
	if f != nil || calls != 1 {
		t.Errorf("%d claims, %v", calls, f)
	}
	refusing := startRelay(t, relayScript{acts: map[string]act{atRcpt: {reply: "550 5.1.1 no"}}})
	s = mustDial(t, clientOf(refusing))
	s.send(ctx, someone, someMail, func(time.Time) error {
		t.Error("claimed a mail that nobody wants")
		return nil
	})
}

func TestClaimedNoLongerThanThePhasesTake(t *testing.T) {
	t.Parallel()
	server := startRelay(t, relayScript{})
	s := mustDial(t, clientOf(server))
	s.send(t.Context(), someone, someMail, func(until time.Time) error {
		if left := time.Until(until); left <= 0 || left > 12*time.Minute {
			t.Errorf("without a deadline it is claimed for %s", left)
		}
		return nil
	})
}

func TestCancellingClosesTheConnectionAtOnce(t *testing.T) {
	t.Parallel()
	for _, moment := range []string{atBanner, atEHLO, atMail, atRcpt, atData, atDot} {
		t.Run(moment, func(t *testing.T) {
			t.Parallel()
			server := startRelay(t, relayScript{acts: map[string]act{moment: {hang: true}}})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			done := make(chan *verdict.Failure, 1)
			go func() {
				_, f := attempt(ctx, clientOf(server), someone, someMail).verdicts()
				done <- f
			}()
			eventually(t, "the relay to hang", func() bool {
				server.mu.Lock()
				defer server.mu.Unlock()
				return server.seen[moment] > 0
			})
			cancel()
			f := <-done
			if f == nil || f.Code != verdict.SMTPTransient || f.Relay || !errors.Is(f, context.Canceled) {
				t.Fatalf("got %+v", f)
			}
			if want := map[bool]verdict.Certainty{true: verdict.May, false: verdict.NotSent}[moment == atDot]; f.Certainty != want {
				t.Errorf("certainty %s, want %s", f.Certainty, want)
			}
			server.idle(t)
		})
	}
}

func TestFailedDialsLeaveNoSocketOpen(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "Test CA")
	scripts := map[string]relayScript{
		"EHLO refused":           {acts: map[string]act{atEHLO: {reply: "554 5.7.1 no"}}},
		"STARTTLS refused":       {acts: map[string]act{atSTARTTLS: {reply: "454 4.7.0 no"}}},
		"STARTTLS not offered":   {offers: []string{"8BITMIME"}},
		"handshake refused":      {cert: ca.issue(t, nil)}, // of a CA that is not trusted
		"greeting refused":       {acts: map[string]act{atBanner: {reply: "554 5.7.1 no"}}},
		"garbage for a greeting": {acts: map[string]act{atBanner: {reply: "hello"}}},
	}
	for name, script := range scripts {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := startRelay(t, script)
			r := clientOf(server)
			r.tlsMode = "starttls"
			for range 20 {
				if s, f := dial(patient(t), r); f == nil {
					s.close()
					t.Fatal("connected")
				}
			}
			server.idle(t)
		})
	}
}

func TestUnreachableRelays(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := listener.Addr().(*net.TCPAddr).Port
	_ = listener.Close()
	for name, test := range map[string]struct {
		r    relay
		says string
	}{
		"refused":      {relay{host: "127.0.0.1", port: closed}, "nothing listens there"},
		"unknown name": {relay{host: "relay.invalid", port: 25}, "DNS"},
		"no such port": {relay{host: "127.0.0.1", port: 70000}, "could not be opened"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			_, f := dial(ctx, test.r)
			if f == nil || f.Code != verdict.SMTPConnect || !f.Relay || f.Phase != verdict.PhaseConnect {
				t.Fatalf("got %+v", f)
			}
			if name != "unknown name" && !strings.Contains(f.Reason, test.says) {
				t.Errorf("reason %q does not say %q", f.Reason, test.says)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, f := dial(ctx, relay{host: "127.0.0.1", port: closed}); f == nil || !errors.Is(f, context.Canceled) || f.Relay {
		t.Errorf("a stop before dialling gave %+v", f)
	}
}

func TestSizeIsCheckedBeforeAnythingIsSaid(t *testing.T) {
	t.Parallel()
	server := startRelay(t, relayScript{offers: []string{"SIZE 40"}})
	s := mustDial(t, clientOf(server))
	_, f := s.send(patient(t), someone, someMail, claimed).verdicts()
	if f == nil || f.Code != verdict.SMTPPermanent || f.Phase != verdict.PhaseMail || !strings.Contains(f.Reason, "at most 40") {
		t.Fatalf("got %+v", f)
	}
	if heard := server.heard(); slices.Contains(heard, "MAIL") {
		t.Errorf("heard %v", heard)
	}
	for _, offer := range []string{"SIZE", "SIZE 0", "SIZE much"} {
		server := startRelay(t, relayScript{offers: []string{offer}})
		if _, f := attempt(patient(t), clientOf(server), someone, someMail).verdicts(); f != nil {
			t.Errorf("%q names no limit, yet: %v", offer, f)
		}
	}
}

func TestEnvelopesThatCannotBeSpoken(t *testing.T) {
	t.Parallel()
	server := startRelay(t, relayScript{offers: []string{"8BITMIME"}})
	s := mustDial(t, clientOf(server))
	for name, env := range map[string]envelope{
		"line break":                    {from: "a@example.com", recipients: []string{"b@example.com>\r\nRCPT TO:<evil@example.com"}},
		"bracket":                       {from: "a@example.com> SIZE=1", recipients: []string{"b@example.com"}},
		"non-ASCII":                     {from: "a@example.com", recipients: []string{"bücher@example.com"}},
		"UTF-8 the relay does not know": {from: "a@example.com", recipients: []string{"bücher@example.com"}, utf8: true},
		"nobody":                        {from: "a@example.com"},
	} {
		if _, f := s.send(patient(t), env, someMail, claimed).verdicts(); f == nil || f.Code != verdict.SMTPValidation {
			t.Errorf("%s: got %+v", name, f)
		}
	}
	for _, raw := range []string{"a\nb\r\n", "a\rb\r\n", "a\r\n.\nb\r\n"} {
		if _, f := s.send(patient(t), someone, []byte(raw), claimed).verdicts(); f == nil || f.Code != verdict.SMTPPayload {
			t.Errorf("%q: got %+v", raw, f)
		}
	}
	if heard := server.heard(); len(heard) != 1 {
		t.Errorf("heard %v", heard)
	}
	utf8 := startRelay(t, relayScript{})
	env := envelope{from: "a@example.com", recipients: []string{"bücher@example.com"}, utf8: true}
	if _, f := attempt(patient(t), clientOf(utf8), env, someMail).verdicts(); f != nil {
		t.Error(f)
	}
}

// Exchange offers SMTPUTF8 and refuses it: only mails that need it ask for it.
func TestSMTPUTF8IsAskedForWhereItIsNeeded(t *testing.T) {
	t.Parallel()
	server := startRelay(t, relayScript{noUTF8: true})
	s := mustDial(t, clientOf(server))
	if !s.offers.has("SMTPUTF8") {
		t.Fatal("the relay does not offer it")
	}
	if _, f := s.send(patient(t), someone, someMail, claimed).verdicts(); f != nil {
		t.Errorf("a mail that does not need it: %v", f)
	}
	needs := envelope{from: "a@example.com", recipients: []string{"bücher@example.com"}, utf8: true}
	if _, f := s.send(patient(t), needs, someMail, claimed).verdicts(); f == nil || f.Code != verdict.SMTPPermanent || f.Phase != verdict.PhaseMail || f.ReplyCode != 502 {
		t.Errorf("a mail that needs it: %+v", f)
	}
	if n := len(server.taken()); n != 1 {
		t.Errorf("%d mails were taken", n)
	}
}

func TestRelaysThatCannotProveWhoTheyAre(t *testing.T) {
	t.Parallel()
	ca, stranger := newAuthority(t, "Test CA"), newAuthority(t, "Evil\u202eCA")
	expired := time.Now().Add(-time.Minute)
	tests := map[string]struct {
		script relayScript
		says   string
	}{
		"expired":       {relayScript{cert: ca.issue(t, func(c *x509.Certificate) { c.NotAfter = expired })}, "expired on " + legible.Moment(expired)},
		"not yet valid": {relayScript{cert: ca.issue(t, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(30 * time.Minute) })}, "not valid before"},
		"wrong name": {relayScript{cert: ca.issue(t, func(c *x509.Certificate) { c.IPAddresses, c.DNSNames = nil, []string{"mail.example.org"} })},
			"certificate for mail.example.org and not for 127.0.0.1"},
		"unknown CA":    {relayScript{cert: stranger.issue(t, nil)}, "not trusted here"},
		"TLS 1.1":       {relayScript{cert: ca.issue(t, nil), maxTLS: tls.VersionTLS11}, "no TLS version that is still safe"},
		"wrong purpose": {relayScript{cert: ca.issue(t, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })}, "may not be used for it"},
		"no TLS":        {relayScript{cert: ca.issue(t, nil), acts: map[string]act{atTLS: {reply: "220 I only speak plaintext", hang: true}}}, "does not speak TLS on this port"},
	}
	for name, test := range tests {
		for _, mode := range []string{"starttls", "smtps", "opportunistic"} {
			t.Run(name+"/"+mode, func(t *testing.T) {
				t.Parallel()
				script := test.script
				script.implicit = mode == "smtps"
				server := startRelay(t, script)
				r := clientOf(server)
				r.tlsMode, r.roots = mode, ca.pool()
				_, f := dial(patient(t), r)
				if f == nil || f.Code != verdict.SMTPTLS || f.Relay || f.Phase != verdict.PhaseTLS {
					t.Fatalf("got %+v", f)
				}
				if !strings.Contains(f.Reason, test.says) || strings.ContainsRune(f.Reason, '\u202e') {
					t.Errorf("reason %q does not say %q", f.Reason, test.says)
				}
				if heard := server.heard(); slices.Contains(heard, "MAIL") || slices.Contains(heard, "AUTH") {
					t.Errorf("heard %v", heard)
				}
				if name == "expired" {
					r.skipVerify = true
					if _, f := attempt(patient(t), r, someone, someMail).verdicts(); f != nil {
						t.Errorf("tls_skip_verify: %v", f)
					}
				}
				server.idle(t)
			})
		}
	}
}

func TestHandshakesThatAreCutShort(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "Test CA")
	for name, a := range map[string]act{"drop": {drop: true}, "hang": {hang: true}} {
		for _, mode := range []string{"starttls", "smtps"} {
			t.Run(name+"/"+mode, func(t *testing.T) {
				t.Parallel()
				server := startRelay(t, relayScript{cert: ca.issue(t, nil), implicit: mode == "smtps", acts: map[string]act{atTLS: a}})
				r := clientOf(server)
				r.tlsMode, r.roots = mode, ca.pool()
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				_, f := dial(ctx, r)
				if f == nil || f.Code != verdict.SMTPConnect || !f.Relay || f.Phase != verdict.PhaseTLS {
					t.Fatalf("got %+v", f)
				}
				server.idle(t)
			})
		}
	}
}

func TestSTARTTLSThatIsMissingOrTampered(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "Test CA")
	stripped := startRelay(t, relayScript{offers: []string{"AUTH PLAIN"}, cert: ca.issue(t, nil)})
	r := clientOf(stripped)
	r.tlsMode, r.roots = "starttls", ca.pool()
	r.authMethod, r.username, r.password = "plain", "certs", secrets.New([]byte("a-pass-phrase"))
	if _, f := dial(patient(t), r); f == nil || f.Code != verdict.SMTPTLS || f.Phase != verdict.PhaseSTARTTLS {
		t.Errorf("stripped: %+v", f)
	}
	r.tlsMode = "opportunistic"
	if _, f := dial(patient(t), r); f == nil || f.Code != verdict.SMTPAuth || !strings.Contains(f.Reason, "not encrypted") {
		t.Errorf("a password over an opportunistic connection in plaintext: %+v", f)
	}
	stripped.idle(t)
	if heard := stripped.heard(); slices.Contains(heard, "AUTH") || slices.Contains(heard, "MAIL") {
		t.Errorf("heard %v", heard)
	}

	injected := startRelay(t, relayScript{cert: ca.issue(t, nil), acts: map[string]act{
		atSTARTTLS: {reply: "220 2.0.0 go ahead", behind: "250-evil.test\r\n250 AUTH PLAIN\r\n"},
	}})
	r = clientOf(injected)
	r.tlsMode, r.roots = "starttls", ca.pool()
	if _, f := dial(patient(t), r); f == nil || f.Code != verdict.SMTPTLS || !strings.Contains(f.Reason, "plaintext behind") {
		t.Errorf("injected: %+v", f)
	}
	injected.idle(t)
}

func TestPasswordsGoOnlyWhereTheyBelong(t *testing.T) {
	t.Parallel()
	const password = "correct-horse-battery"
	ca := newAuthority(t, "Test CA")
	tests := map[string]struct {
		mode       string
		skip       bool
		allow      bool
		method     string
		offers     []string
		acts       map[string]act
		user, pass string
		says       string // "" succeeds
	}{
		"plain":                      {mode: "starttls", method: "plain"},
		"login":                      {mode: "smtps", method: "login"},
		"plaintext":                  {mode: "plaintext", method: "plain", says: "not encrypted"},
		"plaintext, allowed":         {mode: "plaintext", method: "login", allow: true},
		"not verified":               {mode: "starttls", skip: true, method: "login", says: "tls_skip_verify"},
		"not verified, allowed":      {mode: "starttls", skip: true, allow: true, method: "login"},
		"method not offered":         {mode: "smtps", method: "plain", offers: []string{"AUTH CRAM-MD5 LOGIN"}, says: "only CRAM-MD5, LOGIN"},
		"no AUTH":                    {mode: "smtps", method: "plain", offers: []string{"8BITMIME"}, says: "does not offer AUTH"},
		"wrong password":             {mode: "smtps", method: "plain", pass: "wrong-wrong-wrong", says: "535 5.7.8"},
		"unknown user":               {mode: "smtps", method: "login", user: "nobody", says: "535 5.7.8"},
		"cram-md5":                   {mode: "starttls", method: "cram-md5", offers: []string{"AUTH LOGIN CRAM-MD5"}},
		"cram-md5, plaintext":        {mode: "plaintext", method: "cram-md5", offers: []string{"AUTH CRAM-MD5"}},
		"cram-md5, wrong password":   {mode: "smtps", method: "cram-md5", offers: []string{"AUTH CRAM-MD5"}, pass: "wrong-wrong-wrong", says: "535 5.7.8"},
		"scram-sha-256":              {mode: "starttls", method: "scram-sha-256", offers: []string{"AUTH SCRAM-SHA-256"}},
		"scram-sha-256, plaintext":   {mode: "plaintext", method: "scram-sha-256", offers: []string{"AUTH SCRAM-SHA-256"}},
		"scram, wrong password":      {mode: "smtps", method: "scram-sha-256", offers: []string{"AUTH SCRAM-SHA-256"}, pass: "wrong-wrong-wrong", says: "535 5.7.8"},
		"scram, not a password":      {mode: "smtps", method: "scram-sha-256", offers: []string{"AUTH SCRAM-SHA-256"}, pass: "tab\tis\tno\tletter", says: "SCRAM has no place for"},
		"xoauth2":                    {mode: "smtps", method: "xoauth2", offers: []string{"AUTH XOAUTH2"}},
		"xoauth2, plaintext":         {mode: "plaintext", method: "xoauth2", offers: []string{"AUTH XOAUTH2"}, says: "not encrypted"},
		"xoauth2, not verified":      {mode: "smtps", skip: true, method: "xoauth2", offers: []string{"AUTH XOAUTH2"}, says: "tls_skip_verify"},
		"xoauth2, refused":           {mode: "smtps", method: "xoauth2", offers: []string{"AUTH XOAUTH2"}, pass: "wrong-wrong-wrong", says: "535 5.7.8"},
		"AUTH= as of old":            {mode: "smtps", method: "login", offers: []string{"AUTH=LOGIN"}},
		"unknown method":             {mode: "smtps", method: "ntlm", offers: []string{"AUTH NTLM"}, says: "not known"},
		"a challenge too many":       {mode: "smtps", method: "plain", acts: map[string]act{atAuth: {reply: "334 cGFzc3dvcmQ="}}, says: "challenge"},
		"the relay quotes it":        {mode: "smtps", method: "plain", acts: map[string]act{atAuth: {reply: "501 5.5.4 what is AUTH PLAIN AGNlcnRzAGNvcnJlY3QtaG9yc2UtYmF0dGVyeQ==?"}}, says: "501"},
		"the relay quotes it, plain": {mode: "smtps", method: "plain", acts: map[string]act{atAuth: {reply: "535 5.7.8 " + password + " is wrong"}}, says: "535"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := startRelay(t, relayScript{cert: ca.issue(t, nil), implicit: test.mode == "smtps", offers: append(test.offers, "STARTTLS"),
				acts: test.acts, users: map[string]string{"certs": password}})
			if test.offers == nil {
				server.offers = append(server.offers, "AUTH LOGIN PLAIN")
			}
			r := clientOf(server)
			r.tlsMode, r.roots, r.skipVerify = test.mode, ca.pool(), test.skip
			r.authMethod, r.allowInsecureAuth = test.method, test.allow
			r.username, r.password = "certs", secrets.New([]byte(password))
			if test.user != "" {
				r.username = test.user
			}
			if test.pass != "" {
				r.password = secrets.New([]byte(test.pass))
			}
			s, f := dial(patient(t), r)
			if f == nil {
				s.close()
			}
			if (f == nil) != (test.says == "") {
				t.Fatalf("got %v", f)
			}
			if f == nil {
				return
			}
			wanted := verdict.SMTPAuth
			if name == "a challenge too many" {
				wanted = verdict.SMTPTransient
			}
			if f.Code != wanted || f.Phase != verdict.PhaseAuth || !strings.Contains(f.Reason, test.says) {
				t.Errorf("got %v, want %s with %q", f, wanted, test.says)
			}
			printed := fmt.Sprintf("%v %+v %#v %v", f, *f, f, f.Cause)
			for _, secret := range []string{password, "wrong-wrong-wrong", "AGNlcnRz", "Y29ycmVjdC1ob3JzZS1iYXR0ZXJ5", "Y3QtaG9yc2UtYmF0dGVyeQ"} {
				if strings.Contains(printed, secret) {
					t.Errorf("%s is in %s", secret, printed)
				}
			}
			if quotes := strings.HasPrefix(test.says, "not ") || strings.HasPrefix(test.says, "tls_"); quotes && slices.Contains(server.heard(), "AUTH") && name != "unknown method" {
				t.Error("AUTH was sent")
			}
			server.idle(t)
		})
	}
}

// clientOf is how to reach a scripted relay, in plaintext and without AUTH.
func clientOf(server *scriptedRelay) relay {
	return relay{host: "127.0.0.1", port: server.Port(), tlsMode: TLSPlaintext, helo: "test.example"}
}
