package delivery

import (
	"context"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/smtp"
	"github.com/certpost/certpost/internal/verdict"
)

// fixture is a courier with one target.
type fixture struct {
	*Courier
	t      testing.TB
	target Target
	event  *events.Event
}

// claimedAtOnce is the claim of a test without a ledger.
func claimedAtOnce(time.Time) error { return nil }

// newFixture returns a fixture whose target's relay is at an address, in plaintext
// unless change sets another tls_mode.
func newFixture(t testing.TB, address string, limits RelayLimits, change func(*Target)) *fixture {
	t.Helper()
	o := &fixture{t: t, target: *testTarget(), event: &events.Event{ID: "e1", Source: "test://ca"}}
	p := lab.NewPKI(t, "p256")
	o.event.Certificate.PEM = string(lab.PEM(p.Leaf, p.Intermediate))
	o.target.Host, o.target.Port = lab.HostPort(t, address)
	o.target.TLSMode = smtp.TLSPlaintext
	o.target.SetDefaults()
	if change != nil {
		change(&o.target)
	}
	store, err := secrets.Open(secrets.Config{}, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	o.Courier = NewCourier(NewBook(o.define(limits), Source{}), store, Options{InvalidDates: "warn", HELO: "test.example"})
	t.Cleanup(o.Close)
	t.Cleanup(store.Close)
	return o
}

func (o *fixture) define(limits RelayLimits) *Definitions {
	o.t.Helper()
	definitions, problems := Relays{Default: RelayDefault{RelayLimits: limits}}.Define([]Target{o.target})
	if definitions == nil {
		o.t.Fatal(problems)
	}
	return definitions
}

// redefine puts a changed target into force.
func (o *fixture) redefine(change func(*Target)) {
	o.t.Helper()
	change(&o.target)
	o.book.current.Store(o.define(RelayLimits{}))
}

func (o *fixture) deliver(ctx context.Context) (*verdict.Receipt, *verdict.Failure) {
	return o.Deliver(ctx, o.event, verdict.Attempt{Target: o.target.ID, Number: 1, Claim: claimedAtOnce})
}

func (o *fixture) mustDeliver() *verdict.Receipt {
	o.t.Helper()
	receipt, failure := o.deliver(context.Background())
	if failure != nil {
		o.t.Fatal(failure)
	}
	return receipt
}

// idle returns the number of idle connections.
func (o *fixture) idle() int {
	return o.pool.Idle()
}

// A recipient that already has the mail does not get it again, and is not named in a
// failure.
func TestWhoHasTheMailIsLeftOut(t *testing.T) {
	t.Parallel()
	server := lab.StartRelay(t, lab.RelayScript{})
	o := newFixture(t, server.Address(), RelayLimits{}, func(target *Target) {
		target.To = []string{"a@example.com", "corrected@example.com"}
		target.BCC = []string{"c@example.com"}
	})
	deliver := func() (*verdict.Receipt, *verdict.Failure) {
		return o.Deliver(lab.Patient(t), o.event, verdict.Attempt{Target: o.target.ID, Number: 2, Accepted: []string{"a@example.com"}, Claim: claimedAtOnce})
	}
	missing := []string{"corrected@example.com", "c@example.com"}
	receipt, f := deliver()
	if f != nil || !slices.Equal(receipt.Recipients, missing) || !slices.Equal(server.Taken()[0].Recipients, missing) {
		t.Errorf("%+v, %v, the relay holds %+v", receipt, f, server.Taken())
	}
	if !strings.Contains(server.Taken()[0].Content, "a@example.com") {
		t.Error("the mail's header does not name the recipient that already has the mail")
	}
	server.Mu.Lock()
	server.Acts = map[string]lab.RelayAct{lab.AtMail: {Reply: "451 4.3.0 later"}}
	server.Mu.Unlock()
	if _, f := deliver(); f == nil || !slices.Equal(f.Recipients, missing) {
		t.Errorf("%+v", f)
	}
}

func TestConnectionsAreUsedAgain(t *testing.T) {
	t.Parallel()
	ca := lab.NewTLSAuthority(t, "Test CA")
	for _, mode := range []string{smtp.TLSPlaintext, smtp.TLSStartTLS, smtp.TLSSMTPS} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			server := lab.StartRelay(t, lab.RelayScript{Cert: ca.Issue(t, nil), Implicit: mode == smtp.TLSSMTPS, Users: map[string]string{"certs": "hunter2hunter2"}})
			o := newFixture(t, server.Address(), RelayLimits{}, func(target *Target) {
				target.TLSMode, target.CAFile = mode, ca.File(t)
				target.Username, target.Password = Text{Plain: "certs"}, secrets.Ref{Value: secrets.New([]byte("hunter2hunter2"))}
				target.AllowInsecureAuth = mode == smtp.TLSPlaintext
			})
			for n := range 5 {
				receipt := o.mustDeliver()
				if warm := n > 0; warm != (receipt.Timings.Dial == 0) || receipt.Timings.Send == 0 {
					t.Errorf("mail %d: %+v", n, receipt.Timings)
				}
				if strings.HasPrefix(receipt.TLS, "TLS 1.3") == (mode == smtp.TLSPlaintext) {
					t.Errorf("mail %d went over %q", n, receipt.TLS)
				}
			}
			o.Close()
			server.Idle(t)
			heard := server.Heard()
			heard = heard[slices.Index(heard, "AUTH"):]
			if want := strings.Fields("AUTH" + strings.Repeat(" MAIL RCPT DATA", 5) + " QUIT"); !slices.Equal(heard, want) {
				t.Errorf("heard %v, want %v", heard, want)
			}
			if all, _ := server.Dials(); all != 1 || len(server.Taken()) != 5 {
				t.Errorf("%d connections for %d mails", all, len(server.Taken()))
			}
		})
	}
}

// A connection that the relay closes while it is idle is removed before the next mail.
//
// Fault: closes kept connections at any time. Result: one new connection in the same
// attempt.
func TestRelaysMayCloseIdleConnections(t *testing.T) {
	t.Parallel()
	ca := lab.NewTLSAuthority(t, "Test CA")
	for name, test := range map[string]struct{ mode, words string }{
		"without a word":      {smtp.TLSPlaintext, ""},
		"with 421":            {smtp.TLSPlaintext, "421 4.4.2 idle for too long\r\n"},
		"with nonsense":       {smtp.TLSPlaintext, "by the way"},
		"TLS, without a word": {smtp.TLSStartTLS, ""},
		"TLS, with nonsense":  {smtp.TLSStartTLS, "421 in plaintext\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := lab.StartRelay(t, lab.RelayScript{Cert: ca.Issue(t, nil)})
			o := newFixture(t, server.Address(), RelayLimits{}, func(target *Target) {
				target.TLSMode, target.CAFile = test.mode, ca.File(t)
			})
			o.mustDeliver()
			if o.idle() != 1 {
				t.Fatal("the connection was not kept")
			}
			server.HangUp(test.words)
			lab.Eventually(t, "the connection to be closed", func() bool { return o.idle() == 0 })
			server.Idle(t)
			if receipt := o.mustDeliver(); receipt.Timings.Dial == 0 {
				t.Error("the second mail claims a warm connection")
			}
			if mails := server.Taken(); len(mails) != 2 {
				t.Errorf("%d mails", len(mails))
			}
		})
	}
}

// A connection that the relay closes just as the next mail is sent costs a redial, but
// only if the relay has not answered MAIL. TestSessionLimits has the replies that speak of
// the connection.
//
// Fault: closes kept connections at any time. Result: one new connection in the same
// attempt; only before MAIL.
func TestOneRedialBeforeMAILAlone(t *testing.T) {
	t.Parallel()
	const busy = "421 4.3.2 too many mails on this connection"
	for name, test := range map[string]struct {
		acts   map[string]lab.RelayAct
		refuse bool // the mail before, so that RSET comes first
		dials  int
		code   verdict.Code // "" is success
		reply  int
	}{
		"closed at MAIL":             {acts: map[string]lab.RelayAct{lab.AtMail: {Drop: true, Only: 2}}, dials: 2},
		"421 at MAIL":                {acts: map[string]lab.RelayAct{lab.AtMail: {Reply: busy, Drop: true, Only: 2}}, dials: 2},
		"half a reply at MAIL":       {acts: map[string]lab.RelayAct{lab.AtMail: {Reply: "2", Drop: true, Only: 2}}, dials: 1, code: verdict.SMTPTransient},
		"closed at RSET":             {acts: map[string]lab.RelayAct{lab.AtRset: {Drop: true, Only: 1}}, refuse: true, dials: 2},
		"421 at RSET":                {acts: map[string]lab.RelayAct{lab.AtRset: {Reply: busy, Drop: true, Only: 1}}, refuse: true, dials: 2},
		"closed at MAIL each time":   {acts: map[string]lab.RelayAct{lab.AtMail: {Drop: true}}, dials: 2, code: verdict.SMTPTransient},
		"closed at MAIL behind RSET": {acts: map[string]lab.RelayAct{lab.AtMail: {Drop: true, Only: 2}}, refuse: true, dials: 2},
		"421 at MAIL behind RSET":    {acts: map[string]lab.RelayAct{lab.AtMail: {Reply: busy, Drop: true, Only: 2}}, refuse: true, dials: 2},
		"closed at RCPT":             {acts: map[string]lab.RelayAct{lab.AtRcpt: {Drop: true, Only: 2}}, dials: 1, code: verdict.SMTPTransient},
		"closed at DATA":             {acts: map[string]lab.RelayAct{lab.AtData: {Drop: true, Only: 2}}, dials: 1, code: verdict.SMTPTransient},
		"421 at RCPT":                {acts: map[string]lab.RelayAct{lab.AtRcpt: {Reply: "421 4.3.2 going down", Drop: true, Only: 2}}, dials: 1, code: verdict.SMTPTransient, reply: 421},
		"refused for now at MAIL":    {acts: map[string]lab.RelayAct{lab.AtMail: {Reply: "451 4.3.0 later", Only: 2}}, dials: 1, code: verdict.SMTPTransient, reply: 451},
		"refused for good at MAIL":   {acts: map[string]lab.RelayAct{lab.AtMail: {Reply: "550 5.7.1 no", Only: 2}}, dials: 1, code: verdict.SMTPPermanent, reply: 550},
		"garbage at MAIL":            {acts: map[string]lab.RelayAct{lab.AtMail: {Reply: "what?", Only: 2}}, dials: 1, code: verdict.SMTPTransient},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			acts := test.acts
			if name == "closed at MAIL each time" {
				acts = nil
			}
			server := lab.StartRelay(t, lab.RelayScript{Acts: acts})
			o := newFixture(t, server.Address(), RelayLimits{}, nil)
			if test.refuse {
				server.PerRcpt = map[string]string{"ops@example.com": "450 4.2.0 later"}
				if _, f := o.deliver(lab.Patient(t)); f == nil {
					t.Fatal("taken")
				}
				server.Mu.Lock()
				server.PerRcpt = nil
				server.Mu.Unlock()
			} else {
				o.mustDeliver()
			}
			server.Mu.Lock()
			server.Acts = test.acts
			server.Mu.Unlock()
			receipt, f := o.deliver(lab.Patient(t))
			all, _ := server.Dials()
			if (f == nil) != (test.code == "") || f != nil && (f.Code != test.code || f.ReplyCode != test.reply || f.Relay) || all != test.dials {
				t.Fatalf("%+v, %+v after %d dials, want %d", receipt, f, all, test.dials)
			}
			if f == nil && receipt.Timings.Dial == 0 {
				t.Error("a fresh connection counts as a warm one")
			}
		})
	}
}

// A restarted relay has closed all connections: one redial is enough nevertheless.
func TestOneRedialForManyStaleConnections(t *testing.T) {
	t.Parallel()
	gate := make(chan struct{})
	server := lab.StartRelay(t, lab.RelayScript{Acts: map[string]lab.RelayAct{lab.AtDot: {Wait: gate, Take: true}}})
	o := newFixture(t, server.Address(), RelayLimits{}, nil)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() { o.mustDeliver() })
	}
	lab.Eventually(t, "four connections", func() bool { n, _ := server.Dials(); return n == 4 })
	close(gate)
	all.Wait()
	server.Mu.Lock()
	server.Acts = map[string]lab.RelayAct{lab.AtMail: {Reply: "421 4.3.2 restarting", Drop: true, Only: 5}}
	server.Mu.Unlock()
	o.mustDeliver()
	if n, _ := server.Dials(); n != 5 {
		t.Errorf("%d connections, want one more than the four", n)
	}
}

// A connection is reused only if the settings and secrets that it was made with have
// not changed.
func TestChangesLeadToNewConnections(t *testing.T) {
	t.Parallel()
	ca, other := lab.NewTLSAuthority(t, "Test CA"), lab.NewTLSAuthority(t, "Other CA")
	password := filepath.Join(t.TempDir(), "password")
	roots := filepath.Join(t.TempDir(), "roots.pem")
	lab.Write(t, password, []byte("first-password"))
	lab.Write(t, roots, ca.PEM())
	server := lab.StartRelay(t, lab.RelayScript{Cert: ca.Issue(t, nil)}) // takes any password
	o := newFixture(t, server.Address(), RelayLimits{}, func(target *Target) {
		target.TLSMode, target.CAFile = smtp.TLSStartTLS, roots
		target.Username, target.Password = Text{Plain: "certs"}, secrets.Ref{File: password}
	})
	o.mustDeliver()
	for n, change := range []func(){
		func() { lab.Write(t, password, []byte("second-password")) },
		func() { o.redefine(func(target *Target) { target.Username = Text{Plain: "somebody"} }) },
		func() { o.redefine(func(target *Target) { target.AuthMethod = smtp.AuthLogin }) },
		func() { lab.Write(t, roots, append(ca.PEM(), other.PEM()...)) },
		func() { o.redefine(func(target *Target) { target.TLSMode = smtp.TLSOpportunistic }) },
		func() {
			o.redefine(func(target *Target) { target.TLSSkipVerify, target.AllowInsecureAuth = true, true })
		},
	} {
		change()
		if receipt := o.mustDeliver(); receipt.Timings.Dial == 0 {
			t.Errorf("change %d: an old connection was used", n)
		}
		if receipt := o.mustDeliver(); receipt.Timings.Dial != 0 {
			t.Errorf("change %d: the new connection was not used again", n)
		}
	}
	// The old connections are kept for mails with the same settings: back to the first.
	lab.Write(t, password, []byte("first-password"))
	lab.Write(t, roots, ca.PEM())
	o.redefine(func(target *Target) {
		target.Username, target.AuthMethod, target.TLSMode = Text{Plain: "certs"}, smtp.AuthPlain, smtp.TLSStartTLS
		target.TLSSkipVerify, target.AllowInsecureAuth = false, false
	})
	if receipt := o.mustDeliver(); receipt.Timings.Dial != 0 {
		t.Error("the first connection was not used again")
	}
	lab.Write(t, roots, other.PEM())
	if _, f := o.deliver(lab.Patient(t)); f == nil || f.Code != verdict.SMTPTLS {
		t.Errorf("with a CA that did not issue the relay's certificate: %v", f)
	}
	lab.Write(t, roots, []byte("no certificate"))
	if _, f := o.deliver(lab.Patient(t)); f == nil || f.Code != verdict.TargetInvalid || !strings.Contains(f.Reason, roots) {
		t.Errorf("with a CA file without a certificate: %v", f)
	}
	o.redefine(func(target *Target) { target.CAFile = roots + ".gone" })
	if _, f := o.deliver(lab.Patient(t)); f == nil || f.Code != verdict.TargetInvalid || !strings.Contains(f.Reason, "cannot be read") {
		t.Errorf("without the CA file: %v", f)
	}
}

// Fault: accepts few connections. Result: no more are opened than the limits allow.
func TestConnectionsAreLimited(t *testing.T) {
	t.Parallel()
	server := lab.StartRelay(t, lab.RelayScript{})
	o := newFixture(t, server.Address(), RelayLimits{MaxConnections: 3}, nil)
	var all sync.WaitGroup
	for range 40 {
		all.Go(func() { o.mustDeliver() })
	}
	all.Wait()
	if dials, most := server.Dials(); most > 3 || dials > 3 || len(server.Taken()) != 40 {
		t.Errorf("%d connections, %d at a time, for %d mails", dials, most, len(server.Taken()))
	}
}

// A wait for a free connection that is cut short is not counted against the relay.
func TestAWaitThatIsCutShortBlamesNobody(t *testing.T) {
	t.Parallel()
	gate := make(chan struct{})
	defer close(gate)
	server := lab.StartRelay(t, lab.RelayScript{Acts: map[string]lab.RelayAct{lab.AtDot: {Wait: gate}}})
	o := newFixture(t, server.Address(), RelayLimits{MaxConnections: 1}, nil)
	go func() { _, _ = o.deliver(context.WithoutCancel(t.Context())) }()
	lab.Eventually(t, "the first mail to be on its way", func() bool {
		server.Mu.Lock()
		defer server.Mu.Unlock()
		return server.Seen[lab.AtDot] > 0
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan *verdict.Failure)
	go func() {
		_, f := o.deliver(ctx)
		done <- f
	}()
	cancel()
	if f := <-done; f == nil || f.Code != verdict.SMTPTransient || f.Relay || f.Certainty != verdict.NotSent || !errors.Is(f, context.Canceled) {
		t.Errorf("got %+v", f)
	}
}

func TestClosingThePool(t *testing.T) {
	t.Parallel()
	server := lab.StartRelay(t, lab.RelayScript{})
	o := newFixture(t, server.Address(), RelayLimits{}, nil)
	o.mustDeliver()
	o.Close()
	o.Close()
	server.Idle(t)
	if heard := server.Heard(); heard[len(heard)-1] != "QUIT" {
		t.Errorf("heard %v", heard)
	}
	o.mustDeliver() // it may have been in progress
	server.Idle(t)
}

// Many deliveries at once to a relay that closes connections at random: each mail
// arrives, or its failure says that it did not.
//
// Fault: closes kept connections at any time. Result: no mail is lost.
func TestThePoolUnderAMoodyRelay(t *testing.T) {
	t.Parallel()
	server := lab.StartRelay(t, lab.RelayScript{})
	o := newFixture(t, server.Address(), RelayLimits{MaxConnections: 4, MaxMessagesPerConnection: 7}, nil)
	stop := make(chan struct{})
	var moods, all sync.WaitGroup
	moods.Go(func() {
		random := rand.New(rand.NewPCG(1, 2))
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(random.IntN(5)) * time.Millisecond):
				server.HangUp("") // a text could be read as the reply to a mail that the relay stored
			}
		}
	})
	var mu sync.Mutex
	receipts, unknown := 0, 0
	for range 8 {
		all.Go(func() {
			for range 50 {
				receipt, f := o.deliver(context.Background())
				mu.Lock()
				if receipt != nil {
					receipts++
				} else if f.Certainty == verdict.MaybeSent {
					unknown++
				}
				mu.Unlock()
				if f != nil && !f.Retry() {
					t.Errorf("final: %v", f)
				}
			}
		})
	}
	all.Wait()
	close(stop)
	moods.Wait()
	if taken := len(server.Taken()); taken < receipts || taken > receipts+unknown {
		t.Errorf("the relay holds %d mails, %d were confirmed, %d may be there", taken, receipts, unknown)
	}
	o.Close()
	server.Idle(t)
	if n := o.idle(); n != 0 {
		t.Errorf("%d connections are kept by a closed pool", n)
	}
}

// Connections to Postfix are used again, and its restart costs no mail.
//
// Fault: closes kept connections at any time. Result: no mail is lost.
func TestPostfixAndThePool(t *testing.T) {
	t.Parallel()
	const user, password = "ops@lab.test", "correct-horse-battery"
	server := lab.Postfix(t, lab.MailOptions{Users: map[string]string{user: password}})
	o := newFixture(t, server.Submission, RelayLimits{MaxConnections: 2}, func(target *Target) {
		target.TLSMode, target.CAFile, target.To = smtp.TLSStartTLS, server.CA.File, []string{user, "nobody@lab.test"}
		target.Username, target.Password = Text{Plain: user}, secrets.Ref{Value: secrets.New([]byte(password))}
	})
	for n := range 6 {
		if n == 4 {
			server.Stop(t)
			server.Start(t)
		}
		receipt, f := o.deliver(lab.Patient(t))
		if receipt == nil || f == nil || len(f.Refused) != 1 || f.Refused[0].Recipient != "nobody@lab.test" {
			t.Fatalf("mail %d: %+v, %+v", n, receipt, f)
		}
		if fresh := n == 0 || n == 4; (receipt.Timings.Dial > 0) != fresh {
			t.Errorf("mail %d: %+v", n, receipt.Timings)
		}
	}
	server.Fetch(t, user, lab.AtLeast(6))
	o.arrivesByteForByte(t, server, user)
}
