//go:build unix

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/mail"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/certpost/certpost/bench/harness"
	"github.com/certpost/certpost/bench/road"
	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/lab"
)

// The layout of docs/scaling.md, small: a real NATS server with three cells, and a real Certpost
// in each. Every event is delivered once, all events of a source by the same cell, published
// again it is a duplicate there, and the dead letters of all cells arrive in one stream.
func TestCells(t *testing.T) {
	t.Parallel()
	const cells, sources, each = 3, 12, 3
	address, err := road.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	layout := Layout(cells)
	for _, who := range append([]string{"PUBLISHER", "OVERVIEW"}, "CELL0", "CELL1", "CELL2") {
		layout = string(bytes.ReplaceAll([]byte(layout), []byte("$"+who+"_PASSWORD"), []byte("secret")))
	}
	lab.NATS(t, address, layout)
	relay, err := road.Mailbox()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { relay.Close() })

	var brokers []*broker.Broker
	for i := range cells {
		brokers = append(brokers, startCell(t, address, i, func(dir string) (string, error) {
			return harness.Targets([]string{"ops"}, relay, dir)
		}))
	}
	overview := connect(t, address, "overview")
	mirrorLetters(t, overview, cells)

	publisher, err := jetstream.New(connect(t, address, "publisher"))
	if err != nil {
		t.Fatal(err)
	}
	chain, err := road.NewChain("www.example.com")
	if err != nil {
		t.Fatal(err)
	}
	publish := func(source, id, target string) *jetstream.PubAck {
		body, err := json.Marshal(events.Event{ID: id, Source: "urn:" + source, Time: time.Now(), Certificate: events.Certificate{PEM: chain}, Targets: []string{target}})
		if err != nil {
			t.Fatal(err)
		}
		ack, err := publisher.Publish(t.Context(), broker.EventSubject+"."+source, body, jetstream.WithMsgID(id))
		if err != nil {
			t.Fatalf("%s of %s: %v", id, source, err)
		}
		return ack
	}
	want := map[string]string{} // source by event
	for s := range sources {
		for n := range each {
			source, id := fmt.Sprintf("s%d", s), fmt.Sprintf("s%d-%d", s, n)
			want[id] = source
			publish(source, id, "ops")
		}
		if ack := publish(fmt.Sprintf("s%d", s), fmt.Sprintf("s%d-0", s), "ops"); !ack.Duplicate {
			t.Errorf("source %d: the event was published to another cell the second time", s)
		}
		publish(fmt.Sprintf("s%d", s), fmt.Sprintf("dead-%d", s), "unknown")
	}
	for _, b := range brokers {
		if _, err := harness.Settle(t.Context(), b, time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	checkCells(t, brokers, want, sources)
	got := map[string]int{}
	for _, m := range relay.Mails() {
		read, err := mail.ReadMessage(bytes.NewReader(m.Raw))
		if err != nil {
			t.Fatal(err)
		}
		got[read.Header.Get("X-Certpost-Event-Id")]++
	}
	for id := range want {
		if got[id] != 1 {
			t.Errorf("%d mails of %s", got[id], id)
		}
	}
	letters, err := jetstream.New(overview)
	if err != nil {
		t.Fatal(err)
	}
	err = road.Poll(t.Context(), time.Minute, func() error {
		s, err := letters.Stream(t.Context(), "ALL_DEAD_LETTERS")
		if err == nil && s.CachedInfo().State.Msgs != sources {
			err = fmt.Errorf("%d of %d dead letters are in the overview", s.CachedInfo().State.Msgs, sources)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// checkCells: each cell has events, and each source is in one cell.
func checkCells(t *testing.T, brokers []*broker.Broker, want map[string]string, letters int) {
	t.Helper()
	cellOf, dead := map[string]int{}, 0
	for i, b := range brokers {
		entries, err := b.Deliveries(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		if len(entries) == 0 {
			t.Errorf("cell %d has no deliveries", i)
		}
		for _, e := range entries {
			source := want[e.Event]
			if before, known := cellOf[source]; known && before != i {
				t.Errorf("source %s is in cells %d and %d", source, before, i)
			}
			cellOf[source] = i
		}
		left, err := b.Backlog(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		dead += int(left.Dead)
	}
	if dead != letters {
		t.Errorf("%d dead letters in the cells, want %d", dead, letters)
	}
}

// startCell starts the program in a cell, and returns a connection to its streams.
func startCell(t *testing.T, address string, i int, targets func(dir string) (string, error)) *broker.Broker {
	t.Helper()
	dir := t.TempDir()
	defined, err := targets(dir)
	if err != nil {
		t.Fatal(err)
	}
	user, url := fmt.Sprintf("cell%d", i), "nats://"+address
	text := fmt.Sprintf("data_dir: %q\nnats: {url: %q, user: %s, password: {value: secret}, ledger_age: 1440h}\nhttp: {listen: \"127.0.0.1:0\"}\n%s", filepath.Join(dir, "data"), url, user, defined)
	config := filepath.Join(dir, "certpost.yaml")
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	program := lab.Build(t)
	p := &harness.Process{Name: user, Log: filepath.Join(dir, "log.json"), Command: func() *exec.Cmd { return exec.Command(program, "run", "-c", config) }}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.End(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
	})
	var b *broker.Broker
	err = road.Poll(t.Context(), time.Minute, func() (err error) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		if b == nil {
			b, err = broker.Dial(ctx, broker.Config{URL: url, User: user, Password: func() ([]byte, error) { return []byte("secret"), nil }}, zerolog.Nop())
		}
		if err == nil {
			_, err = b.Backlog(ctx)
		}
		return err
	})
	if err != nil {
		log, _ := os.ReadFile(p.Log)
		t.Fatalf("cell %d: %v\n%s", i, err, log)
	}
	t.Cleanup(b.Close)
	return b
}

func connect(t *testing.T, address, user string) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect("nats://"+address, nats.UserInfo(user, "secret"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// mirrorLetters creates the stream that copies the dead letters of all cells.
func mirrorLetters(t *testing.T, nc *nats.Conn, cells int) {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	config := jetstream.StreamConfig{Name: "ALL_DEAD_LETTERS", Storage: jetstream.FileStorage}
	for i := range cells {
		config.Sources = append(config.Sources, &jetstream.StreamSource{
			Name:     broker.DeadLettersStream,
			External: &jetstream.ExternalStream{APIPrefix: fmt.Sprintf("JS.cell%d.API", i), DeliverPrefix: fmt.Sprintf("letters.cell%d", i)},
		})
	}
	if _, err := js.CreateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
}
