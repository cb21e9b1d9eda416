package secrets

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/certpost/certpost/internal/lab"
)

// A read belongs to the trace of the caller that began it, and not to its life.
func TestCacheReadsWithinTheSpanOfItsCaller(t *testing.T) {
	t.Parallel()
	want := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled})
	caller, gone := context.WithCancel(trace.ContextWithSpanContext(t.Context(), want))
	c := newCache[int](t.Context(), time.Minute)
	_, err := c.get(caller, "k", time.Time{}, func(ctx context.Context) (int, time.Duration, error) {
		gone()
		if got := trace.SpanContextFromContext(ctx); !got.Equal(want) || ctx.Err() != nil {
			t.Errorf("%+v, %v", got, ctx.Err())
		}
		return 1, 0, nil
	})
	if err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestCacheKeepsForItsTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCache[int](t.Context(), time.Minute)
		reads := 0
		get := func(ttl time.Duration) int {
			t.Helper()
			v, err := c.get(t.Context(), "k", time.Time{}, func(context.Context) (int, time.Duration, error) {
				reads++
				return reads, ttl, nil
			})
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
		for range 2 {
			if get(time.Minute) != 1 {
				t.Fatal("not kept")
			}
		}
		time.Sleep(time.Minute - time.Nanosecond)
		if get(time.Minute) != 1 {
			t.Fatal("not kept until the end of its time")
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if len(c.entries) != 0 {
			t.Fatal("it is still in memory after its time")
		}
		if get(0) != 2 || get(0) != 3 || len(c.entries) != 0 {
			t.Fatal("kept although it must not be")
		}
		if get(time.Hour) != 4 {
			t.Fatal("not read")
		}
		// A newer value outlives the time of the older one.
		time.Sleep(time.Minute)
		v, err := c.get(t.Context(), "k", time.Now(), func(context.Context) (int, time.Duration, error) { return 50, time.Hour, nil })
		if v != 50 || err != nil {
			t.Fatalf("got %d, %v", v, err)
		}
		time.Sleep(time.Hour - time.Second)
		synctest.Wait()
		if get(time.Hour) != 50 {
			t.Fatal("removed together with the older value")
		}
		c.drop("k")
		if get(time.Hour) != 5 {
			t.Fatal("kept although it was dropped")
		}
	})
}

func TestCacheDoesNotKeepErrors(t *testing.T) {
	t.Parallel()
	c := newCache[int](t.Context(), time.Minute)
	wrong := errors.New("wrong")
	for i := range 3 {
		_, err := c.get(t.Context(), "k", time.Time{}, func(context.Context) (int, time.Duration, error) { return 0, time.Hour, fmt.Errorf("%d: %w", i, wrong) })
		if !errors.Is(err, wrong) || err.Error() != fmt.Sprintf("%d: wrong", i) {
			t.Errorf("got %v", err)
		}
	}
}

// A caller that asks for a fresh value never gets one whose read began before the call,
// even if that read was still in progress.
func TestCacheSince(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCache[string](t.Context(), time.Hour)
		var server atomic.Value // the value that the server has
		server.Store("old")
		read := func(context.Context) (string, time.Duration, error) {
			value := server.Load().(string)
			time.Sleep(10 * time.Second) // the answer is on its way
			return value, time.Hour, nil
		}
		var callers sync.WaitGroup
		callers.Go(func() {
			if v, err := c.get(t.Context(), "k", time.Time{}, read); v != "old" || err != nil {
				t.Errorf("the first caller got %q, %v", v, err)
			}
		})
		time.Sleep(5 * time.Second)
		server.Store("new")
		for range 10 {
			callers.Go(func() {
				if v, err := c.get(t.Context(), "k", time.Now(), read); v != "new" || err != nil {
					t.Errorf("a caller that wants a fresh value got %q, %v", v, err)
				}
			})
		}
		callers.Wait()
		if v, err := c.get(t.Context(), "k", time.Time{}, read); v != "new" || err != nil {
			t.Errorf("then the cache gave %q, %v", v, err)
		}
	})
}

func TestCacheEndsWithItsLife(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		life, end := context.WithCancel(t.Context())
		c := newCache[int](life, time.Minute)
		read := func(ctx context.Context) (int, time.Duration, error) { <-ctx.Done(); return 0, 0, ctx.Err() }
		if _, err := c.get(t.Context(), "patience", time.Time{}, read); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a read that never ends gives %v", err)
		}
		time.AfterFunc(time.Second, end)
		if _, err := c.get(t.Context(), "life", time.Time{}, read); !errors.Is(err, context.Canceled) {
			t.Errorf("closing gives %v", err)
		}
	})
}

// Vault gets one request per reference and cache period, for any number of callers.
func TestRequestsUnderConcurrency(t *testing.T) {
	t.Parallel()
	v, o := lab.Vault(t), observe(t)
	v.Mount(t, "old", "kv-v1")
	var refs []Ref
	var want []string
	for i := range 10 {
		a, b, c := o.secret("a"), o.secret("b"), o.secret("c")
		v.Put(t, fmt.Sprintf("secret/relay%d", i), map[string]any{"username": a, "password": b})
		v.Put(t, fmt.Sprintf("old/relay%d", i), map[string]any{"password": c})
		refs = append(refs, mustRef(t, fmt.Sprintf("vault:secret/relay%d#username", i)), mustRef(t, fmt.Sprintf("vault:secret/relay%d#password", i)),
			mustRef(t, fmt.Sprintf("vault:old/relay%d#password", i)))
		want = append(want, a, b, c)
	}
	store := o.open(t, v, o.asAppRole(t, v, "1h", readAll))
	var workers sync.WaitGroup
	for range 50 {
		workers.Go(func() {
			for i, ref := range refs {
				secret, err := store.Get(t.Context(), ref, nil)
				if o.said(err) != nil || string(secret.Value.Reveal()) != want[i] {
					t.Errorf("%s: %v", ref, err)
				}
			}
		})
	}
	workers.Wait()
	counted := v.Requests(t)
	total := 0
	for _, n := range counted {
		total += n
	}
	for i := range 10 {
		if n := counted[fmt.Sprintf("read secret/data/relay%d", i)]; n != 2 {
			t.Errorf("two references to relay%d were read %d times", i, n)
		}
		if n := counted[fmt.Sprintf("read old/relay%d", i)]; n != 1 {
			t.Errorf("the reference to old/relay%d was read %d times", i, n)
		}
	}
	// In addition to the reads: one login, one renewal that starts the watcher, two mounts.
	if counted["update auth/approle/login"] != 1 || counted["read sys/internal/ui/mounts/secret"] != 1 || counted["read sys/internal/ui/mounts/old"] != 1 ||
		total > 30+4 {
		t.Errorf("more requests than needed: %v", counted)
	}

	// Private keys are read every time.
	for range 3 {
		wantSecret(t, o, store.Uncached, refs[0], want[0], "1")
	}
	wantSecret(t, o, store.Get, refs[0], want[0], "1")
	if n := v.Requests(t)["read secret/data/relay0"]; n != 5 {
		t.Errorf("read %d times", n)
	}
}

// A password changes under load: Fresh never returns one from before the call, and from
// then on no caller gets an older one.
//
// Fault: a password rotated between reading and use. Result: read again.
func TestRotationUnderLoad(t *testing.T) {
	t.Parallel()
	v, o := lab.Vault(t), observe(t)
	ref := mustRef(t, "vault:secret/smtp/relay#password")
	var rotations atomic.Int64 // the number of changes that Vault has stored
	var numbers sync.Map       // password to the number of its rotation
	rotate := func() {
		password := o.secret("rotated")
		numbers.Store(password, rotations.Load()+1)
		v.Put(t, "secret/smtp/relay", map[string]any{"password": password})
		rotations.Add(1)
	}
	number := func(secret Secret, err error) int64 {
		n, known := numbers.Load(string(secret.Value.Reveal()))
		if o.said(err) != nil || !known {
			t.Errorf("no password: %v", err)
			return 0
		}
		return n.(int64)
	}
	rotate()
	store := o.open(t, v, o.asAppRole(t, v, "1h", readSecret))
	ctx, stop := context.WithCancel(t.Context())
	var workers sync.WaitGroup
	var used, outdated atomic.Int64
	for range 16 {
		workers.Go(func() {
			for ctx.Err() == nil && !t.Failed() {
				now := rotations.Load()
				if number(store.Get(t.Context(), ref, nil)) < now {
					outdated.Add(1)
					if number(store.Fresh(t.Context(), ref, nil)) < now {
						t.Error("the fresh password is older than the call")
					}
					if number(store.Get(t.Context(), ref, nil)) < now {
						t.Error("the old password is back in the cache")
					}
				}
				used.Add(1)
			}
		})
	}
	for range 20 {
		before := used.Load()
		eventually(t, "using the password", func() bool { return used.Load() > before+100 || t.Failed() })
		rotate()
	}
	stop()
	workers.Wait()
	if outdated.Load() == 0 {
		t.Error("no old password was ever returned: the test proves nothing")
	}
}

// The fields of a dynamic secret belong to one lease.
func TestLeases(t *testing.T) {
	t.Parallel()
	o := observe(t)
	var made atomic.Int64
	lease := 3600
	server := imitate(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/v1/sys/internal/ui/mounts/database":
			fmt.Fprint(w, `{"data":{"path":"database/","type":"database","options":null}}`)
		case "/v1/database/creds/mail":
			n := made.Add(1)
			fmt.Fprintf(w, `{"lease_id":"l%d","lease_duration":%d,"data":{"username":"user-%d","password":"password-%d"}}`, n, lease, n, n)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	})
	store := o.openAt(t, server.URL, time.Second)
	user, password := mustRef(t, "vault:database/creds/mail#username"), mustRef(t, "vault:database/creds/mail#password")
	for range 3 {
		wantSecret(t, o, store.Get, user, "user-1", "")
		wantSecret(t, o, store.Get, password, "password-1", "")
	}
	wantSecret(t, o, store.Fresh, password, "password-2", "")
	wantSecret(t, o, store.Get, user, "user-2", "")
	wantError(t, o, store.Get, mustRef(t, "vault:database/creds/mail#none"), ErrNotFound, "vault:database/creds/mail#none: ", "existing names: username, password")
	wantError(t, o, store.Get, mustRef(t, "vault:database/creds/other#password"), ErrNotFound, "vault:database/creds/other#password: ")
	if made.Load() != 2 {
		t.Errorf("%d leases", made.Load())
	}
	wantSecret(t, o, store.Uncached, password, "password-3", "")
	wantSecret(t, o, store.Get, password, "password-2", "")
	// Check must not create a lease.
	if found, err := store.Check(t.Context(), password, nil); o.said(err) != nil || found.Read || made.Load() != 3 {
		t.Errorf("checked: %+v, %v, %d leases", found, err, made.Load())
	}
}
