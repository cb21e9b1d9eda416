package queue

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"maps"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/verdict"
)

// TestSealOfAnotherDelivery publishes a delivery by hand, with a private key in it and the
// headers of one that the fan-out has made.
//
// Fault: a delivery with the seal of another one. Result: decoded in full; a private key in
// it is found.
func TestSealOfAnotherDelivery(t *testing.T) {
	t.Parallel()
	fake := newFakeCourier("a")
	fake.plan("a", func(int, verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
		return nil, fail(verdict.SMTPTransient, verdict.PhaseConnect) // so that the message stays
	})
	b := start(t, fake, nil)
	ctx := context.Background()
	b.publish(event("e1", "a"))
	js := b.broker.JetStream()
	stream, err := js.Stream(ctx, broker.DeliveriesStream)
	if err != nil {
		t.Fatal(err)
	}
	var sealed *jetstream.RawStreamMsg
	b.until("a delivery is stored", func() bool {
		sealed, err = stream.GetLastMsgForSubject(ctx, broker.DeliverySubject("relay", "a"))
		return err == nil
	})
	if len(sealed.Header[events.HeaderSeal]) != 1 {
		t.Fatalf("the fan-out's delivery has the headers %v", sealed.Header)
	}
	kv, err := b.broker.OpenRelays(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if key, err := kv.Get(ctx, "seal"); err != nil || strings.Contains(sealed.Header.Get(events.HeaderSeal), string(key.Value())) {
		t.Errorf("the key of the seal: %v", err)
	}

	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	e := event("e1", "a")
	e.Labels = map[string]string{"note": string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))}
	m := nats.NewMsg(broker.DeliverySubject("relay", "a"))
	m.Header, m.Data = nats.Header(maps.Clone(sealed.Header)), e.Encode()
	m.Header.Set(nats.MsgIdHdr, "by hand")
	if _, err := js.PublishMsg(ctx, m); err != nil {
		t.Fatal(err)
	}
	b.until("a dead letter", func() bool { return len(b.letters()) == 1 })
	letter := b.letters()[0]
	if letter.Code != verdict.EventInvalid || strings.Contains(string(letter.Body), "PRIVATE KEY") {
		t.Errorf("letter %s with the body %s", letter.Code, letter.Body)
	}
}

// TestSealKeyIsShared checks that all processes have one key, and that one that cannot be
// read is replaced.
func TestSealKeyIsShared(t *testing.T) {
	t.Parallel()
	b := start(t, newFakeCourier("a"), nil)
	ctx := context.Background()
	e := event("e1", "a")
	header := func(s events.Seal) string {
		h := map[string][]string{}
		s.Mark(h, e.Body())
		return h[events.HeaderSeal][0]
	}
	open := func() events.Seal {
		t.Helper()
		s, err := b.broker.OpenSeal(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	first := header(b.runner.seal)
	if header(open()) != first {
		t.Error("a second process has another key")
	}
	kv, err := b.broker.OpenRelays(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Put(ctx, "seal", []byte("mended by hand")); err != nil {
		t.Fatal(err)
	}
	if again := header(open()); again == first || again != header(open()) {
		t.Error("a key that cannot be read is not replaced by one for all")
	}
}
