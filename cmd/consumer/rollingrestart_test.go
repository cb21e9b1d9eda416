package main

import (
	"bytes"
	"context"
	"fmt"
	"net/mail"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/devrelay"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/lab"
)

// replica is one process of several on the same NATS.
type replica struct {
	instance *instance
	stop     func()
}

// replica starts a process with a data_dir of its own.
func (o *fixture) replica(name, url string) replica {
	o.t.Helper()
	o.write(name+".yaml", fmt.Sprintf("data_dir: %s\nnats: {url: %q}\nhttp: {listen: \"127.0.0.1:0\"}\ntargets:\n%s", o.path(name), url, o.target("ops", "to: [ops@demo.example]")))
	cfg, _, problems := loadConfig(o.path(name+".yaml"), nil)
	if len(problems) > 0 {
		o.t.Fatal(problems)
	}
	r := replica{}
	var err error
	if r.instance, err = newService(o.t.Context(), cfg, zerolog.New(o.log).Level(zerolog.InfoLevel)); err != nil {
		o.t.Fatal(err)
	}
	ctx, end := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.instance.run(ctx) }()
	stopped := false
	r.stop = func() {
		if stopped {
			return
		}
		stopped = true
		end()
		if err := <-ended; err != nil {
			o.t.Errorf("%s ended with %v", name, err)
		}
		r.instance.close()
	}
	o.t.Cleanup(r.stop)
	o.until(name+" is ready", func() bool { return r.instance.runner.Ready(context.Background()) == nil })
	return r
}

// TestRollingRestart: two processes are restarted one after the other, while events are published
// all the time.
//
// Fault: the replicas are restarted one after the other under load. Result: no event is lost, none ends as a dead letter, and none is mailed twice without a mark.
func TestRollingRestart(t *testing.T) {
	t.Parallel()
	o := bareFixture(t)
	var err error
	if o.relay, err = devrelay.Start(devrelay.Config{Users: map[string]string{relayUser: relayPassword}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.relay.Close() })
	if _, err := o.relay.CAFile(o.dir); err != nil {
		t.Fatal(err)
	}
	o.write("password", relayPassword)
	_, _, chain := o.issue("www.example.com")
	url := lab.NATS(t, lab.FreeAddress(t), "").ClientURL()
	replicas := map[string]replica{"a": o.replica("a", url), "b": o.replica("b", url)}

	conn, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	published := 0
	// delivered publishes, twenty events ahead of the mails, until so many mails more have arrived: something is
	// always in progress.
	delivered := func(more int) {
		t.Helper()
		want := o.relay.Count() + more
		o.until("mails", func() bool {
			for published < o.relay.Count()+20 {
				ev := &events.Event{ID: fmt.Sprint("event-", published), Certificate: events.Certificate{PEM: chain}, Targets: []string{"ops"}}
				if _, err := js.Publish(t.Context(), events.Subject, ev.Encode(), jetstream.WithMsgID(ev.ID)); err != nil {
					t.Fatal(err)
				}
				published++
			}
			return o.relay.Count() >= want
		})
	}
	delivered(5)
	for _, name := range []string{"a", "b"} {
		replicas[name].stop()
		delivered(5) // by the other one
		replicas[name] = o.replica(name, url)
		delivered(5)
	}
	alive := replicas["b"].instance.broker
	o.until("all is settled", func() bool {
		b, err := alive.Backlog(t.Context())
		return err == nil && b.Events == 0 && b.Deliveries == 0
	})
	if b, err := alive.Backlog(t.Context()); err != nil || b.Dead != 0 {
		t.Errorf("%+v, %v: want no dead letter", b, err)
	}
	unmarked := map[string]int{}
	for _, m := range o.relay.Mails() {
		read, err := mail.ReadMessage(bytes.NewReader(m.Raw))
		if err != nil {
			t.Fatal(err)
		}
		if read.Header.Get("X-Certpost-Possible-Duplicate") == "" {
			unmarked[strings.TrimSpace(read.Header.Get("X-Certpost-Event-Id"))]++
		}
	}
	for i := range published {
		if id := fmt.Sprint("event-", i); unmarked[id] != 1 {
			t.Errorf("%s was mailed %d times without a mark", id, unmarked[id])
		}
	}
	if len(unmarked) != published {
		t.Errorf("mails of %d events, want %d", len(unmarked), published)
	}
}
