package smtp

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/verdict"
)

var three = Envelope{From: "certs@example.com", Recipients: []string{"a@example.com", "b@example.com", "c@example.com"}}

// Commands sent in one packet are each judged by their own reply.
//
// Fault: unsolicited replies. Result: never taken for another reply.
func TestPipelinedRepliesBelongToTheirCommands(t *testing.T) {
	t.Parallel()
	const nobody, later = "550 5.1.1 nobody", "450 4.2.0 later"
	for name, test := range map[string]struct {
		acts    map[string]lab.RelayAct
		perRcpt map[string]string
		taken   []string
		code    verdict.Code // "" is no failure
		phase   verdict.Phase
		reply   int
		refused int  // permanently
		dead    bool // the connection
	}{
		"all fine":                         {taken: three.Recipients},
		"the first refused":                {perRcpt: map[string]string{"a@example.com": nobody}, taken: three.Recipients[1:], code: verdict.SMTPPermanent, phase: verdict.PhaseRcpt, reply: 550, refused: 1},
		"the one in the middle":            {perRcpt: map[string]string{"b@example.com": later}, taken: []string{"a@example.com", "c@example.com"}, code: verdict.SMTPTransient, phase: verdict.PhaseRcpt, reply: 450},
		"the last refused, in three lines": {perRcpt: map[string]string{"c@example.com": "550-5.1.1 no\r\n550-5.1.1 body\r\n550 5.1.1 here"}, taken: three.Recipients[:2], code: verdict.SMTPPermanent, phase: verdict.PhaseRcpt, reply: 550, refused: 1},
		"MAIL refused for good":            {acts: map[string]lab.RelayAct{lab.AtMail: {Reply: "550 5.7.1 not you"}}, code: verdict.SMTPPermanent, phase: verdict.PhaseMail, reply: 550},
		"MAIL refused, RCPT out of order":  {acts: map[string]lab.RelayAct{lab.AtMail: {Reply: "451 4.3.0 later"}, lab.AtRcpt: {Reply: "503 5.5.1 MAIL first"}}, code: verdict.SMTPTransient, phase: verdict.PhaseMail, reply: 451},
		"421 to MAIL":                      {acts: map[string]lab.RelayAct{lab.AtMail: {Reply: "421 4.3.2 bye", Drop: true}}, code: verdict.SMTPTransient, phase: verdict.PhaseMail, reply: 421, dead: true},
		"MAIL refused, then dropped":       {acts: map[string]lab.RelayAct{lab.AtMail: {Reply: "552 5.3.4 too large"}, lab.AtRcpt: {Drop: true}}, code: verdict.SMTPPermanent, phase: verdict.PhaseMail, reply: 552, dead: true},
		"421 in the middle":                {perRcpt: map[string]string{"a@example.com": nobody}, acts: map[string]lab.RelayAct{lab.AtRcpt: {Reply: "421 4.3.2 bye", Drop: true, Only: 2}}, code: verdict.SMTPTransient, phase: verdict.PhaseRcpt, reply: 421, refused: 1, dead: true},
		"dropped in the middle":            {acts: map[string]lab.RelayAct{lab.AtRcpt: {Drop: true, Only: 2}}, code: verdict.SMTPTransient, phase: verdict.PhaseRcpt, dead: true},
		"half a reply in the middle":       {acts: map[string]lab.RelayAct{lab.AtRcpt: {Reply: "25", Drop: true, Only: 2}}, code: verdict.SMTPTransient, phase: verdict.PhaseRcpt, dead: true},
		"garbage in the middle":            {acts: map[string]lab.RelayAct{lab.AtRcpt: {Reply: "hello there", Only: 2}}, code: verdict.SMTPTransient, phase: verdict.PhaseRcpt, dead: true},
		"354 in the middle":                {acts: map[string]lab.RelayAct{lab.AtRcpt: {Reply: "354 go on", Only: 2}}, code: verdict.SMTPTransient, phase: verdict.PhaseRcpt, reply: 354, dead: true},
		"endless in the middle":            {acts: map[string]lab.RelayAct{lab.AtRcpt: {Reply: "250-and", Endless: true, Only: 2}}, code: verdict.SMTPTransient, phase: verdict.PhaseRcpt, dead: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := lab.StartRelay(t, lab.RelayScript{Acts: test.acts, PerRcpt: test.perRcpt})
			s := mustDial(t, clientOf(server))
			receipt, f := s.Send(lab.Patient(t), three, someMail, claimed).Verdicts()
			var taken []string
			if receipt != nil {
				taken = receipt.Recipients
			}
			if !slices.Equal(taken, test.taken) || (f == nil) != (test.code == "") || s.dead != test.dead {
				t.Fatalf("taken by %v, %+v, dead %v", taken, f, s.dead)
			}
			if f != nil && (f.Code != test.code || f.Phase != test.phase || f.ReplyCode != test.reply || len(f.Refused) != test.refused) {
				t.Errorf("got %+v", f)
			}
			if mails := server.Taken(); len(mails) > 0 != (taken != nil) || len(mails) > 0 && !slices.Equal(mails[0].Recipients, taken) {
				t.Errorf("the relay holds %+v", mails)
			}
			if test.dead {
				return
			}
			// The next mail on the connection is not affected.
			server.Mu.Lock()
			server.Acts, server.PerRcpt = nil, nil
			server.Mu.Unlock()
			if _, f := s.Send(lab.Patient(t), someone, someMail, claimed).Verdicts(); f != nil {
				t.Errorf("the next mail: %v", f)
			}
		})
	}
}

// An extra reply must not be taken for the reply to another command, least of all for
// the acceptance of a mail.
//
// Fault: unsolicited replies. Result: never taken for another reply.
func TestRepliesThatNobodyAskedFor(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		moment string
		act    lab.RelayAct
		code   verdict.Code
		phase  verdict.Phase
		reply  int // -1: any; by timing, the 250 is seen before DATA or as its reply
	}{
		"at MAIL":           {lab.AtMail, lab.RelayAct{Reply: "250 fine", Behind: "250 fine again\r\n"}, verdict.SMTPTransient, verdict.PhaseData, -1},
		"at RCPT":           {lab.AtRcpt, lab.RelayAct{Reply: "250 fine", Behind: "250 fine again\r\n"}, verdict.SMTPTransient, verdict.PhaseData, -1},
		"421 at RCPT":       {lab.AtRcpt, lab.RelayAct{Reply: "250 fine", Behind: "421 4.3.2 going down\r\n", Drop: true}, verdict.SMTPTransient, verdict.PhaseData, 421},
		"at DATA":           {lab.AtData, lab.RelayAct{Reply: "354 go on", Behind: "250 2.0.0 taken already\r\n"}, verdict.SMTPTransient, verdict.PhaseContent, 0},
		"a refusal at DATA": {lab.AtData, lab.RelayAct{Reply: "354 go on", Behind: "552 5.3.4 too large\r\n"}, verdict.SMTPPermanent, verdict.PhaseContent, 552},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := lab.StartRelay(t, lab.RelayScript{Acts: map[string]lab.RelayAct{test.moment: test.act}})
			s := mustDial(t, clientOf(server))
			receipt, f := s.Send(lab.Patient(t), someone, someMail, claimed).Verdicts()
			if receipt != nil || f == nil || f.Code != test.code || f.Phase != test.phase || test.reply >= 0 && f.ReplyCode != test.reply || f.Certainty != verdict.NotSent {
				t.Fatalf("%+v, %+v", receipt, f)
			}
			if !s.dead || len(server.Taken()) != 0 {
				t.Errorf("dead %v, the relay holds %v", s.dead, server.Taken())
			}
		})
	}
}

// A relay may answer a whole group at once, with any packet boundaries.
func TestRepliesOfAGroupInAnyPackets(t *testing.T) {
	t.Parallel()
	answers := "250 2.1.0 sender fine\r\n250-2.1.5 a\r\n250 2.1.5 fine\r\n550-5.1.1 b\r\n550 5.1.1 nobody\r\n250 2.1.5 c fine\r\n"
	for _, size := range []int{1, 7, 30, len(answers)} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = listener.Close() }()
			go func() {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				defer func() { _ = conn.Close() }()
				in := bufio.NewReader(conn)
				listen := func(lines int, answer string) {
					for range lines {
						_, _ = in.ReadString('\n')
					}
					for ; answer != ""; answer = answer[min(size, len(answer)):] {
						_, _ = io.WriteString(conn, answer[:min(size, len(answer))])
					}
				}
				listen(0, "220 group.test\r\n")
				listen(1, "250-group.test\r\n250 PIPELINING\r\n")
				listen(4, answers) // waits for all four commands
				listen(1, "354 go on\r\n")
				listen(strings.Count(string(someMail), "\n")+1, "250 2.0.0 Ok: queued as 12345\r\n")
				listen(1, "221 bye\r\n")
			}()
			receipt, f := attempt(lab.Patient(t), at(t, listener.Addr().String(), "plaintext"), three, someMail).Verdicts()
			if receipt == nil || !slices.Equal(receipt.Recipients, []string{"a@example.com", "c@example.com"}) || receipt.QueueID != "12345" {
				t.Fatalf("%+v, %v", receipt, f)
			}
			if f == nil || len(f.Refused) != 1 || f.Refused[0].Recipient != "b@example.com" {
				t.Errorf("%+v", f)
			}
		})
	}
}

func TestPipeliningIsForThoseWhoOfferIt(t *testing.T) {
	t.Parallel()
	for _, offer := range []string{"PIPELINING", "pipelining", "8BITMIME"} {
		server := lab.StartRelay(t, lab.RelayScript{Offers: []string{offer}})
		if _, f := attempt(lab.Patient(t), clientOf(server), three, someMail).Verdicts(); f != nil {
			t.Fatal(f)
		}
		server.Mu.Lock()
		ahead := server.Ahead
		server.Mu.Unlock()
		if offer == "8BITMIME" && ahead != 0 {
			t.Errorf("%d commands came before the reply to the one before", ahead)
		}
	}
	// DATA is sent only after all replies to the envelope, and the claim.
	server := lab.StartRelay(t, lab.RelayScript{Acts: map[string]lab.RelayAct{lab.AtRcpt: {Reply: "550 5.1.1 nobody"}}})
	if _, f := attempt(lab.Patient(t), clientOf(server), three, someMail).Verdicts(); f == nil || slices.Contains(server.Heard(), "DATA") {
		t.Errorf("%v, heard %v", f, server.Heard())
	}
}

// The largest envelope goes out in groups that fit into the buffers of both sides, and
// nothing more is sent after a refused MAIL.
//
// Fault: a mail to the most recipients that a target can have (150). Result: sent in groups
// that fit into the buffers of both sides.
func TestManyRecipientsInGroups(t *testing.T) {
	t.Parallel()
	replies := map[string]string{}
	env := Envelope{From: "certs@example.com"}
	for n := range 150 {
		address := fmt.Sprintf("%s-%d@example.com", strings.Repeat("x", 50), n)
		env.Recipients = append(env.Recipients, address)
		replies[address] = strings.Repeat("250-2.1.5 chatter\r\n", 20) + "250 2.1.5 fine" // 3,150 lines in all
	}
	server := lab.StartRelay(t, lab.RelayScript{PerRcpt: replies})
	receipt, f := attempt(lab.Patient(t), clientOf(server), env, someMail).Verdicts()
	if f != nil || !slices.Equal(receipt.Recipients, env.Recipients) {
		t.Fatalf("%+v, %v", receipt, f)
	}

	server = lab.StartRelay(t, lab.RelayScript{Acts: map[string]lab.RelayAct{lab.AtMail: {Reply: "550 5.7.1 no", Only: 1}}})
	s := mustDial(t, clientOf(server))
	if _, f := s.Send(lab.Patient(t), env, someMail, claimed).Verdicts(); f == nil || f.Phase != verdict.PhaseMail {
		t.Fatalf("%+v", f)
	}
	asked := 0
	for _, line := range server.Heard() {
		if strings.HasPrefix(line, "RCPT") {
			asked++
		}
	}
	if asked == 0 || asked > maxPipelined {
		t.Errorf("%d RCPT after a refused MAIL", asked)
	}
	if receipt, f := s.Send(lab.Patient(t), env, someMail, claimed).Verdicts(); f != nil || len(receipt.Recipients) != 150 {
		t.Errorf("the next mail: %+v, %v", receipt, f)
	}
}

// A mail on a reused connection takes three round trips with any number of recipients,
// also after a refused envelope.
func TestRoundTrips(t *testing.T) {
	t.Parallel()
	ca := lab.NewTLSAuthority(t, "Test CA")
	for name, test := range map[string]struct {
		offers []string
		mode   string
		want   int
	}{
		"PIPELINING":         {nil, "plaintext", 3},
		"PIPELINING, TLS":    {nil, "starttls", 3},
		"command by command": {[]string{"8BITMIME"}, "plaintext", 6},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := lab.StartRelay(t, lab.RelayScript{Offers: test.offers, Cert: ca.Issue(t, nil)})
			road := lab.NewLink(t, server.Listener.Addr().String(), 0)
			r := at(t, road.Address, test.mode)
			r.roots = ca.Pool()
			s := mustDial(t, r)
			for range 3 {
				before := road.Turns.Load()
				if _, f := s.Send(lab.Patient(t), three, someMail, claimed).Verdicts(); f != nil {
					t.Fatal(f)
				}
				if turns := int(road.Turns.Load() - before); turns != test.want {
					t.Errorf("%d round trips, want %d", turns, test.want)
				}
			}
			if test.want != 3 {
				return
			}
			server.Mu.Lock()
			server.PerRcpt = map[string]string{someone.Recipients[0]: "550 5.1.1 nobody"}
			server.Mu.Unlock()
			before := road.Turns.Load()
			_, _ = s.Send(lab.Patient(t), someone, someMail, claimed).Verdicts()
			if turns := road.Turns.Load() - before; turns != 1 {
				t.Errorf("%d round trips to be refused, want 1", turns)
			}
			before = road.Turns.Load()
			if _, f := s.Send(lab.Patient(t), three, someMail, claimed).Verdicts(); f != nil {
				t.Fatal(f)
			}
			if turns := road.Turns.Load() - before; turns != 3 {
				t.Errorf("%d round trips with a RSET among them, want 3", turns)
			}
			if heard := server.Heard(); !slices.Contains(heard, "RSET") || slices.Contains(heard, "NOOP") {
				t.Errorf("heard %v", heard)
			}
		})
	}
}
