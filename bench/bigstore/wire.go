package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"strconv"
	"strings"
	"sync"
)

// message is a message to store unchanged; header is its header block in wire format.
type message struct {
	subject, header string
	data            []byte
}

// wire implements as much of the NATS protocol as is needed to copy messages with
// unchanged headers. It is not safe for concurrent use.
type wire struct {
	conn    net.Conn
	inbox   string
	answers chan []byte // closed when the connection has failed
	failure error       // why, once answers is closed

	mu  sync.Mutex // guards out, which listen uses too, to answer PINGs
	out *bufio.Writer
}

// window is the maximum number of unacknowledged messages. The server drops messages
// when 10,000 wait for one stream.
const window = 2000

func dialWire(ctx context.Context, address string) (*wire, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	w := &wire{conn: conn, inbox: "_INBOX.bigstore", answers: make(chan []byte, window), out: bufio.NewWriterSize(conn, 1<<20)}
	go w.listen()
	_, err = fmt.Fprintf(w.out, "CONNECT {\"verbose\":false,\"headers\":true,\"no_responders\":true,\"name\":\"bigstore\",\"user\":\"bench\",\"pass\":\"bench\",\"lang\":\"go\",\"version\":\"1\"}\r\nSUB %s 1\r\n", w.inbox)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return w, nil
}

func (w *wire) close() error { return w.conn.Close() }

// listen sends the messages to the inbox into answers, until the connection fails.
func (w *wire) listen() {
	defer close(w.answers)
	in := bufio.NewReaderSize(w.conn, 1<<16)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			w.failure = err
			return
		}
		words := strings.Fields(line)
		switch {
		case len(words) == 0:
		case words[0] == "-ERR":
			w.failure = errors.New("NATS reports " + strings.TrimSpace(line))
			return
		case words[0] == "PING":
			w.mu.Lock()
			_, _ = w.out.WriteString("PONG\r\n") // the writer keeps its first error
			_ = w.out.Flush()
			w.mu.Unlock()
		case words[0] == "MSG" || words[0] == "HMSG":
			size, err := strconv.Atoi(words[len(words)-1])
			body := make([]byte, max(size, 0)+len("\r\n"))
			if err == nil {
				_, err = io.ReadFull(in, body)
			}
			if err != nil {
				w.failure = fmt.Errorf("after %q: %w", line, err)
				return
			}
			w.answers <- body[:size]
		}
	}
}

// send writes a message to the connection's buffer. The reply goes to the inbox.
func (w *wire) send(m message) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if m.header == "" {
		fmt.Fprintf(w.out, "PUB %s %s %d\r\n", m.subject, w.inbox, len(m.data))
	} else {
		fmt.Fprintf(w.out, "HPUB %s %s %d %d\r\n", m.subject, w.inbox, len(m.header), len(m.header)+len(m.data))
	}
	_, _ = w.out.WriteString(m.header)
	_, _ = w.out.Write(m.data)
	_, err := w.out.WriteString("\r\n") // the writer keeps its first error
	return err
}

// answer flushes the buffer and returns the next reply.
func (w *wire) answer(ctx context.Context) ([]byte, error) {
	w.mu.Lock()
	err := w.out.Flush()
	w.mu.Unlock()
	if err != nil {
		return nil, err
	}
	select {
	case body, ok := <-w.answers:
		if !ok {
			return nil, w.failure
		}
		return body, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// newest returns the newest message of a stream with a subject (which may have
// wildcards), nil if there is none.
func (w *wire) newest(ctx context.Context, stream, subject string) (*message, error) {
	if err := w.send(message{subject: "$JS.API.STREAM.MSG.GET." + stream, data: fmt.Appendf(nil, `{"last_by_subj":%q}`, subject)}); err != nil {
		return nil, err
	}
	body, err := w.answer(ctx)
	if err != nil {
		return nil, err
	}
	var found struct {
		Error   *struct{ Code int } `json:"error"`
		Message struct {
			Subject string `json:"subject"`
			Header  []byte `json:"hdrs"`
			Data    []byte `json:"data"`
		} `json:"message"`
	}
	switch err := json.Unmarshal(body, &found); {
	case err != nil:
		return nil, fmt.Errorf("stream %s answers %.200q: %w", stream, body, err)
	case found.Error != nil && found.Error.Code == 404:
		return nil, nil
	case found.Error != nil:
		return nil, fmt.Errorf("stream %s answers %.200q", stream, body)
	}
	return &message{found.Message.Subject, string(found.Message.Header), found.Message.Data}, nil
}

// store sends the messages and returns when the streams have acknowledged all of them.
func (w *wire) store(ctx context.Context, messages iter.Seq2[message, error]) error {
	under := 0
	acknowledged := func() error {
		body, err := w.answer(ctx)
		if err == nil && (bytes.Contains(body, []byte(`"error"`)) || bytes.Contains(body, []byte(`"duplicate"`)) || !bytes.Contains(body, []byte(`"seq"`))) {
			err = fmt.Errorf("a message was not stored: %.300q", body)
		}
		under--
		return err
	}
	for m, err := range messages {
		if under >= window {
			for err == nil && under > window/2 { // many at once, because each call flushes
				err = acknowledged()
			}
		}
		if err == nil {
			err = w.send(m)
		}
		if err != nil {
			return err
		}
		under++
	}
	for under > 0 {
		if err := acknowledged(); err != nil {
			return err
		}
	}
	return nil
}
