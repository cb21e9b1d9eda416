package broker

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/certpost/certpost/internal/lab"
)

// The server itself sends an acknowledgement to the subject that the publication names, whatever the
// publisher may publish to. It stays in the publishers' account.
//
// Fault: a publisher of the embedded NATS names a subject of a stream, or of a request, for the acknowledgement. Result:
// nothing is stored or asked.
func TestAcknowledgementsStayWithPublishers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := openSeeded(t, Config{DataDir: dir})
	asked := make(chan *nats.Msg, 100)
	if _, err := b.nc.ChanSubscribe(servicePrefix+">", asked); err != nil {
		t.Fatal(err)
	}
	if err := b.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	nc := lab.Login(t, b.URL(), dir, "publisher")
	acks := make(chan *nats.Msg, 10)
	if _, err := nc.ChanSubscribe("_INBOX.mine", acks); err != nil {
		t.Fatal(err)
	}
	publish := func(reply string) { // the same event each time, so that only the first is stored
		t.Helper()
		if err := nc.PublishMsg(&nats.Msg{Subject: EventSubject, Reply: reply, Header: nats.Header{nats.MsgIdHdr: {"tricks"}}, Data: testEvent("e9").Encode()}); err != nil {
			t.Fatal(err)
		}
	}
	acknowledged := func() { // acknowledgements are sent in the order of publications
		t.Helper()
		publish("_INBOX.mine")
		select {
		case <-acks:
		case <-time.After(20 * time.Second):
			t.Fatal("no acknowledgement")
		}
	}
	acknowledged()
	before := holdings(t, b)
	for _, a := range attacks {
		publish(a.subject)
	}
	acknowledged()
	if after := holdings(t, b); !slices.Equal(before, after) {
		t.Errorf("acknowledgements changed what is stored:\n%s\nbefore:\n%s", strings.Join(after, "\n"), strings.Join(before, "\n"))
	}
	if len(asked) > 0 {
		t.Errorf("an acknowledgement reached the service: %s", (<-asked).Subject)
	}
}
