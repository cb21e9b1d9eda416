package access

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"sync"
	"time"
)

// sessions are who is signed in, in memory: a restart signs everybody out. Of the
// number that a browser's cookie holds only a hash is kept.
type sessions struct {
	idle, max time.Duration

	mu    sync.Mutex
	byKey map[sessionKey]*session // guarded by mu
}

// How many sessions there may be. The one that was not used for the longest time
// gives way.
const (
	maxSessions        = 10_000
	maxSessionsOfAUser = 20
)

// sessionKey is the SHA-256 of a session's number.
type sessionKey [sha256.Size]byte

// session is one browser of one user.
type session struct {
	key    sessionKey
	user   User
	values []string // of the provider's claim; nil for an account
	hash   Hash     // of an account
	began  time.Time

	// over ends with the session, and with it the streams that belong to it.
	over context.Context
	end  context.CancelFunc

	seen  time.Time   // guarded by sessions.mu
	timer *time.Timer // fires when it was idle for too long, or is too old
}

func newSessions(idle, max time.Duration) *sessions {
	return &sessions{idle: idle, max: max, byKey: make(map[sessionKey]*session)}
}

// begin makes a session and returns the number for its cookie, which is new each
// time: a number that was known before the sign-in is of no use after it.
func (s *sessions) begin(made session) (number string) {
	number = randomText()
	made.key = sha256.Sum256([]byte(number))
	made.began = time.Now()
	made.seen = made.began
	made.over, made.end = context.WithCancel(context.Background())
	fresh := &made
	s.mu.Lock()
	defer s.mu.Unlock()
	s.makeRoom(fresh.user.Subject)
	fresh.timer = time.AfterFunc(s.left(fresh), func() { s.expire(fresh) })
	s.byKey[fresh.key] = fresh
	return number
}

// makeRoom ends the least used session where there are too many. It wants mu.
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

// find is the session with this number, or nil. active says that a person did
// something: a page that keeps itself up to date must not keep a session alive.
func (s *sessions) find(number string, active bool) *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := s.byKey[sha256.Sum256([]byte(number))]
	if found == nil {
		return nil
	}
	if s.left(found) <= 0 {
		s.remove(found)
		return nil
	}
	if active {
		found.seen = time.Now()
		found.timer.Reset(s.left(found))
	}
	return found
}

// left is how long a session lasts if nobody does anything. It wants mu.
func (s *sessions) left(of *session) time.Duration {
	now := time.Now()
	return min(of.seen.Add(s.idle).Sub(now), of.began.Add(s.max).Sub(now))
}

func (s *sessions) expire(of *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if left := s.left(of); left > 0 { // was used while the timer fired
		of.timer.Reset(left)
		return
	}
	s.remove(of)
}

// finish ends one session; nil is none.
func (s *sessions) finish(of *session) {
	if of == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(of)
}

// finishKey ends the session with this key, if there is one.
func (s *sessions) finishKey(key sessionKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if found := s.byKey[key]; found != nil {
		s.remove(found)
	}
}

// finishUnless ends all sessions that are not good any more.
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

// remove wants mu.
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
