package queue

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/verdict"
	"github.com/nats-io/nats.go/jetstream"
)

const dailyLimit = "550 5.4.5 Daily user sending limit exceeded"

// atDailyLimit returns a running fixture whose only relay has said that it is at its limit,
// and has the default pause of an hour, the configuration, and the lane.
func atDailyLimit(t *testing.T) (b *fixture, relay *lab.ScriptedRelay, text, lane string) {
	t.Helper()
	relay = lab.StartRelay(t, lab.RelayScript{Acts: map[string]lab.RelayAct{lab.AtMail: {Reply: dailyLimit}}})
	text = fmt.Sprintf("targets:\n  - {id: ops, host: 127.0.0.1, port: %d, tls_mode: plaintext, %s}\n", relay.Port(), mailKeys)
	courier, definitions := realCourier(t, text)
	b = &fixture{t: t, courier: courier, set: quick(), relayDelay: 50 * time.Millisecond, cfg: broker.Config{DataDir: t.TempDir(), Listen: "none", SyncInterval: "2m"}}
	b.start()
	b.publish(event("e1", "ops"))
	lane = definitions.Lanes()[0]
	b.laneState("the pause", lane, pausedFor(broker.PausedLimit))
	return b, relay, text, lane
}

// A pause for a relay's limit holds for all processes and over a restart of all of them,
// until an operator ends it.
//
// Fault: is at a limit of its own: mails per day (550 5.4.5). Result: the pause outlives the
// process, holds for all processes, ends with `relays resume`.
func TestPauseOfALimitIsShared(t *testing.T) {
	t.Parallel()
	b, relay, text, lane := atDailyLimit(t)
	b.until("the pause in the bucket", func() bool {
		infos, err := b.broker.LaneInfos(t.Context())
		return err == nil && len(infos) == 1 && len(infos[0].Pauses) == 1
	})
	infos, err := b.broker.LaneInfos(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	p := infos[0].Pauses[0]
	if p.Relay != relay.Address() || p.Reply != dailyLimit[4:] || !slices.Equal(p.Lanes, []string{lane}) || p.Until.Sub(p.Since).Round(time.Minute) != time.Hour {
		t.Errorf("pause: %+v", p)
	}
	heard := func() (mails int) {
		for _, line := range relay.Heard() {
			if line == "MAIL" {
				mails++
			}
		}
		return mails
	}
	before := heard()

	courier, _ := realCourier(t, text)
	second := &fixture{t: t, courier: courier, set: b.set, relayDelay: b.relayDelay, cfg: b.cfg, broker: b.broker}
	second.run()
	second.laneState("the pause in the second process", lane, pausedFor(broker.PausedLimit))
	var wg sync.WaitGroup
	wg.Go(second.stop)
	b.stop()
	wg.Wait()
	b.courier, _ = realCourier(t, text)
	b.run()
	b.laneState("the pause after a restart", lane, pausedFor(broker.PausedLimit))
	if s := b.onlyLane(); len(s.Relays) != 1 || s.Relays[0].Reply != dailyLimit[4:] || time.Until(s.Relays[0].Again) < 50*time.Minute {
		t.Errorf("status: %+v", s)
	}
	if n := heard(); n != before {
		t.Errorf("the relay was asked %d more times during its pause", n-before)
	}

	relay.Mu.Lock()
	relay.Acts = nil
	relay.Mu.Unlock()
	if err := b.broker.Resume(t.Context(), lane, tester, "the contract was extended"); err != nil {
		t.Fatal(err)
	}
	b.settled()
	if e := b.entry("ops", "e1"); e.State != broker.StateSent || e.Attempts != 1 {
		t.Errorf("ledger: %+v", e)
	}
	if err := b.broker.Resume(t.Context(), lane, tester, ""); !errors.Is(err, broker.ErrNotSuspended) {
		t.Errorf("resumed twice: %v", err)
	}
	if n := audits(t, b, "resumed"); n != 1 {
		t.Errorf("audit: %d resumed", n)
	}
}

// A relay that is still at its limit after the pause was ended is paused again after one
// mail.
func TestPauseEndedTooEarlyBeginsAgain(t *testing.T) {
	t.Parallel()
	b, relay, _, lane := atDailyLimit(t)
	pause := func() (p verdict.RelayPause) {
		infos, err := b.broker.LaneInfos(t.Context())
		if err == nil && len(infos[0].Pauses) == 1 {
			p = infos[0].Pauses[0]
		}
		return p
	}
	b.until("the pause in the bucket", func() bool { return pause().Relay != "" })
	first := pause()
	relay.Mu.Lock()
	before := relay.Seen[lab.AtMail]
	relay.Mu.Unlock()
	if err := b.broker.Resume(t.Context(), lane, tester, ""); err != nil {
		t.Fatal(err)
	}
	b.until("the next pause", func() bool { return pause().Until.After(first.Until) })
	relay.Mu.Lock()
	defer relay.Mu.Unlock()
	if n := relay.Seen[lab.AtMail] - before; n != 1 {
		t.Errorf("%d mails tried, want only the probe", n)
	}
}

// Entries that are over, cannot be read, or are deleted by another client (`nats kv del`).
func TestPausesByOtherHands(t *testing.T) {
	t.Parallel()
	b, _, _, lane := atDailyLimit(t)
	kv, err := b.broker.OpenRelays(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var key string
	b.until("the pause in the bucket", func() bool {
		lister, err := kv.ListKeysFiltered(t.Context(), broker.PausePrefix+">")
		if err != nil {
			return false
		}
		for k := range lister.Keys() {
			key = k
		}
		return key != ""
	})
	for _, value := range []string{`{"relay":"other.example.com:25","until":"2020-01-01T00:00:00Z"}`, "stop!"} {
		if _, err := kv.PutString(t.Context(), broker.PausePrefix+"other.example.com=25", value); err != nil {
			t.Fatal(err)
		}
		b.until("an entry without effect to be removed", func() bool {
			b.runner.tidy(t.Context())
			_, err := kv.Get(t.Context(), broker.PausePrefix+"other.example.com=25")
			return errors.Is(err, jetstream.ErrKeyNotFound)
		})
	}
	b.laneState("the pause still", lane, pausedFor(broker.PausedLimit))
	if err := kv.Delete(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	b.until("the relay to be asked again, and paused again", func() bool {
		p, err := kv.Get(t.Context(), key)
		return err == nil && p.Revision() > 0
	})
}
