package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/lab"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"
	"github.com/rs/zerolog"
)

// serviceBroker returns a broker whose service has an echo endpoint.
func serviceBroker(t *testing.T, more ...Endpoint) *Broker {
	t.Helper()
	b, err := Open(Config{DataDir: t.TempDir(), Listen: "127.0.0.1:0", SyncInterval: "2m"}, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- b.Serve(ctx, "development", append(more, Endpoint{"dead.echo", "says it again", func(_ context.Context, _ string, request []byte) ([]byte, error) { return request, nil }}))
	}()
	t.Cleanup(func() {
		end()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		b.Close()
	})
	return b
}

func TestService(t *testing.T) {
	t.Parallel()
	b := serviceBroker(t,
		Endpoint{"dead.refuse", "", func(context.Context, string, []byte) ([]byte, error) {
			return nil, fmt.Errorf("wrapped: %w", &Refused{409, "taken\r\nby another", []byte(`{"a":1}`)})
		}},
		Endpoint{"dead.fail", "", func(context.Context, string, []byte) ([]byte, error) { return nil, errors.New("no disk") }},
		Endpoint{"dead.panic", "", func(context.Context, string, []byte) ([]byte, error) { panic("canary-in-a-panic") }},
		Endpoint{"dead.large", "", func(context.Context, string, []byte) ([]byte, error) { return make([]byte, 9<<20), nil }},
	)
	client, err := Dial(t.Context(), clientOf(b), zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	var answer []byte
	for end := time.Now().Add(10 * time.Second); ; {
		if answer, err = client.Ask(t.Context(), "dead.echo", []byte(`{"x":1}`)); !errors.Is(err, ErrNoService) || time.Now().After(end) {
			break
		}
	}
	if err != nil || string(answer) != `{"x":1}` {
		t.Fatalf("%s, %v", answer, err)
	}
	for name, want := range map[string]Refused{
		"dead.refuse": {409, "taken  by another", []byte(`{"a":1}`)}, "dead.fail": {500, "no disk", nil},
		"dead.panic": {500, "a defect in Certpost prevents an answer; see its log", nil},
		"dead.large": {413, "the answer exceeds the size limit of a NATS message: request fewer (size)", nil},
	} {
		_, err := client.Ask(t.Context(), name, nil)
		var got *Refused
		if !errors.As(err, &got) || got.Status != want.Status || got.Text != want.Text || string(got.Data) != string(want.Data) {
			t.Errorf("%s: %+v, want %+v", name, err, want)
		}
	}
	if _, err := client.Ask(t.Context(), "dead.nothing", nil); !errors.Is(err, ErrNoService) {
		t.Errorf("without an endpoint: %v", err)
	}
	// The service can be discovered.
	m, err := client.nc.Request("$SRV.INFO.certpost", nil, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	var info micro.Info
	if err := json.Unmarshal(m.Data, &info); err != nil || info.Version != "0.0.0" || len(info.Endpoints) != 5 || info.Endpoints[4].Subject != "certpost.dead.echo" || info.Endpoints[4].Metadata["about"] != "says it again" {
		t.Errorf("%v, %+v", err, info)
	}
}

// Requests in progress when the program ends are finished and answered.
func TestServiceFinishesItsWork(t *testing.T) {
	t.Parallel()
	b, err := Open(Config{DataDir: t.TempDir(), Listen: "127.0.0.1:0", SyncInterval: "2m"}, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	began, goOn, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	ctx, end := context.WithCancel(context.Background())
	go func() {
		ended <- b.Serve(ctx, "v1.2.3", []Endpoint{{"dead.slow", "", func(ctx context.Context, _ string, _ []byte) ([]byte, error) {
			close(began)
			<-goOn
			return []byte("done"), ctx.Err()
		}}})
	}()
	answered := make(chan string, 1)
	go func() {
		for {
			answer, err := b.Ask(context.Background(), "dead.slow", nil)
			if !errors.Is(err, ErrNoService) {
				answered <- fmt.Sprint(string(answer), err)
				return
			}
		}
	}()
	<-began
	end()
	close(goOn)
	if got := <-answered; got != "done<nil>" {
		t.Errorf("answered %s", got)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// NATS permissions decide which users may send requests.
func TestServiceIsForWhoMay(t *testing.T) {
	t.Parallel()
	url := lab.NATS(t, "127.0.0.1:-1", `authorization { users: [
		{user: all, password: x}
		{user: reader, password: x, permissions: {publish: {allow: ["certpost.dead.list", "_INBOX.>"]}, subscribe: "_INBOX.>"}}
	] }`).ClientURL()
	open := func(user string) *Broker {
		b, err := Dial(t.Context(), Config{URL: url, User: user, Password: func() ([]byte, error) { return []byte("x"), nil }}, zerolog.Nop())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(b.Close)
		return b
	}
	ctx, end := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	server := open("all")
	answerYes := func(context.Context, string, []byte) ([]byte, error) { return []byte("yes"), nil }
	go func() {
		ended <- server.Serve(ctx, "1.0.0", []Endpoint{{"dead.list", "", answerYes}, {"dead.replay", "", answerYes}})
	}()
	reader := open("reader")
	for end := time.Now().Add(10 * time.Second); ; {
		answer, err := reader.Ask(t.Context(), "dead.list", nil)
		if string(answer) == "yes" {
			break
		}
		if !errors.Is(err, ErrNoService) || time.Now().After(end) {
			t.Fatal(err)
		}
	}
	if _, err := reader.Ask(t.Context(), "dead.replay", nil); err == nil || !strings.Contains(err.Error(), "this NATS user may not send requests to certpost.dead.replay") {
		t.Errorf("got %v", err)
	}
	end()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// A client that may only send requests cannot make Certpost answer on a subject where the
// client may not write: an empty answer would delete a stream, others would be events or
// audit records.
func TestAnswersGoToNobodyElse(t *testing.T) {
	t.Parallel()
	asked := make(chan string, 1)
	b := serviceBroker(t, Endpoint{"dead.fail", "", func(_ context.Context, _ string, request []byte) ([]byte, error) {
		select {
		case asked <- string(request):
		default: // the first one is enough
		}
		return nil, &Refused{Status: 413, Text: "too large"}
	}})
	client, err := Dial(t.Context(), clientOf(b), zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := b.js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "VICTIM", Subjects: []string{"certificate.issued", "certificate.issued.*", "certpost.audit.>"}}); err != nil {
		t.Fatal(err)
	}
	ask := func(reply string) {
		t.Helper()
		if err := client.nc.PublishMsg(&nats.Msg{Subject: "certpost.dead.fail", Reply: reply, Data: []byte(reply)}); err != nil {
			t.Fatal(err)
		}
	}
	for _, reply := range []string{"$JS.API.STREAM.DELETE.VICTIM", "$KV.CERTPOST_LEDGER.ops.x", "$SYS.REQ.SERVER.PING", "certificate.issued", "certificate.issued.eve", "certpost.audit.x", "certpost.dead.fail"} {
		ask(reply)
	}
	ask("elsewhere.of.ours") // clients may name their inboxes freely
	select {
	case got := <-asked:
		if got != "elsewhere.of.ours" {
			t.Errorf("asked with the reply %s, which is answered", got)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("a request with another inbox is not answered")
	}
	s, err := b.js.Stream(t.Context(), "VICTIM")
	if err != nil {
		t.Fatal(err)
	}
	if n := s.CachedInfo().State.Msgs; n != 0 {
		t.Errorf("%d answers are in the stream", n)
	}
}
