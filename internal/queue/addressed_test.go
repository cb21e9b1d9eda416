package queue

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/verdict"
)

// The letter of a mail that may have been sent says who may have it, and its Message-ID.
func TestUncertainLettersSayWhatToLookFor(t *testing.T) {
	t.Parallel()
	relay := lab.StartRelay(t, lab.RelayScript{Acts: map[string]lab.RelayAct{lab.AtDot: {Drop: true}}})
	courier, _ := realCourier(t, fmt.Sprintf("targets:\n  - {id: ops, host: 127.0.0.1, port: %s, tls_mode: plaintext, %s}\n", portOf(relay.Address()), mailKeys))
	b := &fixture{t: t, courier: courier, set: quick(), cfg: broker.Config{DataDir: t.TempDir(), Listen: "none", SyncInterval: "2m"}}
	b.set.DeadLetterUnknown = true
	b.start()
	b.publish(event("e1", "ops"))
	b.settled()
	l := b.letters()[0]
	id, to := courier.Addressed(event("e1", "ops"), "ops")
	if l.Certainty != verdict.MaybeSent || l.MessageID != id || !strings.Contains(id, "@") || len(to) == 0 || !slices.Equal(l.Recipients, to) {
		t.Errorf("the letter (%s) has %q to %q, want %q to %q", l.Certainty, l.MessageID, l.Recipients, id, to)
	}
}
