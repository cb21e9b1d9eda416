package main

import (
	"context"
	"encoding/json"
	"os/exec"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/lab"
)

// Events published with the CloudEvents SDK for Go, in both modes, have the attributes that the
// publisher gave them, whatever characters are in them, and are delivered.
//
// Fault: a CloudEvent in binary mode whose attributes have percent signs, quotes or letters
// beyond ASCII; null for what is left out. Result: the attributes are taken as they are;
// null is left out.
// Fault: an event on a subject whose source has dots. Result: delivered.
func TestCloudEventsSDK(t *testing.T) {
	t.Parallel()
	program := lab.Need(t, "cloudevents-publish")
	o := bareFixture(t)
	o.nats = ", user: sdk, password: {value: sdk}" // the SDK's program logs in by its URL
	o.furnish("")
	url := strings.Replace(o.service.broker.URL(), "nats://", "nats://sdk:sdk@", 1)
	_, _, chain := o.issue("www.example.com")
	attributes := []map[string]any{
		{"id": "plain", "source": "/ca"},
		{"id": "a source with percent-encoding", "source": "/ca/my%20ca"},
		{"id": "%41", "source": "/ca"},
		{"id": `100% "ready" €😀`, "source": "/ca", "subject": "100% renewed", "ratio": "5%"},
	}
	var lines strings.Builder
	for _, a := range attributes {
		event := map[string]any{"specversion": "1.0", "type": "certificate.issued", "datacontenttype": "application/json", "time": "2026-11-28T12:00:00.5Z"}
		event["data"] = map[string]any{"certificate": chain, "targets": []string{"ops"}, "private_key": nil, "labels": nil}
		for name, value := range a {
			event[name] = value
		}
		line, err := json.Marshal(event)
		if err != nil {
			t.Fatal(err)
		}
		lines.Write(append(line, '\n'))
	}
	s, err := o.service.broker.JetStream().Stream(t.Context(), broker.EventsStream)
	if err != nil {
		t.Fatal(err)
	}
	sequence := uint64(0)
	for _, mode := range []string{"-structured=false", "-structured=true"} {
		cmd := exec.CommandContext(t.Context(), program, "-url", url, "-stream", broker.EventsStream, "-subject", "certificate.issued.sdk.example.com", mode)
		cmd.Stdin = strings.NewReader(lines.String())
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", mode, err, out)
		}
		for _, a := range attributes {
			sequence++
			m, err := s.GetMsg(context.Background(), sequence)
			if err != nil {
				t.Fatal(err)
			}
			if binary := m.Header.Get("ce-id") != ""; binary != (mode == "-structured=false") {
				t.Fatalf("%s: the SDK published with the headers %v", mode, m.Header)
			}
			ev, err := events.Decode(m.Header, m.Data)
			if err != nil {
				t.Errorf("%s: %q is refused: %v", mode, a["id"], err)
				continue
			}
			if ev.ID != a["id"] || ev.Source != a["source"] || ev.Certificate.PEM != chain || ev.PrivateKey != nil || ev.Time.Nanosecond() != 5e8 {
				t.Errorf("%s: got id %q, source %q, time %v, want %v", mode, ev.ID, ev.Source, ev.Time, a)
			}
		}
	}
	// The same event in both modes is one event: one mail.
	o.settled()
	if n, letters := o.relay.Count(), o.letters(); n != len(attributes) || len(letters) != 0 {
		t.Errorf("%d mails, want %d; dead letters: %+v", n, len(attributes), letters)
	}
}
