package smtp

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/verdict"
)

func TestConnectionsAreGivenUp(t *testing.T) {
	t.Parallel()
	long := Terms{Mails: 100, Idle: time.Hour, Age: time.Hour}
	for name, change := range map[string]func(*Terms){
		"after so many mails": func(on *Terms) { on.Mails = 1 },
		"after some idleness": func(on *Terms) { on.Idle = 50 * time.Millisecond },
		"of age":              func(on *Terms) { on.Age = 50 * time.Millisecond },
		"of age at once":      func(on *Terms) { on.Age = 0 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := lab.StartRelay(t, lab.RelayScript{})
			p := NewPool()
			on := long
			change(&on)
			r := clientOf(server)
			for range 2 {
				s, err := p.Acquire(lab.Patient(t), r, on, false)
				if err != nil || s != nil {
					t.Fatalf("%v, %v", s, err)
				}
				s = mustDial(t, r)
				s.key = p.key(r)
				if _, f := s.Send(lab.Patient(t), someone, someMail, claimed).Verdicts(); f != nil {
					t.Fatal(f)
				}
				p.Put(s, on)
				server.Idle(t)
			}
			if heard := server.Heard(); heard[len(heard)-1] != "QUIT" {
				t.Errorf("closed without QUIT: %v", heard)
			}
			lab.Eventually(t, "the pool to forget the relay", func() bool {
				p.mu.Lock()
				defer p.mu.Unlock()
				return len(p.relays) == 0 && p.closing == 0
			})
		})
	}
}

// The limit is per relay, for all credentials together.
func TestTheLimitHoldsForAllCredentials(t *testing.T) {
	t.Parallel()
	server := lab.StartRelay(t, lab.RelayScript{})
	p := NewPool()
	on := Terms{Connections: 2, Mails: 100, Idle: time.Hour, Age: time.Hour}
	var all sync.WaitGroup
	for n := range 30 {
		r := clientOf(server)
		r.Username = fmt.Sprint(n % 5)
		r.Host = []string{"127.0.0.1", "[127.0.0.1]"}[n%2]
		all.Go(func() {
			s, err := p.Acquire(lab.Patient(t), r, on, n%7 == 0)
			if err != nil {
				t.Error(err)
				return
			}
			if s == nil {
				var f *verdict.Failure
				if s, f = Dial(lab.Patient(t), r); f != nil {
					t.Error(f)
					p.Release(r)
					return
				}
				s.key = p.key(r)
			}
			if _, f := s.Send(lab.Patient(t), someone, someMail, claimed).Verdicts(); f != nil {
				t.Error(f)
			}
			p.Put(s, on)
		})
	}
	all.Wait()
	if _, most := server.Dials(); most > 2 || len(server.Taken()) != 30 {
		t.Errorf("%d connections at a time for %d mails", most, len(server.Taken()))
	}
	p.Close()
	server.Idle(t)
}

// The limit falls when other processes start and get their share of it.
func TestALoweredLimitEndsWhatIsIdle(t *testing.T) {
	t.Parallel()
	server := lab.StartRelay(t, lab.RelayScript{})
	p, r := NewPool(), clientOf(server)
	on := Terms{Connections: 3, Mails: 100, Idle: time.Hour, Age: time.Hour}
	var sessions []*Session
	for range 3 {
		if s, err := p.Acquire(lab.Patient(t), r, on, false); err != nil || s != nil {
			t.Fatalf("%v, %v", s, err)
		}
		s := mustDial(t, r)
		s.key = p.key(r)
		sessions = append(sessions, s)
	}
	for _, s := range sessions {
		p.Put(s, on)
	}
	on.Connections = 1
	s, err := p.Acquire(lab.Patient(t), r, on, false)
	if err != nil || s != sessions[2] {
		t.Fatalf("%v, %v: want the connection used last", s, err)
	}
	lab.Eventually(t, "the others to be ended", func() bool {
		server.Mu.Lock()
		defer server.Mu.Unlock()
		return server.Live == 1
	})
	p.Put(s, on)
	p.Close()
	server.Idle(t)
}

// Callers that wait for a connection are served in order of arrival; one may cancel.
func TestWaitingForAConnection(t *testing.T) {
	t.Parallel()
	p := NewPool()
	r := Relay{Host: "127.0.0.1", Port: 25}
	on := Terms{Connections: 1}
	if _, err := p.Acquire(t.Context(), r, on, false); err != nil {
		t.Fatal(err)
	}
	waiting := func(n int) {
		lab.Eventually(t, fmt.Sprintf("%d to wait", n), func() bool {
			p.mu.Lock()
			defer p.mu.Unlock()
			return len(p.relays[r.name()].waiting) == n
		})
	}
	order := make(chan int, 4)
	given, giveUp := context.WithCancel(t.Context())
	for n := range 4 {
		ctx := t.Context()
		if n == 1 {
			ctx = given
		}
		go func() {
			if _, err := p.Acquire(ctx, r, on, false); err == nil {
				order <- n
			} else if !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		}()
		waiting(n + 1)
	}
	giveUp()
	waiting(3)
	for _, want := range []int{0, 2, 3} {
		p.Release(r)
		if got := <-order; got != want {
			t.Errorf("caller %d was served, want %d", got, want)
		}
	}
	p.Release(r)
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.relays) != 0 {
		t.Errorf("left over: %+v", p.relays)
	}
}

func TestThePoolShowsNoPassword(t *testing.T) {
	t.Parallel()
	const password = "correct-horse-battery"
	server := lab.StartRelay(t, lab.RelayScript{Users: map[string]string{"certs": password}})
	r := clientOf(server)
	r.AuthMethod, r.Username, r.Password, r.AllowInsecureAuth = AuthPlain, "certs", secrets.New([]byte(password)), true
	p := NewPool()
	if s, err := p.Acquire(lab.Patient(t), r, Terms{}, false); err != nil || s != nil {
		t.Fatalf("%v, %v", s, err)
	}
	s := mustDial(t, r)
	p.Adopt(s)
	p.Put(s, Terms{Mails: 10, Idle: time.Hour, Age: time.Hour})
	if p.Idle() != 1 {
		t.Fatal("the connection was not kept")
	}
	if text := fmt.Sprintf("%+v %#v %v", s.relay, s.relay, s.key); strings.Contains(text, password) || !s.relay.Password.IsZero() {
		t.Errorf("kept: %s", text)
	}
	p.Close()
}
