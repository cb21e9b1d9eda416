//go:build unix

package main

import (
	"encoding/base64"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/textproto"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/certpost/certpost/bench/harness"
	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/events"
)

// The program itself takes minutes (task bench:soak). These tests check that it would find
// what it is to find.
func TestInvariant(t *testing.T) {
	t.Parallel()
	const to = "a@example.com"
	one := []accepted{{}}
	sent, again, dead, given := broker.Entry{State: broker.StateSent}, broker.Entry{State: broker.StateSent, PossibleDuplicates: 1}, broker.Entry{State: broker.StateDead}, broker.Entry{State: broker.StateDiscarded}
	letter := []broker.DeadLetter{{}}
	for name, c := range map[string]struct {
		entry     *broker.Entry
		letters   []broker.DeadLetter
		discarded bool
		mails     []accepted
		never     bool
		want      string // part of the one fault
	}{
		"sent":                             {entry: &sent, mails: one},
		"sent, twice, marked":              {entry: &again, mails: []accepted{{}, {number: 1, marked: true}}},
		"sent, twice, without a reason":    {entry: &sent, mails: []accepted{{}, {number: 1, marked: true}}, want: "0 unknown outcomes"},
		"sent, twice, not marked":          {entry: &again, mails: []accepted{{}, {}}, want: "is not marked"},
		"sent without a mail":              {entry: &sent, want: "LOST"},
		"sent, with a letter":              {entry: &sent, letters: letter, mails: one, want: "LOST"},
		"sent, never to be sent":           {entry: &sent, mails: one, never: true, want: "was sent"},
		"dead":                             {entry: &dead, letters: letter},
		"dead without a letter":            {entry: &dead, want: "LOST"},
		"dead with two letters":            {entry: &dead, letters: append(letter, letter...), want: "LOST"},
		"discarded":                        {entry: &given, discarded: true},
		"discarded, not in the audit":      {entry: &given, want: "LOST"},
		"discarded and on the list":        {entry: &given, discarded: true, letters: letter, want: "LOST"},
		"waiting":                          {entry: &broker.Entry{State: broker.StateWaiting}, want: "LOST"},
		"a letter of the event":            {letters: letter},
		"a discarded letter of the event":  {discarded: true},
		"without a trace":                  {want: "LOST"},
		"without a trace, though accepted": {mails: one, want: "LOST"},
	} {
		a := &account{entries: map[string]broker.Entry{}, letters: map[string][]broker.DeadLetter{}, discarded: map[string]bool{}, mails: map[string][]accepted{}}
		key := pair("e1", "ops")
		if c.entry != nil {
			a.entries[key] = *c.entry
		}
		a.letters[key], a.discarded[key], a.mails[pair(key, to)] = c.letters, c.discarded, c.mails
		a.delivery(&published{id: "e1", never: c.never}, target{to: []string{to}}, "ops")
		if len(a.broken) > 1 || strings.Join(a.broken, "") == "" != (c.want == "") || !strings.Contains(strings.Join(a.broken, ""), c.want) {
			t.Errorf("%s: %q, want %q", name, a.broken, c.want)
		}
	}
}

func TestUnreadableEventNeedsALetter(t *testing.T) {
	t.Parallel()
	p := &published{id: "e1", stored: 7}
	for key, want := range map[string]int{"e1 ": 0, "event-7 ": 0, "event-8 ": 1} {
		a := &account{letters: map[string][]broker.DeadLetter{key: {{}}}}
		if a.unreadable(p); len(a.broken) != want {
			t.Errorf("letter of %q: %q", key, a.broken)
		}
	}
}

func TestSecretsAreFound(t *testing.T) {
	t.Parallel()
	const secret = "KA7WQ3MXZ5LJ2RTB6YCNOVE4"
	for name, text := range map[string]string{
		"plain": "password " + secret + ".", "alone in base64": base64.StdEncoding.EncodeToString([]byte(secret)),
		"AUTH PLAIN": base64.StdEncoding.EncodeToString([]byte("\x00certpost\x00" + secret)), "XOAUTH2": base64.StdEncoding.EncodeToString([]byte("user=certpost\x01auth=Bearer " + secret + "\x01\x01")),
		"a panic": "panic: boom", "": "nothing",
	} {
		w := &world{secrets: []string{secret}, certposts: []*harness.Process{{Name: "certpost1", Log: filepath.Join(t.TempDir(), "log")}}}
		if err := os.WriteFile(w.certposts[0].Log, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if found := w.logs(); len(found) > 0 != (name != "") {
			t.Errorf("%s: %q", name, found)
		}
		a := &account{}
		if a.leaks(w, "the ledger", broker.Entry{Event: text}); len(a.broken) > 0 != (name == "plain") {
			t.Errorf("%s in the ledger: %q", name, a.broken)
		}
	}
}

// The events are those that they are to be, in every form.
func TestEvents(t *testing.T) {
	t.Parallel()
	ca, err := newAuthority("CA")
	if err != nil {
		t.Fatal(err)
	}
	s := &source{keyless: []string{"a", "b", "c"}, keyed: []string{"k", "l"}, random: rand.New(rand.NewPCG(1, 1)), all: map[string]*published{}, outside: "/outside"}
	if s.certificates, err = newCertificates(ca, t.TempDir()); err != nil {
		t.Fatal(err)
	}
	forms := map[string]int{}
	for i := range 300 {
		p, err := s.next(fmt.Sprintf("e%d", i))
		if err != nil {
			t.Fatal(err)
		}
		ev, err := events.Decode(p.message.Header, p.message.Data)
		unreadable := len(p.targets) == 0
		if (err != nil) != unreadable {
			t.Errorf("%s: %v", p.kind, err)
		}
		if err == nil && (ev.ID != p.id || !slices.Equal(ev.Targets, p.targets)) {
			t.Errorf("%s: %s for %v, want %s for %v", p.kind, ev.ID, ev.Targets, p.id, p.targets)
		}
		forms[p.message.Header.Get("Content-Type")]++
		if again, _ := s.next(p.id); again != p {
			t.Error("the same id is another event")
		}
	}
	if len(forms) != 3 || len(s.list()) != 300 {
		t.Errorf("%v, %d events", forms, len(s.list()))
	}
}

// A relay has its traits, obeys its mood, and keeps a mail before it replies.
func TestRelay(t *testing.T) {
	t.Parallel()
	r, err := newRelay(traits{Name: "r", Security: "plaintext", Bare: true, Split: true, Session: 1}, rand.New(rand.NewPCG(1, 1)), "127.0.0.1:0", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	r.address = r.listener.Addr().String()
	dial := func() *textproto.Conn {
		t.Helper()
		c, err := textproto.Dial("tcp", r.address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	said := func(c *textproto.Conn, command, want string) {
		t.Helper()
		if command != "" {
			if err := c.PrintfLine("%s", command); err != nil {
				t.Fatal(err)
			}
		}
		if line, err := c.ReadLine(); line != want || err != nil && want != "" {
			t.Errorf("%s: %q, %v, want %q", command, line, err, want)
		}
	}
	send := func(c *textproto.Conn, reply string) {
		said(c, "", "220")
		said(c, "MAIL FROM:<a@example.com>", "250")
		said(c, "RCPT TO:<b@example.com>", "250")
		said(c, "DATA", "354")
		said(c, "X-Certpost-Event-Id: e1\r\nX-Certpost-Target: t1\r\nX-Certpost-Possible-Duplicate: yes\r\n\r\n.", reply)
	}
	c := dial()
	send(c, "250")
	said(c, "MAIL FROM:<a@example.com>", "452") // the session is spent
	if got := r.taken(); len(got) != 1 || got[0].event != "e1" || got[0].target != "t1" || !got[0].marked || !slices.Equal(got[0].recipients, []string{"b@example.com"}) {
		t.Errorf("%+v", got)
	}
	for _, f := range []struct {
		act  act
		want string
		kept int
	}{
		{act{moment: "RCPT", chance: 1, wait: time.Nanosecond}, "250", 2}, // late, and accepted
		{act{moment: "dot", chance: 1, cut: true}, "", 3},                 // accepted, and the reply is lost
		{act{moment: "dot", chance: 1, reply: "452 4.3.1 full"}, "452", 3},
	} {
		if err := r.feel(mood{acts: []act{f.act}}); err != nil {
			t.Fatal(err)
		}
		send(dial(), f.want)
		if got := r.taken(); len(got) != f.kept || len(got[f.kept-1].recipients) != 1 {
			t.Errorf("%+v: %d mails kept, want %d, each with its recipient: %+v", f.act, len(got), f.kept, got)
		}
	}
	if err := r.feel(mood{away: true}); err != nil {
		t.Fatal(err)
	}
	if conn, err := net.Dial("tcp", r.address); err == nil {
		if n, err := conn.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("a relay that is away answers: %d, %v", n, err)
		}
	}
	if err := r.feel(friendly); err != nil {
		t.Fatal(err)
	}
	send(dial(), "250")
}
