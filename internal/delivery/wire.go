package delivery

import (
	"errors"
	"net"
)

const (
	maxReplyLine  = 4 << 10 // bytes; RFC 5321 section 4.5.3.1.5 allows 512
	maxReplyLines = 100     // of one reply
)

var (
	errLongLine  = errors.New("a reply line is over 4096 bytes long")
	errLongReply = errors.New("a reply has more than 100 lines")
)

// wire is the connection below the SMTP client. It bounds what a relay can make
// us read, and remembers whether all we wrote went out.
type wire struct {
	net.Conn
	pending string // read before anything from the connection

	line, lines int // of the reply being read
	err         error

	broken bool // a write failed: what was written is not complete
}

// Read fails once a reply is larger than the bounds; a Write begins a new reply.
func (w *wire) Read(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	if w.pending != "" {
		n := copy(p, w.pending)
		w.pending = w.pending[n:]
		return n, nil
	}
	n, err := w.Conn.Read(p)
	for _, c := range p[:n] {
		w.line++
		if w.line > maxReplyLine {
			w.err = errLongLine
			return 0, w.err
		}
		if c == '\n' {
			w.line, w.lines = 0, w.lines+1
		}
		if w.lines > maxReplyLines {
			w.err = errLongReply
			return 0, w.err
		}
	}
	return n, err
}

func (w *wire) Write(p []byte) (int, error) {
	w.line, w.lines = 0, 0
	n, err := w.Conn.Write(p)
	if err != nil {
		w.broken = true
	}
	return n, err
}
