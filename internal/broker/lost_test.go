package broker

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/lab"
)

// While the connection does not come back, the end of a request's time says that it was lost, and a
// new request says that it was not sent.
func TestAskWithoutAConnection(t *testing.T) {
	t.Parallel()
	server := lab.NATS(t, lab.FreeAddress(t), "")
	nc, err := nats.Connect(server.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	out := make(chan *nats.Msg, 1)
	if _, err := nc.ChanSubscribe("certpost.dead.echo", out); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancelCause(t.Context())
	defer end(nil)
	errLate := errors.New("the time is over")
	client, err := Dial(t.Context(), Config{URL: server.ClientURL(), Lost: func() { end(errLate) }}, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	go func() {
		<-out
		server.Shutdown()
	}()
	if _, err := client.Ask(ctx, "dead.echo", nil); !errors.Is(err, ErrLost) || !errors.Is(err, errLate) {
		t.Errorf("%v", err)
	}
	began := time.Now()
	if _, err := client.Ask(t.Context(), "dead.echo", nil); err == nil || errors.Is(err, ErrLost) || !strings.Contains(err.Error(), "request certpost.dead.echo was not sent") || time.Since(began) > time.Minute {
		t.Errorf("%v", err)
	}
}
