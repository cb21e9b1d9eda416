package access

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"
)

// Session is a signed-in browser, as a page shows it. Nothing in it helps to take the
// session over.
type Session struct {
	// ID names the session. It is random, and not what the browser's cookie holds.
	ID string
	// User is who signed in. Address is where from; LastAddress is of the last request.
	User        User
	LastAddress string
	// Way is how the user signed in: password or provider.
	Way string
	// Browser is the family of the browser and its system ("Firefox on Linux"), as it says
	// of itself; anybody can send that. It is "" if it is not a known one.
	Browser string
	// Since is when the user signed in, Seen when a person last used the session, and Ends
	// when it ends unless it is used again.
	Since, Seen, Ends time.Time
	// Own says that the visitor is the user, Current that the request came with this session.
	Own, Current bool
}

// ErrNoSession is returned for a session that has ended, or that the visitor may not end.
// The two look the same, so that ids cannot be tried out.
var ErrNoSession = errors.New("this session has already ended")

// Sessions returns the sessions that the visitor may end: their own, and for an
// administrator all. The visitor's own come first, then by name; of one user the one last
// used comes first. Sessions are in memory, so those of other processes are not among them.
func (a *Access) Sessions(v Visit) []Session {
	if v.session == nil {
		return nil
	}
	var list []Session
	s := a.sessions
	s.mu.Lock()
	for _, have := range s.byKey {
		if v.mayEnd(have) && s.left(have) > 0 {
			list = append(list, s.shown(have, v))
		}
	}
	s.mu.Unlock()
	slices.SortFunc(list, func(a, b Session) int {
		switch {
		case a.Own && !b.Own:
			return -1
		case b.Own && !a.Own:
			return 1
		}
		return cmp.Or(cmp.Compare(a.User.Name, b.User.Name), cmp.Compare(a.User.Subject, b.User.Subject), b.Seen.Compare(a.Seen), cmp.Compare(a.ID, b.ID))
	})
	return list
}

// EndSession ends a session that the visitor may end, and records who ended whose. Its
// open pages stop to be updated at once, and its next request is refused. The error is
// ErrNoSession.
func (a *Access) EndSession(ctx context.Context, v Visit, id string) (Session, error) {
	ended := a.endSessions(ctx, v, func(s *session) bool { return s.id == id })
	if len(ended) == 0 {
		return Session{}, ErrNoSession
	}
	return ended[0], nil
}

// EndOtherSessions ends all sessions of the visitor but the current one, and returns them.
func (a *Access) EndOtherSessions(ctx context.Context, v Visit) []Session {
	return a.endSessions(ctx, v, func(s *session) bool { return s != v.session && s.user.Subject == v.session.user.Subject })
}

// endSessions ends the sessions that match and that the visitor may end.
func (a *Access) endSessions(ctx context.Context, v Visit, matches func(*session) bool) []Session {
	if v.session == nil {
		return nil
	}
	var ended []Session
	s := a.sessions
	s.mu.Lock()
	for _, have := range s.byKey {
		if matches(have) && v.mayEnd(have) {
			ended = append(ended, s.shown(have, v))
			s.remove(have)
		}
	}
	s.mu.Unlock()
	for _, e := range ended {
		a.record(ctx, Event{Kind: SignedOut, User: v.User, Way: e.Way, Reason: e.described()})
	}
	return ended
}

// mayEnd is the rule for who sees and ends which sessions.
func (v Visit) mayEnd(s *session) bool {
	return v.User.Role >= Admin || s.user.Subject == v.session.user.Subject
}

// shown describes a session to a visitor. The caller holds mu.
func (s *sessions) shown(of *session, v Visit) Session {
	return Session{
		ID: of.id, User: of.user, LastAddress: of.address, Way: of.way(), Browser: of.browser,
		Since: of.began.UTC(), Seen: of.seen.UTC(), Ends: time.Now().Add(s.left(of)).UTC(),
		Own: of.user.Subject == v.session.user.Subject, Current: of == v.session,
	}
}

// described names a session in the audit: whose, since when, and where it was used last.
func (s Session) described() string {
	text := "session of " + s.User.Recorded() + ", signed in " + s.Since.Format("2006-01-02 15:04:05 UTC") + " from " + s.User.Address
	if s.LastAddress != s.User.Address {
		text += ", last used from " + s.LastAddress
	}
	if s.Browser != "" {
		text += ", " + s.Browser
	}
	return text
}

func (s *session) way() string {
	if s.values != nil {
		return byProvider
	}
	return byPassword
}

// The marks of browsers and systems in User-Agent. Each browser claims to be those that
// follow it in the list, so the first mark that is found counts.
var (
	browserMarks = [][2]string{{"Edg", "Edge"}, {"OPR/", "Opera"}, {"SamsungBrowser/", "Samsung Internet"}, {"Firefox/", "Firefox"}, {"FxiOS/", "Firefox"},
		{"CriOS/", "Chrome"}, {"Chrome/", "Chrome"}, {"Safari/", "Safari"}, {"curl/", "curl"}, {"Go-http-client/", "a Go program"}, {"python", "a Python program"}}
	systemMarks = [][2]string{{"Android", "Android"}, {"iPhone", "iOS"}, {"iPad", "iPadOS"}, {"Windows", "Windows"}, {"CrOS", "ChromeOS"},
		{"Macintosh", "macOS"}, {"FreeBSD", "FreeBSD"}, {"OpenBSD", "OpenBSD"}, {"Linux", "Linux"}}
)

// browserFamily is the browser and its system, without versions, "" for an unknown one. It
// is made of words of our own: User-Agent may have any text.
func browserFamily(agent string) string {
	family := marked(browserMarks, agent)
	if system := marked(systemMarks, agent); family != "" && system != "" {
		return family + " on " + system
	}
	return family
}

func marked(marks [][2]string, agent string) string {
	for _, m := range marks {
		if strings.Contains(agent, m[0]) {
			return m[1]
		}
	}
	return ""
}
