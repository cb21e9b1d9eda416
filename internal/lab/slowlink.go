package lab

import (
	"context"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// road leads to a relay. It counts how often its client turned from listening to
// speaking, which is what round trips cost, and may take its time each way.
type road struct {
	Address string
	Turns   atomic.Int64
	dials   atomic.Int64
}

func NewLink(t testing.TB, to string, oneWay time.Duration) *road {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &road{Address: listener.Addr().String()}
	var all sync.WaitGroup
	t.Cleanup(func() {
		_ = listener.Close()
		all.Wait()
	})
	all.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			r.dials.Add(1)
			relay, err := net.Dial("tcp", to)
			if err != nil {
				_ = client.Close()
				return
			}
			var answered atomic.Bool
			all.Go(func() {
				forward(relay, client, oneWay, func() {
					if answered.CompareAndSwap(true, false) {
						r.Turns.Add(1)
					}
				})
			})
			all.Go(func() { forward(client, relay, oneWay, func() { answered.Store(true) }) })
		}
	})
	return r
}

// forward copies until one of the ends closes. What arrives together travels
// together, and later packets do not wait for earlier ones to arrive.
func forward(to, from net.Conn, oneWay time.Duration, seen func()) {
	type packet struct {
		data []byte
		due  time.Time
	}
	way := make(chan packet, 1024)
	go func() {
		defer close(way)
		buffer := make([]byte, 64<<10)
		for {
			n, err := from.Read(buffer)
			if n > 0 {
				seen()
				way <- packet{slices.Clone(buffer[:n]), time.Now().Add(oneWay)}
			}
			if err != nil {
				return
			}
		}
	}()
	for p := range way {
		if oneWay > 0 {
			time.Sleep(time.Until(p.due)) // the road's length, not a wait for something
		}
		if _, err := to.Write(p.data); err != nil {
			break
		}
	}
	_ = to.Close()
	_ = from.Close()
	for range way { // let the reader end
	}
}

func Patient(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}
