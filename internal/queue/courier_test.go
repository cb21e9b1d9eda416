package queue

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/delivery"
	"github.com/certpost/certpost/internal/devrelay"
	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/verdict"
	"github.com/rs/zerolog"
)

// Tests of broker, courier and relays together.

// realCourier returns the courier of package delivery for a configuration with relays
// and targets.
func realCourier(t *testing.T, text string) (*delivery.Courier, *delivery.Definitions) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	source := delivery.Source{Config: path, Relays: path}
	definitions, problems := source.Load()
	if definitions == nil {
		t.Fatal(problems)
	}
	store, err := secrets.Open(secrets.Config{}, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	courier := delivery.NewCourier(delivery.NewBook(definitions, source), store, delivery.Options{})
	t.Cleanup(courier.Close)
	return courier, definitions
}

// startWith returns a fixture whose runner uses that courier.
func startWith(t *testing.T, courier Courier) *fixture {
	t.Helper()
	b := &fixture{t: t, courier: courier, set: quick(), cfg: broker.Config{DataDir: t.TempDir(), Listen: "none", SyncInterval: "2m"}}
	b.start()
	return b
}

// onlyLane returns the state of the only lane; zero while there is none.
func (b *fixture) onlyLane() broker.LaneStatus {
	for _, s := range b.runner.LaneStatus() {
		return s
	}
	return broker.LaneStatus{}
}

func relayAt(t *testing.T, config devrelay.Config) *devrelay.Relay {
	t.Helper()
	r, err := devrelay.Start(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

func portOf(address string) string { return address[strings.LastIndexByte(address, ':')+1:] }

// onceEach fails unless the relay has exactly one mail for each of the events.
func onceEach(t *testing.T, r *devrelay.Relay, events int) {
	t.Helper()
	ids := map[string]int{}
	for _, m := range r.Mails() {
		head, _, _ := strings.Cut(string(m.Raw), "\r\n\r\n")
		for line := range strings.Lines(head) {
			if id, ok := strings.CutPrefix(line, "Message-ID: "); ok {
				ids[id]++
			}
		}
	}
	if len(ids) != events || r.Count() != events {
		t.Errorf("%d mails with %d Message-IDs, want %d", r.Count(), len(ids), events)
	}
}

const mailKeys = "from_address: a@example.com, to: [b@example.com]"

// The first relay does not answer, or refuses connections: the fallback accepts each
// mail exactly once, and the ledger says so.
//
// Fault: the first relay is unavailable and there is a fallback. Result: the fallback gets
// all mails; once each.
func TestFallbackTakesAll(t *testing.T) {
	t.Parallel()
	for name, first := range map[string]func(t *testing.T) string{
		"black hole": func(t *testing.T) string {
			l, err := net.Listen("tcp", "127.0.0.1:0") // never accepts
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = l.Close() })
			return l.Addr().String()
		},
		"closed port": func(t *testing.T) string {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			return l.Addr().String()
		},
		"hangs up": func(t *testing.T) string { return newRelayProxy(t, "").Addr().String() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			second := relayAt(t, devrelay.Config{})
			courier, _ := realCourier(t, fmt.Sprintf(`targets:
  - {id: ops, host: 127.0.0.1, port: %s, tls_mode: plaintext, timeout: 1s, %s, fallback: [{host: 127.0.0.1, port: %s, tls_mode: plaintext, timeout: 60s}]}
`, portOf(first(t)), mailKeys, portOf(second.Plain())))
			b := startWith(t, courier)
			const n = 40
			for i := range n {
				b.publish(event(fmt.Sprintf("e%d", i), "ops"))
			}
			b.settled()
			onceEach(t, second, n)
			for i := range n {
				e := b.entry("ops", fmt.Sprintf("e%d", i))
				if e.State != broker.StateSent || e.Attempts != 1 || e.Receipt == nil || e.Receipt.Relay != second.Plain() {
					t.Errorf("ledger: %+v, receipt %+v", e, e.Receipt)
				}
			}
			b.until("the lane has a breaker that is open and one that is closed", func() bool { return b.onlyLane().Breaker == broker.BreakerPartly })
		})
	}
}

// When the first relay answers again, it is used again.
//
// Fault: the first relay is unavailable and there is a fallback. Result: the first is used
// again when it answers.
func TestFirstRelayIsUsedAgain(t *testing.T) {
	t.Parallel()
	first, second := relayAt(t, devrelay.Config{}), relayAt(t, devrelay.Config{})
	proxy := newRelayProxy(t, first.Plain())
	courier, _ := realCourier(t, fmt.Sprintf(`targets:
  - {id: ops, host: 127.0.0.1, port: %s, tls_mode: plaintext, %s, fallback: [{host: 127.0.0.1, port: %s, tls_mode: plaintext}]}
`, portOf(proxy.Addr().String()), mailKeys, portOf(second.Plain())))
	b := startWith(t, courier)
	for i := range 10 {
		b.publish(event(fmt.Sprintf("e%d", i), "ops"))
	}
	b.settled()
	onceEach(t, second, 10)
	proxy.enable()
	sent := 10
	b.until("a mail on the first relay", func() bool {
		b.publish(event(fmt.Sprintf("e%d", sent), "ops"))
		sent++
		b.settled()
		return first.Count() > 0
	})
	b.until("the lane's breakers are closed", func() bool { return b.onlyLane().Breaker == broker.BreakerClosed })
	if got := first.Count() + second.Count(); got != sent {
		t.Errorf("%d mails for %d events", got, sent)
	}
}

// A relay's reply to a mail is final: the fallback is not tried.
//
// Fault: the first relay is unavailable and there is a fallback. Result: only before MAIL.
func TestRefusalIsNotTakenElsewhere(t *testing.T) {
	t.Parallel()
	first := relayAt(t, devrelay.Config{Rules: []devrelay.Rule{{Stage: devrelay.StageRcpt, Code: 550, Enhanced: "5.1.1", Text: "no"}}})
	busy := relayAt(t, devrelay.Config{Rules: []devrelay.Rule{{Stage: devrelay.StageData, Code: 451, Text: "later", Times: 2}}})
	second := relayAt(t, devrelay.Config{})
	courier, _ := realCourier(t, fmt.Sprintf(`targets:
  - {id: refused, host: 127.0.0.1, port: %[1]s, tls_mode: plaintext, %[4]s, fallback: [{host: 127.0.0.1, port: %[3]s, tls_mode: plaintext}]}
  - {id: busy, host: 127.0.0.1, port: %[2]s, tls_mode: plaintext, %[4]s, fallback: [{host: 127.0.0.1, port: %[3]s, tls_mode: plaintext}]}
`, portOf(first.Plain()), portOf(busy.Plain()), portOf(second.Plain()), mailKeys))
	b := startWith(t, courier)
	b.publish(event("e1", "refused", "busy"))
	b.settled()
	if l := b.letters(); len(l) != 1 || l[0].Code != verdict.SMTPPermanent {
		t.Errorf("letters: %+v", l)
	}
	if second.Count() != 0 || busy.Count() != 1 {
		t.Errorf("%d mails on the fallback, want none; %d on the relay that was busy, want 1", second.Count(), busy.Count())
	}
}

// A fallback that refuses the login is treated as unavailable: no delivery becomes a
// dead letter because of it, and all wait for the first relay.
func TestFallbackWithAWrongPasswordOnlyWaits(t *testing.T) {
	t.Parallel()
	first := relayAt(t, devrelay.Config{})
	second := relayAt(t, devrelay.Config{Users: map[string]string{"u": "right"}})
	ca, err := second.CAFile(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	proxy, back := newRelayProxy(t, first.Plain()), newRelayProxy(t, second.Submission())
	back.enable()
	courier, _ := realCourier(t, fmt.Sprintf(`targets:
  - id: ops
    host: 127.0.0.1
    port: %s
    tls_mode: plaintext
    from_address: a@example.com
    to: [b@example.com]
    fallback: [{host: localhost, port: %s, ca_file: %q, username: u, password: {value: wrong}}]
`, portOf(proxy.Addr().String()), portOf(back.Addr().String()), ca))
	b := startWith(t, courier)
	const n = 30
	for i := range n {
		b.publish(event(fmt.Sprintf("e%d", i), "ops"))
	}
	b.until("both breakers are open", func() bool { return b.onlyLane().Breaker == broker.BreakerOpen && b.onlyLane().InFlight == 0 })
	if l := b.letters(); len(l) != 0 {
		t.Errorf("letters: %+v", l)
	}
	// Each login is tried twice, the second time with the password read again, and four
	// may have been in progress when the first was refused.
	if got := back.connections(); got > 2*quick().Concurrency {
		t.Errorf("%d logins with a wrong password", got)
	}
	proxy.enable()
	b.settled()
	onceEach(t, first, n)
	for i := range n {
		if e := b.entry("ops", fmt.Sprintf("e%d", i)); e.Attempts != 1 {
			t.Errorf("event e%d: %d attempts", i, e.Attempts)
		}
	}
}

// With more than 200 relays, several share a lane: one that is down does not stop it.
func TestDeadRelayInASharedLane(t *testing.T) {
	t.Parallel()
	alive := relayAt(t, devrelay.Config{})
	var text strings.Builder
	target := func(id, host, port string) {
		fmt.Fprintf(&text, "  - {id: %s, host: %s, port: %s, tls_mode: plaintext, timeout: 60s, %s}\n", id, host, port, mailKeys)
	}
	text.WriteString("targets:\n")
	target("up", "127.0.0.1", portOf(alive.Plain()))
	closed := newRelayProxy(t, "")
	for i := range 3000 { // in one of three million runs, none of them is in the same lane
		target(fmt.Sprintf("down%d", i), fmt.Sprintf("127.1.%d.%d", i/250, i%250+1), portOf(closed.Addr().String()))
	}
	courier, definitions := realCourier(t, text.String())
	up, _ := definitions.Get("up")
	all := definitions.All()
	neighbour := slices.IndexFunc(all, func(d *delivery.Target) bool { return d.ID != "up" && d.Lane() == up.Lane() })
	if neighbour < 0 {
		t.Fatal("no relay shares the lane of this port")
	}
	lane := up.Lane()
	b := startWith(t, &oneLane{courier, lane}) // the other 199 need no worker here
	const n = 50
	for i := range n {
		b.publish(event(fmt.Sprintf("d%d", i), all[neighbour].ID))
	}
	b.laneState("its breaker", lane, func(s broker.LaneStatus) bool { return s.Breaker == broker.BreakerPartly })
	for i := range n {
		b.publish(event(fmt.Sprintf("u%d", i), "up"))
	}
	b.until("the other relay's mails", func() bool { return alive.Count() == n })
	onceEach(t, alive, n)
	b.until("the dead relay's deliveries wait", func() bool {
		backlog, err := b.broker.Backlog(context.Background())
		return err == nil && backlog.Events == 0 && backlog.Deliveries == n
	})
	if l := b.letters(); len(l) != 0 {
		t.Errorf("letters: %+v", l)
	}
}

// oneLane is a courier that reports only one of its lanes.
type oneLane struct {
	*delivery.Courier
	lane string
}

func (o *oneLane) Lanes() []string { return []string{o.lane} }

// The limits of a relay's rules are respected; what is above them waits.
//
// Fault: accepts few connections. Result: no more are opened than the limits allow.
func TestRelayIsNotGivenMoreThanItsRules(t *testing.T) {
	t.Parallel()
	relay := relayAt(t, devrelay.Config{})
	proxy := newRelayProxy(t, relay.Plain())
	proxy.enable()
	courier, _ := realCourier(t, fmt.Sprintf(`relays:
  rules: [{host: 127.0.0.1, max_message_rate: 20/h, max_connections: 2}]
targets:
  - {id: ops, host: 127.0.0.1, port: %s, tls_mode: plaintext, %s}
`, portOf(proxy.Addr().String()), mailKeys))
	b := startWith(t, courier)
	const n = 70
	for i := range n {
		b.publish(event(fmt.Sprintf("e%d", i), "ops"))
	}
	b.until("the rest waits for the rate", func() bool {
		backlog, err := b.broker.Backlog(context.Background())
		s := b.onlyLane()
		return err == nil && backlog.Events == 0 && s.Paused == broker.PausedRate && s.InFlight == 0
	})
	onceEach(t, relay, 20)
	if most := proxy.atOnce(); most > 2 {
		t.Errorf("%d connections at a time, want at most 2", most)
	}
	backlog, err := b.broker.Backlog(context.Background())
	if err != nil || backlog.Deliveries != n-20 || backlog.Dead != 0 {
		t.Errorf("%+v, %v; want %d that wait", backlog, err, n-20)
	}
	for i := range n {
		if e := b.entry("ops", fmt.Sprintf("e%d", i)); e.Attempts > 1 || e.State == broker.StateWaiting {
			t.Errorf("event e%d: %+v; waiting for the rate is no attempt", i, e)
		}
	}
}

// A limit of mails per session costs connections and no attempts, also when the relay
// mentions it only after the claim.
//
// Fault: takes only some mails on one connection (452 4.4.5. Result: no attempt counted.
func TestSessionLimitCostsNoAttempt(t *testing.T) {
	t.Parallel()
	for _, limit := range []lab.SessionLimit{
		{Mails: 5, Moment: lab.AtMail, Reply: "452 4.4.5 Maximum number of messages per session exceeded"},
		{Mails: 5, Moment: lab.AtData, Reply: "452 4.4.5 Maximum number of messages per session exceeded"},
	} {
		t.Run(limit.Moment, func(t *testing.T) {
			t.Parallel()
			relay := lab.StartRelay(t, lab.RelayScript{Session: limit})
			courier, _ := realCourier(t, fmt.Sprintf("targets:\n  - {id: ops, host: 127.0.0.1, port: %d, tls_mode: plaintext, %s}\n", relay.Port(), mailKeys))
			b := startWith(t, courier)
			const n = 60
			for i := range n {
				b.publish(event(fmt.Sprintf("e%d", i), "ops"))
			}
			b.settled()
			if taken := relay.Taken(); len(taken) != n {
				t.Errorf("the relay holds %d mails, want %d", len(taken), n)
			}
			for i := range n {
				if e := b.entry("ops", fmt.Sprintf("e%d", i)); e.State != broker.StateSent || e.Attempts != 1 || e.PossibleDuplicates != 0 {
					t.Errorf("event e%d: %+v", i, e)
				}
			}
		})
	}
}

// A relay that is at a limit of its own, such as mails per day, pauses its lane. No delivery
// loses an attempt or becomes a dead letter, and all arrive when the limit is over.
//
// Fault: is at a limit of its own: mails per day (550 5.4.5). Result: the lane pauses for
// limit_pause (1h) and says so; no attempt counted; no dead letter before give_up_after.
func TestRelayLimitPausesTheLane(t *testing.T) {
	t.Parallel()
	for name, reply := range map[string]string{
		"daily": "550 5.4.5 Daily user sending limit exceeded",
		"rate":  "451 4.7.1 Rate limit exceeded, try again later",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			relay := lab.StartRelay(t, lab.RelayScript{Acts: map[string]lab.RelayAct{lab.AtDot: {Reply: reply}}})
			courier, _ := realCourier(t, fmt.Sprintf(`relays:
  rules: [{host: 127.0.0.1, limit_pause: 1s}]
targets:
  - {id: ops, host: 127.0.0.1, port: %d, tls_mode: plaintext, %s}
`, relay.Port(), mailKeys))
			b := startWith(t, courier)
			const n = 20
			for i := range n {
				b.publish(event(fmt.Sprintf("e%d", i), "ops"))
			}
			b.until("the lane to say that the relay is at its limit", func() bool {
				s := b.onlyLane()
				return s.Paused == broker.PausedLimit && len(s.Relays) == 1 && s.Relays[0].Limit && strings.Contains(s.Relays[0].Reason, "limit of the relay")
			})
			relay.Mu.Lock()
			relay.Acts = nil
			refused := relay.Seen[lab.AtDot]
			relay.Mu.Unlock()
			if most := 3 * b.set.Concurrency; refused > most {
				t.Errorf("the relay refused %d mails, want at most %d: those under way, and a probe each second", refused, most)
			}
			b.settled()
			if taken := relay.Taken(); len(taken) != n {
				t.Errorf("the relay holds %d mails, want %d", len(taken), n)
			}
			if l := b.letters(); len(l) > 0 {
				t.Errorf("letters: %+v", l)
			}
			for i := range n {
				if e := b.entry("ops", fmt.Sprintf("e%d", i)); e.State != broker.StateSent || e.Attempts != 1 || e.PossibleDuplicates != 0 {
					t.Errorf("event e%d: %+v", i, e)
				}
			}
		})
	}
}
