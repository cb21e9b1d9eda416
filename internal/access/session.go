package access

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"sync"
	"time"
)

// sessions are the signed-in users, in memory: a restart signs everyone out. Of the
// number in a browser's cookie only a hash is kept.
type sessions struct {
	idle, max time.Duration

	mu    sync.Mutex
	byKey map[sessionKey]*session // guarded by mu
}

// Limits of the number of sessions. Beyond them the session that was not used for the
// longest time ends.
const (
	maxSessions        = 10_000
	maxSessionsOfAUser = 20
)

// sessionKey is the SHA-256 of a session's number.
type sessionKey [sha256.Size]byte

// session is one browser of one user.
type session struct {
	key    sessionKey
	id     string   // its name on pages: random, and of no use in a cookie
	user   User     // with the address of the sign-in
	values []string // of the provider's claim; nil for an account
	hash   Hash     // of the account's password
	began  time.Time

	// over is cancelled when the session ends, and ends its streams.
	over context.Context
	end  context.CancelFunc

	seen    time.Time   // guarded by sessions.mu
	address string      // of the last use; guarded by sessions.mu
	browser string      // of the last use; guarded by sessions.mu
	timer   *time.Timer // fires when the session is idle for too long, or too old
}

func newSessions(idle, max time.Duration) *sessions {
	return &sessions{idle: idle, max: max, byKey: make(map[sessionKey]*session)}
}

// begin makes a session and returns the number for its cookie. The number is always
// new: one that was known before the sign-in is useless after it (session fixation).
func (s *sessions) begin(made session) (number string) {
	number = randomText()
	made.key = sha256.Sum256([]byte(number))
	made.id = rand.Text()
	made.began = time.Now()
	made.seen, made.address = made.began, made.user.Address
	made.over, made.end = context.WithCancel(context.Background())
	fresh := &made
	s.mu.Lock()
	defer s.mu.Unlock()
	s.makeRoom(fresh.user.Subject)
	fresh.timer = time.AfterFunc(s.left(fresh), func() { s.expire(fresh) })
	s.byKey[fresh.key] = fresh
	return number
}

// makeRoom ends the least recently used session where there are too many. The caller holds mu.
func (s *sessions) makeRoom(subject string) {
	var oldest, oldestOfUser *session
	ofUser := 0
	for _, have := range s.byKey {
		if oldest == nil || have.seen.Before(oldest.seen) {
			oldest = have
		}
		if have.user.Subject == subject {
			if ofUser++; oldestOfUser == nil || have.seen.Before(oldestOfUser.seen) {
				oldestOfUser = have
			}
		}
	}
	if ofUser >= maxSessionsOfAUser {
		s.remove(oldestOfUser)
	} else if len(s.byKey) >= maxSessions {
		s.remove(oldest)
	}
}

// find returns the session with this number, or nil.
func (s *sessions) find(number string) *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := s.byKey[sha256.Sum256([]byte(number))]
	if found != nil && s.left(found) <= 0 {
		s.remove(found)
		return nil
	}
	return found
}

// use notes that a person used the session now, and from where. unuse takes the time
// back, unless the session was used again since.
func (s *sessions) use(of *session, address, browser string) (unuse func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before, now := of.seen, time.Now()
	of.seen, of.address, of.browser = now, address, browser
	of.timer.Reset(s.left(of))
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if of.seen.Equal(now) {
			of.seen = before
			of.timer.Reset(s.left(of))
		}
	}
}

// left is how long the session lasts without further use. The caller holds mu.
func (s *sessions) left(of *session) time.Duration {
	now := time.Now()
	return min(of.seen.Add(s.idle).Sub(now), of.began.Add(s.max).Sub(now))
}

func (s *sessions) expire(of *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if left := s.left(of); left > 0 { // the session was used while the timer fired
		of.timer.Reset(left)
		return
	}
	s.remove(of)
}

// finish ends a session; nil is allowed.
func (s *sessions) finish(of *session) {
	if of == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(of)
}

// end ends the session with this number, if there is one.
func (s *sessions) end(number string) { s.finishKey(sha256.Sum256([]byte(number))) }

// finishKey ends the session with this key, if there is one.
func (s *sessions) finishKey(key sessionKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if found := s.byKey[key]; found != nil {
		s.remove(found)
	}
}

// finishUnless ends all sessions that are not good, and returns their number.
func (s *sessions) finishUnless(good func(*session) bool) (ended int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, have := range s.byKey {
		if !good(have) {
			s.remove(have)
			ended++
		}
	}
	return ended
}

// remove ends a session. The caller holds mu.
func (s *sessions) remove(of *session) {
	delete(s.byKey, of.key)
	of.timer.Stop()
	of.end()
}

// randomText is 256 random bits for a cookie or an address.
func randomText() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	return base64.RawURLEncoding.EncodeToString(b[:])
}
