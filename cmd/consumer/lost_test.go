package main

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/service"
)

// A command whose order is out when NATS ends says so at once, takes an answer that comes after the
// reconnect, and otherwise fails soon after it and says what to do. The first interrupt is answered.
//
// Fault: kill -9 while a command waits for the answer to an order. Result: the command says at once that the connection is lost; it fails 10 s after NATS is back, and says how to give the order for the rest.
func TestOrdersWhoseConnectionIsLost(t *testing.T) {
	t.Parallel()
	options := lab.NATSOptions(t, lab.FreeAddress(t), t.TempDir(), "")
	server := lab.RunNATS(t, options)
	url := server.ClientURL()
	nc, err := nats.Connect(url, nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	orders := make(chan *nats.Msg, 20)
	if _, err := nc.Subscribe("certpost.>", func(m *nats.Msg) {
		if strings.Contains(string(m.Data), `"dry_run":true`) {
			_ = m.Respond([]byte(`{"frozen":{"count":2,"hash":"h"},"contents":{"count":2,"hash":"h"}}`))
			return
		}
		orders <- m
	}); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}

	const lost = "certpost: the connection to NATS was lost; waiting for it\n"
	amid := "the program may have stopped amid the order, and part of it may be done: see "
	began := time.Now().Add(-time.Second)
	cases := map[string]struct {
		want      string // in the error; "": it succeeds
		interrupt string // what the first interrupt is answered with
	}{
		"deliveries cancel --all":                            {amid + "`certpost audit list --action withdrawn`", "certpost: the order goes on in the program; press Ctrl-C again to stop waiting\n"},
		"deliveries resend --target a":                       {"for the rest with --to 2", "certpost: the order goes on in the program; press Ctrl-C again to stop waiting\n"},
		"deliveries resend --target a --to-target b":         {"for the rest: what was delivered to the target is refused", ""},
		"deliveries resend --target a --to-target b --force": {"would send that a second time", ""},
		"dead-letters discard --all":                         {amid + "`certpost dead-letters list`", "certpost: this part of the order goes on in the program; press Ctrl-C again to stop waiting\n"},
		"dead-letters restore --all":                         {amid + "`certpost dead-letters list`", ""},
		"dead-letters replay --all":                          {amid + "`certpost replays list`", "certpost: the order goes on in the program; press Ctrl-C again to stop waiting\n"},
		"deliveries retry --all":                             {"`certpost deliveries list --state waiting`; give the order again", "certpost: the order goes on in the program; press Ctrl-C again to stop waiting\n"},
		"dead-letters hold 5":                                {"", "certpost: the order goes on in the program; press Ctrl-C again to stop waiting\n"},
	}
	var running sync.WaitGroup
	interrupts := map[string]func(){}
	said := map[string]*writings{}
	succeeded := make(chan struct{})
	for line, c := range cases {
		args := append(strings.Fields(line), "--reason", "why", "--nats-url", url)
		if !strings.Contains(line, "hold") && !strings.Contains(line, "retry") {
			args = append(args, "--yes")
		}
		ctx, interrupt := context.WithCancel(t.Context())
		errs := &writings{}
		interrupts[line], said[line] = interrupt, errs
		commands := newCLI()
		parser, err := newParser(commands)
		if err != nil {
			t.Fatal(err)
		}
		k, err := parser.Parse(args)
		if err != nil {
			t.Fatal(line, err)
		}
		a := commands.app(ctx, k.Selected(), nil, &writings{}, errs)
		if c.want != "" {
			a.lostGrace = 50 * time.Millisecond
		}
		running.Go(func() {
			err := k.Run(a, parser)
			switch {
			case c.want == "":
				if err != nil {
					t.Errorf("%s: %v", line, err)
				}
				close(succeeded)
			case !errors.Is(err, broker.ErrLost) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "within 50ms of its return"):
				t.Errorf("%s: %v", line, err)
			default:
				if _, to, found := strings.Cut(err.Error(), "--to "); found {
					at, _, _ := strings.Cut(to, ",")
					if when, err := time.Parse(time.RFC3339, at); err != nil || when.Before(began.Truncate(time.Second)) || when.After(time.Now()) {
						t.Errorf("%s: --to %s", line, at)
					}
				}
			}
			if text := errs.String(); strings.Count(text, lost) != 1 || strings.Count(text, "press Ctrl-C again") != min(len(c.interrupt), 1) {
				t.Errorf("%s: %s", line, text)
			}
		})
	}
	var answered *nats.Msg
	for range cases {
		if m := <-orders; m.Subject == "certpost.dead.hold" {
			answered = m
		}
	}
	for line, c := range cases {
		if c.interrupt != "" {
			interrupts[line]()
			await(t, "an answer to the interrupt of "+line, func() bool { return strings.Contains(said[line].String(), c.interrupt) })
		}
	}
	server.Shutdown()
	server.WaitForShutdown()
	for line := range cases {
		await(t, "what "+line+" says of the loss", func() bool { return strings.Contains(said[line].String(), lost) })
	}
	lab.RunNATS(t, options)
	await(t, "the late answer", func() bool {
		_ = answered.Respond([]byte(`{"done":1}`)) // fails until both are connected again
		select {
		case <-succeeded:
			return true
		default:
			return false
		}
	})
	running.Wait()
	for _, interrupt := range interrupts {
		interrupt()
	}
}

// Without a running program the command does the work itself, which a second interrupt ends.
func TestInterruptOfWorkInTheCommand(t *testing.T) {
	t.Parallel()
	ctx, interrupt := context.WithCancel(t.Context())
	errs := &writings{}
	a, c := &app{ctx: ctx, stderr: errs}, &client{}
	c.works.Store(true)
	order, finished := a.toItsEnd(c, "the order")
	interrupt()
	finished()
	if order.Err() != nil || errs.String() != "certpost: the order is being finished; press Ctrl-C again to end amid it\n" {
		t.Errorf("%v, %q", order.Err(), errs.String())
	}
	_, finished = (&app{ctx: t.Context(), stderr: errs}).toItsEnd(c, "the order")
	finished()
	if strings.Count(errs.String(), "\n") != 1 {
		t.Errorf("without an interrupt: %q", errs.String())
	}
}

// A command that follows a run says on an interrupt that the run goes on, also amid a request.
func TestInterruptOfARunThatIsFollowed(t *testing.T) {
	t.Parallel()
	ctx, interrupt := context.WithCancel(t.Context())
	interrupt()
	err := (&app{ctx: ctx, stderr: &writings{}}).follow(&client{own: service.New(desk.New(nil, absent{}, zerolog.Nop()))}, "r1", "text", 0)
	var failed *failure
	if !errors.As(err, &failed) || failed.code != exitFailed || !strings.Contains(err.Error(), "interrupted; replay run r1 goes on without this command: certpost replays show r1") {
		t.Errorf("%v", err)
	}
}

// Without a running program, and at a NATS without the streams of Certpost, every command ends with
// what to check. With the streams it says what only a running one can do, before it asks.
func TestCommandsWithoutARunningProgram(t *testing.T) {
	t.Parallel()
	empty := lab.RunNATS(t, lab.NATSOptions(t, lab.FreeAddress(t), t.TempDir(), "")).ClientURL()
	used := lab.RunNATS(t, lab.NATSOptions(t, lab.FreeAddress(t), t.TempDir(), "")).ClientURL()
	b, err := broker.Open(broker.Config{URL: used}, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	if err := b.EnsureTopology(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ url, line, want string }{
		{empty, "deliveries cancel --all --reason why", "is this the right NATS"},
		{empty, "deliveries retry --all", "is this the right NATS"},
		{empty, "dead-letters list", "is this the right NATS"},
		{used, "deliveries cancel --all --reason why", "only a running certpost cancels deliveries"},
		{used, "deliveries cancel --event e1 --target ops --reason why", "only a running certpost cancels deliveries"},
		{used, "dead-letters list", ""},
	} {
		commands := newCLI()
		parser, err := newParser(commands)
		if err != nil {
			t.Fatal(err)
		}
		k, err := parser.Parse(append(strings.Fields(c.line), "--nats-url", c.url))
		if err != nil {
			t.Fatal(err)
		}
		a := commands.app(t.Context(), k.Selected(), nil, &writings{}, &writings{})
		a.readWithin = 50 * time.Millisecond
		if err := k.Run(a, parser); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.line, err, c.want)
		}
	}
}
