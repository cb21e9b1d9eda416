package delivery

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
	long := terms{mails: 100, idle: time.Hour, age: time.Hour}
	for name, change := range map[string]func(*terms){
		"after so many mails": func(on *terms) { on.mails = 1 },
		"after some idleness": func(on *terms) { on.idle = 50 * time.Millisecond },
		"of age":              func(on *terms) { on.age = 50 * time.Millisecond },
		"of age at once":      func(on *terms) { on.age = 0 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := lab.StartRelay(t, lab.RelayScript{})
			p := newPool()
			on := long
			change(&on)
			r := clientOf(server)
			for range 2 {
				s, err := p.turn(lab.Patient(t), r, on, false)
				if err != nil || s != nil {
					t.Fatalf("%v, %v", s, err)
				}
				s = mustDial(t, r)
				s.key = p.key(r)
				if _, f := s.send(lab.Patient(t), someone, someMail, claimed).verdicts(); f != nil {
					t.Fatal(f)
				}
				p.put(s, on)
				server.Idle(t)
			}
			if heard := server.Heard(); heard[len(heard)-1] != "QUIT" {
				t.Errorf("without a word: %v", heard)
			}
			lab.Eventually(t, "the pool to forget the relay", func() bool {
				p.mu.Lock()
				defer p.mu.Unlock()
				return len(p.relays) == 0 && p.leaving == 0
			})
		})
	}
}

// The limit is the relay's, whoever logs in.
func TestTheLimitHoldsForAllCredentials(t *testing.T) {
	t.Parallel()
	server := lab.StartRelay(t, lab.RelayScript{})
	p := newPool()
	on := terms{connections: 2, mails: 100, idle: time.Hour, age: time.Hour}
	var all sync.WaitGroup
	for n := range 30 {
		r := clientOf(server)
		r.username = fmt.Sprint(n % 5)
		r.host = []string{"127.0.0.1", "[127.0.0.1]"}[n%2]
		all.Go(func() {
			s, err := p.turn(lab.Patient(t), r, on, n%7 == 0)
			if err != nil {
				t.Error(err)
				return
			}
			if s == nil {
				var f *verdict.Failure
				if s, f = dial(lab.Patient(t), r); f != nil {
					t.Error(f)
					p.leave(r)
					return
				}
				s.key = p.key(r)
			}
			if _, f := s.send(lab.Patient(t), someone, someMail, claimed).verdicts(); f != nil {
				t.Error(f)
			}
			p.put(s, on)
		})
	}
	all.Wait()
	if _, most := server.Dials(); most > 2 || len(server.Taken()) != 30 {
		t.Errorf("%d connections at a time for %d mails", most, len(server.Taken()))
	}
	p.close()
	server.Idle(t)
}

// Other processes may come and want their part.
func TestALoweredLimitEndsWhatIsIdle(t *testing.T) {
	t.Parallel()
	server := lab.StartRelay(t, lab.RelayScript{})
	p, r := newPool(), clientOf(server)
	on := terms{connections: 3, mails: 100, idle: time.Hour, age: time.Hour}
	var sessions []*session
	for range 3 {
		if s, err := p.turn(lab.Patient(t), r, on, false); err != nil || s != nil {
			t.Fatalf("%v, %v", s, err)
		}
		s := mustDial(t, r)
		s.key = p.key(r)
		sessions = append(sessions, s)
	}
	for _, s := range sessions {
		p.put(s, on)
	}
	on.connections = 1
	s, err := p.turn(lab.Patient(t), r, on, false)
	if err != nil || s != sessions[2] {
		t.Fatalf("%v, %v: want the connection used last", s, err)
	}
	lab.Eventually(t, "the others to be ended", func() bool {
		server.Mu.Lock()
		defer server.Mu.Unlock()
		return server.Live == 1
	})
	p.put(s, on)
	p.close()
	server.Idle(t)
}

// Who waits for a connection is served in the order of arrival, and can go away.
func TestWaitingForAConnection(t *testing.T) {
	t.Parallel()
	p := newPool()
	r := relay{host: "127.0.0.1", port: 25}
	on := terms{connections: 1}
	if _, err := p.turn(t.Context(), r, on, false); err != nil {
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
			if _, err := p.turn(ctx, r, on, false); err == nil {
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
		p.leave(r)
		if got := <-order; got != want {
			t.Errorf("the turn of %d came, want that of %d", got, want)
		}
	}
	p.leave(r)
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
	r.authMethod, r.username, r.password, r.allowInsecureAuth = AuthPlain, "certs", secrets.New([]byte(password)), true
	p := newPool()
	if s, err := p.turn(lab.Patient(t), r, terms{}, false); err != nil || s != nil {
		t.Fatalf("%v, %v", s, err)
	}
	s := mustDial(t, r)
	p.adopt(s)
	p.put(s, terms{mails: 10, idle: time.Hour, age: time.Hour})
	if p.lying() != 1 {
		t.Fatal("the connection was not kept")
	}
	if text := fmt.Sprintf("%+v %#v %v", s.relay, s.relay, s.key); strings.Contains(text, password) || !s.relay.password.IsZero() {
		t.Errorf("kept: %s", text)
	}
	p.close()
}
