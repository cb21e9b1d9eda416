package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"os/exec"
	"strconv"
	"sync"
	"time"

	"github.com/certpost/certpost/bench/road"
)

// sink is a running smtp-sink. It prints its counters after each mail; reading them tells
// when it has accepted which mail, the same way for every contestant.
type sink struct {
	address string
	process *exec.Cmd
	ended   chan struct{} // closed when its output has ended

	mu    sync.Mutex
	taken []time.Time   // when each mail was accepted
	news  chan struct{} // closed and replaced with each mail
}

func openSink(ctx context.Context) (*sink, error) {
	address, err := road.FreeAddress()
	if err != nil {
		return nil, err
	}
	s := &sink{address: address, ended: make(chan struct{}), news: make(chan struct{})}
	s.process = exec.CommandContext(ctx, "smtp-sink", "-u", "nobody", "-c", "-m", "512", address, "512")
	out, err := s.process.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.process.Start(); err != nil {
		return nil, fmt.Errorf("start smtp-sink (Debian's package postfix has it): %w", err)
	}
	go func() {
		defer close(s.ended)
		lines := bufio.NewScanner(out)
		lines.Split(splitAtCR)
		for lines.Scan() {
			s.read(lines.Bytes())
		}
	}()
	return s, road.Poll(ctx, stalled, func() error {
		c, err := net.Dial("tcp", address)
		if err == nil {
			err = c.Close()
		}
		return err
	})
}

func splitAtCR(data []byte, atEOF bool) (int, []byte, error) {
	if i := bytes.IndexByte(data, '\r'); i >= 0 {
		return i + 1, data[:i], nil
	}
	return 0, nil, nil
}

// read reads a line such as "sess=7 quit=7 mesg=2000".
func (s *sink) read(line []byte) {
	_, text, found := bytes.Cut(line, []byte("mesg="))
	n, err := strconv.Atoi(string(bytes.TrimSpace(text)))
	if !found || err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if n <= len(s.taken) {
		return
	}
	for now := time.Now(); len(s.taken) < n; {
		s.taken = append(s.taken, now)
	}
	close(s.news)
	s.news = make(chan struct{})
}

// next returns a channel that is closed as soon as a mail has arrived.
func (s *sink) next() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.taken) > 0 {
		return closed
	}
	return s.news
}

var closed = func() <-chan struct{} { c := make(chan struct{}); close(c); return c }()

// stalled is how long no mail may arrive before a measurement is given up.
const stalled = 2 * time.Minute

// await waits until the sink has that many mails, and returns when it accepted each.
func (s *sink) await(ctx context.Context, mails int) ([]time.Time, error) {
	for {
		s.mu.Lock()
		taken, news := s.taken, s.news
		s.mu.Unlock()
		if len(taken) > mails {
			return nil, fmt.Errorf("the sink has %d mails, want %d", len(taken), mails)
		}
		if len(taken) == mails {
			return taken, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-news:
		case <-time.After(stalled):
			return nil, fmt.Errorf("the sink has had %d of %d mails for %v", len(taken), mails, stalled)
		}
	}
}

func (s *sink) close() {
	_ = s.process.Process.Kill() // it keeps nothing
	<-s.ended
	_ = s.process.Wait()
}
