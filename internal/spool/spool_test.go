package spool

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/lab"
)

var someLimits = Limits{Events: 100, Bytes: 1 << 20}

var chain = sync.OnceValue(func() string { return lab.SelfSigned("www.example.com") })

func entry(id, source string) *Entry {
	return &Entry{Added: time.Now(), Event: &events.Event{ID: id, Source: source, Certificate: events.Certificate{PEM: chain()}, Subject: events.SourceSubject("web1")}}
}

func add(t *testing.T, s *Spool, e *Entry) {
	t.Helper()
	if known, err := s.Add(t.Context(), e); err != nil || known {
		t.Fatal(known, err)
	}
}

// receiver is the other side: what was sent to it, in order.
type receiver struct {
	mu   sync.Mutex
	ids  []string
	fail func(id string) error
	away bool
}

func (r *receiver) send(_ context.Context, e *Entry) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail != nil {
		if err := r.fail(e.Event.ID); err != nil {
			return err
		}
	}
	r.ids = append(r.ids, e.Event.ID)
	return nil
}

func (r *receiver) flush(t *testing.T, s *Spool) []Failure {
	t.Helper()
	failures, err := s.Flush(t.Context(), r.send, func() bool { return r.away })
	if err != nil {
		t.Fatal(err)
	}
	return failures
}

func (r *receiver) got(t *testing.T, ids ...string) {
	t.Helper()
	if !slices.Equal(r.ids, ids) {
		t.Errorf("sent %q, want %q", r.ids, ids)
	}
}

func waiting(t *testing.T, s *Spool) int {
	t.Helper()
	state, err := s.State()
	if err != nil {
		t.Fatal(err)
	}
	return state.Waiting
}

// What fails stays, with everything behind it of the same source. The rest goes out in order, and
// what can never be published is set aside with its reason.
func TestOrderIsKept(t *testing.T) {
	t.Parallel()
	s := New(filepath.Join(t.TempDir(), "spool"), someLimits)
	if state, err := s.State(); err != nil || state.Waiting != 0 {
		t.Fatalf("before its first use: %+v, %v", state, err)
	}
	for _, e := range []*Entry{entry("a1", "a"), entry("b1", "b"), entry("a2", "a"), entry("bad", "c"), entry("b2", "b"), entry("c2", "c")} {
		add(t, s, e)
	}
	r := &receiver{fail: func(id string) error {
		switch id {
		case "a1":
			return errors.New("not now")
		case "bad":
			return fmt.Errorf("publish: %w", &Refusal{errors.New("too large")})
		}
		return nil
	}}
	failures := r.flush(t, s)
	r.got(t, "b1", "b2", "c2")
	if len(failures) != 3 || failures[0].Entry.Event.ID != "a1" || failures[1].Entry.Event.ID != "a2" || !errors.Is(failures[1].Err, errBehind) || failures[2].Entry.Event.ID != "bad" {
		t.Errorf("%+v", failures)
	}
	state, err := s.State()
	if err != nil || state.Waiting != 2 || len(state.Refused) != 1 || state.Refused[0].Event != "bad" || state.Refused[0].Reason != "too large" {
		t.Errorf("%+v, %v", state, err)
	}
	r.fail = nil
	r.flush(t, s)
	r.got(t, "b1", "b2", "c2", "a1", "a2")

	// Once the connection is lost, nothing else is tried.
	for _, id := range []string{"d1", "e1"} {
		add(t, s, entry(id, id))
	}
	r.fail, r.away = func(string) error { return errors.New("gone") }, true
	if failures := r.flush(t, s); len(failures) != 1 || waiting(t, s) != 2 {
		t.Errorf("%+v", failures)
	}
}

// The files are the user's own, hold what was added, and no key: an event with one cannot be read
// back.
func TestFiles(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "spool")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s := New(dir, someLimits)
	e := entry("one", "certbot://web1/x")
	e.StoreKey = &StoreKey{Place: "vault:secret/certs/x#private_key", File: "/etc/letsencrypt/archive/x/privkey3.pem"}
	add(t, s, e)
	for path, mode := range map[string]fs.FileMode{dir: 0o700, filepath.Join(dir, fileName(e.Number)): 0o600, filepath.Join(dir, addLock): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v, want %v", path, info.Mode(), err, mode)
		}
	}
	var got *Entry
	if _, err := s.Flush(t.Context(), func(_ context.Context, e *Entry) error { got = e; return nil }, func() bool { return false }); err != nil {
		t.Fatal(err)
	}
	if got == nil || string(got.Event.Encode()) != string(e.Event.Encode()) || got.Event.Subject != "certificate.issued.web1" || *got.StoreKey != *e.StoreKey || !got.Added.Equal(e.Added) {
		t.Errorf("%+v", got)
	}

	// What somebody has put there is not sent, and does not stop the rest.
	key := string(lab.KeyPEM(t, lab.NewKey(t, "p256")))
	for i, text := range []string{"", "{", `{"version":2}`, `{"version":1,"subject":"certificate.issued","event":{"id":"x","certificate":` + fmt.Sprintf("%q", key) + `}}`,
		`{"version":1,"subject":"other","event":` + string(e.Event.Encode()) + `}`} {
		lab.Write(t, filepath.Join(dir, fileName(uint64(i+1))), []byte(text))
	}
	add(t, s, entry("two", "s"))
	r := &receiver{}
	if failures := r.flush(t, s); len(failures) != 5 {
		t.Errorf("%+v", failures)
	}
	r.got(t, "two")
	state, err := s.State()
	if err != nil || len(state.Refused) != 5 || strings.Contains(fmt.Sprint(state), "PRIVATE KEY") {
		t.Errorf("%+v, %v", state, err)
	}
}

// Fault: the spool is full. Result: it refuses, and drops nothing.
func TestFullSpool(t *testing.T) {
	t.Parallel()
	for name, limits := range map[string]Limits{"2 events (spool.max_events)": {Events: 2, Bytes: 1 << 20}, "(spool.max_size)": {Events: 100, Bytes: 2200}} {
		s := New(t.TempDir(), limits)
		var err error
		kept := 0
		for ; kept < 100 && err == nil; kept++ {
			_, err = s.Add(t.Context(), entry(fmt.Sprint(kept), "s"))
		}
		var full *FullError
		if !errors.As(err, &full) || !strings.Contains(err.Error(), name) || waiting(t, s) != kept-1 {
			t.Errorf("%s: %v after %d", name, err, kept)
		}
		r := &receiver{}
		r.flush(t, s)
		_, again := s.Add(t.Context(), entry("again", "s"))
		if len(r.ids) != kept-1 || again != nil {
			t.Errorf("%s: %q", name, r.ids)
		}
	}
}

// Fault: several publishers at the same time. Result: each event is sent exactly once.
func TestConcurrentPublishers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := &receiver{}
	const publishers, each = 8, 5
	var wg sync.WaitGroup
	for p := range publishers {
		wg.Go(func() {
			s := New(dir, someLimits)
			for i := range each {
				if _, err := s.Add(t.Context(), entry(fmt.Sprintf("%d-%d", p, i), fmt.Sprint(p))); err != nil {
					t.Error(err)
				}
				if failures, err := s.Flush(t.Context(), r.send, func() bool { return false }); err != nil || len(failures) > 0 {
					t.Errorf("%v, %v", failures, err)
				}
			}
		})
	}
	wg.Wait()
	last := map[string]int{}
	for _, id := range r.ids {
		var p, i int
		if _, err := fmt.Sscanf(id, "%d-%d", &p, &i); err != nil || i != last[fmt.Sprint(p)] {
			t.Errorf("%s was sent out of order, or again", id)
		}
		last[fmt.Sprint(p)]++
	}
	if len(r.ids) != publishers*each || waiting(t, New(dir, someLimits)) != 0 {
		t.Errorf("%d were sent", len(r.ids))
	}
}

// killVariable makes this test binary a publisher that is killed.
const killVariable = "SPOOL_TEST_KILL"

// Fault: a client runs its hook again and again while NATS is away, in several processes at a time.
// Result: an event that waits already is not added again.
func TestEqualEvents(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "spool")
	s := New(dir, someLimits)
	first := entry("one", "s")
	first.Event.Time = time.Now().UTC()
	add(t, s, first)
	later := entry("one", "s")
	later.Event.Time = time.Now().UTC().Add(1500 * time.Millisecond)
	if known, err := s.Add(t.Context(), later); err != nil || !known || later.Number != first.Number {
		t.Errorf("%v, %v, number %d, want %d", known, err, later.Number, first.Number)
	}
	// What differs in anything is another event.
	others := []*Entry{entry("two", "s"), entry("one", "another"), entry("one", "s"), entry("one", "s"), entry("one", "s")}
	others[2].Event.Subject = events.SourceSubject("web2")
	others[3].Event.Labels = map[string]string{"team": "web"}
	others[4].StoreKey = &StoreKey{Place: "vault:secret/x#k", File: "/x"}
	for i, e := range others {
		if known, err := s.Add(t.Context(), e); err != nil || known {
			t.Errorf("%d: %v, %v", i, known, err)
		}
	}
	again := entry("one", "s")
	again.StoreKey = &StoreKey{Place: "vault:secret/x#k", File: "/x"}
	if known, err := s.Add(t.Context(), again); err != nil || !known || again.Number != others[4].Number {
		t.Errorf("%v, %v", known, err)
	}

	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { // each with a lock of its own, as processes have
			s := New(dir, someLimits)
			for i := range 5 {
				if _, err := s.Add(context.Background(), entry(fmt.Sprint("together", i), "s")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := waiting(t, s); n != 1+len(others)+5 {
		t.Errorf("%d wait", n)
	}

	// Once it has left the spool, or was set aside, it is added again.
	r := &receiver{fail: func(id string) error {
		if id == "two" {
			return &Refusal{os.ErrInvalid}
		}
		return nil
	}}
	r.flush(t, s)
	for _, id := range []string{"one", "two"} {
		add(t, s, entry(id, "s"))
	}
}

// Check says what Add would say, and changes nothing.
func TestCheck(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	lab.Write(t, filepath.Join(dir, "file"), nil)
	for _, name := range []string{"open", "closed", "shared"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for name, mode := range map[string]os.FileMode{"open": 0o755, "shared": 0o777} {
		if err := os.Chmod(filepath.Join(dir, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{
		"new": "", "new/below": "", "open": "", "closed": "",
		"file":       "file is not a directory",
		"file/below": "not a directory",
		"shared":     "has the mode 0777, and other programs may use it",
	} {
		s := New(filepath.Join(dir, name), someLimits)
		err := s.Check()
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", name, err, want)
		}
		if _, stat := os.Stat(filepath.Join(dir, "new")); stat == nil {
			t.Fatal("a directory was made")
		}
		if name == "new" || name == "new/below" {
			continue
		}
		if _, added := s.Add(t.Context(), entry("x", "s")); (added == nil) != (err == nil) {
			t.Errorf("%s: Add says %v, Check %v", name, added, err)
		}
	}
}

func TestMain(m *testing.M) {
	if plan := os.Getenv(killVariable); plan != "" {
		point, dir, _ := strings.Cut(plan, " ")
		killedAt(point, dir)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// killedAt adds an event and sends it to a file; it is killed at a point on the way.
func killedAt(point, dir string) {
	s := New(filepath.Join(dir, "spool"), someLimits)
	s.reached = func(p string) {
		if p == point {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	_, err := s.Add(context.Background(), entry("killed", "s"))
	fmt.Println(err)
	fmt.Println(s.Flush(context.Background(), appendTo(dir), func() bool { return false }))
}

func appendTo(dir string) func(context.Context, *Entry) error {
	return func(_ context.Context, e *Entry) error {
		f, err := os.OpenFile(filepath.Join(dir, "sent"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err == nil {
			_, err = fmt.Fprintln(f, e.Event.ID)
			err = errors.Join(err, f.Close())
		}
		return err
	}
}

// Fault: a publisher is killed at any point. Result: what Add has accepted is sent by the next one,
// once, or a second time with the same id if it was killed after sending; no part of a file is left.
func TestKilledPublisher(t *testing.T) {
	t.Parallel()
	for point, want := range map[string]string{"written": "next\n", "renamed": "killed\nnext\n", "sent": "killed\nkilled\nnext\n"} {
		dir := t.TempDir()
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), killVariable+"="+point+" "+dir)
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("%s: it was not killed: %v: %s", point, err, out)
		}
		s := New(filepath.Join(dir, "spool"), someLimits)
		add(t, s, entry("next", "s"))
		if failures, err := s.Flush(t.Context(), appendTo(dir), func() bool { return false }); err != nil || len(failures) > 0 {
			t.Fatalf("%v, %v", failures, err)
		}
		if sent, err := os.ReadFile(filepath.Join(dir, "sent")); err != nil || string(sent) != want {
			t.Errorf("killed at %q: %v: sent %q, want %q", point, err, sent, want)
		}
		left, err := os.ReadDir(s.Dir())
		if err != nil || len(left) != 2 { // the locks
			t.Errorf("killed at %q: left behind: %v, %v", point, left, err)
		}
	}
}
