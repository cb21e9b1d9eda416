package broker

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/certpost/certpost/internal/legible"
)

// removalAdvisories is the subject on which nats-server reports each JetStream API request
// and its answer to the account (server/jetstream_events.go, JSAPIAudit). It does so only
// while there is a subscriber.
const removalAdvisories = "$JS.EVENT.ADVISORY.API"

// Removal is a request to JetStream that took dead letters off the stream.
type Removal struct {
	// Sequence is the letter's; 0 for a purge, which took those with the Subject
	// ("" for any) and a number below Before (0 for any).
	Sequence uint64
	Subject  string
	Before   uint64
	// By is the client as the server knows it: its user, else the name that it gives
	// itself.
	By Actor
	// Ours: the client calls itself Certpost. That is not proof; what Certpost does to
	// a letter is in the audit before.
	Ours bool
}

// FollowRemovals reports which client removes dead letters from the stream, through
// Certpost or not, until the context ends. It is for the name only: it misses removals
// while it does not run, and all of them where the server does not permit the subscription.
// OpenLetters says which letters are there.
func (b *Broker) FollowRemovals(ctx context.Context, tell func(Removal)) error {
	sub, err := b.nc.Subscribe(removalAdvisories, func(m *nats.Msg) {
		if r, ok := readRemoval(m.Data); ok {
			tell(r)
		}
	})
	if err != nil {
		return fmt.Errorf("listen to %s: %w", removalAdvisories, err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	<-ctx.Done()
	return nil
}

func readRemoval(advisory []byte) (Removal, bool) {
	var a struct {
		Client struct {
			User    string `json:"user"`
			NameTag string `json:"name_tag"`
			Name    string `json:"name"`
			Host    string `json:"host"`
		} `json:"client"`
		Subject  string `json:"subject"`
		Request  string `json:"request"`
		Response string `json:"response"`
	}
	var request struct {
		Sequence uint64 `json:"seq"`
		Filter   string `json:"filter"`
	}
	var response struct {
		Success bool `json:"success"`
	}
	if json.Unmarshal(advisory, &a) != nil {
		return Removal{}, false
	}
	kind, ok := strings.CutSuffix(a.Subject, "."+DeadLettersStream)
	deleted, purged := kind == "$JS.API.STREAM.MSG.DELETE", kind == "$JS.API.STREAM.PURGE"
	if !ok || !deleted && !purged || json.Unmarshal([]byte(a.Response), &response) != nil || !response.Success {
		return Removal{}, false
	}
	if json.Unmarshal([]byte(a.Request), &request) != nil && deleted {
		return Removal{}, false
	}
	r := Removal{
		By:   Actor{Via: ViaNATS, Address: legible.Clean(a.Client.Host, 100)},
		Ours: strings.HasPrefix(a.Client.Name, clientName+"@"),
	}
	r.By.Name = legible.Clean(cmp.Or(a.Client.User, a.Client.NameTag, a.Client.Name, "unnamed client"), 200)
	if deleted {
		r.Sequence = request.Sequence
		return r, true
	}
	r.Subject, r.Before = request.Filter, request.Sequence
	return r, true
}
