package broker

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/lab"
)

// What a NATS user may not do fails at once and says what is missing, at each way to ask: the server answers
// nothing, and without this a command would wait until its time is up.
//
// Fault: a command as a NATS user that may not send its request, or not read the answer. Result: it fails at once, and
// names the subject or the setting.
func TestDeniedRequestsEndAtOnce(t *testing.T) {
	t.Parallel()
	url := lab.NATS(t, lab.FreeAddress(t), `accounts { A { jetstream: enabled, users: [
		{user: all, password: x}
		{user: info, password: x, permissions: {publish: {allow: ["$JS.API.STREAM.INFO.*"]}, subscribe: {allow: ["_INBOX.>"]}}}
		{user: none, password: x, permissions: {publish: {allow: ["nothing"]}, subscribe: {allow: ["_INBOX.>"]}}}
		{user: deaf, password: x, permissions: {subscribe: {allow: ["_INBOX_deaf.>"]}}}
	] } }`).ClientURL()
	dial := func(user string) *Broker {
		b, err := Dial(t.Context(), Config{URL: url, User: user, Password: func() ([]byte, error) { return []byte("x"), nil }}, zerolog.Nop())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(b.Close)
		return b
	}
	all, info, none, deaf := dial("all"), dial("info"), dial("none"), dial("deaf")
	if err := all.EnsureTopology(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		ask  func() error
		want string
	}{
		"publish":       {func() error { _, _, err := none.Publish(t.Context(), testEvent("e1")); return err }, "may not send requests to certificate.issued:"},
		"backlog":       {func() error { _, err := none.Backlog(t.Context()); return err }, "may not send requests to $JS.API.STREAM.INFO.CERTPOST_EVENTS:"},
		"verify":        {func() error { _, err := none.VerifyAudit(t.Context()); return err }, "may not send requests to $JS.API.STREAM.INFO.CERTPOST_AUDIT:"},
		"read":          {func() error { _, err := info.VerifyAudit(t.Context()); return err }, "may not send requests to $JS.API.DIRECT.GET.CERTPOST_AUDIT:"},
		"bucket":        {func() error { _, err := none.OpenRelays(t.Context()); return err }, "may not send requests to $JS.API.STREAM.INFO.KV_CERTPOST_RELAYS:"},
		"message":       {func() error { _, err := info.leaderGet(t.Context(), EventsStream, getRequest{Seq: 1}); return err }, "may not send requests to $JS.API.STREAM.MSG.GET.CERTPOST_EVENTS:"},
		"service":       {func() error { _, err := none.Ask(t.Context(), "dead.list", nil); return err }, "may not send requests to certpost.dead.list:"},
		"another inbox": {func() error { _, err := deaf.VerifyAudit(t.Context()); return err }, "set nats.inbox_prefix"},
		"asked for itself": {func() error {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if _, err := all.VerifyAudit(ctx); err == nil || strings.Contains(err.Error(), "may not") {
				return fmt.Errorf("%w, not that it was cancelled", err)
			}
			return fmt.Errorf("fine")
		}, "fine"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if err := c.ask(); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %s", err, c.want)
			}
		})
	}
}
