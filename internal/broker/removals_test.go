package broker

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/lab"
)

func TestRemovalsPastCertpostHaveAName(t *testing.T) {
	t.Parallel()
	const password = "not a secret"
	cfg := Config{DataDir: t.TempDir(), SyncInterval: "2m", Listen: lab.FreeAddress(t), User: "alice", Password: func() ([]byte, error) { return []byte(password), nil }}
	b, err := Open(cfg, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	ctx, cancel := context.WithCancel(context.Background())
	if err := b.EnsureTopology(ctx); err != nil {
		t.Fatal(err)
	}
	publishLetters(t, b, 10)
	removals, ended := make(chan Removal, 10), make(chan error, 1)
	before := b.nc.NumSubscriptions()
	go func() { ended <- b.FollowRemovals(ctx, func(r Removal) { removals <- r }) }()
	for end := time.Now().Add(time.Minute); b.nc.NumSubscriptions() == before; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("no subscription")
		}
	}
	if err := b.nc.Flush(); err != nil {
		t.Fatal(err)
	}

	nc, err := nats.Connect(b.URL(), nats.Name("NATS CLI"), nats.UserInfo("alice", password))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(ctx, DeadLettersStream)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.SecureDeleteMsg(ctx, 3); err != nil {
		t.Fatal(err)
	}
	if r := <-removals; r.Sequence != 3 || r.By.Name != "alice" || r.By.Via != ViaNATS || !strings.HasPrefix(r.By.Address, "127.0.0.1") || r.Ours {
		t.Errorf("a deletion: %+v", r)
	}
	if err := stream.DeleteMsg(ctx, 3); err == nil { // reports no removal
		t.Error("deleted twice")
	}
	if err := stream.Purge(ctx, jetstream.WithPurgeSubject("certpost.dead.*.*.ops.e000004")); err != nil {
		t.Fatal(err)
	}
	if r := <-removals; r.Sequence != 0 || r.Subject != "certpost.dead.*.*.ops.e000004" || r.Before != 0 {
		t.Errorf("a purge by subject: %+v", r)
	}
	if err := stream.Purge(ctx, jetstream.WithPurgeSequence(8)); err != nil {
		t.Fatal(err)
	}
	if r := <-removals; r.Subject != "" || r.Before != 8 {
		t.Errorf("a purge up to a number: %+v", r)
	}
	if err := stream.Purge(ctx); err != nil {
		t.Fatal(err)
	}
	if r := <-removals; r != (Removal{By: Actor{Name: "alice", Via: ViaNATS, Address: r.By.Address}}) {
		t.Errorf("a purge of all: %+v", r)
	}

	publishLetters(t, b, 1)
	if err := b.RemoveLetter(ctx, 11); err != nil {
		t.Fatal(err)
	}
	if r := <-removals; r.Sequence != 11 || !r.Ours {
		t.Errorf("a removal of our own: %+v", r)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestAdvisoriesOfOtherThingsAreNoRemovals(t *testing.T) {
	t.Parallel()
	for _, advisory := range []string{
		``, `{}`, `no JSON`,
		`{"subject":"$JS.API.STREAM.MSG.DELETE.OTHER","request":"{\"seq\":1}","response":"{\"success\":true}"}`,
		`{"subject":"$JS.API.STREAM.INFO.CERTPOST_DEAD_LETTERS","request":"{\"seq\":1}","response":"{\"success\":true}"}`,
		`{"subject":"$JS.API.STREAM.MSG.DELETE.CERTPOST_DEAD_LETTERS","request":"{\"seq\":1}","response":"{\"error\":{\"code\":400}}"}`,
		`{"subject":"$JS.API.STREAM.MSG.DELETE.CERTPOST_DEAD_LETTERS","request":"?","response":"{\"success\":true}"}`,
	} {
		if r, ok := readRemoval([]byte(advisory)); ok {
			t.Errorf("%s: %+v", advisory, r)
		}
	}
	r, ok := readRemoval([]byte(`{"client":{"name":"x\u202e\nname"},"subject":"$JS.API.STREAM.MSG.DELETE.CERTPOST_DEAD_LETTERS","request":"{\"seq\":1}","response":"{\"success\":true}"}`))
	if !ok || strings.ContainsAny(r.By.Name, "\n\u202e") {
		t.Errorf("a name that deceives: %+v", r)
	}
}
