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
	"strings"
	"sync"
	"time"

	"github.com/certpost/certpost/internal/secrets"
)

// Terms are the limits for the connections to one relay.
type Terms struct {
	Connections int           // open at the same time; 0: no limit
	Mails       int           // per connection
	Idle        time.Duration // a connection is kept this long for the next mail
	Age         time.Duration // after which a connection is closed, so that a changed address of the relay is noticed
}

// poolKey is equal for connections that are interchangeable.
type poolKey [sha256.Size]byte

// Pool keeps idle connections for later mails. A mail gets only a connection that was
// made with exactly its own settings: address, TLS, certificates, credentials. Nothing
// is sent to find out whether a connection is still open; the pool reads from every
// idle connection that no mail waits for, and drops it as soon as the relay closes it.
type Pool struct {
	salt [sha256.Size]byte // so that a key reveals nothing about a password

	mu        sync.Mutex
	relays    map[string]*relayConns // by relay.name()
	closing   int                    // connections that are being closed (QUIT)
	allClosed *sync.Cond             // signals closing == 0
	closed    bool
}

// relayConns are the connections to one relay.
type relayConns struct {
	open    int             // connections and reserved slots, including those being closed
	closing int             // those being closed
	idle    []*Session      // most recently used last
	waiting []chan struct{} // callers of Acquire that wait, in the order in which they are served
}

func NewPool() *Pool {
	p := &Pool{relays: make(map[string]*relayConns)}
	p.allClosed = sync.NewCond(&p.mu)
	_, _ = rand.Read(p.salt[:]) // never fails
	return p
}

// Acquire waits until there is an idle connection to the relay, or a free slot for a
// new one: then the session is nil, and the caller dials. Either way the caller returns
// the slot with Put or Release. With fresh it never returns an idle connection. The error
// is the context's.
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
			p.watchAll(h)
			p.notifyNext(r.name()) // there may be slots for more than one
		}()
	}
	for {
		if t.Connections == 0 || h.waiting[0] == mine {
			for t.Connections > 0 && h.open-h.closing > t.Connections && len(h.idle) > 0 {
				p.closeIdle(h, h.idle[0]) // the limit may be lower than before
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
				p.closeIdle(h, h.idle[0]) // made with other settings
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

// takeIdle removes and returns the most recently used session with the key, nil if
// there is none or with fresh.
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

// stopWatch ends watchIdle for a session just taken, and reports whether the session is
// usable; if not, it is closed.
func (p *Pool) stopWatch(s *Session) bool {
	if s.idleEnded == nil {
		return true
	}
	p.mu.Unlock()
	defer p.mu.Lock()
	s.endWatch()
	if s.dead {
		s.abort()
	}
	return !s.dead
}

// endWatch makes watchIdle return, and waits for that.
func (s *Session) endWatch() {
	_ = s.tcp.SetReadDeadline(time.Unix(1, 0))
	<-s.idleEnded
	s.idleEnded = nil
}

// Adopt makes a new session reusable by other mails, and drops the secrets that it was
// made with.
func (p *Pool) Adopt(s *Session) {
	s.key = p.key(s.relay)
	s.relay.Password, s.relay.ClientKey = secrets.Value{}, secrets.Value{}
}

// Idle returns the number of idle sessions.
func (p *Pool) Idle() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, h := range p.relays {
		n += len(h.idle)
	}
	return n
}

// Release returns a slot without a connection.
func (p *Pool) Release(r Relay) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.relays[r.name()].open--
	p.notifyNext(r.name())
}

// notifyNext is called after every change that may let the next caller proceed or leave
// the relay without connections: it wakes that caller, or removes the relay's entry.
func (p *Pool) notifyNext(address string) {
	h := p.relays[address]
	if len(h.waiting) > 0 {
		select {
		case h.waiting[0] <- struct{}{}: // it checks again itself
		default: // already notified
		}
	} else if h.open == 0 {
		delete(p.relays, address)
	}
}

// Put returns a session after a mail. The pool keeps it if it is still usable within t.
func (p *Pool) Put(s *Session, t Terms) {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.relays[s.relay.name()]
	left := min(t.Idle, t.Age-time.Since(s.created))
	if s.dead || s.spent || p.closed || s.mails >= t.Mails || left <= 0 || t.Connections > 0 && h.open > t.Connections {
		p.closeLater(h, s)
		return
	}
	s.idleUntil = time.Now().Add(left)
	h.idle = append(h.idle, s)
	p.watchAll(h)
	p.notifyNext(s.relay.name())
}

// watchAll watches the idle sessions of a relay, unless mails wait for connections to it: the
// first of them takes an idle one at once.
func (p *Pool) watchAll(h *relayConns) {
	if len(h.waiting) > 0 {
		return
	}
	for _, s := range h.idle {
		if s.idleEnded == nil {
			s.idleEnded = make(chan struct{})
			s.wire.expect(1)
			_ = s.tcp.SetDeadline(s.idleUntil)
			go p.watchIdle(h, s, s.idleEnded)
		}
	}
}

// watchIdle reads from an idle session and closes it when the relay sends anything or
// closes the connection, or when its time is over, unless Acquire has taken it before.
func (p *Pool) watchIdle(h *relayConns, s *Session, ended chan struct{}) {
	defer close(ended)
	_, err := s.in.Peek(1)
	p.mu.Lock()
	defer p.mu.Unlock()
	s.dead = s.dead || !errors.Is(err, os.ErrDeadlineExceeded)
	if slices.Contains(h.idle, s) {
		p.closeIdle(h, s)
	}
}

// closeIdle removes an idle session from the pool and closes it.
func (p *Pool) closeIdle(h *relayConns, s *Session) {
	h.idle = slices.DeleteFunc(h.idle, func(other *Session) bool { return other == s })
	p.closeLater(h, s)
}

// closeLater closes a session that is not in use, in the background, because a relay may
// be slow to answer QUIT. Until it is closed, the connection counts as open.
func (p *Pool) closeLater(h *relayConns, s *Session) {
	h.closing, p.closing = h.closing+1, p.closing+1
	go func() {
		if s.idleEnded != nil {
			s.endWatch()
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

// Close closes the idle sessions, and from now on every session that is put back. It
// returns when they are closed, after quitTimeout at the latest.
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

// key hashes everything that a connection depends on.
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
	var fingerprints []byte
	for _, f := range r.Fingerprints {
		fingerprints = append(fingerprints, f[:]...)
	}
	hash := hmac.New(sha256.New, p.salt[:])
	for _, part := range [][]byte{
		[]byte(r.name()), []byte(r.TLSMode), flags, r.CAPEM, r.ClientCert, clientKey,
		[]byte(r.HELO), []byte(r.AuthMethod), []byte(r.Username), password, []byte(strings.ToLower(r.serverName())), fingerprints,
	} {
		var size [8]byte
		binary.BigEndian.PutUint64(size[:], uint64(len(part)))
		hash.Write(size[:])
		hash.Write(part)
	}
	return poolKey(hash.Sum(nil))
}
