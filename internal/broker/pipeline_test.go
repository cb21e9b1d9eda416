package broker

import (
	"context"
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"
)

// Of entries whose claims were replaced by outcomes, hardly more are requested than there are.
func TestReplacedEntriesAreNotRequested(t *testing.T) {
	t.Parallel()
	b, ctx := newTestBroker(t), context.Background()
	const n = 200
	for i := range n {
		for range 2 { // claim and outcome
			m := nats.NewMsg(fmt.Sprintf("$KV.%s.ops.e%d", LedgerBucket, i))
			m.Data = []byte("{}")
			if _, err := b.js.PublishMsg(ctx, m); err != nil {
				t.Fatal(err)
			}
		}
	}
	before, read := b.nc.Stats().OutMsgs, 0
	for c, err := range b.ReadEntries(ctx, 1) {
		if err != nil {
			t.Fatal(err)
		}
		if read++; c.Key != fmt.Sprintf("ops.e%d", read-1) {
			t.Errorf("entry %d is %s", read, c.Key)
		}
	}
	if requests := b.nc.Stats().OutMsgs - before; read != n || requests < n || requests > n+n/5 {
		t.Errorf("%d entries of %d were read with %d requests", read, n, requests)
	}
}
