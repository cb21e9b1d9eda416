package lab

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"strconv"
	"sync"
	"testing"
)

// NATSLink forwards connections to a NATS server, and loses messages on their way: a
// request that the server never gets, or the answer to one on which it has acted.
type NATSLink struct {
	URL string

	mu   sync.Mutex
	lose func(NATSMessage) bool
}

// NATSMessage is a message on its way through a NATSLink.
type NATSMessage struct {
	ToServer bool
	Subject  string
	Data     []byte // headers and body
}

// NewNATSLink starts a link to the server at an address. It ends with the test.
func NewNATSLink(t testing.TB, to string) *NATSLink {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	link := &NATSLink{URL: "nats://" + l.Addr().String()}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", to)
			if err != nil {
				client.Close()
				continue
			}
			go link.forward(client, server, true)
			go link.forward(server, client, false)
		}
	}()
	return link
}

// Lose makes the link ask, for each message, whether to lose it; nil loses none.
func (l *NATSLink) Lose(lose func(NATSMessage) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lose = lose
}

func (l *NATSLink) loses(m NATSMessage) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lose != nil && l.lose(m)
}

// forward copies protocol lines and messages until one side closes. The last field of the
// line that begins a message is its size in bytes.
func (l *NATSLink) forward(from, to net.Conn, toServer bool) {
	defer from.Close()
	defer to.Close()
	in := bufio.NewReader(from)
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return
		}
		if fields := bytes.Fields(line); len(fields) > 2 && begins[string(fields[0])] {
			size, err := strconv.Atoi(string(fields[len(fields)-1]))
			if err != nil {
				return
			}
			message := make([]byte, size+2) // with CRLF
			if _, err := io.ReadFull(in, message); err != nil {
				return
			}
			if l.loses(NATSMessage{toServer, string(fields[1]), message[:size]}) {
				continue
			}
			line = append(line, message...)
		}
		if _, err := to.Write(line); err != nil {
			return
		}
	}
}

// begins are the operations that begin a message.
var begins = map[string]bool{"PUB": true, "HPUB": true, "MSG": true, "HMSG": true}
