package smtp

import (
	"errors"
	"net"
)

const (
	maxReplyLine  = 4 << 10   // bytes; RFC 5321 section 4.5.3.1.5 allows 512
	maxReplyLines = 100       // of one reply
	maxReplyBytes = 400 << 10 // of all the replies to what was sent at once
)

var (
	errLongLine  = errors.New("a reply line is over 4096 bytes long")
	errLongReply = errors.New("a reply has more than 100 lines")
)

// wire is the connection below a session. It limits how much a relay can make Certpost
// read, and records whether every write succeeded.
type wire struct {
	net.Conn
	line, lines, bytes int // of the replies being read
	maxLines           int // lines they may have
	err                error

	broken bool // a write failed, so the data sent is incomplete
}

// expect resets the limits for the given number of replies.
func (w *wire) expect(replies int) {
	w.line, w.lines, w.bytes, w.maxLines = 0, 0, 0, replies*maxReplyLines
}

// Read fails once the replies exceed the limits, but first returns the data before
// that point: a good reply is not lost because of the one after it.
func (w *wire) Read(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	n, err := w.Conn.Read(p)
	for i, c := range p[:n] {
		w.line, w.bytes = w.line+1, w.bytes+1
		switch {
		case w.line > maxReplyLine:
			w.err = errLongLine
		case w.lines >= w.maxLines || w.bytes > maxReplyBytes:
			w.err = errLongReply
		}
		if w.err != nil && i > 0 {
			return i, nil
		} else if w.err != nil {
			return 0, w.err
		}
		if c == '\n' {
			w.line, w.lines = 0, w.lines+1
		}
	}
	return n, err
}

func (w *wire) Write(p []byte) (int, error) {
	n, err := w.Conn.Write(p)
	if err != nil {
		w.broken = true
	}
	return n, err
}
