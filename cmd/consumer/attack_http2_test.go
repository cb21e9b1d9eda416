package main

import (
	"bytes"
	"cmp"
	"errors"
	"io"
	"net/http"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// flood is a connection of HTTP/2 that sends single frames.
type flood struct {
	*http2.Framer
	headers bytes.Buffer
}

// newFlood sends the preface.
func newFlood(t *testing.T, c io.ReadWriter) *flood {
	t.Helper()
	_, _ = io.WriteString(c, http2.ClientPreface) // fails if the connection has ended already, as do the frames
	f := &flood{Framer: http2.NewFramer(c, c)}
	_ = f.WriteSettings()
	encoder := hpack.NewEncoder(&f.headers)
	for _, field := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "localhost"}, {":path", "/livez"}} {
		if err := encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1], Sensitive: true}); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// begin opens a stream with a GET. Without endHeaders, CONTINUATION frames must follow.
func (f *flood) begin(id uint32, endStream, endHeaders bool) error {
	return f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: f.headers.Bytes(), EndStream: endStream, EndHeaders: endHeaders})
}

// read answers the server's settings and pings until the connection ends. It returns the
// reason that the server gave with GOAWAY.
func (f *flood) read() (reason http2.ErrCode) {
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return reason
		}
		if away, is := frame.(*http2.GoAwayFrame); is {
			reason = cmp.Or(reason, away.ErrCode)
		}
	}
}

// Streams that are cancelled as soon as they are opened do not start more and more
// handlers: the server runs as many as it has allowed, and ends the connection of who goes
// on. Other clients are served meanwhile.
//
// Fault: floods with HTTP/2. Result: connections end; other clients are served.
func TestRapidReset(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	var running, most atomic.Int64
	f := newFortress(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor == 2 {
			for now := running.Add(1); ; {
				if before := most.Load(); now <= before || most.CompareAndSwap(before, now) {
					break
				}
			}
			defer running.Add(-1)
			<-release // a handler that does not notice the end of its request
		}
		plain(w, http.StatusOK, "alive\n")
	})).opens()
	c := f.dial("h2")
	flood := newFlood(t, c)
	reason := make(chan http2.ErrCode, 1)
	go func() { reason <- flood.read() }()
	sent := 0
	for id := uint32(1); sent < 100_000; id, sent = id+2, sent+1 {
		if flood.begin(id, true, true) != nil || flood.WriteRSTStream(id, http2.ErrCodeCancel) != nil {
			break // the server has closed the connection
		}
		if sent == 50 {
			if all, text := f.answers("GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"); len(all) != 1 || all[0].StatusCode != http.StatusOK {
				t.Errorf("another client got %q", text)
			}
		}
	}
	got := <-reason
	close(release)
	if got != http2.ErrCodeEnhanceYourCalm && got != http2.ErrCodeNo || most.Load() > streamsOfConnection {
		t.Errorf("%d streams were reset, %d handlers ran at the same time, and the connection ended with %v", sent, most.Load(), got)
	}
	t.Logf("%d resets, %d handlers at the same time, %v", sent, most.Load(), got)
}

// Headers that never end are not collected. Frames of them that hold nothing cost only their
// transfer, until the connection counts as idle.
//
// Fault: floods with HTTP/2. Result: connections end.
func TestEndlessHeaders(t *testing.T) {
	t.Parallel()
	f := newFortress(t, nil).hurried(func(s *http.Server) []*time.Duration { return []*time.Duration{&s.IdleTimeout} }).opens()
	field := append([]byte{0x00, 0x01, 'x', 0x7f, 0x81, 0x7f}, bytes.Repeat([]byte("y"), 16<<10)...) // x: yyy, not indexed
	for name, part := range map[string][]byte{"large": field, "empty": nil} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			flood := newFlood(t, f.dial("h2"))
			go flood.read()
			sent, err := 0, flood.begin(1, true, false)
			for ; err == nil; sent++ {
				err = flood.WriteContinuation(1, false, part)
			}
			if errors.Is(err, os.ErrDeadlineExceeded) || sent*len(part) > 8<<20 {
				t.Errorf("%d frames of %d bytes were accepted, then %v", sent, len(part), err)
			}
		})
	}
}

// Pings do not fill the memory of the server if the client does not read the answers.
//
// Fault: floods with HTTP/2. Result: connections end.
func TestFloodOfPings(t *testing.T) {
	t.Parallel()
	flood := newFlood(t, newFortress(t, nil).opens().dial("h2"))
	sent := 0
	for ; sent < 5_000_000 && flood.WritePing(false, [8]byte{1}) == nil; sent++ {
	}
	if sent == 5_000_000 {
		t.Error("5 million pings were accepted, and none of the answers was read")
	}
}
