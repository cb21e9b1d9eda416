package smtp

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/certpost/certpost/internal/secrets"
)

// Terms are what the connections to one relay are held to.
type Terms struct {
	Connections int           // at most so many at a time; 0: any number
	Mails       int           // that one connection carries
	Idle        time.Duration // that one is kept for a mail to come
	Age         time.Duration // at which one is given up, so that a changed address of the relay is noticed
}

// poolKey is the same for connections that may stand in for each other.
type poolKey [sha256.Size]byte

// Pool keeps connections for the mails to come. A mail gets one that was made with
// just what the mail would make its own with: address, TLS, certificates,
// credentials. Nothing is said on a connection to find out whether it still lives;
// each one that lies idle is listened to, and gone as soon as the relay closes it.
type Pool struct {
	salt [sha256.Size]byte // so that a key tells nothing about a password

	mu        sync.Mutex
	relays    map[string]*relayConns // by relay.name()
	closing   int                    // connections that say goodbye
	allClosed *sync.Cond             // there are no more of these
	closed    bool
}

// relayConns has the connections to one relay.
type relayConns struct {
	open    int             // connections and places for them, those that say goodbye included
	closing int             // those that say goodbye
	idle    []*Session      // the one used last at the end
	waiting []chan struct{} // whose turn comes next, in this order
}

func NewPool() *Pool {
	p := &Pool{relays: make(map[string]*relayConns)}
	p.allClosed = sync.NewCond(&p.mu)
	_, _ = rand.Read(p.salt[:]) // never fails
	return p
}

// Acquire waits until there is an idle connection to the relay, or room for a new
// one: then there is no session, and the caller dials. Either way the place ends
// with put or leave. With fresh it is always room. The error is the context's.
func (p *Pool) Acquire(ctx context.Context, r Relay, t Terms, fresh bool) (*Session, error) {
	key := p.key(r)
	mine := make(chan struct{}, 1)
	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.relays[r.name()]
	if h == nil {
		h = &relayConns{}
		p.relays[r.name()] = h
	}
	if t.Connections > 0 {
		h.waiting = append(h.waiting, mine)
		defer func() {
			h.waiting = slices.DeleteFunc(h.waiting, func(w chan struct{}) bool { return w == mine })
			p.notifyNext(r.name()) // there may be room for more than one
		}()
	}
	for {
		if t.Connections == 0 || h.waiting[0] == mine {
			for t.Connections > 0 && h.open-h.closing > t.Connections && len(h.idle) > 0 {
				p.closeIdle(h, h.idle[0]) // there may be fewer than before
			}
			if s := h.takeIdle(key, fresh); s != nil {
				if p.stopWatch(s) {
					return s, nil
				}
				h.open--
				continue
			}
			if t.Connections == 0 || h.open < t.Connections {
				h.open++
				return nil, nil
			}
			if h.open-h.closing >= t.Connections && len(h.idle) > 0 {
				p.closeIdle(h, h.idle[0]) // made with other credentials
			}
		}
		p.mu.Unlock()
		select {
		case <-mine:
		case <-ctx.Done():
		}
		p.mu.Lock()
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
}

// takeIdle takes the session out that was used last, of those with the key.
func (h *relayConns) takeIdle(key poolKey, fresh bool) *Session {
	if fresh {
		return nil
	}
	for i, s := range slices.Backward(h.idle) {
		if s.key == key {
			h.idle = slices.Delete(h.idle, i, i+1)
			return s
		}
	}
	return nil
}

// stopWatch ends the watch over a session that was idle, and reports whether it lives.
func (p *Pool) stopWatch(s *Session) bool {
	p.mu.Unlock()
	defer p.mu.Lock()
	_ = s.tcp.SetReadDeadline(time.Unix(1, 0))
	<-s.idleEnded
	if s.dead {
		s.abort()
	}
	return !s.dead
}

// Adopt makes a new session one that other mails may use, and forgets the secrets that
// it was made with.
func (p *Pool) Adopt(s *Session) {
	s.key = p.key(s.relay)
	s.relay.Password, s.relay.ClientKey = secrets.Value{}, secrets.Value{}
}

// Idle counts the sessions that wait for a mail.
func (p *Pool) Idle() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, h := range p.relays {
		n += len(h.idle)
	}
	return n
}

// Release gives a place back for which there is no connection.
func (p *Pool) Release(r Relay) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.relays[r.name()].open--
	p.notifyNext(r.name())
}

// notifyNext follows each change that may let somebody have his turn, or leave a relay
// without connections.
func (p *Pool) notifyNext(address string) {
	h := p.relays[address]
	if len(h.waiting) > 0 {
		select {
		case h.waiting[0] <- struct{}{}: // who looks again for himself
		default: // knows already
		}
	} else if h.open == 0 {
		delete(p.relays, address)
	}
}

// Put gives a session back after a mail.
func (p *Pool) Put(s *Session, t Terms) {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.relays[s.relay.name()]
	left := min(t.Idle, t.Age-time.Since(s.created))
	if s.dead || p.closed || s.mails >= t.Mails || left <= 0 || t.Connections > 0 && h.open > t.Connections {
		p.closeLater(h, s)
		return
	}
	s.idleEnded = make(chan struct{})
	s.wire.expect(1)
	_ = s.tcp.SetDeadline(time.Now().Add(left))
	h.idle = append(h.idle, s)
	go p.watchIdle(h, s)
	p.notifyNext(s.relay.name())
}

// watchIdle is the watch over an idle session: whatever the relay says or does, and
// the end of its time, ends it, unless somebody took it before.
func (p *Pool) watchIdle(h *relayConns, s *Session) {
	defer close(s.idleEnded)
	_, err := s.text.R.Peek(1)
	p.mu.Lock()
	defer p.mu.Unlock()
	s.dead = s.dead || !errors.Is(err, os.ErrDeadlineExceeded)
	if slices.Contains(h.idle, s) {
		p.closeIdle(h, s)
	}
}

// closeIdle ends an idle session.
func (p *Pool) closeIdle(h *relayConns, s *Session) {
	h.idle = slices.DeleteFunc(h.idle, func(other *Session) bool { return other == s })
	p.closeLater(h, s)
}

// closeLater ends a session that nobody has, in the background: a relay may be slow to
// say goodbye. Until it has, the connection counts.
func (p *Pool) closeLater(h *relayConns, s *Session) {
	h.closing, p.closing = h.closing+1, p.closing+1
	go func() {
		if s.idleEnded != nil {
			_ = s.tcp.SetReadDeadline(time.Unix(1, 0))
			<-s.idleEnded
		}
		s.quit()
		p.mu.Lock()
		defer p.mu.Unlock()
		h.closing, p.closing = h.closing-1, p.closing-1
		if p.closing == 0 {
			p.allClosed.Broadcast()
		}
		h.open--
		p.notifyNext(s.relay.name())
	}()
}

// Close ends what is idle, and from now on whatever is given back. It returns
// when the relays have said goodbye, quitTimeout at the latest.
func (p *Pool) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, h := range p.relays {
		for len(h.idle) > 0 {
			p.closeIdle(h, h.idle[0])
		}
	}
	for p.closing > 0 {
		p.allClosed.Wait()
	}
}

// key is made of everything that a connection depends on.
func (p *Pool) key(r Relay) poolKey {
	password, clientKey := r.Password.Reveal(), r.ClientKey.Reveal()
	defer clear(password)
	defer clear(clientKey)
	flags := []byte{0, 0}
	if r.SkipVerify {
		flags[0] = 1
	}
	if r.AllowInsecureAuth {
		flags[1] = 1
	}
	hash := hmac.New(sha256.New, p.salt[:])
	for _, part := range [][]byte{
		[]byte(r.name()), []byte(r.TLSMode), flags, r.CAPEM, r.ClientCert, clientKey,
		[]byte(r.HELO), []byte(r.AuthMethod), []byte(r.Username), password,
	} {
		var size [8]byte
		binary.BigEndian.PutUint64(size[:], uint64(len(part)))
		hash.Write(size[:])
		hash.Write(part)
	}
	return poolKey(hash.Sum(nil))
}
