package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/lab"
)

// Real clients get certificates from a real CA while NATS is away, with the hooks that
// `certpost hook install` writes, and renew them when it is back. They notice nothing, and each event is
// published once.
//
// Fault: NATS is away while certbot, lego and dehydrated run their hooks. Result: the clients
// succeed; each certificate is published afterwards, once, whether the next hook or the watcher finds it.
func TestClientsWhileNATSIsAway(t *testing.T) {
	t.Parallel()
	acme := lab.Pebble(t)
	program := lab.Build(t)
	addr := lab.FreeAddress(t)
	p := newPublisher(t, "nats://"+addr, "")
	hook := func(client string) string {
		s := ran(t, p.dir, nil, program, "-c", p.path("certpost.yaml"), "hook", "install", client, "--yes", "--file", p.path("hooks/"+client), "--", "--label", "team=web 1")
		if s.code != exitDone {
			t.Fatalf("%+v", s)
		}
		return p.path("hooks/" + client)
	}
	certbotHook, legoHook, dehydratedHook := hook("certbot"), hook("lego"), hook("dehydrated")
	t.Run("clients", func(t *testing.T) {
		t.Run("lego", func(t *testing.T) {
			t.Parallel()
			lab.Lego(t, acme, p.path("lego"), "lego.lab.test", legoHook)
		})
		t.Run("certbot, dehydrated", func(t *testing.T) {
			t.Parallel()
			lab.Certbot(t, acme, p.path("certbot"), []string{"certbot.lab.test"}, certbotHook, "ecdsa")
			for range 2 { // the second time it says unchanged_cert
				lab.Dehydrated(t, acme, p.path("dehydrated"), "dehydrated.lab.test", dehydratedHook)
			}
		})
	})
	if state := p.state(); state.Waiting != 3 || len(state.Refused) != 0 {
		t.Fatalf("%+v", state)
	}

	lab.NATS(t, addr, "")
	stream := eventStream(t, "nats://"+addr, -1)
	t.Run("renewals", func(t *testing.T) { // the first hook publishes what waits, too
		t.Run("lego", func(t *testing.T) {
			t.Parallel()
			lab.LegoRenew(t, acme, p.path("lego"), "lego.lab.test", legoHook)
		})
		t.Run("certbot, dehydrated", func(t *testing.T) {
			t.Parallel()
			lab.CertbotRenew(t, acme, p.path("certbot"))
			lab.Dehydrated(t, acme, p.path("dehydrated"), "dehydrated.lab.test", dehydratedHook, "--force")
		})
	})
	if state := p.state(); state.Waiting != 0 || len(state.Refused) != 0 {
		t.Fatalf("%+v", state)
	}
	dirs := []string{p.path("certbot"), p.path("lego"), p.path("dehydrated")}
	watch := func(config string, dirs ...string) said {
		return command(t, nil, append([]string{"-c", p.path(config), "watch", "--once", "--label", "team=web 1"}, dirs...)...)
	}
	if s := watch("certpost.yaml", dirs...); s.code != exitDone || s.stderr != "" {
		t.Errorf("%+v", s)
	}
	// A watcher without that memory makes the same events.
	p.write("other.yaml", "data_dir: "+p.path("other")+"\nnats: {url: \"nats://"+addr+"\"}\n")
	if s := watch("other.yaml", dirs...); s.code != exitDone || strings.Count(s.stderr, "a new certificate") != 3 {
		t.Errorf("%+v", s)
	}

	host, _ := os.Hostname()
	published := map[string][]string{} // ids by source
	for n := range ids(t, stream) {
		m, err := stream.GetMsg(t.Context(), uint64(n+1))
		if err != nil {
			t.Fatal(err)
		}
		var ev struct {
			ID, Source string
			Labels     map[string]string
		}
		if err := json.Unmarshal(m.Data, &ev); err != nil || ev.Labels["team"] != "web 1" {
			t.Errorf("%v: %s", err, m.Data)
		}
		published[ev.Source] = append(published[ev.Source], ev.ID)
	}
	for _, client := range []string{"certbot", "lego", "dehydrated"} {
		if got := published[fmt.Sprintf("%[1]s://%[2]s/%[1]s.lab.test", client, host)]; len(got) != 2 || got[0] == got[1] {
			t.Errorf("%s: published %q, want the first certificate and its renewal", client, got)
		}
	}
	if len(published) != 3 {
		t.Errorf("published %q", published)
	}
}
