package delivery

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/devrelay"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/smtp"
	"github.com/certpost/certpost/internal/verdict"
)

// grants are the limits that the other processes leave to this one.
type grants struct {
	wait  time.Duration
	share int
	asked []string

	pauses []verdict.RelayPause
}

func (g *grants) Take(relay string, limit verdict.Rate) time.Duration {
	g.asked = append(g.asked, relay+" "+limit.String())
	return g.wait
}

func (g *grants) Share(connections int) int { return min(connections, g.share) }

func (g *grants) Pause(p verdict.RelayPause) { g.pauses = append(g.pauses, p) }

// A mail for a relay at its limits is not sent, neither to it nor to another relay, and
// the delivery comes back unchanged.
func TestRelayAtItsLimitsIsNotAsked(t *testing.T) {
	t.Parallel()
	first, second := limitedRelay(t), limitedRelay(t)
	host := func(r *devrelay.Relay) (port string) { return r.Plain()[strings.LastIndexByte(r.Plain(), ':')+1:] }
	d, problems := loadRelays(t, fmt.Sprintf(`relays: {rules: [{host: 127.0.0.1, max_message_rate: 500/day, max_connections: 4}]}
targets:
  - {id: a, host: 127.0.0.1, port: %s, tls_mode: plaintext, from_address: a@example.com, to: [b@example.com], fallback: [{host: 127.0.0.1, port: %s, tls_mode: plaintext}]}
`, host(first), host(second)))
	if d == nil {
		t.Fatal(problems)
	}
	store, err := secrets.Open(secrets.Config{}, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	c := NewCourier(NewBook(d, Source{}), store, Options{})
	t.Cleanup(c.Close)
	msg := &message{from: "a@example.com", recipients: []string{"b@example.com"}, raw: []byte("Subject: x\r\n\r\nx\r\n")}
	send := func(g *grants) (*verdict.Receipt, *verdict.Failure) {
		a := &attempt{Courier: c, defs: d, target: d.byID["a"], p: &provisions{vars: secrets.Vars{}}, msg: msg,
			order: verdict.Attempt{Limits: g, Claim: func(time.Time) error { return nil }}}
		return a.send(context.Background()).Verdicts()
	}

	for what, g := range map[string]*grants{
		"rate":        {wait: 7 * time.Hour, share: 4},
		"connections": {share: 0},
	} {
		receipt, f := send(g)
		if receipt != nil || f == nil || !f.Untried || f.Relay || f.After <= 0 || f.Certainty != verdict.NotSent {
			t.Errorf("%s: %+v, %+v", what, receipt, f)
		}
		if what == "rate" && (len(g.asked) != 1 || g.asked[0] != smtp.RelayName("127.0.0.1", d.byID["a"].Port)+" 500/day" || f.After != g.wait) {
			t.Errorf("asked for %v, away for %v", g.asked, f.After)
		}
	}
	if first.Count()+second.Count() != 0 {
		t.Errorf("%d mails on the first relay and %d on the second", first.Count(), second.Count())
	}
	if status := c.Relays(d.byID["a"].Lane()); len(status) != 1 || status[0][0].Breaker != verdict.Closed || status[0][0].MaxConnections != 4 || status[0][0].Busy != 0 {
		t.Errorf("status: %+v", status)
	}
	g := &grants{share: 1}
	if receipt, f := send(g); receipt == nil || f != nil || len(g.asked) != 1 || first.Count() != 1 {
		t.Errorf("%+v, %+v, asked %v, %d mails", receipt, f, g.asked, first.Count())
	}
}

func limitedRelay(t *testing.T) *devrelay.Relay {
	t.Helper()
	r, err := devrelay.Start(devrelay.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}
