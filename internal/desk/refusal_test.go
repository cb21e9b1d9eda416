package desk

import (
	"testing"
	"time"

	"github.com/certpost/certpost/internal/broker"
)

// Refusals say of a name what the audit says of it.
//
// Fault: a request over NATS claims a name. Result: every door shows the name as unproved.
func TestRefusalsSayWhoseNameIsUnproved(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for want, by := range map[string]broker.Actor{
		"ada":                                   {Name: "ada", Via: broker.ViaPage},
		"ada, unproved, by NATS user OPS/carol": {Name: "ada", Via: broker.ViaService, Proved: broker.Unproved, NATSUser: "OPS/carol"},
	} {
		c := &Conflict{1, broker.AuditRecord{Action: broker.ActionReplayed, Actor: by, Time: at}}
		if got := c.Error(); got != "dead letter 1 was replayed by "+want+" at 2026-01-02 03:04:05 UTC" {
			t.Errorf("%s", got)
		}
		h := &broker.Held{Hold: broker.Hold{Letter: 1, By: by.Name, Proved: by.Proved, NATSUser: by.NATSUser, Since: at, Reason: "x"}}
		if got := h.Error(); got != "dead letter 1 is held by "+want+" since 2026-01-02 03:04:05 UTC: x" {
			t.Errorf("%s", got)
		}
		l := broker.LaneInfo{Suspension: &broker.Suspension{By: by.Name, Proved: by.Proved, NATSUser: by.NATSUser}}
		if got := StateOf(l).By; got != want {
			t.Errorf("a suspended lane: %s", got)
		}
	}
}
