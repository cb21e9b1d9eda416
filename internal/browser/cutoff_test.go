package browser

import (
	"bufio"
	"net"
	"strings"
	"sync"
	"testing"
)

// cutOff is a relay that closes the connection after each mail's final dot, without a
// reply, so that the client cannot know whether the relay has the mail. Once fixed it
// replies.
type cutOff struct {
	listener net.Listener
	serving  sync.WaitGroup

	mu    sync.Mutex
	fixed bool // guarded by mu
	taken int  // mails; guarded by mu
}

func newCutOff(t *testing.T, address string) *cutOff {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	c := &cutOff{listener: l}
	c.serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			c.serving.Go(func() { c.serve(conn) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		c.serving.Wait()
	})
	return c
}

func (c *cutOff) address() string { return c.listener.Addr().String() }

func (c *cutOff) fix() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fixed = true
}

// mails is the number of mails received, with or without a reply.
func (c *cutOff) mails() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.taken
}

// take counts a mail and reports whether the relay replies to it.
func (c *cutOff) take() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.taken++
	return c.fixed
}

func (c *cutOff) serve(conn net.Conn) {
	defer conn.Close()
	say := func(line string) bool { _, err := conn.Write([]byte(line + "\r\n")); return err == nil }
	if !say("220 mx.branch.example.org") {
		return
	}
	lines := bufio.NewScanner(conn)
	for content := false; lines.Scan(); {
		line := lines.Text()
		command, _, _ := strings.Cut(strings.ToUpper(line), " ")
		answer := "250 2.0.0 ok"
		switch {
		case content && line != ".":
			continue
		case content:
			if !c.take() {
				return
			}
			content = false
		case command == "DATA":
			answer, content = "354 go on", true
		case command == "QUIT":
			say("221 2.0.0 bye")
			return
		}
		if !say(answer) {
			return
		}
	}
}
